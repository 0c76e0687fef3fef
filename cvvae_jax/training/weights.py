"""Weight files that a run needs: checked when the run is planned, read when it begins."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from cvvae_jax import sharding
from cvvae_jax.config import ImageVAEConfig, LPIPSConfig, TrainConfig, VideoVAEConfig
from cvvae_jax.config.latent_scale import LATENT_SCALE
from cvvae_jax.errors import UserError
from cvvae_jax.loading import open_model
from cvvae_jax.models.feature_networks.vgg import LPIPS
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.video_vae import VideoVAE
from cvvae_jax.resources import documentation

_PAGE = documentation("weights.md")

# Settings that may differ where the architecture is the same.
_NOT_ARCHITECTURE = {"dtype", "decoder_dtype", "param_dtype", *LATENT_SCALE}


@dataclasses.dataclass(frozen=True)
class Weights:
    """A trained model in a file that was checked and is not read yet."""

    path: str
    """The path as the user gave it."""
    opened: Any
    """The result of `open_model`; None where the file is missing and may be."""
    abstract: Any
    """The model's shapes and types."""

    def load(self, mesh: Mesh) -> Any:
        """Reads the model onto the devices.

        Raises:
            UserError: the file can't be read, or holds NaN or Inf.
        """
        not_finite = {}
        model = self.opened.load(sharding.shardings(self.abstract, mesh), not_finite=not_finite)
        if not_finite:
            names = ", ".join(f"{name} ({what})" for name, what in not_finite.items())
            raise UserError(f"{self.path} holds weights that are not finite: {names}.")
        return model


def _open(
    path: str, kind: type, setting: str, config: TrainConfig, missing: list[str] | None
) -> Any:
    """Opens a model of the class `kind`; None where the file is missing and `missing` is a list, to
    which a message is added."""
    if not Path(path).exists():
        reason = f"{setting} {path}: no such file or folder ({_PAGE} says where to get it)"
        if missing is None:
            raise UserError(f"{reason}.")
        missing.append(reason)
        return None
    opened = open_model(path, dtype=config.frozen_dtype)
    if not isinstance(opened.abstract, kind):
        raise UserError(
            f"{setting} {path} holds {type(opened.abstract).__name__}, not {kind.__name__}."
        )
    return opened


def open_image_vae(config: TrainConfig, missing: list[str] | None) -> Weights | None:
    """The image VAE to be compatible with; None where the run trains one."""
    if config.image_vae is None:
        return None
    opened = _open(config.image_vae, ImageVAE, "--image-vae", config, missing)
    if opened is not None:
        return Weights(config.image_vae, opened, opened.abstract)
    assumed = frozen_config(config.image_model, config)
    return Weights(config.image_vae, None, abstract_network(ImageVAE, assumed))


def open_lpips(config: TrainConfig, missing: list[str] | None) -> Weights | None:
    """The network of LPIPS; None where the objective has no LPIPS term."""
    if config.lpips is None:
        if config.loss.needs_lpips:
            raise UserError(
                "the objective has an LPIPS term, but no weights of its network are named: give "
                f"--lpips PATH ({_PAGE} says where to get them), or leave the term out with "
                "--loss.lpips-weight 0 and --loss.compat-lpips-weight 0."
            )
        return None
    if not config.loss.needs_lpips:
        return None
    opened = _open(config.lpips, LPIPS, "--lpips", config, missing)
    missing_one = abstract_network(LPIPS, LPIPSConfig(dtype=config.frozen_dtype))
    return Weights(config.lpips, opened, missing_one if opened is None else opened.abstract)


def open_start(
    config: TrainConfig, video_config: VideoVAEConfig, missing: list[str] | None
) -> Weights | None:
    """The video VAE that training starts from; None where `init_weights` is unset.

    Raises:
        UserError: its architecture is not the recipe's.
    """
    if config.init_weights is None:
        return None
    opened = _open(config.init_weights, VideoVAE, "--init-weights", config, missing)
    if opened is None:
        return Weights(config.init_weights, None, abstract_network(VideoVAE, video_config))
    ours, theirs = (dataclasses.asdict(c) for c in (video_config, opened.config))
    different = [
        f"{name} is {theirs[name]} there and {value} in the recipe"
        for name, value in ours.items()
        if name not in _NOT_ARCHITECTURE and theirs[name] != value
    ]
    if different:
        raise UserError(
            f"--init-weights {config.init_weights} is of another architecture: "
            f"{'; '.join(different)}."
        )
    return Weights(config.init_weights, opened, opened.abstract)


def abstract_network(kind: type, config: Any) -> Any:
    """A network's shapes and types."""
    return jax.eval_shape(lambda key: kind(config, rngs=nnx.Rngs(key)), jax.random.key(0))


def frozen_config(image: ImageVAEConfig, config: TrainConfig) -> ImageVAEConfig:
    """The image VAE's config with the type of computation of frozen networks."""
    return dataclasses.replace(image, dtype=config.frozen_dtype, decoder_dtype=None)
