"""The official networks in plain PyTorch, stage by stage, on official tensors.

What `verify` compares our models with. The official classes of CV-VAE are no package, and diffusers
need not be there, so these networks are written anew, from the official architectures
(AILab-CVC/CV-VAE, diffusers, richzhang/PerceptualSimilarity) and by official tensor names; tests
hold them equal to outputs of the official code. The kind of network is read from the tensors.

Arrays are PyTorch's: (batch, channel, time, height, width).
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from cvvae_jax.convert.verification.torch_layers import (
    DIFFUSERS,
    LATENT_DIFFUSION,
    Layers,
    double_size,
    halve,
    leaky,
    single_frames,
    whole_videos,
)

Tensors = Mapping[str, Tensor]

# LPIPS: mean and deviation of ImageNet's pixels, for values in [-1, 1].
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


def encoder_stages(
    tensors: Tensors, video: Float[Tensor, "b 3 t h w"], *, groups: int, causal: bool
) -> Iterator[Float[Tensor, "b _ _ _ _"]]:
    """A video after conv_in, every level, the middle, and conv_out, whose channels are means and
    log-variances; then after quant_conv, where there is one.

    Args:
        tensors: an autoencoder's, by official names.
        video: in [-1, 1].
        groups: of every group norm.
        causal: whether a video encoder's convolutions see only the past.
    """
    layers = _layers(tensors, groups=groups, causal=causal)
    if _is_video(tensors):
        yield from _encoder(layers, video)
    else:
        for frames in _encoder(layers, single_frames(video)):
            yield whole_videos(frames, len(video))


def decoder_stages(
    tensors: Tensors, latents: Float[Tensor, "b z t y x"], *, groups: int, causal: bool
) -> Iterator[Float[Tensor, "b _ _ _ _"]]:
    """Unscaled latents after post_quant_conv, where there is one, conv_in, the middle, every level,
    conv_out, and time_conv_out, where there is one.

    Args: as those of `encoder_stages`.
    """
    layers = _layers(tensors, groups=groups, causal=causal)
    if "decoder.time_conv_out.weight" in tensors:
        yield from _temporal_decoder(layers, latents)
    elif _is_video(tensors):
        yield from _decoder(layers, latents, causal_upsampling=_causal_upsampling(layers))
    else:
        for frames in _decoder(layers, single_frames(latents), causal_upsampling=False):
            yield whole_videos(frames, len(latents))


def discriminator_stages(
    tensors: Tensors, video: Float[Tensor, "b 3 t h w"], *, groups: int
) -> Iterator[Float[Tensor, "b _ _ _ _"]]:
    """A video in CV-VAE's 3-D discriminator: after its first convolution and every block, norms and
    activations included, and the logits."""
    layers = Layers(tensors, LATENT_DIFFUSION, groups, 1e-5, time="zero", space="zero")
    last = max(int(name.split(".")[1]) for name in tensors)
    x = leaky(layers.conv("main.0", video, strides=(2, 2, 2)))
    yield x
    for position in range(2, last, 3):  # a block, a norm and an activation each
        pooled = position < last - 6
        x = _discriminator_block(layers, f"main.{position}", x, pooled=pooled)
        x = leaky(layers.norm(f"main.{position + 1}", x))
        yield x
    yield layers.conv(f"main.{last}", x)


def lpips_stages(
    tensors: Tensors, video: Float[Tensor, "b 3 t h w"], other: Float[Tensor, "b 3 t h w"]
) -> Iterator[Tensor]:
    """LPIPS of two videos: the five feature maps of the first one, then the distance of every
    frame, (b, t)."""
    distance = torch.zeros(len(video) * video.shape[2])
    features = (_lpips_features(tensors, x) for x in (video, other))
    for level, (a, b) in enumerate(zip(*features, strict=True)):
        yield whole_videos(a[:, :, None], len(video))
        squares = (_unit_length(a) - _unit_length(b)) ** 2
        heads = functional.conv2d(squares, tensors[f"lin{level}.model.1.weight"])
        distance += heads.mean((1, 2, 3))
    yield distance.unflatten(0, (len(video), -1))


def _layers(tensors: Tensors, *, groups: int, causal: bool) -> Layers:
    """The layers with the paddings and epsilons that the official classes fix; CV-VAE's two
    families differ in them."""
    names = LATENT_DIFFUSION if "encoder.norm_out.weight" in tensors else DIFFUSERS
    if not _is_video(tensors):
        return Layers(tensors, names, groups, 1e-6, time="zero", space="zero")
    facts: dict[str, Any] = (
        {"eps": 1e-5, "time": "zero", "space": "zero"}
        if names is LATENT_DIFFUSION
        else {"eps": 1e-6, "time": "edge", "space": "edge"}
    )
    return Layers(tensors, names, groups, **facts | ({"time": "causal"} if causal else {}))


def _is_video(tensors: Tensors) -> bool:
    return tensors["encoder.conv_in.weight"].ndim == 5


def _causal_upsampling(layers: Layers) -> bool:
    """The SD3 family's upsampling is causal with its decoder, the SD2.1 family's never."""
    return layers.names is DIFFUSERS and layers.time == "causal"


def _encoder(layers: Layers, x: Tensor) -> Iterator[Tensor]:
    names = layers.names
    pads = (1, 1) if layers.space == "edge" else (0, 1)
    x = layers.conv("encoder.conv_in", x)
    yield x
    for i in range(_levels(layers)):
        level = f"encoder.{names.down}.{i}"
        for block in _numbered(layers, f"{level}.{names.block}", "norm1"):
            x = layers.res_block(block, x)
        if layers.has(down := f"{level}.{names.downsample}"):
            # No tensor shows a stride; the decoder undoes them in the same order.
            up = layers.tensors[f"{_up_level(layers, i)}.{names.upsample}.weight"]
            time_stride = up.shape[0] // up.shape[1]
            x = layers.conv(down, x, strides=(time_stride, 2, 2), pads=pads)
        yield x
    x = _middle(layers, "encoder", x)
    yield x
    x = functional.silu(layers.norm(f"encoder.{names.norm_out}", x))
    x = layers.conv("encoder.conv_out", x)
    yield x
    if layers.has("quant_conv"):
        yield layers.pointwise("quant_conv", x)


def _decoder(layers: Layers, x: Tensor, *, causal_upsampling: bool) -> Iterator[Tensor]:
    names = layers.names
    if layers.has("post_quant_conv"):
        x = layers.pointwise("post_quant_conv", x)
        yield x
    x = layers.conv("decoder.conv_in", x)
    yield x
    x = _middle(layers, "decoder", x)
    yield x
    for i in range(_levels(layers)):
        level = _up_level(layers, i)
        for block in _numbered(layers, f"{level}.{names.block}", "norm1"):
            x = layers.res_block(block, x)
        if layers.has(up := f"{level}.{names.upsample}"):
            x = _upsample(layers, up, x, causal=causal_upsampling)
        yield x
    x = functional.silu(layers.norm(f"decoder.{names.norm_out}", x))
    yield layers.conv("decoder.conv_out", x)


def _temporal_decoder(layers: Layers, x: Tensor) -> Iterator[Tensor]:
    """SVD's: convolutions per frame, and in every block some along time."""
    x = layers.conv("decoder.conv_in", x)
    yield x
    first, *rest = _numbered(layers, "decoder.mid_block.resnets", "spatial_res_block.norm1")
    x = _temporal_block(layers, first, x)
    if rest:  # one attention and one block after it are ever reached, whatever their number
        x = layers.attention("decoder.mid_block.attentions.0", x)
        x = _temporal_block(layers, rest[0], x)
    yield x
    for level in _numbered(layers, "decoder.up_blocks", "resnets.0.spatial_res_block.norm1"):
        for block in _numbered(layers, f"{level}.resnets", "spatial_res_block.norm1"):
            x = _temporal_block(layers, block, x)
        if layers.has(up := f"{level}.upsamplers.0.conv"):
            x = layers.conv(up, double_size(x))
        yield x
    frames = functional.silu(layers.norm("decoder.conv_norm_out", single_frames(x)))
    x = layers.conv("decoder.conv_out", whole_videos(frames, len(x)))
    yield x
    yield layers.conv("decoder.time_conv_out", x)


