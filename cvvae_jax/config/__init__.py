"""The settings of networks and of training, as frozen dataclasses that document every field.

`--help` prints these sentences. Settings of evaluations are in `evaluation.protocol` and
`cli.evaluate`, those of the codec in `cli.video_commands`, and those of latents' data sets in
`latents.dataset_options`. Nothing here imports jax or flax, so that `--help` is fast.
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
