"""What is known of a model on disk, as lines of a table."""

from collections import Counter
from typing import Any

from cvvae_jax.config.visible import visible


def describe(source: Any) -> list[tuple[str, str]]:
    """Names and values that say which model a `SavedModel` or `OfficialModel` is."""
    from cvvae_jax.convert.card import license_name  # starts jax

    tensors = source.stored_tensors
    types = Counter(str(tensor.dtype) for tensor in tensors.values())
    rows = [
        ("source", str(source.path)),
        *([("heads", str(source.heads.files.path))] if source.heads else []),
        ("format", source.format),
        ("family", source.title),
        ("model", source.model_class.__name__),
        ("tensors", str(len(tensors))),
        ("parameters", f"{sum(_size(tensor.shape) for tensor in tensors.values()):,}"),
        ("stored as", ", ".join(f"{name} ({n} tensors)" for name, n in types.items())),
        ("dtype", f"{source.config.param_dtype}, computed in {source.config.dtype}"),
        ("license", license_name(source.license)),
    ]
    if source.incomplete:
        rows.append(("incomplete", source.incomplete))
    rows += [("assumed", what) for what in source.assumed]
    if source.left_alone:
        rows.append(("left alone", f"{len(source.left_alone)} other tensors of the file"))
    return rows


def print_rows(rows: list[tuple[str, str]]) -> None:
    """A table of two columns."""
    width = max(len(name) for name, _ in rows) + 2
    for name, value in rows:
        print(visible(f"{name:<{width}}{value}"))


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for axis in shape:
        size *= axis
    return size
