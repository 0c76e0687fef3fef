"""Protocols: all that two evaluations must have in common for their figures to be comparable.

A protocol is a TOML file with the fields of `Protocol`, such as configs/protocols/cvvae-paper.toml.
"""

import dataclasses
import hashlib
import json
import math
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from cvvae_jax.config.checks import at_least
from cvvae_jax.config.places import at_home
from cvvae_jax.errors import UserError
from cvvae_jax.evaluation.metrics import DEFINITIONS, METRICS, metrics_of


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Which clips are measured, how they go through a model, and what is measured."""

    description: str = ""
    """Purpose and source of the protocol, in words; no part of its hash."""
    media: Literal["video", "image"] = "video"
    """The media that are measured; an image is a clip of one frame."""
    frames: int | None = None
    """Frames of a clip; shorter videos are left out, and listed. Unset: whole videos."""
    stride: int = 1
    """Source frames from one frame of a clip to the next."""
    fps: float | None = None
    """Frames per second of the clips, in place of a stride; videos of a lower rate keep theirs."""
    start: Literal["first", "middle"] = "first"
    """Position of the clip in its video: at the first frame, or in the middle."""
    size: int | None = None
    """Pixels of the short side after the resize, also of smaller videos. Unset: as they are."""
    crop: Literal["center", "none"] = "center"
    """The part of a resized frame that is measured: the square in the middle, or all of it."""
    resize: Literal["bicubic", "bilinear", "lanczos", "area"] = "bicubic"
    """The filter of the resize, antialiased, on 8-bit frames (Pillow's)."""
    latents: Literal["mode", "sample"] = "mode"
    """The latents that are decoded: the posterior's mode, or a sample."""
    seed: int = 0
    """Seed of the samples; a clip's noise depends on its number in the data alone."""
    pixels: Literal["uint8", "float"] = "uint8"
    """Whether reconstructions are rounded to 8 bits, as in a file, before they are measured; in
    both cases they are clipped to the range of pixels."""
    chunk_frames: int = 16
    """Frames from a chunk to the next; see docs/inference.md."""
    tile: int | Literal["auto", "whole"] = "auto"
    """Pixels of the tiles that frames are cut into, `whole`: never, `auto`: where memory asks."""
    metrics: tuple[str, ...] = ("psnr", "ssim", "ms_ssim", "time", "seams", "compatibility")
    """Names of the metrics to measure: keys of `evaluation.metrics.METRICS`."""
    spectrum_window: int = 16
    """Frames of the windows that the spectrum of the error is averaged over."""
    flat_fields: bool = True
    """Whether clips of one color are measured, too; they take about as long as four clips of 33
    frames of 256 x 256 pixels."""

    def __post_init__(self):
        at_least(self, 1, "stride", "chunk_frames")
        at_least(self, 2, "spectrum_window")
        at_least(self, 0, "seed")
        for name in ("frames", "size"):
            if getattr(self, name) is not None:
                at_least(self, 1, name)
        if self.spectrum_window % 2:
            raise UserError(f"spectrum_window must be even, not {self.spectrum_window}.")
        rate = 1.0 if self.fps is None else self.fps
        if not (0 < rate < math.inf) or (self.fps and (self.stride != 1 or self.frames is None)):
            raise UserError("fps must be positive, and needs frames and no stride beside it.")
        if self.media == "image" and (self.frames or 1, self.stride, self.fps) != (1, 1, None):
            raise UserError("images have one frame: frames, stride and fps are for videos.")
        self._check_metrics()

    def _check_metrics(self):
        if not self.metrics:
            raise UserError("metrics must name something to measure.")
        if not METRICS.keys() >= set(self.metrics):
            raise UserError(
                f"metrics must be a list of {' or '.join(METRICS)}, not {self.metrics!r}."
            )
        of_frames = sorted(metric.name for metric in metrics_of("frames"))
        if "compatibility" in self.metrics and not set(of_frames) & set(self.metrics):
            raise UserError(
                "compatibility is measured by metrics of frames: name one of "
                f"{', '.join(of_frames)} beside it."
            )

        if "interpolated" in self.metrics and not {"fid", "fvd"} & set(self.metrics):
            raise UserError("interpolated compares features: name fid or fvd beside it.")

    @property
    def hash(self) -> str:
        """SHA-256 of every field but the description, and of the definitions of metrics."""
        fields = dataclasses.asdict(self)
        del fields["description"]
        fields["metrics"] = sorted(set(self.metrics))
        fields["definitions"] = DEFINITIONS
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def load_protocol(name: str, *, folder: Path) -> tuple[str, Protocol]:
    """The short name and the protocol of a file, or of a name in the folder of protocols.

    Raises:
        UserError: there is no such protocol, or a field of it is unknown or wrong.
    """
    path = Path(at_home(name))
    if path.suffix != ".toml" and not path.is_file():
        path = folder / f"{name}.toml"
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(sorted(file.stem for file in folder.glob("*.toml")))
        raise UserError(
            f"there is no protocol {name}; there are {known}, or name a .toml file."
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path} is no protocol that can be read: {error}.") from error
    try:
        return path.stem, _checked(fields)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _checked(fields: dict[str, Any]) -> Protocol:
    kinds = typing.get_type_hints(Protocol)
    if unknown := sorted(set(fields) - set(kinds)):
        raise UserError(f"a protocol has no field {', '.join(unknown)}; it has {', '.join(kinds)}.")
    for name, value in fields.items():
        fields[name] = value = tuple(value) if isinstance(value, list) else value
        if not _fits(value, kinds[name]):
            raise UserError(f"{name} must be {_described(kinds[name])}, not {value!r}.")
        if kinds[name] == float | None:
            fields[name] = float(value)
    return Protocol(**fields)


def _fits(value: Any, kind: Any) -> bool:
    match get_origin(kind):
        case typing.Literal:
            return value in get_args(kind)
        case types.UnionType | typing.Union:
            return any(_fits(value, part) for part in get_args(kind))
        case builtin if builtin is tuple:
            return isinstance(value, tuple) and all(_fits(x, get_args(kind)[0]) for x in value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is kind


def _described(kind: Any) -> str:
    match get_origin(kind):
        case typing.Literal:
            return " or ".join(map(str, get_args(kind)))
        case types.UnionType | typing.Union:
            parts = [part for part in get_args(kind) if part is not type(None)]
            return " or ".join(map(_described, parts))
        case builtin if builtin is tuple:
            return f"a list of {_described(get_args(kind)[0])}"
    return {"int": "a whole number", "float": "a number", "str": "text"}[kind.__name__]
