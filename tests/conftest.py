"""Settings and fixtures that several test files share."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers

from hf_tsdyn.data.trajectories import FEATURES

# The suite runs one process a core; determinism across thread counts is not what these tests promise.
torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()

FIXTURES = Path(__file__).parent / "fixtures"

_DEFAULT_ROW: dict[str, Any] = {
    "start": 0,
    "freq": "s",
    "system": "Lorenz",
    "split": "train",
    "dt": 0.01,
    "period": 1.5,
    "lyapunov_time": 1.1,
    "parameters": '{"beta": 2.5, "w": [[1.0, 2.0]]}',
    "initial_condition": [1.0, 2.0, 3.0],
    "seed": "0-1",
    "checks": "{}",
    "generation": "{}",
}


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of recorded numbers."""
    return FIXTURES


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded source of random tensors."""
    return torch.Generator().manual_seed(0)


def _write_dataset(folder: Path, rows: list[dict[str, Any]], *, rows_per_shard: int = 1000) -> Path:
    """Write trajectories as the generator does; a row gives at least `target`, (channels, time) or a list.

    Each record batch holds two rows, each shard `rows_per_shard` rows of one split, and the manifest comes last.
    """
    (folder / "data").mkdir(parents=True)
    rows = [_DEFAULT_ROW | {"item_id": f"{row.get('system', 'Lorenz')}-{n}"} | row for n, row in enumerate(rows)]
    entries = []
    for split in dict.fromkeys(row["split"] for row in rows):
        chosen = [row for row in rows if row["split"] == split]
        for number, first in enumerate(range(0, len(chosen), rows_per_shard)):
            file = folder / "data" / f"{split}-{number:05d}.arrow"
            entries.append(_write_shard(file, chosen[first : first + rows_per_shard]) | {"split": split})
    fingerprint = hashlib.sha256("".join(entry["sha256"] for entry in entries).encode()).hexdigest()
    manifest = {"format_version": 1, "fingerprint": fingerprint, "shards": entries}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def _write_shard(file: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    schema = FEATURES.arrow_schema
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for first in range(0, len(rows), 2):
            part = [row | {"target": _channels(row["target"])} for row in rows[first : first + 2]]
            writer.write_batch(pa.RecordBatch.from_pylist(part, schema=schema))
    content = file.read_bytes()
    return {
        "file": f"data/{file.name}",
        "num_rows": len(rows),
        "num_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def _channels(target: Any) -> list[Any] | None:
    return None if target is None else list(target)


@pytest.fixture(scope="session")
def write_dataset() -> Callable[..., Path]:
    """A function (folder, rows, *, rows_per_shard) that writes a small dataset and returns its folder."""
    return _write_dataset


@pytest.fixture(scope="session")
def oscillators(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of noisy oscillations with two and three channels: 6 systems to train, 2 to validate, 3 to test."""
    rng = np.random.default_rng(0)
    rows = []
    for split, names in {"train": "ABCDEF", "validation": "GH", "test": "IJK"}.items():
        for position, name in enumerate(names):
            phases = rng.uniform(0, 6, (2 + position % 2, 1))
            waves = np.sin(rng.uniform(0.2, 0.5) * np.arange(400) + phases)
            target = (waves + 0.05 * rng.normal(size=waves.shape)).astype(np.float32)
            rows.append({"target": target, "system": name, "split": split, "dt": 0.1, "period": 2.0})
    return _write_dataset(tmp_path_factory.mktemp("oscillators") / "data", rows)
