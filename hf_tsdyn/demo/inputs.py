"""Uploaded files as series, or a message for the person who uploaded one: nothing of a file is ever executed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..data.series_files import read_series_file
from .systems import Trajectory

MAX_BYTES = 5_000_000
MAX_STEPS = 50_000
MAX_CHANNELS = 16
MIN_STEPS = 64
TIME_NAMES = ("time", "t", "date")
"""Of a table's column of times, whatever its case; dates are found under any name."""
LIMITS = (
    f"a CSV with a header row (a column of times is called {' or '.join(TIME_NAMES)}), or an NPY of shape (time,) or "
    f"(time, channels); evenly sampled, {MIN_STEPS:,} to {MAX_STEPS:,} steps, up to {MAX_CHANNELS} channels, up to "
    f"{MAX_BYTES // 1_000_000} MB"
)
"""What may be uploaded, in words."""


def read_upload(file: Path) -> Trajectory:
    """Read an uploaded CSV or NPY file; a time column of a CSV gives `dt`, else a step is the unit of time.

    Raises: ValueError, with the file's name alone and no folder, on another kind of file, anything beyond the limits of
        this module, or what `hf_tsdyn.data.series_files.read_series_file` refuses.
    """
    _check_size(file)
    time_column = None
    if file.suffix.lower() == ".csv":
        time_column = _check_table(file)
    elif file.suffix.lower() != ".npy":
        raise ValueError(f"an upload must be {LIMITS}; found {file.name!r}.")
    try:
        content = read_series_file(file, columns=None, time_column=time_column)
    except ValueError as error:
        raise ValueError(str(error).replace(str(file), file.name)) from error
    except (OverflowError, MemoryError) as error:  # an NPY header that claims more than any machine holds
        raise ValueError(f"{file.name!r} must hold the values that its header announces; write it again.") from error
    if len(content.series) != 1:
        raise ValueError(f"an upload must hold one series, found {len(content.series)} in {file.name!r}; choose one.")
    values = content.series[0].T
    _check_shape(file.name, *values.shape)
    return Trajectory(file.name, np.array(values, dtype=np.float32), content.dt)


def _check_size(file: Path) -> None:
    size = file.stat().st_size
    if not 0 < size <= MAX_BYTES:
        raise ValueError(f"an upload must have up to {MAX_BYTES:,} bytes, found {size:,} in {file.name!r}; cut it.")


def _check_table(file: Path) -> str | None:
    """Refuse a table that is too wide or too long before anything parses it; return its column of times, if any."""
    lines = file.read_bytes().splitlines()
    num_columns = max((line.count(b",") for line in lines), default=0) + 1
    if num_columns > MAX_CHANNELS + 1 or len(lines) > MAX_STEPS + 1:  # a column of times, a row of names
        raise ValueError(
            f"an upload must have up to {MAX_CHANNELS} channels and {MAX_STEPS:,} steps, found {num_columns:,} columns "
            f"and {len(lines):,} lines in {file.name!r}; cut it."
        )
    names = lines[0].decode("utf-8-sig", errors="replace").replace('"', "").split(",")
    return next((name for name in names if name.lower() in TIME_NAMES), None)


def _check_shape(name: str, num_steps: int, num_channels: int) -> None:
    if num_channels > MAX_CHANNELS or not MIN_STEPS <= num_steps <= MAX_STEPS:
        raise ValueError(
            f"an upload must have {MIN_STEPS:,} to {MAX_STEPS:,} steps and up to {MAX_CHANNELS} channels, found "
            f"{num_steps:,} steps and {num_channels:,} channels in {name!r}; cut it."
        )
