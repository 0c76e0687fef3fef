"""Pixels and latents on the host: their types, and the checks that refuse what cannot be right.

A model under `jax.jit` can't look at values, so that this is for the codec alone.
"""

import dataclasses
import functools
import math
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from cvvae_jax.errors import UserError
from cvvae_jax.models.gaussian import DiagonalGaussian
from cvvae_jax.models.inputs import (
    FramesLike,
    Host,
    PartsLike,
    VideoLike,
    described,
    frame_array,
    items,
    latents_array,
    latents_part,
    video_array,
)

# What was decoded and not clipped, or was resized, may be encoded, and goes some way beyond 1. This
# is half of the range's width further: neither goes there, while [0, 255] does, and so do pixels
# that were divided by a standard deviation.
_NO_PIXEL = 2.0
# How near to 0 and to 1 a video's extremes are that must be suspected to be in [0, 1].
_NEAR = 0.1


def on_host(array: Array | np.ndarray) -> Host:
    """Pixels or latents in the host's memory: uint8 as it is, floats as float32.

    Raises:
        UserError: the array has no values yet, since a program is being traced.
    """
    if isinstance(array, jax.core.Tracer):
        raise UserError(
            "a Codec needs arrays with values, and can't be called inside of jax.jit or jax.grad; "
            "encode and decode of its model can."
        )
    host = np.asarray(array)
    return host if host.dtype == np.uint8 else np.asarray(host, np.float32)


class PixelValues:
    """Looks at the values of a video, part by part, in two reads of each part; uint8 has none that
    could be wrong."""

    def __init__(self):
        """Nothing has been seen yet."""
        self._low, self._high, self._frames = math.inf, -math.inf, 0

    def look_at(self, part: Host) -> None:
        """Look at the next frames (b, t, h, w, 3).

        Raises:
            UserError: a frame, which is named by its number, holds NaN or infinity; or values are
                far beyond [-1, 1].
        """
        if part.dtype == np.uint8:
            return
        with np.errstate(invalid="ignore"):
            low, high = float(part.min()), float(part.max())  # NaN where there is one
        if not math.isfinite(high - low):
            where = _first_not_finite(part, start=self._frames)
            raise UserError(f"the video's frame {where} holds NaN or infinity.")
        if max(-low, high) > _NO_PIXEL:
            raise UserError(_far_beyond(low, high))
        self._low, self._high = min(low, self._low), max(high, self._high)
        self._frames += part.shape[1]

    def warn_of_range(self) -> None:
        """Warn, of the whole video, that it seems to be in [0, 1]. It may be right all the same:
        one that has nothing darker than mid-gray."""
        if 0 <= self._low <= _NEAR and 1 - _NEAR <= self._high <= 1:
            warnings.warn(
                "All pixels of a video are between 0 and 1. Floats are taken to be in [-1, 1], "
                "where 0 is mid-gray: if these are in [0, 1], give 2 * video - 1.",
                stacklevel=2,
            )


def require_finite(
    latents: Float[np.ndarray, "b n y x z"], *, whose: str, start: int = 0, advice: str = ""
) -> None:
    """Refuse latents with NaN or infinity.

    Args:
        latents: some latent frames.
        whose: how the message begins.
        start: number of the first latent frame.
        advice: how the message ends.

    Raises:
        UserError: its message has the number of the first such latent frame, counted from 0.
    """
    if not np.isfinite(latents).all():
        where = _first_not_finite(latents, start=start)
        raise UserError(f"{whose} latent frame {where} holds NaN or infinity{advice}.")


def _first_not_finite(array: np.ndarray, *, start: int) -> str:
    """The first frame that holds NaN or infinity, and of several videos which one's it is."""
    bad = ~np.isfinite(array).all(axis=(2, 3, 4))
    video, frame = np.argwhere(bad)[0]
    return f"{start + frame}" + (f" of video {video}" if len(array) > 1 else "")


def _far_beyond(low: float, high: float) -> str:
    largest = high if high >= -low else low
    hint = "; if they are in [0, 255], give video / 127.5 - 1" if low >= 0 else ""
    return f"pixels that are floats must be in [-1, 1]; one is {largest:.4g}{hint}."


def frame_arrays(frames: FramesLike) -> Iterator[Host]:
    """Frames (h, w, 3) on the host, all of one size and type; their values are looked at.

    Raises:
        UserError: a frame is none, or other than those before, or its values are no pixels'; it
            is named by its number, counted from 0.
    """
    values, first = PixelValues(), None
    for number, given in enumerate(items(frames, name="frames")):
        frame = on_host(frame_array(given, number=number))
        first = frame if first is None else first
        if (frame.shape, frame.dtype) != (first.shape, first.dtype):
            raise UserError(
                f"frames must have one size and type: number 0 is {described(first)}, "
                f"number {number} is {described(frame)}."
            )
        values.look_at(frame[None, None])
        yield frame
    values.warn_of_range()


