"""The series of a sweep: the part to train on, the smoothed part that selects, and the part that scores."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hf_tsdyn.data.series import SPLITS, SeriesOptions
from hf_tsdyn.data.series_files import read_series_file
from hf_tsdyn.data.trajectories import TrajectoryDataset, load_manifest
from hf_tsdyn.models.alrnn.fitting import smooth


@dataclass(frozen=True, kw_only=True)
class SweepData(SeriesOptions):
    """One series, where it is cut, and what its models are selected and scored on.

    Args:
        path: a CSV, NPY, Parquet or Arrow file, or the folder of a dataset of trajectories.
        test_path: of another series of the same system, without noise if there is one; null scores on the last
            `test_share` of this one.
        item: which series, where a path holds several: its number, from 0, or in a dataset of trajectories an item_id,
            or a system, for its first row; null takes the only one.
        train_smoothing: standard deviation, in steps, of the Gaussian that the training part is smoothed with, to take
            noise from a series that is sampled finely; 0 trains on it as it is.
        validation_smoothing: the same of the validation part, so that a noisy series does not select the models that
            reproduce its noise; 0 for a clean one.
    Raises: ValueError as `SeriesOptions` does, on a cut by months, no validation part, two test parts, or a negative
        smoothing."""

    path: str
    test_path: str | None = None
    item: int | str | None = None
    validation_share: float = 0.2
    test_share: float = 0.0
    train_smoothing: float = 0.0
    validation_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.months is not None:
            raise ValueError(f"a sweep must be cut by shares, found data.months={self.months}; leave it out.")
        if self.time_features:
            raise ValueError("a sweep's models read no dates, found data.time_features; leave it out.")
        if self.validation_share == 0:
            raise ValueError("data.validation_share must be above 0, found 0; it selects checkpoints: give 0.2.")
        if self.test_path is not None and self.test_share > 0:
            raise ValueError(
                f"a sweep must have one test series, found data.test_path={self.test_path!r} and data.test_share="
                f"{self.test_share}; keep one of them."
            )
        for name in ("train_smoothing", "validation_smoothing"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(
                    f"data.{name} must be finite and not negative, found {getattr(self, name)}; it counts steps."
                )


@dataclass(frozen=True, eq=False)
class SweepSeries:
    """The parts of a series, (time, channels) float64 in data units, and the hashes of the files behind them."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray | None
    fingerprint: str
    test_fingerprint: str | None

    @property
    def num_channels(self) -> int:
        return self.train.shape[1]


def load_series(data: SweepData) -> SweepSeries:
    """Read and cut the series.

    Raises: FileNotFoundError; ValueError on gaps, a channel that does not vary, a part without a step, test data with
        other channels or that are the training series, several series of which `item` chooses none, or an `item` that
        is not there.
    """
    values, fingerprint = read_series(data, option="data.path")
    (_, end), validation, (test_start, _) = (data.part(split, len(values)) for split in SPLITS)
    train = values[:end]
    flat = np.flatnonzero((train == train[:1]).all(axis=0))
    if not len(train) or flat.size:
        raise ValueError(
            f"the training part must vary in every channel, found {len(train)} steps, constant in channels "
            f"{flat.tolist()}, in {data.path}; choose columns, or lower the shares."
        )
    if validation[0] == validation[1]:
        raise ValueError(
            f"the validation part must hold at least one step, found none of {len(values)} with "
            f"data.validation_share={data.validation_share}; raise it."
        )
    train = smooth(train, data.train_smoothing)
    selecting = smooth(values[slice(*validation)], data.validation_smoothing)
    test, test_fingerprint = (values[test_start:], None) if data.test_share > 0 else (None, None)
    if data.test_path is not None:
        test, test_fingerprint = read_series(
            replace(data, path=data.test_path, test_path=None), option="data.test_path"
        )
        if test.shape[1] != values.shape[1]:
            raise ValueError(
                f"test and training series must have the same channels, found {test.shape[1]} in {data.test_path} and "
                f"{values.shape[1]} in {data.path}; choose columns."
            )
        if test_fingerprint == fingerprint or same_values(test, values):
            raise ValueError(
                f"the test series must be another one than that of training, found the same in {data.test_path} and "
                f"{data.path}; name another with --data.test_path, or cut a test part off with --data.test_share."
            )
    return SweepSeries(train, selecting, test, fingerprint, test_fingerprint)


def same_values(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two series are one, but for the last digits that a file of text may lose."""
    return one.shape == other.shape and np.allclose(one, other, rtol=1e-9, atol=0)


def read_series(data: SweepData, *, option: str) -> tuple[np.ndarray, str]:
    """Return the whole series (time, channels) at `data.path`, float64, and the fingerprint of its file.

    Args:
        option: of the command line that names the path, for messages.
    Raises: FileNotFoundError; ValueError on gaps, or not one series that is meant.
    """
    path = Path(data.path)
    if not path.exists():
        raise FileNotFoundError(
            f"a series must lie where --{option} says, found nothing at {str(path)!r}; give --{option} FILE."
        )
    values, fingerprint = (_read_dataset if path.is_dir() else _read_file)(data, path, option)
    values = np.array(values.T, dtype=np.float64, order="C")  # a copy: that of a file is read-only
    gaps = np.argwhere(~np.isfinite(values))
    if len(gaps):
        raise ValueError(
            f"a series must have a finite value in every channel at every step, found {len(gaps)} that are not, the "
            f"first at step {gaps[0][0]} of channel {gaps[0][1]}, in {path}; fill gaps or choose columns."
        )
    return values, fingerprint


def _read_file(data: SweepData, path: Path, option: str) -> tuple[np.ndarray, str]:
    series = read_series_file(path, columns=data.columns, time_column=data.time_column).series
    number = 0 if data.item is None and len(series) == 1 else data.item
    if not isinstance(number, int) or number not in range(len(series)):
        raise ValueError(
            f"--{option} must leave no doubt which of the {len(series)} series in {path} is meant, found item "
            f"{data.item!r}; {_choice(option)}."
        )
    with path.open("rb") as content:
        return series[number], hashlib.file_digest(content, "sha256").hexdigest()


def _choice(option: str) -> str:
    """What to do where a path holds several series; only some commands have an option for it."""
    by_number = "choose one with --data.item, a number from 0 (of trajectories also an item_id or a system)"
    return by_number if option.startswith("data.") else "name a path that holds that one alone"


def _read_dataset(data: SweepData, path: Path, option: str) -> tuple[np.ndarray, str]:
    if data.columns is not None or data.time_column is not None:
        raise ValueError(
            f"data.columns and data.time_column must be left out with a dataset of trajectories, found "
            f"{data.columns} and {data.time_column!r} for {path}; the channels of one have no names."
        )
    manifest = load_manifest(path)
    splits = {shard["split"] for shard in manifest["shards"] if shard["num_rows"] > 0}
    rows = [row for split in SPLITS if split in splits for row in TrajectoryDataset(path, split)]
    for number, row in enumerate(rows):
        if data.item in (number, row.item_id, row.system) or (data.item is None and len(rows) == 1):
            return row.values, manifest["fingerprint"]
    raise ValueError(
        f"--{option} must leave no doubt which of the {len(rows)} trajectories in {path} is meant, found item "
        f"{data.item!r}; {_choice(option)}."
    )
