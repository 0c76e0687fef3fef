"""`save(model, path)`: the inverse of `load`."""

import jax
import numpy as np
import pytest
from tiny_training import SMALLEST_IMAGE, first_state, frozen_networks

import cvvae_jax
from cvvae_jax.errors import UserError


def test_save_is_the_inverse_of_load(tmp_path):
    model = frozen_networks(SMALLEST_IMAGE).image_vae
    cvvae_jax.save(model, tmp_path / "deep" / "saved")
    again = cvvae_jax.load(tmp_path / "deep" / "saved")
    assert again.config == model.config
    for ours, theirs in zip(jax.tree.leaves(again), jax.tree.leaves(model), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(UserError, match="exists; a model is never written over another"):
        cvvae_jax.save(model, tmp_path / "deep" / "saved")


def test_save_takes_models_alone(tmp_path):
    with pytest.raises(UserError, match=r"not TrainState: its `averaged` is one"):
        cvvae_jax.save(first_state(gan=False), tmp_path / "saved")
    with pytest.raises(UserError, match="not dict"):
        cvvae_jax.save({}, tmp_path / "saved")
    assert not list(tmp_path.iterdir())
