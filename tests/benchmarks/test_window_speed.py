"""Windows per CPU second of (3, 640), as filled batches of 64 through a DataLoader without workers."""

import dataclasses
import json
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data_generation.writer import write_shard
from hf_tsdyn.data import FEATURES, Augmentations, ChannelBucketSampler, RandomWindows, TrajectoryDataset, identity

NUM_ROWS, ROWS_PER_RECORD_BATCH, NUM_SHARDS = 36_864, 16, 32
BATCH_SIZE, NUM_WINDOWS = 64, 64 * 1000

pytestmark = [pytest.mark.bench, pytest.mark.benchmark(timer=time.process_time)]


def noise(rng, row):
    """Return a trajectory of (3, 4096 to 6000) noise."""
    blank = {"string": "{}", "timestamp[s]": 0, "double": 1.0, "list<item: double>": [0.0]}
    fields = {field.name: blank.get(str(field.type)) for field in FEATURES.arrow_schema}
    target = rng.standard_normal((3, rng.integers(4096, 6001)), np.float32)
    return fields | {"item_id": str(row), "system": f"system-{row % 100}", "target": target}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write more than 2 GB of trajectories."""
    folder = tmp_path_factory.mktemp("speed")
    (folder / "data").mkdir()
    rng = np.random.default_rng(0)
    shards, rows_per_shard = [], NUM_ROWS // NUM_SHARDS
    for number in range(NUM_SHARDS):
        file = f"data/train-{number:05d}.arrow"
        rows = range(number * rows_per_shard, (number + 1) * rows_per_shard)
        batches = (
            [noise(rng, row) for row in rows[first : first + ROWS_PER_RECORD_BATCH]]
            for first in range(0, rows_per_shard, ROWS_PER_RECORD_BATCH)
        )
        written = write_shard(folder / file, batches, scratch_folder=folder)
        shards.append({"file": file, "split": "train"} | dataclasses.asdict(written))
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