def _temporal_block(layers: Layers, name: str, x: Tensor) -> Tensor:
    frames = layers.res_block(f"{name}.spatial_res_block", single_frames(x))
    spatial = whole_videos(frames, len(x))
    along_time = dataclasses.replace(layers, eps=1e-5)
    temporal = along_time.res_block(f"{name}.temporal_res_block", spatial)
    share = torch.sigmoid(layers.tensors[f"{name}.time_mixer.mix_factor"])
    return (1 - share) * spatial + share * temporal


def _middle(layers: Layers, end: str, x: Tensor) -> Tensor:
    first, attention, second = (f"{end}.{part}" for part in layers.names.middle)
    x = layers.res_block(first, x)
    if layers.has(f"{attention}.{layers.names.attention[0]}"):
        x = layers.attention(attention, x)
    return layers.res_block(second, x)


def _upsample(layers: Layers, name: str, x: Tensor, *, causal: bool) -> Tensor:
    x = layers.conv(name, double_size(x), time="causal" if causal else "edge")
    if layers.tensors[f"{name}.weight"].shape[0] == layers.tensors[f"{name}.weight"].shape[1]:
        return x
    even, odd = x.chunk(2, 1)  # two frames of every one; the first of all is dropped
    return torch.stack([even, odd], 3).flatten(2, 3)[:, :, 1:]


