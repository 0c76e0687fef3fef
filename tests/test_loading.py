"""`load` reads PyTorch's weights as they are stored, in other types, and onto a mesh."""

import dataclasses
import inspect
import json
import re
import warnings

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

import cvvae_jax
from cvvae_jax import parameter_paths, sharding
from cvvae_jax.checkpoint import save_model
from cvvae_jax.config import ImageVAEConfig, MeshConfig
from cvvae_jax.convert.convert import to_official
from cvvae_jax.convert.export import write_official
from cvvae_jax.convert.names import diffusers_rows
from cvvae_jax.errors import UserError
from cvvae_jax.loading import open_model
from cvvae_jax.models.discriminator import Discriminator
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.resumable import manifest

CONFIG = ImageVAEConfig(block_channels=(32, 64), blocks_per_level=1)


@pytest.fixture(scope="module")
def vae() -> ImageVAE:
    return ImageVAE(CONFIG, rngs=nnx.Rngs(0))


@pytest.fixture
def official(vae) -> dict[str, np.ndarray]:
    return dict(to_official(vae, diffusers_rows()))


def write(path, tensors, config: dict | None = None):
    path.mkdir(exist_ok=True)
    save_file(tensors, path / "diffusion_pytorch_model.safetensors")
    (path / "config.json").write_text(json.dumps(config or {}))
    return path


def write_raw(path, tensors: dict[str, tuple[str, np.ndarray]]):
    """A safetensors file of tensors with the names of their types there."""
    header, data = {}, b""
    for name, (kind, array) in tensors.items():
        end = len(data) + array.nbytes
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [len(data), end]}
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def assert_same(ours, theirs):
    theirs = parameter_paths.flatten(theirs)
    for path, leaf in parameter_paths.flatten(ours).items():
        np.testing.assert_array_equal(leaf, theirs[path], err_msg=path)


def test_pytorch_weights_load_exactly(tmp_path, vae, official):
    loaded = cvvae_jax.load(write(tmp_path / "x", official))
    assert type(loaded) is ImageVAE
    assert loaded.config == CONFIG
    assert_same(loaded, vae)


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_half_precision_stays_and_is_computed_in_float32(tmp_path, official, stored):
    half = {name: tensor.astype(jnp.dtype(stored)) for name, tensor in official.items()}
    loaded = cvvae_jax.load(write(tmp_path / "x", half))
    assert (loaded.config.param_dtype, loaded.config.dtype) == (stored, "float32")
    for path, leaf in parameter_paths.flatten(loaded).items():
        assert leaf.dtype == jnp.dtype(stored), path
    video = jnp.zeros((1, 1, 16, 16, 3))
    assert loaded.moments(video).dtype == jnp.float32


def test_mixed_types_are_read_in_one_that_holds_all(tmp_path, official):
    official["decoder.conv_in.bias"] = official["decoder.conv_in.bias"].astype(np.float16)
    official["decoder.conv_out.bias"] = official["decoder.conv_out.bias"].astype(jnp.bfloat16)
    loaded = cvvae_jax.load(write(tmp_path / "x", official))
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {jnp.dtype("float32")}
    expected = official["decoder.conv_in.bias"].astype(np.float32)
    np.testing.assert_array_equal(loaded.decoder.conv_in.bias[...], expected)


@pytest.mark.parametrize("ours", [False, True])
def test_dtype_is_that_of_parameters_and_computation(tmp_path, vae, official, ours):
    if ours:
        save_model(tmp_path / "x", vae)
    else:
        write(tmp_path / "x", official)
    loaded = cvvae_jax.load(tmp_path / "x", dtype="bfloat16")
    assert (loaded.config.param_dtype, loaded.config.dtype) == ("bfloat16", "bfloat16")
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), vae)
    assert_same(loaded, rounded)


