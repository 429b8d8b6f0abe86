"""Series in pandas data frames: which rows are which series, and what times come next."""

from typing import Any

import numpy as np
import pandas as pd


def split_frame(
    df: pd.DataFrame, id_column: str | None, timestamp_column: str, targets: list[str]
) -> list[tuple[Any, pd.DataFrame]]:
    """Return the series of a long data frame by their ids, in the order in which they come, each sorted by time.

    Args:
        id_column: None where the frame is one series, whose id is None.
        targets: names of the columns that must be there beside those of ids and times.
    Raises: ValueError on columns that are missing, rows without id or time, or times that are neither numbers nor
        datetimes.
    """
    named = [timestamp_column] if id_column is None else [id_column, timestamp_column]
    missing = [name for name in (*named, *targets) if name not in df.columns]
    if missing:
        raise ValueError(
            f"df must have the columns {named} and {targets}, found no {missing} among {list(df.columns)}; name your "
            "columns with id_column (None if all rows are one series), timestamp_column and target."
        )
    num_missing = {name: len(df) - int(df[name].count()) for name in named}
    if df.empty or any(num_missing.values()):
        raise ValueError(
            f"df must hold at least one row, and every row an id and a time, found {len(df)} rows, and of the columns "
            f"as many values missing: {num_missing}; drop these rows."
        )
    times = df[timestamp_column]
    if not (pd.api.types.is_datetime64_any_dtype(times) or pd.api.types.is_numeric_dtype(times)):
        raise ValueError(
            f"the times in {timestamp_column!r} must be numbers or datetimes, found {times.dtype}; convert them with "
            "pandas.to_datetime."
        )
    if id_column is None:
        return [(None, df.sort_values(timestamp_column))]
    return [
        (item, group.sort_values(timestamp_column)) for item, group in df.groupby(id_column, sort=False, observed=True)
    ]


def future_times(times: Any, prediction_length: int, item: Any) -> Any:
    """Continue an evenly spaced pandas series of times; calendar frequencies (months) by pandas' own inference.

    item: the series, for messages.
    Raises: ValueError if there is one time alone, or they are not evenly spaced.
    """
    if len(times) < 2:
        raise ValueError(f"series {item!r} must have at least two times to tell their spacing, found {len(times)}.")
    steps = times.diff().iloc[1:]
    step = steps.median()
    if pd.api.types.is_integer_dtype(times) and step == int(step):
        step = int(step)
    last = int(times.iloc[-1]) if pd.api.types.is_integer_dtype(times) else times.iloc[-1]
    if step > 0 * step and np.allclose((steps / step).to_numpy(float), 1, atol=1e-3):
        return [last + step * k for k in range(1, prediction_length + 1)]
    dated = pd.api.types.is_datetime64_any_dtype(times) and len(times) > 2
    frequency = pd.infer_freq(times) if dated else None
    if frequency is None:
        raise ValueError(
            f"times of series {item!r} must be evenly spaced, found steps from {steps.min()} to {steps.max()}; "
            "resample, and leave missing values as NaN rows."
        )
    return pd.date_range(times.iloc[-1], periods=prediction_length + 1, freq=frequency)[1:]
