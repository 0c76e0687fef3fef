"""Devices: the mesh, which parameter lies where, and batches on their way in.

Batches are split over the mesh axes `data` and `fsdp`, parameters over `fsdp`, and the rows of
frames over `space`. That last one is never left to XLA's partitioner, which then returns wrong
gradients of convolution kernels: see `split_rows`.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from cvvae_jax import parameter_paths, split_frames
from cvvae_jax.config import MeshConfig
from cvvae_jax.errors import UserError

# An array of fewer numbers costs more to gather than to keep whole.
SMALLEST_SHARDED = 2**14


def replicate(shape: tuple[int, ...], fsdp: int) -> PartitionSpec:
    """The whole array on every device."""
    return PartitionSpec()


def split_largest_axis(shape: tuple[int, ...], fsdp: int) -> PartitionSpec:
    """The largest axis that `fsdp` divides is split; small arrays stay whole."""
    fitting = [axis for axis, size in enumerate(shape) if size % fsdp == 0]
    if fsdp == 1 or math.prod(shape) < SMALLEST_SHARDED or not fitting:
        return PartitionSpec()
    axis = max(fitting, key=lambda axis: (shape[axis], axis))
    return PartitionSpec(*(None,) * axis, "fsdp")


RULES = ((r".*/kernel", split_largest_axis), (r".*", replicate))
"""(pattern of flat paths, rule), the first match counts; moments and averages end in their
parameter's path."""


def make_mesh(
    config: MeshConfig,
    *,
    batches: tuple[int, ...],
    accumulate: int = 1,
    devices: list | None = None,
) -> Mesh:
    """The mesh of a run whose global batches have these sizes and are taken in so many parts: axes
    `data`, `fsdp` and `space`.

    With `data` -1, small batches leave devices unused rather than fail.

    Raises:
        UserError: the devices or a batch can't be split that way; the nearest batch sizes are
            named.
    """
    devices = devices or jax.devices()
    rest = config.fsdp * config.space
    if len(devices) % rest:
        raise UserError(
            f"mesh.fsdp {config.fsdp} x mesh.space {config.space} must divide the number of "
            f"devices, {len(devices)}."
        )
    data = config.data
    if data == -1:
        most = min(len(devices) // config.space, min(batches) // accumulate)
        data = max(1, most // config.fsdp)
    shape = (data, config.fsdp, config.space)
    if math.prod(shape) > len(devices):
        raise UserError(
            f"mesh.data {config.data} x mesh.fsdp {config.fsdp} x mesh.space {config.space} needs "
            f"more than the {len(devices)} devices."
        )
    _check_batches(batches, data * config.fsdp, accumulate)
    used = np.asarray(of_every_process(devices, math.prod(shape))).reshape(shape)
    _check_processes(used)
    return Mesh(used, ("data", "fsdp", split_frames.AXIS), axis_types=(AxisType.Auto,) * 3)


def of_every_process(devices: list, count: int) -> list:
    """The first devices, as many of one process as of another, since each brings an equal share of
    a batch.

    Raises:
        UserError: there are not so many of every process.
    """
    if count == len(devices):
        return devices
    processes = sorted({device.process_index for device in devices})
    share = count // len(processes)
    used = [
        device
        for process in processes
        for device in [d for d in devices if d.process_index == process][:share]
    ]
    if len(used) != count:
        raise UserError(
            f"{count} devices can't be taken equally from {len(processes)} processes; batches, and "
            f"a mesh, of multiples of {len(processes)} can."
        )
    return used


def _check_batches(batches: tuple[int, ...], devices: int, accumulate: int) -> None:
    parts = devices * accumulate
    split = f"over {devices} devices" + (f" in {accumulate} parts" if accumulate > 1 else "")
    for batch in batches:
        if batch % parts:
            below = batch // parts * parts
            nearest = f"{below} or {below + parts}" if below else f"{parts}"
            raise UserError(f"a batch of {batch} can't be split {split}; {nearest} can.")


def _check_processes(devices: np.ndarray) -> None:
    """Every process reads whole clips, so that those who share one must be its own."""
    space = devices.shape[-1]
    for group in devices.reshape(-1, space):
        if len({device.process_index for device in group}) > 1:
            raise UserError(
                f"mesh.space {space} must divide the number of devices of every process, since a "
                "clip is read by one."
            )


def shardings(tree: Any, mesh: Mesh | AbstractMesh) -> Any:
    """A tree of shardings for a module or train state, by `RULES`."""
    fsdp = mesh.shape["fsdp"]

    def of_leaf(path, leaf):
        name = parameter_paths.path_name(path)
        rule = next(rule for pattern, rule in RULES if re.fullmatch(pattern, name))
        return NamedSharding(mesh, rule(leaf.shape, fsdp))

    return jax.tree_util.tree_map_with_path(of_leaf, tree)


def gathered(tree: Any) -> Any:
    """Parameters or their gradients as they are computed with: whole on every device of the mesh
    that `jax.set_mesh` set, if it did.

    Left alone, the partitioner also splits activations where parameters are split, and sends them,
    a hundred times larger, from device to device at every layer.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.lax.with_sharding_constraint(tree, PartitionSpec())


def one_device(tree: Any) -> Any:
    """A tree of shardings that keeps everything on this process's first device."""
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda _: device, tree)


def batch_shardings(batch: dict[str, Any], mesh: Mesh) -> dict[str, NamedSharding]:
    """Of a training batch: `video`, (b, t, h, w, 3), and what else there is of every record."""
    records = ("data", "fsdp")
    return {
        name: NamedSharding(mesh, PartitionSpec(records, *_spec_of_rows(name))) for name in batch
    }


def _spec_of_rows(name: str) -> tuple:
    """What follows the records in an array of a batch."""
    return (None, split_frames.AXIS) if name == "video" else ()


def whole_clips(mesh: Mesh) -> NamedSharding:
    """The first axis split over all devices of the mesh."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's part of a global batch, on its devices."""
    layout = batch_shardings(batch, mesh)
    return {
        name: jax.make_array_from_process_local_data(layout[name], array)
        for name, array in batch.items()
    }


def split_rows(step: Callable, mesh: Mesh) -> Callable:
    """A training step on a mesh that splits frames: `step(state, batch, frozen)`, where every
    device computes with its own rows and the functions of `cvvae_jax.split_frames`.

    The axes `data` and `fsdp` stay the partitioner's, which never sees a convolution over a split
    frame. Gradients of parameters are summed over `space` where they arise, so that state and
    metrics are whole and equal on all devices.
    """
    if mesh.shape[split_frames.AXIS] == 1:
        return step
    whole = PartitionSpec()

    def run(state: Any, batch: dict[str, jax.Array], frozen: Any) -> Any:
        own = {name: PartitionSpec(None, *_spec_of_rows(name)) for name in batch}
        return jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(whole, own, whole),
            out_specs=whole,
            axis_names={split_frames.AXIS},
        )(state, batch, frozen)

    return run


def describe(mesh: Mesh) -> str:
    """One line for the start of a run: which devices, and how they are used."""
    device, unused = mesh.devices.flat[0], jax.device_count() - mesh.size
    axes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
    line = f"{mesh.size} x {device.device_kind} ({axes})"
    if unused:
        line += f"; {unused} more are left out (see mesh.data, and the smallest batch)"
    if device.platform == "cpu":
        line += "; WARNING: training on a CPU is for trying things out"
    return line
