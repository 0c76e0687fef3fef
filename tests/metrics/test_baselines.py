import jax.numpy as jnp
import numpy as np
import pytest

from cvvae_jax.metrics.baselines import linear_in_time, nearest_in_time


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
