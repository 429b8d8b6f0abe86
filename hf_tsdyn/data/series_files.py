"""Read tables and NPY files: series of finite numbers, evenly spaced in time, or a message that says what to do."""

import csv
import tokenize
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hf_tsdyn.data.times import NAMELESS, Table, find_time_column, read_times


class SeriesFile(NamedTuple):
    """One file: its series, each (channels, time), the names of their channels, the time between two steps.

    times: (time,) datetime64 of a table with dates, else None: in UTC where they have a zone, in seconds where those
        are whole."""

    series: list[np.ndarray]
    channel_names: tuple[str, ...]
    dt: float
    times: np.ndarray | None = None


def find_series_files(path: Path) -> list[Path]:
    """Return the file at `path`, or the tables and NPY files of the folder there, by name.

    Raises: FileNotFoundError where there are none."""
    files = (
        [path] if path.is_file() else sorted(file for file in path.glob("*") if file.suffix.lower() in SERIES_SUFFIXES)
    )
    if not files:
        raise FileNotFoundError(
            f"path must be a file that ends in {_listed(SERIES_SUFFIXES)}, or a folder of such files, found none at "
            f"{str(path)!r}; correct the path."
        )
    return files


def read_series_file(file: Path, *, columns: Sequence[str] | None, time_column: str | None) -> SeriesFile:
    """Read one file; `columns` selects and orders the channels, `time_column` is none of them.

    Values keep the type of the file; those of an NPY file are mapped, unless `columns` selects some.
    Raises: ValueError on anything but finite numbers, evenly spaced."""
    if file.suffix.lower() not in SERIES_SUFFIXES:
        raise ValueError(f"a file of series must end in {_listed(SERIES_SUFFIXES)}, found {file}; convert it.")
    content = _READERS[file.suffix.lower()](file, columns, time_column)
    largest = np.finfo(np.float32).max
    for values in content.series:
        low, high = np.fmin.reduce(values, axis=None), np.fmax.reduce(values, axis=None)
        if low < -largest or high > largest:
            raise ValueError(
                f"values must be finite in float32, found {low} to {high} in {file}; leave unseen values empty "
                "(tables) or NaN (NPY)."
            )
    return content


def _read_npy(file: Path, columns: Sequence[str] | None, time_column: str | None) -> SeriesFile:
    if time_column is not None:
        raise ValueError(f"time_column must name a column of a table, found {time_column!r} for {file}; drop it.")
    try:
        values = np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
    except (ValueError, EOFError, TypeError, IndexError, tokenize.TokenError) as error:  # of headers that are none
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
    try:
        _check_header(file)
        frame = _load_csv(file)
    except UnicodeDecodeError as error:
        raise _other_encoding(file, str(error)) from error
    except csv.Error as error:  # of a name longer than any
        raise ValueError(f"{file} must be a CSV file with a header row, found none ({error}); correct it.") from error
    if not isinstance(frame.index, pd.RangeIndex):
        raise ValueError(
            f"{file} must have a header row that names every column, found rows with more values than the header "
            f"{list(frame.columns)}; correct it."
        )
    return _read_table(Table(file, frame, "line", 2), columns, time_column)


def _load_csv(file: Path) -> pd.DataFrame:
    try:
        # An empty line of a file of one column is an unseen step, which pandas would skip.
        return pd.read_csv(file, skip_blank_lines=False, low_memory=False)
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        raise ValueError(f"{file} must be a CSV file with a header row, found none ({error}); correct it.") from error


def _other_encoding(file: Path, found: str) -> ValueError:
    return ValueError(f"{file} must be text in UTF-8, found other bytes ({found}); save as UTF-8.")


def _read_arrow(file: Path, columns: Sequence[str] | None, time_column: str | None) -> SeriesFile:
    """Read a Parquet, Arrow or Feather file; the index of a data frame comes before its columns, as in a CSV file."""
    try:
        content = _load_arrow(file)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(
            f"{file} must be a whole Parquet file (.parquet) or Arrow file (.arrow, .feather), found none ({error}); "
            "write it again."
        ) from error
    _check_columns(content.schema, file)
    for place, field in enumerate(content.schema):
        if pa.types.is_null(field.type) or pa.types.is_decimal(field.type):
            content = content.set_column(place, field.name, content.column(place).cast(pa.float64()))
    index = (content.schema.pandas_metadata or {}).get("index_columns", [])
    index = [name for name in index if name in content.column_names]  # a range of row numbers is no column
    names = index + [name for name in content.column_names if name not in index]
    frame = content.select(names).to_pandas(ignore_metadata=True)
    return _read_table(Table(file, frame, "row", 1), columns, time_column)


