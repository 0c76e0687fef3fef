"""Latents of one video in a file: safetensors, or NumPy's npz.

The array `latents` is float32 (n, y, x, z). What else there is to know stands in the metadata of a
safetensors file, as strings, and as JSON in the array `metadata` of an npz file.
"""

import contextlib
import dataclasses
import json
import math
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from cvvae_jax.codec.values import Latents
from cvvae_jax.config.places import at_home
from cvvae_jax.errors import UserError
from cvvae_jax.latents.facts import LAYOUT, Facts, from_words, to_words
from cvvae_jax.latents.formats import CHECKSUM, Checksum, Header, read_header, read_parts
from cvvae_jax.resumable.files import written_aside

SUFFIXES = (".safetensors", ".npz")
"""Of files with latents."""


class LatentsWriter:
    """Writes latents part by part: `with LatentsWriter(path) as w: w.write(part); w.finish(facts)`.

    The file is there once it is finished, and whole; without `finish` there is none. Memory does
    not grow with its length: until then the numbers are in a file without a name beside it.
    """

    def __init__(self, path: str | Path):
        """Set up a writer.

        Args:
            path: file to write; its suffix, .safetensors or .npz, says in which format.

        Raises:
            UserError: the suffix is another one.
        """
        self._path = Path(at_home(path))
        require_suffix(self._path)
        self._frames, self._shape = 0, None
        self._checksum = Checksum()

    def __enter__(self) -> "LatentsWriter":
        with self._named_errors():
            self._numbers = tempfile.TemporaryFile(dir=self._path.parent)
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self._numbers.close()

    @property
    def frames(self) -> int:
        """Latent frames so far."""
        return self._frames

    def write(self, part: Float[np.ndarray, "n y x z"]) -> None:
        """Append latent frames, all of one shape.

        Raises:
            UserError: the file cannot be written (a full disk).
        """
        self._shape = part.shape[1:]
        self._frames += len(part)
        self._checksum.add(part)
        with self._named_errors():
            self._numbers.write(np.ascontiguousarray(part, "<f4").data)

    def finish(self, facts: Facts) -> None:
        """Give the file its name.

        Raises:
            UserError: the file cannot be written, or there are no latents.
        """
        if not self._frames:
            raise UserError(f"{self._path} was not written: there are no latents.")
        shape = (self._frames, *self._shape)
        words, write = to_words(facts), _write_npz
        if self._path.suffix.lower() != ".npz":
            words[CHECKSUM] = self._checksum.of(shape, words)
            write = _write_safetensors
        with self._named_errors(), written_aside(self._path) as aside:
            self._numbers.seek(0)
            write(aside, self._numbers, shape, words)

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"{self._path} cannot be written: {error.strerror}.") from error


@dataclasses.dataclass(frozen=True)
class LatentsFile:
    """A file with latents, opened: `open_latents`."""

    path: Path
    """The file."""
    shape: tuple[int, int, int, int]
    """(n, y, x, z)."""
    facts: Facts | None
    """What it says of them; None where it was not written by this package."""
    _header: Header = dataclasses.field(repr=False)

    def parts(self, frames: int = 64) -> Iterator[Float[np.ndarray, "n y x z"]]:
        """The latents in order, so many frames at a time.

        Raises:
            UserError: the file is damaged; nothing of the last part has been given then.
        """
        return read_parts(self.path, self._header, frames)


def open_latents(path: str | Path) -> LatentsFile:
    """A file with latents: of `LatentsWriter`, or any with an array `latents` (n, y, x, z).

    Raises:
        UserError: there is no such file, it holds no such array, or is damaged as far as that
            shows without reading the numbers.
    """
    path = Path(at_home(path))
    if not path.is_file():
        raise UserError(f"{path}: no such file.")
    require_suffix(path)
    header = read_header(path)
    try:
        facts = from_words(header.words) if header.words.get("layout") == LAYOUT else None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: its metadata is damaged: {error}.") from error
    return LatentsFile(path, header.shape, facts, header)


def save_latents(path: str | Path, latents: Latents, **facts: str | int | float | bool) -> None:
    """Write the latents of one video.

    Args:
        path: a .safetensors or .npz file.
        latents: of one video.
        facts: more fields of `Facts`, such as fps="25".

    Raises:
        UserError: the file cannot be written, or there are several videos.
    """
    if len(latents.values) != 1:
        raise UserError(f"{path} holds the latents of one video, not of {len(latents.values)}.")
    own = {field.name: getattr(latents, field.name) for field in dataclasses.fields(latents)}
    del own["values"]
    with LatentsWriter(path) as writer:
        writer.write(np.asarray(latents.values[0], np.float32))
        writer.finish(Facts(**own, **facts))


def load_latents(path: str | Path) -> Latents:
    """The latents of a file, (1, n, y, x, z), as `Codec.decode` takes them.

    Raises:
        UserError: it is none, or was not written by this package.
    """
    file = open_latents(path)
    if file.facts is None:
        raise UserError(
            f"{path} doesn't say how long and large its video is: it is no file of cvvae_jax's."
        )
    facts = file.facts
    return Latents(
        np.concatenate(list(file.parts()))[None],
        *(facts.frames, facts.height, facts.width),
        pixels=facts.pixels,
        scaled=facts.scaled,
    )


def require_suffix(path: Path) -> None:
    """Raise UserError unless a file with latents may have such a name."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: a file with latents ends in {' or '.join(SUFFIXES)}.")


def _write_safetensors(path: Path, numbers, shape: tuple[int, ...], words: dict[str, str]) -> None:
    """The library's own writer takes arrays that are in memory as a whole."""
    tensor = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * math.prod(shape)]}
    header = json.dumps({"__metadata__": words, "latents": tensor}).encode()
    header += b" " * (-len(header) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        shutil.copyfileobj(numbers, file)


def _write_npz(path: Path, numbers, shape: tuple[int, ...], words: dict[str, str]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("latents.npy", "w", force_zip64=True) as member:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(member, header)
            shutil.copyfileobj(numbers, member)
        with archive.open("metadata.npy", "w") as member:
            np.lib.format.write_array(member, np.asarray(json.dumps(words)))
