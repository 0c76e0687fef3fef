import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cvvae_jax import parameter_paths
from cvvae_jax.config import ImageVAEConfig
from cvvae_jax.convert import convert
from cvvae_jax.convert.convert import from_official
from cvvae_jax.convert.names import diffusers_rows, official_name
from cvvae_jax.errors import UserError
from cvvae_jax.models.image_vae import ImageVAE


@pytest.fixture
def vae() -> ImageVAE:
    config = ImageVAEConfig(block_channels=(8, 8), blocks_per_level=1, norm_groups=4)
    return ImageVAE(config, rngs=nnx.Rngs(0))


@pytest.fixture
def official(vae) -> dict[str, np.ndarray]:
    rows, found = diffusers_rows(), {}
    for path, leaf in parameter_paths.flatten(vae).items():
        name, row = official_name(rows, path)
        found[name] = convert.official_order(np.asarray(leaf), unit_axes=row.unit_axes)
    return found


def test_official_tensors_fill_an_abstract_model_exactly(vae, official):
    abstract = jax.eval_shape(lambda: vae)
    filled = from_official(abstract, official, diffusers_rows())
    for ours, theirs in zip(jax.tree.leaves(filled), jax.tree.leaves(vae), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_all_misfits_are_listed_at_once(vae, official):
    official["decoder.surprise.weight"] = official.pop("decoder.conv_in.bias")
    official["decoder.conv_out.bias"] = np.zeros(5, np.float32)
    with pytest.raises(UserError) as error:
        from_official(vae, official, diffusers_rows())
    for words in (
        "missing (1): decoder.conv_in.bias",
        "unexpected (1): decoder.surprise.weight",
        "misshapen (1): decoder.conv_out.bias is (5,), must be (3,)",
    ):
        assert words in str(error.value)


def test_parameters_take_the_models_type(vae, official):
    half = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), vae)
    filled = from_official(half, official, diffusers_rows())
    assert {leaf.dtype for leaf in jax.tree.leaves(filled)} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_what_is_no_number_is_found(dtype):
    dtype = jnp.dtype(dtype)
    largest = jnp.finfo(dtype).max
    sound = np.array([[0.0, -0.0], [largest, -largest]], dtype)
    assert convert.describe_not_finite(sound) is None
    assert convert.describe_not_finite(sound[:0]) is None
    for values, what in (([np.inf], "Inf"), ([-np.inf], "Inf"), ([-np.nan, np.inf], "NaN")):
        for array in (np.array([1.0, *values], dtype), np.array(values[0], dtype)):
            assert convert.describe_not_finite(array) == what
