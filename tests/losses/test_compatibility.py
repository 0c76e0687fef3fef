import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvvae_jax.losses import compat_targets, draw_offsets

# Every pixel of frame t is t, so a target says which frames it was made of.
VIDEO = jnp.broadcast_to(jnp.arange(9.0).reshape(1, 9, 1, 1, 1), (2, 9, 2, 2, 3))


def frames_of(mapping: str, key=None) -> np.ndarray:
    key = jax.random.key(0) if key is None else key
    offsets = draw_offsets(key, groups=2, temporal_compression=4)
    targets = compat_targets(VIDEO, mapping=mapping, temporal_compression=4, offsets=offsets)
    return np.asarray(targets[0, :, 0, 0, 0])


@pytest.mark.parametrize(
    ("mapping", "frames"), [("first", [0]), ("slice", [0, 4, 8]), ("mean", [0, 2.5, 6.5])]
)
def test_mapping_takes_the_frames_of_the_paper(mapping, frames):
    np.testing.assert_allclose(frames_of(mapping), frames)


def test_random_mapping_draws_every_frame_of_a_group_equally_often():
    """1000 draws: a frame's share has a standard error of 0.014."""
    keys = jax.random.split(jax.random.key(0), 1000)
    draws = np.stack([frames_of("random", key) for key in keys])
    assert (draws[:, 0] == 0).all()
    for group in (1, 2):
        values, counts = np.unique(draws[:, group], return_counts=True)
        np.testing.assert_array_equal(values, np.arange(4 * group - 3, 4 * group + 1))
        np.testing.assert_allclose(counts / 1000, 0.25, atol=0.06)
    assert np.abs(np.corrcoef(draws[:, 1], draws[:, 2])[0, 1]) < 0.13


def test_offsets_pick_the_frames_of_the_groups():
    offsets = jnp.array([2, 0])
    targets = compat_targets(VIDEO, mapping="random", temporal_compression=4, offsets=offsets)
    np.testing.assert_array_equal(targets[:, :, 0, 0, 0], [[0, 3, 5]] * 2)


@pytest.mark.parametrize("mapping", ["first", "slice", "mean", "random"])
def test_an_image_is_its_own_target(mapping):
    image = VIDEO[:, :1]
    offsets = jnp.zeros((0,), jnp.int32)
    targets = compat_targets(image, mapping=mapping, temporal_compression=4, offsets=offsets)
    np.testing.assert_array_equal(targets, image)