def latent_frames(
    parts: PartsLike, *, shape: tuple[int, int, int]
) -> Iterator[Float[np.ndarray, "y x z"]]:
    """The latent frames of parts (n, y, x, z) on the host; their values are looked at.

    Args:
        parts: in order.
        shape: (y, x, z) of each latent frame.

    Raises:
        UserError: a part holds others; or, after the latent frames before, one holds NaN or
            infinity.
    """
    number = 0
    for given in items(parts, name="latents"):
        for frame in on_host(latents_part(given, shape=shape)):
            require_finite(frame[None, None], whose="the latents'", start=number)
            yield frame
            number += 1


Pixels = UInt8[Array | np.ndarray, "b t h w 3"] | Float[Array | np.ndarray, "b t h w 3"]
"""A video as uint8 in [0, 255] or as floats in [-1, 1], on the host or on a device."""

PixelType = Literal["uint8", "float32"]
"""How pixels are given, and given back."""


def checked_pixels(
    video: VideoLike,
) -> UInt8[np.ndarray, "b t h w 3"] | Float[np.ndarray, "b t h w 3"]:
    """Pixels on the host, uint8 or float32. Floats that seem to be in [0, 1] are warned of.

    Raises:
        UserError: they are no video, or of another type, or floats far from [-1, 1], NaN or
            infinity.
    """
    pixels, values = on_host(video_array(video)), PixelValues()
    values.look_at(pixels)
    values.warn_of_range()
    return pixels


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Latents:
    """Latents of a video whose frame count and size the model's strides need not divide."""

    values: Float[Array | np.ndarray, "b n y x z"]
    """The latents; unscaled, unless `scaled`."""
    frames: int = dataclasses.field(metadata={"static": True})
    """Frames of the video; likewise `height` and `width`."""
    height: int = dataclasses.field(metadata={"static": True})
    """In pixels."""
    width: int = dataclasses.field(metadata={"static": True})
    """In pixels."""
    pixels: PixelType = dataclasses.field(default="float32", metadata={"static": True})
    """How the video was given, and is given back: uint8 in [0, 255], or about [-1, 1]."""
    scaled: bool = dataclasses.field(default=False, metadata={"static": True})
    """Whether the values are as diffusion models see them: see `VAE.scale`."""


def checked_latents(latents: Latents | Any, *, channels: int) -> Latents:
    """The same, its values as float32 on the host.

    Args:
        latents: what was given as such.
        channels: of the model's latents.

    Raises:
        UserError: they are something else, none of this model's, or hold NaN or infinity.
    """
    if not isinstance(latents, Latents):
        raise UserError(
            f"latents must be cvvae_jax.Latents, as Codec.encode gives them, not "
            f"{type(latents).__name__}; scale and unscale of the codec's model take arrays."
        )
    values = on_host(latents_array(latents.values, channels=channels))
    require_finite(values, whose="the latents'")
    return dataclasses.replace(latents, values=values)


_OVERFLOW = "; if it computes in float16, load it with dtype bfloat16 or float32"


def latents_from_moments(
    moments: Float[np.ndarray, "b n y x zz"], key: Key[Array, ""] | None, *, start: int = 0
) -> Float[np.ndarray, "b n y x z"]:
    """Latents of moments: the mode for no key, else a sample.

    Args:
        moments: means, then log-variances, of some latent frames.
        key: of a `sample`.
        start: number of the first of the latent frames.

    Raises:
        UserError: the latents hold NaN or infinity.
    """
    if key is None:  # without any device, which is at work on what comes next
        latents = moments[..., : moments.shape[-1] // 2]
    else:
        posterior = DiagonalGaussian.from_moments(jnp.asarray(moments))
        latents = np.asarray(sample(posterior, key, start=start))
    require_finite(latents, whose="the model's", start=start, advice=_OVERFLOW)
    return latents


def sample(
    posterior: DiagonalGaussian, key: Key[Array, ""], *, start: int = 0
) -> Float[Array, "b n y x z"]:
    """Random latents, with noise that depends on the key and on the number of the video in the
    batch and of the latent frame; `start` is the number of the first one."""
    b, n, *shape = posterior.mean.shape
    noise = _noise(key, jnp.arange(b), start + jnp.arange(n), shape=tuple(shape))
    return posterior.with_noise(noise)


@functools.partial(jax.jit, static_argnames="shape")
def _noise(
    key: Key[Array, ""],
    videos: Int[Array, " b"],
    frames: Int[Array, " n"],
    *,
    shape: tuple[int, ...],
) -> Float[Array, "b n y x z"]:
    def of_frame(video, frame):
        own = jax.random.fold_in(jax.random.fold_in(key, video), frame)
        return jax.random.normal(own, shape)

    return jax.vmap(jax.vmap(of_frame, (None, 0)), (0, None))(videos, frames)
