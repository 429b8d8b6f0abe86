"""The trajectory schema and a reader that never copies a value."""

import difflib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Features, List, Value

FORMAT_VERSION = 1

FEATURES = Features(
    {
        "item_id": Value("string"),
        "start": Value("timestamp[s]"),
        "freq": Value("string"),
        "target": List(List(Value("float32"))),
        "system": Value("string"),
        "split": Value("string"),
        "dt": Value("float64"),
        "period": Value("float64"),
        "lyapunov_time": Value("float64"),
        "parameters": Value("string"),
        "initial_condition": List(Value("float64")),
        "seed": Value("string"),
        "checks": Value("string"),
        "generation": Value("string"),
    }
)


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One evenly sampled trajectory of one system.

    Fields:
        values: (channels, time), read-only view of the file, in the system's own units; NaN = unseen.
        dt, period, lyapunov_time: in the system's own time; no `lyapunov_time` where none can be trusted.
        initial_condition: the state at the first stored point; with `parameters` it reproduces the row.
        generation: how the row was made; where its parameters switch, `schedule` says when and to what.
    """

    item_id: str
    system: str
    split: str
    values: np.ndarray
    dt: float
    period: float
    lyapunov_time: float | None
    parameters: dict[str, Any]
    initial_condition: np.ndarray
    generation: dict[str, Any] = field(default_factory=dict)


class TrajectoryDataset:
    """Serve the trajectories of one split of a dataset folder as views of its memory-mapped files.

    Nothing is loaded: opening reads the row offsets, and only pages that are used are ever in memory.
    It pickles as its path and the rows it holds, so that sending it to a worker costs nothing.

    Args:
        path: a folder written by `python -m data_generation`.
        split: one of the splits the folder's manifest names.
        systems: keep the rows of these systems, in the order of the files; all of them by default.
    Attributes:
        num_channels, lengths: (rows,) of each trajectory.
        systems: the system of each row.
        fingerprint: the manifest's hash over every file of the folder, whatever the split and the systems.
    Raises:
        FileNotFoundError: no folder, no manifest, or a file that the manifest names is gone.
        ValueError: a half-written file, an unknown split or system, another schema, null values, or
            a row whose channels differ in length.
    """

    def __init__(self, path: str | os.PathLike[str], split: str, *, systems: Sequence[str] | None = None):
        self.path = Path(path)
        self.split = split
        manifest = load_manifest(self.path)
        self.fingerprint: str = manifest["fingerprint"]
        shards = _shards_of_split(self.path, manifest, split)
        self._batches = [batch for shard in shards for batch in _open_shard(shard)]
        targets = [_flatten_target(batch) for batch in self._batches]
        self._floats = [target.floats for target in targets]
        batch_sizes = [batch.num_rows for batch in self._batches]
        self._batch_of_row = np.repeat(np.arange(len(batch_sizes)), batch_sizes)
        self._place_in_batch = np.concatenate([np.arange(size) for size in batch_sizes])
        self._offsets = np.concatenate([target.offsets for target in targets])
        self.num_channels = np.concatenate([target.num_channels for target in targets])
        self.lengths = np.concatenate([target.lengths for target in targets])
        self.systems: list[str] = [name for batch in self._batches for name in batch.column("system").to_pylist()]
        self._rows: np.ndarray | None = None
        if systems is not None:
            self._keep(_rows_of_systems(self.systems, systems))

    def _keep(self, rows: np.ndarray) -> None:
        self._batch_of_row = self._batch_of_row[rows]
        self._place_in_batch = self._place_in_batch[rows]
        self._offsets = self._offsets[rows]
        self.num_channels = self.num_channels[rows]
        self.lengths = self.lengths[rows]
        self.systems = [self.systems[row] for row in rows]
        self._rows = rows

    def __len__(self) -> int:
        return len(self.lengths)

    def __repr__(self) -> str:
        return f"TrajectoryDataset({str(self.path)!r}, {self.split!r}, {len(self)} trajectories)"

    def __iter__(self) -> Iterator[Trajectory]:
        return (self[row] for row in range(len(self)))

    def values(self, row: int) -> np.ndarray:
        """Return (channels, time) float32 of one row: a read-only view of the file."""
        offset = self._offsets.item(row)
        shape = (self.num_channels.item(row), self.lengths.item(row))
        return np.ndarray(shape, np.float32, self._floats[self._batch_of_row.item(row)], 4 * offset)

    def time_features(self, row: int) -> None:
        """Return None: the time of a system of equations has no calendar."""
        return None

    def __getitem__(self, row: int) -> Trajectory:
        batch, place = self._batches[self._batch_of_row[row]], self._place_in_batch.item(row)

        def cell(name: str) -> Any:
            return batch.column(name)[place].as_py()

        return Trajectory(
            item_id=cell("item_id"),
            system=cell("system"),
            split=cell("split"),
            values=self.values(row),
            dt=cell("dt"),
            period=cell("period"),
            lyapunov_time=cell("lyapunov_time"),
            parameters=json.loads(cell("parameters")),
            initial_condition=np.array(cell("initial_condition"), dtype=np.float64),
            generation=json.loads(cell("generation")),
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "split": self.split, "rows": self._rows, "fingerprint": self.fingerprint}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], state["split"])
        if self.fingerprint != state["fingerprint"]:
            raise ValueError(
                f"{self.path} must hold the data it held when this dataset was pickled (fingerprint "
                f"{state['fingerprint']!r}), found {self.fingerprint!r}; open it again instead of unpickling."
            )
        if state["rows"] is not None:
            self._keep(state["rows"])


def load_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Load the manifest of a dataset folder.

    Raises: FileNotFoundError without a folder or a manifest; ValueError on a damaged one, or another format version."""
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"path must be a dataset folder, found nothing at {str(folder)!r}; "
            "write one with `python -m data_generation`, or correct the path."
        )
    file = folder / "manifest.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"a finished dataset folder must hold manifest.json, found none in {str(folder)!r}; "
            "if its generation was interrupted, run the same command again to finish it."
        )
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{file} must be whole, found {file.stat().st_size} bytes that are not JSON ({error}): it was cut short "
            "or changed; copy it again, or run the same generation command again, which writes it anew."
        ) from error
    if not isinstance(manifest, dict):
        raise ValueError(
            f"{file} must hold a JSON object, found {manifest!r}; copy it again, or run the same generation command."
        )
    if manifest.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{file} must have format_version {FORMAT_VERSION}, found {manifest.get('format_version')!r}; "
            "generate the dataset again with this version of hf_tsdyn."
        )
    return manifest


