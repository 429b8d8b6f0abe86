"""The prequential loop against loops written out, what it shows to whom and when, and runs on disk."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from hf_tsdyn.baselines.naive import Persistence
from hf_tsdyn.online.gradient import FrozenLearner
from hf_tsdyn.online.learner import OnlineLearner
from hf_tsdyn.online.prequential import ForecastNotFiniteError, PrequentialRun, run_prequential
from hf_tsdyn.online.stream import Stream

LENGTH, HORIZON = 6, 3
LOC, SCALE = np.array([1.0, -2.0]), np.array([2.0, 0.5])
STRETCH = {"start": 20, "stop": 45, "loc": LOC, "scale": SCALE, "show_progress": False}


class Diary(OnlineLearner):
    """Forecast the last step plus what was learnt so far, and keep everything that was seen."""

    def __init__(self, protocol="delayed", *, num_time_features=0, broken_at=None):
        super().__init__(
            context_length=LENGTH,
            prediction_length=HORIZON,
            num_channels=2,
            num_time_features=num_time_features,
            protocol=protocol,
        )
        self.broken_at = broken_at
        self.learnt: list[tuple[np.ndarray, np.ndarray]] = []
        self.forecasts: list[np.ndarray] = []
        self.features: list[np.ndarray] = []

    def _forecast(self, window):
        last = window.past_values[0, -1].nan_to_num(0.0)
        forecast = last + 0.1 * len(self.learnt) + torch.arange(1.0, HORIZON + 1)[:, None]
        if len(self.forecasts) == self.broken_at:
            forecast[1, 1] = torch.nan
        self.forecasts.append(forecast.numpy())
        if window.past_time_features is not None:
            self.features.append(window.past_time_features[0].numpy().copy())
        return forecast

    def _learn(self, window, future_values, future_observed_mask):
        self.learnt.append((window.past_values[0].numpy().copy(), future_values.numpy().copy()))


@pytest.fixture
def values() -> np.ndarray:
    """60 rows of two channels with gaps in the stretch."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 2)).astype(np.float32)
    rows[30, 0] = rows[33, 1] = np.nan
    rows[36] = np.nan
    return rows


@pytest.mark.parametrize("protocol", ["delayed", "immediate"])
def test_errors_are_those_of_every_forecast_that_lies_in_the_stretch(values, protocol):
    learner = Diary(protocol)
    run = run_prequential(learner, Stream(values), **STRETCH)
    assert len(run) == len(learner.forecasts) == 45 - 20 - HORIZON + 1
    for number, forecast in enumerate(learner.forecasts):
        truth = values[20 + number : 20 + number + HORIZON].astype(np.float64)
        base = np.nan_to_num(values[19 + number])
        learnt = max(number - HORIZON + 1, 0) if protocol == "delayed" else number
        expected = base + 0.1 * learnt + np.arange(1.0, HORIZON + 1)[:, None]
        np.testing.assert_allclose(forecast, expected, rtol=1e-5)
        error = (forecast - truth) / SCALE
        for step in range(HORIZON):
            seen = [channel for channel in range(2) if not np.isnan(truth[step, channel])]
            squares = [error[step, channel] ** 2 for channel in seen]
            if seen:
                np.testing.assert_allclose(run.squared[number, step], np.mean(squares), rtol=1e-6)
                np.testing.assert_allclose(run.absolute[number, step], np.mean(np.sqrt(squares)), rtol=1e-6)
            else:
                assert np.isnan(run.squared[number, step])
                assert np.isnan(run.absolute[number, step])
        np.testing.assert_allclose(run.channel_squared[number], np.nanmean(error**2, axis=0), rtol=1e-6)
        np.testing.assert_allclose(run.channel_absolute[number], np.nanmean(np.abs(error), axis=0), rtol=1e-6)
        percentage = 100 * np.abs(error / ((truth - LOC) / SCALE))
        np.testing.assert_allclose(run.percentage[number], np.nanmean(percentage), rtol=1e-5)


@pytest.mark.parametrize("protocol", ["delayed", "immediate"])
def test_every_window_is_learnt_once_from_its_own_targets(values, protocol):
    learner = Diary(protocol)
    run_prequential(learner, Stream(values), **STRETCH)
    last = 43 - HORIZON if protocol == "delayed" else 45 - HORIZON  # the row after the last context
    assert len(learner.learnt) == last - 20 + 1
    for row, (past, future) in enumerate(learner.learnt, start=20):
        np.testing.assert_array_equal(past, values[row - LENGTH : row])
        np.testing.assert_array_equal(future, values[row : row + HORIZON])


@pytest.mark.parametrize("row", [24, 31])
def test_no_forecast_knows_what_comes_after_it_unless_it_is_revealed(values, row):
    changed = values.copy()
    changed[row:] += 100.0
    forecasts = {}
    for protocol in ("delayed", "immediate"):
        learners = Diary(protocol), Diary(protocol)
        for learner, rows in zip(learners, (values, changed), strict=True):
            learner._learn = lambda window, future, mask, learner=learner: learner.learnt.extend(
                [(np.empty(0), np.empty(0))] * int(future.nansum().abs() * 10)
            )
            run_prequential(learner, Stream(rows), **STRETCH)
        forecasts[protocol] = [np.array(learner.forecasts) for learner in learners]
    before = row - 20 + 1  # forecasts from rows before the changed ones
    np.testing.assert_array_equal(*(each[:before] for each in forecasts["delayed"]))
    assert (forecasts["delayed"][0][before] != forecasts["delayed"][1][before]).any()
    assert (forecasts["immediate"][0][:before] != forecasts["immediate"][1][:before]).any()