def _load_arrow(file: Path) -> pa.Table:
    with file.open("rb") as content:
        if file.suffix.lower() == ".parquet":
            return pq.ParquetFile(content).read()
        has_footer = content.read(6) == b"ARROW1"
        content.seek(0)
        return (pa.ipc.open_file if has_footer else pa.ipc.open_stream)(content).read_all()


def _check_columns(schema: pa.Schema, file: Path) -> None:
    """Refuse names that are missing or repeat, and columns of lists, which a dataset of trajectories has."""
    wrong = [name for name in schema.names if not name.strip() or schema.names.count(name) > 1]
    if wrong:
        raise ValueError(f"{file} must name every column, none twice, found {wrong} in {schema.names}; write names.")
    nested = [field.name for field in schema if pa.types.is_nested(field.type)]
    if nested:
        raise ValueError(
            f"{file} must be a table with one value per cell, found lists or structures in {nested}; write a column "
            "per channel, or, of a generated dataset, give the folder that holds manifest.json."
        )


def _read_table(table: Table, columns: Sequence[str] | None, time_column: str | None) -> SeriesFile:
    file, frame = table.file, table.frame
    filled = np.flatnonzero(frame.notna().any(axis=1))
    if not filled.size:
        raise ValueError(
            f"{file} must have rows of values, found {len(frame)} rows without any in its columns "
            f"{list(frame.columns)}; correct it."
        )
    frame = frame.iloc[: filled[-1] + 1]  # empty rows at the end are no steps
    table = table._replace(frame=frame)
    time_column = find_time_column(table, time_column, columns=columns)
    dt, times = (1.0, None) if time_column is None else read_times(table, time_column)
    names = [name for name in frame.columns if name != time_column]
    names = names if columns is None else [names[place] for place in _places(columns, names, file)]
    index = [name for name in names if name.startswith(NAMELESS)]
    if index:
        raise ValueError(
            f"the index of a data frame must hold dates or have a name, found {index} among the channels of {file}; "
            "leave it out (pandas: to_parquet(index=False)), or name it."
        )
    wrong = [name for name in names if not pd.api.types.is_numeric_dtype(frame[name])]
    if wrong or not names:
        cells = (str(cell) for name in wrong for cell in table.column(name).dropna())
        example = next((f", such as {cell!r}" for cell in cells if not _is_number(cell)), "")
        raise ValueError(
            f"{file} must have at least one channel, and numbers in every one, found other values in {wrong} of the "
            f"channels {names}{example}; leave unseen values empty, write decimals with a point, or choose the numeric "
            "channels with columns (and the times with time_column)."
        )
    return SeriesFile([np.ascontiguousarray(frame[names].to_numpy(np.float64).T)], tuple(names), dt, times)


def _check_header(file: Path) -> None:
    """Refuse what pandas would make names of: a row of numbers, a name that is missing or repeats, a row not cut."""
    with file.open(newline="", encoding="utf-8-sig") as content:
        names, row = next(csv.reader(content), []), content.readline()
        if any("\0" in name for name in names):  # ASCII of UTF-16 without a mark is valid UTF-8
            raise _other_encoding(file, "zeros between the letters")
        for separator, found in {";": "semicolons", "\t": "tabs"}.items():
            content.seek(0)
            if separator in row and len(next(csv.reader(content, delimiter=separator))) > len(names):
                raise ValueError(
                    f"columns must be separated by commas, found {found} in {file}; save the table with commas and "
                    "decimal points."
                )
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


_READERS = {".csv": _read_csv, ".npy": _read_npy} | dict.fromkeys((".parquet", ".arrow", ".feather"), _read_arrow)
SERIES_SUFFIXES = tuple(_READERS)


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _places(columns: Sequence[str], names: Sequence[str], file: Path) -> list[int]:
    unknown = [name for name in columns if name not in names]
    if unknown:
        raise ValueError(f"columns must be among the channels of {file}, {list(names)}, found {unknown}; correct them.")
    return [names.index(name) for name in columns]
