"""The streams of an online study: series as they are, rows of generated datasets as series of their own."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hf_tsdyn.channel_scaling import channel_statistics
from hf_tsdyn.data.series import SPLITS, SeriesDataset
from hf_tsdyn.data.trajectories import TrajectoryDataset
from hf_tsdyn.online.stream import Stream
from hf_tsdyn.results import write_atomically
from training.online_config import OnlineConfig


class OpenStream(NamedTuple):
    """A stream up to the end of its stretch.

    validation: its first row, the first that the training rows do not hold. start: first row of the stretch.
    fingerprint: of the series and its options, as runs of pre-training record it.
    loc, scale: (channels,), of the training rows.
    """

    stream: Stream
    validation: int
    start: int
    fingerprint: str
    loc: np.ndarray
    scale: np.ndarray

    @property
    def stop(self) -> int:
        """The first row after the stretch."""
        return len(self.stream)


def series_path(config: OnlineConfig, dataset: str) -> Path:
    """Return the file of a dataset's series; that of a generated dataset is what `export_row` writes."""
    path = Path(config.datasets[dataset])
    return Path(config.output_dir, "streams", f"{dataset}.npy") if _is_generated(path) else path


def _is_generated(path: Path) -> bool:
    return (path / "manifest.json").is_file()


def export_row(config: OnlineConfig, dataset: str) -> None:
    """Write the row of a generated dataset as an NPY file, (time, channels), unless it lies there; others stay.

    Raises: FileNotFoundError without the dataset; ValueError if it has no such row, or another series lies there.
    """
    path, options = Path(config.datasets[dataset]), config.streams[dataset]
    if not path.exists():
        raise FileNotFoundError(
            f"datasets.{dataset} must be a series or a generated dataset, found nothing at {str(path)!r}; give "
            f"--datasets.{dataset}."
        )
    if not _is_generated(path):
        return
    source = TrajectoryDataset(path, options.split)
    row = _find_row(source, options.row, dataset)
    content = io.BytesIO()
    np.save(content, np.ascontiguousarray(source.values(row).T))
    file = series_path(config, dataset)
    if not file.exists():
        write_atomically(file, content.getvalue())
    elif file.read_bytes() != content.getvalue():
        raise ValueError(
            f"{file} must be row {options.row!r} of {path}, found another series, of an earlier launch; choose another "
            "--output_dir, or delete it."
        )


def _find_row(source: TrajectoryDataset, row: int | str, dataset: str) -> int:
    if isinstance(row, int):
        found = row if 0 <= row < len(source) else None
    else:
        found = next((place for place in range(len(source)) if source[place].item_id == row), None)
    if found is None:
        raise ValueError(
            f"streams.{dataset}.row must be one of the {len(source)} rows of {source.path}, split {source.split!r}, by "
            f"number or item_id, found {row!r}; correct it."
        )
    return found


def open_stream(config: OnlineConfig, dataset: str) -> OpenStream:
    """Return a dataset's stream, its splits beside one another.

    Raises: ValueError or OSError, as `SeriesDataset` does, or on a file of several series.
    """
    path, options = series_path(config, dataset), config.streams[dataset].series
    parts = [SeriesDataset(path, split, context_length=0, options=options) for split in SPLITS]
    if len(parts[0]) != 1:
        raise ValueError(f"datasets.{dataset} must be one series, found {len(parts[0])} in {path}; name a single file.")
    validation, start, stop = np.cumsum([part.lengths[0] for part in parts]).tolist()
    whole = Stream.from_dataset(parts[0])
    features = None if whole.time_features is None else whole.time_features[:stop]
    stream = Stream(whole.values[:stop], features, whole.channel_names, dataset)
    loc, scale = channel_statistics([parts[0].values(0)], stream.num_channels)
    return OpenStream(stream, validation, start, parts[0].fingerprint, loc, scale)
