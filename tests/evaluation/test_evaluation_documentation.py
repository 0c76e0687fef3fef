"""docs/evaluation.md names everything there is, and what it says can be typed in."""

import dataclasses
import re
from pathlib import Path

import pytest

from cvvae_jax.cli.evaluate import EvaluateArguments
from cvvae_jax.evaluation import flat_fields
from cvvae_jax.evaluation.metrics import METRICS, all_figures
from cvvae_jax.evaluation.protocol import Protocol
from cvvae_jax.resumable.share import Share

TESTS = Path(__file__).parents[1]
TEXT = (TESTS.parent / "docs" / "evaluation.md").read_text()


def test_documented_python_runs():
    names = {}
    [block] = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(block, names)
    assert [scores.shape for scores in names["per_frame"]] == [(2, 9), (2, 9)]
    assert names["levels"].shape == (2,)
    assert names["distance"] > 0


def test_documented_options_are_there():
    kinds = (EvaluateArguments, Share)
    there = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    there |= {"loss.compat_weight"}  # train.py's
    named = {name.replace("-", "_") for name in re.findall(r"--([a-z0-9][\w.-]*)", TEXT)}
    assert named <= there


@pytest.mark.parametrize(
    "names",
    [
        [field.name for field in dataclasses.fields(Protocol) if field.name != "description"],
        list(METRICS),
    ],
    ids=["fields", "metrics"],
)
def test_all_of_a_protocol_is_documented(names):
    assert not [name for name in names if f"`{name}`" not in TEXT]


def test_all_figures_are_documented():
    assert not [
        f.label for f in all_figures() if f.label.split(" (")[0] not in TEXT and f.key not in TEXT
    ]


def test_all_figures_of_flat_fields_are_documented():
    assert not [f.key for f in flat_fields.FIGURES if f"`{f.key}`" not in TEXT]


def test_tests_that_hold_metrics_against_references_are_there():
    named = set(re.findall(r"`((?:\w+/)*test_\w+\.py)`", TEXT))
    tests = {path.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py")}
    assert len(named) > 5
    assert not {name for name in named if not any(test.endswith(name) for test in tests)}
