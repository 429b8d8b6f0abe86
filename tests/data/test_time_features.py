"""Time features: the calendar's own numbers, standardised without the series, and how they travel to a model."""

import hashlib
import json
import pickle
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from hf_tsdyn.baselines import Persistence
from hf_tsdyn.data import (
    Augmentations,
    ChannelBucketSampler,
    RandomWindows,
    SequentialWindows,
    SeriesDataset,
    SeriesOptions,
    SeriesPart,
    TrajectoryDataset,
    carve_end,
    rolling_origins,
)
from hf_tsdyn.data.time_features import (
    TIME_FEATURES,
    check_time_features,
    num_time_features_of,
    time_feature_arguments,
    time_features,
)
from hf_tsdyn.series_evaluation import score_windows

DATED = SeriesOptions(validation_share=0.2, test_share=0.2, time_features=True)
NUMBER = 7
HOUR = TIME_FEATURES.index("hour")


def whole_calendar():
    """Every minute of 36 hours, and noon of every day of 400 years: the features' whole ranges."""
    minutes = np.datetime64("2023-12-31T12:00", "s") + 60 * np.arange(36 * 60)
    days = np.arange("1999-07-05T12", "2399-07-05T12", dtype="datetime64[D]").astype("datetime64[s]") + 12 * 3600
    return minutes, days


def raw(times):
    """The features as pandas counts them, in the order of `TIME_FEATURES`."""
    index = pd.DatetimeIndex(times)
    week = index.isocalendar().week.to_numpy(np.int64)
    columns = [index.minute, index.hour, index.dayofweek, index.day, index.dayofyear, index.month, week]
    return np.stack([np.asarray(column, np.float64) for column in columns], axis=1)


def test_features_are_named_in_their_order():
    assert TIME_FEATURES == (
        "minute", "hour", "day_of_week", "day_of_month", "day_of_year", "month", "week_of_year",
    )  # fmt: skip


def test_every_feature_is_the_calendars_number_less_its_mean_over_its_deviation():
    minutes, days = whole_calendar()
    numbers = raw(np.concatenate([minutes, days]))
    loc, scale = raw(days).mean(axis=0), raw(days).std(axis=0)
    for feature, values in ((0, np.arange(60)), (HOUR, np.arange(24))):
        loc[feature], scale[feature] = values.mean(), values.std()
    found = time_features(np.concatenate([minutes, days]))
    assert found.dtype == np.float32
    assert found.shape == (len(numbers), NUMBER)
    np.testing.assert_allclose(found, (numbers - loc) / scale, rtol=1e-6, atol=1e-6)


def test_features_before_1970_and_in_weeks_that_cross_a_year_are_the_calendars():
    times = np.array(["1969-12-28T23:59:59", "1904-02-29", "2020-12-31", "2021-01-03", "2021-01-04"], "datetime64[ns]")
    days = whole_calendar()[1]
    calendar = raw(days)
    expected = (raw(times) - calendar.mean(axis=0)) / np.where(calendar.std(axis=0) > 0, calendar.std(axis=0), 1)
    np.testing.assert_allclose(time_features(times)[:, 2:], expected[:, 2:], rtol=1e-6, atol=1e-6)
    assert time_features(times)[0, 0] == np.float32(29.5 / np.sqrt((60**2 - 1) / 12))
    assert time_features(times)[0, HOUR] == np.float32(11.5 / np.sqrt((24**2 - 1) / 12))


def test_features_of_a_step_depend_on_its_own_time_alone():
    times = np.datetime64("2016-07-01", "s") + 3600 * np.arange(500)
    np.testing.assert_array_equal(time_features(times)[:100], time_features(times[:100]))
    np.testing.assert_array_equal(time_features(times), time_features(times.astype("datetime64[ns]")))


@pytest.mark.parametrize(
    ("times", "error", "message"),
    [
        (np.arange(5), TypeError, r"dates, \(time,\) datetime64, found shape \(5,\) of int64"),
        (np.zeros((2, 2), "datetime64[s]"), TypeError, r"found shape \(2, 2\)"),
        (np.array(["2020-01-01", "NaT"], "datetime64[s]"), ValueError, "found none at step 1"),
    ],
)
def test_what_is_no_time_is_refused(times, error, message):
    with pytest.raises(error, match=message):
        time_features(times)


@pytest.fixture(scope="module")
def hourly(tmp_path_factory):
    """A file of 400 hours from 2016-07-01, two channels."""
    file = tmp_path_factory.mktemp("hourly") / "hourly.csv"
    dates = pd.date_range("2016-07-01", periods=400, freq="1h")
    pd.DataFrame({"date": dates, "a": np.arange(400.0), "b": -np.arange(400.0)}).to_csv(file, index=False)
    return file


def open_series(file, split="train", context_length=10, options=DATED):
    return SeriesDataset(file, split, context_length=context_length, options=options)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_series_has_the_features_of_its_own_steps(hourly, split):
    data = open_series(hourly, split)
    features = data.time_features(0)
    assert features.shape == (NUMBER, data.lengths[0])
    np.testing.assert_array_equal(features.T, time_features(data.times(0)))
    assert not features.flags.writeable
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(data)).time_features(0), features)


