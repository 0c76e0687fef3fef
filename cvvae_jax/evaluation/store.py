"""The folder of an evaluation: what it was begun with, what is measured already, and its end."""

import contextlib
import dataclasses
import io
import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cvvae_jax.config import ConfigError
from cvvae_jax.evaluation.clips import ClipInfo
from cvvae_jax.evaluation.contenders import Contender
from cvvae_jax.evaluation.measure import Arrays

BEGUN = "evaluation.json"
"""The file that says what is measured, and how."""
RESULTS = "results.json"
"""The file that has all figures; it is written when everything is measured."""
INPUT = "_input"
"""In place of a contender's name: what is measured of the clips themselves."""

_NAME = re.compile(r"[\w.+-][\w .+-]*")


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A clip that can't be measured."""

    name: str
    reason: str


class Store:
    """A folder that any number of processes write to, a file for every clip and contender.

    Files are complete once they are there. `scores/NAME/contender.json` says whose they are,
    `clips/NUMBER.json` what a clip is, or why it was left out.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def begin(self, settings: dict[str, Any]) -> None:
        """Makes the folder, or goes on in it.

        Raises:
            ConfigError: it holds something else, or an evaluation of something else.
        """
        path = self.folder / BEGUN
        if path.exists():
            begun = _read(path)
            if differing := sorted(k for k in settings | begun if settings.get(k) != begun.get(k)):
                raise ConfigError(
                    f"{self.folder} was begun with other {', '.join(differing)}: "
                    f"name another --out, or remove it."
                )
            return
        # Another process may be about to write the file.
        if self.folder.is_dir() and {path.name for path in self.folder.iterdir()} - {"clips"}:
            raise ConfigError(f"{self.folder} holds something else: name another --out.")
        (self.folder / "clips").mkdir(parents=True, exist_ok=True)
        _write(path, json.dumps(settings, indent=2).encode())

    def enter(self, contender: Contender) -> None:
        """Adds a contender.

        Raises:
            ConfigError: its name stands for other weights, or can't be that of a folder.
        """
        if not _NAME.fullmatch(contender.name) or contender.name == INPUT:
            raise ConfigError(
                f"{contender.name!r} can't name a contender: use letters, digits, ., +, - and _ "
                "(NAME=PATH gives a name)."
            )
        path = self._scores(contender.name) / "contender.json"
        if path.exists():
            before = _read(path)
            if (before["kind"], before["sha256"]) != (contender.kind, contender.sha256):
                raise ConfigError(
                    f"{contender.name} was other weights when {self.folder} was begun: give it "
                    "another name (NAME=PATH), or name another --out."
                )
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, json.dumps(contender.record(), indent=2).encode())

    def clip(self, number: int) -> ClipInfo | LeftOut | None:
        """What a clip is; None while nobody has looked."""
        path = self._clip(number)
        if not path.exists():
            return None
        fields = _read(path)
        return LeftOut(**fields) if "reason" in fields else ClipInfo(**fields)

    def write_clip(self, number: int, clip: ClipInfo | LeftOut) -> None:
        """Says what a clip is."""
        _write(self._clip(number), json.dumps(dataclasses.asdict(clip)).encode())

    def has(self, name: str, number: int) -> bool:
        """Whether a contender was measured on a clip."""
        return self._arrays(name, number).exists()

    def write(self, name: str, number: int, arrays: Arrays) -> None:
        """Keeps what was measured."""
        file = io.BytesIO()
        np.savez(file, **arrays)
        path = self._arrays(name, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, file.getvalue())

    def read(self, name: str, number: int) -> Arrays:
        """What was measured.

        Raises:
            ConfigError: the file is damaged.
        """
        path = self._arrays(name, number)
        try:
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
        except Exception as error:  # NumPy and zipfile raise all kinds
            raise ConfigError(
                f"{path} is damaged: remove it, and the same command measures it again."
            ) from error

    def write_results(self, results: dict[str, Any]) -> Path:
        """Writes all figures.

        Raises:
            ValueError: one is NaN or infinite.
        """
        path = self.folder / RESULTS
        _write(path, json.dumps(results, indent=1, allow_nan=False).encode())
        return path

    def results(self) -> dict[str, Any] | None:
        """All figures, None before the end."""
        path = self.folder / RESULTS
        return _read(path) if path.exists() else None

    def _scores(self, name: str) -> Path:
        return self.folder / "scores" / name

    def _arrays(self, name: str, number: int) -> Path:
        return self._scores(name) / f"{number:06d}.npz"

    def _clip(self, number: int) -> Path:
        return self.folder / "clips" / f"{number:06d}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is damaged: {error}. Name another --out.") from error


def _write(path: Path, data: bytes) -> None:
    """All of a file, or nothing of it; processes may write the same one."""
    with _partial(path) as partial:
        partial.write_bytes(data)
        os.replace(partial, path)


@contextlib.contextmanager
def _partial(path: Path) -> Iterator[Path]:
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)
