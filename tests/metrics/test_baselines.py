import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cvvae_jax.metrics.baselines import bicubic_in_space, linear_in_time, nearest_in_time
from cvvae_jax.models.inputs import to_float


def random_video(frames: int):
    values = np.random.default_rng(0).uniform(-1, 1, (2, frames, 2, 3, 3))
    return jnp.asarray(values, jnp.float32)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("frames", [1, 2, 8, 9])
def test_frames_left_out_are_filled_in_from_those_kept(frames, k):
    video = random_video(frames)
    kept = range(0, frames, k)
    nearest = nearest_in_time(video, temporal_compression=k)
    linear = linear_in_time(video, temporal_compression=k)
    for i in range(frames):
        closest = min(kept, key=lambda j: abs(j - i))  # the first, of two equally near
        np.testing.assert_array_equal(nearest[:, i], video[:, closest])
        before = i // k * k
        after = before + k if before + k in kept else before
        share = (i - before) / k
        expected = (1 - share) * video[:, before] + share * video[:, after]
        np.testing.assert_allclose(linear[:, i], expected, atol=1e-6)  # float32


def test_bicubic_is_pillows():
    """Frames of some quiet region, as its users have them: 8-bit, and rounded after each resize."""
    rng = np.random.default_rng(0)
    frames = rng.integers(64, 192, (2, 32, 48, 3), np.uint8)
    found = np.asarray(bicubic_in_space(to_float(frames)[None], spatial_compression=4)[0])
    for frame, ours in zip(frames, found, strict=True):
        small = Image.fromarray(frame).resize((12, 8), Image.Resampling.BICUBIC)
        theirs = np.asarray(small.resize((48, 32), Image.Resampling.BICUBIC), np.float64)
        # Half a level for each of four passes along an axis; of those before the last, as much as
        # a bicubic kernel makes of them, whose absolute weights sum up to 1.25 at most.
        bound = 0.5 * (1 + 1.25 + 1.25**2 + 1.25**3)
        np.testing.assert_allclose((ours + 1) * 127.5, theirs, atol=bound)
        # That is the bound; on average rounding is far smaller, and another kernel isn't.
        assert np.abs((ours + 1) * 127.5 - theirs).mean() < 0.5
