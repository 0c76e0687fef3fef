"""A run folder at the start of a run: checked, locked, and its records written.

`config.json` holds the configuration. `data.json` lists the files that the run trains on and those
that are held out to measure on; both are compared at every start. So no file that was trained on is
ever measured on, whatever is added to the data or removed from it between two starts.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from cvvae_jax.checkpoint import newest_config
from cvvae_jax.config import DataConfig, TrainConfig
from cvvae_jax.data.sources import HeldOut, HeldOutByKind, file_sizes, held_out, key_of, open_source
from cvvae_jax.errors import UserError
from cvvae_jax.processes.broadcast import broadcast_from_first
from cvvae_jax.recipe import to_json
from cvvae_jax.resumable.files import parse_json, read_json, write_whole
from cvvae_jax.resumable.lock import locked
from cvvae_jax.training.log import say
from cvvae_jax.video_io.media_types import MediaKind

_CONFIG, _DATA = "config.json", "data.json"
_SHOWN = 3  # files that a message names

Listed = dict[MediaKind, dict[str, int | None]]
"""Sizes of files in bytes, None where unknown, by kind and key."""


@contextlib.contextmanager
def run_folder(config: TrainConfig, check: Callable[[], None]) -> Iterator[None]:
    """Makes the run folder, or goes on in it, and keeps other runs out until the end.

    A folder whose run can't be continued is left as it is. Of several processes the first one does
    all of this, and the others wait for its result.

    Args:
        config: the run.
        check: raises a UserError where the run can't go on from the folder's checkpoints.

    Raises:
        UserError: `check` raises it, another run is at work in the folder, the folder can't be
            written, or the processes see different data.
    """
    listed = listed_files(config.data)
    check_same_files(listed)
    with contextlib.ExitStack() as held:
        broadcast_from_first(lambda: _enter(config, check, listed, held))
        yield


def _enter(
    config: TrainConfig, check: Callable[[], None], listed: Listed, held: contextlib.ExitStack
) -> None:
    folder = Path(config.workdir)
    check()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        busy = f"another run is at work in {folder}, and nothing of it was changed"
        held.enter_context(locked(folder / "lock", busy))
        write_config(folder, config)
        keep_files(folder, config.data, listed)
    except OSError as error:
        raise UserError(f"the run folder {folder} can't be written: {error}.") from error


def write_config(folder: Path, config: TrainConfig) -> None:
    """Writes the configuration into the run folder, and says what has changed since the last start.

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
    """The configuration of the last start; None where there was none or it is lost."""
    path = folder / _CONFIG
    if not path.exists():
        return None
    before = read_json(path)
    if before is None:
        say(folder, f"warning: {path} was damaged and is written anew")
        before = newest_config(folder / "checkpoints")
    return before


def _settings(config: dict, prefix: str = "") -> dict:
    """Every setting by its name on the command line, such as `train.steps`."""
    found = {}
    for name, value in config.items():
        nested = _settings(value, f"{prefix}{name}.") if isinstance(value, dict) else None
        found |= {f"{prefix}{name}": value} if nested is None else nested
    return found


def earlier_sides(folder: Path) -> HeldOutByKind:
    """The files that the run in a folder has held out so far, and those that it trained on; empty
    for a new run.

    Raises:
        UserError: the folder's data.json is damaged.
    """
    return {kind: _sides(record) for kind, record in _read_files(folder).items()}


def listed_files(data: DataConfig) -> Listed:
    """The files that are there now, held out or not; empty for moving photographs.

    Raises:
        UserError: a place has no files.
    """
    places: dict[MediaKind, str | None] = {"video": data.videos, "image": data.images}
    return {kind: _listed(place, kind) for kind, place in places.items() if place is not None}


def _listed(place: str, kind: MediaKind) -> dict[str, int | None]:
    source = open_source(place, kind)
    names = [source.name(number) for number in range(len(source))]
    return dict(zip([key_of(place, name) for name in names], file_sizes(source), strict=True))


def check_same_files(listed: Listed) -> None:
    """Compares the files that this process sees with those that the other processes see.

    Raises:
        UserError: they differ; the processes would then train on different data.
    """
    if jax.process_count() == 1:
        return
    text = json.dumps({kind: sorted(files.items()) for kind, files in sorted(listed.items())})
    own = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    digests = multihost_utils.process_allgather(own)
    others = [i for i, digest in enumerate(digests) if not np.array_equal(digest, digests[0])]
    if others:
        counts = ", ".join(f"{len(files)} {kind} files" for kind, files in listed.items())
        raise UserError(
            f"process {others[0]} doesn't see the files, or their sizes, that process 0 sees at "
            f"the places data.videos and data.images (this process: {counts}); all need the same."
        )


def keep_files(folder: Path, data: DataConfig, listed: Listed) -> None:
    """Says which files have changed since the last start, and writes data.json.

    Raises:
        UserError: the data.json of the last start is damaged.
        OSError: it can't be written.
    """
    record = _read_files(folder)
    for kind, now in listed.items():
        before, known = {}, None
        if kind in record:
            before = record[kind]["held_out"] | record[kind]["trained_on"]
            known = _sides(record[kind])
            _say_changes(folder, kind, before, now)
        sides = dict(zip(now, held_out(list(now), known), strict=True))
        if data.eval_videos is not None:
            sides = dict.fromkeys(now, False)
        sides = {**(known or {}), **sides}  # files that are gone may come back
        sizes = before | now
        record[kind] = {
            name: {key: sizes[key] for key, side in sides.items() if side == held}
            for name, held in (("held_out", True), ("trained_on", False))
        }
    if record:
        write_whole(folder / _DATA, json.dumps(record, indent=0))


def _say_changes(folder: Path, kind: MediaKind, before: dict, now: dict) -> None:
    same = now.keys() & before.keys()
    changes = {
        "new": now.keys() - before.keys(),
        "gone": before.keys() - now.keys(),
        "of another size": {key for key in same if now[key] != before[key]},
    }
    for what, keys in changes.items():
        if keys:
            shown = ", ".join(sorted(keys)[:_SHOWN]) + ", .." * (len(keys) > _SHOWN)
            say(
                folder,
                f"changed since the last start: {len(keys)} {kind} files are {what} ({shown}); "
                "none that was trained on is measured on",
            )


def _sides(record: dict[str, dict]) -> HeldOut:
    held, trained = record["held_out"], record["trained_on"]
    return {**dict.fromkeys(held, True), **dict.fromkeys(trained, False)}


def _read_files(folder: Path) -> dict[MediaKind, dict[str, dict]]:
    """The content of data.json; empty where there is none."""
    path = folder / _DATA
    if not path.exists():
        return {}
    record = read_json(path)
    try:
        for files in record.values():
            _sides(files)
    except (AttributeError, TypeError, KeyError) as error:
        raise UserError(
            f"{path}, the list of the files that are trained on and of those that are held out, is "
            "damaged; restore it, or remove it, and the files are divided anew by their names."
        ) from error
    return record
