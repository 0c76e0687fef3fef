"""What a training step changes, and what it leaves alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_training import (
    SMALLEST_VIDEO,
    SMOOTH,
    STAGE,
    assert_gradients_equal,
    first_state,
    frozen_networks,
    random_batch,
)

from cvvae_jax import parameter_paths
from cvvae_jax.config import LossConfig
from cvvae_jax.models.inputs import to_float
from cvvae_jax.training import step as step_module
from cvvae_jax.training.state import TrainedNetworks
from cvvae_jax.training.step import train_step, update_of

pytestmark = pytest.mark.usefixtures("with_reference_convolutions")

LOSS = dataclasses.replace(SMOOTH, compat_mode="none", gan_penalty="lecam")
VAE = ("model", "log_scales", "opt_state", "ema")
GAN = ("discriminator", "gan_opt_state", "averages")
BATCH = random_batch(2, height=8, width=8)
COUNTERS = ("skipped", "vae_in_a_row", "gan_in_a_row")
# To `nan_where_white`.
BAD_BATCH = BATCH | {"video": np.full_like(BATCH["video"], 255)}


def nan_where_white(video):
    """Stands in for `to_float`: gives NaN where a whole batch is white."""
    return to_float(video) * jnp.where((video == 255).all(), jnp.nan, 1.0)


@pytest.fixture(scope="module")
def run():
    """Steps of any kind, compiled once each; white batches make their losses NaN."""
    frozen = frozen_networks()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_module, "to_float", nan_where_white)

        @functools.cache
        def compiled(update):
            step = functools.partial(train_step, update=update, stage=STAGE, loss=LOSS, seed=0)
            return jax.jit(step)

        yield lambda state, update, batch=BATCH: compiled(update)(state, batch, frozen)


@pytest.fixture(scope="module")
def stepped(run):
    """The state before, and after a step of each kind."""
    state = first_state(SMALLEST_VIDEO)
    updates = ("plain", "generator", "discriminator", "joint")
    return {"before": state} | {update: run(state, update)[0] for update in updates}


def assert_same(ours, theirs, *, parts):
    for part in parts:
        leaves = zip(*(jax.tree.leaves(getattr(x, part)) for x in (ours, theirs)), strict=True)
        for a, b in leaves:
            np.testing.assert_array_equal(a, b, err_msg=part)


def assert_changed(state, before, *, parts):
    """Some of every part at least."""
    for part in parts:
        leaves = zip(*(jax.tree.leaves(getattr(x, part)) for x in (state, before)), strict=True)
        assert any(not np.array_equal(a, b) for a, b in leaves), part


@pytest.mark.parametrize("update", ["plain", "generator"])
def test_step_of_the_vae_leaves_the_discriminator_untouched(stepped, update):
    assert_changed(stepped[update], stepped["before"], parts=VAE)
    assert_same(stepped[update], stepped["before"], parts=GAN)


def test_step_of_the_discriminator_leaves_the_vae_and_its_average_untouched(stepped):
    assert_changed(stepped["discriminator"], stepped["before"], parts=GAN)
    assert_same(stepped["discriminator"], stepped["before"], parts=VAE)


def test_joint_step_changes_both(stepped):
    assert_changed(stepped["joint"], stepped["before"], parts=VAE + GAN)


def test_joint_step_has_the_gradients_of_the_generators_and_of_the_discriminators_step(stepped):
    """Gradients are read from Adam's first moments; sums are the same: 1e-5. Parameters are not
    compared: Adam's first step turns the rounding of a zero gradient into a full one."""
    for update, moments in (("generator", "opt_state"), ("discriminator", "gan_opt_state")):
        alone, joint = (
            optax.tree.get(getattr(stepped[name], moments), "mu") for name in (update, "joint")
        )
        assert_gradients_equal(joint, alone, tolerance=1e-5)


@pytest.mark.parametrize("update", ["plain", "generator", "discriminator", "joint"])
def test_every_step_counts(stepped, update):
    assert int(stepped[update].step) == 1
    assert not any(jax.tree.leaves(jax.tree.map(int, stepped[update].guard)))


