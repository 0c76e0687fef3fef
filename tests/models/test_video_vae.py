import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cvvae_jax import parameter_paths
from cvvae_jax.config import ImageVAEConfig, VideoVAEConfig
from cvvae_jax.errors import UserError
from cvvae_jax.models import blocks, image_vae, video_vae
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.video_vae import VideoVAE, function_preserving, inflate

pytestmark = pytest.mark.usefixtures("with_reference_convolutions")

TINY = {"block_channels": (8, 8, 16, 16), "blocks_per_level": 1, "norm_groups": 4}


@functools.cache
def tiny() -> VideoVAE:
    return made(VideoVAE, VideoVAEConfig(**TINY))


def made(kind: type, config):
    """A model with numpy's random numbers: its own initializers would take seconds to compile."""
    vae = jax.eval_shape(lambda key: kind(config, rngs=nnx.Rngs(key)), jax.random.key(0))
    leaves, normal = parameter_paths.flatten(vae), np.random.default_rng(0).standard_normal
    for path, leaf in leaves.items():
        values = np.full(leaf.shape, float(path.endswith("scale")), np.float32)
        if path.endswith("kernel"):
            values = normal(leaf.shape, np.float32) / np.sqrt(np.prod(leaf.shape[:-1]))
        leaves[path] = jnp.asarray(values, leaf.dtype)
    return parameter_paths.unflatten(vae, leaves)


moments_of = jax.jit(lambda vae, video: vae.moments(video))
decoded_by = jax.jit(lambda vae, latents: vae.decode(latents))


def random_video(*shape: int) -> jax.Array:
    return jnp.tanh(jax.random.normal(jax.random.key(1), (*shape, 3)))


@pytest.mark.parametrize("frames", [1, 5, 9])
@pytest.mark.parametrize("causal", [False, True])
def test_latents_are_four_times_fewer_frames_and_decode_to_all_of_them(frames, causal):
    config = VideoVAEConfig(**TINY, causal_decoder=causal, causal_upsampling=causal)
    vae = jax.eval_shape(lambda key: VideoVAE(config, rngs=nnx.Rngs(key)), jax.random.key(0))
    video = jax.ShapeDtypeStruct((1, frames, 16, 24, 3), "float32")
    latents = jax.eval_shape(lambda vae, video: vae.encode(video).mode(), vae, video)
    assert latents.shape == (1, 1 + (frames - 1) // 4, 2, 3, 4)
    assert jax.eval_shape(VideoVAE.decode, vae, latents).shape == video.shape


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 11, 16, 16), "11: 9 or 13"),
        ((1, 5, 17, 16), "24 x 16"),
        ((5, 16, 16), "batch, time"),
    ],
)
def test_wrong_shapes_are_refused_with_the_nearest_right_ones(shape, words):
    with pytest.raises(UserError, match=words):
        tiny().encode(jnp.zeros((*shape, 3)))


def test_causal_encoder_without_norms_sees_no_future(monkeypatch):
    """GroupNorm looks at all frames; everything else must be causal, to exact zeros."""
    monkeypatch.setattr(blocks.GroupNorm, "__call__", lambda self, video: video)
    moment = jax.jit(jax.grad(lambda video, vae: vae.moments(video)[:, 1].sum()))
    grads = moment(random_video(1, 9, 16, 16), tiny())
    assert not jnp.any(grads[:, 5:] != 0)
    assert jnp.any(grads[:, 4] != 0)


def test_scale_is_the_image_vaes_and_invertible():
    config = VideoVAEConfig(**TINY, scaling_factor=1.5305, shift_factor=0.0609)
    vae = jax.eval_shape(lambda key: VideoVAE(config, rngs=nnx.Rngs(key)), jax.random.key(0))
    latents = jax.random.normal(jax.random.key(0), (1, 2, 3, 3, 4))
    np.testing.assert_allclose(vae.scale(latents), (latents - 0.0609) * 1.5305, rtol=1e-6)
    np.testing.assert_allclose(vae.unscale(vae.scale(latents)), latents, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("preset", "millions"), [("sd21", 182.446475), ("sd21_full3d", 256.0), ("sd3", 181.892515)]
)
def test_presets_have_the_official_number_of_parameters(preset, millions):
    config = video_vae.PRESETS[preset]
    vae = jax.eval_shape(lambda key: VideoVAE(config, rngs=nnx.Rngs(key)), jax.random.key(0))
    tolerance = 1e-7 if preset != "sd21_full3d" else 0.5  # the paper rounds that one to 256 M
    assert parameter_paths.count(vae) / 1e6 == pytest.approx(millions, abs=tolerance)