def test_rows_outside_of_context_and_stretch_do_not_matter(values):
    changed = values.copy()
    changed[: 20 - LENGTH] += 5.0
    changed[45:] -= 5.0
    runs = [run_prequential(Diary(), Stream(rows), **STRETCH) for rows in (values, changed)]
    np.testing.assert_array_equal(runs[0].squared, runs[1].squared)


def test_time_features_are_those_of_the_context(values):
    features = np.arange(60.0)[:, None] * [1, 10]
    learner = Diary(num_time_features=2)
    run_prequential(learner, Stream(values, features), **STRETCH)
    for number, found in enumerate(learner.features):
        np.testing.assert_array_equal(found, features[14 + number : 20 + number])
    plain = Diary()
    run_prequential(plain, Stream(values, features), **STRETCH)
    assert not plain.features


def test_a_stretch_can_begin_before_the_context_is_full(values):
    learner = Diary()
    run_prequential(learner, Stream(values), **STRETCH | {"start": 2})
    past = learner.learnt[0][0]
    assert np.isnan(past[: LENGTH - 2]).all()
    np.testing.assert_array_equal(past[-2:], values[:2])


@pytest.mark.parametrize("protocol", ["delayed", "immediate"])
def test_a_stretch_can_be_run_in_parts(values, protocol):
    stream = Stream(values)
    whole = run_prequential(Diary(protocol), stream, **STRETCH)
    learner = Diary(protocol)
    first = run_prequential(learner, stream, **STRETCH | {"stop": 30})
    row = 20 + len(first)
    second = run_prequential(learner, stream, **STRETCH | {"start": row}, warm_up=False)
    assert (first.first_step, second.first_step) == (20, row)
    for name in ("squared", "absolute", "channel_squared", "channel_absolute", "percentage"):
        parts = [getattr(first, name), getattr(second, name)]
        np.testing.assert_array_equal(np.concatenate(parts), getattr(whole, name))


def test_without_anything_seen_there_is_no_forecast_and_no_error(values):
    rows = values.copy()
    rows[22 : 22 + LENGTH] = np.nan
    learner = FrozenLearner(Persistence(), context_length=LENGTH, prediction_length=HORIZON, num_channels=2)
    run = run_prequential(learner, Stream(rows), **STRETCH)
    blind = 22 + LENGTH - 20  # the forecast from the end of the gap, whose targets are seen
    assert np.isnan(run.squared[blind]).all()
    assert np.isnan(run.squared[2 : blind - HORIZON + 1]).all()
    assert np.isfinite(run.squared[blind + 1]).all()
    assert np.isfinite(run.errors.mse)


def test_a_target_of_zero_has_no_percentage():
    rows = np.ones((40, 2), np.float32)
    rows[30:] = 0.0
    learner = FrozenLearner(Persistence(), context_length=LENGTH, prediction_length=HORIZON, num_channels=2)
    run = run_prequential(learner, Stream(rows), **STRETCH | {"stop": 40, "loc": [0, 0], "scale": [1, 1]})
    assert run.percentage[:8].tolist() == [0.0] * 8
    assert run.percentage[8:10].tolist() == [0.0, 0.0]
    assert np.isnan(run.percentage[10:]).all()


def test_a_forecast_that_is_not_finite_is_named(values):
    with pytest.raises(
        ForecastNotFiniteError, match="found 1 numbers that are not in the one whose first step is row 25"
    ):
        run_prequential(Diary(broken_at=5), Stream(values), **STRETCH)


def test_what_cannot_be_run_is_refused(values):
    stream = Stream(values, np.zeros((60, 2)))
    for stretch in ({"start": 0}, {"stop": 61}, {"stop": 22}):
        with pytest.raises(ValueError, match="move it"):
            run_prequential(Diary(), stream, **STRETCH | stretch)
    with pytest.raises(ValueError, match="found 2 and 3 for the 2 and 2 of 'stream'"):
        run_prequential(Diary(num_time_features=3), stream, **STRETCH)
    with pytest.raises(ValueError, match="found 2 and 0 for the 1 and 0 of 'stream'"):
        run_prequential(Diary(), Stream(values[:, :1]), **STRETCH)
    with pytest.raises(ValueError, match=r"found \[1\.0, -2\.0\] and \[2\.0, 0\.0\]"):
        run_prequential(Diary(), stream, **STRETCH | {"scale": [2.0, 0.0]})


def test_a_run_is_the_same_from_disk(values, tmp_path):
    run = run_prequential(Diary(), Stream(values, channel_names=("a", "b")), **STRETCH)
    run.save(tmp_path / "run.npz")
    found = PrequentialRun.load(tmp_path / "run.npz")
    for field in fields(run):
        expected, value = getattr(run, field.name), getattr(found, field.name)
        assert type(value) is type(expected)
        np.testing.assert_array_equal(value, expected)
    assert [path.name for path in tmp_path.iterdir()] == ["run.npz"]
    assert found.cpu_ms == 1000 * (run.forecast_seconds + run.learn_seconds) / len(run) > 0


def test_a_file_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "run.npz").write_bytes(b"half")
    with pytest.raises(ValueError, match="whole file of an online run"):
        PrequentialRun.load(tmp_path / "run.npz")
    with pytest.raises(FileNotFoundError):
        PrequentialRun.load(tmp_path / "none.npz")
