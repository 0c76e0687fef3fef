import json
from pathlib import Path

import numpy as np
import pytest

from cvvae_jax.convert import tensors
from cvvae_jax.convert.names import (
    diffusers_rows,
    discriminator_rows,
    official_name,
    our_path,
    sd21_rows,
)

GOLDEN = Path(__file__).parents[1] / "golden"
TABLES = {
    "cvvae_sd21_tiny": sd21_rows(4),
    "cvvae_sd21": sd21_rows(4),
    "cvvae_sd3_tiny": diffusers_rows(),
    "autoencoderkl_sd_tiny": diffusers_rows(),
    "autoencoderkl_sd3_tiny": diffusers_rows(),
}


@pytest.mark.parametrize("name", TABLES)
def test_every_official_tensor_goes_to_one_path_and_back(name):
    official = json.loads((GOLDEN / f"{name}.json").read_text())["state_dict"]
    paths = {}
    for key, shape in official.items():
        path, row = our_path(TABLES[name], key)
        assert official_name(TABLES[name], path) == (key, row)
        tensor = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        ours = tensors.to_ours(tensor, unit_axes=row.unit_axes)
        np.testing.assert_array_equal(tensors.to_official(ours, unit_axes=row.unit_axes), tensor)
        paths[path] = ours.shape
    assert len(paths) == len(official)


def test_decoder_levels_count_from_the_lowest_resolution():
    path, _ = our_path(sd21_rows(4), "decoder.up.3.block.0.conv1.weight")
    assert path == "decoder/up_blocks/00/resnets/00/conv1/kernel"


def test_linear_layers_drop_the_unit_axes_of_their_official_kernels():
    path, row = our_path(sd21_rows(4), "decoder.up.1.block.0.nin_shortcut.weight")
    assert path == "decoder/up_blocks/02/resnets/00/conv_shortcut/kernel"
    assert tensors.to_ours(np.zeros((64, 128, 1, 1, 1)), unit_axes=row.unit_axes).shape == (128, 64)


@pytest.mark.parametrize(
    ("official", "ours"),
    [
        ("main.0.weight", "conv_in/kernel"),
        ("main.2.norm1.weight", "blocks/00/norm1/scale"),
        ("main.5.nin_shortcut.bias", "blocks/01/conv_shortcut/bias"),
        ("main.12.weight", "norms/03/scale"),
        ("main.14.bias", "conv_out/bias"),
    ],
)
def test_discriminator_is_named_by_its_parts(official, ours):
    path, row = our_path(discriminator_rows(4), official)
    assert path == ours
    assert official_name(discriminator_rows(4), path) == (official, row)


def test_unknown_names_have_no_place():
    assert our_path(sd21_rows(4), "encoder.down.4.block.0.conv1.weight") is None
    assert our_path(sd21_rows(4), "encoder.conv_in.running_mean") is None
