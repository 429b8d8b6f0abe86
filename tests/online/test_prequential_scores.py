"""Scores of runs against closed forms and plain means."""

from dataclasses import replace

import numpy as np
import pytest

from hf_tsdyn.baselines.naive import ContextMean, Persistence
from hf_tsdyn.online.gradient import FrozenLearner
from hf_tsdyn.online.prequential import PrequentialRun, run_prequential
from hf_tsdyn.online.prequential_scores import (
    MAX_POINTS,
    cumulative_curve,
    intervals_of_runs,
    mape,
    mase,
    metrics_of_run,
    rows_of_run,
    skill,
)
from hf_tsdyn.online.stream import Stream
from hf_tsdyn.series_evaluation import bootstrap_mean, default_block_length
from hf_tsdyn.series_results import SeriesResults

PLACE = {"dataset": "made", "protocol": "delayed"}


def run_of(forecaster, values: np.ndarray, *, horizon: int = 4, start: int = 20) -> PrequentialRun:
    channels = values.shape[1]
    learner = FrozenLearner(forecaster, context_length=8, prediction_length=horizon, num_channels=channels)
    scales = {"loc": np.zeros(channels), "scale": np.full(channels, 2.0)}
    return run_prequential(learner, Stream(values), start=start, stop=len(values), **scales, show_progress=False)


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    """500 rows of two random walks that are drawn back, with gaps."""
    rng = np.random.default_rng(0)
    rows = np.zeros((500, 2))
    for row in range(1, len(rows)):
        rows[row] = 0.9 * rows[row - 1] + rng.normal(size=2)
    rows[rng.integers(100, 500, 10), rng.integers(0, 2, 10)] = np.nan
    return rows


@pytest.fixture(scope="module")
def persistence(values) -> PrequentialRun:
    return run_of(Persistence(), values)


@pytest.fixture(scope="module")
def mean(values) -> PrequentialRun:
    return run_of(ContextMean(), values)


def test_persistence_on_a_ramp_is_known_in_closed_form():
    slopes = np.array([0.5, -3.0])
    run = run_of(Persistence(), np.arange(60.0)[:, None] * slopes, horizon=5)
    assert mase(run) == pytest.approx(3.0)  # mean of 1 to 5 steps
    found = metrics_of_run(run)
    for step in (1, 2, 3, 5):
        assert found[f"mse@{step}"] == pytest.approx(np.mean((slopes * step / 2) ** 2))
        assert found[f"mae@{step}"] == pytest.approx(np.mean(np.abs(slopes * step / 2)))
    assert "mse@4" not in found
    assert run.errors.raw_mae == pytest.approx(3.0 * np.abs(slopes).mean())
    rows = np.arange(20.0, 56.0)
    expected = np.mean([step / (row + step - 1) for row in rows for step in range(1, 6)])
    assert mape(run) == pytest.approx(100 * expected)


def test_a_channel_that_never_moved_is_left_out_of_mase():
    values = np.arange(60.0)[:, None] * [1.0, 0.0]
    values[40:, 1] = 7.0
    assert mase(run_of(Persistence(), values, horizon=5)) == pytest.approx(3.0)


def test_skill_is_nought_for_persistence_itself_and_grows_as_errors_shrink(persistence, mean):
    assert skill(persistence, persistence) == 0.0
    assert skill(mean, persistence) == 1 - mean.errors.mse / persistence.errors.mse
    half = replace(persistence, channel_squared=persistence.channel_squared / 2)
    assert skill(half, persistence) == pytest.approx(0.5)


def test_skill_counts_the_forecasts_that_both_have(persistence, mean):
    lost = mean.channel_squared.copy()
    lost[:100] = np.nan
    squares = [np.nanmean(each.channel_squared[100:], axis=1).astype(np.float64) for each in (mean, persistence)]
    expected = 1 - np.nanmean(squares[0]) / np.nanmean(squares[1])
    assert skill(replace(mean, channel_squared=lost), persistence) == pytest.approx(expected, rel=1e-6)
    assert np.isnan(skill(mean, replace(persistence, channel_squared=np.full_like(lost, np.nan))))


