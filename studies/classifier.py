"""A small classifier of moving sprites, whose features Frechet distances compare.

It is trained once on clips of its own and then fixed: one ruler for all models of a study.
"""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from cvvae_jax.metrics.frechet import FeatureStatistics, frechet_distance
from studies.sprites import LABELS, Sprites

FEATURES = 32
"""Length of the features of a frame and of those of a clip."""
_KINDS = ("shape", "color", "motion")
_BATCH = 64


class Classifier(nnx.Module):
    """Logits of shape, color and motion, and features, of clips (b, t, h, w, 3) in [-1, 1] with h =
    w = 32 pixels, or another multiple of 8. Frames are seen one by one; motion is told from their
    features' mean and slope over time. An image has no motion.
    """

    def __init__(self, *, size: int, rngs: nnx.Rngs):
        widths = (3, 16, 32, 64)
        self.convs = nnx.List(
            nnx.Conv(a, b, (3, 3), strides=2, rngs=rngs) for a, b in itertools.pairwise(widths)
        )
        self.frame = nnx.Linear(64 * (size // 8) ** 2, FEATURES, rngs=rngs)
        self.clip = nnx.Linear(2 * FEATURES, FEATURES, rngs=rngs)
        self.shape, self.color = (nnx.Linear(FEATURES, n, rngs=rngs) for n in LABELS[:2])
        self.motion = nnx.Linear(FEATURES, LABELS[2], rngs=rngs)

    def frame_features(self, video: Float[Array, "b t h w 3"]) -> Float[Array, "b t f"]:
        """Features of every frame."""
        b, t, *size = video.shape
        hidden = video.reshape(b * t, *size)
        for conv in self.convs:
            hidden = jax.nn.gelu(conv(hidden))
        return self.frame(hidden.reshape(b * t, -1)).reshape(b, t, FEATURES)

    def clip_features(self, video: Float[Array, "b t h w 3"]) -> Float[Array, "b f"]:
        """Features of every clip."""
        return self._of_clip(self.frame_features(video))

    def _of_clip(self, frames: Float[Array, "b t f"]) -> Float[Array, "b f"]:
        times = np.arange(frames.shape[1]) - (frames.shape[1] - 1) / 2
        weights = (times / max(np.square(times).sum(), 1.0)).astype(np.float32)
        # Over the clip's whole length, so that a slope is as large as a mean.
        slope = len(times) * jnp.einsum("btf,t->bf", frames, weights)
        return self.clip(jnp.concatenate([frames.mean(axis=1), slope], axis=-1))

    def logits(self, video: Float[Array, "b t h w 3"]) -> tuple[Array, Array, Array]:
        """Logits of shape and color, means over frames, and of motion: (b, n) each."""
        frames = self.frame_features(video)
        seen = jax.nn.gelu(frames)
        motion = self.motion(jax.nn.gelu(self._of_clip(frames)))
        return self.shape(seen).mean(axis=1), self.color(seen).mean(axis=1), motion


def train_classifier(sprites: Sprites, *, steps: int, seed: int = 0) -> Classifier:
    """A classifier trained on as many batches of 64 clips, half of them single frames."""
    model = jax.jit(lambda key: Classifier(size=sprites.size, rngs=nnx.Rngs(key)))(
        jax.random.key(seed)
    )
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    state = optimizer.init(model)
    for step in range(steps):
        numbers = range(step * _BATCH, (step + 1) * _BATCH)
        clips, labels = sprites.clips(numbers), sprites.labels(numbers)
        if step % 2:  # a frame of each, as image models make them
            frames = np.random.default_rng([seed, step]).integers(sprites.frames, size=_BATCH)
            clips = clips[np.arange(_BATCH), frames][:, None]
        model, state, _ = _step(model, state, as_values(clips), labels, optimizer=optimizer)
    return model


@functools.partial(jax.jit, static_argnames="optimizer")
def _step(model: Classifier, state: Any, video: Array, labels: Array, *, optimizer):
    def loss(model):
        kinds = model.logits(video)[: 3 if video.shape[1] > 1 else 2]
        losses = [
            optax.softmax_cross_entropy_with_integer_labels(logits, labels[:, kind]).mean()
            for kind, logits in enumerate(kinds)
        ]
        return sum(losses)

    value, gradients = jax.value_and_grad(loss)(model)
    updates, state = optimizer.update(gradients, state, model)
    return optax.apply_updates(model, updates), state, value


def as_values(video: UInt8[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """8-bit pixels as values in [-1, 1]."""
    return video.astype(np.float32) / 127.5 - 1


@dataclasses.dataclass(frozen=True)
class Judgment:
    """What a classifier says of a set of clips or images."""

    frames: FeatureStatistics
    """Of all frames' features."""
    clips: FeatureStatistics
    """Of the clips' features; of images, none."""
    accuracy: dict[str, float]
    """Share of clips whose label is told, by kind; without motion for images."""


def judge(
    model: Classifier, video: Float[Array, "b t h w 3"], labels: Int[np.ndarray, "b k"]
) -> Judgment:
    """Features and accuracies of clips in [-1, 1], clipped to it, which should show the labels."""
    frames, clips, hits = FeatureStatistics(), FeatureStatistics(), []
    for start in range(0, len(video), _BATCH):
        part = jnp.clip(jnp.asarray(video[start : start + _BATCH], jnp.float32), -1, 1)
        of_frames, of_clips, logits = _seen(model, part)
        frames.add(np.asarray(of_frames).reshape(-1, FEATURES))
        if video.shape[1] > 1:
            clips.add(np.asarray(of_clips))
        told = [np.asarray(kind).argmax(axis=1) for kind in logits]
        hits.append(np.stack(told, axis=1) == _padded(labels[start : start + _BATCH]))
    kinds = _KINDS if video.shape[1] > 1 and labels.shape[1] > 2 else _KINDS[:2]
    share = np.concatenate(hits).mean(axis=0)
    return Judgment(frames, clips, {kind: float(share[i]) for i, kind in enumerate(kinds)})


def _padded(labels: Int[np.ndarray, "b k"]) -> Int[np.ndarray, "b 3"]:
    """Labels of all kinds; -1, which no logit has, for those that are missing."""
    missing = len(LABELS) - labels.shape[1]
    return np.pad(labels, ((0, 0), (0, missing)), constant_values=-1)


@jax.jit
def _seen(model: Classifier, video: Array):
    return model.frame_features(video), model.clip_features(video), model.logits(video)


def distances(found: Judgment, real: Judgment) -> dict[str, float]:
    """Squared Frechet distances from real clips, of frames, and of clips where both have them; in
    units of the real features' variance, since a classifier's features have no unit of their own.
    """
    pairs = {"frames": (found.frames, real.frames), "clips": (found.clips, real.clips)}
    return {
        name: frechet_distance(*pair) / float(np.trace(pair[1].covariance()))
        for name, pair in pairs.items()
        if min(each.count for each in pair) > 1
    }
