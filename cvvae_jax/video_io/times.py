"""When the frames of a video are shown: at a constant rate that is an exact fraction, or one by
one."""

import dataclasses
import json
import math
import re
from fractions import Fraction

import numpy as np

from cvvae_jax.config.reading import build, parse

_USUAL_FPS = Fraction(25)
# Of the time between two frames: how far a constant rate may be off by the rounding of a container.
_ROUNDING = 0.25
_FRACTION = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40}|/(?=0*[1-9])[0-9]{1,40})?")
_FINE = 90_000  # units a second, at least, of a start that frames of a constant rate have
# Seconds that a time must go back to begin anew; less is carelessness of the program that wrote it.
_LEAP = Fraction(1, 10)


@dataclasses.dataclass(frozen=True)
class Times:
    """When each frame of a video is shown."""

    rate: Fraction
    """Frames per second; on average where they come unevenly."""
    start: Fraction = Fraction(0)
    """Seconds from the beginning of the file, video or sound, to the first frame."""
    ticks: tuple[int, ...] | None = None
    """When each of uneven frames is shown, counted from the first, in `unit`; None for frames of a
    constant rate, of which frame k is shown after k / rate seconds."""
    unit: Fraction = Fraction(1)
    """Seconds."""
    last: int = 0
    """How long the last one of uneven frames is shown, in `unit`."""
    count: int | None = None
    """Number of frames, where it is known."""

    @classmethod
    def of(
        cls,
        ticks: np.ndarray,
        unit: Fraction,
        *,
        start: Fraction = Fraction(0),
        stated: tuple[Fraction | None, ...] = (),
        last: int = 0,
    ) -> "Times":
        """What presentation times say, which containers round to their unit.

        Args:
            ticks: strictly rising integers, in `unit`.
            unit: seconds.
            start: as the attribute.
            stated: rates that the file states, the likeliest first.
            last: how long the last frame is shown, in `unit`; 0 where that isn't known.
        """
        ticks = ticks - ticks[0]
        steps = len(ticks) - 1
        if not steps:
            rates = (1 / (last * unit) if last else None, *stated, _USUAL_FPS)
            return cls(next(filter(None, rates)), start, count=1)
        mean = steps / (int(ticks[-1]) * unit)
        for rate in (*filter(None, stated), mean.limit_denominator(1001)):
            even = np.arange(steps + 1) / float(rate * unit)
            error = np.abs(ticks - even).max()
            if error <= min(1, _ROUNDING / float(rate * unit)):
                return cls(rate, start, count=len(ticks))
        last = last or int(ticks[-1] - ticks[-2])
        average, ticks = mean.limit_denominator(100_000), tuple(ticks.tolist())
        return cls(average, start, ticks, unit, last, count=len(ticks))

    @property
    def is_plain(self) -> bool:
        """Whether the rate says all: frames come evenly, and from the beginning on."""
        return self.ticks is None and not self.start

    def at(self, number: int) -> Fraction:
        """Seconds from the first frame to frame `number`; to the end of the video for the number
        of its frames."""
        if self.ticks is None:
            return number / self.rate
        if number < len(self.ticks):
            return self.ticks[number] * self.unit
        beyond = number - len(self.ticks) + 1
        return (self.ticks[-1] + beyond * self.last) * self.unit

    @property
    def clock(self) -> Fraction:
        """Seconds of the unit in which `ticks_of` counts."""
        if self.ticks is not None:
            return self.unit
        if not self.start:
            return 1 / self.rate
        per_second = self.rate.numerator
        return Fraction(1, per_second * math.ceil(_FINE / per_second))

    def ticks_of(self, number: int) -> int:
        """When frame `number` is shown, from the beginning of the file on, in units of `clock`.

        Frames keep their distances exactly; a start that is no multiple of the unit is rounded.
        """
        return round(self.start / self.clock) + round(self.at(number) / self.clock)

    def taken(self, numbers: np.ndarray, rate: Fraction) -> "Times":
        """Times of some frames, by their rising numbers: each is shown until the next of them, the
        last one until the frame that follows it.

        Args:
            numbers: of the frames.
            rate: of these frames, on average.
        """
        if self.ticks is None:
            return dataclasses.replace(self, rate=rate, count=len(numbers))
        ticks = tuple(self.ticks[number] for number in numbers)
        last = int(self.at(int(numbers[-1]) + 1) / self.unit) - ticks[-1]
        return dataclasses.replace(self, rate=rate, ticks=ticks, last=last, count=len(ticks))

    def to_json(self) -> str:
        """All of it as text, which `from_json` reads."""
        words = {"rate": str(self.rate), "start": str(self.start), "count": self.count}
        if self.ticks is not None:
            words |= {"ticks": self.ticks, "unit": str(self.unit), "last": self.last}
        return json.dumps(words)

    @classmethod
    def from_json(cls, text: str) -> "Times":
        """The times of `to_json`.

        Raises:
            ValueError: it is something else.
        """
        said = build(_TimesFields, parse(text, "times"))
        rate, start, unit = map(as_fraction, (said.rate, said.start, said.unit))
        ticks = np.array(said.ticks or (), object)
        if rate <= 0 or unit <= 0 or said.last < 0 or any(np.diff(ticks) <= 0):
            raise ValueError("times must rise")
        return cls(rate, start, said.ticks, unit, said.last, said.count)


@dataclasses.dataclass(frozen=True)
class _TimesFields:
    """Times as JSON has them."""

    rate: str
    start: str = "0"
    count: int | None = None
    ticks: tuple[int, ...] | None = None
    unit: str = "1"
    last: int = 0


def as_fraction(text: str) -> Fraction:
    """A number such as 25, 29.97 or 30000/1001, exactly.

    Raises:
        ValueError: it is none; nor are powers of ten, such as 1e999999999, which would fill the
            memory.
    """
    if not _FRACTION.fullmatch(text):
        raise ValueError(f"a number or fraction is wanted, such as 30000/1001, not {text[:40]!r}")
    return Fraction(text)


class Continued:
    """Makes one row of times of those that begin anew, as in files appended to one another."""

    def __init__(self, unit: Fraction):
        """Set up a row of times in a unit, in seconds."""
        self._leap = _LEAP / unit
        self._last: int | None = None
        self._end = 0
        self.shift = 0
        """What is to be added to the times now."""

    def take(self, ticks: int, duration: int) -> None:
        """Go on with the next time, in an order in which they ought to rise, and how long it
        lasts."""
        if self._last is not None and ticks + self.shift < self._last - self._leap:
            self.shift = self._end - ticks
        self._last = ticks + self.shift
        self._end = self._last + duration
