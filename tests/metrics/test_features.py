"""Features of Frechet distances: what the networks are given, and what is made of their answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvvae_jax.metrics.frechet import clip_features, frame_features
from cvvae_jax.models.feature_networks.i3d import I3D
from cvvae_jax.models.feature_networks.inception import InceptionV3

# Positions between pixels, up to 320, are right to 3e-5 in float32; neighbors differ by up to 1.
TOLERANCE = 5e-5


class GridClasses(I3D):
    """Gives the brightness of a coarse grid of its frames as logits: 400 cells for each of two
    steps in time."""

    def __init__(self):
        pass

    def logits(self, video):
        assert video.shape[2:4] == (224, 224)
        cells = video[:, :2, 5::11, 5::11, 0][:, :, :20, :20]
        return cells.reshape(*cells.shape[:2], 400)


class GridFeatures(InceptionV3):
    """Gives the brightness of a coarse grid of every frame as the frame's features."""

    def __init__(self):
        pass

    def features(self, video):
        assert video.shape[2:4] == (299, 299)
        return video[:, :, 7::31, 7::31, 0].reshape(*video.shape[:2], -1)


def random_video(*shape: int, scale: float = 0.5) -> np.ndarray:
    values = np.random.default_rng(0).standard_normal((*shape, 3))
    return (scale * values).astype(np.float32)


def bilinear(frames: np.ndarray, size: int) -> np.ndarray:
    """Frames (n, h, w) resized axis by axis between the centers of the two nearest pixels."""
    for axis in (1, 2):
        old = frames.shape[axis]
        at = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
        low = np.minimum(at.astype(int), old - 2)
        share = (at - low)[:, None] if axis == 1 else at - low
        below, above = (np.take(frames, low + i, axis) for i in (0, 1))
        frames = below + (above - below) * share
    return frames


@pytest.mark.parametrize(("height", "width"), [(40, 64), (256, 320)])
def test_clips_are_resized_without_smoothing_and_averaged_over_time(height, width):
    video = random_video(2, 3, height, width, scale=0.2)
    found = jax.jit(lambda v: clip_features(GridClasses(), v))(jnp.asarray(video))
    for entry, ours in zip(np.clip(video, -1, 1), found, strict=True):
        cells = bilinear(entry[:2, :, :, 0].astype(np.float64), 224)[:, 5::11, 5::11][:, :20, :20]
        np.testing.assert_allclose(ours, cells.reshape(2, 400).mean(0), atol=TOLERANCE)


def test_every_frame_is_resized_for_itself():
    video = random_video(1, 3, 50, 40, scale=0.2)
    found = frame_features(GridFeatures(), jnp.asarray(video))
    cells = bilinear(np.clip(video[0, ..., 0], -1, 1).astype(np.float64), 299)[:, 7::31, 7::31]
    np.testing.assert_allclose(found[0], cells.reshape(3, -1), atol=TOLERANCE)


@pytest.mark.parametrize(
    "features",
    [
        lambda video: clip_features(GridClasses(), video),
        lambda video: frame_features(GridFeatures(), video),
    ],
    ids=["clips", "frames"],
)
def test_values_beyond_the_range_are_clipped_first(features):
    video = jnp.asarray(random_video(1, 2, 32, 32, scale=2.0))
    np.testing.assert_array_equal(features(video), features(jnp.clip(video, -1, 1)))


@pytest.mark.parametrize("size", [(40, 64), (300, 257)])
def test_resizing_is_that_of_pytorch(size):
    torch = pytest.importorskip("torch")
    video = random_video(1, 2, *size, scale=0.2)
    frames = torch.from_numpy(np.moveaxis(np.clip(video[0], -1, 1), -1, 1).copy())
    theirs = torch.nn.functional.interpolate(
        frames, size=(299, 299), mode="bilinear", align_corners=False
    )
    expected = theirs[:, 0, 7::31, 7::31].reshape(2, -1).numpy()
    found = frame_features(GridFeatures(), jnp.asarray(video))
    np.testing.assert_allclose(found[0], expected, atol=TOLERANCE)
