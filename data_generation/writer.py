"""Files that are either whole or not there: Arrow shards of trajectories, and text."""

import hashlib
import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hf_tsdyn.data.trajectories import FEATURES


@dataclass(frozen=True)
class WrittenFile:
    """What a reader needs to know that a file is whole."""

    num_rows: int
    num_bytes: int
    sha256: str


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Return JSON that is the same for equal values: keys sorted, floats exact, no NaN."""
    return json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False, indent=indent)


def write_text(file: Path, text: str, *, scratch_folder: Path) -> None:
    """Write a text file that is either whole or not there, by way of a folder on the same disk."""
    scratch = _scratch_file(file, scratch_folder)
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(file)


def write_shard(file: Path, batches: Iterable[Sequence[dict[str, Any]]], *, scratch_folder: Path) -> WrittenFile:
    """Write one shard as an uncompressed Arrow stream that is either whole or not there.

    Args:
        batches: rows with the columns of FEATURES, `target` as (channels, time) float32; each becomes a record
            batch, empty ones are left out.
        scratch_folder: where the file grows, on the same disk."""
    scratch = _scratch_file(file, scratch_folder)
    num_rows = 0
    with scratch.open("wb") as sink, pa.ipc.new_stream(sink, FEATURES.arrow_schema) as stream:
        for rows in batches:
            if rows:
                stream.write_batch(record_batch(rows))
                num_rows += len(rows)
    written = WrittenFile(num_rows, scratch.stat().st_size, hash_file(scratch))
    scratch.replace(file)
    return written


def _scratch_file(file: Path, scratch_folder: Path) -> Path:
    # A worker that outlives its killed parent may still be writing the same shard.
    return scratch_folder / f"{file.name}.{uuid.uuid4().hex}"


def record_batch(rows: Sequence[dict[str, Any]]) -> pa.RecordBatch:
    """Return rows as one Arrow batch of the dataset's schema; every `target` is copied once."""
    schema = FEATURES.arrow_schema
    columns = [
        _target_column([row["target"] for row in rows])
        if field.name == "target"
        else pa.array([row[field.name] for row in rows], type=field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _target_column(targets: list[np.ndarray]) -> pa.ListArray:
    row_offsets = np.cumsum([0] + [len(target) for target in targets], dtype=np.int32)
    lengths = np.concatenate([np.full(len(target), target.shape[1]) for target in targets])
    channel_offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    channels = pa.ListArray.from_arrays(channel_offsets, np.concatenate([target.ravel() for target in targets]))
    return pa.ListArray.from_arrays(row_offsets, channels)


def hash_file(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
