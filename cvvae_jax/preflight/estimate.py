"""Estimates what a step costs on GPUs, for which nothing can be compiled without a GPU.

The sizes of parameters, moments and averages are exact. Temporaries are the arrays that are alive
at once when a step runs in the order in which it was traced. Convolutions, products of matrices,
reductions and loops are taken to write their results to memory; all other operations are taken to
be fused into the operations that use them. Workspaces of a library's convolutions are not counted.
"""

import dataclasses
from typing import Any

import jax
from jax.extend import core

from cvvae_jax import parameter_paths
from cvvae_jax.preflight.cost import Memory, Traffic, batch_bytes
from cvvae_jax.training.programs import AbstractStage, bytes_per_device
from cvvae_jax.training.step import Update
from cvvae_jax.training.trainable import partition

# These operations are not fused: their operands and their results lie in memory.
_WHOLE = {"conv_general_dilated", "dot_general", "sort", "gather", "scatter-add", "scatter", "fft"}
_REDUCTIONS = ("reduce_", "argm", "cum")
_LOOPS = {"scan", "while", "cond"}


def estimated_memory(
    stage: AbstractStage, video_shape: tuple[int, ...], jaxpr: core.ClosedJaxpr
) -> Memory:
    """Estimate the memory of a step on one device.

    Args:
        stage: the stage on the mesh of all devices.
        video_shape: shape (b, t, h, w, 3) of the global batch.
        jaxpr: the step, traced for one device and its part of the batch.
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
    """Estimate the traffic of a step: float32 gradients are summed over devices, and parameters
    that are split over devices are gathered."""
    mesh = stage.job.mesh
    devices, fsdp = mesh.shape["data"] * mesh.shape["fsdp"], mesh.shape["fsdp"]
    model, discriminator = stage.state.model, stage.state.discriminator
    part, _ = partition(model, stage.job.stage.trainable)
    trained = {
        "plain": (part,),
        "generator": (part,),
        "discriminator": (discriminator,),
        "joint": (part, discriminator),
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
    """The most bytes of intermediate arrays that are alive at once, without arguments and
    constants."""
    trace = _LifetimeTrace()
    inner = jaxpr.jaxpr
    values = {variable: trace.value(0) for variable in (*inner.invars, *inner.constvars)}
    trace.run(inner, values)
    return trace.peak()


@dataclasses.dataclass(frozen=True)
class _Value:
    """An array, which is computed from arrays in memory, its roots; it may be its own root."""

    size: int
    roots: frozenset[int]


class _LifetimeTrace:
    """The arrays in memory, with the first and the last operation that needs each of them."""

    def __init__(self):
        self.sizes: list[int] = []
        self.born: list[int] = []
        self.last: list[int] = []
        self.now = 0
        self.extra: dict[int, int] = {}
        self.stored: dict[_Value, _Value] = {}

    def value(self, size: int) -> _Value:
        """Add a new array in memory."""
        self.sizes.append(size)
        self.born.append(self.now)
        self.last.append(self.now)
        return _Value(size, frozenset([len(self.sizes) - 1]))

    def use(self, value: _Value) -> None:
        """Note that the current operation reads an array."""
        for root in value.roots:
            self.last[root] = self.now

    def peak(self) -> int:
        """The most bytes that are alive at once."""
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
        """Follow a program, whose arguments have these `values`, and return its results."""

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
        """The array itself if it lies in memory; else its copy in memory, which is made once."""
        if len(value.roots) == 1 and self.sizes[next(iter(value.roots))] == value.size:
            return value
        if value not in self.stored:
            self.use(value)
            self.stored[value] = self.value(value.size)
        return self.stored[value]

    def _fused(self, size: int, inputs: list[_Value]) -> _Value:
        """The result of a fused operation.

        It is computed where it is used, unless it has several large roots: then it is written to
        memory, so that the roots can be freed.
        """
        roots = frozenset().union(*(value.roots for value in inputs))
        if sum(self.sizes[root] >= size / 2 > 0 for root in roots) > 1:
            return self.value(size)
        return _Value(size, roots)


def _called(equation: Any) -> core.ClosedJaxpr | None:
    """The function that an operation calls; None for operations that call none."""
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = equation.params.get(key)
        if isinstance(inner, core.ClosedJaxpr):
            return inner
        if isinstance(inner, core.Jaxpr):
            return core.ClosedJaxpr(inner, ())
    return None


def _bodies(equation: Any) -> list[core.ClosedJaxpr]:
    """The bodies of a loop, or the branches of a condition."""
    params = equation.params
    match equation.primitive.name:
        case "scan":
            return [params["jaxpr"]]
        case "while":
            return [params["body_jaxpr"]]
        case _:
            return list(params["branches"])


def _size(aval: Any) -> int:
    """Bytes of an array. Random keys don't state their size, and count as 8 bytes each."""
    return aval.size * getattr(aval.dtype, "itemsize", 8)
