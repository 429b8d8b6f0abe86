"""Pre-train networks, let every method meet every stream step by step, and write what each forecast cost.

    python -m training.run_online --config training/configs/online_etth1.yaml --datasets.ETTh1 ETTh1.csv --jobs 2
    python -m training.run_online --config training/configs/online_etth1.yaml --datasets.ETTh1 ETTh1.csv --only ridge

A network is a run of `training.train` in a folder of its own (pretrained/NAME/DATASET-HORIZON/seed-K), from which all
methods start that name it. A cell is a method under a protocol (cells/METHOD/PROTOCOL/DATASET-HORIZON/seed-K): under
delayed feedback a window is learnt when its last target has been observed, under immediate feedback, the literature's
leaky evaluation, right after it was forecast. The same command goes on with a study that was stopped, cells in the
middle of their stretch too, and adds methods that are new. The tables (results.json, results.md) hold what is done.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hf_tsdyn.series_results import SeriesResults
from training.cell_runs import failure_of, run_cells, run_or_exit
from training.online_cells import OnlineCell, build_cells, is_done, run_online_cell, starts_of
from training.online_config import OnlineConfig, load_online_config
from training.online_learners import check_options
from training.online_starts import check_start, check_trained, is_trained, pretrain
from training.online_streams import export_row, open_stream
from training.online_table import TABLE_FILE, collect_results, render_page, write_results
from training.study_config import Cell


def check_cells(config: OnlineConfig, cells: Sequence[OnlineCell]) -> None:
    """Raise ValueError or OSError if a stream is not there, or what some cells name in their settings is refused."""
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        export_row(config, dataset)
        opened = open_stream(config, dataset)
        longest = max(cell.horizon for cell in cells if cell.dataset == dataset)
        if opened.stop - opened.start < longest:
            raise ValueError(
                f"the stretch of {dataset} must hold a forecast of {longest} steps, found {opened.stop - opened.start} "
                f"steps; give streams.{dataset}.series a longer test split."
            )
    for name in dict.fromkeys(name for cell in cells for name in config.team_of(cell.method)):
        check_options(config, name)
    changed: dict[tuple[str, str, int], tuple[Cell, list[dict[str, Any]]]] = {}
    for cell in cells:
        starts = starts_of(config, cell)
        for method in config.team_of(cell.method).values():
            if method.start is not None:
                place = (method.start, cell.dataset, cell.horizon)
                changed.setdefault(place, (starts[method.start], []))[1].append(method.model)
    for start, fields in changed.values():
        check_start(start, fields)


def refused_networks(config: OnlineConfig, cells: Sequence[OnlineCell]) -> dict[str, str]:
    """Return, by name, what is wrong with the trained networks of some cells: runs of other settings, or series."""
    fingerprints: dict[str, str] = {}
    refused = {}
    starts = {start.name: start for cell in cells for start in starts_of(config, cell).values()}

    def check(start: Cell) -> None:
        if start.dataset not in fingerprints:
            fingerprints[start.dataset] = open_stream(config, start.dataset).fingerprint
        check_trained(start, fingerprints[start.dataset], study=Path(config.output_dir))

    for name, start in starts.items():
        failure = failure_of(name, partial(check, start)) if is_trained(start) else None
        if failure is not None:
            refused[name] = failure
    return refused


def run(config: OnlineConfig, *, show_progress: bool = True) -> SeriesResults:
    """Run what is missing of the methods asked for, write the results of all that is done and return them.

    Raises: ValueError, naming the cells, if some were refused or failed; the results are written then, too.
    """
    cells = build_cells(config)
    asked = [cell for cell in cells if not config.only or cell.method in config.only]
    check_cells(config, asked)
    work: dict[str, Any] = {"jobs": config.jobs, "backend": config.backend, "show_progress": show_progress}
    refused = refused_networks(config, [cell for cell in cells if cell in asked or is_done(cell)])
    cells = [cell for cell in cells if not any(start.name in refused for start in starts_of(config, cell).values())]
    fit = [cell for cell in asked if cell in cells]
    needed = {start.name: start for cell in fit for start in starts_of(config, cell).values()}
    missing = [start for start in needed.values() if not is_trained(start)]
    failures = list(refused.values())
    if missing:
        failures += run_cells(partial(pretrain, study=Path(config.output_dir)), missing, unit="network", **work)
    able = [cell for cell in fit if all(map(is_trained, starts_of(config, cell).values()))]
    failures += run_cells(partial(run_online_cell, config=config), able, **work)
    results, unfit = collect_results(config, cells)
    failures = list(dict.fromkeys([*failures, *unfit]))
    if results is not None:
        write_results(results, Path(config.output_dir))
    if failures or results is None:
        skipped = f", and {len(asked) - len(able)} cells wait for a network" if len(able) < len(asked) else ""
        raise ValueError(f"{len(failures)} networks or cells failed{skipped}:\n" + "\n".join(failures))
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study of the command line and print its tables."""
    config = load_online_config(arguments)
    results = run_or_exit(partial(run, config))
    print(render_page(results))
    print(
        f"table: {Path(config.output_dir) / TABLE_FILE}; runs: {config.output_dir}/cells/METHOD/PROTOCOL/PLACE/seed-K"
    )


if __name__ == "__main__":
    main()
