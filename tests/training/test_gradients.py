"""One backward pass gives what the objective's definition does, and keeps as little as is asked."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
from tiny_training import (
    SMOOTH,
    assert_gradients_equal,
    assert_metrics_equal,
    compiled_gradients,
    first_state,
    frozen_networks,
    random_batch,
)

from cvvae_jax import parameter_paths
from cvvae_jax.config import Remat
from cvvae_jax.models.inputs import to_float
from cvvae_jax.training.objective import (
    Draws,
    generate,
    image_latents,
    image_posterior,
    vae_objective,
)
from cvvae_jax.training.state import RandomKeys

# The official code's gradient norms are tested quickly, in tests/test_golden_steps.py.
MODES = [
    "both",
    *(
        pytest.param(mode, marks=pytest.mark.slow)
        for mode in ("decoder", "encoder", "none", "encoder:0.5,latent:2,features:0.1")
    ),
]
BATCH = random_batch(2)
pytestmark = pytest.mark.usefixtures("with_reference_convolutions")


def loss_of(mode: str):
    return dataclasses.replace(SMOOTH, compat_mode=mode, compat_weight=0.7)


@functools.cache
def ours(mode: str, remat: Remat = "none"):
    run = compiled_gradients(loss=loss_of(mode), remat=remat)
    return run(first_state(), BATCH, frozen_networks())


def defined(state, frozen, loss):
    """The gradients and the adaptive weight, by one `jax.grad` for every gradient in the paper's
    definition: of both losses at the last layer, and of their weighted sum."""
    video, seeds = to_float(jnp.asarray(BATCH["video"])), jnp.asarray(BATCH["seed"])
    draws = Draws.create(
        state.model, RandomKeys.create(0), seeds, state.step, video_shape=video.shape
    )
    scale = {"loss": loss, "temporal_compression": 2}
    reference = image_posterior(video, draws, frozen, **scale)
    from_images = image_latents(reference, draws, loss=loss)
    scale["reference"] = reference

    def outputs_of(model):
        return generate(model, video, draws.noise, from_images, remat="none")[0]

    def nll(model, log_scales):
        outputs = outputs_of(model)
        return vae_objective(outputs, log_scales, video, draws, frozen, **scale, remat="none")[0]

    def gan(model):
        recons = outputs_of(model).recons
        return -sum(state.discriminator(recon).mean() for recon in recons) / len(recons)

    def at_last_layer(function):
        flat, name = parameter_paths.flatten(state.model), "decoder/conv_out/kernel"

        def of_kernel(kernel):
            return function(parameter_paths.unflatten(state.model, flat | {name: kernel}))

        return jnp.linalg.norm(jax.grad(of_kernel)(flat[name]).ravel())

    nll_length = at_last_layer(lambda model: nll(model, state.log_scales))
    weight = 0.5 * nll_length / (at_last_layer(gan) + 1e-4)

    def total(model, log_scales):
        return nll(model, log_scales) + weight * gan(model)

    def against(discriminator):
        fakes = jax.lax.stop_gradient(outputs_of(state.model).recons)
        fake = sum(jax.nn.relu(1 + discriminator(x)).mean() for x in fakes) / len(fakes)
        return 0.5 * (fake + jax.nn.relu(1 - discriminator(video)).mean())

    values = total(state.model, state.log_scales), weight, against(state.discriminator)
    grads = jax.grad(total, argnums=(0, 1))(state.model, state.log_scales)
    return grads, jax.grad(against)(state.discriminator), values


@pytest.mark.parametrize("mode", MODES)
def test_one_backward_pass_gives_the_gradients_of_the_definition(mode):
    """Sums are the same in another order: 1e-5. With `both`, the last layer and the discriminator
    see two reconstructions."""
    (grads, metrics), loss = ours(mode), loss_of(mode)
    run = jax.jit(functools.partial(defined, loss=loss))
    (model, log_scales), discriminator, values = run(first_state(), frozen_networks())
    names = ("loss/total", "gan/adaptive_weight", "loss/gan_d")
    assert_metrics_equal(
        {name: metrics[name] for name in names},
        dict(zip(names, values, strict=True)),
        tolerance=1e-5,
    )
    assert 0 < float(metrics["gan/adaptive_weight"]) < 0.5 * 1e4
    assert_gradients_equal(grads.model, model, tolerance=1e-5)
    assert_gradients_equal(grads.log_scales, log_scales, tolerance=1e-5)
    assert_gradients_equal(grads.discriminator, discriminator, tolerance=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["blocks", "full"])
@pytest.mark.parametrize("mode", MODES)
def test_gradients_dont_depend_on_what_is_kept(mode, remat):
    """Recomputed values are the kept ones up to rounding: 1e-5."""
    (expected, expected_metrics), (grads, metrics) = ours(mode), ours(mode, remat=remat)
    assert_metrics_equal(metrics, expected_metrics, tolerance=1e-5)
    for part in ("model", "log_scales", "discriminator"):
        assert_gradients_equal(getattr(grads, part), getattr(expected, part), tolerance=1e-5)
