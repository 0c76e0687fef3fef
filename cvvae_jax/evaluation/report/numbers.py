"""Numbers and settings as text."""

import math
from typing import Any

Number = float | int | None
MISSING = "–"
_MINUS = "\N{MINUS SIGN}"


def fixed(value: Number, digits: int) -> str:
    """A number with so many digits after the point, thousands set apart."""
    return MISSING if value is None else _typographic(f"{value:,.{digits}f}", value)


def signed(value: Number, digits: int) -> str:
    """A number as `fixed` writes it, with its sign; numbers that round to zero have none."""
    if value is None:
        return MISSING
    text = fixed(value, digits)
    return f"+{text}" if value > 0 and any(c in "123456789" for c in text) else text


def significant(value: Number, digits: int = 3) -> str:
    """A number of unknown size with so many digits that count."""
    if value is None:
        return MISSING
    if isinstance(value, int) and abs(value) < 10**6:
        return _typographic(str(value), value)
    if value == 0:
        return "0"
    power = math.floor(math.log10(abs(value)))
    if not -4 <= power < 6:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{_typographic(mantissa, value)} × 10^{int(exponent)}".replace("-", _MINUS)
    return _typographic(f"{value:,.{max(0, digits - 1 - power)}f}", value)


def span(low: Number, high: Number, digits: int) -> str | None:
    """An interval in brackets; None where one end is missing."""
    if low is None or high is None:
        return None
    return f"[{fixed(low, digits)}, {fixed(high, digits)}]"


def millions(count: int | None) -> str:
    """How many parameters, shortly."""
    if count is None:
        return MISSING
    if count < 10**6:
        return f"{count:,}"
    return f"{count / 10**6:.1f} M" if count < 10**9 else f"{count / 10**9:.2f} G"


def percent(value: Number, low: float | int, high: float | int) -> float | None:
    """The position of a number between two others, in percent."""
    if value is None:
        return None
    return round(100 * (value - low) / (high - low), 2) if high > low else 50.0


def _typographic(text: str, value: float | int) -> str:
    # A small negative number that rounds to zero is no "-0.00".
    digits = text.removeprefix("-")
    is_zero = not any(c in "123456789" for c in digits)
    return digits if is_zero or value >= 0 else _MINUS + digits


def flattened(value: dict, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, keys joined by points."""
    found = {}
    for key, inner in value.items():
        if isinstance(inner, dict):
            found |= flattened(inner, f"{prefix}{key} · ")
        else:
            found[f"{prefix}{key}"] = inner
    return found


def display(value: Any) -> str:
    """Any JSON value in a few characters."""
    match value:
        case None:
            return MISSING
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.10g}"
        case list() | tuple():
            return ", ".join(display(item) for item in value) or "none"
        case _:
            return str(value)
