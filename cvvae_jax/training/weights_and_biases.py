"""A run's metrics on Weights & Biases, where that is installed and asked for."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from cvvae_jax.config import ConfigError
from cvvae_jax.training.run_files import write_whole


def require_wandb(project: str | None) -> ModuleType | None:
    """The module that logs to Weights & Biases; None without a project, which needs none.

    Raises:
        ConfigError: it is asked for and not installed.
    """
    if project is None:
        return None
    try:
        module = importlib.import_module("wandb")
        if not hasattr(module, "init"):
            raise ImportError("there is just a folder of that name")  # as it leaves them behind
    except ImportError as error:
        raise ConfigError(
            f"--wandb {project} needs Weights & Biases: pip install wandb ({error})."
        ) from error
    return module


class WandbRun:
    """A training stage as a run of Weights & Biases; a stage that goes on, goes on there too."""

    def __init__(self, project: str, folder: Path, *, title: str, settings: dict[str, Any]):
        """Starts the run, or goes on with the one whose id is in the folder.

        Args:
            project: where it is filed, in the group of the whole run's folder.
            folder: the stage's own, for `wandb_id` and what Weights & Biases keeps locally.
            title: the stage's name in messages.
            settings: the whole run's, to be shown beside it.

        Raises:
            ConfigError: Weights & Biases is not installed or does not accept the run.
        """
        self._wandb = require_wandb(project)
        id_file = folder / "wandb_id"
        group = Path(settings.get("workdir", folder)).resolve().name
        try:
            self._run = self._wandb.init(
                project=project,
                group=group,
                name=f"{group}: {title}",
                id=id_file.read_text(errors="replace").strip() if id_file.exists() else None,
                resume="allow",
                dir=str(folder),
                config=settings,
            )
        except self._wandb.Error as error:
            raise ConfigError(f"Weights & Biases does not accept the run: {error}") from error
        write_whole(id_file, self._run.id)
        # Its steps can't be taken back. Those that are done again after a kill are equal, but where
        # they are not, after going back from a divergence, the first ones stay there.
        self._first_step = self._run.starting_step

    def scalars(self, step: int, metrics: dict[str, float | int]) -> None:
        """Logs numbers of a step."""
        if step >= self._first_step:
            self._run.log(metrics, step=step)

    def animation(self, step: int, name: str, path: Path) -> None:
        """Logs a GIF file."""
        if step >= self._first_step:
            self._run.log({name: self._wandb.Video(str(path), format="gif")}, step=step)

    def close(self) -> None:
        """Sends what is still here, and ends the run."""
        self._run.finish()
