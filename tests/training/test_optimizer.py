"""Learning rates, AdamW and the average of parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from tiny_training import IMAGE

from cvvae_jax.config import OptimizerConfig
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.training.state import (
    count_updates,
    learning_rate,
    make_optimizer,
    update_average,
    updated,
)


def rates(*steps: int, run: int = 100, **settings) -> list[float]:
    config = OptimizerConfig(learning_rate=2.0, final_fraction=0.1, **settings)
    return [float(learning_rate(config, jnp.asarray(step), steps=run)) for step in steps]


@pytest.mark.parametrize("schedule", ["constant", "cosine", "cosine_unclamped"])
def test_warm_up_is_a_line_from_zero_to_the_peak(schedule):
    found = rates(0, 1, 5, 10, schedule=schedule, warmup_steps=10)
    np.testing.assert_allclose(found, [0, 0.2, 1, 2], rtol=1e-6)


def test_without_a_warm_up_the_peak_comes_first():
    assert rates(0, warmup_steps=0, schedule="cosine") == [2.0]


def test_constant_schedule_stays_at_its_peak():
    assert rates(10, 50, 99, 1000, schedule="constant", warmup_steps=10) == [2.0] * 4


@pytest.mark.parametrize("schedule", ["cosine", "cosine_unclamped"])
def test_cosine_is_halfway_in_the_middle_and_at_its_floor_after_the_run(schedule):
    """From 2 to a floor of 0.2; float32 of a cosine: 1e-5."""
    found = rates(20, 60, 100, schedule=schedule, warmup_steps=20)
    np.testing.assert_allclose(found, [2, 1.1, 0.2], rtol=1e-5)


def test_period_ends_the_cosine_before_the_run_does():
    """The clamped cosine stays at its floor, the unclamped one is halfway up and at its peak
    again."""
    settings = {"warmup_steps": 20, "period_steps": 40}
    found = rates(30, 40, 50, 60, schedule="cosine", **settings)
    np.testing.assert_allclose(found, [1.1, 0.2, 0.2, 0.2], rtol=1e-5)
    found = rates(30, 40, 50, 60, schedule="cosine_unclamped", **settings)
    np.testing.assert_allclose(found, [1.1, 0.2, 1.1, 2], rtol=1e-5)


def test_run_shorter_than_its_warm_up_ends_at_the_peak():
    np.testing.assert_allclose(rates(0, 2, 4, run=5, warmup_steps=100), [0, 1, 2], rtol=1e-6)


PARAMS = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([[0.5]])}


def gradient(step: int):
    return jax.tree.map(lambda leaf: jnp.cos(leaf * (3 + step)), PARAMS)


def test_updates_are_those_of_adamw():
    """optax's AdamW has a constant rate here, and clips at a norm that all gradients exceed. Its
    products are the same in another order: 1e-6."""
    config = OptimizerConfig(clip_norm=0.5, weight_decay=0.1, beta2=0.9, eps=1e-3)
    settings = {"b1": 0.9, "b2": 0.9, "eps": 1e-3, "weight_decay": 0.1}
    theirs = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(0.01, **settings))
    ours = make_optimizer(config)
    params, state = PARAMS, ours.init(PARAMS)
    expected, expected_state = PARAMS, theirs.init(PARAMS)
    for step in range(4):
        before = params
        params, state, norm = updated(ours, gradient(step), state, params, jnp.asarray(0.01))
        updates, expected_state = theirs.update(gradient(step), expected_state, expected)
        expected = optax.apply_updates(expected, updates)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params, expected)
        moved = optax.tree.norm(jax.tree.map(jnp.subtract, params, before))
        np.testing.assert_allclose(norm, moved, rtol=1e-4)  # of differences of rounded parameters
        assert int(count_updates(state)) == step + 1


@pytest.mark.parametrize(("length", "expected"), [(10.0, 2.0), (1.0, 1.0)])
def test_gradients_are_scaled_down_to_the_norm_and_never_up(length, expected):
    optimizer = make_optimizer(OptimizerConfig(clip_norm=2.0, beta1=0.0, beta2=0.0))
    grads = {"a": jnp.array([0.6, 0.0]) * length, "b": jnp.array([[0.8]]) * length}
    state = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)[1]
    seen = optax.tree.get(state, "mu")  # without momentum, the gradient that Adam was given
    np.testing.assert_allclose(optax.tree.norm(seen), expected, rtol=1e-6)


@pytest.mark.parametrize(("updates", "decay"), [(0, 0.1), (5, 6 / 15), (80, 81 / 90), (1000, 0.95)])
def test_average_keeps_little_of_its_past_in_the_beginning(updates, decay):
    """min(0.95, (1 + n) / (10 + n)) after n updates, from zeros to ones; float32: 1e-6."""
    vae = jax.eval_shape(lambda key: ImageVAE(IMAGE, rngs=nnx.Rngs(key)), jax.random.key(0))
    zeros, ones = (
        jax.tree.map(lambda leaf, value=value: jnp.full(leaf.shape, value, leaf.dtype), vae)
        for value in (0.0, 1.0)
    )
    average = update_average(zeros, ones, jnp.asarray(updates), decay=0.95)
    for leaf in jax.tree.leaves(average):
        np.testing.assert_allclose(leaf, 1 - decay, rtol=1e-6)
