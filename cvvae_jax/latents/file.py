"""Reads and writes the latents of one video as a safetensors file or as NumPy's npz.

The array `latents` is float32 (n, y, x, z). The metadata are texts by name. A safetensors file has
them as its own metadata, an npz file as JSON in the array `metadata`.
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
"""Suffixes that the name of a file with latents may have."""

LAYOUT = "n y x z"
"""The value of `layout` in the metadata of files that this package wrote."""
# Color codes of ITU-T H.273 are bytes. The numerator and the denominator of a pixel aspect ratio
# have 31 bits in every container.
_MAX_CODE = 255
_MAX_TERM = 2**31 - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentsMetadata:
    """What a file says of its latents, of their video, and of the model that encoded it."""

    frames: int
    """Frames of the video."""
    height: int
    """Height of the video in pixels."""
    width: int
    """Width of the video in pixels."""
    pixels: PixelType = "uint8"
    """Type of the encoded video, and of the video that decoding gives."""
    scaled: bool = False
    """Whether the latents are scaled for diffusion models, as `VAE.scale` does."""
    scaling_factor: float | None = None
    """Scaling factor of the model; None where it is not known."""
    shift_factor: float | None = None
    """Shift factor of the model; None where it is not known."""
    latents_mean: tuple[float, ...] | None = None
    """Mean of each channel in the model's scale; None where the model has none."""
    latents_std: tuple[float, ...] | None = None
    """Standard deviation of each channel in the model's scale; None where the model has none."""
    fps: str | None = None
    """Frames per second as a fraction, such as 30000/1001; None where they are not known."""
    times: str | None = None
    """Times of the frames, as `Times.to_json` writes them; None where `fps` says all."""
    pixel_aspect: str | None = None
    """Width of a pixel over its height, as a fraction; None for square pixels."""
    primaries: int | None = None
    """Color primaries, as `Display` has them; None for those of BT.709."""
    transfer: int | None = None
    """Transfer characteristics, as `Display` has them; None for those of BT.709."""
    image: bool = False
    """Whether the video was an image file."""
    source: str | None = None
    """Name of the file that was encoded."""
    weights_sha256: str | None = None
    """SHA-256 of the weights of the model."""
    seed: int | None = None
    """Seed of the sample; None for the mode of the posterior."""
    chunk_frames: int | None = None
    """Frames from the start of a chunk to the start of the next, when the video was encoded."""

    @property
    def shown(self) -> Times | None:
        """Times of the frames; None where `fps` says all."""
        return None if self.times is None else Times.from_json(self.times)

    @property
    def display(self) -> Display:
        """Pixel aspect ratio and colors, which a player needs beside the pixels."""
        fields = {"primaries": self.primaries, "transfer": self.transfer}
        if self.pixel_aspect is not None:
            fields["pixel_aspect"] = as_fraction(self.pixel_aspect)
        return Display(**{name: value for name, value in fields.items() if value is not None})


def to_texts(metadata: LatentsMetadata) -> dict[str, str]:
    """Convert metadata to texts by name; fields that are None are left out."""
    known = {name: value for name, value in vars(metadata).items() if value is not None}
    return {"layout": LAYOUT} | {
        name: visible(value) if isinstance(value, str) else json.dumps(value)
        for name, value in known.items()
    }


def from_texts(texts: dict[str, str]) -> LatentsMetadata:
    """Convert texts by name to metadata; unknown names are ignored.

    Raises:
        ValueError: a text does not belong to its field, or there is no such video.
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
    """Writes the latents of one video part by part.

    Use it as `with LatentsWriter(path) as writer`, call `write` for every part, and then `finish`,
    which makes the file appear. Without `finish` no file is left. Memory does not grow with the
    length of the video: until the end, a nameless temporary file in the same folder holds the
    latents.
    """

    def __init__(self, path: str | Path):
        """Set up a writer.

        Args:
            path: file to write; its suffix, .safetensors or .npz, decides the format.

        Raises:
            UserError: the file has another suffix.
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
        """Number of latent frames that have been written."""
        return self._frames

    def write(self, part: Float[np.ndarray, "n y x z"]) -> None:
        """Append latent frames, which all have one shape (y, x, z).

        Raises:
            UserError: the file cannot be written, such as onto a full disk.
        """
        self._shape = part.shape[1:]
        self._frames += len(part)
        self._checksum.add(part)
        with self._named_errors():
            self._numbers.write(np.ascontiguousarray(part, "<f4").data)

    def finish(self, metadata: LatentsMetadata) -> None:
        """Write the metadata and make the file appear.

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
    """A file with latents that `open_latents` has opened."""

    path: Path
    shape: tuple[int, int, int, int]
    """Shape (n, y, x, z) of the latents."""
    metadata: LatentsMetadata | None
    """Metadata of the file; None where another program wrote it."""
    _header: Header = dataclasses.field(repr=False)

    def parts(self, frames: int = 64) -> Iterator[Float[np.ndarray, "n y x z"]]:
        """Yield the latents in order as float32, `frames` latent frames at a time.

        Raises:
            UserError: the file is damaged. The last part is not yielded then, since a checksum is
                known to differ only at the end.
        """
        return read_parts(self.path, self._header, frames)


def open_latents(path: str | Path) -> LatentsFile:
    """Open a file that has an array `latents` (n, y, x, z), of this package or of another program.

    Only the header is read.

    Raises:
        UserError: there is no such file, it holds no such array, or its header is damaged.
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
    """Write the latents of one video to a file.

    Args:
        path: a .safetensors or .npz file; a file that is there is replaced.
        latents: latents with values (1, n, y, x, z).
        metadata: more fields of `LatentsMetadata`, such as fps="25".

    Raises:
        UserError: the file cannot be written, or `latents` hold several videos.
    """
    if len(latents.values) != 1:
        raise UserError(f"{path} holds the latents of one video, not of {len(latents.values)}.")
    own = {field.name: getattr(latents, field.name) for field in dataclasses.fields(latents)}
    del own["values"]
    with LatentsWriter(path) as writer:
        writer.write(np.asarray(latents.values[0], np.float32))
        writer.finish(LatentsMetadata(**own, **metadata))


def load_latents(path: str | Path) -> Latents:
    """Read the latents of a file, as `Codec.decode` takes them.

    Returns:
        `Latents` with float32 values (1, n, y, x, z).

    Raises:
        UserError: there is no such file, it is damaged, or another program wrote it.
    """
    file = open_latents(path)
    if file.metadata is None:
        raise UserError(
            f"{path} doesn't say how long and large its video is: cvvae_jax did not write it."
        )
    metadata = file.metadata
    return Latents(
        np.concatenate(list(file.parts()))[None],
        *(metadata.frames, metadata.height, metadata.width),
        pixels=metadata.pixels,
        scaled=metadata.scaled,
    )


def require_suffix(path: Path) -> None:
    """Raise UserError unless the name ends in one of `SUFFIXES`."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: a file with latents ends in {' or '.join(SUFFIXES)}.")


def _write_safetensors(path: Path, numbers, shape: tuple[int, ...], texts: dict[str, str]) -> None:
    # The library's own writer needs the whole array in memory.
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
