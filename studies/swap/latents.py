"""Latents of the study: encoding, scales, linear maps, and decoding."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

import cvvae_jax

VAE = cvvae_jax.VideoVAE | cvvae_jax.ImageVAE
Latents = Float[np.ndarray, "b n y x z"]
Video = Float[np.ndarray, "b t h w 3"]

_BATCH = 16


@dataclasses.dataclass(frozen=True)
class Scale:
    """Mean and deviation of every channel, which diffusion models' inputs are freed of."""

    mean: Float[np.ndarray, " z"]
    std: Float[np.ndarray, " z"]

    @classmethod
    def of(cls, latents: Latents) -> "Scale":
        """The scale of these latents."""
        flat = latents.reshape(-1, latents.shape[-1]).astype(np.float64)
        return cls(flat.mean(axis=0).astype(np.float32), flat.std(axis=0).astype(np.float32))

    def apply(self, latents: Latents) -> Latents:
        """Latents for a diffusion model."""
        return (latents - self.mean) / self.std

    def undo(self, latents: Latents) -> Latents:
        """Latents for a decoder."""
        return latents * self.std + self.mean


@dataclasses.dataclass(frozen=True)
class LinearMap:
    """A linear map of channels with a constant, the same at every latent (1 x 1 convolution)."""

    matrix: Float[np.ndarray, "z z"]
    constant: Float[np.ndarray, " z"]

    @classmethod
    def fit(cls, inputs: Latents, targets: Latents) -> "LinearMap":
        """The map of least squared error from inputs to the targets at their places."""
        x, y = (part.reshape(-1, part.shape[-1]).astype(np.float64) for part in (inputs, targets))
        mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
        matrix, *_ = np.linalg.lstsq(x - mean_x, y - mean_y, rcond=None)
        constant = mean_y - mean_x @ matrix
        return cls(matrix.astype(np.float32), constant.astype(np.float32))

    @classmethod
    def fit_channels(cls, inputs: Latents, targets: Latents) -> "LinearMap":
        """The same with each channel from itself alone: a factor and a constant."""
        fits = [cls.fit(inputs[..., [c]], targets[..., [c]]) for c in range(inputs.shape[-1])]
        factors = np.concatenate([fit.matrix[0] for fit in fits])
        return cls(np.diag(factors), np.concatenate([fit.constant for fit in fits]))

    def rescaled(self, inputs: Latents, targets: Latents) -> "LinearMap":
        """This map, with a factor and a constant for each channel that give mapped inputs the
        targets' mean and deviation: least squares take of both what inputs don't tell."""
        mapped, wanted = Scale.of(self(inputs)), Scale.of(targets)
        factors = wanted.std / mapped.std
        constant = (self.constant - mapped.mean) * factors + wanted.mean
        return LinearMap(self.matrix * factors, constant)

    def __call__(self, latents: Latents) -> Latents:
        """The map of latents."""
        return latents @ self.matrix + self.constant


def encode(vae: VAE, clips: UInt8[np.ndarray, "b t h w 3"]) -> Latents:
    """The mode of the posterior."""
    return _in_batches(functools.partial(_mode, vae), clips)


def decode(vae: VAE, latents: Latents) -> Video:
    """Video mode: all latent frames together; an image VAE gives one frame for each."""
    return _in_batches(functools.partial(_decoded, vae), latents)


def decode_alone(vae: VAE, latents: Latents) -> Video:
    """Image mode: every latent frame as an image of its own."""
    b, n, *size = latents.shape
    frames = decode(vae, latents.reshape(b * n, 1, *size))
    return frames.reshape(b, n, *frames.shape[2:])


@jax.jit
def _mode(vae: VAE, clips: Array) -> Array:
    return vae.encode(clips).mode()


@jax.jit
def _decoded(vae: VAE, latents: Array) -> Array:
    return jnp.clip(vae.decode(latents), -1.0, 1.0)


def _in_batches(function: Callable[[Array], Array], values: np.ndarray) -> np.ndarray:
    """One program for all batches: the last one is filled up with its last entry."""
    found = []
    for start in range(0, len(values), _BATCH):
        part = values[start : start + _BATCH]
        filled = np.concatenate([part, np.repeat(part[-1:], _BATCH - len(part), axis=0)])
        found.append(np.asarray(function(jnp.asarray(filled)))[: len(part)])
    return np.concatenate(found)
