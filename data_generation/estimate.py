"""What a run would make and take, from a small sample of its own candidates: for `--dry-run`."""

import shutil
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np

from data_generation.config import SPLITS, GenerationConfig
from data_generation.plan import PlanItem, Shard
from data_generation.streams import generate_rows
from data_generation.writer import record_batch

SAMPLE_PER_SYSTEM = 16
MEGABYTE = 1e6

# CPU time in which a process imports what it needs, measured once on one machine.
START_SECONDS = 5.0


@dataclass(frozen=True)
class Sample:
    """What was measured on candidates of one system.

    Args:
        num_candidates: measured.
        accepted: share of them.
        row_bytes: of an accepted row on disk; NaN where none was accepted.
        setup_seconds: CPU time until the system is ready, its compilation included where it is not cached.
        candidate_seconds: CPU time of one candidate, checks included."""

    num_candidates: int
    accepted: float
    row_bytes: float
    setup_seconds: float
    candidate_seconds: float


@dataclass(frozen=True)
class Estimate:
    """What a run is expected to give and to take, all in all."""

    num_rows: float
    megabytes: float
    cpu_seconds: float
    num_sampled_systems: int
    num_sampled_candidates: int


def estimate_run(config: GenerationConfig, shards: Sequence[Shard], *, budget_seconds: float = 20.0) -> Estimate:
    """Generate some candidates of as many systems as the budget allows, and scale up.

    Systems come in an order drawn once and for all; what was not sampled is taken for the mean of what was.

    Args:
        budget_seconds: no system is begun after so much time."""
    items: dict[str, list[PlanItem]] = defaultdict(list)
    for shard in shards:
        for system, group in shard.items_by_system():
            items[system] += group
    names = sorted(items)
    samples: dict[str, Sample] = {}
    deadline = time.monotonic() + budget_seconds
    for place in np.random.default_rng(0).permutation(len(names)):
        if samples and time.monotonic() > deadline:
            break
        samples[names[place]] = _sample(config, items[names[place]])
    measured = np.array([[s.accepted, s.row_bytes, s.setup_seconds, s.candidate_seconds] for s in samples.values()])
    accepted, row_bytes, setup, seconds = (float(np.mean(column[~np.isnan(column)])) for column in measured.T)
    mean = Sample(0, accepted, row_bytes, setup, seconds)
    counted = [(len(group), samples.get(name, mean)) for name, group in items.items()]
    return Estimate(
        num_rows=sum(count * sample.accepted for count, sample in counted),
        megabytes=sum(count * s.accepted * s.row_bytes for count, s in counted if s.accepted) / MEGABYTE,
        cpu_seconds=sum(count * sample.candidate_seconds + sample.setup_seconds for count, sample in counted),
        num_sampled_systems=len(samples),
        num_sampled_candidates=sum(sample.num_candidates for sample in samples.values()),
    )


def _sample(config: GenerationConfig, items: Sequence[PlanItem]) -> Sample:
    chosen = [items[place] for place in np.unique(np.linspace(0, len(items) - 1, SAMPLE_PER_SYSTEM).astype(int))]
    start = time.process_time()
    generate_rows(config, chosen[:1])
    ready = time.process_time()
    rows = generate_rows(config, chosen).rows
    seconds = (time.process_time() - ready) / len(chosen)
    return Sample(
        num_candidates=len(chosen),
        accepted=len(rows) / len(chosen),
        row_bytes=record_batch(rows).nbytes / len(rows) if rows else float("nan"),
        setup_seconds=max(ready - start - seconds, 0.0),
        candidate_seconds=seconds,
    )


def dry_run_report(config: GenerationConfig, shards: Sequence[Shard]) -> str:
    """Return the plan, and what it is expected to give and to take; nothing is written to the output folder."""
    lines = [f"plan of {config.output} (nothing is written)"]
    for split in SPLITS:
        chosen = [shard for shard in shards if shard.split == split]
        systems = {item.system for shard in chosen for item in shard.items}
        num_items = sum(len(shard.items) for shard in chosen)
        lines.append(f"  {split:<12}{num_items:>8} candidates of {len(systems)} systems, {len(chosen)} files")
    estimate = estimate_run(config, shards)
    num_items = sum(len(shard.items) for shard in shards)
    processes = min(joblib.cpu_count() if config.jobs == -1 else config.jobs, len(shards))
    wall_seconds = START_SECONDS + estimate.cpu_seconds / processes
    lines += [
        f"expected    {estimate.num_rows:.0f} of {num_items} candidates accepted, {estimate.megabytes:.0f} MB",
        f"            {_duration(estimate.cpu_seconds)} of CPU time, compilation included where it is not cached; "
        f"{_duration(wall_seconds)} on {processes} processes, {START_SECONDS:.0f} s of it their start",
        f"estimated from {estimate.num_sampled_candidates} candidates of {estimate.num_sampled_systems} systems, "
        "measured on this machine just now",
    ]
    free = shutil.disk_usage(_existing(Path(config.output))).free / MEGABYTE
    if free < estimate.megabytes:
        lines.append(f"warning: the disk of {config.output} has {free:.0f} MB left")
    return "\n".join(lines)


def _existing(path: Path) -> Path:
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
