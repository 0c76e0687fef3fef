"""Files of studies: whole or not there, and what they hold comes back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvvae_jax.config import Bucket, DataConfig, StageConfig
from cvvae_jax.data.pipeline import eval_clips
from studies.clip_files import write_place
from studies.files import read_json, read_tree, write_json, write_tree
from studies.sprites import Sprites


def test_clips_come_back_as_training_data_without_loss(tmp_path):
    clips = Sprites(frames=5, size=16).clips(range(3))
    write_place(tmp_path, clips)
    data = DataConfig(videos=str(tmp_path), eval_videos=str(tmp_path), eval_clips=3, max_stride=1)
    found = eval_clips(StageConfig(1, (Bucket(5, 16, 1),)), data)
    assert found.shape == clips.shape
    for clip in clips:
        assert (found == clip).all(axis=(1, 2, 3, 4)).any()


def test_trees_come_back_into_their_own_shape(tmp_path):
    tree = {"a": jnp.arange(3.0), "b": [jnp.ones((2, 2), jnp.int32)]}
    write_tree(tmp_path / "in" / "tree.npz", tree)
    found = read_tree(tmp_path / "in" / "tree.npz", jax.tree.map(jnp.zeros_like, tree))
    jax.tree.map(np.testing.assert_array_equal, found, tree)
    with pytest.raises(ValueError, match="other arrays"):
        read_tree(tmp_path / "in" / "tree.npz", {"a": jnp.arange(4.0), "b": tree["b"]})


def test_what_is_no_number_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())
    write_json(tmp_path / "x.json", {"a": [1.5]})
    assert read_json(tmp_path / "x.json") == {"a": [1.5]}
