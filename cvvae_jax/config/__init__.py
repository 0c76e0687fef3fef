"""Every number a user may set, as frozen dataclasses with a sentence for every field.

These files import neither jax nor flax, so that `--help` is quick.
"""

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
    Bucket,
    DataConfig,
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
