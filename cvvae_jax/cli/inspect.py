"""`python -m cvvae_jax inspect PATH`: which model is this?"""

import dataclasses
import os
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import tyro

from cvvae_jax.arguments import parse
from cvvae_jax.cli.program import program
from cvvae_jax.errors import visible


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


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Describe a checkpoint, ours or PyTorch's, without loading its arrays.

    Family, sizes and settings, whether any tensor is missing, unexpected or misshapen, and which
    other models the file holds.
    """

    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PATH")]
    """Weight file, or folder with one; run folder, checkpoint or saved model."""
    prefix: str | None = None
    """Prefix of the model's tensors in a file that holds several models."""
    config: Path | None = None
    """An official config.json, where it does not lie beside the weights."""
    lpips_heads: Path | None = None
    """LPIPS' heads, where PATH is torchvision's VGG16 or AlexNet."""
    tensors: tyro.conf.FlagCreatePairsOff[bool] = False
    """List every tensor: its name, shape and type."""
    sha256: tyro.conf.FlagCreatePairsOff[bool] = False
    """Hash the weights too, which reads the whole file."""


def main(arguments: list[str]) -> None:
    """Run the command.

    Raises:
        UserError: there is no whole known model, nor the network or the heads of LPIPS.
        SystemExit: the arguments are malformed, or help was asked for.
    """
    options = parse(Inspect, arguments, prog=program("inspect"))
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # Imported here, so that help is answered without starting jax.
    from cvvae_jax.convert.card import sha256
    from cvvae_jax.loading import open_model

    model = open_model(
        options.path,
        prefix=options.prefix,
        config=options.config,
        lpips_heads=options.lpips_heads,
        whole=False,
    )
    rows = describe(model)
    if options.sha256:
        rows.append(("sha256", sha256(model.weight_files)))
        if model.heads:
            rows.append(("of the heads", sha256(model.heads.files.files)))
    rows += [("part", what) for what in model.other_parts]
    print_rows(rows)
    print("\nconfiguration")
    print_rows([(f"  {name}", str(value)) for name, value in vars(model.config).items()])
    if options.tensors:
        print("\ntensors")
        stored = model.stored_tensors.items()
        print_rows([(f"  {name}", f"{tensor.shape} {tensor.dtype}") for name, tensor in stored])
