"""Files that are either whole or not there: Arrow shards of trajectories, and small ones."""

import hashlib
import json
import os
import platform
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hf_tsdyn.data.trajectories import FEATURES

# Without dots or wildcards, as a part of a file's name.
_HOST = re.sub(r"\W", "_", platform.node())


@dataclass(frozen=True)
class WrittenFile:
    """What a reader needs to know that a file is whole."""

    num_rows: int
    num_bytes: int
    sha256: str


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Return JSON that is the same for equal values: keys sorted, floats exact, no NaN."""
    return json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False, indent=indent)


def write_bytes(file: Path, content: bytes, *, scratch_folder: Path) -> None:
    """Write a small file that is either whole or not there, by way of a folder on the same disk."""
    with _scratch_file(file, scratch_folder) as scratch:
        scratch.write_bytes(content)
        scratch.replace(file)


def write_shard(file: Path, batches: Iterable[Sequence[dict[str, Any]]], *, scratch_folder: Path) -> WrittenFile:
    """Write one shard as an uncompressed Arrow stream that is either whole or not there.

    Args:
        batches: rows with the columns of FEATURES, `target` as (channels, time) float32; each becomes a record
            batch, empty ones are left out.
        scratch_folder: where the file grows, on the same disk."""
    num_rows = 0
    with _scratch_file(file, scratch_folder) as scratch:
        with scratch.open("wb") as sink, pa.ipc.new_stream(sink, FEATURES.arrow_schema) as stream:
            for rows in batches:
                if rows:
                    stream.write_batch(record_batch(rows))
                    num_rows += len(rows)
        written = WrittenFile(num_rows, scratch.stat().st_size, hash_file(scratch))
        scratch.replace(file)
    return written


def remove_abandoned(scratch_folder: Path) -> None:
    """Remove what processes of this machine were writing when they were killed."""
    for scratch in scratch_folder.glob(f"*.{_HOST}.*.*"):
        process = int(scratch.name.split(".")[-2])
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            scratch.unlink(missing_ok=True)
        except PermissionError:
            continue


@contextmanager
def _scratch_file(file: Path, scratch_folder: Path) -> Iterator[Path]:
    # A worker that outlives its killed parent, or another run, may be writing the same file.
    scratch = scratch_folder / f"{file.name}.{_HOST}.{os.getpid()}.{uuid.uuid4().hex}"
    try:
        yield scratch
    except BaseException:
        # On a full disk, half a shard would take the room that finishing needs.
        scratch.unlink(missing_ok=True)
        raise


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