def test_even_steps_train_the_vae_and_odd_ones_the_discriminator():
    stage = dataclasses.replace(STAGE, updates="alternate")
    found = [update_of(step, stage, LossConfig()) for step in range(4)]
    assert found == ["generator", "discriminator"] * 2


@pytest.mark.parametrize("updates", ["alternate", "joint"])
def test_steps_are_plain_until_the_gan_starts(updates):
    stage = dataclasses.replace(STAGE, updates=updates)
    loss = LossConfig(gan_start_step=3)
    found = [update_of(step, stage, loss) for step in range(5)]
    after = {"alternate": ["discriminator", "generator"], "joint": ["joint", "joint"]}
    assert found == ["plain"] * 3 + after[updates]
    never = LossConfig(gan="none")
    assert {update_of(step, stage, never) for step in range(5)} == {"plain"}


@pytest.mark.parametrize("update", ["joint", "generator", "discriminator"])
def test_update_that_is_not_finite_is_skipped_and_counted(run, stepped, update):
    """All that is trained, moments and averages stay as they are, to the bit."""
    before = stepped["joint"]
    after, metrics = run(before, update, BAD_BATCH)
    assert_same(after, before, parts=VAE + GAN)
    assert int(after.step) == 2
    assert not np.isfinite(metrics["loss/gan_d" if update == "discriminator" else "loss/total"])
    counted = {name: int(metrics[f"guard/{name}"]) for name in COUNTERS}
    assert counted == {
        "skipped": 1,
        "vae_in_a_row": int(update != "discriminator"),
        "gan_in_a_row": int(update != "generator"),
    }


def test_networks_that_take_turns_have_rows_of_their_own(run, stepped):
    """Good steps of the VAE don't end a row of skipped ones of the discriminator."""
    state = stepped["joint"]
    turns = (("generator", BATCH), ("discriminator", BAD_BATCH)) * 2
    for update, batch in turns:
        state, metrics = run(state, update, batch)
    assert [int(metrics[f"guard/{name}"]) for name in COUNTERS] == [2, 0, 2]


def test_finite_update_ends_a_row_of_skipped_ones(run, stepped):
    state, counts = stepped["joint"], []
    for batch in (BAD_BATCH, BAD_BATCH, BATCH, BAD_BATCH):
        state, _ = run(state, "joint", batch)
        counts.append((int(state.guard.skipped), int(state.guard.in_a_row)))
    assert counts == [(1, 1), (2, 2), (2, 0), (3, 1)]
    assert int(state.step) == 5


@pytest.mark.parametrize(
    "network", [pytest.param("model", marks=pytest.mark.slow), "discriminator"]
)
def test_gradient_that_is_not_finite_is_skipped_though_the_loss_is_finite(network, monkeypatch):
    """One number of one network's gradient is infinite, and neither network is updated."""
    before = first_state(SMALLEST_VIDEO)

    def gradients(state, *_, **__):
        grads = TrainedNetworks(state.model, state.log_scales, state.discriminator)
        flat = parameter_paths.flatten(getattr(grads, network))
        name = next(iter(flat))
        flat[name] = flat[name].at[(0,) * flat[name].ndim].set(jnp.inf)
        broken = parameter_paths.unflatten(getattr(grads, network), flat)
        names = ("loss/total", "gan/logits_real", "gan/logits_fake")
        metrics = {name: jnp.ones(()) for name in names}
        return dataclasses.replace(grads, **{network: broken}), metrics

    monkeypatch.setattr(step_module, "accumulated_gradients", gradients)
    step = functools.partial(train_step, update="joint", stage=STAGE, loss=LOSS, seed=0)
    after, _ = jax.jit(step)(before, BATCH, frozen_networks())
    assert_same(after, before, parts=VAE + GAN)
    assert (int(after.step), int(after.guard.skipped)) == (1, 1)
