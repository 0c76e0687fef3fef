"""PyTorch beside JAX: the reference equals the official code's own outputs, and models of ours are
equal to the reference, or are found not to be, at the stage where they differ."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from golden_files import golden_tensor, random_state
from safetensors.numpy import save_file

from cvvae_jax import parameter_paths, sharding
from cvvae_jax.cli.main import main
from cvvae_jax.convert import convert as convert_tensors
from cvvae_jax.convert.official_model import OfficialModel, open_official
from cvvae_jax.convert.verification import compare, verify
from cvvae_jax.losses import lpips

torch = pytest.importorskip("torch")
from cvvae_jax.convert.verification import torch_reference  # noqa: E402

GOLDEN = Path(__file__).parents[1] / "golden"
VAES = (
    "cvvae_sd21_tiny",
    "cvvae_sd3_tiny",
    "autoencoderkl_sd_tiny",
    "autoencoderkl_sd3_tiny",
    "autoencoderkl_temporal_tiny",
    "autoencoderkl_temporal_two_layers",
    "latent_diffusion",
)
ALL = (*VAES, "disc3d_tiny", "lpips")
# Sums in another order leave up to 8e-6 here; a norm's epsilon of 1e-5 for 1e-6 makes 4e-5, and
# whatever else was tried (paddings, swapped tensors) more than 1e-2.
FLOAT32_TOLERANCE = 2e-5


def load(official: OfficialModel):
    return official.load(sharding.one_device(official.abstract))


def golden_input(case: str, shape: list[int]) -> np.ndarray:
    return np.tanh(random_state(f"input:{case}").standard_normal(shape)).astype(np.float32)


def latent_diffusion_name(name: str) -> str:
    """The name in Stable Diffusion's own files, of a model of four levels."""
    up = {f"up_blocks.{i}.": f"up.{3 - i}." for i in range(4)}
    attention = {
        "group_norm": "norm",
        "to_q": "q",
        "to_k": "k",
        "to_v": "v",
        "to_out.0": "proj_out",
    }
    words = {
        **up,
        **{f"mid_block.attentions.0.{old}": f"mid.attn_1.{new}" for old, new in attention.items()},
        "mid_block.resnets.0": "mid.block_1",
        "mid_block.resnets.1": "mid.block_2",
        "down_blocks": "down",
        "resnets": "block",
        "samplers.0.conv": "sample.conv",
        "conv_shortcut": "nin_shortcut",
        "conv_norm_out": "norm_out",
    }
    return re.sub("|".join(map(re.escape, words)), lambda match: words[match[0]], name)


def golden(name: str) -> tuple[dict, dict[str, np.ndarray]]:
    """A golden file's description and tensors; `latent_diffusion` is an image VAE's with other
    names."""
    file = "autoencoderkl_sd_tiny" if name == "latent_diffusion" else name
    description = json.loads((GOLDEN / f"{file}.json").read_text())
    prefix = "lpips." if name == "lpips" else ""
    found = {k: golden_tensor(prefix + k, s) for k, s in description["state_dict"].items()}
    if name == "lpips":
        found = {key: np.abs(x) if key.startswith("lin") else x for key, x in found.items()}
    if name == "latent_diffusion":
        found = {latent_diffusion_name(key): x for key, x in found.items()}
        # Attention layers are 1x1 convolutions there.
        found |= {
            key: x[..., None, None] for key, x in found.items() if ".attn_1." in key and x.ndim == 2
        }
    return description, found


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """The model of a golden file as an official weight file, opened."""
    folder = tmp_path_factory.mktemp("weights")

    def open_golden(name: str):
        file = folder / f"{name}.safetensors"
        if not file.exists():
            save_file(golden(name)[1], file)
        return open_official(file)

    return open_golden


