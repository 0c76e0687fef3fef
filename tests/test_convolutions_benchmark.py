"""The benchmark of convolutions finds those of a model, and measures forms that agree."""

import numpy as np
import pytest

from benchmarks.codec.setting import Size, configuration, operations, random_input
from benchmarks.convolutions import __main__ as convolutions
from benchmarks.convolutions import ours
from benchmarks.convolutions.shapes import Shape, distinct

CONFIG = configuration("sd21", dtype="float32", tiny=True)
PADS = ((1, 1), (1, 1))
SHAPE = Shape((1, 5, 6, 6, 4), (3, 3, 3, 4, 8), (1, 1, 1), PADS, upsampled=False)
UPSAMPLED = Shape((1, 5, 6, 6, 4), (3, 3, 3, 4, 8), (1, 1, 1), PADS, upsampled=True)


def test_its_convolutions_are_all_of_the_model():
    """Their operations are those that the whole program counts; the rest are attention's
    products, and the layers of one tap, which are products of matrices."""
    found = distinct(CONFIG, Size(5, 32, 32))
    counted = sum(shape.operations * count for shape, count in found.items())
    official = sum(
        operations(part, CONFIG, random_input(part, CONFIG, Size(5, 32, 32)))[0]
        for part in ("encode", "decode")
    )
    assert 0.9 * official < counted <= official
    by_weight = [shape.operations * count for shape, count in found.items()]
    assert by_weight == sorted(by_weight, reverse=True)


def test_operations_are_two_for_every_product():
    """3 x 6 x 6 outputs of 27 taps, 4 channels to 8; four times as many outputs of twice the size,
    where the padding, a pixel wide before upsampling, gives two more rows and columns."""
    assert SHAPE.output == (1, 3, 6, 6, 8)
    assert SHAPE.operations == 2 * 3 * 6 * 6 * 27 * 4 * 8
    assert UPSAMPLED.output == (1, 3, 12, 12, 8)
    assert UPSAMPLED.operations == 4 * SHAPE.operations


@pytest.mark.parametrize("shape", [SHAPE, UPSAMPLED], ids=["plain", "upsampled"])
@pytest.mark.parametrize("which", ours.PASSES)
def test_all_forms_of_a_pass_agree(shape, which):
    forms = ours.forms(shape)
    assert {"chosen", "3-D", "summed", "winograd"} <= set(forms)
    outputs = {}
    for name, form in forms.items():
        side = ours.Ours(shape, form, which, "float32")
        outputs[name] = side.as_array(side())
    convolutions._check(outputs, "float32")
    with pytest.raises(AssertionError, match=r"other and .* apart"):
        convolutions._check(outputs | {"other": np.zeros_like(outputs["chosen"])}, "float32")


@pytest.mark.parametrize("shape", [SHAPE, UPSAMPLED], ids=["plain", "upsampled"])
@pytest.mark.parametrize("which", ours.PASSES)
def test_pytorch_computes_the_same(shape, which):
    pytest.importorskip("torch")
    from benchmarks.convolutions import theirs

    ours_side = ours.Ours(shape, ours.forms(shape)["3-D"], which, "float32")
    outputs = {"ours": ours_side.as_array(ours_side())}
    for variant in theirs.VARIANTS:
        side = theirs.Theirs(shape, variant, which, "float32")
        outputs[variant] = side.as_array(side())
    convolutions._check(outputs, "float32")


def test_table_has_all_passes_and_sums(capsys, monkeypatch):
    monkeypatch.setattr(convolutions, "theirs", None)
    convolutions.main(convolutions.Benchmark(quick=True, most=2, forms=("3-D",)))
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("  to kernel") for line in lines) == 3
    assert lines[-1].split()[-1] == "ms"
    assert float(lines[-1].split()[-2]) > 0
