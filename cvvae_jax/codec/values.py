"""Pixels and latents in the host's memory: their types, checks of their values, and samples.

Only the codec checks values: a model inside of `jax.jit` cannot look at them.
"""

import dataclasses
import functools
import math
import warnings
from collections.abc import Iterator
from typing import Any, Literal, get_args

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

# Decoded or resized videos overshoot [-1, 1] a little, and may be encoded. They never reach 2, but
# pixels in [0, 255] do, and so do pixels that were divided by a standard deviation.
_MAX_MAGNITUDE = 2.0
# A video is probably in [0, 1] if its minimum is this near to 0 and its maximum this near to 1.
_NEAR = 0.1


def require_one_of(name: str, value: Any, words: Any) -> None:
    """Raise UserError unless a value is one of the words of a Literal type."""
    if value not in get_args(words):
        raise UserError(f"{name} must be {' or '.join(get_args(words))}, not {value!r}.")


def on_host(array: Array | np.ndarray) -> Host:
    """Copy pixels or latents to the host's memory: uint8 stays uint8, floats become float32.

    Raises:
        UserError: the array is traced by jax and has no values.
    """
    if isinstance(array, jax.core.Tracer):
        raise UserError(
            "a Codec needs arrays with values, and can't be called inside of jax.jit or jax.grad; "
            "encode and decode of its model can."
        )
    host = np.asarray(array)
    return host if host.dtype == np.uint8 else np.asarray(host, np.float32)


class PixelValues:
    """Checks the values of a video part by part. All values of uint8 are valid."""

    def __init__(self):
        self._low, self._high, self._frames = math.inf, -math.inf, 0

    def check(self, part: Host) -> None:
        """Check the next frames (b, t, h, w, 3).

        Raises:
            UserError: a frame, which the message numbers, holds NaN or infinity; or values are
                beyond [-2, 2].
        """
        if part.dtype == np.uint8:
            return
        with np.errstate(invalid="ignore"):
            low, high = float(part.min()), float(part.max())  # NaN if any value is NaN
        if not math.isfinite(high - low):
            where = _first_not_finite(part, start=self._frames)
            raise UserError(f"the video's frame {where} holds NaN or infinity.")
        if max(-low, high) > _MAX_MAGNITUDE:
            raise UserError(_far_beyond(low, high))
        self._low, self._high = min(low, self._low), max(high, self._high)
        self._frames += part.shape[1]

    def warn_of_range(self) -> None:
        """Warn if the whole video seems to be in [0, 1].

        This is no error, since a video may have nothing darker than mid-gray.
        """
        if 0 <= self._low <= _NEAR and 1 - _NEAR <= self._high <= 1:
            warnings.warn(
                "All pixels of a video are between 0 and 1. Floats are taken to be in [-1, 1], "
                "where 0 is mid-gray: if these are in [0, 1], give 2 * video - 1.",
                stacklevel=2,
            )


def require_finite(
    latents: Float[np.ndarray, "b n y x z"], *, whose: str, start: int = 0, advice: str = ""
) -> None:
    """Refuse latents that hold NaN or infinity.

    Args:
        latents: some latent frames of a video.
        whose: owner of the latents, which the message begins with, such as "the model's".
        start: number of the first of these latent frames in the video.
        advice: end of the message.

    Raises:
        UserError: the message has the number of the first such latent frame, counted from 0.
    """
    if not np.isfinite(latents).all():
        where = _first_not_finite(latents, start=start)
        raise UserError(f"{whose} latent frame {where} holds NaN or infinity{advice}.")


def _first_not_finite(array: np.ndarray, *, start: int) -> str:
    """The number of the first frame that holds NaN or infinity, and the video if there are many."""
    bad = ~np.isfinite(array).all(axis=(2, 3, 4))
    video, frame = np.argwhere(bad)[0]
    return f"{start + frame}" + (f" of video {video}" if len(array) > 1 else "")


