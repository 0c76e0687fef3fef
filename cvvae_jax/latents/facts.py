"""What a file with latents says of them, and the texts that it is kept as."""

import dataclasses
import json
import math
import typing
from typing import Any

from cvvae_jax.codec.values import PixelType
from cvvae_jax.config.latent_scale import LATENT_SCALE
from cvvae_jax.config.reading import parse, typed
from cvvae_jax.errors import visible
from cvvae_jax.video_io.display import Display
from cvvae_jax.video_io.times import Times, as_fraction

LAYOUT = "n y x z"
"""The word `layout` of files that this package wrote."""
# Codes of ITU-T H.273 are bytes; terms of a shape of pixels have 31 bits in every container.
_MOST_CODE = 255
_MOST_TERM = 2**31 - 1


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
            said["pixel_aspect"] = as_fraction(self.pixel_aspect)
        return Display(**{name: value for name, value in said.items() if value is not None})


def to_words(facts: Facts) -> dict[str, str]:
    """Texts by name, as safetensors has them; what is not known is left out."""
    known = {name: value for name, value in vars(facts).items() if value is not None}
    return {"layout": LAYOUT} | {
        name: visible(value) if isinstance(value, str) else json.dumps(value)
        for name, value in known.items()
    }


def from_words(words: dict[str, str]) -> Facts:
    """The inverse; other words are passed over.

    Raises:
        ValueError: they are not those of a video.
    """
    hints = typing.get_type_hints(Facts)
    facts = Facts(**{name: _fact(name, words[name], hints[name]) for name in hints & words.keys()})
    if min(facts.frames, facts.height, facts.width) < 1:
        raise ValueError(f"no video has {facts.frames} frames of {facts.width} x {facts.height}")
    _check_shown(facts)
    numbers = [getattr(facts, name) for name in LATENT_SCALE]
    flat = [each for value in numbers for each in (value if isinstance(value, tuple) else (value,))]
    if not all(math.isfinite(number) for number in flat if number is not None):
        raise ValueError("the latents' scale must be finite numbers")
    return facts


def _check_shown(facts: Facts) -> None:
    if facts.fps is not None and as_fraction(facts.fps) <= 0:
        raise ValueError(f"fps cannot be {facts.fps}")
    aspect = facts.display.pixel_aspect
    terms = (aspect.numerator, aspect.denominator)
    if min(terms) <= 0 or max(terms) > _MOST_TERM:
        raise ValueError(f"pixels cannot have the shape {facts.pixel_aspect}")
    if facts.shown and facts.shown.count != facts.frames:
        raise ValueError(f"the times are not those of {facts.frames} frames")
    for code in (facts.display.primaries, facts.display.transfer):
        if not 0 <= code <= _MOST_CODE:
            raise ValueError(f"no colors have the code {code}")


def _fact(name: str, word: Any, hint: Any) -> Any:
    if not isinstance(word, str):
        raise ValueError(f"{name} is no text")
    if hint is PixelType or str in typing.get_args(hint):
        return typed(hint, word, name)
    return typed(hint, parse(word, name), name)
