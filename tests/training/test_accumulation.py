"""A batch in parts gives the gradients of the whole batch."""

import dataclasses

import jax
import pytest
from tiny_training import (
    SMALLEST_VIDEO,
    SMOOTH,
    assert_gradients_equal,
    assert_metrics_equal,
    compiled_gradients,
    first_state,
    frozen_networks,
    random_batch,
)

from cvvae_jax import sharding
from cvvae_jax.config import MeshConfig

pytestmark = pytest.mark.usefixtures("with_reference_convolutions")

PLAIN = dataclasses.replace(SMOOTH, compat_mode="both", gan="none")
WITH_GAN = dataclasses.replace(SMOOTH, compat_mode="none")
# With seed 0, an activation of the discriminator lies so near the kink of its leaky ReLU that
# rounding moves it over on some CPUs, which changes gradients by percents.
BATCH = random_batch(16, height=8, width=8, seed=1)


@pytest.mark.slow
def test_parts_without_a_gan():
    """Sums of four parts are rounded in between: 1e-5."""
    state, frozen = first_state(gan=False), frozen_networks()
    whole, metrics = compiled_gradients("plain", loss=PLAIN)(state, BATCH, frozen)
    parts, parts_metrics = compiled_gradients("plain", loss=PLAIN, accumulate=4)(
        state, BATCH, frozen
    )
    assert_metrics_equal(parts_metrics, metrics, tolerance=1e-5)
    assert_gradients_equal(parts, whole, tolerance=1e-5)


@pytest.fixture(scope="module")
def whole_with_gan():
    run = compiled_gradients(loss=WITH_GAN)
    return run(first_state(SMALLEST_VIDEO), BATCH, frozen_networks())


@pytest.mark.parametrize("devices", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_parts_with_a_gan_have_the_adaptive_weight_of_the_whole_batch(devices, whole_with_gan):
    """1e-4, as the weight is a ratio of gradients that are rounded themselves. Parts with a weight
    of their own each would differ by percents."""
    mesh = sharding.make_mesh(MeshConfig(data=devices), batches=(4,))
    state, frozen = first_state(SMALLEST_VIDEO), frozen_networks()
    state, frozen = (jax.device_put(x, sharding.shardings(x, mesh)) for x in (state, frozen))
    run = compiled_gradients(loss=WITH_GAN, accumulate=4)
    grads, metrics = run(state, sharding.put_batch(BATCH, mesh), frozen)
    expected, expected_metrics = whole_with_gan
    name = "gan/adaptive_weight"
    assert 0 < expected_metrics[name] < 0.5 * 1e4
    assert_metrics_equal({name: metrics[name]}, {name: expected_metrics[name]}, tolerance=1e-4)
    assert_metrics_equal(metrics, expected_metrics, tolerance=1e-4)
    for part in ("model", "log_scales", "discriminator"):
        assert_gradients_equal(getattr(grads, part), getattr(expected, part), tolerance=1e-4)
