"""Advises on what to change in a recipe that does not fit; finds the largest batch that fits."""

import dataclasses
from collections.abc import Callable

from jax.sharding import AbstractMesh
from rich.filesize import decimal

from cvvae_jax import split_frames
from cvvae_jax.config import TrainConfig
from cvvae_jax.models.feature_networks.vgg import SPATIAL_COMPRESSION
from cvvae_jax.preflight.cost import Memory
from cvvae_jax.training.programs import AbstractStage, bytes_per_device


@dataclasses.dataclass(frozen=True)
class Problem:
    """A step that needs more memory than a device has."""

    bucket: int
    """Number of the bucket in the stage."""
    memory: Memory
    """Memory that the step needs."""
    clips: int
    """Clips on a device."""


def advice(
    stage: AbstractStage, config: TrainConfig, problem: Problem, *, prefix: str, limit: float
) -> list[str]:
    """Settings to change, a line each. Settings that don't change the result come first.

    Args:
        stage: the stage that doesn't fit.
        config: settings of the run.
        problem: the step that needs most memory.
        prefix: section of the stage's settings, `train` or `image-train`.
        limit: bytes that a device has.
    """
    lacking = decimal(int(problem.memory.total - limit))
    lines = [f"Every device lacks {lacking}. Try in this order:"]
    options = [
        _remat(stage, prefix),
        _accumulate(stage, problem, prefix),
        _fsdp(stage),
        _space(stage, problem),
        _types(config),
        f"smaller --{prefix}.buckets.{problem.bucket}.size or .frames: the memory of activations "
        "is proportional to the number of pixels",
    ]
    return lines + [f"  {option}" for option in options if option]


def _remat(stage: AbstractStage, prefix: str) -> str | None:
    match stage.job.stage.remat:
        case "none":
            return f"--{prefix}.remat blocks (a sixth more operations), or full (a third more)"
        case "blocks":
            return (
                f"--{prefix}.remat full: keeps only the inputs of levels (a sixth more operations)"
            )
        case _:
            return None


def _accumulate(stage: AbstractStage, problem: Problem, prefix: str) -> str | None:
    if problem.clips <= stage.job.stage.accumulate:
        return None
    return (
        f"--{prefix}.accumulate up to {problem.clips}: a device takes its clips one after the other"
    )


def _fsdp(stage: AbstractStage) -> str | None:
    """Advice to split the state over devices, with the bytes that this saves, which are exact."""
    mesh = stage.job.mesh
    records = mesh.shape["data"] * mesh.shape["fsdp"]
    if mesh.shape["fsdp"] == records:
        return None
    trees = list(stage.kept.values())
    now = sum(bytes_per_device(tree, mesh) for tree in trees)
    split = AbstractMesh((1, records), ("data", "fsdp"))
    then = sum(bytes_per_device(tree, split) for tree in trees)
    return (
        f"--mesh.fsdp {records}: saves {decimal(now - then)} of what every device keeps; gathered "
        "parameters may take up a part of it again"
    )


def _space(stage: AbstractStage, problem: Problem) -> str | None:
    """Advice to let devices share a clip, if there is one clip per device and they can share it."""
    mesh, buckets = stage.job.mesh, stage.job.stage.buckets
    space = 2 * mesh.shape[split_frames.AXIS]
    own = [d for d in mesh.devices.flat if d.process_index == mesh.devices.flat[0].process_index]
    divided = all(b.height % (space * SPATIAL_COMPRESSION) == 0 for b in buckets)
    if problem.clips > 1 or len(own) % space or not divided:
        return None
    return f"--mesh.space {space}: devices share a clip"


def _types(config: TrainConfig) -> str | None:
    settings = {
        "--model.dtype": config.model.dtype,
        "--frozen-dtype": config.frozen_dtype,
        "--discriminator.dtype": config.discriminator.dtype,
    }
    wide = [f"{name} bfloat16" for name, dtype in settings.items() if dtype == "float32"]
    if not wide:
        return None
    return f"{' '.join(wide)}: halves activations; results change by rounding"


@dataclasses.dataclass(frozen=True)
class LargestBatch:
    """The largest batch that fits."""

    clips: int
    """Clips per device; 0 if not even one fits."""
    compiled: bool
    """Whether this batch was compiled; else it is estimated from two other batches."""
    total: int
    """Bytes that this batch needs on a device."""


def largest_batch(
    measure: Callable[[int], Memory], *, given: int, step: int, limit: float
) -> LargestBatch:
    """Find the largest batch that fits.

    Memory is assumed to grow by an equal amount for every clip. Two batches are compiled to learn
    this amount, and then the batch that it points to.

    Args:
        measure: gives the memory for a number of clips per device, by compiling.
        given: clips per device of the recipe.
        step: the number of clips per device must be a multiple of it.
        limit: bytes that a device has.
    """
    known = {given: measure(given).total}

    def look(clips: int) -> bool:
        if clips not in known:
            known[clips] = measure(clips).total
        return known[clips] <= limit

    other = 2 * given if look(given) else max(step, given // 2 // step * step)
    look(other)
    if len(known) == 1:  # the recipe has the smallest batch, and it does not fit
        return LargestBatch(0, compiled=True, total=known[given])
    (few, less), (many, more) = sorted(known.items())
    a_clip = (more - less) / (many - few)
    if a_clip <= 0:
        best = max((clips for clips, total in known.items() if total <= limit), default=0)
        return LargestBatch(best, compiled=True, total=known.get(best, less))
    guess = int((limit - less) / a_clip + few) // step * step
    fitting = [clips for clips, total in known.items() if total <= limit]
    failing = [clips for clips, total in known.items() if total > limit]
    guess = max([guess, *fitting]) if fitting else guess
    guess = min([guess, *(clips - step for clips in failing)])
    if guess < step:
        return LargestBatch(0, compiled=step in known, total=known.get(step, less))
    if look(guess):
        return LargestBatch(guess, compiled=True, total=known[guess])
    below = guess - step
    return LargestBatch(below, compiled=False, total=round(known[guess] - a_clip * step))
