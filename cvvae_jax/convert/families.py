"""The kinds of official weights, and which one a set of tensors is: read from names and shapes."""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from cvvae_jax.config import (
    DiscriminatorConfig,
    I3DConfig,
    ImageVAEConfig,
    InceptionConfig,
    LPIPSConfig,
    SVDVAEConfig,
    VideoVAEConfig,
)
from cvvae_jax.convert import names
from cvvae_jax.convert.names import Row, our_path
from cvvae_jax.convert.sizes import Shapes, levels_of, most, numbers, sizes_of
from cvvae_jax.errors import UserError
from cvvae_jax.models.discriminator import Discriminator
from cvvae_jax.models.feature_networks.alexnet import AlexLPIPS
from cvvae_jax.models.feature_networks.i3d import I3D
from cvvae_jax.models.feature_networks.inception import InceptionV3
from cvvae_jax.models.feature_networks.vgg import LPIPS
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.svd_vae import SVDVAE
from cvvae_jax.models.video_vae import PRESETS, VideoVAE


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of official weights."""

    title: str
    """What people call it."""

    model_class: type
    """Our model."""

    config_class: type
    """Our model's configuration."""

    official_class: str
    """The PyTorch class that loads it."""

    rows: Callable[[Any], list[Row]]
    """The table of names for a configuration."""

    exported: bool = True
    """Whether models are written with these names; older ones are only read."""


SD21 = Family(
    "CV-VAE SD2.1",
    VideoVAE,
    VideoVAEConfig,
    "CVVAEModel",
    lambda config: names.ldm_rows(len(config.block_channels), image=False),
)
SD3 = Family(
    "CV-VAE SD3", VideoVAE, VideoVAEConfig, "CVVAESD3Model", lambda _: names.diffusers_rows()
)
IMAGE = Family(
    "image VAE", ImageVAE, ImageVAEConfig, "AutoencoderKL", lambda _: names.diffusers_rows()
)
IMAGE_LDM = Family(
    "image VAE, latent-diffusion names",
    ImageVAE,
    ImageVAEConfig,
    "AutoencoderKL",
    lambda config: names.ldm_rows(len(config.block_channels), image=True),
    exported=False,
)
SVD = Family(
    "SVD VAE", SVDVAE, SVDVAEConfig, "AutoencoderKLTemporalDecoder", lambda _: names.svd_rows()
)
DISCRIMINATOR = Family(
    "3-D discriminator",
    Discriminator,
    DiscriminatorConfig,
    "NLayerDiscriminator3D",
    lambda config: names.discriminator_rows(config.layers),
)
PERCEPTUAL = Family("LPIPS", LPIPS, LPIPSConfig, "LPIPS", lambda _: names.lpips_rows())
PERCEPTUAL_VGG16 = Family(
    "LPIPS, torchvision's names",
    LPIPS,
    LPIPSConfig,
    "LPIPS",
    lambda _: names.lpips_rows(torchvision=True),
    exported=False,
)
PERCEPTUAL_ALEX = Family(
    "LPIPS with AlexNet", AlexLPIPS, LPIPSConfig, "LPIPS", lambda _: names.alex_lpips_rows()
)
PERCEPTUAL_ALEXNET = Family(
    "LPIPS with AlexNet, torchvision's names",
    AlexLPIPS,
    LPIPSConfig,
    "LPIPS",
    lambda _: names.alex_lpips_rows(torchvision=True),
    exported=False,
)
VIDEO_CLASSES = Family("Inception-I3D", I3D, I3DConfig, "InceptionI3d", lambda _: names.i3d_rows())
IMAGE_CLASSES = Family(
    "InceptionV3 of FID",
    InceptionV3,
    InceptionConfig,
    "fid_inception_v3",
    lambda _: names.inception_rows(),
)

