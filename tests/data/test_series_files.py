import numpy as np
import pandas as pd
import pytest

from hf_tsdyn.data.series_files import read_series_file


@pytest.fixture
def csv(tmp_path):
    """A function (text, name) that writes a CSV file."""

    def write(text, name="series.csv"):
        file = tmp_path / name
        file.write_text(text)
        return file

    return write


@pytest.fixture
def npy(tmp_path):
    """A function (array) that writes an NPY file."""

    def write(array):
        file = tmp_path / "series.npy"
        np.save(file, array)
        return file

    return write


def read(file, **options):
    return read_series_file(file, **({"columns": None, "time_column": None} | options))


@pytest.mark.parametrize(
    ("times", "time_column", "dt"),
    [
        (["2024-01-01 00:00:00", "2024-01-01 00:15:00", "2024-01-01 00:30:00"], None, 900),
        (["2024-01-01", "2024-01-01 12:00:00", "2024-01-02"], None, 43200),
        (["2024-03-31T00:30:00+01:00", "2024-03-31T01:30:00+01:00", "2024-03-31T03:30:00+02:00"], None, 3600),
        (["12/30/2023", "12/31/2023", "01/01/2024"], None, 86400),
        (["30/12/2023", "31/12/2023", "01/01/2024"], None, 86400),
        (["03/04/2024 10:00", "03/04/2024 10:15", "03/04/2024 10:30"], None, 900),
        (["2024-01-01", "2024-02-01", "2024-03-01", "2024-04-01"], None, 31 * 86400),
        (["0.5", "0.75", "1.0"], "time", 0.25),
    ],
    ids=["minutes", "mixed", "summer time", "month first", "day first", "either first", "months", "numbers"],
)
def test_times_are_no_channel_and_give_the_spacing(csv, times, time_column, dt):
    rows = "\n".join(f"{time},{place}" for place, time in enumerate(times))
    content = read(csv(f"time,a\n{rows}\n"), time_column=time_column)
    np.testing.assert_array_equal(content.series[0], [np.arange(len(times))])
    assert content.channel_names == ("a",)
    assert content.dt == pytest.approx(dt)


def with_dates(date_format, *, periods=40, freq="D", start="2020-01-05"):
    """The text of a table whose first column holds dates of this format."""
    dates = pd.date_range(start, periods=periods, freq=freq).strftime(date_format)
    return "date,a\n" + "".join(f'"{date}",{place}\n' for place, date in enumerate(dates))


@pytest.mark.parametrize(
    ("date_format", "found"),
    [
        ("%d/%m/%Y %H:%M", "'05/01/2020 00:00' to '13/02/2020 00:00'"),
        ("%d.%m.%Y %H:%M", "'05.01.2020 00:00' to"),
        ("%m/%d/%y %H:%M", "'01/05/20 00:00' to"),
        ("%m/%d/%Y %I:%M %p", "'01/05/2020 12:00 AM' to"),
        ("%d-%b-%y", "'05-Jan-20' to"),
        ("%d décembre %Y", "'05 décembre 2020' to"),
        ("décembre %d, %Y", "'décembre 05, 2020' to"),
        ("%Y-W%W", "'2020-W00' to"),
        ("%m/%Y", "'01/2020' to"),
        ("%H:%M", "'00:00' to"),
    ],
)
def test_dates_of_an_unknown_format_are_no_channel(csv, date_format, found):
    file = csv(with_dates(date_format))
    for columns in (None, ("date", "a")):
        with pytest.raises(
            ValueError, match=rf"dates of one unambiguous format, found {found}.*'date' of .*2024-12-31 23"
        ):
            read(file, columns=columns)
    assert read(file, columns=("a",)).channel_names == ("a",)


@pytest.mark.parametrize(
    ("date_format", "options"),
    [
        ("%d/%m/%Y", {"freq": "MS", "periods": 48}),
        ("%d.%m.%Y", {"freq": "MS", "periods": 12}),
        ("%d-%m-%Y %H:%M", {"freq": "MS", "periods": 12}),
        ("%m/%d/%Y", {"periods": 3}),
    ],
)
@pytest.mark.parametrize("time_column", [None, "date"])
def test_dates_that_have_other_steps_with_the_day_first_are_refused(csv, date_format, options, time_column):
    file = csv(with_dates(date_format, start="2020-01-01", **options))
    with pytest.raises(
        ValueError, match=r"unambiguous format, found 0\d.* after 01.* in line 3, .*write them as 2024-12-31"
    ):
        read(file, time_column=time_column)


def test_a_day_after_the_twelfth_tells_days_from_months(csv):
    content = read(csv(with_dates("%m/%d/%Y %H:%M", start="2020-01-01", periods=13)))
    np.testing.assert_array_equal(content.times, np.datetime64("2020-01-01T00:00:00") + np.arange(13).astype("m8[D]"))


