"""Devices: the mesh, which parameter lies where, and batches on their way in.

Batches are split over both mesh axes, parameters over `fsdp`. Activations are never split in space:
XLA's partitioner then returns wrong gradients of convolution kernels.
"""

import math
import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from cvvae_jax import paths
from cvvae_jax.config import ConfigError, MeshConfig

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
    """The mesh of a run whose global batches have these sizes and are taken in so many parts.

    With `data` -1, small batches leave devices unused rather than fail.

    Raises:
        ConfigError: the devices or a batch can't be split that way; the nearest batch sizes are
            named.
    """
    devices = devices or jax.devices()
    if config.fsdp < 1 or len(devices) % config.fsdp:
        raise ConfigError(
            f"mesh.fsdp {config.fsdp} must divide the number of devices, {len(devices)}."
        )
    data = config.data
    if data == -1:
        data = max(1, min(len(devices), min(batches) // accumulate) // config.fsdp)
    if data < 1 or data * config.fsdp > len(devices):
        raise ConfigError(
            f"mesh.data {config.data} x mesh.fsdp {config.fsdp} needs more than the "
            f"{len(devices)} devices."
        )
    _check_batches(batches, data * config.fsdp, accumulate)
    used = np.asarray(devices[: data * config.fsdp]).reshape(data, config.fsdp)
    return Mesh(used, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def _check_batches(batches: tuple[int, ...], devices: int, accumulate: int) -> None:
    parts = devices * accumulate
    split = f"over {devices} devices" + (f" in {accumulate} parts" if accumulate > 1 else "")
    for batch in batches:
        if batch % parts:
            below = batch // parts * parts
            nearest = f"{below} or {below + parts}" if below else f"{parts}"
            raise ConfigError(f"a batch of {batch} can't be split {split}; {nearest} can.")


def shardings(tree: Any, mesh: Mesh | AbstractMesh) -> Any:
    """A tree of shardings for a module or train state, by `RULES`."""
    fsdp = mesh.shape["fsdp"]

    def of_leaf(path, leaf):
        name = paths.path_name(path)
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


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis split over all devices of the mesh."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's part of a global batch, on its devices."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
    }


def describe(mesh: Mesh) -> str:
    """One line for the start of a run: which devices, and how they are used."""
    device, unused = mesh.devices.flat[0], jax.device_count() - mesh.size
    line = (
        f"{mesh.size} x {device.device_kind} (data {mesh.shape['data']}, fsdp {mesh.shape['fsdp']})"
    )
    if unused:
        line += f"; {unused} more are left out (see mesh.data, and the smallest batch)"
    if device.platform == "cpu":
        line += "; WARNING: training on a CPU is for trying things out"
    return line
