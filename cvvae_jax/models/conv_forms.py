"""Forms of a convolution that all compute the same, and the one place that chooses between them.

`definition` is what every form is tested against. A form is chosen by what is computed and by the
backend: CPUs do 3-D convolutions slowly, but 2-D ones well and products of matrices at full rate;
other backends have kernels for 3-D convolutions.
"""

import contextlib
import contextvars
import functools
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from cvvae_jax import split_frames
from cvvae_jax.models import winograd
from cvvae_jax.models.winograd import ALONE, DOUBLING, KEEPING

SpatialPads = tuple[tuple[int, int], tuple[int, int]]
"""Rows added before and after, and columns."""
Strides = tuple[int, int, int]
Form = Callable[..., Array]

# So few channels leave a convolution idle: those of all taps in time are one convolution's.
_FEW_CHANNELS = 4
# Narrower networks train slower on CPUs by sub-pixels, which also take longer to compile.
_WIDE = 64
# From here on, few products pay for their second or two of compiling, on two cores.
_MANY_OPERATIONS = 1e11
_MANY_CHANNELS = 128

_defined = contextvars.ContextVar("defined", default=False)
_UNIT: Strides = (1, 1, 1)
_NO_PADS: SpatialPads = ((0, 0), (0, 0))


@contextlib.contextmanager
def as_defined() -> Iterator[None]:
    """Within, convolutions are traced as they are defined: to test forms, and to count a model's
    operations. What jax has traced before stays as it was."""
    token = _defined.set(True)
    yield
    _defined.reset(token)


def are_defined() -> bool:
    """Whether convolutions are traced as they are defined."""
    return _defined.get()


def convolve(
    video: Float[Array, "b t h w c"],
    kernel: Float[Array, "kt kh kw c d"],
    *,
    strides: Strides = _UNIT,
    pads: SpatialPads,
    doubled: bool = False,
) -> Float[Array, "b t2 h2 w2 d"]:
    """`definition` in the form that is fastest here.

    Args:
        video: in the type of the computation, padded in time.
        kernel: in its parameter's type, so that sums of taps are rounded once.
        strides: along time, height and width.
        pads: black rows and columns to be added.
        doubled: whether every pixel stands for four, without strides; then a row and a column all
            around are part of the video or of `pads`.
    """
    arguments = {"strides": strides, "pads": pads, "doubled": doubled}
    if are_defined():
        return definition(video, kernel, **arguments)
    default = functools.partial(_in_kernels, form=direct, **arguments)
    if _many(video, kernel, strides, doubled=doubled):
        cpu = functools.partial(_in_few_products, pads=pads, doubled=doubled)
    elif doubled and min(kernel.shape[3:]) < _WIDE:
        cpu = functools.partial(_in_repeated, pads=pads)
    elif kernel.shape[0] > 1:
        cpu = functools.partial(_in_kernels, form=_form_of_frames(kernel), **arguments)
    else:
        return default(video, kernel)
    return lax.platform_dependent(video, kernel, cpu=cpu, default=default)


def definition(
    video: Float[Array, "b t h w c"],
    kernel: Float[Array, "kt kh kw c d"],
    *,
    strides: Strides,
    pads: SpatialPads,
    doubled: bool,
) -> Float[Array, "b t2 h2 w2 d"]:
    """One convolution; where `doubled`, of frames in which every pixel stands twice in two rows,
    with half of the padding."""
    kernel = kernel.astype(video.dtype)
    if not doubled:
        return direct(video, kernel, strides=strides, pads=pads)
    return repeated(video, kernel, pads=pads, form=direct)


def direct(
    video: Float[Array, "b t h w c"],
    kernel: Float[Array, "kt kh kw c d"],
    *,
    strides: Strides,
    pads: SpatialPads,
) -> Float[Array, "b t2 h2 w2 d"]:
    """One convolution by XLA: of every frame where the kernel sees one."""
    if kernel.shape[0] == 1:
        return _of_frames(video[:, :: strides[0]], kernel[0], strides=strides[1:], pads=pads)
    return lax.conv_general_dilated(
        video, kernel, strides, ((0, 0), *pads), dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )


def summed(video, kernel, *, strides, pads):
    """The sum over the taps in time of 2-D convolutions of shifted frames."""
    return sum(
        _of_frames(frames, taps, strides=strides[1:], pads=pads)
        for frames, taps in zip(_shifted(video, kernel, strides), kernel, strict=True)
    )


def inputs_joined(video, kernel, *, strides, pads):
    """One 2-D convolution of the channels of all frames that an output sees."""
    frames = jnp.concatenate(_shifted(video, kernel, strides), axis=-1)
    taps = rearrange(kernel, "t h w c d -> h w (t c) d")
    return _of_frames(frames, taps, strides=strides[1:], pads=pads)


def outputs_joined(video, kernel, *, strides, pads):
    """One 2-D convolution to what every frame adds to all outputs that see it, summed."""
    taps = rearrange(kernel, "t h w c d -> h w c (t d)")
    parts = _of_frames(video, taps, strides=strides[1:], pads=pads)
    parts = jnp.split(parts, kernel.shape[0], axis=-1)
    return sum(_shifted(part, kernel, strides)[tap] for tap, part in enumerate(parts))


