import numpy as np
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
        (["2024-01-01", "2024-02-01", "2024-03-01", "2024-04-01"], None, 31 * 86400),
        (["0.5", "0.75", "1.0"], "time", 0.25),
    ],
    ids=["minutes", "mixed", "summer time", "month first", "months", "numbers"],
)
def test_times_are_no_channel_and_give_the_spacing(csv, times, time_column, dt):
    rows = "\n".join(f"{time},{place}" for place, time in enumerate(times))
    content = read(csv(f"time,a\n{rows}\n"), time_column=time_column)
    np.testing.assert_array_equal(content.series[0], [np.arange(len(times))])
    assert content.channel_names == ("a",)
    assert content.dt == pytest.approx(dt)


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
        ("a;b\n1;2\n", {}, r"other values in \['a;b'\]"),
        ("a,b,c\n1,x,2\n3,y,4\n", {}, r"found other values in \['b'\] of the channels \['a', 'b', 'c'\].*choose"),
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
