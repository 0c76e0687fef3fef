"""The posterior over latents."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from cvvae_jax import rows


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

    def sample(self, key: Key[Array, ""] | Key[Array, " b"]) -> Float[Array, "b n y x z"]:
        """Random latents.

        With one key an example, each depends on its own key alone, whatever the batch.
        """
        if key.ndim:
            shape = self.mean.shape[1:]
            noise = jax.vmap(lambda k: jax.random.normal(k, shape, self.mean.dtype))(key)
        else:
            noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.with_noise(noise)

    def with_noise(self, noise: Float[Array, "b n y x z"]) -> Float[Array, "b n y x z"]:
        """The latents that standard normal noise stands for."""
        return self.mean + jnp.exp(0.5 * self.logvar) * noise

    def kl(self, other: "DiagonalGaussian | None" = None) -> Float[Array, " b"]:
        """KL divergence in nats to another Gaussian, or to a standard normal, summed over all
        latent axes."""
        return rows.total(self.kl_of_each(other).sum(axis=(1, 2, 3, 4)))

    def kl_of_each(self, other: "DiagonalGaussian | None" = None) -> Float[Array, "b n y x z"]:
        """The KL divergence in nats of every entry, whose sum is `kl`."""
        if other is None:
            terms = jnp.square(self.mean) + jnp.exp(self.logvar) - 1.0 - self.logvar
        else:
            ratio = jnp.exp(self.logvar - other.logvar)
            distance = jnp.square(self.mean - other.mean) * jnp.exp(-other.logvar)
            terms = distance + ratio - 1.0 - self.logvar + other.logvar
        return 0.5 * terms