@pytest.mark.parametrize("ours", [False, True])
def test_parameters_are_laid_out_on_a_mesh(tmp_path, vae, official, ours, monkeypatch):
    monkeypatch.setattr(sharding, "SMALLEST_SHARDED", 64)
    if ours:
        save_model(tmp_path / "x", vae)
    else:
        write(tmp_path / "x", official)
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=4), batches=(8,))
    loaded = cvvae_jax.load(tmp_path / "x", mesh=mesh)
    assert_same(loaded, vae)
    expected = parameter_paths.flatten(sharding.shardings(vae, mesh))
    for path, leaf in parameter_paths.flatten(loaded).items():
        assert leaf.sharding == expected[path], path
    kernel = loaded.decoder.conv_in.kernel[...]
    assert len({str(shard.index) for shard in kernel.addressable_shards}) == 4


def test_meshes_that_do_not_serve_are_refused(tmp_path, official):
    folder = write(tmp_path / "x", official)
    for mesh, says in (
        (jax.make_mesh((8,), ("data",)), "axes data; .* called fsdp"),
        (jax.make_mesh((8,), ("fsdp",)), r"AxisType\.Auto"),
    ):
        with pytest.raises(UserError, match=says):
            cvvae_jax.load(folder, mesh=mesh)


@pytest.mark.parametrize("dtype", ["fp16", "float64", jnp.bfloat16])
def test_unknown_types_are_refused(dtype):
    unchecked = inspect.unwrap(open_model)  # outside of tests nothing checks annotations
    with pytest.raises(UserError, match="dtype must be one of float32, bfloat16, float16"):
        unchecked("x", dtype=dtype)


def test_a_scale_that_has_to_be_assumed_is_said(tmp_path, official):
    folder = write(tmp_path / "x", official)
    (folder / "config.json").unlink()
    with pytest.warns(UserWarning, match=r"no config.json; assumed: scaling factor 0\.18215"):
        cvvae_jax.load(folder)


def test_sixteen_channels_without_a_config_are_taken_for_sd3s(tmp_path):
    vae = ImageVAE(dataclasses.replace(CONFIG, latent_channels=16), rngs=nnx.Rngs(0))
    folder = write(tmp_path / "x", dict(to_official(vae, diffusers_rows())))
    (folder / "config.json").unlink()
    opened = open_model(folder)
    assert (opened.config.scaling_factor, opened.config.shift_factor) == (1.5305, 0.0609)
    assert "FLUX's are 0.3611" in opened.assumed[0]


@pytest.mark.parametrize(
    "given",
    [
        {"force_upcast": False},
        {"_diffusers_version": "0.6.0"},
        {"sample_size": 64},
        {"shift_factor": 0.0},
        {"something_new": [1]},
    ],
)
def test_settings_that_change_nothing_here_are_passed_over(tmp_path, official, given):
    assert cvvae_jax.load(write(tmp_path / "x", official, given)).config == CONFIG


def test_a_config_of_another_class_is_refused_for_a_lone_discriminator(
    tmp_path, tiny_discriminator
):
    with pytest.raises(UserError, match="contradicts the tensors: ndf is 64"):
        cvvae_jax.load(write(tmp_path / "x", tiny_discriminator, {"ndf": 64}))


def test_the_license_in_the_metadata_is_read(tmp_path, official):
    save_file(official, tmp_path / "x.safetensors", metadata={"modelspec.license": "mit"})
    assert open_model(tmp_path / "x.safetensors").license == {"license": "mit"}


@pytest.mark.parametrize("given", [{}, {"scaling_factor": 0.18215, "shift_factor": None}])
def test_a_config_without_a_scale_means_the_official_default(tmp_path, given):
    vae = ImageVAE(dataclasses.replace(CONFIG, latent_channels=16), rngs=nnx.Rngs(0))
    folder = write(tmp_path / "x", dict(to_official(vae, diffusers_rows())), given)
    assert cvvae_jax.load(folder).config == vae.config


def test_norms_of_other_groups_are_read_and_exported(tmp_path):
    config = dataclasses.replace(CONFIG, block_channels=(16, 32), norm_groups=8)
    vae = ImageVAE(config, rngs=nnx.Rngs(0))
    write_official(vae, tmp_path / "x")
    assert cvvae_jax.load(tmp_path / "x").config == config


