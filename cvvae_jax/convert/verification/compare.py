"""PyTorch and JAX side by side on a small clip, stage by stage."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from cvvae_jax import parameter_paths
from cvvae_jax.convert.convert import abstract_model
from cvvae_jax.convert.official_model import OfficialModel
from cvvae_jax.losses import lpips
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.models.blocks import per_frame
from cvvae_jax.models.discriminator import Discriminator
from cvvae_jax.models.feature_networks.alexnet import AlexLPIPS
from cvvae_jax.models.feature_networks.vgg import LPIPS
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.svd_vae import SVDVAE

COMPARED = (VAE, Discriminator, LPIPS, AlexLPIPS)
"""The models that `verify` takes."""
Errors = list[tuple[str, float]]
Stage = tuple[str, Float[Array, "b *sizes"]]


def verify(model: Any, official: OfficialModel) -> Errors:
    """How far a model is from PyTorch's computation with the official tensors (needs torch).

    Both sides compute in float32, each on what it computed itself, from a clip of a few frames;
    only the decoders are both given PyTorch's latents. PyTorch's side is `torch_reference`, which
    knows the official names and nothing of ours.

    Args:
        model: a model of ours, one of `COMPARED`, with the official one's weights.
        official: where the PyTorch tensors are.

    Returns:
        Every stage in order, with the largest absolute difference over the largest absolute value
        of PyTorch's output; infinite where either side has values that are no numbers.
    """
    import torch

    model = _in_float32(model)
    with torch.inference_mode(), jax.default_matmul_precision("highest"):
        tensors = dict(_torch_tensors(official))
        match model:
            case Discriminator():
                return _verify_discriminator(model, tensors)
            case LPIPS() | AlexLPIPS():
                return _verify_lpips(model, tensors)
            case _:
                return _verify_vae(model, tensors)


def encoder_stages(vae: VAE, video: Float[Array, "b t h w 3"]) -> Iterator[Stage]:
    """A video after every stage of the encoder, the last one being `vae.moments`."""
    encoder, alone = vae.encoder, isinstance(vae, ImageVAE | SVDVAE)
    layers = [
        ("encoder/conv_in", _call, encoder.conv_in),
        *_levels("encoder/down_blocks", encoder.down_blocks),
        ("encoder/mid_block", _call, encoder.mid_block),
        ("encoder/conv_out", _norm_and_conv, (encoder.conv_norm_out, encoder.conv_out)),
    ]
    if hasattr(vae, "quant_conv"):
        layers.append(("quant_conv", _call, vae.quant_conv))
    return _run(layers, video, frames_alone=alone)


def decoder_stages(vae: VAE, latents: Float[Array, "b n y x z"]) -> Iterator[Stage]:
    """Latents after every stage of the decoder, the last one being `vae.decode`."""
    decoder = vae.decoder
    ends = decoder.conv_norm_out, decoder.conv_out
    layers = [
        ("decoder/conv_in", _call, decoder.conv_in),
        ("decoder/mid_block", _call, decoder.mid_block),
        *_levels("decoder/up_blocks", decoder.up_blocks),
    ]
    if hasattr(vae, "post_quant_conv"):
        layers.insert(0, ("post_quant_conv", _call, vae.post_quant_conv))
    if isinstance(vae, SVDVAE):
        layers += [
            ("decoder/conv_out", _frame_norm_and_conv, ends),
            ("decoder/time_conv_out", _call, decoder.time_conv_out),
        ]
    else:
        layers.append(("decoder/conv_out", _norm_and_conv, ends))
    return _run(layers, latents, frames_alone=isinstance(vae, ImageVAE))


def discriminator_stages(
    network: Discriminator, video: Float[Array, "b t h w 3"]
) -> Iterator[Stage]:
    """A video after every stage of the discriminator, the last one being its logits."""
    pairs = zip(network.blocks, network.norms, strict=True)
    layers = [
        ("conv_in", _conv_and_leaky, network.conv_in),
        *((f"blocks/{i:02d}", _block_and_leaky, pair) for i, pair in enumerate(pairs)),
        ("conv_out", _call, network.conv_out),
    ]
    return _run(layers, video, frames_alone=False)


def lpips_stages(
    network: LPIPS | AlexLPIPS,
    video: Float[Array, "b t h w 3"],
    other: Float[Array, "b t h w 3"],
) -> Iterator[Stage]:
    """The features of a video, then its LPIPS distance from another one, (b, t)."""
    features = jax.jit(type(network).features)(network, video)
    yield from ((f"levels/{i:02d}", level) for i, level in enumerate(features))
    yield "distance", jax.jit(lpips)(network, video, other)


def _verify_vae(vae: VAE, tensors: dict[str, Any]) -> Errors:
    from cvvae_jax.convert.verification import torch_reference

    config = vae.config
    settings = {"groups": config.norm_groups}
    frames = 4 if isinstance(vae, SVDVAE) else 1 + config.temporal_compression
    clip = _clip(frames, config.spatial_compression)
    theirs = torch_reference.encoder_stages(
        tensors, _to_torch(clip), causal=getattr(config, "causal_encoder", False), **settings
    )
    theirs = list(theirs)
    errors = _compare(encoder_stages(vae, clip), theirs)
    latents = theirs[-1].chunk(2, 1)[0]
    theirs = torch_reference.decoder_stages(
        tensors, latents, causal=getattr(config, "causal_decoder", False), **settings
    )
    return errors + _compare(decoder_stages(vae, _from_torch(latents)), theirs)


def _verify_discriminator(network: Discriminator, tensors: dict[str, Any]) -> Errors:
    from cvvae_jax.convert.verification import torch_reference

    clip = _clip(5, 2 ** (network.config.layers - 1))
    theirs = torch_reference.discriminator_stages(
        tensors, _to_torch(clip), groups=network.config.norm_groups
    )
    return _compare(discriminator_stages(network, clip), theirs)


def _verify_lpips(network: LPIPS | AlexLPIPS, tensors: dict[str, Any]) -> Errors:
    from cvvae_jax.convert.verification import torch_reference

    clips = _clip(2, 16), _clip(2, 16, seed=1)
    theirs = torch_reference.lpips_stages(tensors, *map(_to_torch, clips))
    return _compare(lpips_stages(network, *clips), theirs)


def _compare(ours: Iterable[Stage], theirs: Iterable[Any]) -> Errors:
    return [
        (stage, _error(np.asarray(a), np.asarray(_from_torch(b))))
        for (stage, a), b in zip(ours, theirs, strict=True)
    ]


def _error(ours: np.ndarray, theirs: np.ndarray) -> float:
    if ours.shape != theirs.shape:
        raise ValueError(f"our output has the shape {ours.shape}, PyTorch's {theirs.shape}.")
    error, largest = float(np.abs(ours - theirs).max()), float(np.abs(theirs).max())
    return error / (largest or 1.0) if math.isfinite(error) else math.inf


def _in_float32(model: Any) -> Any:
    """The same parameters in a model that computes in float32."""
    config = dataclasses.replace(model.config, dtype="float32", param_dtype="float32")
    leaves = {
        path: jnp.asarray(leaf, jnp.float32)
        for path, leaf in parameter_paths.flatten(model).items()
    }
    return parameter_paths.unflatten(abstract_model(type(model), config), leaves)


def _torch_tensors(official: OfficialModel) -> Iterator[tuple[str, Any]]:
    """The official tensors in float32, by today's names and without a prefix."""
    import torch

    modern = {stored: name for name, stored in official.part.names.items()}
    for stored, tensor in official.read():
        yield modern[stored], torch.from_numpy(np.array(tensor, np.float32))


