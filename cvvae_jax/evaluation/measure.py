"""Measures clips and their reconstructions: arrays from which a summary is made."""

import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, UInt8

from cvvae_jax.codec.values import Pixels
from cvvae_jax.compiling import announced
from cvvae_jax.errors import UserError
from cvvae_jax.evaluation.metrics import METRICS, Arrays, Kind, Metric
from cvvae_jax.evaluation.protocol import Protocol
from cvvae_jax.metrics import seams, time
from cvvae_jax.models.inputs import to_float, to_uint8

Video = UInt8[np.ndarray, "t h w 3"] | Float[np.ndarray, "t h w 3"]

# LPIPS takes some 1,500 bytes a pixel, the spectrum over time some 50 bytes a value.
_PIXELS = 2**20
"""Pixels of all frames that a device measures at once."""
_VALUES = 2**25
"""Values that a device looks at along time at once."""


class Measure:
    """Measures the metrics of a protocol on all devices of this process."""

    def __init__(self, protocol: Protocol, networks: Mapping[str, Any]):
        """Put the networks onto the devices.

        Args:
            protocol: names the metrics.
            networks: the networks that weights were given for, by metric. Metrics that lack their
                network are not measured.
        """
        self._protocol = protocol
        asked = [METRICS[name] for name in METRICS if name in protocol.metrics]
        self._metrics = [m for m in asked if m.network is None or m.name in networks]
        self._names = {metric.name for metric in self._metrics}
        self._mesh = Mesh(np.asarray(jax.local_devices()), ("pieces",))
        everywhere = NamedSharding(self._mesh, PartitionSpec())
        self._networks = {
            metric.name: jax.device_put(networks[metric.name], everywhere)
            for metric in self._metrics
            if metric.network is not None
        }

    def __call__(
        self, recon: Video, video: Video, *, tile_borders: tuple[list[int], list[int]]
    ) -> Arrays:
        """Measures a reconstruction.

        Args:
            recon: in [-1, 1], clipped to it, or in [0, 255].
            video: the clip that it reconstructs.
            tile_borders: rows and columns of pixels that tiles begin or end before.

        Returns:
            Arrays by name: `mse`, `ssim`, `ms_ssim`, `lpips_vgg`, `lpips_alex`, `tile_seam` (t,);
            `difference_mse` and `warping` (t - 1,); `spectrum` (f,); `drift_mse` and `chunk_seam`
            (); features of the reconstruction `fvd` (d,) and `fid` (t, d). Metrics that are not
            defined on frames so small or clips so short are left out.
        """
        found = self.frames(recon[None], video[None])
        found = {name: values[0] for name, values in found.items()}
        if {"time", "seams"} & self._names:
            found |= self._over_time(recon, video)
        if "seams" in self._names and any(tile_borders):
            found |= self._tile_seams(recon, video, tile_borders)
        for metric in self._of_kind("clip", video.shape[:3]):
            recon_bytes, video_bytes = (np.asarray(_as_uint8(x)) for x in (recon, video))
            found[metric.array or metric.name] = metric.function(recon_bytes, video_bytes)
        return found | self.features(recon)

    def frames(self, recon: Pixels, video: Pixels) -> Arrays:
        """Measures the metrics that compare frame with frame: arrays (b, t) by name."""
        b, t, h, w, _ = video.shape
        metrics = self._of_kind("frames", (t, h, w))
        if not metrics:
            return {}
        names = {metric.name for metric in metrics}
        networks = {name: self._networks[name] for name in names & self._networks.keys()}
        flat = (x.reshape(b * t, 1, h, w, 3) for x in (recon, video))
        run = functools.partial(_frames, networks, metrics=tuple(metrics))
        found = self._in_pieces(run, *flat, size=max(1, _PIXELS // (h * w)))
        return {name: values.reshape(b, t) for name, values in found.items()}

    def features(self, video: Video) -> Arrays:
        """Computes the features that distributions are compared by: (d,) of the clip, or (t, d)."""
        found, (t, h, w, _) = {}, video.shape
        for metric in self._of_kind("clip_features", (t, h, w)):
            network = self._networks.get(metric.name)
            with self._announced(metric.function, video.shape):
                features = _features(network, video[None], function=metric.function)
            found[metric.name] = np.asarray(features)[0]
        for metric in self._of_kind("frame_features", (t, h, w)):
            network, size = self._networks.get(metric.name), max(1, _PIXELS // (h * w))
            run = functools.partial(_features, network, function=metric.function)
            features = self._in_pieces(lambda x, run=run: {"": run(x)}, video[:, None], size=size)
            found[metric.name] = features[""][:, 0]
        for name, values in found.items():
            if not np.isfinite(values).all():
                raise UserError(f"the network of {name} gives features that are no numbers.")
        return found

    def latents(self, latents: Float[np.ndarray, "n y x z"], number: int) -> Arrays:
        """Measures the latents of a clip of this number."""
        values = np.asarray(latents, np.float32)
        return {
            metric.array or metric.name: metric.function(values, number)
            for metric in self._metrics
            if metric.kind == "latents"
        }

    def _announced(self, function: Callable, shape: tuple[int, ...]) -> AbstractContextManager:
        """A context that says before that a function is compiled for arrays of a shape."""
        while isinstance(function, functools.partial):
            function = function.func
        name = getattr(function, "__name__", type(function).__name__).strip("_").replace("_", " ")
        what = f"measures ({name}) of {' x '.join(map(str, shape[:-1]))} pixels"
        return announced(what, sorted(self._names), once=True)

    def _of_kind(self, kind: Kind, size: tuple[int, int, int]) -> list[Metric]:
        """The metrics of a kind that are defined on clips of so many frames, rows, columns."""
        return [m for m in self._metrics if m.kind == kind and m.is_defined_on(*size)]

    def _over_time(self, recon: Video, video: Video) -> Arrays:
        """Measures every pixel along time, one piece of the frame after the other."""
        t, h, w, _ = video.shape
        size = max(1, min(-(-h * w // self._mesh.size), _VALUES // (3 * t)))
        # The zeros that fill up the last piece are in both videos, so that they add no error.
        pieces = (_pieces_of_time(x, size) for x in (recon, video))
        window = self._protocol.spectrum_window
        found = self._in_pieces(functools.partial(_time, window=window), *pieces, size=1)
        found = {name: values.sum(axis=0) * (size / (h * w)) for name, values in found.items()}
        # Two chunks share a frame, which is decoded by the earlier chunk.
        begins = range(self._protocol.chunk_frames + 1, t, self._protocol.chunk_frames)
        if "seams" in self._names and begins:
            steps = jnp.asarray(found["difference_mse"])[None]
            found["chunk_seam"] = np.asarray(seams.chunk_seam_ratio(steps, frames=begins)[0])
        if "time" not in self._names:
            found = {name: found[name] for name in found.keys() & {"chunk_seam"}}
        return found

    def _tile_seams(
        self, recon: Video, video: Video, borders: tuple[list[int], list[int]]
    ) -> Arrays:
        _, h, w, _ = video.shape
        rows, columns = map(tuple, borders)
        run = functools.partial(_tile_seam, rows=rows, columns=columns)
        size = max(1, _PIXELS // (h * w))
        return self._in_pieces(run, recon[:, None], video[:, None], size=size)

    def _in_pieces(self, run: Callable, *arrays: np.ndarray, size: int) -> Arrays:
        """Runs a function of batches over all entries of arrays, at most `size` entries a device.

        All batches have one size, so that one compiled program does; the last batch is filled up
        with its last entry, whose results are dropped.
        """
        count, devices = len(arrays[0]), self._mesh.size
        calls = -(-count // (size * devices))
        size = -(-count // (calls * devices)) * devices
        sharded = NamedSharding(self._mesh, PartitionSpec("pieces"))
        parts = []
        for start in range(0, count, size):
            batch = [_filled(x[start : start + size], size) for x in arrays]
            placed = jax.device_put(batch, sharded)
            with self._announced(run, placed[0].shape):
                result = run(*placed)
            parts.append(jax.device_get(result))
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return {name: values[:count] for name, values in joined.items()}


def _filled(values: np.ndarray, size: int) -> np.ndarray:
    missing = size - len(values)
    return np.concatenate([values, np.repeat(values[-1:], missing, axis=0)]) if missing else values


def _pieces_of_time(video: np.ndarray, size: int) -> np.ndarray:
    """Cuts (t, h, w, 3) into (pieces, t, size, 1, 3); zeros fill up the last piece."""
    t, h, w, _ = video.shape
    missing = -(h * w) % size
    flat = np.pad(video.reshape(t, h * w, 3), ((0, 0), (0, missing), (0, 0)))
    return flat.reshape(t, -1, size, 1, 3).swapaxes(0, 1)


@functools.partial(jax.jit, static_argnames="metrics")
def _frames(networks, recon, video, *, metrics):
    recon, video = jnp.clip(_as_values(recon), -1, 1), _as_values(video)
    found = {}
    for metric in metrics:
        network = [networks[metric.name]] if metric.network else []
        values = metric.function(*network, recon, video)
        found[metric.array or metric.name] = values[:, 0]
    return found


@functools.partial(jax.jit, static_argnames="window")
def _time(recon, video, *, window):
    recon, video = _as_values(recon), _as_values(video)
    return {
        "difference_mse": time.difference_mse(recon, video),
        "drift_mse": time.drift_mse(recon, video),
        "spectrum": time.error_spectrum(recon, video, window=window),
    }


@functools.partial(jax.jit, static_argnames=("rows", "columns"))
def _tile_seam(recon, video, *, rows, columns):
    recon, video = _as_values(recon), _as_values(video)
    return {"tile_seam": seams.seam_ratio(recon, video, row_borders=rows, column_borders=columns)}


@functools.partial(jax.jit, static_argnames="function")
def _features(network, video, *, function):
    return function(network, jnp.clip(_as_values(video), -1, 1))


def _as_values(video: Array | np.ndarray) -> Array:
    return to_float(video) if video.dtype == jnp.uint8 else jnp.asarray(video, jnp.float32)


def _as_uint8(video: Video) -> Array | np.ndarray:
    return video if video.dtype == np.uint8 else to_uint8(video)
