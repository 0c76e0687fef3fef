"""Official layouts are recognized from names and shapes, and exports have exactly those again."""

import dataclasses

import jax
import pytest
from flax import nnx

from cvvae_jax.config import DiscriminatorConfig, ImageVAEConfig, SVDVAEConfig, VideoVAEConfig
from cvvae_jax.convert import families, official_config, recognition
from cvvae_jax.convert.convert import official_shapes
from cvvae_jax.errors import UserError
from cvvae_jax.models import image_vae, video_vae
from cvvae_jax.models.video_vae import VideoVAE

EXPECTED = {
    "cvvae_v1": (families.SD21, video_vae.PRESETS["sd21"]),
    "cvvae_v1_full3d": (families.SD21, video_vae.PRESETS["sd21_full3d"]),
    "cvvae_sd3": (families.SD3, video_vae.PRESETS["sd3"]),
    "autoencoderkl_sd": (families.IMAGE, image_vae.PRESETS["sd"]),
    "autoencoderkl_sd3": (families.IMAGE, image_vae.PRESETS["sd3"]),
    "autoencoderkl_temporal_svd": (families.SVD, SVDVAEConfig()),
    "disc3d": (families.DISCRIMINATOR, DiscriminatorConfig()),
    "disc3d_half3d": (families.DISCRIMINATOR, DiscriminatorConfig(half_3d=True)),
}


def recognize(tensors: dict) -> tuple:
    return recognition.recognize({name: tuple(s) for name, s in tensors.items()}, source="the file")


def abstract(family, config):
    return jax.eval_shape(lambda: family.model_class(config, rngs=nnx.Rngs(0)))


def small(**changes) -> VideoVAE:
    config = VideoVAEConfig(block_channels=(32, 64, 64, 64), blocks_per_level=1)
    return abstract(families.SD21, dataclasses.replace(config, **changes))


@pytest.mark.parametrize("name", EXPECTED)
def test_family_and_sizes_are_read_from_names_and_shapes(layouts, name):
    family, config = recognize(layouts[name]["tensors"])
    if family is families.IMAGE:
        config = recognition.with_usual_scale(config)
    assert (family, config) == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED)
def test_export_has_exactly_the_official_names_shapes_and_settings(layouts, name):
    family, config = EXPECTED[name]
    model = abstract(family, config)
    exported, settings = official_config.exportable(model)
    assert exported is family
    named = dict(official_shapes(model, family.layer_names(config)).values())
    assert named == {key: tuple(shape) for key, shape in layouts[name]["tensors"].items()}
    expected = layouts[name]["config"]
    assert settings["_class_name"] == family.official_class
    assert {key: settings[key] for key in expected if key != "sample_size"} == {
        key: value for key, value in expected.items() if key != "sample_size"
    }


def test_sizes_are_read_although_tensors_are_missing_or_misshapen(layouts):
    tensors = dict(layouts["cvvae_sd3"]["tensors"])
    for name in ("encoder.conv_in.weight", "decoder.conv_in.weight", "encoder.conv_out.weight"):
        del tensors[name]
    tensors["encoder.down_blocks.1.resnets.0.conv1.bias"] = [7]
    tensors["decoder.up_blocks.0.resnets.0.conv1.weight"] = [512, 512, 3, 3]
    assert recognize(tensors) == EXPECTED["cvvae_sd3"]


def test_original_stable_diffusion_names_are_an_image_vae(layouts):
    tensors = {
        "encoder.down.0.block.0.conv1.weight": [128, 128, 3, 3],
        "encoder.down.0.block.0.conv1.bias": [128],
        "encoder.down.0.block.0.conv2.bias": [128],
        "encoder.mid.attn_1.q.weight": [128, 128, 1, 1],
        "encoder.conv_out.bias": [8],
        "quant_conv.weight": [8, 8, 1, 1],
    }
    family, config = recognize(tensors)
    assert family is families.IMAGE_LDM
    assert config == ImageVAEConfig(block_channels=(128,), blocks_per_level=1)


def test_mixed_families_are_refused(layouts):
    video, image = (layouts[n]["tensors"] for n in ("cvvae_sd3", "autoencoderkl_sd3"))
    v1 = layouts["cvvae_v1"]["tensors"]
    decoder = {name: shape for name, shape in video.items() if name.startswith("decoder")}
    for other in (image, v1):
        encoder = {name: shape for name, shape in other.items() if name.startswith("encoder")}
        with pytest.raises(UserError, match="mixes two families"):
            recognize({**encoder, **decoder})


