"""Uploaded files as series, or a message for the person who uploaded one: nothing of a file is ever executed."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np

from ..data.series_files import SeriesFile, read_series_file
from .systems import Trajectory

MAX_BYTES = 5 * 2**20
MAX_STEPS = 50_000
MAX_CHANNELS = 16
MIN_STEPS = 64
MAX_VALUE = 1e30
"""Up to which squares and sums of values are numbers, too."""
TIME_NAMES = ("time", "t", "date", "datetime", "timestamp", "step")
"""Of a table's column of times, whatever its case, with or without a unit in brackets; dates are found in the first
column under any name."""
LIMITS = (
    f"a CSV with a header row (a column of times is called {', '.join(TIME_NAMES[:-1])} or {TIME_NAMES[-1]}), or an "
    f"NPY of shape (time,) or (time, channels); evenly sampled, {MIN_STEPS:,} to {MAX_STEPS:,} steps, up to "
    f"{MAX_CHANNELS} channels, up to {MAX_BYTES // 2**20} MB"
)
"""What may be uploaded, in words."""
_RESOLUTION = 100 * float(np.finfo(np.float32).eps)
"""Of its largest value: what a channel must vary by, to be more than rounding once it is in 32 bits."""
_LIBRARY_WORDS = re.compile(r"time_column|columns=|with columns|pandas")
_ADVICE = (
    "name every column, leave unseen values empty, write decimals with a point, give every step a row, and call a "
    "column 'time' if it holds times, which no other column may"
)
_LONGEST_NAME = 20
_LONGEST_MESSAGE = 600


def read_upload(file: Path) -> Trajectory:
    """Read an uploaded CSV or NPY file; a time column of a CSV gives `dt`, else a step is the unit of time.

    Raises: ValueError, with the file's name alone and no folder, on another kind of file, one that is gone, anything
        beyond the limits of this module, what `hf_tsdyn.data.series_files.read_series_file` refuses, and channels
        without values or with such as 32 bits cannot hold apart.
    """
    _check_size(file)
    suffix = file.suffix.lower()
    if suffix not in (".csv", ".npy"):
        raise ValueError(f"an upload must be {LIMITS}; found {file.name!r}.")
    header = _read_header(file) if suffix == ".csv" else []
    content = _read(file, _time_column(file.name, header))
    if len(content.series) != 1:
        raise ValueError(f"an upload must hold one series, found {len(content.series)} in {file.name!r}; choose one.")
    values = content.series[0].T
    _check_shape(file.name, *values.shape)
    names = tuple(" ".join(name.split())[:_LONGEST_NAME] for name in content.channel_names)
    _check_values(file.name, np.asarray(values, dtype=np.float64), names)
    unit = "" if content.times is None else " seconds"
    times = [name for name in header if name not in content.channel_names]
    numbers = np.array(values, dtype=np.float32)
    remark = f"{times[0]!r} holds its times, {content.dt:g}{unit} apart." if times else ""
    return Trajectory(file.name, numbers, names if header else (), content.dt, remark=remark)


def _read(file: Path, time_column: str | None) -> SeriesFile:
    try:
        return read_series_file(file, columns=None, time_column=time_column)
    except ValueError as error:
        raise ValueError(_for_visitors(str(error), file)) from error
    except (OverflowError, MemoryError, RecursionError) as error:  # a header that claims more than any machine holds
        raise ValueError(f"{file.name!r} must hold the values that its header announces; write it again.") from error


def _for_visitors(message: str, file: Path) -> str:
    """Say it without folders, without words for programmers, and without all of a long cell."""
    message = re.sub(r" \(.*\)(?=; write it again)", "", message.replace(str(file), file.name), flags=re.DOTALL)
    if _LIBRARY_WORDS.search(message):
        said = re.split(r"; (?=[^;]*(?:time_column|columns|pandas))", message)[0]
        message = f"{said}; {_ADVICE}."
    half = _LONGEST_MESSAGE // 2
    return message if len(message) <= _LONGEST_MESSAGE else f"{message[:half]} ... {message[-half:]}"


def _check_size(file: Path) -> None:
    try:
        size = file.stat().st_size
    except FileNotFoundError as error:
        raise ValueError("the uploaded file is gone (uploads are kept an hour or two); upload it again.") from error
    if not size:
        raise ValueError(f"an upload must hold values, found 0 bytes in {file.name!r}; choose another file.")
    if size > MAX_BYTES:
        raise ValueError(f"an upload must have up to {MAX_BYTES:,} bytes, found {size:,} in {file.name!r}; cut it.")


def _read_header(file: Path) -> list[str]:
    """Refuse a table that is too wide or too long before anything parses it; return the names in its first row."""
    lines = file.read_bytes().splitlines(keepends=True)
    num_columns = max((line.count(b",") for line in lines), default=0) + 1
    if num_columns > MAX_CHANNELS + 1 or len(lines) > MAX_STEPS + 1:  # a column of times, a row of names
        raise ValueError(
            f"an upload must have up to {MAX_CHANNELS} channels and {MAX_STEPS:,} steps, found {num_columns:,} columns "
            f"and {len(lines):,} lines in {file.name!r}; {_advice(len(lines) - 1, num_columns)}."
        )
    try:
        return next(csv.reader([lines[0].decode("utf-8-sig", errors="replace")]), [])
    except csv.Error as error:
        raise ValueError(f"{file.name!r} must begin with a row of names, found none ({error}); write one.") from error


def _time_column(file_name: str, header: list[str]) -> str | None:
    """Return the name that says that its column holds times, None where none does."""
    plain = {name: re.sub(r"\(.*\)|\[.*\]", "", name).strip().lower() for name in header}
    found = [name for name in header if plain[name] in TIME_NAMES]
    if len(found) > 1:
        raise ValueError(f"one column at most must hold times, found {found} in {file_name!r}; keep or rename one.")
    return found[0] if found else None


def _check_shape(name: str, num_steps: int, num_channels: int) -> None:
    if num_channels > MAX_CHANNELS or not MIN_STEPS <= num_steps <= MAX_STEPS:
        raise ValueError(
            f"an upload must have {MIN_STEPS:,} to {MAX_STEPS:,} steps and up to {MAX_CHANNELS} channels, found "
            f"{num_steps:,} steps and {num_channels:,} channels in {name!r}; {_advice(num_steps, num_channels)}."
        )


def _advice(num_steps: int, num_channels: int) -> str:
    if num_steps <= MAX_CHANNELS < num_channels:
        return "transpose it: a row is a step, a column a channel"
    return "give a longer series" if num_steps < MIN_STEPS else "cut it"


def _check_values(file_name: str, values: np.ndarray, channels: tuple[str, ...]) -> None:
    """Refuse channels of (time, channels), in double precision, that nothing can be said of in single precision."""
    low, high = np.fmin.reduce(values), np.fmax.reduce(values)
    largest, width = np.maximum(np.abs(low), np.abs(high)), high - low
    problems = {
        "must have values, found none; leave it out.": np.isnan(largest),
        f"must have values up to {MAX_VALUE:g}, found larger ones; rescale it.": largest > MAX_VALUE,
        "varies less than 32-bit numbers resolve; subtract its mean.": (width > 0) & (width < _RESOLUTION * largest),
    }
    for problem, is_wrong in problems.items():
        if is_wrong.any():
            raise ValueError(f"channel {channels[int(is_wrong.argmax())]!r} of {file_name!r} {problem}")
    if (low.astype(np.float32) == high.astype(np.float32)).all():
        raise ValueError(f"a series must change, found constant channels alone in {file_name!r}; choose another.")