def test_rows_hold_every_metric_under_the_protocol(persistence, mean):
    rows = rows_of_run(mean, model="mean", seed=3, persistence=persistence, **PLACE)
    assert {(row.model, row.dataset, row.split, row.horizon, row.seed) for row in rows} == {
        ("mean", "made", "delayed", 4, 3)
    }
    found = {row.metric: row.value for row in rows}
    assert len(found) == len(rows)
    assert found["mse"] == pytest.approx(mean.errors.mse, rel=1e-7)
    assert found["raw_mae"] == pytest.approx(mean.errors.raw_mae, rel=1e-7)
    assert found["mse/1"] == pytest.approx(np.nanmean(mean.channel_squared[:, 1]), rel=1e-6)
    assert found["mse@3"] == pytest.approx(np.nanmean(mean.squared[:, 2]), rel=1e-6)
    assert found["skill"] == pytest.approx(skill(mean, persistence), rel=1e-7)
    assert {"mae", "mape", "mase", "mse@1", "mse@2", "mse@4", "mae@4"} <= set(found)
    assert "skill" not in {row.metric for row in rows_of_run(mean, model="mean", seed=None, **PLACE)}


def test_what_was_never_seen_has_no_row(values):
    rows = values.copy()
    rows[20:, 1] = np.nan
    found = {row.metric for row in rows_of_run(run_of(Persistence(), rows), model="p", seed=None, **PLACE)}
    assert "mse/0" in found
    assert "mse/1" not in found


def test_intervals_are_of_paired_differences_in_blocks_of_forecasts(persistence, mean):
    better = replace(mean, channel_squared=mean.channel_squared * 0.9)
    found = intervals_of_runs([mean, better], [persistence], model="mean", baseline="persistence", **PLACE)
    assert [row.metric for row in found] == ["mse", "mae"]
    errors = [run.errors.of_windows("mse") for run in (mean, better, persistence)]
    difference = (errors[0] + errors[1]) / 2 - errors[2]
    difference = difference[~np.isnan(difference)]
    expected = bootstrap_mean(difference, block_length=default_block_length(4, len(difference)))
    np.testing.assert_allclose([found[0].mean, found[0].low, found[0].high], expected, rtol=1e-6)
    assert (found[0].split, found[0].horizon, found[0].num_seeds) == ("delayed", 4, 2)
    assert found[0].low < found[0].mean < found[0].high


def test_intervals_of_a_run_with_itself_are_nought(persistence):
    for row in intervals_of_runs([persistence], [persistence], model="a", baseline="b", **PLACE):
        assert (row.mean, row.low, row.high) == (0.0, 0.0, 0.0)
        assert row.verdict == "undecided"


def test_a_curve_is_the_mean_of_all_forecasts_so_far(persistence, mean):
    curve = cumulative_curve([persistence, mean])
    assert len(curve["step"]) == MAX_POINTS
    assert curve["step"][0] == 1
    assert curve["step"][-1] == len(persistence)
    assert curve["step"] == sorted(set(curve["step"]))
    errors = np.mean([run.errors.of_windows("mse") for run in (persistence, mean)], axis=0)
    for step, value in zip(curve["step"], curve["mse"], strict=True):
        assert value == pytest.approx(np.nanmean(errors[:step]), rel=1e-5)


def test_a_curve_begins_with_the_first_error(values):
    rows = values[:120].copy()
    rows[20:30] = np.nan
    curve = cumulative_curve([run_of(Persistence(), rows)])
    assert curve["step"][0] == 8  # its last target is row 30
    assert np.isfinite(curve["mse"]).all()
    rows[20:] = np.nan
    assert cumulative_curve([run_of(Persistence(), rows)]) == {"step": [], "mse": []}


def test_rows_and_intervals_are_results(persistence, mean, tmp_path):
    rows = rows_of_run(mean, model="mean", seed=None, persistence=persistence, **PLACE)
    intervals = intervals_of_runs([mean], model="mean", **PLACE)
    header = {"models": ["mean"], "curves": {"delayed": {"made-4": {"mean": cumulative_curve([mean])}}}}
    SeriesResults(header, rows, intervals).write(tmp_path / "results.json")
    found = SeriesResults.read(tmp_path / "results.json")
    assert found.mean_of("mean", "mse@4", "made", 4, split="delayed").mean == pytest.approx(
        np.nanmean(mean.squared[:, 3]), rel=1e-6
    )


def test_runs_on_other_stretches_are_not_compared(values, persistence):
    other = run_of(Persistence(), values[:-1], start=19)  # as many forecasts, one row earlier
    assert len(other) == len(persistence)
    with pytest.raises(ValueError, match="run them on one stretch"):
        skill(other, persistence)
    with pytest.raises(ValueError, match="run them on one stretch"):
        intervals_of_runs([other], [persistence], model="a", baseline="b", **PLACE)
    with pytest.raises(ValueError, match="run them on one stretch"):
        cumulative_curve([other, persistence])
