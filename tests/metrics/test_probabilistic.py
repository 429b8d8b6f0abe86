"""Scores of quantiles against closed forms of the normal distribution, sums over pairs of samples, and gluonts."""

import warnings

import numpy as np
import pytest
from scipy import stats

from hf_tsdyn.metrics import (
    central_intervals,
    interval_coverage,
    interval_width,
    normalised_crps,
    normalised_mae,
    sample_crps,
    share_below,
    weighted_quantile_loss,
)

DECILES = tuple(k / 10 for k in range(1, 10))
METRICS = [weighted_quantile_loss, normalised_crps, interval_coverage, interval_width, share_below]
LOSSES = [weighted_quantile_loss, normalised_crps]


@pytest.fixture
def windows():
    """Past, future and normal quantiles of 5 windows, 3 channels of very different size."""
    rng = np.random.default_rng(0)
    size = np.array([1.0, 1e3, 1e-3])
    past, future = (size * rng.normal(size=(5, time, 3)) for time in (40, 12))
    quantiles = (size * rng.normal(size=(5, 12, 3)))[..., None] + size[:, None] * stats.norm.ppf(DECILES)
    return past, future, quantiles


def normal_quantiles(levels, *, loc=0.0, scale=1.0, shape=(1, 1, 1)):
    return np.broadcast_to(stats.norm.ppf(levels, loc, scale), (*shape, len(levels)))


def unit_context(num_windows=1):
    """A context with mean 0 and standard deviation 1."""
    return np.tile(np.array([-1.0, 1.0] * 4)[None, :, None], (num_windows, 1, 1))


def score(metric, future, quantiles, past, levels=DECILES, **options):
    return metric(future, quantiles, quantile_levels=levels, past_values=past, **options)


@pytest.mark.parametrize(("y", "loc", "scale"), [(0.0, 0.0, 1.0), (1.3, -0.4, 0.5), (-3.0, 0.2, 2.0)])
def test_many_levels_give_the_crps_of_a_normal_forecast(y, loc, scale):
    levels = (np.arange(4000) + 0.5) / 4000
    z = (y - loc) / scale
    expected = scale * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))
    quantiles = normal_quantiles(levels, loc=loc, scale=scale)
    found = score(normalised_crps, np.full((1, 1, 1), y), quantiles, unit_context(), levels)
    np.testing.assert_allclose(found, [expected], rtol=2e-4)


def test_deciles_of_a_correct_normal_forecast_are_nine_percent_above_its_crps():
    future = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)[None, :, None]
    quantiles = normal_quantiles(DECILES, shape=future.shape)
    (found,) = score(normalised_crps, future, quantiles, unit_context())
    mean_loss = np.mean(2 * stats.norm.pdf(stats.norm.ppf(DECILES)))  # of a quantile at its own level
    assert found == pytest.approx(mean_loss, rel=1e-4)
    assert found * np.sqrt(np.pi) == pytest.approx(1.094, abs=1e-3)


def test_coverage_and_shares_of_exact_quantiles_are_nominal():
    future = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)[None, :, None]
    quantiles = normal_quantiles(DECILES, shape=future.shape)
    np.testing.assert_allclose(score(share_below, future, quantiles, unit_context()), [DECILES], atol=1e-4)
    for nominal in (0.8, 0.6, 0.4, 0.2):
        (found,) = score(interval_coverage, future, quantiles, unit_context(), nominal=nominal)
        assert found == pytest.approx(nominal, abs=2e-4)


def test_an_interval_that_is_too_narrow_covers_what_the_normal_distribution_says():
    future = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)[None, :, None]
    quantiles = normal_quantiles(DECILES, scale=0.5, shape=future.shape)
    (found,) = score(interval_coverage, future, quantiles, unit_context())
    assert found == pytest.approx(1 - 2 * stats.norm.cdf(-0.5 * 1.2815515655446004), abs=2e-4)