FAMILIES = (
    SD21,
    SD3,
    IMAGE,
    IMAGE_LDM,
    SVD,
    DISCRIMINATOR,
    PERCEPTUAL,
    PERCEPTUAL_VGG16,
    PERCEPTUAL_ALEX,
    PERCEPTUAL_ALEXNET,
    VIDEO_CLASSES,
    IMAGE_CLASSES,
)
MODELS = {
    family.model_class.__name__: (family.model_class, family.config_class) for family in FAMILIES
}
"""Class and configuration of every model of ours, by the class's name."""


class _OneKey(nnx.RngStream):
    """Draws the same key every time: shapes don't depend on it, and counting the draws would take
    most of the time of tracing a model."""

    def __call__(self) -> jax.Array:
        return self.key[...]


def abstract_model(model_class: type, config: Any) -> Any:
    """The shapes and types of a model of ours."""

    def build(key: jax.Array) -> Any:
        rngs = nnx.Rngs(key)
        rngs.default = _OneKey(key, tag="default")
        return model_class(config, rngs=rngs)

    # A real key would be compiled first.
    return jax.eval_shape(build, jax.eval_shape(jax.random.key, 0))


def recognize(shapes: Shapes, *, groups: int = 32, source: str) -> tuple[Family, Any]:
    """Family and configuration of official tensors.

    Sizes are read from most of the tensors that show them, so that single missing or misshapen ones
    can be named afterwards. What no tensor shows (groups of the norms, scaling factors, causality)
    has the family's default.

    Args:
        shapes: official tensors by name, without a prefix (see `parts`).
        groups: groups of the norms, which no tensor shows.
        source: what to call them in messages.

    Raises:
        UserError: they belong to no family, or to several.
    """
    if _any(shapes, r"main\.\d+\..*"):
        return DISCRIMINATOR, _discriminator_config(shapes)
    if _any(shapes, r"features\.\d+\.(weight|bias)"):
        return (PERCEPTUAL_ALEXNET if _is_alexnet(shapes) else PERCEPTUAL_VGG16), LPIPSConfig()
    if _any(shapes, r"(net\.slice\d|lin\d\.).*"):
        return (PERCEPTUAL_ALEX if _is_alexnet(shapes) else PERCEPTUAL), LPIPSConfig()
    if _any(shapes, r"(Conv3d_\w+|Mixed_\w+\.b\d[ab]?|logits)\.(conv3d|bn)\..*"):
        return VIDEO_CLASSES, I3DConfig()
    if _any(shapes, r"(Conv2d_\w+|Mixed_\w+\.branch\w+)\.(conv|bn)\..*"):
        return IMAGE_CLASSES, InceptionConfig()
    ldm = [name for name in shapes if re.match(r"(en|de)coder\.(down|up|mid)\.", name)]
    diffusers = [name for name in shapes if re.match(r"(en|de)coder\.(down|up|mid)_block", name)]
    if ldm and diffusers:
        raise UserError(
            f"{source} mixes two families: {len(ldm)} tensors have latent-diffusion names "
            f"({ldm[0]}, ..), {len(diffusers)} diffusers names ({diffusers[0]}, ..)."
        )
    if not ldm and not diffusers:
        raise UserError(
            f"{source} holds no known model: a CV-VAE, an AutoencoderKL, an "
            "AutoencoderKLTemporalDecoder, CV-VAE's discriminator, LPIPS, VGG16, AlexNet, "
            "Inception-I3D or FID's InceptionV3 are read; its "
            f"tensors are called {', '.join(list(shapes)[:3]) or 'nothing'}, .."
        )
    return _autoencoder(shapes, ldm=bool(ldm), groups=groups, source=source)