@pytest.mark.parametrize("preset", image_vae.PRESETS)
def test_image_presets_have_the_official_number_of_parameters(preset):
    config = image_vae.PRESETS[preset]
    vae = jax.eval_shape(lambda key: ImageVAE(config, rngs=nnx.Rngs(key)), jax.random.key(0))
    assert parameter_paths.count(vae) == (
        83_819_683 if config.latent_channels == 16 else 83_653_863
    )


def random_image_vae(*, post_quant_bias: bool = False, **changes) -> ImageVAE:
    """With noise on every array, since a new model's biases of 0 and scales of 1 hide what is
    dropped; on the bias of `post_quant_conv` by wish."""
    vae = made(ImageVAE, ImageVAEConfig(**TINY | changes))
    leaves, normal = parameter_paths.flatten(vae), np.random.default_rng(2).standard_normal
    for path, leaf in leaves.items():
        if path != "post_quant_conv/bias" or post_quant_bias:
            leaves[path] = jnp.asarray(leaf + 0.1 * normal(leaf.shape, np.float32))
    return parameter_paths.unflatten(vae, leaves)


VARIANTS = [
    {},
    {"half_3d": False, "norm_groups": 2},
    {"causal_decoder": True, "causal_upsampling": True},
]


@pytest.mark.parametrize(
    ("quant_conv", "variant"),
    [
        pytest.param(quant_conv, variant, marks=pytest.mark.slow if quant_conv or variant else ())
        for quant_conv in (True, False)
        for variant in VARIANTS
    ],
)
def test_inflated_video_vae_equals_image_vae_on_images_and_static_videos(quant_conv, variant):
    """Only the order of float32 sums differs, over some thirty layers: 1e-4 of the largest
    value."""
    image = random_image_vae(quant_conv=quant_conv, norm_eps=1e-2)
    config = function_preserving(VideoVAEConfig(**TINY | variant), image.config)
    video = inflate(image, config, rngs=nnx.Rngs(1))
    photo = random_video(1, 1, 24, 32)
    static = jnp.repeat(photo, 9, axis=1)
    moments = moments_of(image, photo)
    frames = decoded_by(image, moments[..., :4])
    close(moments_of(video, photo), moments)
    close(moments_of(video, static), jnp.repeat(moments, 3, axis=1))
    close(decoded_by(video, moments[..., :4]), frames)
    latents = jnp.repeat(moments[..., :4], 3, axis=1)
    close(decoded_by(video, latents), jnp.repeat(frames, 9, axis=1))


def test_bias_before_the_decoder_is_folded_exactly_except_at_the_border():
    """The first convolution sees the bias inside the frame, but padding adds zeros without it."""
    image = random_image_vae(post_quant_bias=True)
    config = function_preserving(VideoVAEConfig(**TINY), image.config)
    video = inflate(image, config, rngs=nnx.Rngs(1))
    latents = jax.random.normal(jax.random.key(0), (1, 1, 5, 6, 4)).repeat(3, axis=1)
    theirs = image.decoder.conv_in(image.post_quant_conv(latents))
    inside = np.s_[:, :, 1:-1, 1:-1]
    close(video.decoder.conv_in(latents)[inside], theirs[inside])


def close(ours, theirs):
    assert jnp.abs(ours - theirs).max() <= 1e-4 * jnp.abs(theirs).max()


@pytest.mark.parametrize("preset", video_vae.PRESETS)
def test_any_preset_can_be_inflated(preset):
    """Summed over time, its kernels are the image VAE's; attention over time adds nothing yet."""
    base = dataclasses.replace(video_vae.PRESETS[preset], **TINY)
    z = base.latent_channels
    image = random_image_vae(latent_channels=z, quant_conv=False)
    video = parameter_paths.flatten(inflate(image, base, rngs=nnx.Rngs(1)))
    for path, leaf in parameter_paths.flatten(image).items():
        ours = video[path].sum(axis=0) if video[path].ndim == 5 else video[path]
        np.testing.assert_array_equal(ours[..., : leaf.shape[-1]], leaf)
        np.testing.assert_array_equal(ours[..., -leaf.shape[-1] :], leaf)
    assert not any(leaf.any() for path, leaf in video.items() if "proj_out_t" in path)


def test_models_of_other_widths_are_not_inflated():
    image = made(ImageVAE, ImageVAEConfig(**TINY))
    config = dataclasses.replace(VideoVAEConfig(**TINY), block_channels=(8, 16, 16, 16))
    with pytest.raises(UserError, match="down_blocks/01/resnets/00/conv2/kernel"):
        inflate(image, config, rngs=nnx.Rngs(0))
