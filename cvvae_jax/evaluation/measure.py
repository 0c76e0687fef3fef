"""What is measured of a clip and its reconstruction: arrays that a summary is made from."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, UInt8

from cvvae_jax.codec.values import Pixels
from cvvae_jax.errors import UserError
from cvvae_jax.evaluation.protocol import FRAME_METRICS, Protocol
from cvvae_jax.losses import lpips
from cvvae_jax.metrics import frechet, image, seams, time
from cvvae_jax.models.feature_networks import alexnet, i3d, vgg
from cvvae_jax.models.inputs import to_float, to_uint8

Arrays = dict[str, np.ndarray]
Video = UInt8[np.ndarray, "t h w 3"] | Float[np.ndarray, "t h w 3"]

# Pixels of all frames that a device measures at once, and values of all pieces of a clip's time:
# LPIPS takes some 1,500 bytes a pixel, the spectrum some 50 bytes a value.
_PIXELS, _VALUES = 2**20, 2**25


# Height and width in pixels of the frames that each metric is defined on, at least.
_SMALLEST = {
    "ssim": image.SSIM_WINDOW,
    "ms_ssim": image.MS_SSIM_PIXELS,
    "lpips_vgg": vgg.SPATIAL_COMPRESSION,
    "lpips_alex": alexnet.SMALLEST,
}


@dataclasses.dataclass(frozen=True)
class Networks:
    """The networks that metrics are made of, by metric; None where no weights are given."""

    lpips_vgg: Any = None
    lpips_alex: Any = None
    fvd: Any = None
    fid: Any = None

    def given(self) -> set[str]:
        """Metrics that weights are given for."""
        return {f.name for f in dataclasses.fields(self) if getattr(self, f.name) is not None}


NETWORK_METRICS = {field.name for field in dataclasses.fields(Networks)}
"""Metrics that need weights."""


class Measure:
    """The metrics of a protocol, on all devices of this process."""

    def __init__(self, protocol: Protocol, networks: Networks):
        self._protocol = protocol
        self._wanted = set(protocol.metrics) - (NETWORK_METRICS - networks.given())
        self._mesh = Mesh(np.asarray(jax.local_devices()), ("pieces",))
        everywhere = NamedSharding(self._mesh, PartitionSpec())
        self._networks = {
            name: jax.device_put(getattr(networks, name), everywhere)
            for name in sorted(NETWORK_METRICS & self._wanted)
        }

    def __call__(
        self, recon: Video, video: Video, *, tile_borders: tuple[list[int], list[int]]
    ) -> Arrays:
        """All of a reconstruction.

        Args:
            recon: in [-1, 1], clipped to it, or in [0, 255].
            video: what it reconstructs.
            tile_borders: rows and columns of pixels that tiles begin or end before.

        Returns:
            by name: `mse`, `ssim`, `ms_ssim`, `lpips_vgg`, `lpips_alex`, `tile_seam` (t,);
            `difference_mse` and `warping` (t - 1,); `spectrum` (f,); `drift_mse` and `chunk_seam`
            (); features of the reconstruction `fvd` (d,) and `fid` (t, d). What isn't defined on
            frames so small or clips so short is left out.
        """
        found = self.frames(recon[None], video[None])
        found = {name: values[0] for name, values in found.items()}
        if "time" in self._wanted or "seams" in self._wanted:
            found |= self._over_time(recon, video)
        if "seams" in self._wanted and any(tile_borders):
            found |= self._tile_seams(recon, video, tile_borders)
        if "warping" in self._wanted and min(video.shape[1:3]) >= time.FLOW_PIXELS:
            recon, video = (np.asarray(_as_uint8(x)) for x in (recon, video))
            found["warping"] = time.warping_error(recon, video)
        return found | self.features(recon)

    def frames(self, recon: Pixels, video: Pixels) -> Arrays:
        """What compares frame with frame: (b, t) by name."""
        b, t, h, w, _ = video.shape
        names = self._wanted & FRAME_METRICS
        names = {name for name in names if min(h, w) >= _SMALLEST.get(name, 1)}
        networks = {name: self._networks[name] for name in names & self._networks.keys()}
        flat = (x.reshape(b * t, 1, h, w, 3) for x in (recon, video))
        run = functools.partial(_frames, networks, names=tuple(sorted(names)))
        found = self._in_pieces(run, *flat, size=max(1, _PIXELS // (h * w)))
        return {name: values.reshape(b, t) for name, values in found.items()}

    def features(self, video: Video) -> Arrays:
        """What distributions are compared by."""
        found, (t, h, w, _) = {}, video.shape
        if "fvd" in self._networks and t >= i3d.SHORTEST:
            network = self._networks["fvd"]
            found["fvd"] = np.asarray(_clip_features(network, video[None]))[0]
        if "fid" in self._networks:
            run = functools.partial(_frame_features, self._networks["fid"])
            size = max(1, _PIXELS // (h * w))
            found |= self._in_pieces(run, video[:, None], size=size)
        for name, values in found.items():
            if not np.isfinite(values).all():
                raise UserError(f"the network of {name} gives features that are no numbers.")
        return found

    def _over_time(self, recon: Video, video: Video) -> Arrays:
        """Every pixel's course over time, by pieces of the frame."""
        t, h, w, _ = video.shape
        size = max(1, min(-(-h * w // self._mesh.size), _VALUES // (3 * t)))
        # Pixels that are added at the end are equal in both, so that they add no error.
        pieces = (_pieces_of_time(x, size) for x in (recon, video))
        window = self._protocol.spectrum_window
        found = self._in_pieces(functools.partial(_time, window=window), *pieces, size=1)
        found = {name: values.sum(axis=0) * (size / (h * w)) for name, values in found.items()}
        # Chunks share a frame, which is the earlier one's.
        begins = range(self._protocol.chunk_frames + 1, t, self._protocol.chunk_frames)
        if "seams" in self._wanted and begins:
            steps = jnp.asarray(found["difference_mse"])[None]
            found["chunk_seam"] = np.asarray(seams.chunk_seam_ratio(steps, frames=begins)[0])
        if "time" not in self._wanted:
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
        """A function of batches, over all entries: at most `size` a device at once.

        Pieces are of one size, so that one program does; the last one is filled up.
        """
        count, devices = len(arrays[0]), self._mesh.size
        calls = -(-count // (size * devices))
        size = -(-count // (calls * devices)) * devices
        sharded = NamedSharding(self._mesh, PartitionSpec("pieces"))
        parts = []
        for start in range(0, count, size):
            batch = [_filled(x[start : start + size], size) for x in arrays]
            parts.append(jax.device_get(run(*jax.device_put(batch, sharded))))
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return {name: values[:count] for name, values in joined.items()}


def _filled(values: np.ndarray, size: int) -> np.ndarray:
    missing = size - len(values)
    return np.concatenate([values, np.repeat(values[-1:], missing, axis=0)]) if missing else values


def _pieces_of_time(video: np.ndarray, size: int) -> np.ndarray:
    """(t, h, w, 3) as (pieces, t, size, 1, 3), with equal values at the end."""
    t, h, w, _ = video.shape
    missing = -(h * w) % size
    flat = np.pad(video.reshape(t, h * w, 3), ((0, 0), (0, missing), (0, 0)))
    return flat.reshape(t, -1, size, 1, 3).swapaxes(0, 1)


@functools.partial(jax.jit, static_argnames="names")
def _frames(networks, recon, video, *, names):
    recon, video = _as_values(recon), _as_values(video)
    found = {}
    for name in names:
        match name:
            case "psnr":
                found["mse"] = image.mse(recon, video)
            case "ssim":
                found["ssim"] = image.ssim(recon, video)
            case "ms_ssim":
                found["ms_ssim"] = image.ms_ssim(recon, video)
            case _:
                found[name] = lpips(networks[name], jnp.clip(recon, -1, 1), video)
    return {name: values[:, 0] for name, values in found.items()}


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


@jax.jit
def _clip_features(network, video):
    return frechet.clip_features(network, jnp.clip(_as_values(video), -1, 1))


@jax.jit
def _frame_features(network, video):
    return {"fid": frechet.frame_features(network, jnp.clip(_as_values(video), -1, 1))[:, 0]}


def _as_values(video: Array | np.ndarray) -> Array:
    return to_float(video) if video.dtype == jnp.uint8 else jnp.asarray(video, jnp.float32)


def _as_uint8(video: Video) -> Array | np.ndarray:
    return video if video.dtype == np.uint8 else to_uint8(video)