def _autoencoder(shapes: Shapes, *, ldm: bool, groups: int, source: str) -> tuple[Family, Any]:
    if _any(shapes, r"decoder\..*(spatial_res_block|temporal_res_block|time_mixer).*"):
        ours = _by_path(shapes, names.svd_rows())
        sizes = sizes_of(ours, groups=groups, source=source)
        return SVD, SVDVAEConfig(**sizes)
    rows = names.ldm_rows(levels_of(shapes), image=True) if ldm else names.diffusers_rows()
    ours = _by_path(shapes, rows)
    ranks = Counter(len(shape) for path, shape in ours.items() if path.endswith("conv1/kernel"))
    if len(ranks) > 1 and min(ranks.values()) > 1:
        raise UserError(
            f"{source} mixes two families: {ranks[4]} first convolutions of residual blocks are "
            f"2-D, an image VAE's, and {ranks[5]} are 3-D, a video VAE's."
        )
    sizes = sizes_of(ours, groups=groups, source=source)
    attention = any("mid_block/attentions" in path for path in ours)
    if most(len(shape) for path, shape in ours.items() if path.endswith("conv1/kernel")) == 4:
        quant = any("quant_conv/" in path for path in ours)
        config = ImageVAEConfig(**sizes, mid_attention=attention, quant_conv=quant)
        return (IMAGE_LDM if ldm else IMAGE), config
    half = most(len(shape) for path, shape in ours.items() if path.endswith("conv2/kernel")) == 4
    temporal = any(path.endswith("attentions/00/q_t/kernel") for path in ours)
    config = dataclasses.replace(
        PRESETS["sd21" if ldm else "sd3"],
        **sizes,
        half_3d=half,
        mid_attention=attention,
        temporal_strides=alternating_strides(len(sizes["block_channels"])),
        decoder_attention="spatial_temporal" if temporal else "spatial",
    )
    return (SD21 if ldm else SD3), config


def alternating_strides(levels: int) -> tuple[int, ...]:
    """The official strides in time: every other downsampling, the first one included, halves it."""
    return tuple(2 if level % 2 == 0 else 1 for level in range(levels - 1))


def with_usual_scale(config: ImageVAEConfig) -> ImageVAEConfig:
    """SD 1.x/2.x's factor for 4 channels, SD3's for 16; only a config.json can tell SDXL and
    FLUX."""
    if config.latent_channels == 16:
        return dataclasses.replace(config, scaling_factor=1.5305, shift_factor=0.0609)
    return config


def _discriminator_config(shapes: Shapes) -> DiscriminatorConfig:
    layers = (max(numbers(shapes, r"main\.(\d+)\..*"), default=0) - 2) // 3
    ranks = (len(shape) for name, shape in shapes.items() if name.endswith("conv2.weight"))
    base = most(shapes[n][0] for n in ("main.0.weight", "main.0.bias") if shapes.get(n))
    return DiscriminatorConfig(
        base_channels=base or 64, layers=max(layers, 2), half_3d=most(ranks) == 4
    )


def _is_alexnet(shapes: Shapes) -> bool:
    """Which network of LPIPS: by the positions of layers that only one has, and the heads' inputs
    where they differ."""
    positions = numbers(shapes, r"(?:features|net\.slice\d)\.(\d+)\..*")
    alexnet = sum(position in (3, 6, 8) for position in positions)
    vgg16 = sum(position in (2, 5, 7, *range(12, 30)) for position in positions)
    for name, widths in {"lin1": (192, 128), "lin2": (384, 256), "lin3": (256, 512)}.items():
        inputs = shapes.get(f"{name}.model.1.weight", (0, 0))[1:2]
        alexnet, vgg16 = alexnet + (inputs == widths[:1]), vgg16 + (inputs == widths[1:])
    return alexnet > vgg16


def _by_path(shapes: Shapes, rows: list[Row]) -> dict[str, tuple[int, ...]]:
    found = {name: our_path(rows, name) for name in shapes}
    return {place[0]: shapes[name] for name, place in found.items() if place}


def _any(shapes: Shapes, pattern: str) -> bool:
    return any(re.fullmatch(pattern, name) for name in shapes)