@pytest.mark.parametrize(
    "given",
    [
        {"norm_num_groups": "32"},
        {"norm_num_groups": 32.0},
        {"norm_num_groups": 0},
        {"norm_num_groups": -1},
        {"scaling_factor": True},
        {"scaling_factor": "0.18"},
        {"scaling_factor": 0},
        {"scaling_factor": float("nan")},
        {"shift_factor": [1]},
    ],
)
def test_settings_of_another_type_are_refused(tmp_path, official, given):
    with pytest.raises(UserError, match=rf"x/config\.json: {next(iter(given))} must be"):
        cvvae_jax.load(write(tmp_path / "x", official, given))


@pytest.mark.parametrize(
    "description",
    [
        {},
        {"model": "ImageVAE"},
        {"model": "ImageVAE", "config": {"norm_groups": "x"}},
        {"model": []},
        {"model": "Foo", "config": {}},
    ],
)
def test_a_damaged_description_is_refused(tmp_path, vae, description):
    save_model(tmp_path / "x", vae)
    (tmp_path / "x/model/metadata").write_text(json.dumps(description))
    with pytest.raises(UserError, match="x"):
        cvvae_jax.load(tmp_path / "x")


@pytest.mark.parametrize(
    "config",
    [
        {"blocks_per_level": 10_000_000},
        {"blocks_per_level": 32},
        {"block_channels": [32] * 9},
        {"norm_eps": "NaN"},
        {"dtype": "float128"},
        {"decoder_attention": 5},
    ],
)
def test_a_hostile_description_is_refused_before_a_network_is_set_up(
    tmp_path, monkeypatch, vae, config
):
    monkeypatch.setattr("cvvae_jax.loading.abstract_model", None)  # it is not called
    save_model(tmp_path / "x", vae)
    said = {"model": "ImageVAE", "config": dataclasses.asdict(vae.config) | config}
    (tmp_path / "x/model/metadata").write_text(json.dumps(said))
    manifest.write(tmp_path / "x")
    with pytest.raises(UserError, match=f"x: .*{next(iter(config))}"):
        cvvae_jax.load(tmp_path / "x")


@pytest.mark.parametrize(
    "name",
    [
        "encoder.down_blocks.99999999.resnets.0.conv1.bias",
        "encoder.down_blocks.0.resnets.99999999.conv1.bias",
        f"encoder.down_blocks.0.resnets.{'9' * 5000}.conv1.bias",
    ],
)
def test_names_with_high_numbers_are_unexpected(tmp_path, official, name):
    official[name] = np.zeros(32, np.float32)
    with pytest.raises(UserError, match=r"unexpected \(1\)"):
        cvvae_jax.load(write(tmp_path / "x", official))


@pytest.mark.parametrize("name", ["encoder.conv_out.bias", "decoder.conv_in.weight"])
def test_tensors_without_axes_are_named(tmp_path, official, name):
    official[name] = np.zeros((), np.float32)
    with pytest.raises(UserError, match=re.escape(name)):
        cvvae_jax.load(write(tmp_path / "x", official))


def test_a_second_name_for_a_tensor_is_refused(tmp_path, official):
    official["encoder.down_blocks.00.resnets.0.conv1.bias"] = official[
        "encoder.down_blocks.0.resnets.0.conv1.bias"
    ]
    with pytest.raises(UserError, match=r"unexpected \(1\): encoder\.down_blocks\.00"):
        cvvae_jax.load(write(tmp_path / "x", official))


def test_the_config_beside_the_weights_or_named_gives_the_scale(tmp_path, official):
    folder = write(tmp_path / "x", official, {"scaling_factor": 0.13025})
    assert cvvae_jax.load(folder).config.scaling_factor == 0.13025
    other = tmp_path / "other.json"
    other.write_text('{"scaling_factor": 0.5, "shift_factor": 0.25}')
    config = cvvae_jax.load(folder, config=other).config
    assert (config.scaling_factor, config.shift_factor) == (0.5, 0.25)


