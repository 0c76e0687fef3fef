"""Compatibility by latents: distances with known answers, gradients against differences, and the
settings that name the terms."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_training import IMAGE, SMOOTH, frozen_networks

from cvvae_jax.config import LossConfig
from cvvae_jax.errors import ConfigError, UserError
from cvvae_jax.losses import feature_distance, latent_distance
from cvvae_jax.models.gaussian import DiagonalGaussian
from cvvae_jax.training.latent_terms import check_layers, latent_terms

SHAPE = (2, 3, 4, 4, 4)  # of latents: clips, frames, height, width, channels
VALUES = 8 * 8 * 3  # of a frame of the video


def posterior(seed: int, frames: int = 3) -> DiagonalGaussian:
    rng = np.random.default_rng(seed)
    shape = (SHAPE[0], frames, *SHAPE[2:])
    mean, logvar = rng.normal(size=shape), rng.normal(size=shape) - 1
    return DiagonalGaussian(jnp.float32(mean), jnp.float32(logvar))


@pytest.mark.parametrize(("kind", "of_each"), [("l1", 0.5), ("l2", 0.25), ("kl", 0.5)])
def test_latents_that_differ_by_a_half_have_a_known_distance(kind, of_each):
    """Of Gaussians with one deviation s, the KL divergence is d^2 / 2 s^2: 0.5 with d and s 1/2."""
    theirs = DiagonalGaussian(jnp.ones(SHAPE), jnp.full(SHAPE, 2 * np.log(0.5)))
    ours = DiagonalGaussian(theirs.mean.at[:, 1].add(-0.5), theirs.logvar)
    count = np.prod(SHAPE[2:])
    expected = np.float32([[0, of_each * count, 0]] * 2)
    np.testing.assert_allclose(latent_distance(ours, theirs, kind=kind), expected, rtol=1e-6)


def test_feature_distance_is_relative_to_the_reference():
    theirs = jnp.float32(np.random.default_rng(0).normal(size=(1, 4, 3, 3, 5)))
    factors = jnp.float32([1, 2, 0, -1]).reshape(1, 4, 1, 1, 1)
    np.testing.assert_allclose(feature_distance(factors * theirs, theirs), [[0, 1, 1, 4]], 1e-6)


def terms_of(mean, *, reference, **loss):
    loss = dataclasses.replace(SMOOTH, **loss)
    image_vae, ours = frozen_networks().image_vae, DiagonalGaussian(mean, posterior(0).logvar)
    return latent_terms(ours, reference, image_vae, loss=loss, values=VALUES, remat="none")


@pytest.mark.parametrize(
    "loss",
    [
        {"compat_mode": "latent", "latent_distance": "l2"},
        {"compat_mode": "latent", "latent_distance": "kl"},
        {"compat_mode": "features", "feature_layers": "conv_in,mid_block,up_blocks/00"},
    ],
    ids=["l2", "kl", "features"],
)
def test_gradients_through_the_frozen_networks_equal_central_differences(loss):
    """Along a random direction, in float32: with steps of 1e-2 the third derivative and rounding
    both stay below a hundredth."""
    reference = posterior(1)
    value = jax.jit(lambda mean: terms_of(mean, reference=reference, **loss)[0])
    mean, direction = posterior(0).mean, posterior(2).mean
    step = 1e-2
    difference = (value(mean + step * direction) - value(mean - step * direction)) / (2 * step)
    slope = jnp.vdot(jax.jit(jax.grad(value))(mean), direction)
    assert abs(difference) > 1e-2
    np.testing.assert_allclose(slope, difference, rtol=1e-2)


def test_terms_are_weighted_and_compare_as_many_frames_as_the_mapping_gives():
    """The mapping `first` gives one frame; and E_v equal to E_i costs nothing."""
    ours, first = posterior(0), posterior(1, frames=1)
    loss = {"compat_mode": "latent:2,features:0.5", "compat_weight": 10.0}
    total, metrics = terms_of(ours.mean, reference=first, **loss)
    assert set(metrics) == {"loss/compat_latent", "loss/compat_features"}
    latent, features = metrics["loss/compat_latent"], metrics["loss/compat_features"]
    np.testing.assert_allclose(total, 20 * latent + 5 * VALUES * features, rtol=1e-6)
    difference = np.abs(np.asarray(ours.mean[:, :1] - first.mean))
    np.testing.assert_allclose(latent, difference.sum() / 2, rtol=1e-6)
    total, _ = terms_of(ours.mean, reference=ours, **loss)
    assert float(total) == 0


def test_layers_that_are_compared_are_those_of_the_decoder():
    image_vae, latents = frozen_networks().image_vae, posterior(0).mean
    names = tuple(image_vae.decoder.layers())
    assert names == ("conv_in", "mid_block", "up_blocks/00", "up_blocks/01")
    found = jax.eval_shape(
        functools.partial(type(image_vae).decoder_features, names=names), image_vae, latents
    )
    assert [output.shape[2] for output in found] == [4, 4, 8, 8]
    [last] = image_vae.decoder_features(latents, ("up_blocks/01",))
    hidden = jax.nn.silu(image_vae.decoder.conv_norm_out(last[:, :1]))
    np.testing.assert_allclose(hidden, image_vae.decode_hidden(latents[:, :1]), atol=1e-5)


def test_layer_that_the_image_decoder_lacks_is_named():
    loss = LossConfig(compat_mode="features", feature_layers="conv_in,up_blocks/07")
    said = "names up_blocks/07, and the image decoder has conv_in, mid_block, up_blocks/00, up_blo"
    with pytest.raises(UserError, match=said):
        check_layers(frozen_networks(IMAGE).image_vae, loss)
    check_layers(frozen_networks(IMAGE).image_vae, dataclasses.replace(loss, compat_mode="none"))


@pytest.mark.parametrize(
    ("mode", "weights"),
    [
        ("none", {}),
        ("decoder", {"decoder": 2}),
        ("encoder", {"encoder": 2}),
        ("both", {"decoder": 2, "encoder": 2}),
        ("decoder:1,latent:0.1", {"decoder": 2, "latent": 0.2}),
        ("features:0, encoder", {"features": 0, "encoder": 2}),
    ],
)
def test_modes_name_terms_with_weights(mode, weights):
    assert LossConfig(compat_mode=mode, compat_weight=2.0).compat_terms == weights


@pytest.mark.parametrize(
    "mode", ["", "latnet", "decoder,", "decoder,decoder:2", "latent:", "latent:-1", "latent:nan"]
)
def test_other_modes_are_refused(mode):
    with pytest.raises(
        ConfigError, match="compat_mode must be none, both, or some of decoder, enc"
    ):
        LossConfig(compat_mode=mode)
    with pytest.raises(ConfigError, match="feature_layers must be names"):
        LossConfig(feature_layers=mode and "conv_in,")
