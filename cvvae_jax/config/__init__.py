"""The settings of networks and of training, as frozen dataclasses that document every field.

`--help` prints these sentences. The settings of evaluations, of the codec and of latents' data sets
are in `evaluation.protocol`, `cli.codec_options` and `latents.options`. Nothing here imports jax or
flax, so that `--help` is fast.
"""

from cvvae_jax.config.data import Bucket, DataConfig
from cvvae_jax.config.networks import (
    DiscriminatorConfig,
    DType,
    I3DConfig,
    ImageVAEConfig,
    InceptionConfig,
    LPIPSConfig,
    Remat,
    SVDVAEConfig,
    VideoVAEConfig,
)
from cvvae_jax.config.training import (
    LossConfig,
    Mapping,
    MeshConfig,
    OptimizerConfig,
    StageConfig,
    TrainConfig,
)

__all__ = [
    "Bucket",
    "DType",
    "DataConfig",
    "DiscriminatorConfig",
    "I3DConfig",
    "ImageVAEConfig",
    "InceptionConfig",
    "LPIPSConfig",
    "LossConfig",
    "Mapping",
    "MeshConfig",
    "OptimizerConfig",
    "Remat",
    "SVDVAEConfig",
    "StageConfig",
    "TrainConfig",
    "VideoVAEConfig",
]
