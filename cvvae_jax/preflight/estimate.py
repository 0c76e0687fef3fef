"""What a step takes on GPUs, for which nothing can be compiled without one: an estimate.

Sizes of parameters, moments and averages are exact. Temporaries are the arrays that are alive at
once when a step runs in the order in which it was traced, if everything but convolutions, products
of matrices, reductions and loops is computed where it is used, as a compiler fuses it. Buffers that
a library's convolutions work in are not in it.
"""

import dataclasses
from typing import Any

import jax
from jax.extend import core

from cvvae_jax import parameter_paths
from cvvae_jax.preflight.cost import Memory, Traffic, batch_bytes
from cvvae_jax.training.gradients import Update
from cvvae_jax.training.programs import AbstractStage, bytes_per_device

# Not fused: what these return lies in memory, and what they take, too.
_WHOLE = {"conv_general_dilated", "dot_general", "sort", "gather", "scatter-add", "scatter", "fft"}
_REDUCTIONS = ("reduce_", "argm", "cum")
_LOOPS = {"scan", "while", "cond"}


def estimated_memory(
    stage: AbstractStage, video_shape: tuple[int, ...], jaxpr: core.ClosedJaxpr
) -> Memory:
    """Memory on one device.

    Args:
        stage: as it lies on the mesh.
        video_shape: the global batch.
        jaxpr: the step, traced for one device's share of it.
    """
    mesh = stage.job.mesh
    kept = sum(bytes_per_device(tree, mesh) for tree in stage.kept.values())
    gathered = 0
    if mesh.shape["fsdp"] > 1:
        networks = (stage.state.model, stage.state.discriminator, stage.frozen)
        gathered = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(networks))
    return Memory(
        arguments=kept + batch_bytes(video_shape, mesh),
        outputs=0,
        temporaries=peak_bytes(jaxpr) + gathered,
    )


def estimated_traffic(stage: AbstractStage, update: Update) -> list[Traffic]:
    """The sum of the gradients that a step makes, in float32; and, of parameters that are split
    over devices, what is gathered."""
    mesh = stage.job.mesh
    devices, fsdp = mesh.shape["data"] * mesh.shape["fsdp"], mesh.shape["fsdp"]
    model, discriminator = stage.state.model, stage.state.discriminator
    trained = {
        "plain": (model,),
        "generator": (model,),
        "discriminator": (discriminator,),
        "joint": (model, discriminator),
    }
    gradients = 4 * parameter_paths.count(trained[update])
    used = (model, stage.frozen, *((discriminator,) if update != "plain" else ()))
    parameters = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(used))
    found = {
        "all-reduce": (gradients, 2 * (devices - 1) / devices),
        "all-gather": (parameters if fsdp > 1 else 0, (fsdp - 1) / fsdp),
    }
    return [
        Traffic(kind, 1, size, size * share)
        for kind, (size, share) in found.items()
        if size * share
    ]


def peak_bytes(jaxpr: core.ClosedJaxpr) -> int:
    """Bytes of intermediate arrays alive at once at most, arguments and constants aside."""
    trace = _Trace()
    inner = jaxpr.jaxpr
    values = {variable: trace.value(0) for variable in (*inner.invars, *inner.constvars)}
    trace.run(inner, values)
    return trace.peak()


@dataclasses.dataclass(frozen=True)
class _Value:
    """An array: in memory itself, or computed from `roots` that are."""

    size: int
    roots: frozenset[int]


class _Trace:
    """Arrays in memory, and the operations that they live through."""

    def __init__(self):
        self.sizes: list[int] = []
        self.born: list[int] = []
        self.last: list[int] = []
        self.now = 0
        self.extra: dict[int, int] = {}
        self.stored: dict[_Value, _Value] = {}

    def value(self, size: int) -> _Value:
        """A new array in memory."""
        self.sizes.append(size)
        self.born.append(self.now)
        self.last.append(self.now)
        return _Value(size, frozenset([len(self.sizes) - 1]))

    def use(self, value: _Value) -> None:
        """The current operation reads it."""
        for root in value.roots:
            self.last[root] = self.now

    def peak(self) -> int:
        """Bytes alive at once at most."""
        change = [0] * (self.now + 2)
        for size, born, last in zip(self.sizes, self.born, self.last, strict=True):
            change[born] += size
            change[last + 1] -= size
        alive = most = 0
        for time, more in enumerate(change):
            alive += more
            most = max(most, alive + self.extra.get(time, 0))
        return most

    def run(self, jaxpr: core.Jaxpr, values: dict) -> list[_Value]:
        """Follow a program; `values` are those of its arguments."""

        def read(atom: Any) -> _Value:
            literal = isinstance(atom, core.Literal)
            return _Value(0, frozenset()) if literal else values[atom]

        for equation in jaxpr.eqns:
            inputs = [read(atom) for atom in equation.invars]
            outputs = self._step(equation, inputs)
            values.update(zip(equation.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _step(self, equation: Any, inputs: list[_Value]) -> list[_Value]:
        name = equation.primitive.name
        inner = _called(equation)
        if inner is not None and name not in _LOOPS:
            arguments = dict(zip(inner.jaxpr.invars, inputs, strict=True))
            constants = {variable: self.value(0) for variable in inner.jaxpr.constvars}
            return self.run(inner.jaxpr, arguments | constants)
        self.now += 1
        sizes = [_size(variable.aval) for variable in equation.outvars]
        if name in _WHOLE or name in _LOOPS:
            inputs = [self._in_memory(value) for value in inputs]
        for value in inputs:
            self.use(value)
        if name in _LOOPS:
            self.extra[self.now] = max(map(peak_bytes, _bodies(equation)))
        elif name not in _WHOLE and not name.startswith(_REDUCTIONS):
            return [self._fused(size, inputs) for size in sizes]
        return [self.value(size) for size in sizes]

    def _in_memory(self, value: _Value) -> _Value:
        """Itself, or written to memory now, for all who read it from now on."""
        if len(value.roots) == 1 and self.sizes[next(iter(value.roots))] == value.size:
            return value
        if value not in self.stored:
            self.use(value)
            self.stored[value] = self.value(value.size)
        return self.stored[value]

    def _fused(self, size: int, inputs: list[_Value]) -> _Value:
        """Computed where it is used; written down where several large arrays meet, which could all
        be forgotten then."""
        roots = frozenset().union(*(value.roots for value in inputs))
        if sum(self.sizes[root] >= size / 2 > 0 for root in roots) > 1:
            return self.value(size)
        return _Value(size, roots)


def _called(equation: Any) -> core.ClosedJaxpr | None:
    """The function that an operation calls, if it does."""
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = equation.params.get(key)
        if isinstance(inner, core.ClosedJaxpr):
            return inner
        if isinstance(inner, core.Jaxpr):
            return core.ClosedJaxpr(inner, ())
    return None


def _bodies(equation: Any) -> list[core.ClosedJaxpr]:
    """What a loop repeats, or what a condition chooses from."""
    params = equation.params
    match equation.primitive.name:
        case "scan":
            return [params["jaxpr"]]
        case "while":
            return [params["body_jaxpr"]]
        case _:
            return list(params["branches"])


def _size(aval: Any) -> int:
    """Bytes; of random keys, which say none, 8 each."""
    return aval.size * getattr(aval.dtype, "itemsize", 8)
