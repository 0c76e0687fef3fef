"""The latent diffusion model on what is known: flows of Gaussians, orders of samplers, and parts
that must begin as nothing."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from studies.latent_diffusion import (
    DiT,
    DiTConfig,
    Trainer,
    guided,
    sample,
    velocity_error,
    video_model,
)

MEAN, DEVIATION = 0.7, 0.4
CONFIG = DiTConfig(size=4, channels=3, labels=(2, 3), width=16, depth=2, heads=2)
KEY = jax.random.key(0)


def variance(level):
    return (1 - level) ** 2 * DEVIATION**2 + level**2


def gaussian_velocity(latents, level):
    """The mean of e - x given (1 - t) x + t e, for x of a known mean and deviation."""
    t = level.reshape(-1, *[1] * (latents.ndim - 1))
    slope = (t - (1 - t) * DEVIATION**2) / variance(t)
    return slope * (latents - (1 - t) * MEAN) - MEAN


def exact_end(noise, start=1.0):
    """Where the flow of the Gaussian ends: every quantile stays itself."""
    return MEAN + DEVIATION * (noise - (1 - start) * MEAN) / np.sqrt(variance(start))


@functools.cache
def random_dit(config: DiTConfig = CONFIG) -> DiT:
    """A DiT all of whose weights are random, also those that begin as zero."""
    model = DiT(config, rngs=nnx.Rngs(0))
    leaves, tree = jax.tree.flatten(model)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [0.2 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, drawn)


def inputs(frames: int = 1, count: int = 2):
    latents = jax.random.normal(KEY, (count, frames, 4, 4, 3))
    return latents, jnp.linspace(0.2, 0.9, count), jnp.zeros((count, 2), jnp.int32)


def test_the_velocity_of_a_gaussian_leaves_the_variance_that_must_be_left():
    """v / ((1 - t)^2 v + t^2), by 400,000 draws a level, of half a percent."""
    latents = MEAN + DEVIATION * jax.random.normal(KEY, (4, 1, 100, 1000, 1))
    noise = jax.random.normal(jax.random.key(1), latents.shape)
    level = jnp.asarray([0.1, 0.4, 0.7, 1.0])
    found = velocity_error(gaussian_velocity, latents, noise, level)
    np.testing.assert_allclose(found, DEVIATION**2 / variance(level), rtol=0.02)


@pytest.mark.parametrize("start", [1.0, 0.5])
@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2)])
def test_samplers_converge_to_the_exact_flow_at_their_order(method, order, start):
    noise = jnp.linspace(-2, 2, 21).reshape(1, 1, 1, 21, 1)

    def error(steps):
        found = sample(gaussian_velocity, noise, steps=steps, method=method, start=start)
        return float(jnp.abs(found - exact_end(noise, start)).max())

    errors = [error(steps) for steps in (16, 32, 64)]
    rates = np.log2(np.asarray(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(rates, order, atol=0.25)
    assert errors[-1] < 0.05


def test_impossible_samplers_are_refused():
    for wrong in ({"steps": 0}, {"steps": 3, "start": 0.0}, {"steps": 3, "method": "rk4"}):
        with pytest.raises(ValueError, match="can't be taken"):
            sample(gaussian_velocity, jnp.zeros((1, 1, 1, 1, 1)), **wrong)


def test_guidance_of_one_is_none_and_of_zero_is_without_labels():
    model = random_dit()
    latents, level, labels = inputs()
    none = CONFIG.labels
    by_scale = {
        scale: guided(model, labels, none=none, scale=scale)(latents, level)
        for scale in (0.0, 1.0, 1 + 1e-6, 3.0)
    }
    with_labels = model(latents, level, labels)
    without = model(latents, level, jnp.broadcast_to(jnp.asarray(none)[None], labels.shape))
    assert float(jnp.abs(with_labels - without).max()) > 1e-2
    np.testing.assert_array_equal(by_scale[1.0], with_labels)
    np.testing.assert_allclose(by_scale[1 + 1e-6], with_labels, atol=1e-5)
    np.testing.assert_allclose(by_scale[0.0], without, atol=1e-5)
    np.testing.assert_allclose(by_scale[3.0], without + 3 * (with_labels - without), atol=1e-4)


def test_a_fresh_model_gives_zero_and_an_image_model_sees_every_frame_alone():
    latents, level, labels = inputs(frames=3)
    assert not DiT(CONFIG, rngs=nnx.Rngs(0))(latents, level, labels).any()
    model = random_dit()
    together = model(latents, level, labels)
    for frame in range(3):
        alone = model(latents[:, [frame]], level, labels)
        np.testing.assert_allclose(together[:, [frame]], alone, atol=1e-5)


def test_zero_temporal_layers_leave_the_image_model_unchanged():
    image = random_dit()
    video = video_model(image, (2, 3, 4), jax.random.key(2))
    latents, level, labels = inputs(frames=3)
    motion = jnp.asarray([[1], [4]], jnp.int32)
    found = video(latents, level, jnp.concatenate([labels, motion], axis=1))
    np.testing.assert_array_equal(found, image(latents, level, labels))
    # Once they are not zero, a frame sees the others.
    for block in video.blocks:
        bias = block.time.modulated.linear.bias
        bias[...] = jnp.ones_like(bias[...])
    labels = jnp.concatenate([labels, motion], axis=1)
    changed = latents.at[:, 2].add(1.0)
    apart = video(changed, level, labels)[:, 0] - video(latents, level, labels)[:, 0]
    assert float(jnp.abs(apart).max()) > 1e-3
    with pytest.raises(ValueError, match="begin with the image model's"):
        video_model(image, (3, 3, 4), KEY)


def test_only_the_parts_that_are_named_are_trained():
    trainer = Trainer(steps=10, warmup=0, trained=(".last",))
    latents, _, labels = inputs()
    state, _ = trainer.step(trainer.begin(random_dit()), latents, labels, KEY)
    before, after = (dict(nnx.to_flat_state(nnx.state(m))) for m in (random_dit(), state.model))
    moved = {p[0] for p in before if not np.array_equal(before[p][...], after[p][...])}
    assert moved == {"last"}
    masked = sum(x.size for x in jax.tree.leaves(state.optimizer) if hasattr(x, "size"))
    assert masked < 3 * (16 * 3 + 3)  # two moments of the last layer, and counts


def test_training_learns_the_velocity_of_a_gaussian():
    """An untrained model is off by the velocity itself, and 200 steps leave a seventh of that."""
    config = dataclasses.replace(CONFIG, size=1, channels=1, labels=(1,), depth=1)
    trainer = Trainer(steps=200, learning_rate=3e-3, warmup=20, ema_decay=0.98)
    state = trainer.begin(DiT(config, rngs=nnx.Rngs(0)))
    labels = jnp.zeros((256, 1), jnp.int32)
    draws = MEAN + DEVIATION * np.random.default_rng(0).normal(size=(200, 256, 1, 1, 1, 1))
    for latents in draws.astype(np.float32):
        state, _ = trainer.step(state, latents, labels, KEY)
    level = jnp.repeat(jnp.linspace(0.1, 0.9, 5), 21)
    spread = np.tile(np.linspace(-2, 2, 21), 5) * np.sqrt(variance(np.asarray(level)))
    latents = ((1 - level) * MEAN + spread.astype(np.float32)).reshape(-1, 1, 1, 1, 1)
    wanted = gaussian_velocity(latents, level)
    found = state.ema(latents, level, jnp.zeros((105, 1), jnp.int32))
    error = float(jnp.sqrt(jnp.square(found - wanted).mean() / jnp.square(wanted).mean()))
    assert error < 0.2
