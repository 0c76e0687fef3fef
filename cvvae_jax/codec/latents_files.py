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
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open

from cvvae_jax.aside import written_aside
from cvvae_jax.codec.latents import Latents
from cvvae_jax.codec.pixels import PixelType
from cvvae_jax.config import ConfigError
from cvvae_jax.config.home import at_home
from cvvae_jax.data.display import Display
from cvvae_jax.data.times import Times

SUFFIXES = (".safetensors", ".npz")
"""Of files with latents."""

_LAYOUT = "n y x z"
# Types of numbers that are read, as safetensors and NumPy call them.
_KINDS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
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
            said["pixel_aspect"] = Fraction(self.pixel_aspect)
        return Display(**{name: value for name, value in said.items() if value is not None})


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
            ConfigError: the suffix is another one.
        """
        self._path = Path(at_home(path))
        require_suffix(self._path)
        self._frames, self._shape = 0, None

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
            ConfigError: the file cannot be written (a full disk).
        """
        self._shape = part.shape[1:]
        self._frames += len(part)
        with self._named_errors():
            self._numbers.write(np.ascontiguousarray(part, "<f4").data)

    def finish(self, facts: Facts) -> None:
        """Give the file its name.

        Raises:
            ConfigError: the file cannot be written, or there are no latents.
        """
        if not self._frames:
            raise ConfigError(f"{self._path} was not written: there are no latents.")
        shape = (self._frames, *self._shape)
        write = _write_npz if self._path.suffix.lower() == ".npz" else _write_safetensors
        with self._named_errors(), written_aside(self._path) as aside:
            self._numbers.seek(0)
            write(aside, self._numbers, shape, _strings(facts))

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be written: {error.strerror}.") from error


@dataclasses.dataclass(frozen=True)
class LatentsFile:
    """A file with latents, opened: `open_latents`."""

    path: Path
    """The file."""
    shape: tuple[int, int, int, int]
    """(n, y, x, z)."""
    facts: Facts | None
    """What it says of them; None where it was not written by this package."""

    def parts(self, frames: int = 64) -> Iterator[Float[np.ndarray, "n y x z"]]:
        """The latents in order, so many frames at a time; npz files are read as a whole."""
        if self.path.suffix.lower() == ".npz":
            with np.load(self.path, allow_pickle=False) as arrays:
                latents = arrays["latents"].astype(np.float32)
            yield from (latents[i : i + frames] for i in range(0, len(latents), frames))
            return
        with safe_open(self.path, framework="numpy") as file:
            latents = file.get_slice("latents")
            for start in range(0, self.shape[0], frames):
                yield np.asarray(latents[start : min(start + frames, self.shape[0])], np.float32)


def open_latents(path: str | Path) -> LatentsFile:
    """A file with latents: of `LatentsWriter`, or any with an array `latents` (n, y, x, z).

    Raises:
        ConfigError: there is no such file, or it holds no such array.
    """
    path = Path(at_home(path))
    if not path.is_file():
        raise ConfigError(f"{path}: no such file.")
    require_suffix(path)
    try:
        read = _npz_header if path.suffix.lower() == ".npz" else _safetensors_header
        shape, kind, words = read(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"{path} holds no latents that can be read: an array `latents` (n, y, x, z) is wanted "
            f"({type(error).__name__}: {error})."
        ) from error
    if len(shape) != 4 or 0 in shape:
        raise ConfigError(f"{path}: latents are (n, y, x, z), not {shape}.")
    if kind not in _KINDS.values():
        raise ConfigError(f"{path}: latents are {', '.join(_KINDS.values())}, not {kind}.")
    try:
        facts = _facts(words) if words.get("layout") == _LAYOUT else None
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}: its metadata is damaged: {error}.") from error
    return LatentsFile(path, shape, facts)


def save_latents(path: str | Path, latents: Latents, **facts: str | int | float | bool) -> None:
    """Write the latents of one video.

    Args:
        path: a .safetensors or .npz file.
        latents: of one video.
        facts: more fields of `Facts`, such as fps="25".

    Raises:
        ConfigError: the file cannot be written, or there are several videos.
    """
    if len(latents.values) != 1:
        raise ConfigError(f"{path} holds the latents of one video, not of {len(latents.values)}.")
    own = {field.name: getattr(latents, field.name) for field in dataclasses.fields(latents)}
    del own["values"]
    with LatentsWriter(path) as writer:
        writer.write(np.asarray(latents.values[0], np.float32))
        writer.finish(Facts(**own, **facts))


def load_latents(path: str | Path) -> Latents:
    """The latents of a file, (1, n, y, x, z), as `Codec.decode` takes them.

    Raises:
        ConfigError: it is none, or was not written by this package.
    """
    file = open_latents(path)
    if file.facts is None:
        raise ConfigError(
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
    """Raise ConfigError unless a file with latents may have such a name."""
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path}: a file with latents ends in {' or '.join(SUFFIXES)}.")


def _strings(facts: Facts) -> dict[str, str]:
    """Metadata as safetensors have it; what is not known is left out."""
    known = {name: value for name, value in vars(facts).items() if value is not None}
    return {"layout": _LAYOUT} | {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in known.items()
    }


def _facts(words: dict[str, str]) -> Facts:
    hints = typing.get_type_hints(Facts)
    facts = Facts(**{name: _fact(name, words[name], hints[name]) for name in words.keys() & hints})
    if min(facts.frames, facts.height, facts.width) < 1:
        raise ValueError(f"no video has {facts.frames} frames of {facts.width} x {facts.height}")
    if facts.display.pixel_aspect <= 0 or (facts.shown and facts.shown.count != facts.frames):
        raise ValueError("the times or the pixels' shape aren't those of a video")
    return facts


def _fact(name: str, word: str, hint) -> str | int | float | bool | tuple[float, ...]:
    kinds = typing.get_args(hint) or (hint,)
    if str in kinds or word in kinds:
        return word
    value = json.loads(word) if hint is not PixelType else None
    if name in ("latents_mean", "latents_std") and isinstance(value, list):
        return tuple(map(float, value))
    if type(value) not in kinds and not (type(value) is int and float in kinds):
        raise ValueError(f"{name} cannot be {word}")
    return value


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


def _safetensors_header(path: Path) -> tuple[tuple[int, ...], str, dict[str, str]]:
    with safe_open(path, framework="numpy") as file:
        latents = file.get_slice("latents")
        kind = _KINDS.get(latents.get_dtype(), latents.get_dtype())
        return tuple(latents.get_shape()), kind, file.metadata() or {}


def _npz_header(path: Path) -> tuple[tuple[int, ...], str, dict[str, str]]:
    with np.load(path, allow_pickle=False) as arrays:
        words = json.loads(str(arrays["metadata"])) if "metadata" in arrays else {}
        words = words if isinstance(words, dict) else {}  # another program's
    with zipfile.ZipFile(path) as archive, archive.open("latents.npy") as member:
        version = np.lib.format.read_magic(member)
        read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
            version, np.lib.format.read_array_header_2_0
        )
        shape, _, kind = read(member)
        return shape, kind.name, words
