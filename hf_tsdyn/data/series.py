"""A user's own series, tables or NPY files, as a dataset that windows are cut from."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from hf_tsdyn.data.series_files import SeriesFile, find_series_files, read_series_file
from hf_tsdyn.data.time_features import time_features
from hf_tsdyn.data.trajectories import Trajectory

SPLITS = ("train", "validation", "test")
MONTH = 30 * 24 * 3600
"""Seconds of a month of 30 days, the unit in which benchmarks of electricity transformers (ETT) cut their series."""


class TrajectorySource(Protocol):
    """What windows are cut from: `TrajectoryDataset`, `SeriesDataset` and whatever reads as they do."""

    path: Path
    split: str
    num_channels: np.ndarray
    lengths: np.ndarray
    systems: list[str]
    fingerprint: str

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Trajectory: ...

    def values(self, row: int) -> np.ndarray: ...

    def time_features(self, row: int) -> np.ndarray | None: ...


@dataclass(frozen=True)
class SeriesOptions:
    """Which columns are read, and where a series is cut into splits.

    Of a series of T steps the last floor(test_share T) are the test split, the floor(validation_share T) before
    them the validation split, all others the training split. The shares count as the decimal numbers that they are
    written as, so that rounding moves no border. With `months` the shares count for nothing.

    Args:
        columns: channels to keep, in this order; all by default. Those of an NPY file are called "0", "1", ...
        time_column: numbers or dates that are no channel; by default the first column of a table if it holds dates.
        months: lengths of training, validation and test split, in months of 30 days, from the first step on; what
            comes after them belongs to no split. (12, 4, 4) cuts hourly series before steps 8640, 11520 and 14400,
            as is the custom for ETTh1 and ETTh2.
        time_features: describe the place of each step in the calendar too, as `hf_tsdyn.data.time_features` does, for
            models that read it beside the values; needs dates.
    Raises: ValueError on shares below 0 or that leave nothing to train on, columns that are none or repeated, or months
        that are not three whole numbers, the first of them above 0."""

    columns: tuple[str, ...] | None = None
    time_column: str | None = None
    validation_share: float = 0.15
    test_share: float = 0.15
    months: tuple[int, int, int] | None = None
    time_features: bool = False

    def __post_init__(self) -> None:
        shares = (self.validation_share, self.test_share)
        if not min(shares) >= 0 or not sum(shares) < 1:
            raise ValueError(
                f"validation_share and test_share must be at least 0 and together below 1, found {shares}; change them."
            )
        if self.columns is not None and len(set(self.columns)) != max(len(self.columns), 1):
            raise ValueError(
                f"columns must name at least one channel, and none twice, found {self.columns!r}; change them, or "
                "leave them out to take all."
            )
        months = (1, 0, 0) if self.months is None else self.months
        if len(months) != 3 or not all(isinstance(month, int) for month in months) or min(months) < 0 or months[0] < 1:
            raise ValueError(
                "months must be three whole numbers, those of training (at least 1), validation and test, found "
                f"{self.months!r}; give (12, 4, 4)."
            )

    def part(
        self, split: str, num_steps: int, *, seconds: float | None = None, name: str = "the series"
    ) -> tuple[int, int]:
        """Return the first step of `split` in a series of `num_steps`, and the first one after it.

        Args:
            seconds: from one step to the next; None where times are no dates, which `months` cannot do without.
            name: of the series, for messages.
        Raises: ValueError where `months` find no dates, steps that do not divide a month, or too few of them."""
        borders = self._borders(num_steps) if self.months is None else self._month_borders(num_steps, seconds, name)
        place = SPLITS.index(split)
        return borders[place], borders[place + 1]

    def _borders(self, num_steps: int) -> tuple[int, ...]:
        num_test, num_validation = (
            int(Fraction(str(share)) * num_steps) for share in (self.test_share, self.validation_share)
        )
        return 0, num_steps - num_test - num_validation, num_steps - num_test, num_steps

    def _month_borders(self, num_steps: int, seconds: float | None, name: str) -> tuple[int, ...]:
        if seconds is None:
            raise ValueError(
                f"months={self.months} must be counted between dates, found none in {name}; name their column with "
                "time_column, or leave months out and cut by validation_share and test_share."
            )
        steps = MONTH / Fraction(seconds).limit_denominator(10**6)
        if steps.denominator != 1:
            raise ValueError(
                f"the time between two steps must divide a month of 30 days, {MONTH} seconds, found {seconds:g} "
                f"seconds in {name}; leave months out and cut by validation_share and test_share, or resample."
            )
        borders = tuple(month * int(steps) for month in accumulate(self.months or (), initial=0))
        if borders[-1] > num_steps:
            raise ValueError(
                f"a series must have the {borders[-1]} steps that months={self.months} take, found {num_steps} in "
                f"{name}; give fewer months, or a longer series."
            )
        return borders


class SeriesDataset:
    """Serve one split of a table or NPY file, or of a folder of them, split by time within each series.

    A table (CSV, Parquet, Arrow, Feather) names its columns and has one row per step; an empty cell is unseen. An NPY
    file is (time,), (time, channels) or (series, time, channels), one row each; NaN is unseen. The steps of a file are
    evenly spaced: a step of which nothing was seen has a row of its own. Values are float32: an NPY file of that type
    is mapped into memory, all else is loaded. It pickles as its path.

    Rows of validation and test begin `context_length` steps before their split (as far as there are any), so that
    windows with that context have every target inside the split, and each step of the split can be a target.
    In a `Trajectory`, `system` is the file's name without its ending and `item_id` the same with the number of
    the series; `dt` is in seconds for dates, in the time column's units for numbers, else 1; `period` is NaN.

    Args:
        path: a file, or a folder whose tables and NPY files are read in the order of their names.
        context_length: that of the windows to come; 0 where windows have no targets (masked modelling).
    Attributes:
        num_channels, lengths: (rows,) of each row.
        systems, channel_names: of each row.
        fingerprint: hash over the files' contents and the options, whatever the split and `context_length`.
    Raises:
        FileNotFoundError: nothing at `path`, or a folder without such files.
        ValueError: a split without a step; a file that is no series of finite numbers; columns that are
            missing or not numeric; files with the same columns in another order; times that are missing, out of
            order or unevenly spaced; no dates where time features are asked for; names that repeat.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: Literal["train", "validation", "test"],
        *,
        context_length: int,
        options: SeriesOptions | None = None,
    ):
        if split not in SPLITS or context_length < 0:
            raise ValueError(
                f"split must be one of {SPLITS} and context_length at least 0, found {split!r} and "
                f"{context_length!r}; change them."
            )
        self.path = Path(path)
        self.split = split
        self.context_length = context_length
        self.options = options = options or SeriesOptions()
        files = find_series_files(self.path)
        self.fingerprint = _hash(files, options)
        self._values: list[np.ndarray] = []
        self._item_ids: list[str] = []
        self._dts: list[float] = []
        self._times: list[np.ndarray | None] = []
        self._time_features: list[np.ndarray | None] = []
        self.systems: list[str] = []
        self.channel_names: list[tuple[str, ...]] = []
        orders: dict[frozenset[str], tuple[Path, tuple[str, ...]]] = {}
        for file in files:
            content = read_series_file(file, columns=options.columns, time_column=options.time_column)
            names = content.channel_names
            _check_same_order((file, names), orders.setdefault(frozenset(names), (file, names)))
            self._add(file, content)
        self.num_channels = np.array([len(values) for values in self._values])
        self.lengths = np.array([values.shape[1] for values in self._values])

    def _add(self, file: Path, content: SeriesFile) -> None:
        for number, series in enumerate(content.series):
            seconds = None if content.times is None else content.dt
            first, end = self.options.part(self.split, series.shape[1], seconds=seconds, name=str(file))
            if first == end:
                raise ValueError(
                    f"the {self.split} split must hold at least one step, found none of the {series.shape[1]} of "
                    f"{file}; raise its share, or its months."
                )
            item_id = file.stem if len(content.series) == 1 else f"{file.stem}-{number}"
            if item_id in self._item_ids:
                raise ValueError(f"series must have different names, found {item_id!r} twice; rename {file}.")
            if self.split != "train":
                first = max(first - self.context_length, 0)
            self._values.append(_read_only(np.asarray(series[:, first:end], np.float32)))
            self._item_ids.append(item_id)
            self._dts.append(content.dt)
            times = None if content.times is None else _read_only(content.times[first:end])
            self._times.append(times)
            self._time_features.append(_features(times, file) if self.options.time_features else None)
            self.systems.append(file.stem)
            self.channel_names.append(content.channel_names)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"SeriesDataset({str(self.path)!r}, {self.split!r}, {len(self)} series)"

    def __iter__(self) -> Iterator[Trajectory]:
        return (self[row] for row in range(len(self)))

    def values(self, row: int) -> np.ndarray:
        """Return (channels, time) float32 of one row, read-only."""
        return self._values[row]

    def times(self, row: int) -> np.ndarray | None:
        """Return when each step of one row was: (time,) datetime64[s], read-only; None of a file without dates.

        Dates with a time zone are in UTC; steps that lie between seconds have a finer unit."""
        return self._times[row]

    def time_features(self, row: int) -> np.ndarray | None:
        """Return the place of each step of one row in the calendar: (features, time) float32, read-only.

        `hf_tsdyn.data.time_features` says which features; None unless the options ask for them."""
        return self._time_features[row]

    def __getitem__(self, row: int) -> Trajectory:
        values = self._values[row]
        return Trajectory(
            item_id=self._item_ids[row],
            system=self.systems[row],
            split=self.split,
            values=values,
            dt=self._dts[row],
            period=float("nan"),
            lyapunov_time=None,
            parameters={},
            initial_condition=values[:, 0].astype(np.float64),
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("path", "split", "context_length", "options", "fingerprint")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        fingerprint = state.pop("fingerprint")
        self.__init__(state.pop("path"), state.pop("split"), **state)
        if self.fingerprint != fingerprint:
            raise ValueError(
                f"{self.path} must hold the values it held when this dataset was pickled (fingerprint "
                f"{fingerprint!r}), found {self.fingerprint!r}; open it again instead of unpickling."
            )


def _check_same_order(found: tuple[Path, tuple[str, ...]], first: tuple[Path, tuple[str, ...]]) -> None:
    """Refuse a file with the channels of another one in another order: models tell channels by their place."""
    if found[1] != first[1]:
        raise ValueError(
            f"files with the same columns must have them in the same order, found {list(first[1])} in {first[0]} and "
            f"{list(found[1])} in {found[0]}; give the order with columns."
        )


def _features(times: np.ndarray | None, file: Path) -> np.ndarray:
    if times is None:
        raise ValueError(
            f"time_features must be those of dates, found none in {file}; name their column with time_column, or leave "
            "time_features out."
        )
    return _read_only(np.ascontiguousarray(time_features(times).T))


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


def _hash(files: list[Path], options: SeriesOptions) -> str:
    idle = {"months"} if options.months is None else {"validation_share", "test_share"}
    idle |= set() if options.time_features else {"time_features"}
    deciding = {name: value for name, value in asdict(options).items() if name not in idle}
    digest = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode())
    for file in files:
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()
