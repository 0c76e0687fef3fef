"""Checks and conversions of what users give to models: videos, latents and random keys.

Types and shapes are checked, and refused in one sentence; both are known while a program is traced,
so checks cost nothing in it. Values are checked by `cvvae_jax.codec.values`.
"""

import math
import os
from collections.abc import Iterable
from numbers import Number
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8
from PIL import Image

from cvvae_jax.errors import UserError

VideoLike = Any
"""A video: an array (b, t, h, w, 3), uint8 in [0, 255] or floats of any width in [-1, 1], of NumPy,
JAX or another library whose arrays NumPy can read; a Pillow image, which is a video of one frame;
or a list of frames (h, w, 3) of one size, which is one video, or of such videos, which is a batch.
Pillow images may have any mode with 8 bits per channel; alpha is dropped."""

LatentsLike = Any
"""Latents: an array (b, n, y, x, z) of floats, of NumPy, JAX or another library whose arrays NumPy
can read; or a list of videos' latents (n, y, x, z), or of one video's latent frames (y, x, z)."""

FramesLike = Any
"""Frames one by one: an iterable of arrays (h, w, 3), with the types of a `VideoLike`, or of Pillow
images, all of one size and type."""

PartsLike = Any
"""Latents of one video in parts: an iterable of arrays (n, y, x, z), with the types of a
`LatentsLike` and any n."""

KeyLike = Any
"""Keys of `jax.random.key`, or of the older `jax.random.PRNGKey`."""

Host = UInt8[np.ndarray, "..."] | Float[np.ndarray, "..."]

_VIDEO = "(batch, time, height, width, 3)"
_LATENTS = "(batch, n, y, x, {channels})"


def video_array(given: VideoLike) -> Array | Host:
    """A video (b, t, h, w, 3): JAX's arrays as they are, others on the host, uint8 or float32.

    Raises:
        UserError: it isn't a video, or its type isn't accepted.
    """
    array = _batched(given, "video")
    _require_shape(array.shape, channels=3, name="video", wanted=f"a video is {_VIDEO}")
    _require_pixel_type(array.dtype)
    return _on_host_as_float32(array)


def latents_array(given: LatentsLike, *, channels: int) -> Array | Host:
    """Latents (b, n, y, x, z): JAX's arrays as they are, others on the host as float32.

    Args:
        given: the latents.
        channels: channels of the model's latents.

    Raises:
        UserError: they aren't latents of the model, or their type isn't accepted.
    """
    array = _batched(given, "latents")
    wanted = f"latents are {_LATENTS.format(channels=channels)}"
    _require_shape(array.shape, channels=channels, name="latents", wanted=wanted)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise UserError(f"latents must be floats, not {array.dtype}.")
    return _on_host_as_float32(array)


def as_array(given: Any, name: str) -> Array | np.ndarray:
    """A video, latents or a part of them as an array, of any shape and type.

    Args:
        given: an array of NumPy or JAX, which is returned as it is; of another library, if NumPy
            can read it; a Pillow image; or a list of these, which is stacked.
        name: what to call it in messages.

    Raises:
        UserError: it is none of these, or the arrays of a list differ.
    """
    if isinstance(given, jax.Array | np.ndarray):
        return given
    if isinstance(given, Image.Image):
        return _of_image(given, name)
    if isinstance(given, list | tuple):
        return _stacked(given, name)
    if not hasattr(given, "__array__"):
        raise UserError(f"{name} must be an array, not {_kind(given)}{_advice(given, name)}.")
    try:
        return np.asarray(given)
    except Exception as error:  # libraries raise any type, such as for tensors on a GPU
        raise UserError(
            f"{name} is a {_kind(given)} that NumPy cannot read: {_reason(error)}"
        ) from error


def frame_array(given: Any, *, number: int) -> Array | Host:
    """A frame (h, w, 3) as an array, of the kinds that `video_array` returns.

    Args:
        given: the frame.
        number: its number in messages.

    Raises:
        UserError: it isn't a frame, or its type isn't accepted.
    """
    array = as_array(given, f"frame {number}")
    if array.ndim != 3 or array.shape[-1] != 3 or 0 in array.shape:
        raise UserError(f"frame {number} is {array.shape}; frames are (height, width, 3).")
    _require_pixel_type(array.dtype)
    return _on_host_as_float32(array)


