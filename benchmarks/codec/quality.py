"""What encoder and decoder lose in bfloat16, on a trained model and real clips."""

import dataclasses
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import cvvae_jax
from cvvae_jax import parameter_paths
from cvvae_jax.convert.convert import abstract_model
from cvvae_jax.errors import UserError
from cvvae_jax.metrics.image import psnr
from cvvae_jax.models.video_vae import VideoVAE
from cvvae_jax.video_io import video

_FRAMES, _SIZE, _CLIPS = 17, 128, 16
_CASES = {
    "float32": ("float32", "float32"),
    "encoder in bfloat16": ("bfloat16", "float32"),
    "decoder in bfloat16": ("float32", "bfloat16"),
    "both in bfloat16": ("bfloat16", "bfloat16"),
}


def measure(weights: Path, clips: Path | None) -> None:
    """Prints PSNR of reconstructions to the clips and to float32's, and how far the means of
    latents are from float32's, in their deviations."""
    if clips is None:
        raise UserError("--quality needs --clips, a folder of videos.")
    videos = _clips(clips)
    model = cvvae_jax.load(weights, dtype="float32")
    print(f"{len(videos)} clips of {_FRAMES} x {_SIZE} x {_SIZE} (center) of {clips}, {weights}")
    print(f"{'':22}{'PSNR to clip':>14}{'worst change':>14}{'to float32':>12}{'latents off':>13}")
    expected = None
    for name, (encoder, decoder) in _CASES.items():
        found = _through(_typed(model, encoder, decoder), videos)
        expected = expected or found
        scores = [_psnr(recon, clip) for (recon, _), clip in zip(found, videos, strict=True)]
        exact = [_psnr(recon, clip) for (recon, _), clip in zip(expected, videos, strict=True)]
        pairs = list(zip(found, expected, strict=True))
        same = [_psnr(a, b) for (a, _), (b, _) in pairs]
        off = [np.abs(a - b).mean() / np.std(b) for (_, a), (_, b) in pairs]
        worst = max(b - a for a, b in zip(scores, exact, strict=True))
        text = f"{np.mean(same):>12.2f}{np.mean(off):>13.1e}" if name != "float32" else ""
        print(f"{name:22}{np.mean(scores):>14.3f}{worst:>14.3f}{text}", flush=True)


def _clips(folder: Path) -> list[np.ndarray]:
    """The middle of the first frames of every video that is large and long enough, in [-1, 1]."""
    found = []
    for path in sorted(folder.rglob("*.mp4")):
        frames = np.stack(list(itertools.islice(video.read_frames(path), _FRAMES)))
        top, left = ((size - _SIZE) // 2 for size in frames.shape[1:3])
        if len(frames) == _FRAMES and min(top, left) >= 0:
            clip = frames[:, top : top + _SIZE, left : left + _SIZE]
            found.append(clip[None].astype(np.float32) / 127.5 - 1)
        if len(found) == _CLIPS:
            break
    if not found:
        raise UserError(f"--clips {folder}: no .mp4 of {_FRAMES} frames of {_SIZE} x {_SIZE}.")
    return found


def _typed(model: VideoVAE, encoder: str, decoder: str) -> VideoVAE:
    """The same parameters, in float32, with other types of computation."""
    config = dataclasses.replace(model.config, dtype=encoder, decoder_dtype=decoder)
    return parameter_paths.unflatten(
        abstract_model(VideoVAE, config), parameter_paths.flatten(model)
    )


def _through(model: VideoVAE, videos: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Reconstructions, and latents."""

    @jax.jit
    def run(model, clip):
        latents = model.encode(clip).mode().astype(jnp.float32)
        return model.decode(latents).astype(jnp.float32).clip(-1, 1), latents

    return [jax.tree.map(np.asarray, run(model, clip)) for clip in videos]


def _psnr(recon: np.ndarray, clip: np.ndarray) -> float:
    return float(psnr(jnp.asarray(recon), jnp.asarray(clip)).mean())
