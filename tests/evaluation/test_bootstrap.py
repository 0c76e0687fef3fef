"""Intervals of means over clips."""

import numpy as np
import pytest

from cvvae_jax.evaluation.summary import RESAMPLES, mean_interval


def test_interval_is_that_of_the_normal_distribution_for_many_clips():
    """For 400 clips the bootstrap's ends are the mean plus and minus 1.96 standard errors; ten
    thousand draws leave 2 % of a standard error, and quantiles of few draws a bit more: 8 %."""
    values = np.random.default_rng(0).normal(30, 3, 400)
    mean, low, high = mean_interval(values)
    error = values.std() / 20
    assert mean == pytest.approx(values.mean())
    assert low == pytest.approx(mean - 1.96 * error, abs=0.08 * error)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.08 * error)


def test_many_clips_are_drawn_in_parts_with_the_same_interval():
    values = np.random.default_rng(0).normal(0, 1, 2500)
    mean, low, high = mean_interval(values)
    error = values.std() / 50
    assert len(values) * RESAMPLES > 10_000_000
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.05)
    assert low < mean < high


def test_unknown_values_are_left_out_and_few_clips_have_no_interval():
    assert mean_interval(np.array([np.nan, 2.0])) == (2.0, None, None)
    assert mean_interval(np.array([np.nan])) == (None, None, None)
    assert mean_interval(np.array([])) == (None, None, None)
    assert mean_interval(np.arange(5.0)) == (2.0, None, None)
    assert mean_interval(np.array([5.0] * 6 + [np.nan])) == (5.0, 5.0, 5.0)


@pytest.mark.parametrize("clips", [6, 14])
def test_nineteen_of_twenty_intervals_hold_the_true_mean(clips):
    """The share of 400 intervals is binomial: 0.95 with a deviation of 0.011. The plain percentile
    interval of 6 clips holds the mean 87 times in 100. 0.92 leaves room for the bootstrap being no
    exact method."""
    rng = np.random.default_rng(0)
    intervals = [mean_interval(rng.normal(0, 1, clips)) for _ in range(400)]
    assert np.mean([low <= 0 <= high for _, low, high in intervals]) > 0.92
