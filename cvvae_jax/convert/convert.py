"""Official tensors into our models and back: names, axis orders, shapes."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cvvae_jax import parameter_paths
from cvvae_jax.convert.names import LayerName, official_name, our_path
from cvvae_jax.errors import UserError
from cvvae_jax.resumable.parallel import map_in_order


def our_order(tensor: np.ndarray, *, unit_axes: int) -> np.ndarray:
    """An official tensor in our axis order, contiguous; `unit_axes` trailing axes of size 1 are
    dropped from a kernel."""
    if tensor.ndim < 2:
        return tensor
    outputs, inputs, *space = tensor.shape
    if unit_axes and space == [1] * unit_axes:
        space = []
    # Axes in space keep their order, so they are joined to one: fewer axes reorder faster.
    array = _contiguous(tensor.reshape(outputs, inputs, -1).transpose(2, 1, 0))
    return array.reshape(*space, inputs, outputs)


def official_order(array: np.ndarray, *, unit_axes: int) -> np.ndarray:
    """The inverse of `our_order`."""
    if array.ndim < 2:
        return array
    *space, inputs, outputs = array.shape
    tensor = _contiguous(array.reshape(-1, inputs, outputs).transpose(2, 1, 0))
    return tensor.reshape(outputs, inputs, *space, *(1,) * unit_axes)


def official_shape(shape: tuple[int, ...], *, unit_axes: int) -> tuple[int, ...]:
    """The shape of `official_order` of an array of this shape."""
    if len(shape) < 2:
        return shape
    return (shape[-1], shape[-2], *shape[:-2], *(1,) * unit_axes)


def describe_not_finite(array: np.ndarray) -> str | None:
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
    """A contiguous array of equal numbers; jax reorders several times faster than numpy, and its
    arrays on a CPU become numpy's without a copy."""
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


Model = TypeVar("Model")

# Reordering axes is most of the work. Every thread holds a tensor, of up to 8 % of a whole model.
_THREADS = 2


@dataclasses.dataclass(frozen=True)
class TensorSlot:
    """The parameter of ours that an official tensor fills."""

    path: str
    """Flat path of our parameter."""

    shape: tuple[int, ...]
    """The official shape that this parameter has."""

    unit_axes: int
    """See `names.LayerName`."""


def slots(
    shapes: Mapping[str, tuple[int, ...]], target: Any, rows: list[LayerName]
) -> dict[str, TensorSlot]:
    """The slot of every official tensor in the model `target`, which may be abstract.

    Args:
        shapes: the official tensors' shapes by name. Axes of size one at the end of a kernel don't
            count: attention layers were 1x1 convolutions once and are linear layers now.
        target: a model, or its shapes from `jax.eval_shape`.
        rows: the table of names, from `convert.names`.

    Raises:
        UserError: tensors are missing, unexpected or misshapen; all of them are listed.
    """
    wanted = official_shapes(target, rows)
    found, unexpected, misshapen = {}, [], []
    for name, shape in shapes.items():
        match our_path(rows, name):
            # A name that only resembles the official one could fill a parameter a second time.
            case (path, row) if path in wanted and wanted[path][0] == name:
                expected = wanted[path][1]
                if _without_unit_axes(shape) != _without_unit_axes(expected):
                    misshapen.append(f"{name} is {shape}, must be {expected}")
                found[name] = TensorSlot(path, expected, row.unit_axes)
            case _:
                unexpected.append(name)
    taken = {slot.path for slot in found.values()}
    missing = [name for path, (name, _) in wanted.items() if path not in taken]
    _refuse(missing=missing, unexpected=unexpected, misshapen=misshapen)
    return found


def official_shapes(target: Any, rows: list[LayerName]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Official name and shape of every parameter of a model, by our path."""
    named = {}
    for path, leaf in parameter_paths.flatten(target).items():
        name, row = official_name(rows, path)
        named[path] = name, official_shape(leaf.shape, unit_axes=row.unit_axes)
    return named


class _OneKey(nnx.RngStream):
    """Draws the same key every time: shapes don't depend on it, and counting the draws would take
    most of the time of tracing a model."""

    def __call__(self) -> jax.Array:
        return self.key[...]


def abstract_model(model_class: type, config: Any) -> Any:
    """The shapes and types of a model of ours."""

    def build(key: jax.Array) -> Any:
        rngs = nnx.Rngs(key)
        rngs.default = _OneKey(key, tag="default")
        return model_class(config, rngs=rngs)

    # A real key would be compiled first.
    return jax.eval_shape(build, jax.eval_shape(jax.random.key, 0))


def fill(
    target: Model,
    official: Iterable[tuple[str, np.ndarray]],
    where: Mapping[str, TensorSlot],
    *,
    shardings: Any = None,
    not_finite: dict[str, str] | None = None,
) -> Model:
    """The model `target` (real or abstract) with its parameters taken from official tensors.

    Tensors are put on the devices one at a time, in the target's types.

    Args:
        target: the model, or its shapes and types.
        official: every tensor of `where` once.
        where: what `slots` returned.
        shardings: where every parameter lies, a tree like the target; None: numpy arrays.
        not_finite: takes the names of tensors that hold NaN or Inf in the target's type, and which
            of them.
    """
    layout = parameter_paths.flatten(shardings) if shardings is not None else {}
    wanted = parameter_paths.flatten(target)

    def put(named: tuple[str, np.ndarray]) -> tuple[str, np.ndarray | jax.Array]:
        name, tensor = named
        slot = where[name]
        array = our_order(tensor.reshape(slot.shape), unit_axes=slot.unit_axes)
        with np.errstate(over="ignore"):  # found below, and reported by name
            array = array.astype(wanted[slot.path].dtype, copy=False)
        if not_finite is not None and (problem := describe_not_finite(array)):
            not_finite[name] = problem
        return slot.path, _put(array, layout.get(slot.path))

    return parameter_paths.unflatten(target, dict(map_in_order(put, official, threads=_THREADS)))


def from_official(
    target: Model, official: Mapping[str, np.ndarray], rows: list[LayerName]
) -> Model:
    """The model `target` (real or abstract) filled with official tensors, on jax's first device.

    Parameters take the target's types.

    Raises:
        UserError: tensors are missing, unexpected or misshapen; all of them are listed.
    """
    shapes = {name: tensor.shape for name, tensor in official.items()}
    model = fill(target, official.items(), slots(shapes, target, rows))
    return jax.tree.map(jnp.asarray, model)


def to_official(model: Any, rows: list[LayerName]) -> Iterator[tuple[str, np.ndarray]]:
    """The parameters of a model as official tensors, by name and one at a time, contiguous, in
    their own types."""

    def convert(parameter: tuple[str, np.ndarray | jax.Array]) -> tuple[str, np.ndarray]:
        name, row = official_name(rows, parameter[0])
        return name, official_order(np.asarray(parameter[1]), unit_axes=row.unit_axes)

    return map_in_order(convert, parameter_paths.flatten(model).items(), threads=_THREADS)


def _put(array: np.ndarray, sharding: jax.sharding.Sharding | None) -> np.ndarray | jax.Array:
    match sharding:
        case None:
            return array
        case jax.sharding.SingleDeviceSharding():
            return jax.device_put(array, sharding)
        case _:
            return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _without_unit_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _refuse(**problems: list[str]) -> None:
    lines = [
        f"  {kind} ({len(names)}): " + ", ".join(names) for kind, names in problems.items() if names
    ]
    if lines:
        raise UserError("\n".join(["the tensors don't fit the model.", *lines]))
