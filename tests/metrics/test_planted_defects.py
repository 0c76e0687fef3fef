"""Every metric reads its own defect, planted in a video, before all others of the same mean squared
error, and nothing where there is none."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvvae_jax.metrics import seams, time
from cvvae_jax.metrics.image import mse

SHAPE = (2, 19, 16, 18, 3)
RMS = 6 / 127.5
TILES, CHUNKS = {"row_borders": (7,), "column_borders": (6, 12)}, (9,)


def defects() -> dict[str, np.ndarray]:
    """Errors, float32 (b, t, h, w, 3), each of the root mean square `RMS`."""
    rng = np.random.default_rng(0)
    times = np.arange(SHAPE[1])[None, :, None, None, None]
    across = np.arange(SHAPE[3])[None, None, None, :, None]
    shapes = {
        "flicker": (-1.0) ** times,
        "drift": times - times.mean(),
        "tile seam": (-1.0) ** np.digitize(across, TILES["column_borders"]),
        "chunk seam": np.where(times < CHUNKS[0], 1.0, -1.0),
        "still": rng.normal(size=(2, 1, *SHAPE[2:])),
        "noise": rng.normal(size=SHAPE),
    }
    whole = {name: np.broadcast_to(values, SHAPE) for name, values in shapes.items()}
    return {
        name: (RMS * values / np.sqrt(np.mean(values**2))).astype(np.float32)
        for name, values in whole.items()
    }


def moving_video() -> np.ndarray:
    """Waves that move, float32 in [-0.5, 0.5], other ones in every clip and channel."""
    clips, times, down, across, channels = np.indices(SHAPE)
    waves = np.sin(down / 3 + times / 2 + clips) + np.cos(across / 2 - times * (1 + channels) / 3)
    return (waves / 4).astype(np.float32)


@functools.cache
def scores(measure) -> dict[str, np.ndarray]:
    """A measure's values for every defect, by the defect's name."""
    video, run = jnp.asarray(moving_video()), jax.jit(measure)
    return {name: np.asarray(run(video + values, video)) for name, values in defects().items()}


def difference_error(recon, video):
    return time.difference_mse(recon, video).mean(axis=1)


def flicker(recon, video):
    return time.flicker(time.error_spectrum(recon, video))


def drift(recon, video):
    return time.levels_of(time.drift_mse(recon, video))


def tile_seams(recon, video):
    return seams.seam_ratio(recon, video, **TILES)


def chunk_seams(recon, video):
    return seams.chunk_seam_ratio(time.difference_mse(recon, video), frames=CHUNKS)


@pytest.mark.parametrize(
    ("measure", "defect"),
    [
        (difference_error, "flicker"),
        (flicker, "flicker"),
        (drift, "drift"),
        (tile_seams, "tile seam"),
        (chunk_seams, "chunk seam"),
    ],
    ids=["difference_mse", "flicker", "drift", "seam_ratio", "chunk_seam_ratio"],
)
def test_own_defect_comes_first(measure, defect):
    own = scores(measure)[defect]
    for name, others in scores(measure).items():
        assert name == defect or (others < 0.9 * own).all(), name


def test_defects_are_all_as_large_as_each_other():
    for values in scores(mse).values():
        np.testing.assert_allclose(values.mean(), RMS**2, rtol=1e-5)


def check_difference_mse(measure) -> None:
    """Whether it reads what stands still, alternates or is unrelated for what it is.

    Exact values but for float32 sums, and for the noise, of which some ten thousand numbers were
    drawn.
    """
    found = {name: values.mean() / RMS**2 for name, values in scores(measure).items()}
    assert found["still"] == pytest.approx(0, abs=1e-6)
    assert found["tile seam"] == pytest.approx(0, abs=1e-6)
    assert found["flicker"] == pytest.approx(4, rel=1e-4)
    assert found["noise"] == pytest.approx(2, rel=0.05)


def check_flicker(measure) -> None:
    """In 8-bit levels, of which every defect has 6."""
    found = {name: values.mean() for name, values in scores(measure).items()}
    assert found["flicker"] == pytest.approx(6, rel=1e-3)
    assert found["still"] == pytest.approx(0, abs=1e-4)
    assert found["tile seam"] == pytest.approx(0, abs=1e-4)
    # 15 of 32 bins of both signs, at a quarter cycle and above, and half of two borders.
    assert found["noise"] == pytest.approx(6 * np.sqrt(9 / 16), rel=0.05)
    assert found["drift"] < 0.5
    assert found["chunk seam"] < 2


def test_difference_mse_tells_still_alternating_and_unrelated_errors_apart():
    check_difference_mse(difference_error)


def test_flicker_is_what_alternates():
    check_flicker(flicker)


def test_steady_growth_is_all_drift_and_a_still_error_none():
    found = scores(drift)
    np.testing.assert_allclose(found["drift"], 6, rtol=1e-5)
    for name in ("still", "tile seam"):
        np.testing.assert_allclose(found[name], 0, atol=1e-4)


def test_borders_without_steps_have_ratio_one():
    """Noise has steps everywhere: some hundred of them at borders, known to a few percent."""
    for measure in (tile_seams, chunk_seams):
        np.testing.assert_allclose(scores(measure)["noise"], 1, atol=0.2)


def channels_in_place_of_frames(recon, video):
    """The error differenced along its last axis."""
    return jnp.square(jnp.diff(recon - video, axis=-1)).mean(axis=(1, 2, 3, 4))


def clips_folded_into_time(recon, video):
    """The frames of all clips one after the other, so that they are differenced across clips."""
    errors = (recon - video).reshape(1, -1, *SHAPE[2:])
    return jnp.square(jnp.diff(errors, axis=1)).mean(axis=(1, 2, 3, 4))


@pytest.mark.parametrize("wrong", [channels_in_place_of_frames, clips_folded_into_time])
def test_planted_flicker_finds_out_who_differences_another_axis(wrong):
    with pytest.raises(AssertionError):
        check_difference_mse(wrong)


def spectrum_over_channels(recon, video):
    swapped = (jnp.tile(x.swapaxes(1, 4), (1, 6, 1, 1, 1))[..., :3] for x in (recon, video))
    return time.flicker(time.error_spectrum(*swapped))


def test_planted_flicker_finds_out_who_takes_the_spectrum_of_channels():
    with pytest.raises(AssertionError):
        check_flicker(spectrum_over_channels)


def test_equal_videos_have_no_defects():
    video = jnp.asarray(moving_video())
    for measure in (difference_error, flicker, drift):
        np.testing.assert_array_equal(jax.jit(measure)(video, video), 0)
    for measure in (tile_seams, chunk_seams):
        np.testing.assert_array_equal(jax.jit(measure)(video, video), 1)
