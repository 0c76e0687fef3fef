"""Runs a notebook's cells in order, as Jupyter would: `python notebook_cells.py FILE`."""

import ast
import json
import sys
from pathlib import Path


def run(path: Path) -> None:
    """Execute every code cell; what its last expression gives is printed, a picture as its size."""
    names = {"__name__": "__main__"}
    for number, cell in enumerate(json.loads(path.read_text())["cells"]):
        if cell["cell_type"] == "code":
            _run_cell("".join(cell["source"]), names, where=f"{path.name}, cell {number}")


def _run_cell(source: str, names: dict, *, where: str) -> None:
    body = ast.parse(source, where)
    last = body.body.pop() if isinstance(body.body[-1], ast.Expr) else None
    exec(compile(body, where, "exec"), names)
    if last is not None:
        shown = eval(compile(ast.Expression(last.value), where, "eval"), names)
        if shown is not None:
            print(f"{where}: {_as_text(shown)}")


def _as_text(shown) -> str:
    if hasattr(shown, "_repr_png_"):
        return f"{len(shown._repr_png_())} bytes of PNG, {shown.size}"
    return repr(shown)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