def test_width_is_in_units_of_the_context():
    quantiles = normal_quantiles(DECILES, scale=3.0, shape=(1, 4, 1))
    (found,) = score(interval_width, np.zeros((1, 4, 1)), quantiles, 6.0 * unit_context())
    assert found == pytest.approx(2 * 1.2815515655446004 / 2)


def test_values_are_those_worked_out_by_hand():
    future = np.array([[[2.0], [-4.0]]])
    quantiles = np.array([[[[1.0, 3.0]], [[-3.0, 0.0]]]])
    # Twice the pinball losses: 2 * (0.25 * 1, 0.25 * 1) and 2 * (0.75 * 1, 0.25 * 4).
    levels = (0.25, 0.75)
    np.testing.assert_allclose(score(normalised_crps, future, quantiles, 2 * unit_context(), levels), [1.125 / 2])
    np.testing.assert_allclose(score(weighted_quantile_loss, future, quantiles, unit_context(), levels), [2.25 / 6])
    np.testing.assert_allclose(score(share_below, future, quantiles, unit_context(), levels), [[0.5, 1.0]])
    np.testing.assert_allclose(score(interval_coverage, future, quantiles, unit_context(), levels, nominal=0.5), [0.5])


def test_the_median_alone_gives_the_absolute_error(windows):
    past, future, quantiles = windows
    median = quantiles[..., 4]
    found = score(normalised_crps, future, median[..., None], past, (0.5,))
    np.testing.assert_allclose(found, normalised_mae(future, median, past_values=past), rtol=1e-13)


