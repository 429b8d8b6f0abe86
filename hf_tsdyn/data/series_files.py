"""Read CSV and NPY files: series of finite numbers, evenly spaced in time, or a message that says what to do."""

import csv
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

_EVEN = 1e-3
"""Steps of time count as even when they differ by no more than this share of one."""


class SeriesFile(NamedTuple):
    """One file: its series, each (channels, time), the names of their channels, the time between two steps."""

    series: list[np.ndarray]
    channel_names: tuple[str, ...]
    dt: float


def find_series_files(path: Path) -> list[Path]:
    """Return the file at `path`, or the CSV and NPY files of the folder there, by name.

    Raises: FileNotFoundError where there are none."""
    files = (
        [path] if path.is_file() else sorted(file for file in path.glob("*") if file.suffix.lower() in SERIES_SUFFIXES)
    )
    if not files:
        raise FileNotFoundError(
            f"path must be a CSV or NPY file, or a folder of such files, found none at {str(path)!r}; correct the path."
        )
    return files


def read_series_file(file: Path, *, columns: Sequence[str] | None, time_column: str | None) -> SeriesFile:
    """Read one file; `columns` selects and orders the channels, `time_column` is none of them.

    Values keep the type of the file; those of an NPY file are mapped, unless `columns` selects some.
    Raises: ValueError on anything but finite numbers, evenly spaced."""
    if file.suffix.lower() not in SERIES_SUFFIXES:
        raise ValueError(f"a file of series must end in {' or '.join(SERIES_SUFFIXES)}, found {file}; convert it.")
    content = _READERS[file.suffix.lower()](file, columns, time_column)
    largest = np.finfo(np.float32).max
    for values in content.series:
        low, high = np.fmin.reduce(values, axis=None), np.fmax.reduce(values, axis=None)
        if low < -largest or high > largest:
            raise ValueError(
                f"values must be finite in float32, found {low} to {high} in {file}; leave unseen values empty (CSV) "
                "or NaN (NPY)."
            )
    return content


def _read_npy(file: Path, columns: Sequence[str] | None, time_column: str | None) -> SeriesFile:
    if time_column is not None:
        raise ValueError(f"time_column must name a column of a CSV file, found {time_column!r} for {file}; drop it.")
    try:
        values = np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise ValueError(f"{file} must be an NPY file of numbers, found none ({error}); write it again.") from error
    if values.dtype.kind not in "fiub" or values.ndim not in (1, 2, 3) or not values.size:
        raise ValueError(
            f"{file} must hold numbers of shape (time,), (time, channels) or (series, time, channels), found "
            f"{values.dtype} of shape {values.shape}; convert it."
        )
    values = values[:, None] if values.ndim == 1 else values
    series = [rows.T for rows in (values if values.ndim == 3 else [values])]
    names = tuple(str(channel) for channel in range(values.shape[-1]))
    if columns is not None:
        kept = _places(columns, names, file)
        series, names = [rows[kept] for rows in series], tuple(columns)
    return SeriesFile(series, names, dt=1.0)


def _read_csv(file: Path, columns: Sequence[str] | None, time_column: str | None) -> SeriesFile:
    _check_header(file)
    try:
        # An empty line of a file of one column is an unseen step, which pandas would skip.
        frame = pd.read_csv(file, skip_blank_lines=False, low_memory=False)
    except ValueError as error:
        raise ValueError(f"{file} must be a CSV file with a header row, found none ({error}); correct it.") from error
    filled = np.flatnonzero(frame.notna().any(axis=1))
    if not filled.size or not isinstance(frame.index, pd.RangeIndex):
        raise ValueError(
            f"{file} must have rows of values below a header row that names every column, found {len(frame)} rows "
            f"below the header {list(frame.columns)}; correct it."
        )
    frame = frame.iloc[: filled[-1] + 1]  # empty lines at the end are no steps
    time_column = _find_time_column(frame, file, time_column)
    dt = 1.0 if time_column is None else _spacing(frame[time_column], file)
    names = [name for name in frame.columns if name != time_column]
    names = names if columns is None else [names[place] for place in _places(columns, names, file)]
    text = [name for name in names if not pd.api.types.is_numeric_dtype(frame[name])]
    if text or not names:
        raise ValueError(
            f"{file} must have at least one channel, and numbers in every one, found text in {text} of the channels "
            f"{names}; leave unseen values empty, or choose the numeric channels with columns."
        )
    return SeriesFile([np.ascontiguousarray(frame[names].to_numpy(np.float64).T)], tuple(names), dt)


