"""Figures of all clips, from those of each."""

import numpy as np
import pytest

from cvvae_jax.errors import UserError
from cvvae_jax.evaluation.protocol import Protocol
from cvvae_jax.evaluation.store import INPUT
from cvvae_jax.evaluation.summary import summarize
from cvvae_jax.metrics.frechet import FeatureStatistics, frechet_distance

PROTOCOL = Protocol(chunk_frames=4)


def mse_of(psnrs) -> np.ndarray:
    return 4 * 10 ** (-np.asarray(psnrs, np.float64) / 10)


def reader(**contenders):
    """Contenders' clips, which nothing else is measured of."""
    return lambda name: iter(contenders.get(name, []))


def test_both_ways_to_average_psnr():
    clips = [{"mse": mse_of([20, 40])}, {"mse": mse_of([30, 30, 30])}]
    found = summarize(reader(a=clips), ["a"], PROTOCOL, group=4)["scores"]["a"]
    assert found["psnr"]["value"] == pytest.approx(30)
    of_mean = -10 * np.log10((1e-2 + 1e-4) / 2)
    np.testing.assert_allclose(found["psnr_of_mean"]["clips"], [of_mean, 30])


def test_differences_are_of_clips_that_both_have():
    a = [{"mse": mse_of([20])}, {"mse": mse_of([30])}, {}]
    b = [{"mse": mse_of([21])}, {}, {"mse": mse_of([99])}]
    found = summarize(reader(a=a, b=b), ["a", "b"], PROTOCOL, group=4)["paired"]
    assert found.keys() == {"b"}
    assert found["b"]["psnr"]["difference"] == pytest.approx(1)


def test_figures_are_in_the_same_order_in_every_process():
    """A set's order depends on the process."""
    names = ("ssim", "ms_ssim", "lpips_vgg", "lpips_alex")
    clips = [{"mse": mse_of([20])} | {name: np.array([0.5]) for name in names}]
    found = summarize(reader(a=clips, b=clips), ["a", "b"], PROTOCOL, group=4)
    assert list(found["paired"]["b"]) == list(found["scores"]["a"])
    assert len(found["paired"]["b"]) == 6


def test_curves_do_not_jump_where_clips_end():
    """The short clip is far worse, and would pull down the beginning alone."""
    clips = [{"mse": mse_of([20] * 3)}, {"mse": mse_of([40] * 9)}, {"mse": mse_of([40] * 11)}]
    series = summarize(reader(a=clips), ["a"], PROTOCOL, group=4)["series"]["a"]
    np.testing.assert_allclose(series["psnr_over_time"], [40] * 9)
    for unit in ("group", "chunk"):
        np.testing.assert_allclose(series[f"psnr_by_{unit}_position"], [40] * 5)


def test_positions_that_few_clips_have_are_left_open():
    clips = [{"mse": mse_of([20, 30])}] * 2 + [{"mse": mse_of([20, 30, 50])}]
    series = summarize(reader(a=clips), ["a"], PROTOCOL, group=4)["series"]["a"]
    assert series["psnr_by_group_position"] == [pytest.approx(20), pytest.approx(30)] + [None] * 3


def test_distances_are_those_of_all_features():
    rng = np.random.default_rng(0)
    fid = {name: [rng.normal(i, 1, (7, 3)) for _ in range(4)] for i, name in enumerate(["x", "y"])}
    fvd = {name: rng.normal(i, 1, (4, 3)) for i, name in enumerate(["x", "y"])}
    clips = {n: [{"fid": a, "fvd": b} for a, b in zip(fid[n], fvd[n], strict=True)] for n in fid}
    read = reader(**{"model": clips["x"], INPUT: clips["y"]})
    found = summarize(read, ["model"], PROTOCOL, group=4)["scores"]["model"]
    for key, (x, y) in {
        "fid": [np.concatenate(fid[n]) for n in "xy"],
        "fvd": [fvd[n] for n in "xy"],
    }.items():
        ours, theirs = FeatureStatistics(), FeatureStatistics()
        ours.add(x)
        theirs.add(y)
        assert found[key]["value"] == pytest.approx(frechet_distance(ours, theirs), rel=1e-9)
        assert found[key]["clips"] is None


def test_a_figure_that_is_no_number_is_named():
    with pytest.raises(UserError, match=r"PSNR of mean error of a is nan on a clip"):
        summarize(reader(a=[{"mse": np.array([np.nan])}]), ["a"], PROTOCOL, group=4)


def test_the_first_figure_is_not_led_by_frames_kept_exactly():
    """One frame in four at 100 dB, the others at 25, beside all of them at 30."""
    kept, model = ([{"mse": mse_of(psnrs)}] for psnrs in ([100, 25, 25, 25] * 4, [30] * 16))
    found = summarize(reader(model=model, kept=kept), ["model", "kept"], PROTOCOL, group=4)
    first = found["metrics"][0]["key"]
    assert first == "psnr_of_mean"
    assert found["scores"]["kept"][first]["value"] == pytest.approx(25 - 10 * np.log10(0.75))
    assert (
        found["paired"]["kept"][first]["difference"]
        < 0
        < found["paired"]["kept"]["psnr"]["difference"]
    )
