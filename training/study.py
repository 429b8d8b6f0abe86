"""Train every model of a table on every series, horizon and seed that it names, score all and write the table.

    python -m training.study --config training/configs/dynonet_study.yaml --datasets.ETTh1 ETTh1.csv --jobs 2
    python -m training.study --config training/configs/dynonet_study.yaml --only full start
    python -m training.study --config training/configs/dynonet_study.yaml --final
    python -m training.study --config training/configs/dynonet_rolling_origin_study.yaml --datasets.ETTh1 ETTh1.csv

Each cell is a run of `training.train` in a folder of its own (cells/ROW/DATASET-HORIZON/seed-K), scored on every
validation window. The same command goes on with a study that was stopped, and adds rows that are new. The test windows
are scored with `--final` alone, when nothing is left to choose. A study with `folds` trains and scores each cell once
for every fold inside the training split (cells/ROW/DATASET-HORIZON/fold-F/seed-K) and reads nothing else. The tables
(results.json, results.md) hold whatever is done.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from hf_tsdyn.series_results import SeriesResults
from training.cell_runs import run_cells, run_or_exit
from training.study_cells import run_cell
from training.study_config import Cell, StudyConfig, build_cells, load_study_config
from training.study_table import TABLE_FILE, collect_results, render_page, write_results


def check_cells(config: StudyConfig, cells: Sequence[Cell]) -> None:
    """Raise ValueError, naming the cell, if one's settings are refused or its data are not there."""
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        path = config.datasets[dataset]
        if not Path(path).exists():
            raise ValueError(
                f"datasets.{dataset} must be a series, found nothing at {path!r}; give --datasets.{dataset}."
            )
    first = {(cell.row, cell.dataset, cell.horizon): cell for cell in reversed(cells)}
    for cell in first.values():
        cell.resolve()


def run(config: StudyConfig, *, show_progress: bool = True) -> SeriesResults:
    """Train and score what is missing of the rows asked for, write the results of all that is done and return them.

    Raises: ValueError, naming the cells, if some were refused or failed; the results are written then, too.
    """
    cells = build_cells(config)
    asked = [cell for cell in cells if not config.only or cell.row in config.only]
    check_cells(config, asked)
    cell_by_cell = partial(run_cell, study=Path(config.output_dir), final=config.final)
    failures = run_cells(cell_by_cell, asked, jobs=config.jobs, backend=config.backend, show_progress=show_progress)
    results = collect_results(config, cells) if len(failures) < len(asked) else None
    if results is not None:
        write_results(results, Path(config.output_dir))
    if failures or results is None:
        raise ValueError(f"{len(failures)} of {len(asked)} cells failed:\n" + "\n".join(failures))
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study of the command line and print its tables."""
    config = load_study_config(arguments)
    results = run_or_exit(partial(run, config))
    print(render_page(results))
    cells = "cells/ROW/DATASET-HORIZON/" + ("seed-K" if config.folds is None else "fold-F/seed-K")
    print(f"table: {Path(config.output_dir) / TABLE_FILE}; runs: {config.output_dir}/{cells}")


if __name__ == "__main__":
    main()
