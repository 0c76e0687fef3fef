"""The diffusion models of a seed: trained on the image VAE's latents, then frozen."""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from studies.files import read_arrays, read_tree, write_arrays, write_tree
from studies.latent_diffusion import (
    DiT,
    DiTConfig,
    Trainer,
    guided,
    noised,
    sample,
    velocity_error,
    video_model,
)
from studies.sprites import LABELS
from studies.swap.latents import Latents, Scale, encode
from studies.swap.settings import LEVELS, Place, Settings
from studies.swap.vaes import image_vae

Labels = Int[np.ndarray, "b k"]

_BATCH = 64
_PART = 200  # clips that are made at once


def make_pool(settings: Settings, place: Place, seed: int) -> None:
    """Writes E_i's latents of the key frames of the clips that diffusion models are trained on,
    and their scale. Those clips begin after the ones that VAEs are trained and followed on."""
    vae, clips = image_vae(settings, place, seed), settings.clips("train")
    first = settings.sprites + settings.held_out
    parts = []
    for start in range(first, first + settings.pool, _PART):
        numbers = range(start, min(start + _PART, first + settings.pool))
        parts.append(encode(vae, clips.clips(numbers)[:, settings.key_frames]))
    latents = np.concatenate(parts)
    labels = clips.labels(range(first, first + settings.pool))
    scale = Scale.of(latents)
    arrays = {"latents": latents, "labels": labels, "mean": scale.mean, "std": scale.std}
    write_arrays(place.pool(settings.images[seed]), arrays)


def image_scale(settings: Settings, place: Place, seed: int) -> Scale:
    """E_i's scale, by which the frozen models' inputs were scaled."""
    arrays = read_arrays(place.pool(settings.images[seed]))
    return Scale(arrays["mean"], arrays["std"])


def train_image_model(settings: Settings, place: Place, seed: int) -> None:
    """Trains the image diffusion model of a seed, and writes its averaged weights and losses."""
    arrays = read_arrays(place.pool(settings.images[seed]))
    scaled = Scale(arrays["mean"], arrays["std"]).apply(arrays["latents"])
    b, n, *size = scaled.shape
    frames = scaled.reshape(b * n, 1, *size)
    labels = np.repeat(arrays["labels"][:, :2], n, axis=0)
    model = jax.jit(lambda key: DiT(settings.image_model(), rngs=nnx.Rngs(key)))(
        jax.random.key(seed)
    )
    batches = drawn(frames, labels, batch=settings.image_batch, seed=seed)
    trained, losses = fit(settings.image_trainer(), model, batches, seed=seed)
    write_arrays(place.of_seed(seed, "image_losses.npz"), {"loss": losses})
    write_tree(place.of_seed(seed, "image_model.npz"), trained)


def train_video_model(settings: Settings, place: Place, seed: int) -> None:
    """Trains the video diffusion model of a seed, from its image model."""
    arrays = read_arrays(place.pool(settings.images[seed]))
    scaled = Scale(arrays["mean"], arrays["std"]).apply(arrays["latents"])
    image_model = read_image_model(settings, place, seed)
    model = video_model(image_model, LABELS, jax.random.key(1000 + seed))
    batches = drawn(scaled, arrays["labels"], batch=settings.video_batch, seed=seed)
    trained, losses = fit(settings.video_trainer(), model, batches, seed=seed)
    write_arrays(place.of_seed(seed, "video_losses.npz"), {"loss": losses})
    write_tree(place.of_seed(seed, "video_model.npz"), trained)


def read_image_model(settings: Settings, place: Place, seed: int) -> DiT:
    """The frozen image model of a seed."""
    return read_tree(place.of_seed(seed, "image_model.npz"), _shape_of(settings.image_model()))


def read_video_model(settings: Settings, place: Place, seed: int) -> DiT:
    """The frozen video model of a seed."""
    config = dataclasses.replace(settings.image_model(), labels=LABELS, temporal=True)
    return read_tree(place.of_seed(seed, "video_model.npz"), _shape_of(config))


def _shape_of(config: DiTConfig) -> DiT:
    """A model without numbers, which takes no time to make."""
    return jax.eval_shape(lambda: DiT(config, rngs=nnx.Rngs(0)))


def drawn(
    latents: Latents, labels: Labels, *, batch: int, seed: int
) -> Iterator[tuple[Latents, Labels]]:
    """Batches without end, each drawn anew."""
    rng = np.random.default_rng([seed, len(latents)])
    while True:
        chosen = rng.integers(len(latents), size=batch)
        yield latents[chosen], labels[chosen]


def fit(
    trainer: Trainer, model: DiT, batches: Iterator[tuple[Latents, Labels]], *, seed: int
) -> tuple[DiT, Float[np.ndarray, " s"]]:
    """Trains a model to the end; its averaged weights, and the loss of every step."""
    state, losses = trainer.begin(model), []
    for _ in range(trainer.steps):
        state, loss = trainer.step(state, *next(batches), jax.random.key(seed))
        losses.append(loss)
    return state.ema, np.asarray(jax.device_get(losses), np.float32)


def denoising_losses(
    model: DiT, latents: Latents, labels: Labels, *, seed: int
) -> Float[np.ndarray, "b l"]:
    """The mean squared error of the velocity at every level of `LEVELS`, for each example; the
    noise depends on the seed and the example's place alone."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=latents.shape).astype(np.float32)
    found = [
        np.stack([_losses(model, *part, np.float32(level)) for level in LEVELS], axis=1)
        for part in _parts(latents, noise, labels)
    ]
    return np.concatenate(found)[: len(latents)]


def sampled(model: DiT, labels: Labels, *, frames: int, steps: int, seed: int) -> Latents:
    """Samples with these labels, by Heun's method, as scaled latents; one seed's noise is the same
    for all models."""
    config = model.config
    shape = (len(labels), frames, config.size, config.size, config.channels)
    noise = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    found = [_sampled(model, *part, steps=steps, start=1.0) for part in _parts(noise, labels)]
    return np.concatenate(found)[: len(labels)]


def denoised(
    model: DiT, latents: Latents, labels: Labels, *, level: float, steps: int, seed: int
) -> Latents:
    """Scaled latents, noised to a level and sampled from there."""
    noise = np.random.default_rng(seed).normal(size=latents.shape).astype(np.float32)
    begun = np.asarray(noised(latents, noise, np.full(len(latents), level, np.float32)))
    found = [_sampled(model, *part, steps=steps, start=level) for part in _parts(begun, labels)]
    return np.concatenate(found)[: len(latents)]


def _parts(*arrays: np.ndarray) -> Iterator[list[np.ndarray]]:
    """Batches of one size; the last one is filled up with its last entry."""
    for start in range(0, len(arrays[0]), _BATCH):
        parts = [array[start : start + _BATCH] for array in arrays]
        missing = _BATCH - len(parts[0])
        yield [np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) for part in parts]


@jax.jit
def _losses(model: DiT, latents: Array, noise: Array, labels: Array, level: Array) -> Array:
    levels = jnp.full(len(latents), level)
    return velocity_error(lambda z, t: model(z, t, labels), latents, noise, levels)


@functools.partial(jax.jit, static_argnames=("steps", "start"))
def _sampled(model: DiT, noise: Array, labels: Array, *, steps: int, start: float) -> Array:
    velocity = guided(model, labels, none=model.config.labels, scale=1.0)
    return sample(velocity, noise, steps=steps, start=start)
