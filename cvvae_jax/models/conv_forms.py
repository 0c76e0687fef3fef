"""How convolutions are computed: several forms with the same result, and `convolve`, which chooses.

`reference` defines the result; every other form is tested against it. The choice depends on shapes
and on the backend: CPUs are slow at 3-D convolutions, but fast at 2-D ones and at products of
matrices; other backends have fast 3-D convolutions and get `reference`, or `sub_pixels` after
upsampling.
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
from cvvae_jax.models.padding import NO_PADS, SpatialPads, pad_zeros
from cvvae_jax.models.winograd import ONE_TAP, THREE_TAPS, THREE_TAPS_UPSAMPLED

Strides = tuple[int, int, int]
"""Along time, height and width."""
Form = Callable[..., Array]

# With so few channels a CPU's 2-D convolution is faster over all taps in time at once.
_FEW_CHANNELS = 4
# On CPUs, narrower networks train slower with sub-pixels, which also take longer to compile.
_SUB_PIXEL_CHANNELS = 64
# Smaller convolutions don't make up for the second or two that Winograd takes to compile (measured
# on two cores).
_WINOGRAD_OPERATIONS = 1e11
_WINOGRAD_CHANNELS = 128

_reference = contextvars.ContextVar("reference", default=False)
_NO_STRIDES: Strides = (1, 1, 1)


@contextlib.contextmanager
def reference_convolutions() -> Iterator[None]:
    """A context in which convolutions are traced as `reference`: to test other forms, and to count
    the operations of a model. Functions that jax has traced before keep their form."""
    token = _reference.set(True)
    try:
        yield
    finally:
        _reference.reset(token)


def uses_reference_convolutions() -> bool:
    """Whether this is within `reference_convolutions`."""
    return _reference.get()


def convolve(
    video: Float[Array, "b t h w c"],
    kernel: Float[Array, "kt kh kw c d"],
    *,
    strides: Strides = _NO_STRIDES,
    pads: SpatialPads,
    upsampled: bool = False,
) -> Float[Array, "b t2 h2 w2 d"]:
    """The result of `reference`, in the form that is fastest on the backend.

    Args:
        video: in the dtype of the computation, with all padding but `pads`.
        kernel: in the dtype of its parameter, so that sums of taps are rounded only once.
        strides: of the convolution.
        pads: zeros that are still to be added.
        upsampled: whether height and width are doubled first, by nearest neighbors. Strides are 1
            then, and the video, with `pads`, has one pixel of padding on all sides.
    """
    arguments = {"strides": strides, "pads": pads, "upsampled": upsampled}
    if uses_reference_convolutions():
        return reference(video, kernel, **arguments)
    default = functools.partial(_by_xla, form=direct, **arguments)
    if _winograd_pays(video, kernel, strides, upsampled=upsampled):
        cpu = functools.partial(_by_winograd, pads=pads, upsampled=upsampled)
    elif upsampled and min(kernel.shape[3:]) < _SUB_PIXEL_CHANNELS:
        cpu = functools.partial(_by_repeated_pixels, pads=pads)
    elif kernel.shape[0] > 1:
        cpu = functools.partial(_by_xla, form=_cpu_form(kernel), **arguments)
    else:
        return default(video, kernel)
    return lax.platform_dependent(video, kernel, cpu=cpu, default=default)


def reference(
    video: Float[Array, "b t h w c"],
    kernel: Float[Array, "kt kh kw c d"],
    *,
    strides: Strides,
    pads: SpatialPads,
    upsampled: bool,
) -> Float[Array, "b t2 h2 w2 d"]:
    """One convolution by XLA, where `upsampled` of the video with every pixel repeated."""
    kernel = kernel.astype(video.dtype)
    if not upsampled:
        return direct(video, kernel, strides=strides, pads=pads)
    return repeated(video, kernel, pads=pads, form=direct)


def direct(
    video: Float[Array, "b t h w c"],
    kernel: Float[Array, "kt kh kw c d"],
    *,
    strides: Strides,
    pads: SpatialPads,
) -> Float[Array, "b t2 h2 w2 d"]:
    """One convolution by XLA: 2-D where the kernel has one tap in time, otherwise 3-D."""
    if kernel.shape[0] == 1:
        return _convolve_frames(video[:, :: strides[0]], kernel[0], strides=strides[1:], pads=pads)
    return lax.conv_general_dilated(
        video, kernel, strides, ((0, 0), *pads), dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )


def summed(video, kernel, *, strides, pads):
    """`direct` as a sum of 2-D convolutions, one for every tap in time."""
    return sum(
        _convolve_frames(frames, taps, strides=strides[1:], pads=pads)
        for frames, taps in zip(_frames_of_taps(video, kernel, strides), kernel, strict=True)
    )


def inputs_joined(video, kernel, *, strides, pads):
    """`direct` as one 2-D convolution, whose input channels are those of all frames that an output
    frame sees."""
    frames = jnp.concatenate(_frames_of_taps(video, kernel, strides), axis=-1)
    taps = rearrange(kernel, "t h w c d -> h w (t c) d")
    return _convolve_frames(frames, taps, strides=strides[1:], pads=pads)


def outputs_joined(video, kernel, *, strides, pads):
    """`direct` as one 2-D convolution, whose output channels are those of all taps in time; they
    are then summed."""
    taps = rearrange(kernel, "t h w c d -> h w c (t d)")
    parts = _convolve_frames(video, taps, strides=strides[1:], pads=pads)
    parts = jnp.split(parts, kernel.shape[0], axis=-1)
    return sum(_frames_of_taps(part, kernel, strides)[tap] for tap, part in enumerate(parts))


def repeated(video, kernel, *, pads, form):
    """`reference` of an upsampled video: pixels are repeated, then convolved by `form`.

    The repeated video has two pixels of padding on each side, of which the outer one is cut off.
    """
    video = jnp.repeat(jnp.repeat(pad_zeros(video, pads), 2, axis=2), 2, axis=3)
    return form(video[:, :, 1:-1, 1:-1], kernel, strides=_NO_STRIDES, pads=NO_PADS)


def sub_pixels(video, kernel, *, pads, form):
    """`reference` of an upsampled video, from pixels that aren't repeated.

    After upsampling, the 3 x 3 taps of an output pixel fall on 2 x 2 different input pixels, so
    that taps can be summed first. Each of the 2 x 2 output pixels of an input pixel has its own
    kernel of 2 x 2 taps; one convolution with four times the output channels computes all four,
    with 16 products for an input pixel in place of 36.
    """
    kernel = _sum_taps_by_phase(_sum_taps_by_phase(kernel, axis=2), axis=3)
    kernel = rearrange(kernel, "p i q j t c d -> t i j c (p q d)").astype(video.dtype)
    out = form(video, kernel, strides=_NO_STRIDES, pads=pads)
    out = rearrange(out, "b t h w (p q d) -> p q b t h w d", p=2, q=2)
    height, width = (size - 1 for size in out.shape[4:6])
    phases = [[out[p, q, :, :, p : p + height, q : q + width] for q in (0, 1)] for p in (0, 1)]
    lines = jnp.stack([jnp.stack(line, axis=4) for line in phases], axis=3)
    return rearrange(lines, "b t h p w q d -> b t (h p) (w q) d")


def _sum_taps_by_phase(kernel: Array, *, axis: int) -> Array:
    """Three taps along an axis as two for outputs at even positions of an upsampled input (phase
    0), and two for outputs at odd ones; new axes in front: (phase, tap)."""
    a, b, c = jnp.moveaxis(kernel, axis, 0)
    return jnp.stack([jnp.stack([a, b + c]), jnp.stack([a + b, c])])


def _by_xla(video, kernel, *, form, strides, pads, upsampled):
    if upsampled:
        return sub_pixels(video, kernel, pads=pads, form=form)
    return form(video, kernel.astype(video.dtype), strides=strides, pads=pads)


def _by_repeated_pixels(video, kernel, *, pads):
    return repeated(video, kernel.astype(video.dtype), pads=pads, form=_cpu_form(kernel))


def _cpu_form(kernel: Array) -> Form:
    """The fastest form of `direct` on CPUs."""
    inputs, outputs = kernel.shape[3:]
    if kernel.shape[0] == 1:
        return direct
    if inputs <= _FEW_CHANNELS:
        return inputs_joined
    return outputs_joined if outputs <= _FEW_CHANNELS else summed


def _winograd_pays(video: Array, kernel: Array, strides: Strides, *, upsampled: bool) -> bool:
    """Whether a CPU uses Winograd's algorithm: for large convolutions with 3 x 3 taps without
    strides, in float32, since it loses digits, and on frames that aren't split over devices."""
    if strides != _NO_STRIDES or kernel.shape[1:3] != (3, 3) or split_frames.are_split():
        return False
    if video.dtype != jnp.float32 or min(kernel.shape[3:]) < _WINOGRAD_CHANNELS:
        return False
    operations = 2.0 * math.prod(video.shape[:4]) * math.prod(kernel.shape)
    return (
        min(video.shape[2:4]) > 3 and operations * (4 if upsampled else 1) >= _WINOGRAD_OPERATIONS
    )