def _far_beyond(low: float, high: float) -> str:
    largest = high if high >= -low else low
    hint = "; if they are in [0, 255], give video / 127.5 - 1" if low >= 0 else ""
    return f"pixels that are floats must be in [-1, 1]; one is {largest:.4g}{hint}."


def frame_arrays(frames: FramesLike) -> Iterator[Host]:
    """Yield frames as checked arrays (h, w, 3) on the host, uint8 or float32.

    Raises:
        UserError: a frame is no image, differs in size or type from the first, or holds values
            that `PixelValues.check` refuses. The message has its number, counted from 0.
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
        values.check(frame[None, None])
        yield frame
    values.warn_of_range()


def latent_frames(
    parts: PartsLike, *, shape: tuple[int, int, int]
) -> Iterator[Float[np.ndarray, "y x z"]]:
    """Yield the latent frames of parts (n, y, x, z) as checked float32 arrays on the host.

    Args:
        parts: the parts of a video's latents, in order.
        shape: shape (y, x, z) of each latent frame.

    Raises:
        UserError: a part has another shape, or a latent frame holds NaN or infinity. The latent
            frames before it are yielded first.
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
"""Type of pixels: uint8 in [0, 255], or float32 in [-1, 1]."""


def checked_pixels(
    video: VideoLike,
) -> UInt8[np.ndarray, "b t h w 3"] | Float[np.ndarray, "b t h w 3"]:
    """Check a video and copy it to the host, as uint8 or float32.

    Floats that seem to be in [0, 1] give a warning.

    Raises:
        UserError: `video` is no video, has another type, or holds NaN, infinity or floats beyond
            [-2, 2].
    """
    pixels, values = on_host(video_array(video)), PixelValues()
    values.check(pixels)
    values.warn_of_range()
    return pixels


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Latents:
    """The latents of a video, with the frame count and size that decoding crops to.

    The model's strides need not divide the frame count and the size.
    """

    values: Float[Array | np.ndarray, "b n y x z"]
    """The latents: unscaled, unless `scaled` is true."""
    frames: int = dataclasses.field(metadata={"static": True})
    """Frames of the video."""
    height: int = dataclasses.field(metadata={"static": True})
    """Height of the video in pixels."""
    width: int = dataclasses.field(metadata={"static": True})
    """Width of the video in pixels."""
    pixels: PixelType = dataclasses.field(default="float32", metadata={"static": True})
    """Type of the encoded video, and of the video that decoding gives."""
    scaled: bool = dataclasses.field(default=False, metadata={"static": True})
    """Whether the values are scaled for diffusion models, as `VAE.scale` does."""


def checked_latents(latents: Latents | Any, *, channels: int) -> Latents:
    """Check latents and copy their values to the host, as float32.

    Args:
        latents: what the user gave as latents.
        channels: number of channels of the model's latents.

    Raises:
        UserError: `latents` are no `Latents`, have other channels, or hold NaN or infinity.
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
    """Take the mode of a posterior, or draw a sample of it.

    Args:
        moments: means, then log-variances, of some latent frames of a video.
        key: random key of the sample; None gives the mode.
        start: number of the first of these latent frames in the video.

    Raises:
        UserError: the latents hold NaN or infinity.
    """
    if key is None:  # computed on the host, since the devices work on the next chunks
        latents = moments[..., : moments.shape[-1] // 2]
    else:
        posterior = DiagonalGaussian.from_moments(jnp.asarray(moments))
        latents = np.asarray(sample(posterior, key, start=start))
    require_finite(latents, whose="the model's", start=start, advice=_OVERFLOW)
    return latents


def sample(
    posterior: DiagonalGaussian, key: Key[Array, ""], *, start: int = 0
) -> Float[Array, "b n y x z"]:
    """Draw latents whose noise does not depend on how a video is cut.

    The noise of a latent frame depends on the key, on the number of its video in the batch, and on
    its own number in the video; `start` is the number of the first latent frame.
    """
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