def _clip(frames: int, multiple: int, *, seed: int = 0) -> Float[Array, "1 t h w 3"]:
    """Noise in [-1, 1], of about 32 x 40 pixels."""
    height, width = (math.ceil(size / multiple) * multiple for size in (32, 40))
    noise = np.random.RandomState(seed).standard_normal((1, frames, height, width, 3))
    return jnp.asarray(np.tanh(noise), jnp.float32)


def _to_torch(video: Float[Array, "b t h w c"]) -> Any:
    import torch

    return torch.from_numpy(np.moveaxis(np.array(video), -1, 1).copy())


def _from_torch(tensor: Any) -> Float[Array, "b *sizes"]:
    """With channels last; what has no channels is left as it is."""
    array = tensor.numpy()
    return jnp.asarray(np.moveaxis(array, 1, -1) if array.ndim == 5 else array)


def _levels(prefix: str, levels: Iterable[nnx.Module]) -> list[tuple[str, Callable, Any]]:
    return [(f"{prefix}/{i:02d}", _call, level) for i, level in enumerate(levels)]


def _run(
    layers: list[tuple[str, Callable, Any]], video: Array, *, frames_alone: bool
) -> Iterator[Stage]:
    """What comes out of layer after layer; with `frames_alone` every frame is a video of its
    own."""
    b, t = video.shape[:2]
    hidden = video.reshape(b * t, 1, *video.shape[2:]) if frames_alone else video
    for stage, function, modules in layers:
        hidden = function(modules, hidden)
        yield stage, hidden.reshape(b, t, *hidden.shape[2:]) if frames_alone else hidden


# One program a stage: operation by operation, a model of full width takes half as long again.
@jax.jit
def _call(layer, video):
    return layer(video)


@jax.jit
def _norm_and_conv(layers, video):
    norm, conv = layers
    return conv(jax.nn.silu(norm(video)))


@jax.jit
def _frame_norm_and_conv(layers, video):
    norm, conv = layers
    return conv(jax.nn.silu(per_frame(norm, video)))


@jax.jit
def _conv_and_leaky(conv, video):
    return jax.nn.leaky_relu(conv(video), 0.2)


@jax.jit
def _block_and_leaky(layers, video):
    block, norm = layers
    return jax.nn.leaky_relu(norm(block(video)), 0.2)
