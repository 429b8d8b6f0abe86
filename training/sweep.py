"""Train a grid of AL-RNNs, several seeds each, on one series, and keep the best of every cell.

    python -m training.sweep --config training/configs/alrnn_lorenz63.yaml --data.path series.npy
    python -m training.sweep --config training/configs/alrnn_lorenz63.yaml --grid.model.num_relu_units '[5]' --jobs 4
    python -m training.sweep --config training/configs/alrnn_lorenz63.yaml --shard $SLURM_ARRAY_TASK_ID/10

The seeds of a cell train together as one batched program. The folder (`output_dir`) ends up with the settings
(sweep_config.yaml), a row for every model (results.json, results.md), every model (CELL/seed-K) and a checkpoint of
each cell (CELL/best). The same command resumes a sweep that was stopped; what it writes does not depend on how the
work was divided.
"""

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from joblib import Parallel, cpu_count, delayed
from joblib.parallel import get_active_backend
from tqdm import tqdm

from hf_tsdyn.metrics.invariants import Floor
from hf_tsdyn.parallel import joblib_backend
from training.cell_runs import run_or_exit
from training.sweep_best import write_best
from training.sweep_chunks import Chunk, plan_chunks, train_chunk
from training.sweep_config import Cell, SweepConfig, build_cells, load_sweep_config
from training.sweep_data import SweepSeries, load_series
from training.sweep_folder import SweepFolder
from training.sweep_table import (
    TABLE_FILE,
    choose_best,
    collect_results,
    floor_scores,
    load_results,
    render_table,
    write_results,
)

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Sweep:
    """A sweep whose settings, data and folder fit together."""

    config: SweepConfig
    record: dict[str, Any]
    series: SweepSeries
    cells: list[Cell]
    chunks: list[Chunk]
    folder: SweepFolder
    floor: dict[str, Floor]

    def missing(self) -> list[Chunk]:
        """Return the chunks of all shards that are not done."""
        return [chunk for chunk in self.chunks if chunk.missing(self.folder)]


def prepare(config: SweepConfig, resolved: dict[str, Any]) -> Sweep:
    """Return the sweep, its settings written to its folder.

    Raises: ValueError or OSError on data, cells or a folder that do not fit.
    """
    series = load_series(config.data)
    cells = build_cells(config, series.num_channels)
    for cell in cells:
        check_lengths(cell, config, series)
    floor = floor_scores(series, config.evaluation)
    record = resolved | {"dataset": {"fingerprint": series.fingerprint, "test_fingerprint": series.test_fingerprint}}
    folder = SweepFolder(config.output_dir)
    folder.claim(record)
    return Sweep(config, record, series, cells, plan_chunks(cells, config), folder, floor)


def check_lengths(cell: Cell, config: SweepConfig, series: SweepSeries) -> None:
    """Raise ValueError, with the lengths, unless every part of the series is long enough for the cell's models."""
    model, protocol = cell.model, config.evaluation
    needed = {
        "training": (len(series.train), model.context_length + model.prediction_length, "model.prediction_length"),
        "validation": (len(series.validation), model.warmup_length + 1, "model.warmup_length"),
    }
    if series.test is not None:
        protocol.compared(series.test)
        horizon = model.warmup_length + protocol.invariants.prediction_steps
        needed["test"] = (len(series.test), horizon, "evaluation.invariants.prediction_steps")
    for part, (found, least, remedy) in needed.items():
        if found < least:
            raise ValueError(
                f"cell {cell.name}: the {part} part of the series must have at least {least} steps, found {found}; "
                f"lower {remedy}, change the shares of data, or give a longer series."
            )


