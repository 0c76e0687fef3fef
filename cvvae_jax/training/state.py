"""What training goes on from, and what it never changes."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.models.discriminator import Discriminator
from cvvae_jax.training.optimizer import Optimizers


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LogScales:
    """Learned logarithms of the errors' scales, float32 each."""

    recon: Any
    """Of the reconstruction."""
    compat: Any
    """Of the image decoder's view."""

    @classmethod
    def create(cls, value: float) -> "LogScales":
        """Both at one value."""
        return cls(*(jnp.full((), value, jnp.float32) for _ in range(2)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Averages:
    """Running averages of the discriminator's logits, for LeCAM, float32 each."""

    real: Any
    fake: Any

    @classmethod
    def create(cls) -> "Averages":
        """Both zero."""
        return cls(*(jnp.zeros((), jnp.float32) for _ in range(2)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Guard:
    """What was done about losses and gradients that were no numbers; int32 each."""

    skipped: Any
    """Updates skipped since the run began."""
    vae_in_a_row: Any
    """Updates of the VAE skipped since the last one that was not."""
    gan_in_a_row: Any
    """The same of the discriminator."""
    rollbacks: Any
    """How often the run went back to an earlier checkpoint."""
    data_offset: Any
    """Batches left out by that: step n trains on batch n + data_offset."""

    @property
    def in_a_row(self) -> Any:
        """Of the network that has more of them."""
        return jnp.maximum(self.vae_in_a_row, self.gan_in_a_row)

    @classmethod
    def create(cls) -> "Guard":
        """Nothing skipped."""
        return cls(*(jnp.zeros((), jnp.int32) for _ in range(5)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes; a pytree."""

    step: Any
    """Steps done, int32; with the guard's offset also the position in the data."""

    model: VAE
    """The network being trained."""
    log_scales: LogScales
    """Trained with it."""
    opt_state: Any
    """The moments of both."""

    discriminator: Any
    """The Discriminator that is trained against it, None without a GAN."""
    gan_opt_state: Any
    """Its moments."""
    averages: Averages
    """Of its logits."""

    ema: VAE
    """The model's exponentially averaged parameters."""
    guard: Guard
    """Skipped updates."""

    @classmethod
    def create(
        cls,
        model: VAE,
        discriminator: Discriminator | None,
        optimizers: Optimizers,
        *,
        log_scale: float,
    ) -> "TrainState":
        """The state before the first step.

        The average is a copy, since donated buffers must not be shared, and float32, since steps of
        an average are smaller than half precision resolves.
        """
        log_scales = LogScales.create(log_scale)
        return cls(
            step=jnp.zeros((), jnp.int32),
            model=model,
            log_scales=log_scales,
            opt_state=optimizers.vae.init((model, log_scales)),
            discriminator=discriminator,
            gan_opt_state=optimizers.gan.init(discriminator),
            averages=Averages.create(),
            ema=jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), model),
            guard=Guard.create(),
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Frozen:
    """Networks that training looks at and never changes; None where it needs none."""

    image_vae: Any = None
    """The ImageVAE to be compatible with."""
    lpips: Any = None
    """The LPIPS network."""


@dataclasses.dataclass(frozen=True)
class Streams:
    """Independent random keys of a run."""

    init: jax.Array
    """Of the model's first parameters."""
    discriminator: jax.Array
    """Of the discriminator's."""
    noise: jax.Array
    """Of the posterior's noise, with a record's seed."""
    image_noise: jax.Array
    """Of the image VAE's posterior's."""
    steps: jax.Array
    """Of what is drawn once a step."""

    @classmethod
    def create(cls, seed: int) -> "Streams":
        """The keys of a seed."""
        return cls(*jax.random.split(jax.random.key(seed), 5))
