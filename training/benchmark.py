"""Score models on held-out systems under several conditions, and write what each of them is worth.

    python -m training.benchmark --config training/configs/benchmark.yaml --data generated/benchmark --jobs 2
    python -m training.benchmark --config training/configs/benchmark.yaml --series.mine.path mine.csv --only parroting

A cell is a model on a system (cells/MODEL/SYSTEM/CONDITION): what every window scored. The same command goes on with a
benchmark that was stopped, and adds models, systems and conditions that are new. A model that raises, or forecasts what
is not finite, keeps its place with infinite errors. Of each condition results/NAME-CONDITION.json.gz has the models
that are done on all systems, and results/NAME-CONDITION.attractors.npz their rollouts of the systems in `drawn`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from hf_tsdyn.leaderboard_attractors import attractors_file, write_attractors
from hf_tsdyn.results import EvaluationResults
from training.benchmark_cells import BenchmarkCell, build_cells, is_done, run_benchmark_cell
from training.benchmark_config import FLOOR, BenchmarkConfig, load_benchmark_config
from training.benchmark_memory import measure_memory
from training.benchmark_models import check_models
from training.benchmark_results import collect_condition, collect_rollouts, failed_lines, render_tables, results_file
from training.benchmark_systems import BenchmarkSystem, open_system, system_names
from training.cell_runs import run_cells, run_or_exit


def check_systems(config: BenchmarkConfig) -> dict[str, BenchmarkSystem]:
    """Return all systems by name.

    Raises: FileNotFoundError or ValueError if one is not there, or too short for a condition.
    """
    systems = {name: open_system(config, name) for name in system_names(config)}
    unknown = [name for name in config.drawn if name not in systems]
    if unknown:
        raise ValueError(f"drawn must name systems that are forecast, {list(systems)}, found {unknown}; correct it.")
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
            _write_rollouts(config, condition, found, systems)
            results[condition] = found
    failures = list(dict.fromkeys(failures))
    if failures or not results:
        raise ValueError(f"{len(failures)} cells were refused:\n" + "\n".join(failures))
    return results


def _write_rollouts(
    config: BenchmarkConfig, condition: str, found: EvaluationResults, systems: dict[str, BenchmarkSystem]
) -> None:
    """Put the rollouts of a condition beside its results, or take away those of an earlier call if there are none."""
    rollouts = collect_rollouts(config, condition, list(found.header["benchmark"]["models"]), systems)
    file = attractors_file(results_file(config, condition))
    if rollouts:
        write_attractors(rollouts, file)
    else:
        file.unlink(missing_ok=True)


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
