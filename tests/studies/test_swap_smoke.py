"""`python -m studies.swap --smoke`: the whole study with tiny networks, and that it goes on."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from studies.files import read_json
from studies.swap.__main__ import main

ROOT = Path(__file__).parents[2]


def study(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "studies.swap", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)


@pytest.mark.slow
def test_the_smoke_test_makes_all_tables_and_goes_on(tmp_path):
    out = tmp_path / "smoke"
    first = study("--smoke", "--out", out, "--minutes", 0)
    assert first.returncode == 3 and "28 pieces are left" in first.stdout
    whole = study("--smoke", "--out", out)
    assert whole.returncode == 0, whole.stdout[-2000:] + whole.stderr[-4000:]
    tables = (out / "results" / "tables.md").read_text()
    assert tables.startswith("### The claim: ") and tables.count("\n### ") == 7
    for name in ("gaps", "tuning", "samples"):
        assert min(Image.open(out / "results" / f"{name}.png").size) > 200
    # One piece that is missing is done again, the others are not, and its numbers come back.
    left = out / "seed_1" / "random" / "measures.json"
    before = read_json(left)
    left.unlink()
    again = study("--smoke", "--out", out)
    assert again.returncode == 0
    begun = [line for line in again.stdout.splitlines() if line.startswith("[")]
    assert begun == ["[27/28] seed 1: measures of random"]
    assert read_json(left) == before
    assert (out / "results" / "tables.md").read_text() == tables


def test_the_plan_names_all_pieces_and_does_none(tmp_path, capsys):
    assert main(["--plan", "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 96 and all(line.startswith("-") for line in lines)
    assert "seed 5: tuning of random" in lines[-1]


def test_a_folder_belongs_to_one_study(tmp_path, capsys):
    assert main(["--plan", "--out", str(tmp_path)]) == 0
    assert main(["--plan", "--smoke", "--out", str(tmp_path)]) == 2
    assert f"error: {tmp_path} was begun as another study" in capsys.readouterr().err
