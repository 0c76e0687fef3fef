"""The folder of an evaluation: what it was begun with, what is measured already, and its end."""

import contextlib
import dataclasses
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cvvae_jax.errors import UserError
from cvvae_jax.evaluation.clips import ClipInfo
from cvvae_jax.evaluation.contenders import Contender
from cvvae_jax.evaluation.metrics import Arrays
from cvvae_jax.resumable.files import written_aside
from cvvae_jax.resumable.lock import locked
from cvvae_jax.resumable.share import Share

BEGUN = "evaluation.json"
"""The file that says what is measured, and how."""
RESULTS = "results.json"
"""The file that has all figures; it is written when everything is measured."""
INPUT = "_input"
"""Stands for a contender's name where the clips themselves are measured."""
FLAT_FIELDS = "flat_fields"
"""Stands for a clip's number where a contender is measured on flat fields."""

BETWEEN = "between"
"""Stands for a clip's number where what a contender decodes between clips is measured."""

Key = int | Literal["flat_fields", "between"]
"""The number of a clip, flat fields, or between clips: what a contender is measured on."""

_NAME = re.compile(r"[\w+-][\w .+-]*")


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

    @contextlib.contextmanager
    def kept_by(self, share: Share) -> Iterator[None]:
        """Makes the folder, where there is none, and keeps a second process of the same share
        out.

        Raises:
            UserError: it holds something else, or the share is being measured already.
        """
        if not (self.folder / BEGUN).exists():
            strangers = self._files() - {"clips", "scores"}
            # Another process may have written it meanwhile.
            if strangers and not (self.folder / BEGUN).exists():
                raise UserError(f"{self.folder} holds something else: name another --out.")
            self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f".lock-{share.process_index}-of-{share.process_count}"
        with locked(file, f"{share} is at work on {self.folder} already"):
            yield

    def begin(self, settings: dict[str, Any]) -> None:
        """Begins the evaluation, or goes on with it.

        Raises:
            UserError: it is one of something else.
        """
        path, text = self.folder / BEGUN, json.dumps(settings, indent=2)
        settings = json.loads(text)  # as they will be read: with lists for tuples
        if not path.exists():
            _write(path, text.encode(), exclusive=True)
        begun = _read(path)
        differing = sorted(key for key in settings | begun if settings.get(key) != begun.get(key))
        if differing and any(self.folder.glob("scores/*/*.npz")):
            raise UserError(
                f"{self.folder} was begun with other {', '.join(differing)}: "
                f"name another --out, or remove it."
            )
        # An evaluation that measured nothing is begun anew.
        if differing:
            for clip in self.folder.glob("clips/*.json"):
                clip.unlink(missing_ok=True)
            _write(path, text.encode())
        (self.folder / "clips").mkdir(exist_ok=True)

    def _files(self) -> set[str]:
        """Names of all that is in the folder, but for files that are being written."""
        if not self.folder.is_dir():
            return set()
        return {path.name for path in self.folder.iterdir() if not path.name.startswith(".")}

    def enter(self, contender: Contender) -> None:
        """Adds a contender.

        Raises:
            UserError: its name stands for other weights, or can't be that of a folder.
        """
        if not _NAME.fullmatch(contender.name) or contender.name == INPUT:
            raise UserError(
                f"{contender.name!r} can't name a contender: use letters, digits, ., +, - and _ "
                "(NAME=PATH gives a name)."
            )
        path = self._scores(contender.name) / "contender.json"
        if path.exists():
            before, now = _read(path), contender.record()
            told = now.keys() - {"weights", "description"}
            differing = sorted(key for key in told if now[key] != before.get(key))
            if not differing:
                return
            if any(path.parent.glob("*.npz")):
                raise UserError(
                    f"{contender.name} had other {', '.join(differing)} when {self.folder} was "
                    "begun: give it another name (NAME=PATH), or name another --out."
                )
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, json.dumps(contender.record(), indent=2).encode())

    def clip(self, number: int) -> ClipInfo | LeftOut | None:
        """A clip's entry, or why it was left out; None while no process has opened it."""
        path = self._clip(number)
        if not path.exists():
            return None
        fields = _read(path)
        return LeftOut(**fields) if "reason" in fields else ClipInfo(**fields)

    def write_clip(self, number: int, clip: ClipInfo | LeftOut) -> None:
        """Says what a clip is."""
        _write(self._clip(number), json.dumps(dataclasses.asdict(clip)).encode())

    def has(self, name: str, number: Key) -> bool:
        """Whether a contender was measured on a clip, or on flat fields."""
        return self._arrays(name, number).exists()

    def write(self, name: str, number: Key, arrays: Arrays) -> None:
        """Keeps what was measured."""
        file = io.BytesIO()
        np.savez(file, **arrays)
        path = self._arrays(name, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, file.getvalue())

    def read(self, name: str, number: Key) -> Arrays:
        """The arrays that were measured.

        Raises:
            UserError: the file is damaged.
        """
        path = self._arrays(name, number)
        try:
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
        except Exception as error:  # NumPy and zipfile raise all kinds
            raise UserError(
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

    def clear(self) -> None:
        """Removes unfinished files of killed processes. Call it only when no process measures any
        more."""
        for pattern in ("clips/.*", "scores/*/.*"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)

    def _scores(self, name: str) -> Path:
        return self.folder / "scores" / name

    def _arrays(self, name: str, number: Key) -> Path:
        stem = f"{number:06d}" if isinstance(number, int) else number
        return self._scores(name) / f"{stem}.npz"

    def _clip(self, number: int) -> Path:
        return self.folder / "clips" / f"{number:06d}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}. Name another --out.") from error


def _write(path: Path, data: bytes, *, exclusive: bool = False) -> None:
    """Writes a whole file or nothing. Processes may write one file at once; with `exclusive` the
    file of the first process stays."""
    with written_aside(path, keep_first=exclusive) as temporary:
        temporary.write_bytes(data)