@pytest.mark.parametrize("prefix", ["vae.", ""])
@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E8M0", "F4", "C64", "U16", "I64", "of 2031"])
def test_tensors_of_other_models_may_be_of_any_type(tmp_path, vae, official, prefix, kind):
    tensors = {prefix + name: ("F32", array) for name, array in official.items()}
    other = {"model.diffusion_model.out.0.weight": (kind, np.zeros(16, np.uint8))}
    path = write_raw(tmp_path / "x.safetensors", other | tensors)
    with pytest.warns(UserWarning, match="assumed"):
        assert_same(cvvae_jax.load(path), vae)
    assert open_model(path).left_alone == tuple(other)


@pytest.mark.filterwarnings("ignore:.*assumed")
def test_a_tensor_of_the_model_of_an_unknown_type_is_named(tmp_path, official):
    tensors = {name: ("F32", array) for name, array in official.items()}
    tensors["decoder.conv_in.bias"] = ("F8_E8M0", np.zeros(64, np.uint8))
    path = write_raw(tmp_path / "x.safetensors", tensors)
    with pytest.raises(UserError, match=r"x\.safetensors holds decoder\.conv_in\.bias as F8_E8M0"):
        cvvae_jax.load(path)


EIGHT_BITS = {"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2}


@pytest.mark.filterwarnings("ignore:.*assumed")
@pytest.mark.parametrize("kind", EIGHT_BITS)
def test_weights_of_eight_bits_are_read_exactly_as_float32(tmp_path, vae, official, kind):
    tensors = {name: (kind, array.astype(EIGHT_BITS[kind])) for name, array in official.items()}
    tensors["decoder.conv_in.bias"] = ("F32", official["decoder.conv_in.bias"])
    path = write_raw(tmp_path / "x.safetensors", tensors)
    with pytest.warns(UserWarning, match=r"weights of 8 bits \(float8_e\w+\), .* as float32"):
        loaded = cvvae_jax.load(path)
    assert loaded.config.param_dtype == "float32"
    written = dict(to_official(loaded, diffusers_rows()))
    for name, (_, array) in tensors.items():
        np.testing.assert_array_equal(written[name], array.astype(np.float32), err_msg=name)


@pytest.mark.parametrize(
    "scale",
    [
        *("decoder.conv_in.weight_scale", "decoder.conv_in.scale_weight"),
        *("encoder.conv_in.weight_scale_inv", "decoder.conv_in.input_scale"),
    ],
)
def test_weights_of_eight_bits_with_factors_are_refused(tmp_path, official, scale):
    dtype = ml_dtypes.float8_e4m3fn
    tensors = {name: ("F8_E4M3", array.astype(dtype)) for name, array in official.items()}
    tensors[scale] = ("F32", np.ones(1, np.float32))
    path = write_raw(tmp_path / "x.safetensors", tensors)
    with pytest.raises(UserError, match=rf"8-bit weights with factors of their own \({scale}"):
        cvvae_jax.load(path)


@pytest.mark.parametrize("wrapper", ["_orig_mod", "module", "_fsdp_wrapped_module"])
def test_weights_of_wrapped_modules_are_read(tmp_path, vae, official, wrapper):
    """The encoder alone was compiled, and the whole saved from inside another model."""
    wrapped = {
        f"model.{name.replace('encoder.', f'encoder.{wrapper}.')}": array
        for name, array in official.items()
    }
    assert_same(cvvae_jax.load(write(tmp_path / "x", wrapped)), vae)


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, '{"a": 1, "a": 2}'])
def test_a_bad_named_config_is_refused(tmp_path, official, text):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(UserError, match=r"other\.json (is not|must be)"):
        cvvae_jax.load(write(tmp_path / "x", official), config=tmp_path / "other.json")


def test_a_contradicting_config_is_refused(tmp_path, official):
    folder = write(tmp_path / "x", official, {"latent_channels": 16})
    with pytest.raises(UserError, match=r"x/config\.json contradicts the tensors: latent_channe"):
        cvvae_jax.load(folder)


