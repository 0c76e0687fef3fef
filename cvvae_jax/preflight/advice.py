"""What to change in a recipe that does not fit, and the largest batch that does."""

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
    """A step that takes more memory than a device has."""

    bucket: int
    """Position in the stage's buckets."""
    memory: Memory
    """What it takes."""
    clips: int
    """On a device."""


def advice(
    stage: AbstractStage, config: TrainConfig, problem: Problem, *, prefix: str, limit: float
) -> list[str]:
    """Settings to change, those first that leave the result as it is.

    Args:
        stage: what doesn't fit.
        config: the run.
        problem: the step that takes most.
        prefix: of the stage's settings, `train` or `image-train`.
        limit: bytes that a device has.
    """
    lacking = decimal(int(problem.memory.total - limit))
    lines = [f"{lacking} a device are lacking. In this order:"]
    options = [
        _remat(stage, prefix),
        _accumulate(stage, problem, prefix),
        _fsdp(stage),
        _space(stage, problem),
        _types(config),
        f"--{prefix}.buckets.{problem.bucket}.size or .frames smaller: memory of activations is "
        "proportional to their pixels",
    ]
    return lines + [f"  {option}" for option in options if option]


def _remat(stage: AbstractStage, prefix: str) -> str | None:
    match stage.job.stage.remat:
        case "none":
            return f"--{prefix}.remat blocks (a sixth more operations), or full (a third more)"
        case "blocks":
            return (
                f"--{prefix}.remat full: keeps the inputs of levels alone (a sixth more operations)"
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
    """With what it saves, which is known exactly."""
    mesh = stage.job.mesh
    records = mesh.shape["data"] * mesh.shape["fsdp"]
    if mesh.shape["fsdp"] == records:
        return None
    trees = list(stage.kept.values())
    now = sum(bytes_per_device(tree, mesh) for tree in trees)
    split = AbstractMesh((1, records), ("data", "fsdp"))
    then = sum(bytes_per_device(tree, split) for tree in trees)
    return (
        f"--mesh.fsdp {records}: saves {decimal(now - then)} of what every device keeps, of which "
        "gathered parameters, and a schedule that gathers them early, may take a part again"
    )


def _space(stage: AbstractStage, problem: Problem) -> str | None:
    """Where the devices of a process can share a clip that is alone on one."""
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
    return f"{' '.join(wide)}: activations take half; results change by rounding"


@dataclasses.dataclass(frozen=True)
class Largest:
    """The answer, in clips a device."""

    clips: int
    """0 where not even one fits."""
    compiled: bool
    """Whether this very batch was compiled; else it is estimated from two others (0: too)."""
    total: int
    """Bytes on a device then."""


def largest_batch(
    measure: Callable[[int], Memory], *, given: int, step: int, limit: float
) -> Largest:
    """The largest batch that fits: memory is taken to grow by as much for every clip, the two
    batches that say how much are compiled, and then the answer.

    Args:
        measure: compiles for so many clips a device.
        given: clips a device of the recipe; measured already.
        step: clips a device come in multiples of it.
        limit: bytes that a device has.
    """
    known = {given: measure(given).total}

    def look(clips: int) -> bool:
        if clips not in known:
            known[clips] = measure(clips).total
        return known[clips] <= limit

    other = 2 * given if look(given) else max(step, given // 2 // step * step)
    look(other)
    if len(known) == 1:  # the least there is, and too much
        return Largest(0, compiled=True, total=known[given])
    (few, less), (many, more) = sorted(known.items())
    a_clip = (more - less) / (many - few)
    if a_clip <= 0:
        best = max((clips for clips, total in known.items() if total <= limit), default=0)
        return Largest(best, compiled=True, total=known.get(best, less))
    guess = int((limit - less) / a_clip + few) // step * step
    fitting = [clips for clips, total in known.items() if total <= limit]
    failing = [clips for clips, total in known.items() if total > limit]
    guess = max([guess, *fitting]) if fitting else guess
    guess = min([guess, *(clips - step for clips in failing)])
    if guess < step:
        return Largest(0, compiled=step in known, total=known.get(step, less))
    if look(guess):
        return Largest(guess, compiled=True, total=known[guess])
    below = guess - step
    return Largest(below, compiled=False, total=round(known[guess] - a_clip * step))
