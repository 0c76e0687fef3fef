"""Models of official widths through the commands, as a user runs them; weights are random, and were
written in PyTorch's layout and read back."""

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from many_processes import environment
from safetensors.numpy import load_file
from tiny_models import random_model
from tiny_videos import RATE, make_video

import cvvae_jax
from cvvae_jax.checkpoint import save_model
from cvvae_jax.cli.main import main
from cvvae_jax.config import ImageVAEConfig, SVDVAEConfig
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.svd_vae import SVDVAE
from cvvae_jax.models.video_vae import PRESETS, VideoVAE
from cvvae_jax.video_io.frame_index import count_frames
from cvvae_jax.video_io.video import probe

ROOT = Path(__file__).parents[2]
SD3 = {"latent_channels": 16, "scaling_factor": 1.5305, "shift_factor": 0.0609}
MODELS = {
    **{f"CV-VAE-{name}": (VideoVAE, config) for name, config in PRESETS.items()},
    "SD2.1": (ImageVAE, ImageVAEConfig()),
    "SD3": (ImageVAE, ImageVAEConfig(quant_conv=False, **SD3)),
    "SVD": (SVDVAE, SVDVAEConfig()),
}
SIZES = [(5, 64, 64), (25, 96, 128)]
QUICK = ("CV-VAE-sd21", SIZES[0], 1, "float32")
# Each takes four to fifteen minutes, so that they are one of every model, which together have all
# pairs of devices and types; all 24 passed once.
LARGE = {
    "CV-VAE-sd21": (8, "bfloat16"),
    "CV-VAE-sd21_full3d": (1, "float32"),
    "CV-VAE-sd3": (8, "float32"),
    "SD2.1": (1, "bfloat16"),
    "SD3": (8, "float32"),
    "SVD": (8, "bfloat16"),
}
SMALL = itertools.product(MODELS, SIZES[:1], (1, 8), ("float32", "bfloat16"))
ALL = [*SMALL, *((model, SIZES[1], *LARGE[model]) for model in MODELS)]
CASES = [
    pytest.param(
        *(model, size, devices, dtype),
        id=f"{model}-{'x'.join(map(str, size))}-{devices}-devices-{dtype}",
        marks=() if (model, size, devices, dtype) == QUICK else pytest.mark.slow,
    )
    for model, size, devices, dtype in ALL
]
# Two programs of the same sums in another order. bfloat16 has 8 bits, and rounds each of some sixty
# layers.
TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2}
# Flat fields would take far longer than all else.
PROTOCOL = 'frames = {}\nchunk_frames = {}\nmetrics = ["psnr", "ssim"]\nflat_fields = false\n'


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """converted(model): the folder of its weights."""
    done: dict[str, Path] = {}

    def convert(model: str) -> Path:
        if model not in done:
            folder = tmp_path_factory.mktemp("model")
            save_model(folder / "ours", random_model(*MODELS[model]))
            assert main(["convert", str(folder / "ours"), str(folder / "torch")]) == 0
            shutil.rmtree(folder / "ours")
            done[model] = folder / "torch"
        return done[model]

    return convert


@pytest.mark.parametrize(("model", "size", "devices", "dtype"), CASES)
def test_commands_run_official_widths(converted, tmp_path, model, size, devices, dtype):
    weights, (frames, height, width) = converted(model), size
    # Six chunks for eight devices in place of two, which would keep six devices busy with padding.
    chunk_frames = 4 if devices > 1 and frames > 5 else 16
    settings = environment(devices=devices)
    if size != SIZES[0]:  # more is computed than compiled, so that optimizing pays
        settings["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"

    def run(*command) -> str:
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=tmp_path,
            env=settings,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    (tmp_path / "clips").mkdir()
    (tmp_path / "protocol.toml").write_text(PROTOCOL.format(frames, chunk_frames))
    video = make_video(tmp_path / "clips/in.mp4", frames=frames, height=height, width=width)
    use = ["--weights", weights, "--dtype", dtype, "--chunk-frames", chunk_frames]
    cvvae = ["-m", "cvvae_jax"]
    run(*cvvae, "encode", video, "out.safetensors", *use)
    run(*cvvae, "decode", "out.safetensors", "decoded.mp4", *use)
    run(*cvvae, "reconstruct", video, "reconstructed.mp4", *use)
    run(*cvvae, "latents", "clips", "shards", *use)
    evaluation = ["--data", "clips", "--protocol", "protocol.toml", "--image-vae", "none"]
    run(*cvvae, "evaluate", f"it={weights}", *evaluation, "--dtype", dtype, "--out", "evaluation")

    for name in ("decoded.mp4", "reconstructed.mp4"):
        info = probe(tmp_path / name)
        assert (info.height, info.width, info.fps) == (height, width, RATE)
        assert count_frames(tmp_path / name) == frames
    strides = 1 if MODELS[model][0] is not VideoVAE else 4
    latents = load_file(tmp_path / "out.safetensors")["latents"]
    assert latents.shape[:3] == (1 + (frames - 1) // strides, height // 8, width // 8)
    (record,) = cvvae_jax.LatentsDataset(tmp_path / "shards")
    tolerance = TOLERANCES[dtype] * np.abs(latents).max()
    np.testing.assert_allclose(record["mean"], latents, atol=tolerance, rtol=0)
    results = json.loads((tmp_path / "evaluation/results.json").read_text())
    assert results["scores"] and not results["flat_fields"]
    if size == SIZES[0]:  # nothing is cut
        script = ROOT / "tests/full_width_process.py"
        found = json.loads(run(script, weights, dtype, video, "out.safetensors").splitlines()[-1])
        assert max(found.values()) <= TOLERANCES[dtype], found
