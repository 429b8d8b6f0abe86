"""Intervals that cover as often as they say, and medians that survive failures."""

import numpy as np
import pytest

from hf_tsdyn.metrics import bootstrap_median, bootstrap_paired_difference


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_interval_covers_the_populations_median_as_often_as_it_says(rng, confidence):
    num_trials = 400
    covered = 0
    for _ in range(num_trials):
        sample = rng.exponential(size=41)
        interval = bootstrap_median(sample, rng=rng, num_resamples=400, confidence=confidence)
        covered += interval.low <= np.log(2) <= interval.high
    # Three standard errors of a share of 400 trials, and a few per cent for the finite sample.
    assert abs(covered / num_trials - confidence) < 3 * np.sqrt(confidence * (1 - confidence) / num_trials) + 0.02


@pytest.mark.parametrize("num_systems", [1, 2, 7, 10])
def test_median_is_numpys_and_lies_in_its_interval(rng, num_systems):
    values = rng.normal(size=num_systems)
    interval = bootstrap_median(values, rng=rng)
    assert interval.median == pytest.approx(np.median(values), rel=1e-15)
    assert values.min() <= interval.low <= interval.median <= interval.high <= values.max()


def test_equal_generators_give_equal_intervals():
    values = np.random.default_rng(1).normal(size=20)
    first, again, other = (bootstrap_median(values, rng=np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_failures_count_as_larger_than_every_value(rng):
    interval = bootstrap_median([1.0, 2.0, 3.0, np.inf, np.inf], rng=rng)
    assert interval.median == 3.0
    assert interval.high == np.inf
    assert interval.low < 3.0


def test_paired_difference_of_a_constant_shift_is_that_shift(rng):
    reference = rng.normal(size=15)
    assert bootstrap_paired_difference(reference + 0.5, reference, rng=rng) == pytest.approx((0.5, 0.5, 0.5))


def test_pairing_sees_what_the_medians_alone_do_not(rng):
    reference = 100 * rng.normal(size=25)
    values = reference - 1 + 0.1 * rng.normal(size=25)
    paired = bootstrap_paired_difference(values, reference, rng=rng)
    assert paired.high < 0
    assert bootstrap_median(values, rng=rng).high > bootstrap_median(reference, rng=rng).low


def test_failing_together_is_no_difference_and_failing_alone_is_an_infinite_one(rng):
    inf = np.inf
    assert bootstrap_paired_difference([inf, inf, inf], [inf, inf, inf], rng=rng).median == 0
    assert bootstrap_paired_difference([inf, inf, 1.0], [1.0, 1.0, 1.0], rng=rng).median == inf
    assert bootstrap_paired_difference([inf, 1.0], [1.0, inf], rng=rng).median == 0


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [[1.0, 2.0]]])
def test_values_that_have_no_median_are_refused(values, rng):
    with pytest.raises(ValueError, match="one number per system"):
        bootstrap_median(values, rng=rng)


def test_unpaired_values_are_refused(rng):
    with pytest.raises(ValueError, match=r"one shape, found \(2,\) and \(3,\)"):
        bootstrap_paired_difference([1.0, 2.0], [1.0, 2.0, 3.0], rng=rng)
