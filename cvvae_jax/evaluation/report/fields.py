"""Settings of any kind as lines of text."""

from typing import Any

from cvvae_jax.evaluation.report import numbers


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
            return numbers.MISSING
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.10g}"
        case list() | tuple():
            return ", ".join(display(item) for item in value) or "none"
        case _:
            return str(value)
