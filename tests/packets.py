"""Video files as a player gets them, without our own reader: times of packets."""

from fractions import Fraction
from pathlib import Path

import av

MEDIA = Path(__file__).parent / "media"


def shown(path: Path, kind: str) -> list[float]:
    """When packets are presented, in seconds and order, without those for the decoder only."""
    with av.open(str(path)) as container:
        packets = container.demux(container.streams.best(kind))
        found = [p for p in packets if p.size and not p.is_discard and p.pts is not None]
        return sorted(
            float(p.pts * Fraction(p.time_base.numerator, p.time_base.denominator)) for p in found
        )
