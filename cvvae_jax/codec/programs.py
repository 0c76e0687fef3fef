"""A model's encoder and decoder as compiled programs over devices: equal pieces in, results out."""

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
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.models.inputs import to_float, to_uint8

_log = logging.getLogger(__name__)

Direction = Literal["encode", "decode"]
Pieces = UInt8[np.ndarray, "b t h w c"] | Float[np.ndarray, "b t h w c"]
"""Pixels, uint8 in [0, 255] or floats in [-1, 1], or unscaled latents."""

_PIECES = "pieces"


@dataclasses.dataclass(frozen=True)
class Share:
    """How devices share pieces."""

    groups: int = 1
    """Groups of devices; each takes pieces of its own."""
    split_rows: int = 1
    """Devices of a group, which share the rows of a piece."""


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program and what is known of it."""

    compiled: jax.stages.Compiled
    """Takes the model and the pieces."""
    memory: int
    """Bytes that a device needs while it runs: the model, its pieces and those that come next, its
    results and those before, which are on their way to the host, and what lies between."""


@dataclasses.dataclass(frozen=True)
class Output:
    """What came, or will come, of pieces; on the devices, which may still be at work on it."""

    array: Array
    """The results, and those of what was added to fill up the devices."""
    count: int
    """Pieces."""
    height: int
    """Rows of a result."""

    def on_host(self) -> np.ndarray:
        """The results, waited for."""
        if self.array.is_fully_addressable:
            results = np.asarray(self.array)
        else:
            results = multihost_utils.process_allgather(self.array, tiled=True)
        return results[: self.count, :, : self.height]

    def on_device(self, device: jax.Device) -> Array:
        """The results on one device of this process."""
        if not self.array.is_fully_addressable:
            return jax.device_put(self.on_host(), device)
        return jax.device_put(self.array, device)[: self.count, :, : self.height]


class Programs:
    """The programs of a model, compiled when they are first asked for; each says so in the log."""

    def __init__(self, vae: VAE, devices: list):
        """Set up, without compiling anything.

        Args:
            vae: the model.
            devices: those to run on; of several processes, those of all or of this one.
        """
        self._vae, self._devices = vae, devices
        mine = [d for d in devices if d.process_index == jax.process_index()]
        self.home = mine[0]
        """The device of this process where tiles are joined."""
        self._programs: dict[tuple, Program] = {}
        self._placed: dict[Share, VAE] = {}

    @property
    def identity(self) -> tuple:
        """What programs depend on beside the pieces, in numbers and words."""
        kind = type(self._vae).__name__
        return kind, self._vae.config, self._devices[0].device_kind, len(self._devices)

    def run(
        self,
        direction: Direction,
        pieces: Pieces,
        *,
        share: Share,
        batch: int,
        pixels: PixelType,
    ) -> list[Output]:
        """Moments of pixels, float32, or pixels of latents, in parts.

        Args:
            direction: what is done.
            pieces: all of one shape, whose pixels the strides divide.
            share: how the devices share them.
            batch: pieces that a group of devices takes at once.
            pixels: of the side that has pixels: float32 ones are not clipped.
        """
        most = share.groups * batch
        parts = [pieces[i : i + most] for i in range(0, len(pieces), most)]
        return [
            self._run(direction, part, share=share, batch=batch, pixels=pixels) for part in parts
        ]

    def program(
        self, direction: Direction, shape: tuple[int, ...], *, share: Share, pixels: PixelType
    ) -> Program:
        """The program for so many pieces (b, t, h, w, c), compiled if it is new."""
        precision = jax.config.jax_default_matmul_precision
        key = (direction, shape, share, pixels, precision)
        if key not in self._programs:
            self._programs[key] = self._compile(direction, shape, share=share, pixels=pixels)
        return self._programs[key]

    def _run(
        self,
        direction: Direction,
        pieces: Pieces,
        *,
        share: Share,
        batch: int,
        pixels: PixelType,
    ) -> Output:
        count, height = len(pieces), pieces.shape[2]
        missing = (
            share.groups * min(_power_of_two(math.ceil(count / share.groups)), batch) - count,
            -height % (self._row_unit(direction) * share.split_rows),
        )
        filled = pieces
        if any(missing):  # results of what is added are dropped; numbers that occur are the safest
            added = ((0, missing[0]), (0, 0), (0, missing[1]), (0, 0), (0, 0))
            filled = np.pad(pieces, added, mode="edge")
        shape = (*filled.shape[:2], height, *filled.shape[3:])
        program = self.program(direction, shape, share=share, pixels=pixels)
        on_devices = _put(filled, self._sharding(share))
        result = program.compiled(self._weights(share), on_devices)
        if result.is_fully_addressable:
            result.copy_to_host_async()
        compression = self._vae.config.spatial_compression
        height = height // compression if direction == "encode" else height * compression
        return Output(result, count, height)

    def _row_unit(self, direction: Direction) -> int:
        """Rows of pixels or latents that a device can take."""
        return self._vae.config.spatial_compression if direction == "encode" else 1

    def trace(
        self, direction: Direction, shape: tuple[int, ...], *, share: Share, pixels: PixelType
    ) -> jax.stages.Traced:
        """The program for so many pieces (b, t, h, w, c) before it is lowered and compiled; of a
        model's weights only shapes and types are looked at."""
        batch, frames, height, width, channels = shape
        unit = self._row_unit(direction)
        own = math.ceil(height / unit / share.split_rows) * share.split_rows
        sharding, whole = self._sharding(share), self._whole(share)
        local = functools.partial(
            _on_own_rows,
            apply=_moments if direction == "encode" else _DECODED[pixels],
            latent_rows=height // unit,
            all_latent_rows=own,
        )
        apply = jax.shard_map(
            local,
            mesh=self._mesh(share),
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
        self, direction: Direction, shape: tuple[int, ...], *, share: Share, pixels: PixelType
    ) -> Program:
        start = time.monotonic()
        traced = self.trace(direction, shape, share=share, pixels=pixels)
        compiled = traced.lower().compile()
        seconds = time.monotonic() - start
        (_, pieces), _ = traced.in_avals
        # A traced array knows nothing of axes that are the partitioner's.
        own = self._sharding(share).shard_shape(pieces.shape)
        coming = math.prod(own) * pieces.dtype.itemsize
        program = Program(compiled, _bytes_needed(compiled) + coming)
        batch, frames, height, width, _ = shape
        _log.info(
            "Compiled in %.1f s: %s %d x %d %s of %d x %d; a device needs %.3g GiB for it.",
            seconds,
            direction,
            batch,
            frames,
            "frames" if direction == "encode" else "latent frames",
            width,
            height,
            program.memory / 2**30,
        )
        return program

    def _mesh(self, share: Share) -> Mesh:
        used = np.asarray(self._devices[: share.groups * share.split_rows])
        axes = {_PIECES: share.groups, split_frames.AXIS: share.split_rows}
        names = [name for name in axes if name == _PIECES or share.split_rows > 1]
        shape = [axes[name] for name in names]
        return Mesh(used.reshape(shape), names, axis_types=(AxisType.Auto,) * len(names))

    def _sharding(self, share: Share) -> NamedSharding:
        split = (_PIECES, None, split_frames.AXIS) if share.split_rows > 1 else (_PIECES,)
        return NamedSharding(self._mesh(share), PartitionSpec(*split))

    def _whole(self, share: Share) -> NamedSharding:
        return NamedSharding(self._mesh(share), PartitionSpec())

    def _weights(self, share: Share) -> VAE:
        """The model on every device: one copy, that every way of sharing sees."""
        if share not in self._placed:
            whole = self._whole(share)
            # Of what is there, the buffers are taken: a model may be gigabytes.
            known = next(iter(self._placed.values()), None)
            self._placed[share] = (
                jax.tree.map(lambda array: _put(array, whole), self._vae)
                if known is None
                else jax.tree.map(lambda array: _on_mesh(array, whole), known)
            )
        return self._placed[share]


def _put(array: Array | np.ndarray, sharding: NamedSharding) -> Array:
    """An array that every process has, on devices of all of them."""
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    own = np.asarray(array)
    return jax.make_array_from_callback(own.shape, sharding, lambda index: own[index])


def _on_mesh(array: Array, whole: NamedSharding) -> Array:
    """The same buffers, as an array on another mesh of the same devices."""
    parts = [part.data for part in array.addressable_shards]
    return jax.make_array_from_single_device_arrays(array.shape, whole, parts)


def _power_of_two(number: int) -> int:
    """The next one: few batch sizes mean few programs."""
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


# uint8 is converted on the device: a quarter of the bytes to transfer.
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
