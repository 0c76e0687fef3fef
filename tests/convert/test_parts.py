"""Models are found among the other tensors of training states and pipelines."""

import pytest

from cvvae_jax.convert.parts import list_parts, select
from cvvae_jax.errors import UserError

VAE = ["encoder.conv_in.weight", "decoder.up.0.block.0.conv1.weight", "quant_conv.weight"]
LOSS = [
    "loss.logvar",
    "loss.discriminator.main.0.weight",
    "loss.discriminator.main.2.temb_proj.weight",
    "loss.perceptual_loss.net.slice1.0.weight",
    "loss.perceptual_loss.lin0.model.1.weight",
    "loss.perceptual_loss.scaling_layer.shift",
]


def prefixed(prefix: str, names: list[str] = VAE) -> list[str]:
    return [prefix + name for name in names]


PREFIXES = ["", "first_stage_model.", "vae.", "module.", "a.b-c._orig_mod."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_is_taken_off(prefix):
    part = select(prefixed(prefix), prefix=None, source="x")
    assert part.prefix == prefix
    assert part.names == dict(zip(VAE, prefixed(prefix), strict=True))
    assert part.left_alone == ()
    assert select(prefixed(prefix), prefix=prefix, source="x") == part


WRAPPERS = [
    *("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"),
    *("module._orig_mod", "_fsdp_wrapped_module._checkpoint_wrapped_module", "_forward_module"),
]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_of_modules_are_no_part_of_a_name(wrapper):
    for places in ((0,), (1,), (2,), (0, 1), (0, 1, 2, 3)):
        wrapped = []
        for name in VAE:
            parts = name.split(".")
            for place in sorted(places, reverse=True):
                parts.insert(min(place, len(parts) - 1), wrapper)
            wrapped.append(".".join(parts))
        names = [*wrapped, "loss.module.logvar"]
        part = select(names, prefix=None, source="x")
        assert part.names == dict(zip(VAE, wrapped, strict=True))
        assert part.left_alone == ("loss.module.logvar",)


def test_wrapped_and_plain_modules_may_stand_beside_each_other():
    names = ["encoder._orig_mod.conv_in.weight", "vae.x.weight", *VAE[1:]]
    assert select(names, prefix=None, source="x").names[VAE[0]] == names[0]


def test_two_tensors_that_become_the_same_are_refused():
    names = [*VAE, "encoder._orig_mod.conv_in.weight"]
    with pytest.raises(UserError, match=r"x holds both encoder\.conv_in\.weight and encoder\._or"):
        select(names, prefix=None, source="x")


def test_a_training_state_gives_the_autoencoder_and_on_demand_the_others():
    others = ["constraint_decoder.conv_in.weight", "model_ema.decay"]
    names = [*VAE, *LOSS, *others]
    part = select(names, prefix=None, source="x")
    assert list(part.names) == VAE
    assert part.left_alone == (*LOSS, *others)
    part = select(names, prefix="loss.discriminator.", source="x")
    assert list(part.names) == ["main.0.weight", "main.2.temb_proj.weight"]
    part = select(names, prefix="loss.perceptual_loss.", source="x")
    assert list(part.names) == ["net.slice1.0.weight", "lin0.model.1.weight"]


def test_a_pipeline_gives_its_autoencoder():
    others = [
        "model.diffusion_model.middle_block.0.in_layers.0.weight",
        "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight",
        "betas",
    ]
    part = select([*prefixed("first_stage_model."), *others], prefix=None, source="x")
    assert list(part.names) == VAE
    assert part.left_alone == tuple(others)


@pytest.mark.parametrize("name", ["encoder.conv_inn.bias", "encodr.x.bias", "quantconv.bias"])
def test_misspelled_tensors_are_the_models_own(name):
    """Such tensors are then reported as unexpected: a misspelled name must not go unnoticed."""
    assert name in select([*VAE, name], prefix=None, source="x").names


def test_tensors_of_others_beside_an_unprefixed_model_are_left_alone():
    others = ("model.diffusion_model.out.0.weight", "unet.conv_in.weight", "global_step", "betas")
    part = select([*VAE, *others], prefix=None, source="x")
    assert list(part.names) == VAE and part.left_alone == others


def test_old_attention_names_are_read_as_todays():
    name = "encoder.mid_block.attentions.0.proj_attn.weight"
    part = select([*VAE, name], prefix=None, source="x")
    assert part.names["encoder.mid_block.attentions.0.to_out.0.weight"] == name


def test_the_same_tensor_under_an_old_and_a_new_name_is_refused():
    names = [f"encoder.mid_block.attentions.0.{part}.weight" for part in ("query", "to_q")]
    with pytest.raises(UserError, match=r"query\.weight and .*to_q\.weight, which are the same"):
        select([*VAE, *names], prefix=None, source="x")


def test_several_models_ask_for_a_choice():
    names = [*prefixed("a."), *prefixed("b.")]
    with pytest.raises(UserError, match=r"x holds several models; .*'a\.'.*'b\.'"):
        select(names, prefix=None, source="x")
    assert select(names, prefix="b.", source="x").left_alone == tuple(prefixed("a."))


def test_an_unknown_prefix_lists_those_there_are():
    with pytest.raises(UserError, match=r"no model with the prefix 'c\.'; it has: 'a\.' \(auto"):
        select(prefixed("a."), prefix="c.", source="x")


def test_a_prefix_of_a_file_without_models_is_refused():
    with pytest.raises(UserError, match="it has: none that is known"):
        select(["layers.0.weight"], prefix="a.", source="x")


def test_parts_are_counted():
    assert list_parts([*VAE, *LOSS]) == {
        "": ("autoencoder", 3),
        "loss.discriminator.": ("discriminator", 2),
        "loss.perceptual_loss.": ("LPIPS", 2),
    }


def test_no_model_has_so_many_tensors():
    names = ["encoder.conv_in.weight", *(f"encoder.down.0.x{i}.weight" for i in range(10_000))]
    with pytest.raises(UserError, match="10,001 tensors are called as if they were of one"):
        select(names, prefix=None, source="x")