def latents_part(given: Any, *, shape: tuple[int, int, int]) -> Array | Host:
    """Some latent frames (n, y, x, z) of one video as an array, of the kinds that `latents_array`
    returns.

    Args:
        given: the latent frames.
        shape: (y, x, z) of each.

    Raises:
        UserError: they aren't latent frames, or their shape or type isn't accepted.
    """
    array = as_array(given, "latents")
    if array.ndim != 4 or array.shape[1:] != shape:
        y, x, z = shape
        raise UserError(f"parts of these latents are (n, {y}, {x}, {z}), not {array.shape}.")
    return latents_array(array[None], channels=shape[-1])[0]


def items(given: Any, *, name: str) -> Iterable:
    """The given iterable, unchanged.

    Raises:
        UserError: it isn't iterable, or is a string, bytes, a path or a dict, whose items can't be
            meant.
    """
    if isinstance(given, str | bytes | os.PathLike | dict) or not hasattr(given, "__iter__"):
        raise UserError(
            f"{name} must be a list or another iterable, not {_kind(given)}{_advice(given, name)}."
        )
    return given


def require_strides(shape: tuple[int, ...], *, space: int, time: int) -> None:
    """Refuses videos whose size a model can't encode.

    Args:
        shape: the video's, (b, t, h, w, 3).
        space: the model's spatial compression.
        time: the model's temporal compression.

    Raises:
        UserError: height and width aren't multiples of `space`, or t isn't 1 + k `time`; the
            message has the nearest sizes or counts that are.
    """
    frames, *size = shape[1:4]
    if any(pixels % space for pixels in size):
        above = [math.ceil(pixels / space) * space for pixels in size]
        raise UserError(
            f"height and width must be multiples of {space}, not {size[0]} x {size[1]}; "
            f"the nearest above are {above[0]} x {above[1]}."
        )
    if (frames - 1) % time:
        below = (frames - 1) // time * time + 1
        raise UserError(
            f"a video must have 1 + {time}k frames, not {frames}: {below} or {below + time}."
        )


def on_device(array: Array | np.ndarray) -> Array:
    """An array of JAX as it is, one of NumPy copied to the default device."""
    return array if isinstance(array, jax.Array) else jnp.asarray(array)


def random_keys(key: KeyLike) -> Key[Array, "*batch"]:
    """Random keys as those of `jax.random.key`, to which older ones are converted.

    Raises:
        UserError: it isn't a key, but, for example, a seed.
    """
    kind = getattr(key, "dtype", None)
    if isinstance(key, jax.Array) and jnp.issubdtype(kind, jax.dtypes.prng_key):
        return key
    if isinstance(key, jax.Array | np.ndarray) and kind == np.uint32 and key.ndim:
        try:
            return jax.random.wrap_key_data(key)
        except (TypeError, ValueError) as error:
            raise UserError(f"key is no key of jax.random: {_reason(error)}") from error
    raise UserError(f"key must be one such as jax.random.key(seed), not {_kind(key)}.")


def one_key(key: KeyLike | None) -> Key[Array, ""] | None:
    """A single random key as one of `jax.random.key`; None stays None.

    Raises:
        UserError: it isn't a key, or there are several.
    """
    keys = None if key is None else random_keys(key)
    if keys is not None and keys.ndim:
        raise UserError(f"key must be one key, not {keys.shape[0]} of them.")
    return keys


def _batched(given: Any, name: str) -> Array | np.ndarray:
    """A video or latents as an array; to an image or a list of frames the missing axes are
    added."""
    array = as_array(given, name)
    if isinstance(given, Image.Image):
        return array[None, None]
    return array[None] if isinstance(given, list | tuple) and array.ndim == 4 else array


def _of_image(image: Image.Image, name: str) -> UInt8[np.ndarray, "h w 3"]:
    if image.mode.startswith(("I", "F")):
        raise UserError(
            f"{name} is a Pillow image of mode {image.mode}; modes of 8 bits a channel are taken."
        )
    return np.asarray(image.convert("RGB"))


