import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from hf_tsdyn.data import SequentialWindows, SeriesDataset, SeriesOptions, identity
from hf_tsdyn.data.series import SPLITS

HOURS = 17420
ETT = SeriesOptions(months=(12, 4, 4))


def write_series(file, num_steps=HOURS, interval="1h", poison=None):
    """Write two channels that tell the step; `poison` overwrites what comes after the validation months."""
    step = np.arange(num_steps, dtype=np.float64)
    if poison is not None:
        step[11520:] = poison
    dates = pd.date_range("2016-07-01", periods=num_steps, freq=interval)
    pd.DataFrame({"date": dates, "HUFL": step, "OT": -step / 3}).to_csv(file, index=False)
    return file


@pytest.fixture(scope="module")
def hourly(tmp_path_factory):
    return write_series(tmp_path_factory.mktemp("hourly") / "hourly.csv")


@pytest.mark.parametrize("context_length", [0, 96, 512])
def test_months_of_hourly_data_end_where_the_custom_has_it(hourly, context_length):
    borders = {"train": (0, 8640), "validation": (8640, 11520), "test": (11520, 14400)}
    for split in SPLITS:
        data = SeriesDataset(hourly, split, context_length=context_length, options=ETT)
        first, end = borders[split]
        first -= 0 if split == "train" else context_length
        np.testing.assert_array_equal(data.values(0)[0], np.arange(first, end))


@pytest.mark.parametrize("context_length", [96, 512, 2000])
def test_test_windows_are_2785_for_96_steps_whatever_the_context(hourly, context_length):
    data = SeriesDataset(hourly, "test", context_length=context_length, options=ETT)
    windows = SequentialWindows(data, context_length=context_length, prediction_length=96, stride=1)
    batches = list(DataLoader(windows, batch_size=512, collate_fn=identity))
    assert len(windows) == sum(len(batch["future_values"]) for batch in batches) == 2785
    assert batches[0]["future_values"][0, 0, 0] == 11520
    assert batches[-1]["future_values"][-1, -1, 0] == 14399


def test_times_are_those_of_the_values(hourly):
    for split, context_length in (("train", 0), ("validation", 0), ("test", 24)):
        data = SeriesDataset(hourly, split, context_length=context_length, options=ETT)
        hours = data.values(0)[0].astype(np.int64)
        np.testing.assert_array_equal(data.times(0), np.datetime64("2016-07-01", "s") + hours * np.timedelta64(1, "h"))
        assert data.times(0).dtype == "datetime64[s]"
        assert not data.times(0).flags.writeable


def test_series_without_dates_have_no_times(tmp_path):
    np.save(tmp_path / "series.npy", np.arange(20.0))
    assert SeriesDataset(tmp_path / "series.npy", "train", context_length=0).times(0) is None
    (tmp_path / "series.csv").write_text("t,a\n" + "".join(f"{n},{n}\n" for n in range(20)))
    numbers = SeriesOptions(time_column="t")
    assert SeriesDataset(tmp_path / "series.csv", "train", context_length=0, options=numbers).times(0) is None


def test_quarter_hours_have_four_times_the_steps(tmp_path):
    file = write_series(tmp_path / "quarters.csv", num_steps=60000, interval="15min")
    data = SeriesDataset(file, "test", context_length=512, options=ETT)
    np.testing.assert_array_equal(data.values(0)[0], np.arange(46080 - 512, 57600))
    assert len(SequentialWindows(data, context_length=512, prediction_length=96, stride=1)) == 11520 - 96 + 1


@given(
    months=st.tuples(st.integers(1, 12), st.integers(0, 6), st.integers(0, 6)),
    interval=st.sampled_from([0.1, 60.0, 900.0, 3600.0, 86400.0]),
    spare=st.integers(0, 100),
)
def test_parts_by_months_follow_one_another(months, interval, spare):
    steps = round(30 * 86400 / interval)
    options = SeriesOptions(months=months)
    parts = [options.part(split, sum(months) * steps + spare, seconds=interval) for split in SPLITS]
    assert [end - first for first, end in parts] == [month * steps for month in months]
    assert [first for first, _ in parts] == [0] + [end for _, end in parts[:2]]


