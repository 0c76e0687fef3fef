"""The encoder and the decoder of a model as compiled programs that run on several devices."""

import dataclasses
import functools
import logging
import math
import time
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, UInt8

from cvvae_jax import split_frames
from cvvae_jax.codec.values import PixelType
from cvvae_jax.compiling import announced, compile_program
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.models.inputs import to_float, to_uint8

_log = logging.getLogger(__name__)

Direction = Literal["encode", "decode"]
Pieces = UInt8[np.ndarray, "b t h w c"] | Float[np.ndarray, "b t h w c"]
"""Chunks or tiles of equal shape: pixels (uint8 in [0, 255] or floats in [-1, 1]), or unscaled
latents."""

_PIECES = "pieces"


@dataclasses.dataclass(frozen=True)
class DeviceGroups:
    """How devices are grouped to share pieces."""

    count: int = 1
    """Number of groups; each group takes pieces of its own."""
    split_rows: int = 1
    """Number of devices in a group, which share the rows of a piece."""


@dataclasses.dataclass(frozen=True)
class CompiledProgram:
    """A compiled program and the memory that it needs."""

    compiled: jax.stages.Compiled
    """Function of the model and the pieces."""
    memory: int
    """Bytes that a device needs while the program runs: the model, the pieces, the next pieces, the
    results, the previous results (which are being copied to the host), and temporary arrays."""


@dataclasses.dataclass(frozen=True)
class Output:
    """The results of some pieces, which the devices may still compute."""

    array: Array
    """The results, with those of the padding."""
    count: int
    """Number of results without padding."""
    height: int
    """Rows of a result without padding."""

    def on_host(self) -> np.ndarray:
        """Wait for the results and copy them to the host."""
        if self.array.is_fully_addressable:
            results = np.asarray(self.array)
        else:
            results = multihost_utils.process_allgather(self.array, tiled=True)
        return results[: self.count, :, : self.height]

    def on_device(self, device: jax.Device) -> Array:
        """Copy the results to one device of this process."""
        if not self.array.is_fully_addressable:
            return jax.device_put(self.on_host(), device)
        return jax.device_put(self.array, device)[: self.count, :, : self.height]


