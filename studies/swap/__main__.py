"""`python -m studies.swap [--smoke] [--out DIR] [--minutes N] [--plan]`: the study, in pieces.

The same command goes on where it was ended; when all pieces are done it writes the tables and
figures to `results/` of the out folder.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import jax

from cvvae_jax.errors import UserError
from studies.files import read_json, write_json, write_text
from studies.swap.figures import all_figures
from studies.swap.pieces import all_pieces
from studies.swap.results import Results
from studies.swap.settings import FULL, SMOKE, Place, Settings
from studies.swap.tables import all_tables

_QUICK = ("--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; the exit status is 0 when all is done, 3 when pieces are left, 2 after an
    error of the user's."""
    options = _options(arguments)
    settings = SMOKE if options.smoke else FULL
    place = Place(options.out)
    try:
        _claim_folder(place, "smoke" if options.smoke else "full")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    pieces = all_pieces(settings, place)
    if options.plan:
        for piece in pieces:
            print(f"{'done' if piece.done else '-':5} {piece.name}")
        return 0
    _set_up_jax(place, quick=options.smoke)
    begun = time.monotonic()
    for number, piece in enumerate(pieces, start=1):
        if piece.done:
            continue
        minutes = (time.monotonic() - begun) / 60
        if options.minutes is not None and minutes >= options.minutes:
            print(f"{len(pieces) - number + 1} pieces are left; the same command goes on.")
            return 3
        print(f"[{number}/{len(pieces)}] {piece.name}", flush=True)
        piece.work()
        print(f"    {time.monotonic() - begun - 60 * minutes:.0f} s", flush=True)
    _write_results(settings, place)
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.swap", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="tiny networks, to test the study")
    parser.add_argument("--out", type=Path, default=Path("runs/swap"), help="the out folder")
    parser.add_argument("--minutes", type=float, help="begin no piece after so many minutes")
    parser.add_argument("--plan", action="store_true", help="print the pieces, and do nothing")
    return parser.parse_args(arguments)


def _claim_folder(place: Place, kind: str) -> None:
    """Keeps a smoke test and the study out of each other's folders.

    Raises:
        UserError: the folder is the other one's.
    """
    marker = place.out / "study.json"
    if marker.exists() and read_json(marker) != {"swap": kind}:
        raise UserError(f"{place.out} was begun as another study: name another --out.")
    write_json(marker, {"swap": kind})


def _set_up_jax(place: Place, *, quick: bool) -> None:
    """Keeps compiled programs, as all seeds run the same ones. The smoke test's run but a few
    times, so that optimizing them would take most of its time."""
    if quick:
        os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_QUICK])
    jax.config.update("jax_compilation_cache_dir", str((place.out / "compiled").absolute()))


def _write_results(settings: Settings, place: Place) -> None:
    results = Results.read(settings, place)
    text = all_tables(results)
    write_text(place.results("tables.md"), text)
    all_figures(results, place)
    print(text.split("###")[1].strip())
    print(f"All tables and figures are in {place.results('')}.")


if __name__ == "__main__":
    sys.exit(main())
