"""Training of a DiT: one pure step of a state, with averaged weights."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from studies.latent_diffusion.flow import velocity_error
from studies.latent_diffusion.model import DiT


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that changes in training."""

    step: Int[Array, ""]
    """Number of steps taken."""
    model: DiT
    """The model as the optimizer left it."""
    ema: DiT
    """The averaged model, which is measured and sampled from."""
    optimizer: Any
    """The optimizer's moments."""


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Settings of training, and its step; a value that `jax.jit` takes as static."""

    steps: int
    """Number of steps, over which the learning rate falls as a cosine to a tenth."""
    learning_rate: float = 1e-3
    """The peak of the learning rate, after `warmup` steps."""
    warmup: int = 100
    """Steps in which the learning rate rises."""
    ema_decay: float = 0.999
    """Decay of the averaged weights, at most; it begins small, at (1 + n) / (10 + n)."""
    without_labels: float = 0.1
    """Share of examples that are shown without labels, for guidance."""
    trained: tuple[str, ...] = ()
    """Parts of the parameters' paths; where any are given, only parameters with one of them in
    their path are trained, and all others stay bit for bit."""

    def optimizer(self, model: DiT) -> optax.GradientTransformation:
        """AdamW with clipped gradients; parameters that aren't trained have no moments."""
        rate = optax.warmup_cosine_decay_schedule(
            0.0, self.learning_rate, min(self.warmup, self.steps - 1), self.steps, 0.1
        )
        adam = optax.chain(
            optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.98, weight_decay=0.01)
        )
        if not self.trained:
            return adam
        labels = functools.partial(jax.tree_util.tree_map_with_path, self._label)
        # A function of the parameters, since a model that can be called is taken for one.
        return optax.multi_transform({"trained": adam, "kept": optax.set_to_zero()}, labels)

    def _label(self, path: tuple, leaf: Any) -> str:
        name = jax.tree_util.keystr(path)
        return "trained" if any(part in name for part in self.trained) else "kept"

    def begin(self, model: DiT) -> TrainState:
        """The state before the first step. It holds copies, as a step may take its memory."""
        model, ema = (jax.tree.map(jnp.copy, model) for _ in range(2))
        return TrainState(jnp.zeros((), jnp.int32), model, ema, self.optimizer(model).init(model))

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
    def step(
        self,
        state: TrainState,
        latents: Float[Array, "b n y x z"],
        labels: Int[Array, "b k"],
        key: Key[Array, ""],
    ) -> tuple[TrainState, Float[Array, ""]]:
        """One update.

        Args:
            state: its arrays are used up.
            latents: clean ones, scaled to a deviation of about 1.
            labels: of every example.
            key: of all runs' steps; what is drawn depends on it and on the number of the step.

        Returns:
            The new state, and the loss before the update.
        """
        key = jax.random.fold_in(key, state.step)
        noise_key, level_key, label_key = jax.random.split(key, 3)
        noise = jax.random.normal(noise_key, latents.shape, latents.dtype)
        # More examples at middle levels, where the velocity is hardest to tell (Esser et al. 2024).
        level = jax.nn.sigmoid(jax.random.normal(level_key, (len(latents),)))
        hidden = jax.random.bernoulli(label_key, self.without_labels, (len(latents), 1))
        none = jnp.asarray(state.model.config.labels, labels.dtype)[None]
        labels = jnp.where(hidden, none, labels)

        def loss(model: DiT) -> Array:
            return velocity_error(lambda z, t: model(z, t, labels), latents, noise, level).mean()

        value, gradients = jax.value_and_grad(loss)(state.model)
        optimizer = self.optimizer(state.model)
        updates, moments = optimizer.update(gradients, state.optimizer, state.model)
        model = optax.apply_updates(state.model, updates)
        decay = jnp.minimum(self.ema_decay, (1 + state.step) / (10 + state.step))
        ema = jax.tree.map(lambda old, new: old + (1 - decay) * (new - old), state.ema, model)
        return TrainState(state.step + 1, model, ema, moments), value
