"""The benchmark of metrics compares what is equal."""

import pytest

from benchmarks import metrics

# Largest difference of the largest value: float32 sums in another order; SciPy's spectra of float32
# are rounded to it after every step.
CLOSE = 1e-4


def differences(capsys, options: metrics.Benchmark) -> dict[str, float]:
    """By row and library, after the lines about the machine."""
    metrics.main(options)
    lines = capsys.readouterr().out.split(metrics.HEADER)[1].strip().splitlines()
    cells = [line.split() for line in lines if " cvvae_jax " not in line]
    return {" ".join(row[:-5]): float(row[-1]) for row in cells}


def test_plain_libraries_agree_with_ours(capsys):
    rows = ("psnr", "ssim", "difference_mse", "drift_mse", "error_spectrum", "seam_ratio")
    options = metrics.Benchmark(clips=1, frames=9, size=16, repeats=1, only=rows)
    found = differences(capsys, options)
    assert {name.split()[0] for name in found} == set(rows)
    assert max(found.values()) < CLOSE


@pytest.mark.slow
def test_every_side_agrees_with_ours(capsys):
    for module in metrics.LIBRARIES:
        pytest.importorskip(module)
    rows = tuple(set(metrics.ROWS) - {"i3d", "warping_error", "frechet_2048"})  # alone, or long
    options = metrics.Benchmark(clips=1, frames=4, size=176, repeats=1, only=rows)
    found = differences(capsys, options)
    assert {name.split()[0] for name in found} == set(rows)
    assert max(found.values()) < CLOSE


def test_unknown_rows_are_named():
    with pytest.raises(SystemExit, match="no rows blur"):
        metrics.main(metrics.Benchmark(only=("psnr", "blur")))
