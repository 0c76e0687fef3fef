"""What a caller adds to a run: terms of the objective, and callbacks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvvae_jax.config import LossConfig
from cvvae_jax.errors import UserError
from cvvae_jax.models.gaussian import DiagonalGaussian
from cvvae_jax.training.log import StageLog
from cvvae_jax.training.loop import Additions, train
from cvvae_jax.training.objective import Draws, Outputs, vae_objective
from cvvae_jax.training.state import Frozen, LogScales, Term

LOSS = LossConfig(recon="l2", lpips_weight=0.0, compat_mode="none")


WORDS = ("compiling", "compiled")


def brightness(outputs, video):
    return jnp.mean(outputs.recons[0] - video)


def objective(terms):
    """Value and metrics of the objective for a reconstruction that is 0.25 too bright."""
    video = jnp.zeros((2, 1, 4, 4, 3))
    latents = jnp.zeros((2, 1, 2, 2, 1))
    outputs = Outputs(DiagonalGaussian(latents, latents), latents, (video + 0.25,))
    draws = Draws(latents, latents, jnp.zeros((0,), jnp.int32))
    return vae_objective(
        outputs,
        LogScales.create(0.0),
        video,
        draws,
        Frozen(terms=terms),
        reference=None,
        loss=LOSS,
        temporal_compression=1,
        remat="none",
    )


def test_a_term_is_added_with_its_weight_and_logged_without():
    total, metrics = objective({"brightness": Term(brightness, weight=8.0)})
    without, others = objective({})
    np.testing.assert_allclose(total, without + 8 * 0.25, rtol=1e-6)
    assert metrics.keys() - others.keys() == {"loss/brightness"}
    assert metrics["loss/brightness"] == 0.25


def test_a_term_takes_its_network_first_and_leaves_it_as_it_is():
    def scaled(network, outputs, video):
        return network["scale"] * brightness(outputs, video)

    term = Term(scaled, network={"scale": jnp.asarray(3.0)})
    assert objective({"scaled": term})[1]["loss/scaled"] == 0.75
    leaves = jax.tree.leaves(Frozen(terms={"scaled": term}))
    assert leaves == [3.0]  # the network alone is an array of the program


@pytest.mark.parametrize("name", ["recon", "kl", "total", "gan_g"])
def test_a_term_can_not_take_the_name_of_another_metric(name):
    with pytest.raises(UserError, match=f"loss/{name} is taken"):
        objective({name: Term(brightness)})


def test_a_term_must_be_a_scalar():
    with pytest.raises(UserError, match=r"term apart must return a scalar, not an array \(2,"):
        objective({"apart": Term(lambda outputs, video: outputs.recons[0] - video)})


def test_callbacks_are_told_what_is_logged(trifling_run):
    told = []
    train(trifling_run, callbacks=[told.append])
    assert [report.step for report in told] == list(range(1, trifling_run.train.steps + 1))
    assert all(report.stage == "video VAE" and "loss/total" in report.metrics for report in told)


def test_callbacks_are_told_of_animations(tmp_path):
    told, frames = [], np.zeros((2, 4, 4, 3), np.uint8)
    log = StageLog(tmp_path, title="image VAE", steps=9, start_step=0, callbacks=[told.append])
    log.clip(3, "clips", frames)
    log.close()
    [report] = told
    assert (report.stage, report.step, report.metrics) == ("image VAE", 3, {})
    assert report.animation is frames


def test_what_a_callback_raises_ends_the_run(trifling_run):
    def refuse(report):
        raise RuntimeError(f"enough after step {report.step}")

    with pytest.raises(RuntimeError, match="enough after step 1"):
        train(trifling_run, callbacks=[refuse])


def test_added_terms_are_announced_and_programs_before_they_are_compiled(
    trifling_run, capsys, monkeypatch, tmp_path
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # no time of an earlier test
    train(trifling_run, terms={"brightness": Term(brightness, weight=8.0)})
    said = capsys.readouterr().out
    assert "terms added to the objective: 8 x brightness" in said
    before, after = (said.index(f"video VAE: {word} the plain step") for word in WORDS)
    assert before < after


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ({"terms": [Term(brightness)]}, "terms must be a dict of names and terms, not list"),
        ({"terms": {"edges": brightness}}, r"terms\['edges'\] must be Term\(.*\), not function"),
        ({"callbacks": print}, "callbacks must be a list of functions, not builtin"),
    ],
)
def test_additions_of_another_kind_are_refused_before_anything_is_made(added, said):
    with pytest.raises(UserError, match=said):
        Additions.checked(**({"terms": {}, "callbacks": ()} | added))
