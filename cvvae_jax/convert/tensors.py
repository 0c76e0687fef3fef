"""Axis orders: PyTorch kernels are (out, in, *space), ours (*space, in, out)."""

import numpy as np


def to_ours(tensor: np.ndarray, *, unit_axes: int) -> np.ndarray:
    """An official tensor in our axis order; `unit_axes` trailing axes of size 1 are dropped from a
    kernel."""
    if tensor.ndim < 2:
        return tensor
    if unit_axes and tensor.shape[2:] == (1,) * unit_axes:
        tensor = tensor.reshape(tensor.shape[:2])
    return np.moveaxis(tensor, (0, 1), (-1, -2))


def to_official(array: np.ndarray, *, unit_axes: int) -> np.ndarray:
    """The inverse of `to_ours`."""
    if array.ndim < 2:
        return array
    tensor = np.moveaxis(array, (-1, -2), (0, 1))
    return tensor.reshape(*tensor.shape, *(1,) * unit_axes)


def official_shape(shape: tuple[int, ...], *, unit_axes: int) -> tuple[int, ...]:
    """The shape of `to_official` of an array of this shape."""
    if len(shape) < 2:
        return shape
    return (shape[-1], shape[-2], *shape[:-2], *(1,) * unit_axes)


def not_finite(array: np.ndarray) -> str | None:
    """`NaN` or `Inf` where an array holds one, else None."""
    # The extremes are quick to find, and neither can hide from them.
    extremes = [float(pick(array)) for pick in (np.min, np.max)] if array.size else []
    if any(np.isnan(extremes)):
        return "NaN"
    return "Inf" if any(np.isinf(extremes)) else None
