"""`python -m cvvae_jax convert SRC DST`: weights from PyTorch to JAX and back."""

import dataclasses
import importlib
import math
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from cvvae_jax.arguments import parse
from cvvae_jax.cli.inspect import describe, print_rows
from cvvae_jax.cli.program import program
from cvvae_jax.config import DType
from cvvae_jax.errors import UserError

# Largest error of a stage that rounding explains, relative to its largest value. Some sixty layers
# of sums of up to 13824 products in float32 reach a few 1e-6. Weights that --dtype rounds to 11 or
# 8 bits cost 1e-3 or 1e-2, measured on random weights; trained ones are less even.
_EXACT = 1e-4
_ROUNDED = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}


@dataclasses.dataclass(frozen=True)
class Convert:
    """Convert weights from PyTorch to JAX or back.

    SRC is anything that `cvvae_jax.load` reads. DST is a folder: a checkpoint of ours, or, for
    PyTorch, safetensors and config.json as the official classes read them. Both get a model card.
    """

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SRC")]
    """Weight file, or folder with one; run folder, checkpoint or saved model."""
    target: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DST")]
    """Folder to write."""
    to: Literal["jax", "torch"] | None = None
    """Format to write; default: PyTorch weights become a checkpoint of ours, and ours PyTorch's."""
    dtype: DType | None = None
    """Type of the weights, which are computed with in float32 all the same; unset: the source's."""
    prefix: str | None = None
    """Prefix of the model's tensors in a file that holds several models, such as
    loss.discriminator. in CV-VAE's training states."""
    config: Path | None = None
    """An official config.json, where it does not lie beside the weights."""
    lpips_heads: Path | None = None
    """LPIPS' heads (vgg.pth or alex.pth of the package lpips), where SRC is torchvision's VGG16 or
    AlexNet; both become one model."""
    raw: tyro.conf.FlagCreatePairsOff[bool] = False
    """Take a run's parameters as the optimizer left them, rather than their average."""
    verify: tyro.conf.FlagCreatePairsOff[bool] = False
    """Run PyTorch and JAX side by side on a small clip and compare them stage by stage (needs
    torch)."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace a model at DST; never a folder that holds anything else."""


def main(arguments: list[str]) -> None:
    """Run the command.

    Raises:
        UserError: an argument or a file cannot be used.
        SystemExit: the arguments are malformed, or help was asked for.
    """
    options = parse(Convert, arguments, prog=program("convert"))
    # Weights go from disk to disk, so an accelerator would only be a detour.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # Imported here, so that help is answered without starting jax.
    from cvvae_jax.convert.official_config import exportable
    from cvvae_jax.loading import open_model

    source = open_model(
        options.source,
        param_dtype=options.dtype,
        prefix=options.prefix,
        config=options.config,
        lpips_heads=options.lpips_heads,
        raw=options.raw,
    )
    to = options.to or ("torch" if source.is_ours else "jax")
    family = exportable(source.abstract)[0] if to == "torch" else source.family
    _check_apart(options, source)
    _check_verify(options, source, to)
    rows = describe(source)
    origin = _convert(options, source, family, to)
    # What is known of published files is known by their hashes.
    rows = [(name, origin.licenses if name == "license" else value) for name, value in rows]
    rows.append(("sha256", origin.sha256))
    if origin.heads:
        rows.append(("of the heads", origin.heads.sha256))
    print_rows([*rows, ("written", str(options.target))])


