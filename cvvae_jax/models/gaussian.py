"""The posterior over latents."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cvvae_jax.errors import UserError
from cvvae_jax.models.inputs import KeyLike, random_keys


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DiagonalGaussian:
    """A normal distribution with one mean and one log-variance for every entry of the latents."""

    mean: Float[Array, "b n y x z"]
    logvar: Float[Array, "b n y x z"]

    @classmethod
    def from_moments(cls, moments: Float[Array, "b n y x zz"]) -> "DiagonalGaussian":
        """From an encoder's output: means, then log-variances, which are clamped to [-30, 20] as in
        Stable Diffusion; both float32."""
        mean, logvar = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        return cls(mean, jnp.clip(logvar, -30.0, 20.0))

    def mode(self) -> Float[Array, "b n y x z"]:
        """The most likely latents."""
        return self.mean

    def sample(self, key: KeyLike) -> Float[Array, "b n y x z"]:
        """Random latents.

        Args:
            key: one of `jax.random.key`, or one for each example, (b,): each then depends on its
                own key alone, whatever the batch.

        Raises:
            UserError: it is no key, or there are more or fewer than examples.
        """
        key = random_keys(key)
        if not key.ndim:
            return self.with_noise(jax.random.normal(key, self.mean.shape, self.mean.dtype))
        if key.shape != self.mean.shape[:1]:
            raise UserError(
                f"key must be one key, or one for each of {len(self.mean)} examples, "
                f"not {key.shape} of them."
            )
        shape = self.mean.shape[1:]
        noise = jax.vmap(lambda k: jax.random.normal(k, shape, self.mean.dtype))(key)
        return self.with_noise(noise)

    def with_noise(self, noise: Float[Array | np.ndarray, "..."]) -> Float[Array, "b n y x z"]:
        """The latents that standard normal noise stands for.

        Raises:
            UserError: the noise has another shape than the mean.
        """
        if noise.shape != self.mean.shape:
            raise UserError(f"noise must have the shape {self.mean.shape}, not {noise.shape}.")
        return self.mean + jnp.exp(0.5 * self.logvar) * noise

    def kl(self, other: "DiagonalGaussian | None" = None) -> Float[Array, " b"]:
        """KL divergence in nats to another Gaussian, or to a standard normal, summed over all
        latent axes.

        Raises:
            UserError: the other one's latents have another shape.
        """
        return self.kl_of_each(other).sum(axis=(1, 2, 3, 4))

    def kl_of_each(self, other: "DiagonalGaussian | None" = None) -> Float[Array, "b n y x z"]:
        """The KL divergence in nats of every entry, whose sum is `kl`; raises what `kl` does."""
        if other is not None and other.mean.shape != self.mean.shape:
            raise UserError(
                f"latents of one shape have a divergence, not {self.mean.shape} and "
                f"{other.mean.shape}."
            )
        if other is None:
            terms = jnp.square(self.mean) + jnp.exp(self.logvar) - 1.0 - self.logvar
        else:
            ratio = jnp.exp(self.logvar - other.logvar)
            distance = jnp.square(self.mean - other.mean) * jnp.exp(-other.logvar)
            terms = distance + ratio - 1.0 - self.logvar + other.logvar
        return 0.5 * terms