def repeated(video, kernel, *, pads, form):
    """A convolution of pixels that are repeated first."""
    video = jnp.repeat(jnp.repeat(_padded(video, pads), 2, axis=2), 2, axis=3)
    return form(video[:, :, 1:-1, 1:-1], kernel, strides=_UNIT, pads=_NO_PADS)


def sub_pixels(video, kernel, *, pads, form):
    """`definition` of a doubled video by one convolution of 2 x 2 taps in space, 16 products for a
    pixel in place of 36.

    Of the four outputs of a pixel every one sees 2 x 2 pixels, on which its 3 x 3 taps fall
    together. Their kernels are one's of four times the outputs.
    """
    kernel = _phases(_phases(kernel, axis=2), axis=3)
    kernel = rearrange(kernel, "p i q j t c d -> t i j c (p q d)").astype(video.dtype)
    found = form(video, kernel, strides=_UNIT, pads=pads)
    found = rearrange(found, "b t h w (p q d) -> p q b t h w d", p=2, q=2)
    height, width = (size - 1 for size in found.shape[4:6])
    shifted = [[found[p, q, :, :, p : p + height, q : q + width] for q in (0, 1)] for p in (0, 1)]
    lines = jnp.stack([jnp.stack(line, axis=4) for line in shifted], axis=3)
    return rearrange(lines, "b t h p w q d -> b t (h p) (w q) d")


def _phases(kernel: Array, *, axis: int) -> Array:
    """The two kernels of two taps that three taps are on pixels that stand twice: new axes in
    front, (phase, tap)."""
    a, b, c = jnp.moveaxis(kernel, axis, 0)
    return jnp.stack([jnp.stack([a, b + c]), jnp.stack([a + b, c])])


def _in_kernels(video, kernel, *, form, strides, pads, doubled):
    """By convolutions of XLA."""
    if doubled:
        return sub_pixels(video, kernel, pads=pads, form=form)
    return form(video, kernel.astype(video.dtype), strides=strides, pads=pads)


def _in_repeated(video, kernel, *, pads):
    return repeated(video, kernel.astype(video.dtype), pads=pads, form=_form_of_frames(kernel))


def _form_of_frames(kernel: Array) -> Form:
    """Of 3-D convolutions on CPUs."""
    inputs, outputs = kernel.shape[3:]
    if kernel.shape[0] == 1:
        return direct
    if inputs <= _FEW_CHANNELS:
        return inputs_joined
    return outputs_joined if outputs <= _FEW_CHANNELS else summed


def _many(video: Array, kernel: Array, strides: Strides, *, doubled: bool) -> bool:
    """Whether few products pay: they have no strides, lose digits below float32, and know nothing
    of rows on other devices."""
    if strides != _UNIT or kernel.shape[1:3] != (3, 3) or split_frames.are_split():
        return False
    if video.dtype != jnp.float32 or min(kernel.shape[3:]) < _MANY_CHANNELS:
        return False
    operations = 2.0 * math.prod(video.shape[:4]) * math.prod(kernel.shape)
    return min(video.shape[2:4]) > 3 and operations * (4 if doubled else 1) >= _MANY_OPERATIONS


def _in_few_products(video, kernel, *, pads, doubled):
    space = DOUBLING if doubled else KEEPING
    time = KEEPING if kernel.shape[0] == 3 else ALONE
    return _few_products(_padded(video, pads), kernel.astype(video.dtype), (time, space, space))


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _few_products(video, kernel, axes):
    return winograd.convolve(video, kernel, axes=axes)


@functools.partial(_few_products.defjvp, symbolic_zeros=True)
def _few_products_tangent(axes, primals, tangents):
    """Derivatives, forward and backward, are those of XLA's convolutions: going back through all
    pieces would keep every one of them. A convolution is linear in the video and in the kernel."""
    doubled = axes[1] == DOUBLING
    plain = jax.checkpoint(  # which keeps the video itself, not three copies of it, one a tap
        functools.partial(_in_kernels, form=summed, strides=_UNIT, pads=_NO_PADS, doubled=doubled)
    )
    video, kernel = primals
    video_tangent, kernel_tangent = tangents
    terms = []
    if not isinstance(video_tangent, SymbolicZero):
        terms.append(plain(video_tangent, kernel))
    if not isinstance(kernel_tangent, SymbolicZero):
        terms.append(plain(video, kernel_tangent))
    return _few_products(video, kernel, axes), sum(terms)


def _of_frames(video, kernel, *, strides, pads):
    """A 2-D convolution of every frame."""
    frames = rearrange(video, "b t h w c -> (b t) h w c")
    frames = lax.conv_general_dilated(
        frames, kernel, strides, pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return rearrange(frames, "(b t) h w c -> b t h w c", b=video.shape[0])


def _shifted(video, kernel, strides):
    """The frames that every tap in time sees."""
    span = video.shape[1] - kernel.shape[0] + 1
    return [video[:, tap : tap + span : strides[0]] for tap in range(kernel.shape[0])]


def _padded(video, pads):
    return jnp.pad(video, ((0, 0), (0, 0), *pads, (0, 0)))
