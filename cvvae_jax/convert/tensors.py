"""Axis orders: PyTorch kernels are (out, in, *space), ours (*space, in, out)."""

import functools

import jax
import numpy as np


def to_ours(tensor: np.ndarray, *, unit_axes: int) -> np.ndarray:
    """An official tensor in our axis order, contiguous; `unit_axes` trailing axes of size 1 are
    dropped from a kernel."""
    if tensor.ndim < 2:
        return tensor
    outputs, inputs, *space = tensor.shape
    if unit_axes and space == [1] * unit_axes:
        space = []
    # Axes that stay together are one axis: there is less to reorder.
    array = _contiguous(tensor.reshape(outputs, inputs, -1).transpose(2, 1, 0))
    return array.reshape(*space, inputs, outputs)


def to_official(array: np.ndarray, *, unit_axes: int) -> np.ndarray:
    """The inverse of `to_ours`."""
    if array.ndim < 2:
        return array
    *space, inputs, outputs = array.shape
    tensor = _contiguous(array.reshape(-1, inputs, outputs).transpose(2, 1, 0))
    return tensor.reshape(outputs, inputs, *space, *(1,) * unit_axes)


def official_shape(shape: tuple[int, ...], *, unit_axes: int) -> tuple[int, ...]:
    """The shape of `to_official` of an array of this shape."""
    if len(shape) < 2:
        return shape
    return (shape[-1], shape[-2], *shape[:-2], *(1,) * unit_axes)


def not_finite(array: np.ndarray) -> str | None:
    """`NaN` or `Inf` where a floating-point array holds one, else None."""
    # Without their sign, the bits of Inf are above those of every number, and those of NaN above
    # Inf's. Integers are compared some thirty times faster than half-precision numbers.
    bits = np.dtype(f"u{array.dtype.itemsize}")
    infinity = np.array(np.inf, array.dtype).view(bits)
    unsigned = np.bitwise_and(array.view(bits), np.iinfo(bits).max >> 1)
    largest = unsigned.max(initial=0)
    if largest > infinity:
        return "NaN"
    return "Inf" if largest == infinity else None


def _contiguous(array: np.ndarray) -> np.ndarray:
    """The same numbers in the order of their axes; jax reorders several times faster than numpy,
    and its arrays on a CPU are numpy's without a copy."""
    if array.flags.c_contiguous or _cpu() is None:
        return np.ascontiguousarray(array)
    return np.asarray(jax.device_put(array, _cpu()))


@functools.cache
def _cpu() -> jax.Device | None:
    """The host as a device of jax; None where jax was started without it."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None