def _stacked(listed: list | tuple, name: str) -> Array | np.ndarray:
    """A list of arrays as one array, or nested lists of numbers as NumPy reads them."""
    if not listed:
        raise UserError(f"{name} is an empty {type(listed).__name__}.")
    if all(isinstance(item, Number) for item in listed):
        return np.asarray(listed)
    arrays = [as_array(item, f"{name}[{number}]") for number, item in enumerate(listed)]
    for number, array in enumerate(arrays):
        if (array.shape, array.dtype) != (arrays[0].shape, arrays[0].dtype):
            raise UserError(
                f"{name} is a list, whose arrays must have one shape and type: number 0 is "
                f"{described(arrays[0])}, number {number} is {described(array)}."
            )
    of_jax = any(isinstance(array, jax.Array) for array in arrays)
    return jnp.stack(arrays) if of_jax else np.stack(arrays)


def _require_shape(shape: tuple[int, ...], *, channels: int, name: str, wanted: str) -> None:
    if len(shape) != 5 or shape[-1] != channels:
        hint = _layout_hint(shape, channels=channels, name=name)
        raise UserError(f"{wanted}, not {shape}{hint}.")
    if 0 in shape:
        raise UserError(f"{wanted}, not {shape}, which is empty.")


def _layout_hint(shape: tuple[int, ...], *, channels: int, name: str) -> str:
    """Advice on a wrong shape, if it looks like a familiar mistake."""
    rank = len(shape)
    if rank in (3, 4) and shape[-1] == channels:
        if rank == 3:
            return f": give {name}[None, None] of a single frame"
        return f": give {name}[None] of a single video, {name}[:, None] of images"
    places = [axis for axis in range(max(rank - 4, 0), rank - 2) if shape[axis] == channels]
    if rank in (4, 5) and places:
        return f": channels come last, where np.moveaxis({name}, {places[0]}, -1) puts them"
    return ""


def _require_pixel_type(kind: Any) -> None:
    if kind != np.uint8 and not jnp.issubdtype(kind, jnp.floating):
        raise UserError(f"pixels must be uint8 in [0, 255] or floats in [-1, 1], not {kind}.")


def _on_host_as_float32(array: Array | np.ndarray) -> Array | Host:
    if isinstance(array, jax.Array) or array.dtype in (np.uint8, np.float32):
        return array
    # Numbers too large for float32 become infinity, which checks of values find.
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def described(array: Array | np.ndarray) -> str:
    """The type and shape of an array, for messages."""
    return f"{array.dtype} {array.shape}"


def _kind(given: Any) -> str:
    if given is None or isinstance(given, str | Number):
        return repr(given)
    return type(given).__name__


def _advice(given: Any, name: str) -> str:
    """Advice on what to give in place of something that can be turned into an array."""
    if isinstance(given, str | bytes | os.PathLike):
        of_latents = name.startswith("latents")
        reader = (
            "cvvae_jax.load_latents" if of_latents else "read_frames of cvvae_jax.video_io.video"
        )
        return f"; {reader} reads files"
    if hasattr(given, "logvar"):
        return "; of a posterior, give posterior.mode() or posterior.sample(key)"
    if isinstance(getattr(given, "values", None), jax.Array | np.ndarray):
        return "; its .values are one"
    return ""


def _reason(error: Exception) -> str:
    """The first line of another library's error message, as a sentence."""
    line, *_ = str(error).splitlines() or [type(error).__name__]
    return line.rstrip(".") + "."


def to_float(video: UInt8[Array | np.ndarray, "..."]) -> Float[Array, "..."]:
    """8-bit pixels in [0, 255] as float32 in [-1, 1]."""
    return jnp.asarray(video, jnp.float32) / 127.5 - 1.0


@jax.jit
def to_uint8(video: Float[Array | np.ndarray, "..."]) -> UInt8[Array, "..."]:
    """Values in [-1, 1], clipped to that range, as uint8 in [0, 255]."""
    return jnp.round((jnp.clip(video, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)
