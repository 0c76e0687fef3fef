"""A diffusion transformer (DiT, Peebles & Xie 2023) of latents of images and of videos."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

_FREQUENCIES = 64
_TIME_SCALE = 1000.0  # levels of noise lie in [0, 1], where the slowest waves would hardly move


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """The size of a DiT and of what it is given."""

    size: int
    """Height and width of a latent frame; every latent is a token."""
    channels: int
    """Channels of the latents."""
    labels: tuple[int, ...]
    """Number of values of each kind of label; a label equal to it stands for none."""
    width: int = 128
    """Numbers of a token inside of the network."""
    depth: int = 4
    """Number of blocks."""
    heads: int = 4
    """Heads of every attention."""
    temporal: bool = False
    """Whether every block also has attention along time."""


class Attention(nnx.Module):
    """Attention among the tokens of a sequence: (b, s, d) -> (b, s, d)."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.inputs = nnx.Linear(width, 3 * width, rngs=rngs)
        self.output = nnx.Linear(width, width, rngs=rngs)
        self.heads = heads

    def __call__(self, tokens: Float[Array, "b s d"]) -> Float[Array, "b s d"]:
        b, s, d = tokens.shape
        parts = self.inputs(tokens).reshape(b, s, 3, self.heads, d // self.heads)
        mixed = jax.nn.dot_product_attention(*(parts[:, :, i] for i in range(3)))
        return self.output(mixed.reshape(b, s, d))


class Modulated(nnx.Module):
    """Tokens normalized, then shifted and scaled by linear functions of the condition, and weights
    of the condition for what is made of them; all three functions are zero at first (adaLN-zero).
    """

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(width, use_scale=False, use_bias=False, rngs=rngs)
        zeros = nnx.initializers.zeros
        self.linear = nnx.Linear(width, 3 * width, kernel_init=zeros, rngs=rngs)

    def __call__(
        self, tokens: Float[Array, "b s d"], condition: Float[Array, "b d"]
    ) -> tuple[Float[Array, "b s d"], Float[Array, "b 1 d"]]:
        numbers = self.linear(jax.nn.silu(condition))[:, None]
        shift, scale, gate = jnp.split(numbers, 3, axis=-1)
        return self.norm(tokens) * (1 + scale) + shift, gate


class Branch(nnx.Module):
    """What a block adds to its tokens: a layer on modulated tokens, weighted; zero at first."""

    def __init__(self, layer: nnx.Module, width: int, *, rngs: nnx.Rngs):
        self.modulated = Modulated(width, rngs=rngs)
        self.layer = layer

    def __call__(
        self, tokens: Float[Array, "b s d"], condition: Float[Array, "b d"]
    ) -> Float[Array, "b s d"]:
        modulated, gate = self.modulated(tokens, condition)
        return gate * self.layer(modulated)


class MLP(nnx.Module):
    """Two layers, the hidden one four times as wide."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.inner = nnx.Linear(width, 4 * width, rngs=rngs)
        self.outer = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, tokens: Float[Array, "... d"]) -> Float[Array, "... d"]:
        return self.outer(jax.nn.gelu(self.inner(tokens)))


class Block(nnx.Module):
    """Attention within latent frames, attention along time where the model has it, and an MLP."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        width, heads = config.width, config.heads
        self.space = Branch(Attention(width, heads, rngs=rngs), width, rngs=rngs)
        self.mlp = Branch(MLP(width, rngs=rngs), width, rngs=rngs)
        if config.temporal:
            self.time = Branch(Attention(width, heads, rngs=rngs), width, rngs=rngs)

    def __call__(
        self, tokens: Float[Array, "b n s d"], condition: Float[Array, "b d"]
    ) -> Float[Array, "b n s d"]:
        b, n, s, d = tokens.shape
        of_frames = jnp.repeat(condition, n, axis=0)
        frames = tokens.reshape(b * n, s, d)
        frames = frames + self.space(frames, of_frames)
        if hasattr(self, "time"):
            courses = frames.reshape(b, n, s, d).swapaxes(1, 2).reshape(b * s, n, d)
            placed = courses + _waves(np.arange(n), d)[None]
            courses = courses + self.time(placed, jnp.repeat(condition, s, axis=0))
            frames = courses.reshape(b, s, n, d).swapaxes(1, 2).reshape(b * n, s, d)
        frames = frames + self.mlp(frames, of_frames)
        return frames.reshape(b, n, s, d)


class DiT(nnx.Module):
    """The velocity of rectified flow for noised latents (b, n, y, x, z) of n latent frames; an
    image has one. Without temporal attention every latent frame is an image of its own.

    A pytree, which `jax.jit` and `jax.grad` take as it is. With random weights its output is zero.
    """

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        self.config = config
        width, normal = config.width, nnx.initializers.normal(0.02)
        self.inputs = nnx.Linear(config.channels, width, rngs=rngs)
        self.level = nnx.Linear(2 * _FREQUENCIES, width, rngs=rngs)
        self.level_mlp = nnx.Linear(width, width, rngs=rngs)
        self.labels = nnx.List(
            nnx.Embed(count + 1, width, embedding_init=normal, rngs=rngs) for count in config.labels
        )
        self.blocks = nnx.List(Block(config, rngs=rngs) for _ in range(config.depth))
        self.output = Modulated(width, rngs=rngs)
        zeros = nnx.initializers.zeros
        self.last = nnx.Linear(width, config.channels, kernel_init=zeros, rngs=rngs)

    def __call__(
        self,
        latents: Float[Array, "b n y x z"],
        level: Float[Array, " b"],
        labels: Int[Array, "b k"],
    ) -> Float[Array, "b n y x z"]:
        """The velocity.

        Args:
            latents: noised latents, float32.
            level: the share of noise, from 0 to 1.
            labels: a label of each kind; the number of labels of a kind stands for none.
        """
        b, n, y, x, z = latents.shape
        condition = self._condition(level, labels)
        tokens = self.inputs(latents.reshape(b, n, y * x, z)) + _places(y, x, self.config.width)
        for block in self.blocks:
            tokens = block(tokens, condition)
        modulated, _ = self.output(tokens.reshape(b, n * y * x, -1), condition)
        return self.last(modulated).reshape(latents.shape)

    def _condition(
        self, level: Float[Array, " b"], labels: Int[Array, "b k"]
    ) -> Float[Array, "b d"]:
        speeds = np.exp(-np.log(10_000) * np.arange(_FREQUENCIES) / _FREQUENCIES)
        phases = _TIME_SCALE * level[:, None] * speeds[None].astype(np.float32)
        waves = jnp.concatenate([jnp.cos(phases), jnp.sin(phases)], axis=-1)
        found = self.level_mlp(jax.nn.silu(self.level(waves)))
        return found + sum(table(labels[:, kind]) for kind, table in enumerate(self.labels))


def video_model(image_model: DiT, labels: tuple[int, ...], key: Key[Array, ""]) -> DiT:
    """A video model that computes, on every latent frame, what an image model does: all weights are
    the image model's, temporal attention begins as zero, and so do the labels of further kinds.

    Args:
        image_model: the model to begin from; it is not changed.
        labels: numbers of labels, those of the image model first.
        key: of the temporal attention's random weights.

    Raises:
        ValueError: the labels don't begin with the image model's.
    """
    known = image_model.config.labels
    if labels[: len(known)] != known:
        raise ValueError(f"Labels must begin with the image model's, {known}, not be {labels}.")
    config = dataclasses.replace(image_model.config, labels=labels, temporal=True)
    model = DiT(config, rngs=nnx.Rngs(key))
    state = dict(nnx.to_flat_state(nnx.state(model)))
    of_image = dict(nnx.to_flat_state(nnx.state(image_model)))
    for path, variable in state.items():
        if path in of_image:
            state[path] = jax.tree.map(jnp.copy, of_image[path])
        elif path[0] == "labels":
            state[path] = jax.tree.map(jnp.zeros_like, variable)
    nnx.update(model, nnx.from_flat_state(state))
    return model


def _waves(places: np.ndarray, width: int) -> Float[np.ndarray, "s d"]:
    """Sines and cosines of numbered places, from fast to slow."""
    speeds = np.exp(-np.log(10_000) * np.arange(width // 2) / (width // 2))
    phases = places[:, None] * speeds
    return np.concatenate([np.sin(phases), np.cos(phases)], axis=1).astype(np.float32)


def _places(y: int, x: int, width: int) -> Float[np.ndarray, "1 1 s d"]:
    """Half of the width says the row, the other half the column."""
    rows, columns = (_waves(np.arange(length), width // 2) for length in (y, x))
    grid = [np.repeat(rows, x, axis=0), np.tile(columns, (y, 1))]
    return np.concatenate(grid, axis=1)[None, None]