def _check_header(file: Path) -> None:
    """Refuse what pandas would make names of: a row of numbers, a name that is missing or repeats."""
    with file.open(newline="", encoding="utf-8-sig") as content:
        names = next(csv.reader(content), [])
    wrong = [name for name in names if not name.strip() or names.count(name) > 1 or _is_number(name)]
    if wrong:
        raise ValueError(
            f"{file} must have a header row that names every column, no name twice and none a number, found {wrong} in "
            f"{names[:6]}; write names, and leave a data frame's index out (pandas: to_csv(index=False))."
        )


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


_READERS = {".csv": _read_csv, ".npy": _read_npy}
SERIES_SUFFIXES = tuple(_READERS)


def _places(columns: Sequence[str], names: Sequence[str], file: Path) -> list[int]:
    unknown = [name for name in columns if name not in names]
    if unknown:
        raise ValueError(f"columns must be among the channels of {file}, {list(names)}, found {unknown}; correct them.")
    return [names.index(name) for name in columns]


def _find_time_column(frame: pd.DataFrame, file: Path, name: str | None) -> str | None:
    """Return the column of times: the one that was asked for, or the first if it holds dates."""
    if name is not None and name not in frame.columns:
        raise ValueError(f"time_column must be a column of {file}, {list(frame.columns)}, found {name!r}; correct it.")
    if name is None and not pd.api.types.is_numeric_dtype(frame.iloc[:, 0]) and _dates(frame.iloc[:, 0]) is not None:
        return str(frame.columns[0])
    return name


def _dates(column: pd.Series) -> pd.Series | None:
    """Return the column as dates, None if they are not all of one known format."""
    for date_format in ("ISO8601", None):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # pandas warns where it would guess the format of each cell
            try:
                return pd.to_datetime(column, format=date_format, utc=True)
            except (ValueError, TypeError, Warning):
                continue
    return None


def _spacing(column: pd.Series, file: Path) -> float:
    """Return the time between two rows, in seconds for dates; months and the like count as even.

    Raises: ValueError, naming the line, where times are missing, do not increase or leave rows out."""
    place = f"column {column.name!r} of {file}"
    dates = None if pd.api.types.is_numeric_dtype(column) else _dates(column)
    if dates is None and not pd.api.types.is_numeric_dtype(column):
        raise ValueError(
            f"times must be numbers or dates of one format, found {column.iloc[0]!r} and others in {place}; write "
            "dates as 2024-12-31 23:59:59."
        )
    times = column.to_numpy(np.float64) if dates is None else (dates - dates.iloc[0]).dt.total_seconds().to_numpy()
    if not np.isfinite(times).all():
        line = int(np.argmin(np.isfinite(times))) + 2
        raise ValueError(f"every row must have a time, found none in line {line}, {place}; fill it in.")
    if len(times) < 2:
        raise ValueError(f"a series must have at least two rows, found one time in {place}; give a longer one.")
    steps = np.diff(times)
    if steps.min() <= 0:
        raise ValueError(
            f"times must increase, found {_pair(column, steps <= 0)}, {place}; sort the rows, and keep one row of each "
            "time."
        )
    dt = float(np.median(steps))
    uneven = np.abs(steps / dt - 1) > _EVEN
    if uneven.any() and (dates is None or len(dates) < 3 or pd.infer_freq(pd.DatetimeIndex(dates)) is None):
        unit = "" if dates is None else " seconds"
        raise ValueError(
            f"times must be evenly spaced, found {_pair(column, uneven)}, {place}, where most are {dt:g}{unit} apart "
            f"({uneven.sum()} such lines); give every missing step a row with empty values, or resample (pandas: "
            "frame.asfreq, frame.resample)."
        )
    return dt


def _pair(column: pd.Series, wrong_steps: np.ndarray) -> str:
    """Say which two neighbours have the first of the wrong steps between them."""
    first = int(np.argmax(wrong_steps))
    return f"{column.iloc[first + 1]} after {column.iloc[first]} in line {first + 3}"