class CodecPrograms:
    """The programs of a model. Each is compiled, and logged, when it is first asked for."""

    def __init__(self, vae: VAE, devices: list):
        """Set up without compiling anything.

        Args:
            vae: the model.
            devices: devices to run on: those of all processes, or those of this process.
        """
        self._vae, self._devices = vae, devices
        mine = [d for d in devices if d.process_index == jax.process_index()]
        self.joining_device = mine[0]
        """The device of this process where tiles are joined."""
        self._programs: dict[tuple, CompiledProgram] = {}
        self._placed: dict[DeviceGroups, VAE] = {}

    @property
    def identity(self) -> tuple:
        """What programs depend on beside the pieces: the model's configuration and the devices."""
        kind = type(self._vae).__name__
        return kind, self._vae.config, self._devices[0].device_kind, len(self._devices)

    def run(
        self,
        direction: Direction,
        pieces: Pieces,
        *,
        groups: DeviceGroups,
        batch: int,
        pixels: PixelType,
    ) -> list[Output]:
        """Encode pixels to float32 moments, or decode latents to pixels.

        Args:
            direction: `encode` or `decode`.
            pieces: pieces of equal shape, padded so that the model's strides divide their pixels.
            groups: how the devices share the pieces.
            batch: pieces that a group of devices takes at once.
            pixels: type of the pixels that go in or come out; float32 ones are not clipped.

        Returns:
            Outputs that together hold the results of all pieces, in order.
        """
        most = groups.count * batch
        parts = [pieces[i : i + most] for i in range(0, len(pieces), most)]
        return [
            self._run(direction, part, groups=groups, batch=batch, pixels=pixels) for part in parts
        ]

    def program(
        self,
        direction: Direction,
        shape: tuple[int, ...],
        *,
        groups: DeviceGroups,
        pixels: PixelType,
    ) -> CompiledProgram:
        """The program for pieces of shape (b, t, h, w, c), which is compiled if it is new."""
        precision = jax.config.jax_default_matmul_precision
        key = (direction, shape, groups, pixels, precision)
        if key not in self._programs:
            self._programs[key] = self._compile(direction, shape, groups=groups, pixels=pixels)
        return self._programs[key]

    def _run(
        self,
        direction: Direction,
        pieces: Pieces,
        *,
        groups: DeviceGroups,
        batch: int,
        pixels: PixelType,
    ) -> Output:
        count, height = len(pieces), pieces.shape[2]
        missing = (
            groups.count * min(_power_of_two(math.ceil(count / groups.count)), batch) - count,
            -height % (self._row_unit(direction) * groups.split_rows),
        )
        filled = pieces
        if any(missing):
            # The results of the padding are dropped. It repeats real values, which cannot make the
            # model overflow where the pieces themselves don't.
            added = ((0, missing[0]), (0, 0), (0, missing[1]), (0, 0), (0, 0))
            filled = np.pad(pieces, added, mode="edge")
        shape = (*filled.shape[:2], height, *filled.shape[3:])
        program = self.program(direction, shape, groups=groups, pixels=pixels)
        on_devices = _put(filled, self._sharding(groups))
        result = program.compiled(self._weights(groups), on_devices)
        if result.is_fully_addressable:
            result.copy_to_host_async()
        compression = self._vae.config.spatial_compression
        height = height // compression if direction == "encode" else height * compression
        return Output(result, count, height)

    def _row_unit(self, direction: Direction) -> int:
        """The least number of rows of pixels or latents that a device can take."""
        return self._vae.config.spatial_compression if direction == "encode" else 1

    def trace(
        self,
        direction: Direction,
        shape: tuple[int, ...],
        *,
        groups: DeviceGroups,
        pixels: PixelType,
    ) -> jax.stages.Traced:
        """Trace the program for pieces of shape (b, t, h, w, c), without compiling it.

        Only shapes and types of the model's weights are used, so that they may be abstract.
        """
        batch, frames, height, width, channels = shape
        unit = self._row_unit(direction)
        own = math.ceil(height / unit / groups.split_rows) * groups.split_rows
        sharding, whole = self._sharding(groups), self._whole(groups)
        local = functools.partial(
            _on_own_rows,
            apply=_moments if direction == "encode" else _DECODED[pixels],
            latent_rows=height // unit,
            all_latent_rows=own,
        )
        apply = jax.shard_map(
            local,
            mesh=self._mesh(groups),
            in_specs=(whole.spec, sharding.spec),
            out_specs=sharding.spec,
        )
        weights = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), self._vae
        )
        pieces = jax.ShapeDtypeStruct(
            (batch, frames, own * unit, width, channels),
            pixels if direction == "encode" else "float32",
            sharding=sharding,
        )
        return jax.jit(apply).trace(weights, pieces)

    def _compile(
        self,
        direction: Direction,
        shape: tuple[int, ...],
        *,
        groups: DeviceGroups,
        pixels: PixelType,
    ) -> CompiledProgram:
        batch, frames, height, width, _ = shape
        unit = "frames" if direction == "encode" else "latent frames"
        what = f"{direction} {batch} x {frames} {unit} of {width} x {height}"
        start = time.monotonic()
        with announced(f"the program to {what}", groups, pixels, *self.identity):
            traced = self.trace(direction, shape, groups=groups, pixels=pixels)
            compiled = compile_program(traced.lower())
        seconds = time.monotonic() - start
        (_, pieces), _ = traced.in_avals
        # Shapes of traced arrays are global where axes are left to the partitioner.
        own = self._sharding(groups).shard_shape(pieces.shape)
        coming = math.prod(own) * pieces.dtype.itemsize
        program = CompiledProgram(compiled, _bytes_needed(compiled) + coming)
        _log.info(
            "Ready in %.1f s: %s; a device needs %.3g GiB for it.",
            seconds,
            what,
            program.memory / 2**30,
        )
        return program

    def _mesh(self, groups: DeviceGroups) -> Mesh:
        used = np.asarray(self._devices[: groups.count * groups.split_rows])
        axes = {_PIECES: groups.count, split_frames.AXIS: groups.split_rows}
        names = [name for name in axes if name == _PIECES or groups.split_rows > 1]
        shape = [axes[name] for name in names]
        return Mesh(used.reshape(shape), names, axis_types=(AxisType.Auto,) * len(names))

    def _sharding(self, groups: DeviceGroups) -> NamedSharding:
        split = (_PIECES, None, split_frames.AXIS) if groups.split_rows > 1 else (_PIECES,)
        return NamedSharding(self._mesh(groups), PartitionSpec(*split))

    def _whole(self, groups: DeviceGroups) -> NamedSharding:
        return NamedSharding(self._mesh(groups), PartitionSpec())

    def _weights(self, groups: DeviceGroups) -> VAE:
        """The model on every device, as arrays of the mesh of these groups.

        All groupings use the same buffers.
        """
        if groups not in self._placed:
            whole = self._whole(groups)
            # A model may be gigabytes, so its buffers are used again where they exist.
            known = next(iter(self._placed.values()), None)
            self._placed[groups] = (
                jax.tree.map(lambda array: _put(array, whole), self._vae)
                if known is None
                else jax.tree.map(lambda array: _on_mesh(array, whole), known)
            )
        return self._placed[groups]


def _put(array: Array | np.ndarray, sharding: NamedSharding) -> Array:
    """Put an array that every process has onto the devices of all processes."""
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    own = np.asarray(array)
    return jax.make_array_from_callback(own.shape, sharding, lambda index: own[index])


def _on_mesh(array: Array, whole: NamedSharding) -> Array:
    """Make an array on another mesh of the same devices from the buffers of an array."""
    parts = [part.data for part in array.addressable_shards]
    return jax.make_array_from_single_device_arrays(array.shape, whole, parts)


def _power_of_two(number: int) -> int:
    """Round up to a power of two, so that few batch sizes, and few programs, occur."""
    return 1 << (number - 1).bit_length()


def _bytes_needed(compiled: jax.stages.Compiled) -> int:
    memory = compiled.memory_analysis()
    parts = (
        memory.argument_size_in_bytes,
        2 * memory.output_size_in_bytes,
        memory.temp_size_in_bytes,
        -memory.alias_size_in_bytes,
    )
    return sum(parts)


# uint8 is converted to floats on the device, so that a quarter of the bytes is transferred.
def _moments(vae: VAE, video: Array) -> Array:
    video = to_float(video) if video.dtype == jnp.uint8 else video
    return vae.moments(video).astype(jnp.float32)


def _decoded(vae: VAE, latents: Array) -> Array:
    return vae.decode(latents).astype(jnp.float32)


_DECODED = {
    "float32": _decoded,
    "uint8": lambda vae, latents: to_uint8(_decoded(vae, latents)),
}


def _on_own_rows(
    vae: VAE, pieces: Array, *, apply: Callable, latent_rows: int, all_latent_rows: int
) -> Array:
    with split_frames.filled_up(latent_rows, all_latent_rows):
        return apply(vae, pieces)
