"""Memory of a compiled step, in parts."""

import dataclasses
import math
import re

from jax.sharding import Mesh

from cvvae_jax.training.abstract import AbstractStage, bytes_per_device

_ALLOCATION = re.compile(r"^allocation \d+: size (\d+),(.*)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device while a step runs, as the compiler places its arrays."""

    arguments: int
    """State, batch and frozen networks, in the layouts of the device."""
    outputs: int
    """Results that don't take an argument's place."""
    temporaries: int
    """All else: activations, gradients, copies."""

    @property
    def total(self) -> int:
        """At the step's peak."""
        return self.arguments + self.outputs + self.temporaries


def of_buffer_assignment(text: str) -> Memory:
    """The memory of a program, from what XLA writes down of its arrays.

    A line stands for one piece of memory; pieces of another `color` lie in memories on the chip
    itself.
    """
    sizes = {"arguments": 0, "outputs": 0, "temporaries": 0}
    for size, facts in _ALLOCATION.findall(text):
        if re.search(r" color [1-9]", facts):
            continue
        if re.search(r" parameter \d+,", facts):
            sizes["arguments"] += int(size)
        elif "maybe-live-out" in facts:
            sizes["outputs"] += int(size)
        else:
            sizes["temporaries"] += int(size)
    return Memory(**sizes)


def parts(stage: AbstractStage, video_shape: tuple[int, ...], memory: Memory) -> dict[str, int]:
    """What a device's memory is taken by during a step.

    What stays from step to step is counted from shapes, the rest as it was compiled: `padding` is
    what layouts of the device add to arguments.
    """
    mesh = stage.job.mesh
    kept = {name: bytes_per_device(tree, mesh) for name, tree in stage.kept.items()}
    kept["batch"] = batch_bytes(video_shape, mesh)
    sizes = {**kept, "padding": max(0, memory.arguments - sum(kept.values()))}
    return {
        **sizes,
        "activations and other temporaries": memory.temporaries,
        "outputs": memory.outputs,
    }


def batch_bytes(video_shape: tuple[int, ...], mesh: Mesh) -> int:
    """A device's part of a batch: videos in uint8, and a seed for each."""
    records = math.ceil(video_shape[0] / (mesh.shape["data"] * mesh.shape["fsdp"]))
    return math.ceil(math.prod(video_shape) / mesh.size) + 5 * records  # seed and stop flag
