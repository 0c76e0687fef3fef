"""Moving sprites show what their labels say, and the classifier reads it."""

import numpy as np
import pytest

from studies import sprites as sprites_module
from studies.classifier import as_values, distances, judge, train_classifier
from studies.sprites import COLORS, LABELS, MOTIONS, Sprites, photographs

SPRITES = Sprites(frames=5, size=32)


def test_a_clip_depends_on_its_seed_split_and_number_alone():
    clips = SPRITES.clips(range(6))
    assert clips.shape == (6, 5, 32, 32, 3) and clips.dtype == np.uint8
    np.testing.assert_array_equal(SPRITES.clips([4, 2]), clips[[4, 2]])
    others = [Sprites(5, 32, split="test"), Sprites(5, 32, seed=1)]
    for other in others:
        assert not any(
            (clip == clips).all(axis=(1, 2, 3, 4)).any() for clip in other.clips(range(6))
        )


def test_labels_are_spread_evenly():
    """1200 draws of 64 triples: every value of a kind has 300 of them, within five deviations."""
    labels = SPRITES.labels(range(1200))
    assert labels.min() == 0 and (labels.max(axis=0) == np.asarray(LABELS) - 1).all()
    for kind, count in enumerate(LABELS):
        found = np.bincount(labels[:, kind])
        assert abs(found - 1200 / count).max() < 5 * (1200 / count) ** 0.5


def sprite_of(clips: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Where a clip is nearer to its sprite's color than half of the ground's distance."""
    colors = np.asarray(list(COLORS.values()))[labels[:, 1]][:, None, None, None]
    return np.linalg.norm(clips - colors, axis=-1) < 60


def test_colors_and_motions_are_those_of_the_labels():
    """The center of the pixels of the sprite's color moves the way of the label, by half a pixel a
    frame or more."""
    labels, clips = SPRITES.labels(range(40)), SPRITES.clips(range(40)).astype(float)
    covered = sprite_of(clips, labels)
    assert (covered.mean(axis=(2, 3)) > 0.03).all() and (covered.mean(axis=(2, 3)) < 0.35).all()
    grid = np.stack(np.mgrid[:32, :32][::-1], axis=-1)
    centers = (covered[..., None] * grid).sum(axis=(2, 3)) / covered.sum(axis=(2, 3))[..., None]
    steps = (centers[:, -1] - centers[:, 0]) / 4
    wanted = np.asarray(list(MOTIONS.values()))[labels[:, 2]]
    along = (steps * wanted).sum(axis=1)
    across = np.abs(steps * (1 - np.abs(wanted))).max(axis=1)
    assert (along > 0.4).all() and (across < 0.25).all()


def test_shapes_differ_in_what_they_cover():
    """Of the square around a shape: pi / 4 for a disk, all of a square, less of the others."""
    y, x = np.mgrid[-1:1:200j, -1:1:200j]
    share = {name: (shape(x, y) < 0).mean() for name, shape in sprites_module.SHAPES.items()}
    np.testing.assert_allclose(share["disk"], np.pi / 4, atol=0.01)
    np.testing.assert_allclose(share["square"], 0.85**2, atol=0.01)
    np.testing.assert_allclose(share["ring"], np.pi / 4 * (1 - 0.5**2), atol=0.01)
    assert 0.3 < share["triangle"] < 0.5


def test_photographs_move_and_splits_share_none():
    clips = photographs(3, frames=5, size=16, split="train", seed=0)
    assert clips.shape == (3, 5, 16, 16, 3) and clips.std() > 10
    assert (np.abs(np.diff(clips.astype(int), axis=1)).mean(axis=(1, 2, 3, 4)) > 0.1).all()
    assert not set(sprites_module._PHOTOS["train"]) & set(sprites_module._PHOTOS["test"])
    np.testing.assert_array_equal(
        photographs(2, frames=5, size=16, split="train", seed=0), clips[:2]
    )


@pytest.mark.slow
def test_the_classifier_reads_labels_and_its_distances_have_a_floor():
    """Real against real is far below real against swapped colors, or against clips that run
    backward; labels of other clips are told by chance alone."""
    model = train_classifier(Sprites(5, 32, split="classifier"), steps=250)
    tested = Sprites(5, 32, split="test")
    parts = [range(256), range(256, 512)]
    clips = [as_values(tested.clips(part)) for part in parts]
    labels = [tested.labels(part) for part in parts]
    real = [judge(model, *pair) for pair in zip(clips, labels, strict=True)]
    assert min(real[0].accuracy.values()) > 0.8
    wrong = judge(model, clips[0], labels[1])
    assert max(wrong.accuracy.values()) < 0.4
    floor = distances(*real)
    swapped = distances(judge(model, clips[0][..., ::-1], labels[0]), real[1])
    assert swapped["frames"] > 3 * floor["frames"]
    backward = judge(model, clips[0][:, ::-1], labels[0])
    assert backward.accuracy["motion"] < 0.1 and backward.accuracy["shape"] > 0.8
    stills = judge(model, clips[0][:, :1], labels[0][:, :2])
    assert stills.accuracy.keys() == {"shape", "color"}
    assert distances(stills, real[1]).keys() == {"frames"}