def assert_equal(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> None:
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


@pytest.mark.parametrize("name", VAES)
def test_reference_of_autoencoders_equals_the_official_code(name):
    description, arrays = golden(name)
    outputs = dict(np.load(GOLDEN / f"{description['name']}.npz"))
    tensors = {key: torch.from_numpy(x) for key, x in arrays.items()}
    official = description["config"]
    groups = {"groups": official.get("norm_num_groups", 32)}
    for case, shape in description["cases"].items():
        clip = torch.from_numpy(golden_input(f"{description['name']}/{case}", shape))
        clip = clip if clip.ndim == 5 else clip[:, :, None]
        encoder = {"causal": official.get("causal_encoder", False)} | groups
        *_, moments = torch_reference.encoder_stages(tensors, clip, **encoder)
        decoder = {"causal": official.get("causal_decoder", False)} | groups
        mode = moments.chunk(2, 1)[0]
        *_, decoded = torch_reference.decoder_stages(tensors, mode, **decoder)
        for ours, key in ((moments, "moments"), (decoded, "decoded")):
            theirs = outputs[f"{case}.{key}"]
            # The frames of SVD's cases and single images have no time axis.
            ours = ours.numpy() if theirs.ndim == 5 else ours.movedim(2, 1).flatten(0, 1).numpy()
            assert_equal(ours, theirs, FLOAT32_TOLERANCE)


def test_reference_of_the_discriminator_equals_the_official_code():
    description, arrays = golden("disc3d_tiny")
    outputs = dict(np.load(GOLDEN / "disc3d_tiny.npz"))
    tensors = {key: torch.from_numpy(x) for key, x in arrays.items()}
    for case, shape in description["cases"].items():
        clip = torch.from_numpy(golden_input(f"disc3d_tiny/{case}", shape))
        *_, logits = torch_reference.discriminator_stages(tensors, clip, groups=32)
        assert_equal(logits.numpy(), outputs[f"{case}.logits"], FLOAT32_TOLERANCE)


def test_reference_of_lpips_equals_the_official_code():
    description, arrays = golden("lpips")
    tensors = {key: torch.from_numpy(x) for key, x in arrays.items()}
    shape = description["shape"]
    clips = (
        torch.from_numpy(golden_input(key, shape))[:, :, None] for key in description["inputs"]
    )
    *_, distance = torch_reference.lpips_stages(tensors, *clips)
    assert_equal(distance[:, 0].numpy(), np.float32(description["values"]), FLOAT32_TOLERANCE)


@pytest.mark.parametrize("name", ALL)
def test_every_stage_equals_pytorch(name, opened):
    official = opened(name)
    errors = verify(load(official), official)
    assert len(dict(errors)) == len(errors) > 4
    assert max(error for _, error in errors) < FLOAT32_TOLERANCE


@pytest.mark.parametrize(
    "name", ["cvvae_sd21_tiny", "latent_diffusion", "autoencoderkl_temporal_two_layers"]
)
def test_stages_of_a_vae_end_in_what_the_model_computes(name, opened):
    vae = load(opened(name))
    frames = 4 if "temporal" in name else 1 + vae.config.temporal_compression
    video = golden_input("stages", [1, frames, 32, 40, 3])
    *_, (_, moments) = compare.encoder_stages(vae, jnp.asarray(video))
    latents = jnp.split(moments, 2, axis=-1)[0]
    *_, (_, decoded) = compare.decoder_stages(vae, latents)
    # Other programs sum in another order.
    assert_equal(moments, jax.jit(lambda vae, video: vae.moments(video))(vae, video), 1e-5)
    assert_equal(decoded, jax.jit(lambda vae, latents: vae.decode(latents))(vae, latents), 1e-5)


def test_stages_of_the_losses_networks_end_in_what_they_compute(opened):
    video, other = jnp.asarray(golden_input("stages", [2, 1, 5, 32, 40, 3]))
    network = load(opened("disc3d_tiny"))
    *_, (_, logits) = compare.discriminator_stages(network, video)
    assert_equal(logits, jax.jit(lambda network, video: network(video))(network, video), 1e-5)
    network = load(opened("lpips"))
    *_, (_, distance) = compare.lpips_stages(network, video, other)
    assert_equal(distance, jax.jit(lpips)(network, video, other), 1e-5)


@pytest.mark.parametrize(
    ("first", "second", "stage"),
    [
        (
            "encoder/down_blocks/02/resnets/00/conv2/kernel",
            "encoder/down_blocks/03/resnets/00/conv2/kernel",
            "encoder/down_blocks/02",
        ),
        (
            "decoder/mid_block/attentions/00/q_t/kernel",
            "decoder/mid_block/attentions/00/v_t/kernel",
            "decoder/mid_block",
        ),
        (
            "decoder/up_blocks/01/resnets/00/norm1/scale",
            "decoder/up_blocks/01/resnets/00/norm1/bias",
            "decoder/up_blocks/01",
        ),
    ],
)
def test_swapped_tensors_are_found_at_their_stage(first, second, stage, opened):
    official = opened("cvvae_sd21_tiny")
    model = load(official)
    leaves = parameter_paths.flatten(model)
    leaves[first], leaves[second] = leaves[second], leaves[first]
    errors = verify(parameter_paths.unflatten(model, leaves), official)
    wrong = {name: error for name, error in errors if error > FLOAT32_TOLERANCE}
    assert next(iter(wrong)) == stage
    assert wrong[stage] > 0.05


def test_weights_in_half_precision_are_compared_as_exactly(tmp_path):
    """Both sides compute in float32 from the same rounded numbers."""
    file = tmp_path / "half.safetensors"
    arrays = golden("autoencoderkl_sd_tiny")[1].items()
    save_file({key: x.astype(ml_dtypes.bfloat16) for key, x in arrays}, file)
    official = open_official(file)
    errors = verify(load(official), official)
    assert max(error for _, error in errors) < FLOAT32_TOLERANCE


def test_values_that_are_no_numbers_never_pass(opened):
    official = opened("disc3d_tiny")
    model = load(official)
    leaves = parameter_paths.flatten(model)
    leaves["norms/01/bias"] = leaves["norms/01/bias"].at[3].set(jnp.nan)
    errors = dict(verify(parameter_paths.unflatten(model, leaves), official))
    assert errors["blocks/00"] < FLOAT32_TOLERANCE
    assert errors["blocks/01"] == errors["conv_out"] == np.inf


def test_command_prints_every_stage(opened, tmp_path, capsys):
    source = opened("disc3d_tiny").path
    assert main(["convert", str(source), str(tmp_path / "ours"), "--verify"]) == 0
    out = capsys.readouterr().out
    assert "PyTorch beside JAX, largest relative error (limit 1e-04)\n  conv_in" in out
    assert re.search(r"^  conv_out +\d\.\de-\d\d$", out, re.M)
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "theirs"), "--verify"]) == 0
    assert (tmp_path / "theirs" / "config.json").exists()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_command_allows_for_the_rounding_that_was_asked_for(dtype, opened, tmp_path, capsys):
    arguments = [str(opened("disc3d_tiny").path), str(tmp_path / "ours"), "--dtype", dtype]
    assert main(["convert", *arguments, "--verify"]) == 0
    worst = max(map(float, re.findall(r"\d\.\de[-+]\d\d", capsys.readouterr().out)))
    assert worst > FLOAT32_TOLERANCE


def test_command_writes_nothing_where_the_two_differ(opened, tmp_path, capsys, monkeypatch):
    right = convert_tensors.our_order

    def mirrored(tensor, *, unit_axes):
        return right(tensor[..., ::-1] if tensor.ndim == 5 else tensor, unit_axes=unit_axes)

    monkeypatch.setattr(convert_tensors, "our_order", mirrored)
    source, target = opened("disc3d_tiny").path, tmp_path / "ours"
    assert main(["convert", str(source), str(target), "--verify"]) == 2
    assert "differ from conv_in on" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