def test_samples_score_as_the_sum_over_all_their_pairs_does(windows):
    past, future, samples = windows  # in no order
    samples = np.random.default_rng(1).permuted(samples, axis=-1)
    past_std = past.std(axis=1, keepdims=True)
    to_truth = np.abs(samples - future[..., None]).mean(axis=-1)
    to_each_other = np.abs(samples[..., None] - samples[..., None, :]).mean(axis=(-1, -2))
    expected = ((to_truth - to_each_other / 2) / past_std).mean(axis=(1, 2))
    np.testing.assert_allclose(sample_crps(future, samples, past_values=past), expected, rtol=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_unseen_targets_do_not_count(metric, windows):
    past, future, quantiles = windows
    mask = np.ones(future.shape, bool)
    mask[:, 6:] = False
    expected = score(metric, future[:, :6], quantiles[:, :6], past)
    np.testing.assert_allclose(score(metric, future, quantiles, past, future_observed_mask=mask), expected, rtol=1e-13)
    hidden = np.where(mask, future, np.nan)
    np.testing.assert_allclose(score(metric, hidden, quantiles, past), expected, rtol=1e-13)


@pytest.mark.parametrize("metric", METRICS)
def test_a_window_without_targets_is_nan_and_leaves_the_others_alone(metric, windows):
    past, future, quantiles = windows
    expected = score(metric, future, quantiles, past)
    future[2] = np.nan
    expected[2] = np.nan
    np.testing.assert_array_equal(score(metric, future, quantiles, past), expected)


@pytest.mark.parametrize("metric", [normalised_crps, interval_coverage, interval_width, share_below])
def test_scores_do_not_depend_on_units(metric, windows):
    past, future, quantiles = windows
    expected = score(metric, future, quantiles, past)
    scale, shift = np.array([1e6, 1e-6, 7.0]), np.array([1.0, -1.0, 5.0])
    past, future = (scale * values + shift for values in (past, future))
    quantiles = scale[:, None] * quantiles + shift[:, None]
    np.testing.assert_allclose(score(metric, future, quantiles, past), expected, rtol=1e-6)


@pytest.mark.parametrize("metric", [normalised_crps, interval_width])
def test_a_channel_without_a_scale_is_left_out(metric, windows):
    past, future, quantiles = windows
    kept = score(metric, future[..., :2], quantiles[:, :, :2], past[..., :2])
    past[..., 2] = 0.1
    np.testing.assert_allclose(score(metric, future, quantiles, past), kept, rtol=1e-13)


@pytest.mark.parametrize("metric", [normalised_crps, interval_width])
def test_unseen_context_does_not_set_the_scale(metric, windows):
    past, future, quantiles = windows
    mask = np.ones(past.shape, bool)
    mask[:, :10] = False
    expected = score(metric, future, quantiles, past[:, 10:])
    past[:, :10] = 1e9
    found = score(metric, future, quantiles, past, past_observed_mask=mask)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_quantiles_that_are_not_finite_are_the_worst_there_are(value, windows):
    past, future, quantiles = windows
    quantiles[1] = value
    for metric in (*LOSSES, interval_width):
        found = score(metric, future, quantiles, past)
        assert found[1] == np.inf
        assert np.isfinite(np.delete(found, 1)).all()
    assert score(interval_coverage, future, quantiles, past)[1] == 0
    np.testing.assert_array_equal(score(share_below, future, quantiles, past)[1], np.zeros(9))


def test_targets_that_are_all_zero_have_no_weighted_loss(windows):
    past, future, quantiles = windows
    future[3] = 0.0
    found = score(weighted_quantile_loss, future, quantiles, past)
    assert np.isnan(found).tolist() == [False, False, False, True, False]


def test_weighted_loss_and_shares_are_those_of_gluonts(windows):
    pytest.importorskip("gluonts")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from gluonts.ev.metrics import Coverage, MeanWeightedSumQuantileLoss
    past, future, quantiles = windows
    weighted, shares = [], []
    for window in range(5):
        data = {str(q): quantiles[window : window + 1, ..., k] for k, q in enumerate(DECILES)}
        data["label"] = future[window : window + 1]
        metric = MeanWeightedSumQuantileLoss(quantile_levels=DECILES)(axis=None)
        metric.update(data)
        weighted.append(metric.get())
        coverages = [Coverage(q=q)(axis=None) for q in DECILES]
        for coverage in coverages:
            coverage.update(data)
        shares.append([coverage.get() for coverage in coverages])
    np.testing.assert_allclose(score(weighted_quantile_loss, future, quantiles, past), weighted, rtol=1e-12)
    np.testing.assert_allclose(score(share_below, future, quantiles, past), shares, rtol=1e-12)


def test_central_intervals_are_the_symmetric_pairs_widest_first():
    assert central_intervals(DECILES) == {0.8: (0, 8), 0.6: (1, 7), 0.4: (2, 6), 0.2: (3, 5)}
    assert list(central_intervals(DECILES)) == [0.8, 0.6, 0.4, 0.2]
    assert central_intervals((0.05, 0.3, 0.95)) == {0.9: (0, 2)}
    assert central_intervals((0.5,)) == {}


@pytest.mark.parametrize("levels", [(), (0.5, 0.5), (0.9, 0.1), (0.0, 0.5), (0.5, 1.0), (0.5, np.nan)])
def test_levels_that_do_not_increase_between_0_and_1_are_refused(levels, windows):
    past, future, quantiles = windows
    with pytest.raises(ValueError, match="increase strictly between 0 and 1"):
        score(normalised_crps, future, quantiles[..., : len(levels)], past, levels)


def test_wrong_shapes_and_absent_intervals_are_named(windows):
    past, future, quantiles = windows
    with pytest.raises(ValueError, match=r"\(5, 12, 3, 9\), found \(5, 12, 3, 8\)"):
        score(normalised_crps, future, quantiles[..., :8], past)
    with pytest.raises(ValueError, match="number of windows and channels"):
        score(interval_coverage, future, quantiles, past[..., :1])
    with pytest.raises(ValueError, match=r"found 0\.9; forecast the levels 0\.05 and 0\.95"):
        score(interval_width, future, quantiles, past, nominal=0.9)
