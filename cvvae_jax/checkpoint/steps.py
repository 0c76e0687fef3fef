"""The folders of a run's checkpoints: which exist, and which are kept.

`STEP` is a finished checkpoint. `STEP.partial` is being written, or was when the run was killed,
`STEP.removing` is being removed, and `STEP.damaged` was renamed since its files have changed.
"""

import dataclasses
import json
import math
import shutil
from pathlib import Path

PARTIAL = ".partial"
_ORBAX_PARTIAL = ".orbax-checkpoint-tmp"
_REMOVING = ".removing"
_DAMAGED = ".damaged"


@dataclasses.dataclass(frozen=True)
class Keep:
    """Which checkpoints of a run are kept: those that any of these fields asks for."""

    newest: int
    """How many of the newest are kept."""
    every: int | None = None
    """Checkpoints whose step is a multiple of this are kept."""
    best: str | None = None
    """Name of a score; the checkpoint with the highest one is kept."""

    def steps(self, folder: Path) -> set[int]:
        """Steps of the finished checkpoints in a folder that are kept."""
        there = finished(folder)
        kept = set(there[-self.newest :])
        if self.every is not None:
            kept |= {step for step in there if step % self.every == 0}
        if self.best is not None and (found := best(folder, self.best)) is not None:
            kept.add(found[0])
        return kept


def finished(folder: Path) -> list[int]:
    """Steps with a finished checkpoint, in order."""
    if not folder.is_dir():
        return []
    names = (entry.name for entry in folder.iterdir() if entry.is_dir())
    numbers = (int(name) for name in names if name.isascii() and name.isdecimal())
    # Leaves out names such as 007.
    return sorted(number for number in numbers if (folder / str(number)).is_dir())


def best(folder: Path, score: str) -> tuple[int, float] | None:
    """The step whose checkpoint has the highest score (the last one of equals), and that score;
    None where no checkpoint has the score."""
    scored = [(_score(folder / str(step), score), step) for step in finished(folder)]
    scored = [(value, step) for value, step in scored if value is not None]
    if not scored:
        return None
    value, step = max(scored)
    return step, value


def _score(checkpoint: Path, name: str) -> float | None:
    """A score of the evaluation at a checkpoint's step; None where there was no evaluation, or the
    score is no finite number or can't be read."""
    try:
        value = float(json.loads((checkpoint / "scores" / "metadata").read_text())[name])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return value if math.isfinite(value) else None


def clear_up(folder: Path) -> list[str]:
    """Removes folders that a killed run left half written or half removed.

    Returns:
        The steps that were half written.
    """
    unfinished = []
    for entry in folder.iterdir() if folder.is_dir() else ():
        step, _, ending = entry.name.partition(".")
        if not step.isdecimal() or not entry.is_dir():
            continue
        if f".{ending}".startswith((PARTIAL, _ORBAX_PARTIAL)):
            unfinished.append(step)
            shutil.rmtree(entry, ignore_errors=True)
        elif f".{ending}" == _REMOVING:
            shutil.rmtree(entry, ignore_errors=True)
    return sorted(unfinished, key=int)


def remove(folder: Path, step: int) -> None:
    """Removes a checkpoint. A kill meanwhile leaves nothing that looks like a finished one.

    Raises:
        OSError: the folder can't be renamed.
    """
    shutil.rmtree(folder / f"{step}{_REMOVING}", ignore_errors=True)  # of an earlier try
    going = (folder / str(step)).rename(folder / f"{step}{_REMOVING}")
    shutil.rmtree(going, ignore_errors=True)


def set_aside(folder: Path, step: int) -> Path:
    """Renames a damaged checkpoint, so that its step can be saved again.

    Raises:
        OSError: the folder can't be renamed.
    """
    names = [f"{step}{_DAMAGED}", *(f"{step}{_DAMAGED}-{n}" for n in range(2, 1000))]
    free = next(name for name in names if not (folder / name).exists())
    return (folder / str(step)).rename(folder / free)
