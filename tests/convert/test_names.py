import json
from pathlib import Path

import numpy as np
import pytest

from cvvae_jax.convert import convert
from cvvae_jax.convert.names import (
    diffusers_names,
    discriminator_names,
    ldm_names,
    lpips_names,
    modern_name,
    official_name,
    our_path,
    svd_names,
)

GOLDEN = Path(__file__).parents[1] / "golden"
TABLES = {
    "cvvae_sd21_tiny": ldm_names(4, image=False),
    "cvvae_sd21": ldm_names(4, image=False),
    "cvvae_sd3_tiny": diffusers_names(),
    "autoencoderkl_sd_tiny": diffusers_names(),
    "autoencoderkl_sd3_tiny": diffusers_names(),
    "autoencoderkl_temporal_tiny": svd_names(),
    "autoencoderkl_temporal_two_layers": svd_names(),
    "disc3d_tiny": discriminator_names(3),
    "disc3d": discriminator_names(4),
    "lpips": lpips_names(),
}


@pytest.mark.parametrize("name", TABLES)
def test_every_official_tensor_goes_to_one_path_and_back(name):
    official = json.loads((GOLDEN / f"{name}.json").read_text())["state_dict"]
    paths = {}
    for key, shape in official.items():
        path, row = our_path(TABLES[name], key)
        assert official_name(TABLES[name], path) == (key, row)
        tensor = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        ours = convert.our_order(tensor, unit_axes=row.unit_axes)
        np.testing.assert_array_equal(convert.official_order(ours, unit_axes=row.unit_axes), tensor)
        paths[path] = ours.shape
    assert len(paths) == len(official)


def test_decoder_levels_count_from_the_lowest_resolution():
    path, _ = our_path(ldm_names(4, image=False), "decoder.up.3.block.0.conv1.weight")
    assert path == "decoder/up_blocks/00/resnets/00/conv1/kernel"


def test_linear_layers_drop_the_unit_axes_of_their_official_kernels():
    path, row = our_path(ldm_names(4, image=False), "decoder.up.1.block.0.nin_shortcut.weight")
    assert path == "decoder/up_blocks/02/resnets/00/conv_shortcut/kernel"
    assert convert.our_order(np.zeros((64, 128, 1, 1, 1)), unit_axes=row.unit_axes).shape == (
        128,
        64,
    )


@pytest.mark.parametrize(
    ("official", "ours"),
    [
        ("main.0.weight", "conv_in/kernel"),
        ("main.2.norm1.weight", "blocks/00/norm1/scale"),
        ("main.5.nin_shortcut.bias", "blocks/01/conv_shortcut/bias"),
        ("main.5.temb_proj.weight", "blocks/01/temb_proj/kernel"),
        ("main.12.weight", "norms/03/scale"),
        ("main.14.bias", "conv_out/bias"),
    ],
)
def test_discriminator_is_named_by_its_parts(official, ours):
    path, row = our_path(discriminator_names(4), official)
    assert path == ours
    assert official_name(discriminator_names(4), path) == (official, row)


@pytest.mark.parametrize(
    ("official", "ours"),
    [
        ("mid_block.resnets.1.spatial_res_block.norm1.weight", "spatial_res_block/norm1/scale"),
        ("mid_block.resnets.1.temporal_res_block.conv1.weight", "temporal_res_block/conv1/kernel"),
        ("mid_block.resnets.1.time_mixer.mix_factor", "time_mixer/mix_factor"),
    ],
)
def test_decoder_blocks_of_svd_have_parts(official, ours):
    path, _ = our_path(svd_names(), f"decoder.{official}")
    assert path == f"decoder/mid_block/resnets/01/{ours}"


@pytest.mark.parametrize(
    ("official", "shape", "ours"),
    [
        ("encoder.down.0.block.1.conv1.weight", (8, 4, 3, 3), "down_blocks/00/resnets/01/conv1"),
        ("encoder.mid.attn_1.q.weight", (8, 4, 1, 1), "mid_block/attentions/00/to_q"),
        ("encoder.down.1.block.0.nin_shortcut.weight", (8, 4, 1, 1), "resnets/00/conv_shortcut"),
        ("quant_conv.weight", (8, 4, 1, 1), "quant_conv"),
        ("post_quant_conv.weight", (8, 4, 1, 1), "post_quant_conv"),
    ],
)
def test_original_image_vae_files_have_2d_kernels(official, shape, ours):
    path, row = our_path(ldm_names(4, image=True), official)
    assert path.endswith(f"{ours}/kernel")
    kernel = convert.our_order(np.zeros(shape), unit_axes=row.unit_axes)
    assert kernel.shape == ((3, 3, 4, 8) if shape[-1] == 3 else (4, 8))
    assert convert.official_order(kernel, unit_axes=row.unit_axes).shape == shape


def test_original_and_diffusers_files_name_the_same_parameters():
    """Every parameter of the image VAE has a name in both layouts, and the name leads back to
    it."""
    official = json.loads((GOLDEN / "autoencoderkl_sd_tiny.json").read_text())["state_dict"]
    rows = ldm_names(4, image=True)
    paths = [our_path(diffusers_names(), key)[0] for key in official]
    names = [official_name(rows, path)[0] for path in paths]
    assert len(set(names)) == len(names)
    assert not any("blocks" in name or "mid_block" in name for name in names)
    assert [our_path(rows, name)[0] for name in names] == paths


@pytest.mark.parametrize(
    ("old", "new"),
    [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")],
)
def test_attention_of_old_diffusers_files_gets_its_new_names(old, new):
    for layer in ("encoder.mid_block.attentions.0", "decoder.mid_block.attentions.0"):
        for leaf in ("weight", "bias"):
            assert modern_name(f"{layer}.{old}.{leaf}") == f"{layer}.{new}.{leaf}"


def test_new_names_stay():
    official = json.loads((GOLDEN / "autoencoderkl_sd_tiny.json").read_text())["state_dict"]
    assert [modern_name(key) for key in official] == list(official)


def test_unknown_names_have_no_place():
    assert our_path(ldm_names(4, image=False), "encoder.down.4.block.0.conv1.weight") is None
    assert our_path(ldm_names(4, image=False), "encoder.conv_in.running_mean") is None
