"""Windows per CPU second of (3, 640), as filled batches of 64 through a DataLoader without workers."""

import json
import time

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.utils.data import DataLoader

from hf_tsdyn.data import Augmentations, ChannelBucketSampler, RandomWindows, TrajectoryDataset, identity
from hf_tsdyn.data.trajectories import FEATURES

NUM_ROWS, ROWS_PER_RECORD_BATCH, NUM_SHARDS = 36_864, 16, 32
BATCH_SIZE, NUM_WINDOWS = 64, 64 * 1000

pytestmark = [pytest.mark.bench, pytest.mark.benchmark(timer=time.process_time)]


def record_batch(rng, first_row):
    """Return trajectories of (3, 4096 to 6000) noise whose list offsets are laid out by hand: no Python lists."""
    lengths = rng.integers(4096, 6001, ROWS_PER_RECORD_BATCH)
    channel_offsets = np.concatenate([[0], np.cumsum(np.repeat(lengths, 3))]).astype(np.int32)
    floats = rng.standard_normal(channel_offsets[-1], np.float32)
    channels = pa.ListArray.from_arrays(pa.array(channel_offsets), pa.array(floats))
    target = pa.ListArray.from_arrays(pa.array(np.arange(0, len(channels) + 1, 3, dtype=np.int32)), channels)
    rows = range(first_row, first_row + ROWS_PER_RECORD_BATCH)
    columns = {
        "item_id": [str(row) for row in rows],
        "start": [0] * len(rows),
        "target": target,
        "system": [f"system-{row % 100}" for row in rows],
        "initial_condition": [[0.0]] * len(rows),
    }
    blank = {"string": "{}", "double": 1.0}
    arrays = [
        pa.array(columns.get(field.name, [blank.get(str(field.type))] * len(rows)), field.type)
        if field.name != "target"
        else target
        for field in FEATURES.arrow_schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=FEATURES.arrow_schema)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write more than 2 GB of trajectories."""
    folder = tmp_path_factory.mktemp("speed")
    (folder / "data").mkdir()
    rng = np.random.default_rng(0)
    shards, rows_per_shard = [], NUM_ROWS // NUM_SHARDS
    for number in range(NUM_SHARDS):
        file = folder / "data" / f"train-{number:05d}.arrow"
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, FEATURES.arrow_schema) as writer:
            for row in range(0, rows_per_shard, ROWS_PER_RECORD_BATCH):
                writer.write_batch(record_batch(rng, number * rows_per_shard + row))
        shards.append(
            {
                "file": f"data/{file.name}",
                "split": "train",
                "num_rows": rows_per_shard,
                "num_bytes": file.stat().st_size,
            }
        )
    assert sum(shard["num_bytes"] for shard in shards) >= 2e9
    manifest = {"format_version": 1, "fingerprint": "speed", "shards": shards}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(autouse=True)
def one_core():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def consume(loader):
    return sum(float(batch["past_values"].sum()) + float(batch["future_values"].sum()) for batch in loader)


def report(benchmark, run, name):
    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    best, median = (NUM_WINDOWS / seconds for seconds in (benchmark.stats.stats.min, benchmark.stats.stats.median))
    benchmark.extra_info["windows_per_cpu_second"] = round(best)
    print(f"\n{name}: {best:,.0f} windows per CPU second (best of 5), {median:,.0f} (median)")


@pytest.mark.parametrize("augmentation_rate", [0.0, 0.2])
def test_random_windows_through_a_loader(benchmark, folder, augmentation_rate):
    windows = RandomWindows(
        TrajectoryDataset(folder, "train"),
        context_length=512,
        prediction_length=128,
        num_windows=NUM_WINDOWS,
        seed=0,
        augmentations=Augmentations(rate=augmentation_rate) if augmentation_rate else None,
    )
    sampler = ChannelBucketSampler(windows, BATCH_SIZE)
    loader = DataLoader(windows, batch_size=BATCH_SIZE, sampler=sampler, collate_fn=identity)
    report(benchmark, lambda: consume(loader), f"augmentation rate {augmentation_rate}")


def test_plain_numpy_copies_of_a_mapped_array(benchmark, tmp_path):
    file = tmp_path / "values.npy"
    rows = np.lib.format.open_memmap(file, "w+", np.float32, (NUM_ROWS, 3, 5000))
    rng = np.random.default_rng(0)
    for first in range(0, NUM_ROWS, 1024):
        rows[first : first + 1024] = rng.standard_normal((1024, 3, 5000), np.float32)
    rows.flush()
    rows = np.load(file, mmap_mode="r")

    def run():
        total = 0.0
        for _ in range(NUM_WINDOWS // BATCH_SIZE):
            batch = np.empty((BATCH_SIZE, 3, 640), np.float32)
            draws = zip(rng.integers(NUM_ROWS, size=64).tolist(), rng.integers(4361, size=64).tolist(), strict=True)
            for out, (row, start) in zip(batch, draws, strict=True):
                out[...] = rows[row, :, start : start + 640]
            total += float(torch.from_numpy(batch).sum())
        return total

    report(benchmark, run, "numpy memmap, the same batches by hand")
