"""Streams from arrays and from rows of datasets."""

import numpy as np
import pandas as pd
import pytest

from hf_tsdyn.data import SeriesDataset, SeriesOptions, TrajectoryDataset, time_features
from hf_tsdyn.data.parts import carve_end
from hf_tsdyn.online.stream import Stream


def test_arrays_become_read_only_float32_and_leave_the_callers_alone():
    values = np.arange(6.0).reshape(3, 2)
    values[1, 1] = np.nan
    features = np.ones((3, 4))
    stream = Stream(values, features, name="mine")
    assert stream.values.dtype == stream.time_features.dtype == np.float32
    assert (len(stream), stream.num_channels, stream.num_time_features) == (3, 2, 4)
    assert stream.channel_names == ("0", "1")
    np.testing.assert_array_equal(stream.values, values)
    values[0, 0] = 9.0
    assert stream.values[0, 0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        stream.values[0, 0] = 1.0


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("months", [None, (1, 1, 1)])
def test_a_row_of_a_series_is_the_whole_series_whatever_the_split(tmp_path, split, months):
    dates = pd.date_range("2016-07-01", periods=100, freq="D")
    table = pd.DataFrame({"date": dates, "a": np.arange(100.0), "b": -np.arange(100.0)})
    table.loc[7, "b"] = np.nan
    table.to_csv(tmp_path / "plant.csv", index=False)
    options = SeriesOptions(months=months, time_features=True)
    dataset = SeriesDataset(tmp_path / "plant.csv", split, context_length=4, options=options)
    stream = Stream.from_dataset(dataset)
    np.testing.assert_array_equal(stream.values, table[["a", "b"]].to_numpy(np.float32))
    np.testing.assert_array_equal(stream.time_features, time_features.time_features(dates.to_numpy()))
    assert stream.channel_names == ("a", "b")
    assert stream.name == "plant"


def test_columns_are_those_of_the_dataset(tmp_path):
    pd.DataFrame({"a": np.arange(50.0), "b": -np.arange(50.0)}).to_csv(tmp_path / "plant.csv", index=False)
    dataset = SeriesDataset(tmp_path, "test", context_length=4, options=SeriesOptions(columns=("b",)))
    stream = Stream.from_dataset(dataset)
    assert stream.channel_names == ("b",)
    assert stream.time_features is None
    assert stream.values[:, 0].tolist() == [-float(row) for row in range(50)]


def test_a_row_of_other_sources_is_the_row_itself(oscillators):
    dataset = TrajectoryDataset(oscillators, "test")
    stream = Stream.from_dataset(dataset, 1)
    np.testing.assert_array_equal(stream.values, dataset.values(1).T)
    assert stream.name == dataset[1].item_id
    assert stream.num_channels == 3
    end = carve_end(dataset, 0.25, context_length=10)[1]
    assert len(Stream.from_dataset(end, 1)) == 110


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": np.zeros(5)}, r"shape \(time, channels\), none of them 0, .* found \(5,\)"),
        ({"values": np.zeros((5, 0))}, r"found \(5, 0\)"),
        ({"values": np.full((5, 2), np.inf)}, "with 10 infinite ones"),
        ({"time_features": np.zeros((4, 1))}, r"shape \(5, features\), .* found \(4, 1\)"),
        ({"time_features": np.full((5, 1), np.nan)}, "with 5 that are not finite"),
        ({"channel_names": ("a", "a")}, r"each of the 2 channels of 'stream' once, found \('a', 'a'\)"),
    ],
)
def test_what_is_no_stream_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Stream(**{"values": np.zeros((5, 2))} | arguments)