def _shards_of_split(folder: Path, manifest: dict[str, Any], split: str) -> list[Path]:
    splits = sorted({shard["split"] for shard in manifest["shards"] if shard["num_rows"] > 0})
    if split not in splits:
        raise ValueError(f"split must be one that {folder} holds, {splits}, found {split!r}; choose one of them.")
    shards = [shard for shard in manifest["shards"] if shard["split"] == split and shard["num_rows"] > 0]
    for shard in shards:
        file = folder / shard["file"]
        if not file.is_file():
            raise FileNotFoundError(
                f"{folder} must hold every file of its manifest, found no {shard['file']!r}; "
                "copy it again, or run the same generation command again."
            )
        if file.stat().st_size != shard["num_bytes"]:
            raise ValueError(
                f"{file} must have the {shard['num_bytes']} bytes its manifest records, "
                f"found {file.stat().st_size}: it is half-written; copy it again, or delete it and run the "
                "same generation command again."
            )
    return [folder / shard["file"] for shard in shards]


def _open_shard(file: Path) -> list[pa.RecordBatch]:
    with pa.ipc.open_stream(pa.memory_map(str(file))) as reader:
        expected = FEATURES.arrow_schema
        wrong = [
            name
            for name in expected.names
            if name not in reader.schema.names or reader.schema.field(name).type != expected.field(name).type
        ]
        if wrong:
            found = {name: str(reader.schema.field(name).type) for name in wrong if name in reader.schema.names}
            raise ValueError(
                f"{file} must have the columns of hf_tsdyn.data.FEATURES, of which {wrong} are missing or "
                f"differ, found {found}; write it with that schema."
            )
        return [batch for batch in reader if batch.num_rows > 0]


class _Target(NamedTuple):
    """The target column of one record batch: all its values in a row, and where each trajectory lies."""

    floats: np.ndarray
    offsets: np.ndarray
    num_channels: np.ndarray
    lengths: np.ndarray


def _flatten_target(batch: pa.RecordBatch) -> _Target:
    rows = batch.column("target")
    channels = rows.values
    _check_no_nulls(batch)
    row_offsets = rows.offsets.to_numpy()
    channel_offsets = channels.offsets.to_numpy()
    num_channels = np.diff(row_offsets)
    channel_lengths = np.diff(channel_offsets)[row_offsets[0] : row_offsets[-1]]
    if (num_channels == 0).any():
        raise ValueError(_row_message(batch, int(np.argmin(num_channels)), "at least one channel", "none"))
    lengths = np.diff(channel_offsets)[row_offsets[:-1]]
    ragged = np.flatnonzero(np.repeat(lengths, num_channels) != channel_lengths)
    if ragged.size:
        place = int(np.searchsorted(row_offsets, row_offsets[0] + ragged[0], side="right")) - 1
        found = [len(channel) for channel in rows[place]]
        raise ValueError(_row_message(batch, place, "channels of one length", f"lengths {found}"))
    floats = channels.values.to_numpy(zero_copy_only=True)
    offsets = channel_offsets[row_offsets[:-1]].astype(np.int64)
    return _Target(floats, offsets, num_channels.astype(np.int64), lengths.astype(np.int64))


def _check_no_nulls(batch: pa.RecordBatch) -> None:
    rows = batch.column("target")
    if rows.null_count or rows.values.null_count or rows.values.values.null_count:
        place = next(
            place
            for place, row in enumerate(rows.to_pylist())
            if row is None or any(channel is None or None in channel for channel in row)
        )
        raise ValueError(_row_message(batch, place, "no nulls (an unseen value is NaN)", "a null"))


def _row_message(batch: pa.RecordBatch, place: int, rule: str, found: str) -> str:
    item_id = batch.column("item_id")[place].as_py()
    return f"the target of every trajectory must have {rule}, found {found} in {item_id!r}; write it again."


def _rows_of_systems(systems_of_rows: list[str], systems: Sequence[str]) -> np.ndarray:
    known = sorted(set(systems_of_rows))
    for name in systems:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=5) or known[:5]
            raise ValueError(
                f"systems must be among the {len(known)} of the split, found {name!r}; did you mean {close}?"
            )
    kept = set(systems)
    return np.flatnonzero([system in kept for system in systems_of_rows])
