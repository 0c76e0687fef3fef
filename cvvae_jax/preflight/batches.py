"""The largest batch that fits, from a few compiles."""

import dataclasses
from collections.abc import Callable

from cvvae_jax.preflight.memory import Memory


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
