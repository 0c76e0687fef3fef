"""Encoder and decoder compute in the types they are told, whatever a model comes from."""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import cvvae_jax
from cvvae_jax.checkpoint import save_model
from cvvae_jax.config import ImageVAEConfig, VideoVAEConfig
from cvvae_jax.convert.families import IMAGE
from cvvae_jax.convert.official_config import exportable
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.video_vae import VideoVAE
from cvvae_jax.resumable import manifest

TINY = {"block_channels": (4, 8), "blocks_per_level": 1, "norm_groups": 2}
MODELS = [
    (VideoVAE, VideoVAEConfig(**TINY, temporal_strides=(2,))),
    (ImageVAE, ImageVAEConfig(**TINY)),
]
MIXED = {"dtype": "bfloat16", "decoder_dtype": "float32"}


def abstract(kind, config):
    return jax.eval_shape(lambda key: kind(config, rngs=nnx.Rngs(key)), jax.random.key(0))


def multiplied(function, *inputs) -> set[str]:
    """Types of what convolutions and matrix products are made of."""
    program = jax.jit(function).lower(*inputs).as_text()
    product = r"stablehlo\.(?:convolution|dot_general)"
    operands = rf"{product}.* : \(tensor<\w*x(\w+)>, tensor<\w*x(\w+)>\)"
    return {kind for pair in re.findall(operands, program) for kind in pair}


@pytest.mark.parametrize(("kind", "config"), MODELS)
@pytest.mark.parametrize(
    ("types", "encoder", "decoder"),
    [
        ({}, "float32", "float32"),
        ({"dtype": "bfloat16"}, "bfloat16", "bfloat16"),
        (MIXED, "bfloat16", "float32"),
        ({"decoder_dtype": "float16"}, "float32", "float16"),
    ],
)
def test_encoder_and_decoder_compute_in_their_types(kind, config, types, encoder, decoder):
    vae = abstract(kind, dataclasses.replace(config, **types))
    short = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
    video = jax.ShapeDtypeStruct((1, 3, 8, 8, 3), "float32")
    moments = jax.eval_shape(kind.moments, vae, video)
    assert moments.dtype == jnp.dtype(encoder)
    assert multiplied(kind.moments, vae, video) == {short[encoder]}
    # Latents come in the encoder's type and are as good as any.
    latents = jax.ShapeDtypeStruct((1, 2, 4, 4, 4), encoder)
    assert jax.eval_shape(kind.decode, vae, latents).dtype == jnp.dtype(decoder)
    assert multiplied(kind.decode, vae, latents) == {short[decoder]}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "mixed"
    config = ImageVAEConfig(**TINY, **MIXED)
    vae = jax.jit(lambda key: ImageVAE(config, rngs=nnx.Rngs(key)))(jax.random.key(0))
    save_model(folder, vae)
    return folder


def test_saved_models_keep_both_types_unless_one_is_asked_for(saved):
    assert types(cvvae_jax.load(saved)) == ("bfloat16", "float32", "float32")
    assert types(cvvae_jax.load(saved, dtype="float16")) == ("float16", None, "float16")


def types(model) -> tuple:
    config = model.config
    return config.dtype, config.decoder_dtype, config.param_dtype


def test_models_saved_before_there_was_a_type_of_the_decoder_still_load(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "old")
    described = tmp_path / "old/model/metadata"
    description = json.loads(described.read_text())
    del description["config"]["decoder_dtype"]
    described.write_text(json.dumps(description))
    manifest.write(tmp_path / "old")
    assert types(cvvae_jax.load(tmp_path / "old")) == ("bfloat16", None, "float32")


def test_official_classes_hold_models_with_another_type_of_the_decoder():
    """Official classes have no types of computation, so nothing would be read back otherwise."""
    config = ImageVAEConfig(block_channels=(32, 64), blocks_per_level=1, **MIXED)
    family, _ = exportable(abstract(ImageVAE, config))
    assert family is IMAGE