def test_unknown_tensors_are_refused_by_their_names():
    with pytest.raises(UserError, match=r"no known model.*layers\.0\.weight"):
        recognize({"layers.0.weight": [3, 3]})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"norm_groups": 16}, "norm_groups 32 (it is 16)"),
        ({"norm_eps": 1e-6}, "norm_eps 1e-05 (it is 1e-06)"),
        ({"temporal_padding": "edge"}, "temporal_padding 'zero' (it is 'edge')"),
        ({"temporal_strides": (1, 1, 2)}, "temporal_strides (2, 1, 2) (it is (1, 1, 2))"),
        ({"block_channels": (64, 96, 96, 96)}, "multiples of the first"),
    ],
)
def test_models_that_no_official_class_computes_are_not_exported(changes, words):
    with pytest.raises(UserError) as error:
        official_config.exportable(small(**changes))
    assert "CVVAEModel" in str(error.value)
    assert words in str(error.value)


def test_all_settings_that_are_in_the_way_of_an_export_are_named():
    with pytest.raises(UserError) as error:
        official_config.exportable(small(norm_groups=16, temporal_padding="edge"))
    for words in ("CVVAEModel, needs", "norm_groups 32 (it is 16)", "temporal_padding 'zero' (it"):
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({}, {"decoder_attn_type": "spatial-temporal-xformer", "ch_mult": [1, 2, 2, 2]}),
        ({"decoder_attention": "spatial"}, {"decoder_attn_type": "vanilla-xformers"}),
        ({"mid_attention": False}, {"encoder_attn_type": "none", "decoder_attn_type": "none"}),
        ({"causal_decoder": True, "scaling_factor": 0.2}, {"causal_decoder": True}),
        ({"shift_factor": 0.1}, {"scaling_factor": 0.18215, "shift_factor": 0.1}),
    ],
)
def test_variants_that_official_classes_know_are_exported(changes, settings):
    family, written = official_config.exportable(small(**changes))
    assert family is families.SD21
    assert {name: written[name] for name in settings} == settings


def test_config_json_adds_what_tensors_do_not_show(layouts):
    config = EXPECTED["autoencoderkl_sd3"][1]
    given = {"scaling_factor": 0.3611, "shift_factor": 0.1159, "norm_num_groups": 16}
    found = official_config.with_official_config(
        families.IMAGE, config, given, source="config.json"
    )
    assert found == dataclasses.replace(
        config, scaling_factor=0.3611, shift_factor=0.1159, norm_groups=16
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("block_out_channels", [128, 256, 512, 1024]),
        ("latent_channels", 16),
        ("act_fn", "gelu"),
        ("_class_name", "AutoencoderKLTemporalDecoder"),
        ("use_quant_conv", False),
    ],
)
def test_config_json_that_contradicts_the_tensors_is_refused(layouts, field, value):
    given = {**layouts["autoencoderkl_sd"]["config"], field: value}
    with pytest.raises(UserError, match=f"x.json contradicts the tensors: {field} is"):
        official_config.with_official_config(
            families.IMAGE, EXPECTED["autoencoderkl_sd"][1], given, source="x.json"
        )


def test_sd3_keeps_its_groups_causality_and_scale():
    config = dataclasses.replace(
        video_vae.PRESETS["sd3"],
        block_channels=(16, 32, 32, 32),
        norm_groups=16,
        causal_decoder=True,
        causal_upsampling=True,
        scaling_factor=0.3611,
    )
    family, settings = official_config.exportable(abstract(families.SD3, config))
    assert family is families.SD3
    shapes = official_shapes(abstract(family, config), family.layer_names(config)).values()
    _, read = recognition.recognize(dict(shapes), groups=16, source="x")
    read = official_config.with_official_config(family, read, settings, source="x.json")
    assert read == config


def test_another_name_for_the_same_attention_is_no_contradiction(layouts):
    given = {**layouts["cvvae_v1"]["config"], "encoder_attn_type": "vanilla"}
    config = EXPECTED["cvvae_v1"][1]
    assert config == official_config.with_official_config(
        families.SD21, config, given, source="config.json"
    )


def test_half_an_autoencoder_is_refused(layouts):
    tensors = layouts["cvvae_sd3"]["tensors"]
    decoder = {name: shape for name, shape in tensors.items() if name.startswith("decoder")}
    with pytest.raises(UserError, match="no whole autoencoder"):
        recognize(decoder)


def test_exports_without_a_shift_say_null():
    model = abstract(families.IMAGE, ImageVAEConfig(block_channels=(32,)))
    assert official_config.exportable(model)[1]["shift_factor"] is None