def test_poisoned_test_months_change_nothing_before_them(hourly, tmp_path):
    expected = {split: SeriesDataset(hourly, split, context_length=96, options=ETT) for split in SPLITS[:2]}
    for poison in (np.nan, 1e9):
        file = write_series(tmp_path / "poisoned.csv", poison=poison)
        for split, clean in expected.items():
            found = SeriesDataset(file, split, context_length=96, options=ETT)
            assert found.values(0).tobytes() == clean.values(0).tobytes()
            assert found.lengths.tolist() == clean.lengths.tolist()
            np.testing.assert_array_equal(found.times(0), clean.times(0))


def test_poisoned_test_shares_change_nothing_before_them(tmp_path):
    for number, poison in enumerate((None, np.nan, 1e9)):
        write_series(tmp_path / f"{number}.csv", num_steps=14400, poison=poison)
    options = SeriesOptions(validation_share=0.2, test_share=0.2)
    for split in SPLITS[:2]:
        data = SeriesDataset(tmp_path, split, context_length=96, options=options)
        assert data.values(0).tobytes() == data.values(1).tobytes() == data.values(2).tobytes()


def test_months_survive_a_pickle(hourly):
    data = SeriesDataset(hourly, "validation", context_length=96, options=ETT)
    again = pickle.loads(pickle.dumps(data))
    np.testing.assert_array_equal(again.values(0), data.values(0))
    np.testing.assert_array_equal(again.times(0), data.times(0))


def test_fingerprints_know_months_and_then_no_shares(hourly):
    kinds = [
        {},
        {"months": (12, 4, 4)},
        {"months": (12, 3, 4)},
        {"months": (12, 4, 4), "test_share": 0.5},
        {"months": [12, 4, 4]},
    ]
    found = [
        SeriesDataset(hourly, "train", context_length=0, options=SeriesOptions(**kind)).fingerprint for kind in kinds
    ]
    assert len(set(found[:3])) == 3
    assert found[1] == found[3] == found[4]


@pytest.mark.parametrize("months", [(12, 4), (0, 4, 4), (12, -1, 4), (12, 4, 4.5), (12, 4, 4, 4), ()])
def test_wrong_months_are_named(months):
    with pytest.raises(ValueError, match=r"three whole numbers.* found [\[(].*give \(12, 4, 4\)"):
        SeriesOptions(months=months)


@pytest.mark.parametrize(
    ("steps", "interval", "message"),
    [
        (14399, "1h", r"the 14400 steps that months=\(12, 4, 4\) take, found 14399 in .*series\.csv; give fewer"),
        (900, "7h", r"must divide a month of 30 days, 2592000 seconds, found 25200 seconds in .*series\.csv"),
        (40, "60D", r"must divide a month.*found 5.184e\+06 seconds"),
    ],
)
def test_series_that_have_no_such_months_say_so(tmp_path, steps, interval, message):
    file = write_series(tmp_path / "series.csv", num_steps=steps, interval=interval)
    for split in SPLITS:
        with pytest.raises(ValueError, match=message):
            SeriesDataset(file, split, context_length=0, options=ETT)


def test_months_without_dates_say_so(tmp_path):
    np.save(tmp_path / "series.npy", np.arange(100.0))
    with pytest.raises(ValueError, match=r"months=\(12, 4, 4\) must be counted between dates, found none in .*npy"):
        SeriesDataset(tmp_path / "series.npy", "train", context_length=0, options=ETT)


def test_no_month_leaves_no_step(hourly):
    with pytest.raises(ValueError, match=r"the test split must hold at least one step.* or its months"):
        SeriesDataset(hourly, "test", context_length=0, options=SeriesOptions(months=(12, 4, 0)))
