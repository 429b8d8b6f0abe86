"""Files: whole or not there, the bytes that readers expect, the same every time."""

import datetime
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from data_generation.writer import _scratch_file, record_batch, remove_abandoned, to_json, write_bytes, write_shard
from hf_tsdyn.data.trajectories import FEATURES


def row(index: int, num_channels: int, num_points: int = 7, lyapunov_time: float | None = None) -> dict[str, Any]:
    rng = np.random.default_rng(index)
    return {
        "item_id": f"Lorenz-p000-i{index:02d}",
        "start": datetime.datetime(1970, 1, 1),
        "freq": "s",
        "target": rng.standard_normal((num_channels, num_points), dtype=np.float32),
        "system": "Lorenz",
        "split": "train",
        "dt": 0.1,
        "period": 1.5,
        "lyapunov_time": lyapunov_time,
        "parameters": "{}",
        "initial_condition": rng.standard_normal(num_channels),
        "seed": "{}",
        "checks": "{}",
        "generation": "{}",
    }


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    return [row(0, 3), row(1, 2, lyapunov_time=1.1), row(2, 1, num_points=9)]


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def test_a_batch_equals_one_made_of_lists(rows: list[dict[str, Any]]):
    slow = [{**entry, "target": entry["target"].tolist()} for entry in rows]
    assert record_batch(rows).equals(pa.RecordBatch.from_pylist(slow, schema=FEATURES.arrow_schema))


def test_a_shard_is_a_stream_with_the_features_in_its_schema(rows: list[dict[str, Any]], tmp_path: Path, scratch: Path):
    file = tmp_path / "train-00000.arrow"
    written = write_shard(file, [rows[:2], [], rows[2:]], scratch_folder=scratch)
    content = file.read_bytes()
    assert written.num_rows == 3
    assert written.num_bytes == len(content)
    assert written.sha256 == hashlib.sha256(content).hexdigest()
    with pa.ipc.open_stream(content) as reader:
        assert reader.schema.equals(FEATURES.arrow_schema, check_metadata=True)
        batches = list(reader)
    assert [batch.num_rows for batch in batches] == [2, 1]
    assert pa.Table.from_batches(batches).column("item_id").to_pylist() == [entry["item_id"] for entry in rows]
    assert batches[0].column("lyapunov_time").to_pylist() == [None, 1.1]
    assert not list(scratch.iterdir())


def test_equal_rows_give_equal_bytes(rows: list[dict[str, Any]], tmp_path: Path, scratch: Path):
    one, other = (write_shard(tmp_path / name, [rows], scratch_folder=scratch) for name in ("a.arrow", "b.arrow"))
    assert one == other


def test_a_shard_that_fails_leaves_no_file(rows: list[dict[str, Any]], tmp_path: Path, scratch: Path):
    def batches():
        yield rows
        raise ArithmeticError

    file = tmp_path / "train-00000.arrow"
    with pytest.raises(ArithmeticError):
        write_shard(file, batches(), scratch_folder=scratch)
    assert not file.exists()
    assert not list(scratch.iterdir())


def test_what_a_killed_process_was_writing_is_removed_and_nothing_else(scratch: Path):
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    for name in ("settings.json", "train-00000.json", "test.arrow.elsewhere.1.ab"):
        (scratch / name).touch()
    with _scratch_file(scratch / "mine.arrow", scratch) as mine:
        mine.touch()
        (scratch / mine.name.replace(f".{os.getpid()}.", f".{process.pid}.")).touch()
        assert len(list(scratch.glob("mine.arrow.*"))) == 2
        remove_abandoned(scratch)
        left = {"settings.json", "train-00000.json", "test.arrow.elsewhere.1.ab", mine.name}
        assert {file.name for file in scratch.iterdir()} == left


def test_a_shard_may_hold_no_row(tmp_path: Path, scratch: Path):
    file = tmp_path / "train-00000.arrow"
    assert write_shard(file, [[], []], scratch_folder=scratch).num_rows == 0
    with pa.ipc.open_stream(file.read_bytes()) as reader:
        assert reader.read_all().num_rows == 0


def test_a_small_file_replaces_what_was_there(tmp_path: Path, scratch: Path):
    file = tmp_path / "text"
    for text in ("long text", "é"):
        write_bytes(file, text.encode(), scratch_folder=scratch)
    assert file.read_text(encoding="utf-8") == "é"
    assert not list(scratch.iterdir())


def test_json_is_sorted_exact_and_refuses_nan():
    value = {"b": 0.1 + 0.2, "a": [1e-300, 3]}
    assert to_json(value) == '{"a": [1e-300, 3], "b": 0.30000000000000004}'
    assert json.loads(to_json(value)) == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(float("nan"))
