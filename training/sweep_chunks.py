"""Chunks of a sweep: seeds of one cell that train as one batched program, in a process of their own."""

from dataclasses import dataclass
from pathlib import Path

import torch

from hf_tsdyn.models.alrnn.fitting import FitResult, FitStatus, fit_ensemble
from hf_tsdyn.reconstruction import ReconstructionProtocol, reconstruction_scores
from hf_tsdyn.results import write_atomically
from training.sweep_config import Cell, SweepConfig
from training.sweep_data import SweepSeries
from training.sweep_folder import SweepFolder


@dataclass(frozen=True)
class Chunk:
    """Some seeds of a cell."""

    cell: Cell
    seeds: tuple[int, ...]

    def missing(self, folder: SweepFolder) -> tuple[int, ...]:
        """Return the seeds that are not done."""
        return tuple(seed for seed in self.seeds if not folder.has_member(self.cell.name, seed))

    def progress_file(self, folder: SweepFolder) -> Path:
        """Return the file that counts the epochs that are done."""
        return folder.progress / f"{self.cell.name},seeds={self.seeds[0]}-{self.seeds[-1]}.epochs"


def plan_chunks(cells: list[Cell], config: SweepConfig) -> list[Chunk]:
    """Return the chunks of a whole sweep, in the order of cells and seeds."""
    seeds, size = config.all_seeds, config.ensemble_size
    parts = [seeds[first : first + size] for first in range(0, len(seeds), size)]
    return [Chunk(cell, part) for cell in cells for part in parts]


def train_chunk(chunk: Chunk, series: SweepSeries, protocol: ReconstructionProtocol, folder: SweepFolder) -> int:
    """Train the seeds of a chunk that are not done, score and write them; return how many of them exploded.

    What is written is a function of the cell, the seed and the series alone, but for the seconds it took.
    """
    seeds = chunk.missing(folder)
    folder.progress.mkdir(exist_ok=True)
    counter = EpochCounter(chunk.progress_file(folder))
    state_file = counter.file.with_suffix(f".{len(seeds)}.state")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        results = fit_ensemble(
            chunk.cell.model,
            chunk.cell.fit,
            series.train,
            series.validation,
            seeds=seeds,
            state_file=state_file,
            progress=counter.add,
        )
        for result in results:
            folder.write_member(chunk.cell.name, result, _test_scores(result, series, protocol))
    finally:
        torch.set_num_threads(threads)
    state_file.unlink(missing_ok=True)
    return sum(result.status is FitStatus.EXPLODED for result in results)


def _test_scores(result: FitResult, series: SweepSeries, protocol: ReconstructionProtocol) -> dict[str, float]:
    if series.test is None or result.model is None or result.status is FitStatus.EXPLODED:
        return {}
    return reconstruction_scores(result.model, series.test, protocol)


class EpochCounter:
    """Epochs that a worker has done, in a file that any process on any machine of the run can read."""

    def __init__(self, file: Path):
        self.file = file
        self.epochs = read_epochs(file)

    def add(self, epochs: int) -> None:
        """Count more epochs."""
        self.epochs += epochs
        write_atomically(self.file, str(self.epochs).encode())


def read_epochs(file: Path) -> int:
    """Return the count in a file, 0 where there is none."""
    return int(file.read_text()) if file.is_file() else 0
