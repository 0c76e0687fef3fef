"""Our forms of a convolution, compiled for the first device."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.convolutions.shapes import Shape
from cvvae_jax.models import conv_forms, winograd
from cvvae_jax.models.padding import pad_zeros

Pass = str
"""`forward`, `to video` or `to kernel`: the pass, and the gradients."""
PASSES: tuple[Pass, ...] = ("forward", "to video", "to kernel")


def forms(shape: Shape) -> dict[str, Callable[..., jax.Array]]:
    """All forms that compute this convolution; `chosen` is what models get on this backend."""
    found = {
        "chosen": functools.partial(conv_forms.convolve, **shape.arguments),
        "3-D": functools.partial(conv_forms.reference, **shape.arguments),
    }
    names = ("summed", "inputs_joined", "outputs_joined") if shape.kernel[0] > 1 else ()
    for name in names:
        found[name] = functools.partial(_form, getattr(conv_forms, name), shape)
    if shape.upsampled:
        for name in names or ("direct",):
            form = getattr(conv_forms, name)
            found[f"sub-pixels {name}"] = functools.partial(_sub_pixels, form, shape)
    if shape.strides == (1, 1, 1) and shape.kernel[1:3] == (3, 3):
        found["winograd"] = functools.partial(_winograd, shape)
    return found


def _form(form: Any, shape: Shape, video: jax.Array, kernel: jax.Array) -> jax.Array:
    kernel = kernel.astype(video.dtype)
    if shape.upsampled:
        return conv_forms.repeated(video, kernel, pads=shape.pads, form=form)
    return form(video, kernel, strides=shape.strides, pads=shape.pads)


def _sub_pixels(form: Any, shape: Shape, video: jax.Array, kernel: jax.Array) -> jax.Array:
    return conv_forms.sub_pixels(video, kernel, pads=shape.pads, form=form)


def _winograd(shape: Shape, video: jax.Array, kernel: jax.Array) -> jax.Array:
    """With gradients through the algorithm itself."""
    space = winograd.THREE_TAPS_UPSAMPLED if shape.upsampled else winograd.THREE_TAPS
    time_axis = winograd.THREE_TAPS if shape.kernel[0] == 3 else winograd.ONE_TAP
    axes = (time_axis, space, space)
    return winograd.convolve(pad_zeros(video, shape.pads), kernel.astype(video.dtype), axes=axes)


class Ours:
    """One pass of a convolution in one form."""

    def __init__(self, shape: Shape, form: Callable[..., jax.Array], which: Pass, dtype: str):
        video, kernel, cotangent = (jnp.asarray(array, dtype) for array in shape.random())
        if which == "forward":
            self._arrays, function = (video, kernel), form
        elif which == "to video":
            self._arrays = (video, kernel, cotangent)
            function = functools.partial(_gradient, form, 0)
        else:
            self._arrays = (video, kernel, cotangent)
            function = functools.partial(_gradient, form, 1)
        start = time.perf_counter()
        self._program = jax.jit(function).lower(*self._arrays).compile()
        self.compile_seconds = time.perf_counter() - start

    def __call__(self) -> np.ndarray:
        """The pass, to its end."""
        return jax.block_until_ready(self._program(*self._arrays))

    def as_array(self, output: jax.Array) -> np.ndarray:
        """In float32, in our order of axes."""
        return np.asarray(output, np.float32)


def _gradient(
    form: Callable[..., jax.Array],
    number: int,
    video: jax.Array,
    kernel: jax.Array,
    cotangent: jax.Array,
) -> jax.Array:
    """The gradient to the video (0) or to the kernel (1); the forward pass isn't needed for it."""

    def applied(argument: jax.Array) -> jax.Array:
        return form(argument, kernel) if number == 0 else form(video, argument)

    return jax.vjp(applied, (video, kernel)[number])[1](cotangent)[0]