def _convert(options: Convert, source: Any, family: Any, to: Literal["jax", "torch"]) -> Any:
    """Reads, writes, compares; where the weights come from, a `card.Origin`."""
    from cvvae_jax import sharding
    from cvvae_jax.convert import card, export

    size, not_finite = export.size_of(source.abstract), {}
    with (
        export.new_folder(options.target, size=size, overwrite=options.overwrite) as folder,
        ThreadPoolExecutor(1) as pool,
    ):
        # Orbax writes jax's arrays faster than numpy's; safetensors takes numpy's as they are.
        shardings = sharding.one_device(source.abstract) if to == "jax" else None
        model = source.load(shardings, not_finite=not_finite)
        _warn(not_finite)
        # Beside the writing, which waits for the disk; reading keeps all cores busy.
        digest = pool.submit(card.sha256, source.weight_files)
        (export.write_ours if to == "jax" else export.write_official)(model, folder)
        if options.verify:
            _verify(source, model, folder)
        name = _name(options.source, source.path)
        heads = _heads_origin(options, source)
        origin = card.Origin(name, digest.result(), source.license, source.title, to, heads)
        text = card.model_card(origin, model, family, name=folder.name)
        (folder / "README.md").write_text(text)
    return origin


def _heads_origin(options: Convert, source: Any) -> Any:
    """A `card.HeadsOrigin` where LPIPS' heads are in a file of their own."""
    from cvvae_jax.convert import card

    if source.heads is None:
        return None
    files = source.heads.files
    name = _name(options.lpips_heads, files.path)
    return card.HeadsOrigin(name, card.sha256(files.files), source.heads.license)


def _name(given: Path, found: Path) -> str:
    """The source's name for the card: without the folders above it, with a folder found inside."""
    given, found = (Path(os.path.abspath(path)) for path in (given, found))
    return str(found.relative_to(given.parent)) if found.is_relative_to(given) else given.name


def _check_apart(options: Convert, source: Any) -> None:
    """DST is replaced as a whole, so the source may not lie in it."""
    target = options.target.resolve()
    files = source.weight_files + (source.heads.files.files if source.heads else ())
    if any(file.resolve().is_relative_to(target) for file in files):
        raise UserError(f"{options.target} holds what is to be converted; name another folder.")


def _check_verify(options: Convert, source: Any, to: str) -> None:
    if not options.verify:
        return
    from cvvae_jax.convert.verification import COMPARED

    if not issubclass(source.model_class, COMPARED):
        raise UserError(
            f"--verify knows no computation in PyTorch of {source.family.title}; VAEs, "
            "discriminators and LPIPS are compared."
        )
    if source.is_ours and to == "jax":
        raise UserError("--verify compares with PyTorch, and neither SRC nor DST is PyTorch's.")
    try:
        importlib.import_module("torch")
    except ImportError:
        raise UserError("--verify needs torch: pip install torch.") from None


def _verify(source: Any, model: Any, folder: Path) -> None:
    """Compares what was written with PyTorch's own computation, and refuses what is too far off."""
    from cvvae_jax.convert.official_model import open_official
    from cvvae_jax.convert.verification import verify
    from cvvae_jax.loading import load

    print("PyTorch and JAX compute every stage; JAX compiles it first", file=sys.stderr, flush=True)
    if source.is_ours:
        errors = verify(model, open_official(folder))
    else:
        errors = verify(load(folder), source)
    limit = _limit(source)
    print(f"PyTorch beside JAX, largest relative error (limit {limit:.0e})")
    print_rows([(f"  {stage}", f"{error:.1e}") for stage, error in errors])
    print()
    for stage, error in errors:
        if error > limit:
            amount = f"{error:.1e}" if math.isfinite(error) else "values that are no numbers"
            raise UserError(
                f"PyTorch and JAX differ from {stage} on by {amount}, the limit is {limit:.0e}; "
                "nothing was written."
            )


def _limit(source: Any) -> float:
    """The largest error that a sound conversion leaves; both sides have the same numbers unless
    --dtype rounded them on their way from PyTorch."""
    import jax.numpy as jnp

    wanted = source.config.param_dtype
    stored = {tensor.dtype for tensor in source.stored_tensors.values()}
    exact = all(jnp.promote_types(dtype, wanted) == wanted for dtype in stored)
    return _EXACT if source.is_ours or exact else _ROUNDED[wanted]


def _warn(not_finite: dict[str, str]) -> None:
    if not_finite:
        listed = ", ".join(f"{name} ({what})" for name, what in not_finite.items())
        print(f"warning: weights that are no numbers: {listed}.", file=sys.stderr)
