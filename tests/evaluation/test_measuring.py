"""Clips are measured in pieces, on all devices, and none of that can be seen in the figures."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvvae_jax.evaluation import measure
from cvvae_jax.evaluation.measure import Measure
from cvvae_jax.evaluation.metrics import METRICS
from cvvae_jax.evaluation.protocol import Protocol
from cvvae_jax.metrics import image, seams, time
from cvvae_jax.models.inputs import to_float, to_uint8

FRAME_METRICS = Protocol(metrics=("psnr", "ssim", "time", "seams"), chunk_frames=4)


def pair(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    """A uint8 reconstruction and its video."""
    rng = np.random.default_rng(0)
    video = rng.uniform(-1, 1, shape).astype(np.float32)
    recon = video + rng.normal(0, 0.2, shape).astype(np.float32)
    return tuple(np.asarray(to_uint8(x)) for x in (recon, video))


@pytest.mark.parametrize(
    ("shape", "pixels", "values"),
    [
        ((11, 13, 17, 3), 2**20, 2**25),
        ((11, 13, 17, 3), 300, 200),
        ((11, 13, 17, 3), 200, 20),
        ((1, 12, 12, 3), 2**20, 2**25),
    ],
    ids=["whole", "in-many-pieces", "frames-larger-than-a-piece", "single-frame"],
)
def test_pieces_measure_what_the_whole_clip_does(monkeypatch, shape, pixels, values):
    """Sums over pixels are taken in another order: 1e-5 relative, in float32."""
    monkeypatch.setattr(measure, "_PIXELS", pixels)
    monkeypatch.setattr(measure, "_VALUES", values)
    recon, video = pair(*shape)
    found = Measure(FRAME_METRICS, {})(recon, video, tile_borders=([5], [8, 9]))
    x, y = to_float(recon[None]), to_float(video[None])
    expected = {
        "mse": image.mse(x, y),
        "ssim": image.ssim(x, y),
        "difference_mse": time.difference_mse(x, y),
        "drift_mse": time.drift_mse(x, y),
        "spectrum": time.error_spectrum(x, y),
        "tile_seam": [
            seams.seam_ratio(x[:, [i]], y[:, [i]], rows=(5,), columns=(8, 9))[0]
            for i in range(shape[0])
        ],
    }
    if shape[0] > 5:
        steps = time.difference_mse(x, y)
        expected["chunk_seam"] = seams.chunk_seam_ratio(steps, frames=(5, 9))
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        wanted = np.asarray(wanted).reshape(found[name].shape)
        np.testing.assert_allclose(found[name], wanted, rtol=1e-5, atol=1e-7, err_msg=name)


def test_floats_are_measured_clipped_but_not_rounded():
    recon, video = (np.asarray(to_float(x)) for x in pair(3, 12, 12, 3))
    recon = recon + 0.3
    protocol = Protocol(metrics=("psnr",), pixels="float")
    found = Measure(protocol, {})(recon, video, tile_borders=([], []))
    expected = np.square(np.clip(recon, -1, 1).astype(np.float64) - video).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(found["mse"], expected, rtol=1e-5)


def test_a_clip_measures_the_same_in_any_batch():
    recon, video = pair(3, 5, 12, 12, 3)
    run = Measure(FRAME_METRICS, {})
    together = run.frames(recon, video)
    for i in range(3):
        for name, alone in run.frames(recon[[i]], video[[i]]).items():
            np.testing.assert_allclose(together[name][i], alone[0], rtol=1e-6, err_msg=name)


def test_small_frames_leave_out_what_is_not_defined_on_them():
    recon, video = pair(2, 8, 12, 3)
    protocol = Protocol(metrics=("psnr", "ssim", "ms_ssim"))
    found = Measure(protocol, {})(recon, video, tile_borders=([], []))
    assert found.keys() == {"mse"}


FRAMES = {"mse", "ssim", "lpips_vgg", "warping"}


@pytest.mark.parametrize(
    ("frames", "size", "defined"),
    [
        (8, 10, {"mse"}),
        (9, 11, {"mse", "ssim", "fvd"}),
        (2, 15, {"mse", "ssim"}),
        (2, 16, FRAMES),
        (2, 30, FRAMES),
        (2, 31, FRAMES | {"lpips_alex"}),
        (1, 175, FRAMES | {"lpips_alex"}),
        (1, 176, FRAMES | {"lpips_alex", "ms_ssim"}),
    ],
)
def test_every_metric_is_measured_from_its_smallest_size_on(monkeypatch, frames, size, defined):
    stand_ins = {
        "lpips_vgg": lambda _, x, y: abs(x - y).mean((2, 3, 4)),
        "lpips_alex": lambda _, x, y: abs(x - y).mean((2, 3, 4)),
        "fvd": lambda _, video: jnp.zeros((1, 3)),
        "warping": lambda *_: np.zeros(()),
    }
    for name, function in stand_ins.items():
        row = dataclasses.replace(METRICS[name], function=function)
        monkeypatch.setitem(METRICS, name, row)
    metrics = ("psnr", "ssim", "ms_ssim", "lpips_vgg", "lpips_alex", "warping", "fvd")
    names = ("lpips_vgg", "lpips_alex", "fvd")
    run = Measure(Protocol(metrics=metrics), dict.fromkeys(names, np.zeros(())))
    found = run(*pair(frames, size, size + 1, 3), tile_borders=([], []))
    assert found.keys() == defined


def test_seams_alone_come_without_what_they_are_made_from():
    recon, video = pair(7, 12, 12, 3)
    protocol = Protocol(metrics=("seams",), chunk_frames=4)
    found = Measure(protocol, {})(recon, video, tile_borders=([], []))
    assert found.keys() == {"chunk_seam"}


def test_all_devices_take_part():
    run = Measure(FRAME_METRICS, {})
    seen = []
    original = measure._frames

    def spy(networks, recon, video, *, metrics):
        seen.append(recon.sharding.num_devices)
        return original(networks, recon, video, metrics=metrics)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "_frames", spy)
        run.frames(*pair(1, 9, 12, 12, 3))
    assert seen == [jax.device_count()]
