"""Inflation: a video VAE that starts as its image VAE (section "Initialization" of the CV-VAE
paper)."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from cvvae_jax import paths
from cvvae_jax.config import ConfigError, VideoVAEConfig
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.video_vae import VideoVAE


def inflate(image_vae: ImageVAE, config: VideoVAEConfig, *, rngs: nnx.Rngs) -> VideoVAE:
    """A video VAE of `config` with the weights of an image VAE.

    Every 2-D kernel becomes one tap in time of the 3-D kernel, the others are zero: the last tap of
    a causal convolution, the middle one of a centered one; an upsampling that makes two frames
    makes the same one twice. The 1x1 convolutions around the latents are folded into their
    neighbors. Attention over time, which an image VAE lacks, starts as zero.

    With `video_vae.function_preserving(config)` the result equals the image VAE on images and
    static videos (with a bias of zero in `post_quant_conv`, which Stable Diffusion's padding would
    need at the border); with official paddings it comes near.

    Raises:
        ConfigError: the two models differ in widths, depth or latent channels; all differences are
            listed.
    """
    video_vae = VideoVAE(config, rngs=rngs)
    source = paths.flatten(_fold_quant_convs(image_vae))
    causal = {
        "encoder": config.causal_encoder,
        "decoder": config.causal_decoder,
        "upsamplers": config.causal_upsampling,
    }
    taps = {place: -1 if past_only else 1 for place, past_only in causal.items()}
    leaves, problems = {}, []
    for path, target in paths.flatten(video_vae).items():
        if path in source:
            place = "upsamplers" if "/upsamplers/" in path else path.split("/")[0]
            leaf = _inflate_leaf(source[path], target.shape, tap=taps[place])
        else:
            leaf = jnp.zeros_like(target) if "/proj_out_t/" in path else target
        if leaf.shape != target.shape:
            problems.append(f"{path}: {source[path].shape} there, {target.shape} here")
        leaves[path] = leaf.astype(target.dtype)
    problems += [f"{path}: only there" for path in sorted(set(source) - set(leaves))]
    problems += [f"{p}: only here" for p in leaves if p not in source and "_t/" not in p]
    if problems:
        raise ConfigError(
            f"the image VAE can't be inflated to this video VAE; {'; '.join(problems)}."
        )
    return paths.unflatten(video_vae, leaves)


def _inflate_leaf(leaf: Array, shape: tuple[int, ...], *, tap: int) -> Array:
    if leaf.shape[-1] * 2 == shape[-1]:  # an upsampling that also doubles time
        leaf = jnp.concatenate([leaf, leaf], axis=-1)
    if leaf.shape == shape[1:]:
        leaf = jnp.zeros(shape, leaf.dtype).at[tap].set(leaf)
    return leaf


def _fold_quant_convs(image_vae: ImageVAE) -> dict[str, nnx.Module]:
    """Encoder and decoder of the same function without the 1x1 convolutions around the latents."""
    networks = {"encoder": image_vae.encoder, "decoder": image_vae.decoder}
    if not image_vae.config.quant_conv:
        return networks
    leaves = paths.flatten(networks)
    quant, post_quant = image_vae.quant_conv, image_vae.post_quant_conv
    leaves["encoder/conv_out/bias"] = (
        leaves["encoder/conv_out/bias"] @ quant.kernel[...] + quant.bias[...]
    )
    leaves["encoder/conv_out/kernel"] = leaves["encoder/conv_out/kernel"] @ quant.kernel[...]
    kernel: Float[Array, "kh kw z c"] = leaves["decoder/conv_in/kernel"]
    leaves["decoder/conv_in/bias"] += jnp.einsum("hwzc,z->c", kernel, post_quant.bias[...])
    leaves["decoder/conv_in/kernel"] = jnp.einsum("yz,hwzc->hwyc", post_quant.kernel[...], kernel)
    return paths.unflatten(networks, leaves)
