"""The least time that a step can take: operations at a chip's peak, bytes at the rate of its links.

A real step takes longer: nothing reaches its peak, and memory's own rate isn't in it.
"""

import dataclasses

from cvvae_jax.preflight.collectives import Traffic
from cvvae_jax.preflight.hardware import Chip


@dataclasses.dataclass(frozen=True)
class Floor:
    """Seconds of a step, at least."""

    compute: float
    """All operations, at peak rate."""
    links: float
    """What a device sends, over all its links at once."""


def floor(
    executed_flops: float, traffic: list[Traffic], *, chip: Chip, devices: int, passes: int
) -> Floor:
    """Of a step whose operations are spread over so many devices.

    Args:
        executed_flops: over all devices.
        traffic: of one device.
        chip: the hardware.
        devices: how many compute.
        passes: how many times as long a product takes as one of bfloat16 (`hardware.FLOAT32`).
    """
    sent = sum(part.wire for part in traffic)
    return Floor(executed_flops * passes / devices / chip.peak_flops, sent / chip.link)


def sum_over_slices(size: float, *, chip: Chip, slice_chips: int, slices: int) -> float:
    """Seconds of summing an array of so many bytes over all chips of several slices, at least: a
    sum over each slice, whose chips then sum a part each with those of the other slices."""
    links = 2 * (slice_chips - 1) / slice_chips * size / chip.link
    network = 2 * (slices - 1) / slices * size / slice_chips / chip.network
    return links + network
