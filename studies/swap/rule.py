"""The decision rule of README.md, as functions of measured numbers."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

RANDOM_RATIO, INFLATED_RATIO = 0.25, 0.5
"""Largest shares of a twin's gap that the compatible VAE's may have."""
FLOORS = 3.0
"""How many floors a gap must have to be a denominator."""
DISTANCE_RATIO = 1.1
PLATEAU, EQUAL = 0.2, 0.5
"""Largest rise over the last third of training, and largest spread of reconstructions, in dB."""

Truth = Literal["true", "false", "void"]
Verdict = Literal["holds", "fails", "void", "unequal"]


@dataclasses.dataclass(frozen=True)
class Seed:
    """What is measured of one seed; VAEs by name."""

    gaps: Mapping[str, float]
    """G of the compatible VAE with E_i's scale, and of the twins with the better of both."""
    mapped_gaps: Mapping[str, float]
    """G' of the twins."""
    floor: float
    """F."""
    distance: float
    """D of the compatible VAE's decoder."""
    image_distance: float
    """D of the image decoder."""
    distance_floor: float
    """F_D."""
    rises: Mapping[str, float]
    """Rise of the reconstruction over the last third of training, in dB."""
    reconstructions: Mapping[str, float]
    """PSNR on test clips, in dB."""


@dataclasses.dataclass(frozen=True)
class Judged:
    """The verdict on a seed, and what it follows from."""

    conditions: dict[str, Truth]
    plateau: bool
    equal: bool
    verdict: Verdict


def judge(seed: Seed) -> Judged:
    """Applies the rule to a seed."""
    own = seed.gaps["compatible"]
    twins = (("random", RANDOM_RATIO), ("inflated", INFLATED_RATIO))
    conditions: dict[str, Truth] = {}
    for name, gaps in (("gap", seed.gaps), ("mapped gap", seed.mapped_gaps)):
        for twin, ratio in twins:
            counts = gaps[twin] >= FLOORS * seed.floor
            small = "true" if own < ratio * gaps[twin] else "false"
            conditions[f"{name} below {ratio} x {twin}"] = small if counts else "void"
    near = seed.distance <= DISTANCE_RATIO * seed.image_distance + seed.distance_floor
    conditions["distance"] = "true" if near else "false"
    plateau = max(seed.rises.values()) < PLATEAU
    levels = seed.reconstructions.values()
    equal = max(levels) - min(levels) <= EQUAL
    return Judged(conditions, plateau, equal, _verdict(conditions, comparable=plateau and equal))


def _verdict(conditions: Mapping[str, Truth], *, comparable: bool) -> Verdict:
    if not comparable:
        return "unequal"
    if "false" in conditions.values():
        return "fails"
    return "void" if "void" in conditions.values() else "holds"


def claim(verdicts: Sequence[Verdict]) -> Literal["holds", "fails", "open"]:
    """The verdict on the claim, from those on all seeds."""
    if "fails" in verdicts:
        return "fails"
    return "holds" if all(verdict == "holds" for verdict in verdicts) else "open"


def rise(scores: Sequence[float]) -> float:
    """How much a reconstruction's PSNR rises over the last third of training: the mean of the
    third's second half minus that of its first half.

    Args:
        scores: PSNR in dB at equal distances, the last one at the end of training; six or more.

    Raises:
        ValueError: there are fewer.
    """
    if len(scores) < 6:
        raise ValueError(f"A last third takes six scores at least, not {len(scores)}.")
    third = np.asarray(scores[-(len(scores) // 3) :], np.float64)
    half = len(third) // 2
    return float(third[-half:].mean() - third[:half].mean())


def floor_of_gaps(losses: Mapping[int, float], images: Mapping[int, str], seed: int) -> float:
    """F: the deviation over seeds, of those that share an image VAE, of the loss on its latents.
    A seed that shares its image VAE with none takes the largest group's.

    Raises:
        ValueError: no two seeds share one.
    """
    groups: dict[str, list[float]] = {}
    for number, loss in losses.items():
        groups.setdefault(images[number], []).append(loss)
    own = groups[images[seed]]
    group = own if len(own) > 1 else max(groups.values(), key=len)
    if len(group) < 2:
        raise ValueError("A floor takes two seeds that share an image VAE.")
    return float(np.std(group, ddof=1))
