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
import typing
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from cvvae_jax.codec.values import Latents, PixelType
from cvvae_jax.config.latent_scale import LATENT_SCALE
from cvvae_jax.config.places import at_home
from cvvae_jax.config.reading import parse, typed
from cvvae_jax.errors import UserError, visible
from cvvae_jax.latents.file_formats import CHECKSUM, Checksum, Header, read_header, read_parts
from cvvae_jax.resumable.files import written_aside
from cvvae_jax.video_io.display import Display
from cvvae_jax.video_io.times import Times, as_fraction

SUFFIXES = (".safetensors", ".npz")
"""Of files with latents."""

LAYOUT = "n y x z"
"""The word `layout` of files that this package wrote."""
# Codes of ITU-T H.273 are bytes; terms of a shape of pixels have 31 bits in every container.
_MAX_CODE = 255
_MAX_TERM = 2**31 - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentsMetadata:
    """What a file says of its latents."""

    frames: int
    """Of the video, like height, width and fps."""
    height: int
    """In pixels."""
    width: int
    """In pixels."""
    pixels: PixelType = "uint8"
    """How the video was given."""
    scaled: bool = False
    """Whether the latents are as diffusion models see them: `scale` of the model."""
    scaling_factor: float | None = None
    """Of the model, like shift_factor; None where it is not known."""
    shift_factor: float | None = None
    """Of the model."""
    latents_mean: tuple[float, ...] | None = None
    """Of the model, a number a channel, like latents_std; None where it has none."""
    latents_std: tuple[float, ...] | None = None
    """Of the model."""
    fps: str | None = None
    """Frames per second as a fraction, such as 30000/1001; None where they are not known."""
    times: str | None = None
    """When each frame is shown, as `Times.to_json` writes it; None where `fps` says all."""
    pixel_aspect: str | None = None
    """Width of a pixel over its height, as a fraction; None for square ones."""
    primaries: int | None = None
    """Which colors the video has, as `Display` says; None for those of BT.709."""
    transfer: int | None = None
    """How its levels stand for light, likewise."""
    image: bool = False
    """Whether the video was an image file."""
    source: str | None = None
    """The name of its file."""
    weights_sha256: str | None = None
    """Hash of the weights of the model that encoded it."""
    seed: int | None = None
    """Of the sample; None for the posterior's mode."""
    chunk_frames: int | None = None
    """Frames from a chunk to the next, when it was encoded."""

    @property
    def shown(self) -> Times | None:
        """When each frame is shown; None where `fps` says all."""
        return None if self.times is None else Times.from_json(self.times)

    @property
    def display(self) -> Display:
        """What a player has to know of the video beside its pixels."""
        said = {"primaries": self.primaries, "transfer": self.transfer}
        if self.pixel_aspect is not None:
            said["pixel_aspect"] = as_fraction(self.pixel_aspect)
        return Display(**{name: value for name, value in said.items() if value is not None})


def to_texts(metadata: LatentsMetadata) -> dict[str, str]:
    """Texts by name, as safetensors has them; what is not known is left out."""
    known = {name: value for name, value in vars(metadata).items() if value is not None}
    return {"layout": LAYOUT} | {
        name: visible(value) if isinstance(value, str) else json.dumps(value)
        for name, value in known.items()
    }


def from_texts(texts: dict[str, str]) -> LatentsMetadata:
    """The inverse; other texts are passed over.

    Raises:
        ValueError: they are not those of a video.
    """
    hints = typing.get_type_hints(LatentsMetadata)
    metadata = LatentsMetadata(
        **{name: _fact(name, texts[name], hints[name]) for name in hints & texts.keys()}
    )
    if min(metadata.frames, metadata.height, metadata.width) < 1:
        raise ValueError(
            f"no video has {metadata.frames} frames of {metadata.width} x {metadata.height}"
        )
    _check_display(metadata)
    numbers = [getattr(metadata, name) for name in LATENT_SCALE]
    flat = [each for value in numbers for each in (value if isinstance(value, tuple) else (value,))]
    if not all(math.isfinite(number) for number in flat if number is not None):
        raise ValueError("the latents' scale must be finite numbers")
    return metadata


