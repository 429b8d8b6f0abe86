import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_tsdyn.data import SeriesDataset
from hf_tsdyn.data.series_files import read_series_file

SUFFIXES = (".parquet", ".arrow", ".feather")
DAYS = pd.date_range("2024-01-01", periods=5, freq="D")


@pytest.fixture
def write(tmp_path):
    """A function (columns, suffix) that writes a table of Arrow or a data frame to a file."""

    def write_table(columns, suffix=".parquet", name="series"):
        table = pa.Table.from_pandas(columns) if isinstance(columns, pd.DataFrame) else pa.table(columns)
        file = tmp_path / f"{name}{suffix}"
        if suffix == ".parquet":
            pq.write_table(table, file)
        else:
            with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
        return file

    return write_table


def read(file, **options):
    return read_series_file(file, **({"columns": None, "time_column": None} | options))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("options", [{}, {"columns": ("b", "a")}, {"time_column": "date"}])
def test_tables_are_read_as_csv_files_are(write, tmp_path, suffix, options):
    frame = pd.DataFrame(
        {"date": DAYS[:4], "a": [0.1, None, 2.5, None], "b": [1, 2, 3, 4], "c": [True, False, True, True]}
    )
    frame.to_csv(tmp_path / "series.csv", index=False)
    expected, found = read(tmp_path / "series.csv", **options), read(write(frame, suffix), **options)
    np.testing.assert_array_equal(found.series, expected.series)
    np.testing.assert_array_equal(found.times, expected.times)
    assert (found.channel_names, found.dt, found.times.dtype) == (expected.channel_names, expected.dt, "datetime64[s]")