@pytest.mark.parametrize("name", ["date", "Time", "timestamp", "index", "unix_time", "Date Time (UTC)", "year"])
def test_growing_integers_named_like_times_are_no_channel_unless_chosen(csv, name):
    file = csv(f"{name},a\n1700000000,1\n1700003600,2\n1700007200,3\n")
    with pytest.raises(
        ValueError, match=r"found growing integers 1700000000 to 1700007200 in column .*series\.csv"
    ) as error:
        read(file)
    assert f"time_column={name!r}" in str(error.value)
    assert "columns=['a']" in str(error.value)
    assert read(file, time_column=name).dt == 3600
    assert read(file, columns=("a",)).channel_names == ("a",)
    assert read(file, columns=(name, "a")).channel_names == (name, "a")


@pytest.mark.parametrize("text", ["load,a\n1,1\n2,2\n", "time,a\n1,1\n3,2\n2,3\n", "index\n1\n2\n"])
def test_other_integers_are_channels(csv, text):
    assert ",".join(read(csv(text)).channel_names) == text.split("\n")[0]


def test_dates_written_as_integers_are_even_times_only_within_a_month(csv):
    assert read(csv("date,a\n20240129,1\n20240130,2\n20240131,3\n"), time_column="date").dt == 1
    file = csv("date,a\n20240130,1\n20240131,2\n20240201,3\n20240202,4\n")
    with pytest.raises(
        ValueError, match=r"integers like 20240130 .*found 20240201 after 20240131 in line 4.*write dates as"
    ):
        read(file, time_column="date")


@pytest.mark.parametrize(
    ("text", "encodings"),
    [
        ("time,a\n2024-01-01,1\n2024-01-02,2\n", ("utf-16", "utf-16-le", "utf-16-be")),
        ("größe,a\n1,2\n3,4\n", ("utf-16", "latin-1")),
        ("a,b\n" + "1,2\n" * 5000 + "3,é\n", ("utf-16", "latin-1")),
    ],
    ids=["ASCII", "header", "late"],
)
def test_other_encodings_are_named(csv, text, encodings):
    file = csv("")
    for encoding in encodings:
        file.write_bytes(text.encode(encoding))
        with pytest.raises(ValueError, match=r"series\.csv must be text in UTF-8, found .*; save as UTF-8\."):
            read(file)


def test_a_mark_of_utf_8_is_no_part_of_a_name(csv):
    assert read(csv("\ufeffa,b\n1,2\n3,4\n")).channel_names == ("a", "b")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a;b\n1;2\n", "semicolons"),
        ("date;a\n2024-01-01;1,5\n2024-01-02;2,5\n", "semicolons"),
        (";a;b\n0;1;2\n", "semicolons"),
        ("\ufeffa;b\n1;2\n", "semicolons"),
        ("a\tb\n1\t2\n", "tabs"),
    ],
)
def test_columns_between_other_marks_than_commas_are_refused(csv, text, found):
    with pytest.raises(
        ValueError, match=rf"found {found} in .*series\.csv; save the table with commas and decimal points"
    ):
        read(csv(text))


def test_semicolons_may_be_part_of_names(csv):
    assert read(csv('"a;b",c\n1,2\n3,4\n')).channel_names == ("a;b", "c")
    assert read(csv("a;b\n1\n2\n")).channel_names == ("a;b",)


def test_a_time_column_may_stand_anywhere(csv):
    content = read(csv("a,when,b\n1,5,2\n3,6,4\n"), time_column="when")
    np.testing.assert_array_equal(content.series[0], [[1, 3], [2, 4]])


