import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cvvae_jax import parameter_paths
from cvvae_jax.config import SVDVAEConfig
from cvvae_jax.models.svd_vae import SVDVAE

TINY = {"block_channels": (8, 16), "blocks_per_level": 1, "norm_groups": 4}


@pytest.fixture(scope="module")
def vae() -> SVDVAE:
    config = SVDVAEConfig(**TINY)
    return jax.jit(lambda key: SVDVAE(config, rngs=nnx.Rngs(key)))(jax.random.key(0))


encode = jax.jit(lambda vae, video: vae.moments(video))
decode = jax.jit(lambda vae, latents: vae.decode(latents))


def random_video(*shape: int) -> jax.Array:
    return jnp.tanh(jax.random.normal(jax.random.key(1), shape))


def test_every_frame_has_a_latent(vae):
    video = random_video(2, 3, 8, 12, 3)
    latents = jax.eval_shape(lambda video: vae.encode(video).mode(), video)
    assert latents.shape == (2, 3, 4, 6, 4)
    assert jax.eval_shape(vae.decode, latents).shape == video.shape


def test_frames_are_encoded_alone(vae):
    """In another batch only the order of float32 sums may differ."""
    video = random_video(1, 3, 8, 8, 3)
    np.testing.assert_allclose(
        encode(vae, video)[:, 1:2], encode(vae, video[:, 1:2]), rtol=1e-5, atol=1e-5
    )


def test_decoder_sees_other_frames_of_the_video_but_not_of_the_batch(vae):
    latents = random_video(2, 5, 4, 4, 4)
    first = jax.jit(jax.grad(lambda z: jnp.abs(vae.decode(z)[0, 0]).sum()))(latents)
    reached = np.asarray(jnp.any(first != 0, axis=(2, 3, 4)))
    np.testing.assert_array_equal(reached, [[True] * 5, [False] * 5])


def test_without_the_temporal_share_frames_are_decoded_alone(vae):
    """Up to the last convolution along time, whose middle tap alone is left here; the factor mixes
    by its sigmoid, which is 0 in float32 below -104."""
    leaves = parameter_paths.flatten(vae)
    for path, leaf in leaves.items():
        if path.endswith("mix_factor"):
            leaves[path] = jnp.full_like(leaf, -200.0)
    kernel = leaves["decoder/time_conv_out/kernel"]
    leaves["decoder/time_conv_out/kernel"] = kernel.at[::2].set(0.0)
    alone = parameter_paths.unflatten(vae, leaves)
    latents = random_video(1, 3, 4, 4, 4)
    np.testing.assert_allclose(
        decode(alone, latents)[:, 1:2], decode(alone, latents[:, 1:2]), rtol=1e-5, atol=1e-5
    )


def test_published_model_has_the_official_number_of_parameters():
    config = SVDVAEConfig()
    vae = jax.eval_shape(lambda key: SVDVAE(config, rngs=nnx.Rngs(key)), jax.random.key(0))
    assert parameter_paths.count(vae) == 97_742_847
