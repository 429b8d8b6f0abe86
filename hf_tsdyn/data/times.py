"""Find the times of a table and the time between two rows, or say what keeps them from being even and certain."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import pandas as pd

NAMELESS = "__index_level_"
"""How the names begin that pandas gives to indices without a name."""
_EVEN = 1e-3
"""Steps of time count as even when they differ by no more than this share of one."""
_FORMAT = "write them as 2024-12-31 23:59:59"
_TIME_NAMES = {"date", "datetime", "day", "ds", "epoch", "index", "t", "time", "timestamp", "year"}
_TWO_READINGS = re.compile(r"^(\s*)(\d{1,2})([/.-])(\d{1,2})(?=\3\d{4})")
"""The day and the month of a date, or the month and the day."""
_DATE_LIKE = re.compile(
    r"\d([/.:-])\d{1,2}\1\d"  # 31/12/2024, 31.12.24, 23:59:59
    r"|\d:\d\d|\b\d\d?/\d{4}\b|\d{4}[/-]\w?\d"  # 23:59, 12/2024, 2024-W01
    r"|\d[ .-]+[^\W\d]{3,9}[ .,-]+\d|[^\W\d]{3,9}[ .]+\d\d?,? +\d{4}"  # 31-Dec-24, 31 décembre 2024, Dec 31, 2024
)
_CALENDAR_NUMBER = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(\d\d){0,3}")


class Table(NamedTuple):
    """The columns of a file, and how messages count its rows."""

    file: Path
    frame: pd.DataFrame
    row_name: str
    first_row: int

    def column(self, name: str) -> pd.Series:
        return cast(pd.Series, self.frame[name])

    def locate(self, row: int) -> str:
        return f"{self.row_name} {row + self.first_row}"

    def place(self, name: str) -> str:
        return f"column {name!r} of {self.file}"


def find_time_column(table: Table, name: str | None, *, columns: Sequence[str] | None) -> str | None:
    """Return the column of times: the one that was asked for, or the first if it holds dates.

    columns: the channels, where they were chosen.

    Raises: ValueError where there is no such column, or the first holds what may be times but is not surely so."""
    names = [str(column) for column in table.frame.columns]
    if name is not None and name not in names:
        raise ValueError(f"time_column must be a column of {table.file}, {names}, found {name!r}; correct it.")
    if name is not None:
        return name
    first = names[0]
    if _dates(table.column(first)) is not None:
        return first
    if columns is None or first in columns:
        _refuse_unknown_format(table, first)
    if columns is None and len(names) > 1:
        _refuse_counting(table, names)
    return None


def _refuse_unknown_format(table: Table, name: str) -> None:
    """Refuse a column most of whose cells look like dates, where they were not all read as such."""
    column = table.column(name)
    if pd.api.types.is_numeric_dtype(column):
        return
    cells = [str(cell) for cell in column.dropna()]
    if 2 * sum(map(bool, map(_DATE_LIKE.search, cells))) <= len(cells):
        return
    raise ValueError(
        f"times must be dates of one unambiguous format, found {cells[0]!r} to {cells[-1]!r} in "
        f"{table.place(name)}; {_FORMAT}, or leave the column out with columns if it is no time."
    )


def _refuse_counting(table: Table, names: Sequence[str]) -> None:
    """Refuse a first column of growing integers that is named like times: whether it is a channel is not certain."""
    column, words = table.column(names[0]), re.findall("[a-z]+", names[0].lower())
    if not pd.api.types.is_numeric_dtype(column) or _TIME_NAMES.isdisjoint(words) or names[0].startswith(NAMELESS):
        return
    numbers = column.to_numpy(np.float64)
    if len(numbers) > 1 and (np.diff(numbers) > 0).all() and (numbers == np.floor(numbers)).all():
        raise ValueError(
            f"it must be certain which columns are channels, found growing integers {numbers[0]:.0f} to "
            f"{numbers[-1]:.0f} in {table.place(names[0])}; give time_column={names[0]!r} if they are times, or list "
            f"the channels, as columns={list(names[1:4])}."
        )


def _dates(column: pd.Series) -> pd.Series | None:
    """Return the column as dates in UTC, None if it holds numbers or not all are of one known format."""
    if pd.api.types.is_numeric_dtype(column):
        return None
    for date_format in ("ISO8601", None):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # pandas warns where it would guess the format of each cell
            warnings.filterwarnings("ignore", "Parsing dates in")  # the day first, in one format
            try:
                return pd.to_datetime(column, format=date_format, utc=True)
            except (ValueError, TypeError, Warning):
                continue
    return None


def read_times(table: Table, name: str) -> tuple[float, np.ndarray | None]:
    """Return the time between two rows, in seconds for dates, and the dates; months and the like count as even.

    Raises: ValueError, naming the row, where times are missing, do not increase, leave rows out, or where it is not
    certain which number is the day and which the month."""
    column, place = table.column(name), table.place(name)
    dates = _dates(column)
    if dates is None and not pd.api.types.is_numeric_dtype(column):
        raise ValueError(
            f"times must be numbers or dates of one format, found {column.iloc[0]!r} and others in {place}; write "
            "dates as 2024-12-31 23:59:59."
        )
    if dates is not None:
        _refuse_two_readings(table, name, dates)
    times = column.to_numpy(np.float64) if dates is None else (dates - dates.iloc[0]).dt.total_seconds().to_numpy()
    if not np.isfinite(times).all():
        row = table.locate(int(np.argmin(np.isfinite(times))))
        raise ValueError(f"every row must have a time, found none in {row}, {place}; fill it in.")
    if len(times) < 2:
        raise ValueError(f"a series must have at least two rows, found one time in {place}; give a longer one.")
    dt = _even_step(table, name, times, dates)
    return dt, None if dates is None else _in_seconds(dates.dt.tz_localize(None).to_numpy())


def _refuse_two_readings(table: Table, name: str, dates: pd.Series) -> None:
    """Refuse dates that are valid with the month first and with the day first, at other steps."""
    column = table.column(name)
    if not isinstance(column.iloc[0], str) or not _TWO_READINGS.match(column.iloc[0]):
        return
    swapped = _dates(column.str.replace(_TWO_READINGS, r"\1\4\3\2", regex=True))
    if swapped is None or swapped.diff().equals(dates.diff()):
        return
    differ = (swapped.diff() != dates.diff()).to_numpy()[1:]
    raise ValueError(
        f"times must be dates of one unambiguous format, found {_pair(table, column, differ)}, {table.place(name)}, "
        f"where the day may stand first or the month; {_FORMAT}."
    )


def _even_step(table: Table, name: str, times: np.ndarray, dates: pd.Series | None) -> float:
    column, place, steps = table.column(name), table.place(name), np.diff(times)
    if steps.min() <= 0:
        raise ValueError(
            f"times must increase, found {_pair(table, column, steps <= 0)}, {place}; sort the rows, and keep one row "
            "of each time."
        )
    dt = float(np.median(steps))
    uneven = np.abs(steps / dt - 1) > _EVEN
    if not uneven.any() or (
        dates is not None and len(dates) > 2 and pd.infer_freq(pd.DatetimeIndex(dates)) is not None
    ):
        return dt
    pair = f"{_pair(table, column, uneven)}, {place}"
    if dates is None and all(_CALENDAR_NUMBER.fullmatch(f"{time:.0f}") for time in times):
        raise ValueError(
            f"times must be evenly spaced, and integers like {times[0]:.0f} are no even times, found {pair}; write "
            "dates as 2024-12-31 23:59:59."
        )
    unit = "" if dates is None else " seconds"
    raise ValueError(
        f"times must be evenly spaced, found {pair}, where most are {dt:g}{unit} apart ({uneven.sum()} such "
        f"{table.row_name}s); give every missing step a row with empty values, or resample (pandas: frame.asfreq, "
        "frame.resample)."
    )


def _in_seconds(times: np.ndarray) -> np.ndarray:
    """Return times as datetime64[s], unless that would cut some."""
    seconds = times.astype("datetime64[s]")
    return seconds if (seconds == times).all() else times


def _pair(table: Table, column: pd.Series, wrong_steps: np.ndarray) -> str:
    """Say which two neighbours have the first of the wrong steps between them."""
    first = int(np.argmax(wrong_steps))
    return f"{column.iloc[first + 1]} after {column.iloc[first]} in {table.locate(first + 1)}"
