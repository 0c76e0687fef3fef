"""Clips in memory: they go through the pipeline as files do, and what is no clip is refused."""

import pickle
import types

import numpy as np
import pytest

from cvvae_jax import data
from cvvae_jax.config import Bucket, DataConfig, StageConfig
from cvvae_jax.config.places import expand_home
from cvvae_jax.data.pipeline import batches, eval_clips
from cvvae_jax.data.sources import open_source
from cvvae_jax.errors import UserError

STAGE = StageConfig(4, (Bucket(3, 8, 2),))


def colored(count, frames=5):
    """Clips of one color each, their number."""
    return [np.full((frames + i, 10, 12, 3), i, np.uint8) for i in range(count)]


class Asked:
    """What is neither list nor array, and can be sent to other processes."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return colored(6)[index]


def taken(stream, count=4):
    return [next(stream) for _ in range(count)]


def test_clips_go_through_the_pipeline_and_go_on_where_they_were():
    config = DataConfig(videos=data.from_arrays(colored(6)))
    whole = taken(batches(STAGE, config, seed=1, start_step=0))
    later = taken(batches(STAGE, config, seed=1, start_step=2), 2)
    for ours, theirs in zip(later, whole[2:], strict=True):
        np.testing.assert_array_equal(ours["video"], theirs["video"])
        np.testing.assert_array_equal(ours["seed"], theirs["seed"])
    assert whole[0]["video"].shape == (2, 3, 8, 8, 3)


def test_processes_share_a_batch():
    config = DataConfig(videos=data.from_arrays(colored(6)))
    whole = next(batches(STAGE, config, seed=1, start_step=0))
    halves = [
        next(batches(STAGE, config, seed=1, start_step=0, process_index=i, process_count=2))
        for i in range(2)
    ]
    joined = np.concatenate([half["video"] for half in halves])
    np.testing.assert_array_equal(joined, whole["video"])


def test_held_out_clips_are_not_trained_on_whatever_the_place_is_called():
    sides = {}
    for name in ("one", "two"):
        place = data.from_arrays(colored(30), name=name)
        config = DataConfig(videos=place, eval_clips=8)
        unseen = set(np.unique(eval_clips(STAGE, config)))
        stream = batches(StageConfig(1, (Bucket(3, 8, 10),)), config, seed=0, start_step=0)
        seen = {int(n) for batch in taken(stream, 3) for n in np.unique(batch["video"])}
        assert unseen and len(seen) + len(unseen) == 30 and not unseen & seen
        sides[name] = unseen
    assert sides["one"] == sides["two"]


def test_any_object_with_length_and_items_is_a_source():
    config = DataConfig(videos=data.from_arrays(Asked()))
    listed = DataConfig(videos=data.from_arrays(colored(6)))
    ours, theirs = (next(batches(STAGE, c, seed=0, start_step=0)) for c in (config, listed))
    np.testing.assert_array_equal(ours["video"], theirs["video"])


def test_clips_can_be_sent_to_worker_processes():
    source = open_source(data.from_arrays(Asked()), "video")
    sent = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(sent[3].array, source[3].array)


def test_images_are_clips_of_one_frame():
    source = open_source(data.from_arrays([np.zeros((8, 9, 3), np.uint8)]), "image")
    assert source[0].array.shape == (1, 8, 9, 3) and source.name(0) == "clip 0"


def test_a_name_that_is_taken_again_means_the_new_clips():
    for count in (2, 3):
        assert data.from_arrays(colored(count), name="mine") == "arrays:mine"
    assert len(open_source("arrays:mine", "video")) == 3
    assert data.from_arrays(colored(1)) != data.from_arrays(colored(1))


@pytest.mark.parametrize(
    ("clips", "said"),
    [
        ([], "one clip or more"),
        (7, "not int"),
        ({0: np.zeros((1, 8, 8, 3), np.uint8)}, "not dict"),
        ([np.zeros((3, 8, 8, 3), np.uint8), np.zeros((3, 8, 8, 3))], "clip 1 .* not float64"),
        ([np.zeros((3, 8, 8), np.uint8)], r"not uint8 \(3, 8, 8\)"),
        ([np.zeros((0, 8, 8, 3), np.uint8)], r"\(0, 8, 8, 3\)"),
    ],
)
def test_what_is_no_clip_is_refused(clips, said):
    with pytest.raises(UserError, match=said):
        data.from_arrays(clips)


def test_names_and_rates_are_checked():
    with pytest.raises(UserError, match="a name must be letters"):
        data.from_arrays(colored(1), name="a/b*")
    with pytest.raises(UserError, match="fps must be above 0"):
        data.from_arrays(colored(1), fps=0.0)


def test_a_place_of_another_process_is_refused():
    with pytest.raises(UserError, match="arrays:gone: this process has no clips of that name"):
        open_source("arrays:gone", "video")


def test_a_clip_alone_is_no_array_of_clips():
    with pytest.raises(UserError, match=r"\(5, 10, 12, 3\): \[clip\] makes one clip of it"):
        data.from_arrays(colored(1)[0])


@pytest.mark.parametrize("given", [colored(2), np.zeros((2, 5, 10, 12, 3), np.uint8)])
def test_clips_are_no_place_themselves(given):
    settings = types.SimpleNamespace(videos=given)  # the tests' type checks refuse a DataConfig
    with pytest.raises(
        UserError, match=f"videos must be .*, not {type(given).__name__}; .*from_arrays"
    ):
        expand_home(settings, "videos")