def train_missing(sweep: Sweep, *, show_progress: bool) -> None:
    """Train what is missing of this run's share, on as many workers as asked for."""
    config, folder = sweep.config, sweep.folder
    index, count = map(int, (config.shard or "0/1").split("/"))
    chunks = [chunk for chunk in sweep.chunks[index::count] if chunk.missing(folder)]
    jobs = min(cpu_count() if config.jobs == -1 else config.jobs, max(len(chunks), 1))
    tasks = [delayed(train_chunk)(chunk, sweep.series, config.evaluation, folder, os.getpid()) for chunk in chunks]
    with joblib_backend(config.backend, jobs=config.jobs), epoch_bar(chunks, folder, show=show_progress) as bar:
        # Ray's pool hands over its results at the end alone.
        streams = cast(Any, get_active_backend()[0]).supports_return_generator
        # Without maps of large arrays, which would be read-only in workers and writable in this process.
        parallel = Parallel(jobs, return_as="generator_unordered" if streams else "list", max_nbytes=None)
        failed = 0
        for number in cast(Iterable[int], parallel(tasks)):
            failed += number
            bar.set_postfix_str(f"failed {failed}")


@contextmanager
def epoch_bar(chunks: Sequence[Chunk], folder: SweepFolder, *, show: bool) -> Iterator[tqdm]:
    """Show the epochs of chunks that workers have done."""
    total = sum(chunk.cell.fit.num_epochs for chunk in chunks)
    interval = 0.2 if sys.stderr.isatty() else 30.0
    done = threading.Event()
    with tqdm(total=total, unit="epoch", mininterval=interval, disable=not show or not chunks) as bar:
        done_epochs = [0] * len(chunks)

        def count() -> int:
            for place, chunk in enumerate(chunks):
                if done_epochs[place] < chunk.cell.fit.num_epochs:
                    done_epochs[place] = chunk.epochs(folder)
            return sum(done_epochs)

        bar.initial = bar.n = count()

        def follow() -> None:
            while not done.wait(POLL_SECONDS):
                bar.update(count() - bar.n)

        watcher = threading.Thread(target=follow, daemon=True)
        watcher.start()
        try:
            yield bar
        finally:
            done.set()
            watcher.join()
            bar.update(count() - bar.n)


def finish(sweep: Sweep, *, wall_seconds: float | None) -> dict[str, Any]:
    """Write what is missing of checkpoints and table of a sweep that is trained; return its results.

    wall_seconds: of the training in this launch, None if there was none: a table that is there stays.
    """
    with sweep.folder.lock_all():
        for cell in sweep.cells:
            write_best(cell, sweep.record, sweep.series, sweep.config.all_seeds, sweep.folder)
        results = load_results(sweep.folder) if wall_seconds is None else None
        if results is None:
            results = collect_results(
                sweep.config, sweep.cells, sweep.series, sweep.floor, sweep.folder, wall_seconds=wall_seconds or 0.0
            )
            write_results(results, sweep.folder)
        sweep.folder.clear_progress()
    return results


def check_cells(sweep: Sweep) -> None:
    """Raise ValueError, naming them, if every seed of some cells exploded."""
    seeds = sweep.config.all_seeds
    lost = [cell.name for cell in sweep.cells if choose_best(sweep.folder.load_members(cell.name, seeds)) is None]
    if lost:
        raise ValueError(
            f"each cell must have a seed whose training stays finite, found none of {len(seeds)} in {lost[:6]}; lower "
            "fit.learning_rate or model.forcing_interval, or raise model.regularization_weight, in another output_dir."
        )


def run(sweep: Sweep, *, show_progress: bool = True) -> None:
    """Train what is missing, write the results and print them.

    Raises: ValueError if every seed of some cell exploded; the results are written then, too.
    """
    start, wall_seconds = time.perf_counter(), None
    if sweep.missing():
        train_missing(sweep, show_progress=show_progress)
        wall_seconds = time.perf_counter() - start
    missing = sweep.missing()
    if missing:
        print(f"share {sweep.config.shard} is done; {len(missing)} chunks of other shares are not. The last finishes.")
        return
    results = finish(sweep, wall_seconds=wall_seconds)
    print(render_table(results))
    print(f"table: {sweep.folder.path / TABLE_FILE}; checkpoints: {sweep.folder.path}/CELL/best")
    check_cells(sweep)


def main(arguments: Sequence[str] | None = None) -> None:
    """Sweep as the command line says."""
    config, resolved = load_sweep_config(arguments)
    run_or_exit(lambda: run(prepare(config, resolved)))


if __name__ == "__main__":
    main()
