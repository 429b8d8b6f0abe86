"""Score models on held-out systems under several conditions, and write what each of them is worth.

    python -m training.benchmark --config training/configs/benchmark.yaml --data generated/benchmark --jobs 2
    python -m training.benchmark --config training/configs/benchmark.yaml --series.mine.path mine.csv --only parroting

A cell is a model on a system (cells/MODEL/SYSTEM/CONDITION): what every window scored. The same command goes on with a
benchmark that was stopped, and adds models, systems and conditions that are new. A model that raises, or forecasts what
is not finite, keeps its place with infinite errors. Of each condition results/NAME-CONDITION.json has the models that
are done on all systems.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from hf_tsdyn.results import EvaluationResults
from training.benchmark_cells import BenchmarkCell, build_cells, is_done, run_benchmark_cell
from training.benchmark_config import FLOOR, BenchmarkConfig, load_benchmark_config
from training.benchmark_memory import measure_memory
from training.benchmark_models import check_models
from training.benchmark_results import collect_condition, failed_lines, render_tables, results_file
from training.benchmark_systems import BenchmarkSystem, open_system, system_names
from training.cell_runs import run_cells, run_or_exit


def check_systems(config: BenchmarkConfig) -> dict[str, BenchmarkSystem]:
    """Return all systems by name.

    Raises: FileNotFoundError or ValueError if one is not there, or too short for a condition.
    """
    systems = {name: open_system(config, name) for name in system_names(config)}
    for system in systems.values():
        for condition in config.conditions.values():
            system.windows(condition)
    return systems


def run(config: BenchmarkConfig, *, show_progress: bool = True) -> dict[str, EvaluationResults]:
    """Score what is missing of the models asked for, write the results of all that is done, return them by condition.

    Raises: ValueError, naming the cells, if some were refused, or no model is done; what is done is written then, too.
    """
    check_models(config)
    systems = check_systems(config)
    cells = build_cells(config)
    work: dict[str, Any] = {"jobs": config.jobs, "backend": config.backend, "show_progress": show_progress}
    asked = [cell for cell in cells if cell.model in (*config.asked, FLOOR)]
    failures = run_cells(partial(run_benchmark_cell, config=config), asked, **work)
    if config.measure_memory:
        places = [(model, condition) for model in config.asked for condition in config.conditions]
        failures += run_cells(partial(measure_memory, config=config), places, unit="measurement", **work)
    results = {}
    for condition in config.conditions:
        found, unfit = collect_condition(config, condition, cells, systems)
        failures += unfit
        if found is not None:
            found.write(results_file(config, condition))
            results[condition] = found
    failures = list(dict.fromkeys(failures))
    if failures or not results:
        raise ValueError(f"{len(failures)} cells were refused:\n" + "\n".join(failures))
    return results


def unfinished(config: BenchmarkConfig, cells: Sequence[BenchmarkCell]) -> list[str]:
    """Return the models that are not done on every system."""
    left = {cell.model for cell in cells for name in config.conditions if not is_done(cell, name)}
    return [model for model in config.models if model in left]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark of the command line and print its tables."""
    config = load_benchmark_config(arguments)
    results = run_or_exit(partial(run, config))
    for condition, found in results.items():
        print(f"\n## {condition}\n\n{render_tables(found)}\n")
        for line in failed_lines(found):
            print(line)
        print(f"results: {results_file(config, condition)}")
    left = unfinished(config, build_cells(config))
    if left:
        print(f"not in the tables, for want of cells: {', '.join(left)}")
    print(f"cells: {config.output_dir}/cells/MODEL/SYSTEM/CONDITION")


if __name__ == "__main__":
    main()
