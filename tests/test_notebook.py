"""The notebooks run from top to bottom on a tiny model, without Jupyter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks/reconstruct.ipynb"


@pytest.fixture(scope="module")
def notebook() -> dict:
    return json.loads(NOTEBOOK.read_text())


def test_cells_run_in_order_in_a_fresh_process(tmp_path):
    given = {name: value for name, value in os.environ.items() if not name.startswith("CVVAE_")}
    environment = given | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path)}
    environment["XLA_FLAGS"] = environment["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    command = [sys.executable, str(ROOT / "tests/notebook_cells.py"), str(NOTEBOOK)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "whole frames of 104 x 80 pixels; the result is exact" in done.stdout
    assert done.stdout.count("bytes of PNG") == 3
    assert not [name for name in os.listdir(tmp_path) if name != "cvvae_jax"], "files were left"


def test_notebook_is_one_of_format_4(notebook):
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(ids) == len(set(ids))
    for cell in notebook["cells"]:
        wanted = {"cell_type", "id", "metadata", "source"}
        code = {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        assert set(cell) == wanted | code
        assert all(isinstance(line, str) for line in cell["source"])


def test_notebook_has_no_outputs(notebook):
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