def _discriminator_block(layers: Layers, name: str, x: Tensor, *, pooled: bool) -> Tensor:
    hidden = layers.conv(f"{name}.conv1", functional.silu(layers.norm(f"{name}.norm1", x)))
    if pooled:
        x, hidden = halve(x), halve(hidden)
    hidden = layers.conv(f"{name}.conv2", functional.silu(layers.norm(f"{name}.norm2", hidden)))
    return layers.shortcut(name, x) + hidden


def _lpips_features(tensors: Tensors, video: Tensor) -> Iterator[Tensor]:
    shift, scale = (torch.tensor(values)[:, None, None] for values in (_SHIFT, _SCALE))
    x = (single_frames(video)[:, :, 0] - shift) / scale
    # Only AlexNet's second feature has 192 channels.
    alexnet = tensors["lin1.model.1.weight"].shape[1] == 192
    return _alexnet_features(tensors, x) if alexnet else _vgg_features(tensors, x)


def _alexnet_features(tensors: Tensors, x: Tensor) -> Iterator[Tensor]:
    own_names = "features.0.weight" in tensors
    for level, position in enumerate((0, 3, 6, 8, 10), 1):
        layer = f"features.{position}" if own_names else f"net.slice{level}.{position}"
        if level in (2, 3):
            x = functional.max_pool2d(x, 3, 2)
        options = {"stride": 4, "padding": 2} if level == 1 else {"padding": "same"}
        weight, bias = tensors[f"{layer}.weight"], tensors[f"{layer}.bias"]
        x = functional.relu(functional.conv2d(x, weight, bias, **options))
        yield x


def _vgg_features(tensors: Tensors, x: Tensor) -> Iterator[Tensor]:
    for level in range(1, 6):
        if level > 1:
            x = functional.max_pool2d(x, 2)
        for layer in _vgg_layers(tensors, level):
            weight, bias = tensors[f"{layer}.weight"], tensors[f"{layer}.bias"]
            x = functional.relu(functional.conv2d(x, weight, bias, padding=1))
        yield x


def _vgg_layers(tensors: Tensors, level: int) -> list[str]:
    """The convolutions of a level, in order; torchvision's own names don't tell the level."""
    if "features.0.weight" in tensors:
        first, last = ((0, 2), (5, 7), (10, 14), (17, 21), (24, 28))[level - 1]
        layers = (f"features.{position}" for position in range(first, last + 1))
        return [layer for layer in layers if f"{layer}.weight" in tensors]
    pattern = rf"net\.slice{level}\.(\d+)\.weight"
    found = [match for match in (re.fullmatch(pattern, name) for name in tensors) if match]
    return [f"net.slice{level}.{n}" for n in sorted(int(match[1]) for match in found)]


def _unit_length(features: Tensor) -> Tensor:
    length = (features.square().sum(1, keepdim=True) + 1e-10).sqrt()
    return features / (length + 1e-10)


def _levels(layers: Layers) -> int:
    prefix = f"encoder.{layers.names.down}"
    return len(_numbered(layers, prefix, f"{layers.names.block}.0.norm1"))


def _up_level(layers: Layers, i: int) -> str:
    """The decoder's level number `i` from its lowest resolution."""
    position = i if layers.names.lowest_up_first else _levels(layers) - 1 - i
    return f"decoder.{layers.names.up}.{position}"


def _numbered(layers: Layers, prefix: str, layer: str) -> list[str]:
    """`prefix`.0, `prefix`.1, .. as long as they have this layer."""
    found = []
    while layers.has(f"{prefix}.{len(found)}.{layer}"):
        found.append(f"{prefix}.{len(found)}")
    return found
