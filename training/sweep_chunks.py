"""Chunks of a sweep: seeds of one cell that train as one batched program, in a process of their own."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from hf_tsdyn.models.alrnn.fitting import FitResult, FitStatus, fit_ensemble
from hf_tsdyn.reconstruction import ReconstructionProtocol, reconstruction_scores
from training.sweep_config import Cell, SweepConfig
from training.sweep_data import SweepSeries
from training.sweep_folder import SweepFolder


@dataclass(frozen=True)
class Chunk:
    """Some seeds of a cell."""

    cell: Cell
    seeds: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.cell.name},seeds={self.seeds[0]}-{self.seeds[-1]}"

    def missing(self, folder: SweepFolder) -> tuple[int, ...]:
        """Return the seeds that are not done."""
        return tuple(seed for seed in self.seeds if not folder.has_member(self.cell.name, seed))

    def state_file(self, folder: SweepFolder) -> Path:
        """Return the file of what is trained so far."""
        return folder.progress / f"{self.name}.state"

    def epochs(self, folder: SweepFolder) -> int:
        """Return how many epochs are done, as any process on any machine of the run can read it."""
        try:
            with safe_open(self.state_file(folder), framework="numpy") as state:
                return json.loads(state.metadata()["record"])["epoch"]
        except (OSError, SafetensorError):
            return 0 if self.missing(folder) else self.cell.fit.num_epochs


def plan_chunks(cells: list[Cell], config: SweepConfig) -> list[Chunk]:
    """Return the chunks of a whole sweep, in the order of cells and seeds."""
    seeds, size = config.all_seeds, config.ensemble_size
    parts = [seeds[first : first + size] for first in range(0, len(seeds), size)]
    return [Chunk(cell, part) for cell in cells for part in parts]


def train_chunk(
    chunk: Chunk, series: SweepSeries, protocol: ReconstructionProtocol, folder: SweepFolder, launcher: int
) -> int:
    """Train the seeds of a chunk, score and write those that are missing; return how many of all have failed.

    What is written is a function of the cell, the seed and the series alone, but for the seconds it took. Where
    another process trains the same chunk, it is waited for.

    Args:
        launcher: process id of the sweep.
    """
    with folder.lock(chunk.name):
        if chunk.missing(folder):
            for result in _fit(chunk, series, chunk.state_file(folder), end_with_parent(launcher)):
                if not folder.has_member(chunk.cell.name, result.seed):
                    folder.write_member(chunk.cell.name, result, _test_scores(result, series, protocol))
        chunk.state_file(folder).unlink(missing_ok=True)
    members = folder.load_members(chunk.cell.name, chunk.seeds)
    return sum(member.status is not FitStatus.COMPLETED for member in members)


def _fit(chunk: Chunk, series: SweepSeries, state_file: Path, progress: Callable[[int], None]) -> list[FitResult]:
    """What came of all seeds of a chunk, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return fit_ensemble(
            chunk.cell.model,
            chunk.cell.fit,
            series.train,
            series.validation,
            seeds=chunk.seeds,
            state_file=state_file,
            progress=progress,
        )
    finally:
        torch.set_num_threads(threads)


def end_with_parent(launcher: int) -> Callable[[int], None]:
    """Return a function that ends this process once its parent is gone, unless it is the sweep itself."""
    parent = os.getppid()

    def check(epochs: int) -> None:
        if os.getpid() != launcher and os.getppid() != parent:
            os._exit(1)  # an exception would be sent to the parent, and the next chunk begun

    return check


def _test_scores(result: FitResult, series: SweepSeries, protocol: ReconstructionProtocol) -> dict[str, float]:
    if series.test is None or result.model is None or result.status is not FitStatus.COMPLETED:
        return {}
    return reconstruction_scores(result.model, series.test, protocol)
