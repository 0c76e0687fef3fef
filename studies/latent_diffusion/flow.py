"""Rectified flow: noised latents, the velocity to learn, and samplers.

At a level t of noise, latents x and normal noise e make (1 - t) x + t e, and the velocity is e - x
(Liu et al. 2023; Lipman et al. 2023). Sampling goes from t = 1, noise, to t = 0.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Velocity = Callable[[Float[Array, "b n y x z"], Float[Array, " b"]], Float[Array, "b n y x z"]]
"""The velocity of noised latents at a level of noise for each of them."""


def noised(
    latents: Float[Array, "b ..."], noise: Float[Array, "b ..."], level: Float[Array, " b"]
) -> Float[Array, "b ..."]:
    """Latents with noise, at the level of each example."""
    share = level.reshape(-1, *[1] * (latents.ndim - 1))
    return (1 - share) * latents + share * noise


def velocity_target(
    latents: Float[Array, "b ..."], noise: Float[Array, "b ..."]
) -> Float[Array, "b ..."]:
    """What a model learns: the velocity from latents to noise."""
    return noise - latents


def velocity_error(
    velocity: Velocity,
    latents: Float[Array, "b n y x z"],
    noise: Float[Array, "b n y x z"],
    level: Float[Array, " b"],
) -> Float[Array, " b"]:
    """The mean squared error of a model's velocity, for each example."""
    found = velocity(noised(latents, noise, level), level)
    error = jnp.square(found - velocity_target(latents, noise))
    return error.reshape(len(latents), -1).mean(axis=1)


def guided(
    model: Callable[..., Array],
    labels: Int[Array, "b k"],
    *,
    none: tuple[int, ...],
    scale: float,
) -> Velocity:
    """Classifier-free guidance (Ho & Salimans 2022): the velocity without labels, and `scale` times
    what labels add to it. With a scale of 1 the model is asked with labels alone.

    Args:
        model: takes noised latents, levels and labels.
        labels: the labels of each example.
        none: the label of each kind that stands for none.
        scale: 0 ignores labels, above 1 exaggerates them.
    """
    if scale == 1:
        return lambda latents, level: model(latents, level, labels)
    unlabeled = jnp.broadcast_to(jnp.asarray(none, labels.dtype)[None], labels.shape)

    def velocity(latents: Array, level: Array) -> Array:
        both = jnp.concatenate([latents, latents]), jnp.concatenate([level, level])
        with_labels, without = jnp.split(model(*both, jnp.concatenate([labels, unlabeled])), 2)
        return without + scale * (with_labels - without)

    return velocity


def sample(
    velocity: Velocity,
    noise: Float[Array, "b n y x z"],
    *,
    steps: int,
    method: Literal["euler", "heun"] = "heun",
    start: float = 1.0,
) -> Float[Array, "b n y x z"]:
    """Follows the velocity from a level of noise down to 0, in equal steps.

    Args:
        velocity: of a model, with its labels.
        noise: what it begins with: normal noise for a start of 1, else latents noised to the start.
        steps: number of steps.
        method: `euler` asks the model once a step, and is off by O(1 / steps); `heun` asks twice,
            and is off by O(1 / steps^2).
        start: the level of noise to begin at, above 0 and at most 1.

    Raises:
        ValueError: there is no step, or no such start or method.
    """
    if steps < 1 or not 0 < start <= 1 or method not in ("euler", "heun"):
        raise ValueError(f"{steps} steps of {method} from {start} can't be taken.")
    length = start / steps

    def step(latents: Array, number: Array) -> tuple[Array, None]:
        level = jnp.full(len(latents), start - number * length, latents.dtype)
        slope = velocity(latents, level)
        reached = latents - length * slope
        if method == "heun":
            there = velocity(reached, jnp.maximum(level - length, 0.0))
            reached = latents - length * (slope + there) / 2
        return reached, None

    found, _ = jax.lax.scan(step, noise, jnp.arange(steps))
    return found