def test_arrow_streams_are_read(tmp_path):
    table = pa.table({"a": [1.0, None, 3.0]})
    with pa.OSFile(str(tmp_path / "series.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    np.testing.assert_array_equal(read(tmp_path / "series.arrow").series[0], [[1, np.nan, 3]])


@pytest.mark.parametrize(
    "times",
    [
        pa.array([datetime.date(2024, 1, day) for day in (1, 2, 3)]),
        pa.array(["2024-01-01", "2024-01-02", "2024-01-03"]),
        pa.array(DAYS[:3].tz_localize("Asia/Kolkata").to_numpy(), pa.timestamp("ns", "UTC")),
        pa.array(DAYS[:3].to_numpy(), pa.timestamp("ms")),
    ],
    ids=["dates", "text", "zone", "milliseconds"],
)
def test_dates_of_any_type_are_found_in_the_first_column(write, times):
    content = read(write({"when": times, "a": [1, 2, 3]}))
    assert (content.channel_names, content.dt) == (("a",), 86400)
    assert (np.diff(content.times) == np.timedelta64(1, "D")).all()


def test_dates_with_a_zone_are_in_utc(write):
    times = pd.date_range("2024-03-31 00:00", periods=5, freq="h", tz="Europe/Berlin")  # the clock is put forward
    content = read(write(pd.DataFrame({"when": times, "a": range(5)})))
    assert content.dt == 3600
    assert content.times[0] == np.datetime64("2024-03-30T23:00:00")


def test_times_between_seconds_are_not_cut(write):
    content = read(write({"when": pd.date_range("2024-01-01", periods=3, freq="250ms"), "a": [1, 2, 3]}))
    assert content.dt == 0.25
    assert (np.diff(content.times) == np.timedelta64(250, "ms")).all()


def test_times_in_numbers_are_no_dates(write):
    content = read(write({"a": [1, 2, 3], "t": [0.5, 0.75, 1.0]}), time_column="t")
    assert (content.channel_names, content.dt, content.times) == (("a",), 0.25, None)


@pytest.mark.parametrize("name", ["date", None])
def test_the_index_of_a_data_frame_stands_first(write, name):
    frame = pd.DataFrame({"a": range(5), "b": range(5)}, index=DAYS.rename(name))
    content = read(write(frame))
    assert (content.channel_names, content.dt) == (("a", "b"), 86400)
    assert read(write(frame.reset_index(drop=True))).channel_names == ("a", "b")


def test_an_index_without_name_is_refused_unless_it_is_left_out(write):
    file = write(pd.DataFrame({"a": range(4)})[lambda frame: frame.a != 2])
    with pytest.raises(ValueError, match=r"index .* hold dates or have a name, found \['__index_level_0__'\].*series"):
        read(file)
    np.testing.assert_array_equal(read(file, columns=("a",)).series[0], [[0, 1, 3]])


def test_columns_of_decimals_and_of_nothing_are_numbers(write):
    content = read(write({"a": [None, Decimal("1.25")], "b": pa.nulls(2)}))
    np.testing.assert_array_equal(content.series[0], [[np.nan, 1.25], [np.nan, np.nan]])


def test_empty_rows_at_the_end_are_no_steps(write):
    np.testing.assert_array_equal(read(write({"a": [1, None, 3, None]})).series[0], [[1, np.nan, 3]])


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({}, {}, r"found 0 rows without any in its columns \[\]"),
        ({"a": pa.array([], pa.float64())}, {}, r"rows of values, found 0 rows without any in its columns \['a'\]"),
        ({"a": [1, 2], "b": ["x", "y"]}, {}, r"other values in \['b'\] of the channels \['a', 'b'\].*choose"),
        ({"a": [1.0, np.inf]}, {}, "finite in float32, found 1.0 to inf"),
        ({"": [1, 2]}, {}, r"name every column, none twice, found \[''\]"),
        ({"a": [1, 2]}, {"columns": ("d",)}, r"\['a'\], found \['d'\]"),
        ({"a": [1, 2]}, {"time_column": "t"}, r"a column of .*\['a'\], found 't'"),
        (
            {"t": ["05/01/20", "06/01/20"], "a": [1, 2]},
            {},
            "unambiguous format, found '05/01/20' to '06/01/20' in column 't'",
        ),
        ({"t": ["01/01/2020", "01/02/2020"], "a": [1, 2]}, {}, "unambiguous format, found 01/02/2020 .* in row 2"),
        ({"date": [20240101, 20240102], "a": [1, 2]}, {}, r"integers 20240101 to 20240102 .*'date'.*columns=\['a'\]"),
        ({"a": [1, 2], "b": pa.nulls(2, pa.string())}, {}, r"other values in \['b'\] of the channels \['a', 'b'\];"),
        ({"t": [1, None, 3], "a": [1, 2, 3]}, {"time_column": "t"}, "found none in row 2, column 't'"),
        ({"t": [1, 2, 2], "a": [1, 2, 3]}, {"time_column": "t"}, "increase, found 2 after 2 in row 3, column 't'"),
        ({"t": DAYS[[0, 1, 2, 4]], "a": [1, 2, 3, 4]}, {}, r"found 2024-01-05 .* after .* in row 4.*\(1 such rows\)"),
        ({"a": [[1.0], [2.0]], "b": [1, 2]}, {}, r"one value per cell, found lists or structures in \['a'\]"),
        ({"a": [{"x": 1}]}, {}, r"lists or structures in \['a'\]"),
    ],
)
def test_unreadable_tables_say_what_to_do(write, suffix, columns, options, message):
    with pytest.raises(ValueError, match=message):
        read(write(columns, suffix), **options)


def test_repeated_names_are_refused(write):
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    with pytest.raises(ValueError, match=r"none twice, found \['a', 'a'\]"):
        read(write(table, ".arrow"))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("damage", ["text", "cut", "empty"])
def test_files_that_are_no_tables_are_refused(write, suffix, damage):
    file = write({"a": np.arange(100.0)}, suffix)
    content = file.read_bytes()
    file.write_bytes({"text": b"a,b\n1,2\n3,4\n", "cut": content[: len(content) // 2], "empty": b""}[damage])
    with pytest.raises(ValueError, match=rf"series\{suffix} must be a whole Parquet file.*write it again"):
        read(file)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="series"):
        read(file)


def test_a_file_of_trajectories_is_no_table(oscillators):
    with pytest.raises(ValueError, match=r"lists .*'target'.*give the folder that holds manifest\.json"):
        SeriesDataset(oscillators / "data" / "train-00000.arrow", "train", context_length=0)


def test_a_folder_holds_tables_of_every_kind(write, tmp_path):
    for number, suffix in enumerate(SUFFIXES):
        write({"a": np.arange(20.0) + number}, suffix, name=f"s{number}")
    data = SeriesDataset(tmp_path, "train", context_length=0)
    assert data.systems == ["s0", "s1", "s2"]
    assert [data.values(row)[0, 0] for row in range(3)] == [0, 1, 2]