def test_parts_have_the_features_of_their_steps(hourly):
    data = open_series(hourly)
    front, end = carve_end(data, 0.25, context_length=10)
    (fold, _) = rolling_origins(data, num_folds=2, fold_length=20, context_length=10)
    for part in (front, end, fold.train, fold.validation, SeriesPart(end, [(3, 40)])):
        np.testing.assert_array_equal(part.time_features(0).T, time_features(part.times(0)))


def test_nothing_is_added_unless_it_was_asked_for(hourly, tmp_path, write_dataset):
    plain = open_series(hourly, options=SeriesOptions(validation_share=0.2, test_share=0.2))
    trajectories = TrajectoryDataset(write_dataset(tmp_path / "data", [{"target": np.ones((2, 50))}]), "train")
    for source in (plain, carve_end(plain, 0.25, context_length=10)[0], trajectories):
        assert source.time_features(0) is None
        windows = SequentialWindows(source, context_length=6, prediction_length=3, stride=1)
        assert set(windows.__getitems__([0, 1])) == {"past_values", "future_values"}


def test_fingerprints_without_time_features_are_what_they_always_were(hourly):
    shares = {"validation_share": 0.2, "test_share": 0.2}
    digest = hashlib.sha256(json.dumps({"columns": None, "time_column": None} | shares, sort_keys=True).encode())
    digest.update(hashlib.sha256(hourly.read_bytes()).digest())
    assert open_series(hourly, options=SeriesOptions(**shares)).fingerprint == digest.hexdigest()
    assert open_series(hourly, options=DATED).fingerprint != digest.hexdigest()


def test_time_features_without_dates_say_so(tmp_path):
    np.save(tmp_path / "series.npy", np.arange(100.0))
    with pytest.raises(ValueError, match=r"time_features must be those of dates, found none in .*series\.npy; name"):
        open_series(tmp_path / "series.npy")


@pytest.mark.parametrize("prediction_length", [0, 3])
def test_batches_hold_the_features_of_the_context(hourly, prediction_length):
    data = open_series(hourly)
    lengths = {"context_length": 6, "prediction_length": prediction_length}
    for windows in (
        SequentialWindows(data, stride=1, **lengths),
        RandomWindows(data, num_windows=50, seed=0, **lengths),
    ):
        indices = [7, 0, 31]
        batch = windows.__getitems__(indices)
        assert batch["past_time_features"].dtype == torch.float32
        assert batch["past_time_features"].shape == (3, 6, NUMBER)
        for found, row, start in zip(batch["past_time_features"], *windows.locate(np.array(indices)), strict=True):
            np.testing.assert_array_equal(found, data.time_features(row)[:, start : start + 6].T)
        assert torch.equal(windows[7]["past_time_features"], batch["past_time_features"][0])
        assert len(ChannelBucketSampler(windows, 5)) > 0


def test_augmentations_that_know_no_dates_are_refused(hourly):
    with pytest.raises(ValueError, match=r"windows with time features must stay as they are.*leave out augmentations"):
        RandomWindows(
            open_series(hourly),
            context_length=6,
            prediction_length=3,
            num_windows=5,
            seed=0,
            augmentations=Augmentations(),
        )


class Clock:
    """Forecasts the last value plus the hour feature of the last step of the context."""

    num_time_features = NUMBER

    def forecast(self, past_values, *, prediction_length, past_observed_mask=None, past_time_features=None):
        assert past_time_features.shape == (*past_values.shape[:2], NUMBER)
        last = past_values[:, -1:] + past_time_features[:, -1:, HOUR : HOUR + 1]
        return last.repeat(1, prediction_length, 1)


def test_scores_are_those_of_forecasts_that_saw_the_time(hourly):
    data = open_series(hourly, "test", 6)
    windows = SequentialWindows(data, context_length=6, prediction_length=1, stride=1)
    errors = score_windows(Clock(), windows, scale=[1.0, 1.0], batch_size=32, show_progress=False)
    # The next value is 1 more in the first channel.
    np.testing.assert_allclose(errors.squared[:, 0], (data.time_features(0)[HOUR, 5:-1] - 1) ** 2, atol=1e-3)
    blind = score_windows(Persistence(), windows, scale=[1.0, 1.0], show_progress=False)
    assert blind.mse == 1.0


def test_only_those_who_take_features_are_given_some():
    features = torch.zeros(1, 2, NUMBER)
    takes, takes_none = (SimpleNamespace(config=SimpleNamespace(num_time_features=number)) for number in (NUMBER, 0))
    assert [num_time_features_of(each) for each in (Clock(), takes, takes_none, Persistence())] == [7, 7, 0, 0]
    assert time_feature_arguments(takes, features) == {"past_time_features": features}
    assert time_feature_arguments(takes_none, features) == time_feature_arguments(takes, None) == {}


def test_data_and_model_must_agree_on_time_features():
    check_time_features(None, num_time_features=0)
    check_time_features(np.zeros((NUMBER, 3)), num_time_features=NUMBER)
    with pytest.raises(ValueError, match=r"found 0 in the data, and 7 that the model takes; switch .* on,"):
        check_time_features(None, num_time_features=NUMBER)
    with pytest.raises(ValueError, match=r"found 7 in the data, and 0 .* off, or take a model with .*features 7"):
        check_time_features(np.zeros((NUMBER, 3)), num_time_features=0)
