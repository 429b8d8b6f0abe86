"""Write trajectories as local Parquet tasks of fev, the forecast evaluation library.

    python -m hf_tsdyn.adapters.fev_tasks DATA TASKS --prediction_length 64 --num_windows 4

DATA is a dataset folder that `python -m data_generation` wrote. fev wants a column for each channel and the same
columns in every row: systems with equally many channels make one task, TASKS/channels-<N>.parquet, and tasks.yaml
lists the tasks. `hf_tsdyn.adapters.fev.read_tasks` reads them, and so does fev itself (`fev.Benchmark.from_yaml`) from
within TASKS. Writing needs no fev.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from ..data import TrajectoryDataset, TrajectorySource
from ..distributions import check_quantile_levels
from ..forecasting import check_prediction_length
from ..results import write_atomically
from .series_forecasts import DECILES

TASKS_FILE = "tasks.yaml"
ROWS_PER_GROUP = 64


@dataclass(frozen=True)
class TaskOptions:
    """What the tasks ask for.

    Args:
        prediction_length: steps of each forecast.
        num_windows: at the end of each series, one after the other; the last ends where the series ends.
        window_step: from the beginning of a window to that of the next; by default `prediction_length`.
        context_length: the most steps before a window that a model is given; all by default.
        quantile_levels: that models must forecast.
        seasonality: steps apart of the differences by which MASE and SQL divide.
        start, freq: time of the first step and pandas' name of the sampling interval. Those of generated data by
            default, where `dt` holds the truth.
    Raises: ValueError on impossible lengths, levels or frequency.
    """

    prediction_length: int
    num_windows: int = 1
    window_step: int | None = None
    context_length: int | None = None
    quantile_levels: Sequence[float] = DECILES
    seasonality: int = 1
    start: str = "1970-01-01"
    freq: str = "s"

    def __post_init__(self) -> None:
        check_prediction_length(self.prediction_length)
        check_quantile_levels(self.quantile_levels)
        for name in ("num_windows", "window_step", "context_length", "seasonality"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, found {value!r}; leave it out for the default.")
        if pd.infer_freq(self.times(4)) is None:
            raise ValueError(f"fev must be able to tell freq from the times, which it cannot of {self.freq!r}.")

    @property
    def step(self) -> int:
        """Steps from the beginning of a window to that of the next."""
        return self.prediction_length if self.window_step is None else self.window_step

    @property
    def min_length(self) -> int:
        """Fewest steps of a series: those of all windows and one before them; fev tells freq from three."""
        return max(3, 1 + self.prediction_length + (self.num_windows - 1) * self.step)

    def times(self, num_steps: int) -> pd.DatetimeIndex:
        """Return the times of a series."""
        return pd.date_range(self.start, periods=num_steps, freq=self.freq, unit="us")

    def task(self, name: str, file: str, target: list[str]) -> dict[str, Any]:
        """Return the arguments of `fev.Task`."""
        return {
            "task_name": name,
            "dataset_path": file,
            "horizon": self.prediction_length,
            "num_windows": self.num_windows,
            "window_step_size": self.step,
            "max_context_length": self.context_length,
            "seasonality": self.seasonality,
            "eval_metric": "MASE",
            "extra_metrics": ["MSE", "MAE", "SMAPE", "WQL", "SQL"],
            "quantile_levels": list(self.quantile_levels),
            "target": target,
        }


def export_tasks(source: TrajectorySource, folder: str | os.PathLike[str], options: TaskOptions) -> list[Path]:
    """Write the series of a dataset as fev tasks, one for each number of channels, and return the Parquet files.

    A row has `id` (the trajectory's `item_id`), `timestamp`, one float32 column for each channel, `channel_0`,
    `channel_1`, ... (so many digits that fev, which sorts names, keeps the order), and `system`. NaN stays NaN, which
    fev leaves out of the scores. The same data and options give the same bytes; what earlier tasks the folder holds
    are replaced.

    Raises: ValueError, naming the series, on one too short for the windows, or two with one `item_id`.
    """
    _check_series(source, options)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TASKS_FILE).unlink(missing_ok=True)  # written last: where it stands, all its files are whole
    files, tasks = [], []
    for num_channels in sorted(set(source.num_channels.tolist())):
        rows = np.flatnonzero(source.num_channels == num_channels).tolist()
        names = [f"channel_{number:0{len(str(num_channels - 1))}d}" for number in range(num_channels)]
        files.append(folder / f"channels-{num_channels}.parquet")
        _write_rows(source, rows, names, files[-1], options)
        tasks.append(options.task(f"{source.path.name}-{source.split}-{files[-1].stem}", files[-1].name, names))
    write_atomically(folder / TASKS_FILE, yaml.safe_dump({"tasks": tasks}, sort_keys=False).encode())
    return files


def _check_series(source: TrajectorySource, options: TaskOptions) -> None:
    seen = set()
    for row in range(len(source)):
        item_id, length = source[row].item_id, int(source.lengths[row])
        if length < options.min_length:
            raise ValueError(
                f"every series must have at least {options.min_length} steps, those of {options.num_windows} windows "
                f"and some before them, found {length} in {item_id!r}; ask for fewer or shorter windows."
            )
        if item_id in seen:
            raise ValueError(f"every series must have an item_id of its own, found {item_id!r} twice; rename one.")
        seen.add(item_id)


def _write_rows(source: TrajectorySource, rows: list[int], names: list[str], file: Path, options: TaskOptions) -> None:
    schema = pa.schema(
        [("id", pa.string()), ("system", pa.string()), ("timestamp", pa.list_(pa.timestamp("us")))]
        + [(name, pa.list_(pa.float32())) for name in names]
    )
    with pq.ParquetWriter(file, schema) as writer:
        for first in range(0, len(rows), ROWS_PER_GROUP):
            group = rows[first : first + ROWS_PER_GROUP]
            lengths = source.lengths[group]
            offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())

            def lists(arrays: list[np.ndarray], offsets: pa.Array = offsets) -> pa.Array:
                return pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(arrays)))

            values = [source.values(row) for row in group]
            columns = [
                pa.array([source[row].item_id for row in group]),
                pa.array([source.systems[row] for row in group]),
                lists([options.times(length).to_numpy() for length in lengths.tolist()]),
                *(lists([each[channel] for each in values]) for channel in range(len(names))),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def main() -> None:
    """Write one split of a dataset as tasks and name the files."""
    parser = argparse.ArgumentParser(
        prog="python -m hf_tsdyn.adapters.fev_tasks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", type=Path, help="dataset folder")
    parser.add_argument("tasks", type=Path, help="folder to write")
    parser.add_argument("--split", default="test")
    parser.add_argument("--prediction_length", type=int, default=64)
    parser.add_argument("--num_windows", type=int, default=1)
    parser.add_argument("--window_step", type=int, help="prediction_length by default")
    parser.add_argument("--context_length", type=int, help="most steps that a model is given; all by default")
    arguments = parser.parse_args()
    options = TaskOptions(
        arguments.prediction_length,
        num_windows=arguments.num_windows,
        window_step=arguments.window_step,
        context_length=arguments.context_length,
    )
    dataset = TrajectoryDataset(arguments.data, arguments.split)
    for file in export_tasks(dataset, arguments.tasks, options):
        print(f"{file}: {pq.read_metadata(file).num_rows} series, {options.num_windows} windows each")


if __name__ == "__main__":
    main()