def _check_display(metadata: LatentsMetadata) -> None:
    if metadata.fps is not None and as_fraction(metadata.fps) <= 0:
        raise ValueError(f"fps cannot be {metadata.fps}")
    aspect = metadata.display.pixel_aspect
    terms = (aspect.numerator, aspect.denominator)
    if min(terms) <= 0 or max(terms) > _MAX_TERM:
        raise ValueError(f"pixels cannot have the shape {metadata.pixel_aspect}")
    if metadata.shown and metadata.shown.count != metadata.frames:
        raise ValueError(f"the times are not those of {metadata.frames} frames")
    for code in (metadata.display.primaries, metadata.display.transfer):
        if not 0 <= code <= _MAX_CODE:
            raise ValueError(f"no colors have the code {code}")


def _fact(name: str, word: Any, hint: Any) -> Any:
    if not isinstance(word, str):
        raise ValueError(f"{name} is no text")
    if hint is PixelType or str in typing.get_args(hint):
        return typed(hint, word, name)
    return typed(hint, parse(word, name), name)


class LatentsWriter:
    """Writes latents part by part: `with LatentsWriter(path) as w: w.write(part); w.finish(metadata)`.

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

    def __exit__(self, dtype, error, traceback) -> None:
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

    def finish(self, metadata: LatentsMetadata) -> None:
        """Give the file its name.

        Raises:
            UserError: the file cannot be written, or there are no latents.
        """
        if not self._frames:
            raise UserError(f"{self._path} was not written: there are no latents.")
        shape = (self._frames, *self._shape)
        texts, write = to_texts(metadata), _write_npz
        if self._path.suffix.lower() != ".npz":
            texts[CHECKSUM] = self._checksum.of(shape, texts)
            write = _write_safetensors
        with self._named_errors(), written_aside(self._path) as aside:
            self._numbers.seek(0)
            write(aside, self._numbers, shape, texts)

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
    metadata: LatentsMetadata | None
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
        metadata = from_texts(header.texts) if header.texts.get("layout") == LAYOUT else None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: its metadata is damaged: {error}.") from error
    return LatentsFile(path, header.shape, metadata, header)


def save_latents(path: str | Path, latents: Latents, **metadata: str | int | float | bool) -> None:
    """Write the latents of one video.

    Args:
        path: a .safetensors or .npz file.
        latents: of one video.
        metadata: more fields of `LatentsMetadata`, such as fps="25".

    Raises:
        UserError: the file cannot be written, or there are several videos.
    """
    if len(latents.values) != 1:
        raise UserError(f"{path} holds the latents of one video, not of {len(latents.values)}.")
    own = {field.name: getattr(latents, field.name) for field in dataclasses.fields(latents)}
    del own["values"]
    with LatentsWriter(path) as writer:
        writer.write(np.asarray(latents.values[0], np.float32))
        writer.finish(LatentsMetadata(**own, **metadata))


def load_latents(path: str | Path) -> Latents:
    """The latents of a file, (1, n, y, x, z), as `Codec.decode` takes them.

    Raises:
        UserError: it is none, or was not written by this package.
    """
    file = open_latents(path)
    if file.metadata is None:
        raise UserError(
            f"{path} doesn't say how long and large its video is: it is no file of cvvae_jax's."
        )
    metadata = file.metadata
    return Latents(
        np.concatenate(list(file.parts()))[None],
        *(metadata.frames, metadata.height, metadata.width),
        pixels=metadata.pixels,
        scaled=metadata.scaled,
    )


def require_suffix(path: Path) -> None:
    """Raise UserError unless a file with latents may have such a name."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: a file with latents ends in {' or '.join(SUFFIXES)}.")


def _write_safetensors(path: Path, numbers, shape: tuple[int, ...], texts: dict[str, str]) -> None:
    """The library's own writer takes arrays that are in memory as a whole."""
    tensor = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * math.prod(shape)]}
    header = json.dumps({"__metadata__": texts, "latents": tensor}).encode()
    header += b" " * (-len(header) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        shutil.copyfileobj(numbers, file)


def _write_npz(path: Path, numbers, shape: tuple[int, ...], texts: dict[str, str]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("latents.npy", "w", force_zip64=True) as member:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(member, header)
            shutil.copyfileobj(numbers, member)
        with archive.open("metadata.npy", "w") as member:
            np.lib.format.write_array(member, np.asarray(json.dumps(texts)))
