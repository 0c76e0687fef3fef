"""A run folder at the start of a run: checked, then locked, then written."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cvvae_jax.checkpoint import check_fits, newest_config
from cvvae_jax.config import TrainConfig
from cvvae_jax.errors import UserError
from cvvae_jax.processes.broadcast import broadcast_from_first
from cvvae_jax.recipe import to_json
from cvvae_jax.resumable.files import parse_json, read_json, write_whole
from cvvae_jax.resumable.lock import locked
from cvvae_jax.training.jobs import RunPlan
from cvvae_jax.training.log import say
from cvvae_jax.training.programs import abstract_stages
from cvvae_jax.training.run_data import Listed, check_same_files, keep_files, listed_files

_CONFIG = "config.json"


@contextlib.contextmanager
def run_folder(plan: RunPlan, config: TrainConfig) -> Iterator[None]:
    """Makes the run folder, or goes on in it, and keeps other runs out until the end.

    Nothing is changed in the folder of a run that can't be gone on with. With several processes
    the first one does all of it, and the others wait for its word.

    Raises:
        UserError: another run is at work in the folder, it holds a run that this one can't go on
            with, or it can't be written; or processes see different data.
    """
    listed = listed_files(config.data)
    check_same_files(listed)
    with contextlib.ExitStack() as held:
        broadcast_from_first(lambda: _enter(plan, config, listed, held))
        yield


def _enter(plan: RunPlan, config: TrainConfig, listed: Listed, held: contextlib.ExitStack) -> None:
    folder = Path(config.workdir)
    _check_checkpoints(plan, config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        busy = f"another run is at work in {folder}, and nothing of it was changed"
        held.enter_context(locked(folder / "lock", busy))
        write_config(folder, config)
        keep_files(folder, config.data, listed)
    except OSError as error:
        raise UserError(f"the run folder {folder} can't be written: {error}.") from error


def _check_checkpoints(plan: RunPlan, config: TrainConfig) -> None:
    """Raises what keeps a stage from going on from what is in its folder."""
    jobs = [job for job in (plan.image, plan.video) if job is not None]
    if not any((job.folder / "checkpoints").is_dir() for job in jobs):
        return
    for stage in abstract_stages(plan, config):
        folder, steps = stage.job.folder, stage.job.stage.steps
        start = check_fits(folder / "checkpoints", stage.state)
        if start is not None and start > steps:
            raise UserError(f"{folder} has done {start} steps, more than the {steps} asked for.")


def write_config(folder: Path, config: TrainConfig) -> None:
    """Keeps the configuration in the run folder; says what changed since an earlier start.

    Raises:
        OSError: it can't be written.
    """
    path, text = folder / _CONFIG, to_json(config)
    before = _config_before(folder)
    write_whole(path, text)
    if before is None:
        return
    then, now = _settings(before), _settings(parse_json(text.encode()))
    names = sorted((then | now).keys() - {"workdir"})  # the same folder by another path
    changed = [name for name in names if then.get(name) != now.get(name)]
    for name in changed:
        say(folder, f"changed since the last start: {name} {then.get(name)} -> {now.get(name)}")


def _config_before(folder: Path) -> dict[str, Any] | None:
    """The configuration of the start before this one; None where there was none, or it is lost."""
    path = folder / _CONFIG
    if not path.exists():
        return None
    before = read_json(path)
    if before is None:
        say(folder, f"warning: {path} was damaged and is written anew")
        before = newest_config(folder / "checkpoints")
    return before


def _settings(config: dict, prefix: str = "") -> dict:
    """Every setting by its name on the command line."""
    found = {}
    for name, value in config.items():
        nested = _settings(value, f"{prefix}{name}.") if isinstance(value, dict) else None
        found |= {f"{prefix}{name}": value} if nested is None else nested
    return found
