"""`load(path)`: a model from a checkpoint."""

import json
from pathlib import Path

import jax
from flax import nnx

from cvvae_jax import checkpoint
from cvvae_jax.config import ConfigError, ImageVAEConfig, VideoVAEConfig
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.video_vae import VideoVAE
from cvvae_jax.recipe import from_json

_KINDS = {"VideoVAE": (VideoVAE, VideoVAEConfig), "ImageVAE": (ImageVAE, ImageVAEConfig)}


def load(path: str | Path) -> VideoVAE | ImageVAE:
    """The model of a run folder (its newest checkpoint), of one checkpoint, or of a saved model.

    Of a run, these are the averaged weights.

    Raises:
        ConfigError: there is no model at `path`.
    """
    folder = checkpoint.find_model(path)
    description = checkpoint.read_description(folder)
    if description["model"] not in _KINDS:
        raise ConfigError(
            f"{folder} holds a {description['model']}; {', '.join(_KINDS)} can be loaded."
        )
    model_class, config_class = _KINDS[description["model"]]
    config = from_json(config_class, json.dumps(description["config"]))
    build = lambda key: model_class(config, rngs=nnx.Rngs(key))  # noqa: E731
    return checkpoint.restore_model(folder, jax.eval_shape(build, jax.random.key(0)))
