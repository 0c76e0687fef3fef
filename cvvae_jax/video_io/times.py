"""When the frames of a video are shown: at a constant rate, as an exact fraction, or at a time of
their own for each frame."""

import dataclasses
import json
import math
import re
from fractions import Fraction

import numpy as np

from cvvae_jax.config.reading import build, parse

_USUAL_FPS = Fraction(25)
# Largest rounding error of a container in a constant rate, as a share of the time between frames.
_ROUNDING = 0.25
_FRACTION = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40}|/(?=0*[1-9])[0-9]{1,40})?")
_FINE = 90_000  # least units a second for the start of a video with a constant rate
# Times that go back by more seconds than this begin anew; less is an inaccuracy of the writer.
_LEAP = Fraction(1, 10)


@dataclasses.dataclass(frozen=True)
class Times:
    """When each frame of a video is shown."""

    rate: Fraction
    """Frames per second; the average where `ticks` is given."""
    start: Fraction = Fraction(0)
    """Seconds from the beginning of the file, video or sound, to the first frame."""
    ticks: tuple[int, ...] | None = None
    """When each frame is shown, in `unit`s after the first frame; None for a constant rate, with
    frame k shown after k / rate seconds."""
    unit: Fraction = Fraction(1)
    """Seconds."""
    last: int = 0
    """How long the last frame is shown, in `unit`s, where `ticks` is given."""
    count: int | None = None
    """Number of frames; None where it is unknown."""

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
        """The times for given presentation times, which containers round to their unit.

        Args:
            ticks: presentation times, strictly rising integers in `unit`s.
            unit: the unit in seconds.
            start: as the attribute.
            stated: frame rates that the file states, the likeliest first.
            last: how long the last frame is shown, in `unit`s; 0 where it is unknown.
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
        """Whether `rate` alone describes the times: a constant rate, from the beginning on."""
        return self.ticks is None and not self.start

    def at(self, number: int) -> Fraction:
        """Seconds from the first frame to frame `number`; for the number of frames, to the end of
        the video."""
        if self.ticks is None:
            return number / self.rate
        if number < len(self.ticks):
            return self.ticks[number] * self.unit
        beyond = number - len(self.ticks) + 1
        return (self.ticks[-1] + beyond * self.last) * self.unit

    @property
    def clock(self) -> Fraction:
        """The unit of `ticks_of`, in seconds."""
        if self.ticks is not None:
            return self.unit
        if not self.start:
            return 1 / self.rate
        per_second = self.rate.numerator
        return Fraction(1, per_second * math.ceil(_FINE / per_second))

    def ticks_of(self, number: int) -> int:
        """When frame `number` is shown, in units of `clock` from the beginning of the file.

        Times between frames are exact; a start that isn't a multiple of the unit is rounded.
        """
        return round(self.start / self.clock) + round(self.at(number) / self.clock)

    def taken(self, numbers: np.ndarray, rate: Fraction) -> "Times":
        """The times of a selection of frames. Each is shown until the next selected one, the last
        one until the frame that follows it in the video.

        Args:
            numbers: rising numbers of the selected frames.
            rate: average frame rate of the selection.
        """
        if self.ticks is None:
            return dataclasses.replace(self, rate=rate, count=len(numbers))
        ticks = tuple(self.ticks[number] for number in numbers)
        last = int(self.at(int(numbers[-1]) + 1) / self.unit) - ticks[-1]
        return dataclasses.replace(self, rate=rate, ticks=ticks, last=last, count=len(ticks))

    def to_json(self) -> str:
        """The times as JSON, which `from_json` reads."""
        words = {"rate": str(self.rate), "start": str(self.start), "count": self.count}
        if self.ticks is not None:
            words |= {"ticks": self.ticks, "unit": str(self.unit), "last": self.last}
        return json.dumps(words)

    @classmethod
    def from_json(cls, text: str) -> "Times":
        """The times of `to_json`.

        Raises:
            ValueError: the text is something else.
        """
        said = build(_TimesFields, parse(text, "times"))
        rate, start, unit = map(as_fraction, (said.rate, said.start, said.unit))
        ticks = np.array(said.ticks or (), object)
        if rate <= 0 or unit <= 0 or said.last < 0 or any(np.diff(ticks) <= 0):
            raise ValueError("times must rise")
        return cls(rate, start, said.ticks, unit, said.last, said.count)


@dataclasses.dataclass(frozen=True)
class _TimesFields:
    """The fields of `Times.to_json`."""

    rate: str
    start: str = "0"
    count: int | None = None
    ticks: tuple[int, ...] | None = None
    unit: str = "1"
    last: int = 0


def as_fraction(text: str) -> Fraction:
    """A number such as 25, 29.97 or 30000/1001, exactly.

    Raises:
        ValueError: the text is not such a number. Exponents aren't accepted: 1e999999999 would
            fill the memory.
    """
    if not _FRACTION.fullmatch(text):
        raise ValueError(f"a number or fraction is wanted, such as 30000/1001, not {text[:40]!r}")
    return Fraction(text)


class Continued:
    """Joins times that begin anew, as in files appended to one another, into one sequence."""

    def __init__(self, unit: Fraction):
        """Set up a sequence of times; `unit` is their unit in seconds."""
        self._leap = _LEAP / unit
        self._last: int | None = None
        self._end = 0
        self.shift = 0
        """The offset to add to the times of the present file."""

    def take(self, ticks: int, duration: int) -> None:
        """Take the next time, which should not be less than the one before, and its duration."""
        if self._last is not None and ticks + self.shift < self._last - self._leap:
            self.shift = self._end - ticks
        self._last = ticks + self.shift
        self._end = self._last + duration