def test_an_empty_line_is_a_step_unless_it_is_the_last(csv):
    np.testing.assert_array_equal(read(csv("a\n1\n\n3\n\n\n")).series[0], [[1, np.nan, 3]])


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "CSV file with a header row, found none"),
        ("a,b\n", {}, r"found 0 rows without any in its columns \['a', 'b'\]"),
        ("a,b\n1,2,3\n4,5,6\n", {}, "names every column"),
        ("a,b\n1,2\n3,4,5\n", {}, "found none .*line 3"),
        (
            "a,b,c\n1,x,2\n3,y,4\n",
            {},
            r"other values in \['b'\] of the channels \['a', 'b', 'c'\], such as 'x'.*choose",
        ),
        ("a,b\n1.5,1\nx,2\n", {}, r"other values in \['a'\] of the channels \['a', 'b'\], such as 'x'"),
        ('a,b\n1,"2,5"\n3,"4,5"\n', {}, "such as '2,5'; .*write decimals with a point"),
        ("time,a\n2024-01-01,x\n2024-01-02,y\n", {}, r"found other values in \['a'\] of the channels \['a'\]"),
        ("time\n2024-01-01\n2024-01-02\n", {}, r"at least one channel.*channels \[\]"),
        ("a,b\n1,2\n3,inf\n", {}, r"finite in float32, found 1.0 to inf in .*series\.csv"),
        ("a\n-1e39\n1\n", {}, "found -1e.39 to 1.0"),
        ("a,b\n1,2\n", {"columns": ("a", "d")}, r"channels of .*\['a', 'b'\], found \['d'\]"),
        ("a,b\n1,2\n", {"time_column": "t"}, r"a column of .*\['a', 'b'\], found 't'"),
        ("a,b\n1,x\n2,y\n", {"time_column": "b"}, "numbers or dates of one format, found 'x'"),
        ("t,a\n1,2\n,3\n", {"time_column": "t"}, "every row must have a time, found none in line 3"),
        ("t,a\n2024-01-01,2\n\n2024-01-03,3\n", {}, "found none in line 3, column 't'"),
        ("t,a\n1,2\n", {"time_column": "t"}, "at least two rows"),
        ("t,a\n1,2\n2,2\n2,3\n", {"time_column": "t"}, "increase, found 2 after 2 in line 4.*sort the rows"),
        ("t,a\n2024-01-02,1\n2024-01-01,2\n", {}, "increase, found 2024-01-01 after 2024-01-02 in line 3"),
        ("t,a\n1,1\n2,1\n4,1\n5,1\n", {"time_column": "t"}, r"found 4 after 2 in line 4.*1 apart \(1 such.*a row with"),
        (
            "t,a\n2024-01-01,1\n2024-01-02,1\n2024-01-04,1\n2024-01-05,1\n",
            {},
            "found 2024-01-04 after 2024-01-02 in line 4.*86400 seconds apart",
        ),
    ],
)
def test_unreadable_tables_say_what_to_do(csv, text, options, message):
    with pytest.raises(ValueError, match=message):
        read(csv(text), **options)


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (np.zeros((2, 2, 2, 2)), {}, r"found float64 of shape \(2, 2, 2, 2\)"),
        (np.zeros((0, 3)), {}, r"of shape \(0, 3\)"),
        (np.array(["a", "b"]), {}, "must hold numbers"),
        (np.zeros(4, complex), {}, "found complex128"),
        (np.array([1, np.inf, 2]), {}, "found 1.0 to inf"),
        (np.array([1.0, 1e39]), {}, "finite in float32"),
        (np.zeros((4, 2)), {"columns": ("2",)}, r"\['0', '1'\], found \['2'\]"),
        (np.zeros((4, 2)), {"time_column": "0"}, "a column of a table, found '0'"),
    ],
)
def test_unreadable_arrays_say_what_to_do(npy, array, options, message):
    with pytest.raises(ValueError, match=message):
        read(npy(array), **options)


def test_files_that_are_no_arrays_are_refused(npy, csv):
    objects = npy(np.array([{"a": 1}], object))
    with pytest.raises(ValueError, match=r"series\.npy must be an NPY file of numbers, found none .*objects"):
        read(objects)
    cut = npy(np.zeros(9))
    cut.write_bytes(cut.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"series\.npy must be an NPY file.*write it again"):
        read(cut)
    for header in ("((((", "'''abc", "{'descr': (), 'fortran_order': False, 'shape': (3,), }", "{1: 2, 'shape': 3}"):
        text = header.ljust(117).encode() + b"\n"
        cut.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(24))
        with pytest.raises(ValueError, match=r"series\.npy must be an NPY file.*write it again"):
            read(cut)
    with pytest.raises(
        ValueError, match=r"series\.csv must be a CSV file with a header row, found none .*field larger"
    ):
        read(csv("x" * 140_000 + "\n1\n"))
    with pytest.raises(ValueError, match=r"end in \.csv, \.npy, .* or \.feather, found .*series\.txt"):
        read(csv("a\n1\n", "series.txt"))


@pytest.mark.parametrize(
    ("text", "found"),
    [(",a\n0,1.0\n1,2.0\n", "''"), ("0.5,0.25\n1,2\n", "'0.5'"), ("a,a\n1,2\n3,4\n", "'a', 'a'")],
)
def test_headers_that_name_no_channels_are_refused(csv, text, found):
    with pytest.raises(ValueError, match=rf"header row that names every column, .*found \[{found}"):
        read_series_file(csv(text), columns=None, time_column=None)


def test_endings_are_known_in_capitals(csv):
    assert read_series_file(csv("a\n1\n2\n", "SERIES.CSV"), columns=None, time_column=None).channel_names == ("a",)
