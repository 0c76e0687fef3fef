"""The distinct convolutions of a video VAE, found by tracing its encoder and decoder."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.codec.setting import random_input, run
from cvvae_jax.config import VideoVAEConfig
from cvvae_jax.convert.convert import abstract_model
from cvvae_jax.models import conv_forms
from cvvae_jax.models.conv_forms import Strides, convolve
from cvvae_jax.models.padding import SpatialPads
from cvvae_jax.models.video_vae import VideoVAE


@dataclasses.dataclass(frozen=True)
class Shape:
    """All that the time of a convolution depends on."""

    video: tuple[int, ...]
    """(b, t, h, w, c), with all padding but `pads`."""
    kernel: tuple[int, ...]
    """(kt, kh, kw, c, d)."""
    strides: Strides
    pads: SpatialPads
    upsampled: bool

    def __str__(self) -> str:
        frames, height, width, _ = self.video[1:]
        *taps, inputs, outputs = self.kernel
        strides = f" /{self.strides[0]}{self.strides[1]}" if max(self.strides) > 1 else ""
        return (
            f"{inputs}>{outputs} {taps[0]}{taps[1]}{taps[2]} {frames}x{height}x{width}{strides}"
            f"{' up' if self.upsampled else ''}"
        )

    @property
    def arguments(self) -> dict[str, Any]:
        """What every form is called with, beside the arrays."""
        return {"strides": self.strides, "pads": self.pads, "upsampled": self.upsampled}

    @property
    def output(self) -> tuple[int, ...]:
        """(b, t, h, w, d)."""
        arrays = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (self.video, self.kernel))
        return jax.eval_shape(
            lambda video, kernel: conv_forms.reference(video, kernel, **self.arguments), *arrays
        ).shape

    @property
    def operations(self) -> float:
        """Of the forward pass by its definition; each gradient takes as many."""
        return 2.0 * math.prod(self.output[:4]) * math.prod(self.kernel)

    def random(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A video, a kernel that keeps its size, and a cotangent of the output, in float32."""
        rng = np.random.default_rng(0)
        video, kernel, cotangent = (
            rng.standard_normal(shape, np.float32)
            for shape in (self.video, self.kernel, self.output)
        )
        return video, kernel / math.sqrt(math.prod(self.kernel[:4])), cotangent


def distinct(config: VideoVAEConfig, size: Any) -> dict[Shape, int]:
    """How often an encoder and a decoder have each convolution, by the most operations first."""
    parts = ("encode", "decode")
    counts = Counter(shape for part in parts for shape in _traced(part, config, size))
    return dict(sorted(counts.items(), key=lambda pair: -pair[0].operations * pair[1]))


def _traced(part: Any, config: VideoVAEConfig, size: Any) -> Iterator[Shape]:
    found: list[Shape] = []

    def record(video, kernel, *, strides=(1, 1, 1), pads, upsampled=False):
        pads = tuple(map(tuple, pads))
        found.append(Shape(video.shape, kernel.shape, tuple(strides), pads, upsampled))
        return convolve(video, kernel, strides=strides, pads=pads, upsampled=upsampled)

    model = abstract_model(VideoVAE, config)
    array = jax.ShapeDtypeStruct(random_input(part, config, size).shape, config.dtype)
    with mock.patch.object(conv_forms, "convolve", record):
        jax.eval_shape(lambda model, array: run(part, model, array), model, array)
    return iter(found)