def _by_winograd(video, kernel, *, pads, upsampled):
    space = THREE_TAPS_UPSAMPLED if upsampled else THREE_TAPS
    time = THREE_TAPS if kernel.shape[0] == 3 else ONE_TAP
    return _winograd(pad_zeros(video, pads), kernel.astype(video.dtype), (time, space, space))


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _winograd(video, kernel, axes):
    return winograd.convolve(video, kernel, axes=axes)


@functools.partial(_winograd.defjvp, symbolic_zeros=True)
def _winograd_tangent(axes, primals, tangents):
    """Derivatives are those of XLA's convolutions, since differentiating the algorithm itself would
    keep all of its pieces. A convolution is linear in the video and in the kernel."""
    upsampled = axes[1] == THREE_TAPS_UPSAMPLED
    # The checkpoint keeps the video itself rather than three copies of it, one for every tap.
    plain = jax.checkpoint(
        functools.partial(
            _by_xla, form=summed, strides=_NO_STRIDES, pads=NO_PADS, upsampled=upsampled
        )
    )
    video, kernel = primals
    video_tangent, kernel_tangent = tangents
    terms = []
    if not isinstance(video_tangent, SymbolicZero):
        terms.append(plain(video_tangent, kernel))
    if not isinstance(kernel_tangent, SymbolicZero):
        terms.append(plain(video, kernel_tangent))
    return _winograd(video, kernel, axes), sum(terms)


def _convolve_frames(video, kernel, *, strides, pads):
    """A 2-D convolution of every frame."""
    frames = rearrange(video, "b t h w c -> (b t) h w c")
    frames = lax.conv_general_dilated(
        frames, kernel, strides, pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return rearrange(frames, "(b t) h w c -> b t h w c", b=video.shape[0])


def _frames_of_taps(video, kernel, strides):
    """For every tap in time, the frames that it sees."""
    span = video.shape[1] - kernel.shape[0] + 1
    return [video[:, tap : tap + span : strides[0]] for tap in range(kernel.shape[0])]