def test_training_states_hold_several_models(tmp_path, official, tiny_discriminator):
    """The config.json beside them speaks of the autoencoder."""
    parts = {f"loss.discriminator.{name}": t for name, t in tiny_discriminator.items()}
    settings = {"_class_name": "AutoencoderKL", "latent_channels": 4}
    folder = write(tmp_path / "x", {**official, **parts}, settings)
    assert type(cvvae_jax.load(folder)) is ImageVAE
    loaded = cvvae_jax.load(folder, prefix="loss.discriminator.")
    assert type(loaded) is Discriminator
    np.testing.assert_array_equal(loaded.conv_out.bias[...], tiny_discriminator["main.11.bias"])


@pytest.fixture
def tiny_discriminator() -> dict[str, np.ndarray]:
    from cvvae_jax.config import DiscriminatorConfig
    from cvvae_jax.convert.names import discriminator_rows

    model = Discriminator(DiscriminatorConfig(base_channels=32, layers=3), rngs=nnx.Rngs(0))
    return dict(to_official(model, discriminator_rows(3)))


def test_weights_that_are_no_numbers_are_named_in_a_warning(tmp_path, official):
    official["decoder.conv_in.bias"] = np.full_like(official["decoder.conv_in.bias"], np.nan)
    official["encoder.conv_in.bias"] = np.full_like(official["encoder.conv_in.bias"], -np.inf)
    with pytest.warns(UserWarning, match="no numbers") as caught:
        cvvae_jax.load(write(tmp_path / "x", official))
    text = str(caught[0].message)
    assert "decoder.conv_in.bias (NaN)" in text and "encoder.conv_in.bias (Inf)" in text


def test_sound_weights_load_without_a_warning(tmp_path, official):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cvvae_jax.load(write(tmp_path / "x", official))


@pytest.mark.parametrize(
    ("dtype", "words"), [("int32", r"conv_in\.bias is int32"), ("float64", "ask for dtype float32")]
)
def test_types_that_are_not_kept_are_refused(tmp_path, official, dtype, words):
    official["decoder.conv_in.bias"] = official["decoder.conv_in.bias"].astype(dtype)
    with pytest.raises(UserError, match=words):
        cvvae_jax.load(write(tmp_path / "x", official))


def test_double_precision_is_rounded_on_demand(tmp_path, official, vae):
    double = {name: tensor.astype(np.float64) for name, tensor in official.items()}
    assert_same(cvvae_jax.load(write(tmp_path / "x", double), dtype="float32"), vae)


def test_old_attention_layers_load_as_linear_or_convolution(tmp_path, official, vae):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for name in list(official):
        for new, before in old.items():
            if f".{new}." in name:
                tensor = official.pop(name)
                unit = (1, 1) if name.startswith("encoder") and tensor.ndim == 2 else ()
                official[name.replace(new, before)] = tensor.reshape(*tensor.shape, *unit)
    assert_same(cvvae_jax.load(write(tmp_path / "x", official)), vae)


def test_arguments_for_the_other_kind_of_file_are_refused(tmp_path, official, vae):
    save_model(tmp_path / "ours", vae)
    for option in ({"prefix": "vae."}, {"config": tmp_path / "x.json"}):
        with pytest.raises(UserError, match="prefix and config are for PyTorch's"):
            cvvae_jax.load(tmp_path / "ours", **option)
    with pytest.raises(UserError, match="no train state"):
        cvvae_jax.load(tmp_path / "ours", raw=True)
    with pytest.raises(UserError, match="no run of ours"):
        cvvae_jax.load(write(tmp_path / "x", official), raw=True)


def test_opening_reads_no_numbers(tmp_path, official):
    """A file whose numbers are gone is described all the same."""
    folder = write(tmp_path / "x", official)
    opened = open_model(folder)
    assert opened.stored_tensors["decoder.conv_in.bias"].shape == (64,)
    assert opened.config == CONFIG
