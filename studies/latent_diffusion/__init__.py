"""A small latent diffusion model: a DiT with rectified flow, for images and for videos."""

from studies.latent_diffusion.flow import (
    Velocity,
    guided,
    noised,
    sample,
    velocity_error,
    velocity_target,
)
from studies.latent_diffusion.model import DiT, DiTConfig, video_model
from studies.latent_diffusion.training import Trainer, TrainState

__all__ = [
    "DiT",
    "DiTConfig",
    "TrainState",
    "Trainer",
    "Velocity",
    "guided",
    "noised",
    "sample",
    "velocity_error",
    "velocity_target",
    "video_model",
]
