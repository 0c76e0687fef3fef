"""What is timed: sizes, the model and its operations."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.train_step.setting import random_array
from cvvae_jax import parameter_paths
from cvvae_jax.config import DType, VideoVAEConfig
from cvvae_jax.convert.convert import abstract_model
from cvvae_jax.hardware import count_flops
from cvvae_jax.models.conv_forms import as_defined
from cvvae_jax.models.video_vae import PRESETS, PresetName, VideoVAE

Part = Literal["encode", "decode"]
Variant = Literal["eager", "channels_last", "compiled"]
"""PyTorch run eagerly; with channels last in memory; both that and `torch.compile`."""
CHUNK = 17
"""Frames that the codec takes at a time; a chunk begins with the last frame of the one before."""
_TINY = {"block_channels": (8, 8, 16, 16), "norm_groups": 8, "blocks_per_level": 1}


@dataclasses.dataclass(frozen=True)
class Size:
    """Of a video."""

    frames: int
    height: int
    width: int

    @classmethod
    def parse(cls, text: str) -> "Size":
        """`17x256x256`."""
        return cls(*map(int, text.split("x")))

    def __str__(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}"

    @property
    def chunks(self) -> int:
        """Runs of a program."""
        return -(-(self.frames - 1) // (CHUNK - 1))

    @property
    def chunk(self) -> "Size":
        """What a program sees."""
        return dataclasses.replace(self, frames=min(self.frames, CHUNK))


def configuration(preset: PresetName, *, dtype: DType, tiny: bool) -> VideoVAEConfig:
    """Of an official model, in one number type."""
    shape: dict[str, Any] = _TINY if tiny else {}
    return dataclasses.replace(PRESETS[preset], dtype=dtype, param_dtype=dtype, **shape)


def random_model(config: VideoVAEConfig) -> VideoVAE:
    """The same weights every time; speed doesn't depend on them."""
    rng = np.random.default_rng(0)
    abstract = abstract_model(VideoVAE, config)
    leaves = parameter_paths.flatten(abstract).items()
    arrays = {path: jnp.asarray(random_array(rng, path, leaf)) for path, leaf in leaves}
    return parameter_paths.unflatten(abstract, arrays)


def random_input(part: Part, config: VideoVAEConfig, size: Size) -> np.ndarray:
    """A chunk's video in [-1, 1], or its latents, in float32."""
    rng = np.random.default_rng(1)
    if part == "encode":
        return rng.uniform(-1, 1, (1, size.frames, size.height, size.width, 3)).astype(np.float32)
    time, space = config.temporal_compression, config.spatial_compression
    places = (1 + (size.frames - 1) // time, size.height // space, size.width // space)
    return rng.standard_normal((1, *places, config.latent_channels), np.float32)


def run(part: Part, model: VideoVAE, array: jax.Array) -> jax.Array:
    """Means of the latents, or the video."""
    return model.encode(array).mode() if part == "encode" else model.decode(array)


def operations(part: Part, config: VideoVAEConfig, array: np.ndarray) -> tuple[float, float]:
    """The official ones, and those that the forms of this backend execute."""
    model = abstract_model(VideoVAE, config)
    shape = jax.ShapeDtypeStruct(array.shape, config.dtype)

    def traced():
        return jax.make_jaxpr(lambda model, array: run(part, model, array))(model, shape)

    with as_defined():
        official = count_flops(traced())
    return official, count_flops(traced(), platform=jax.default_backend())
