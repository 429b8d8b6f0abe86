"""The results of a benchmark: of every condition one file, with the models that are scored on all systems."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch

from hf_tsdyn.data.held_out_windows import HeldOutWindow
from hf_tsdyn.evaluation import EvaluationProtocol, collect_results
from hf_tsdyn.leaderboard_attractors import TRUE_SERIES, Attractors
from hf_tsdyn.results import EvaluationResults, of_group
from hf_tsdyn.scoring import TRUTH, Scores, results_header
from training.benchmark_cells import (
    ROLLOUT_FILE,
    BenchmarkCell,
    build_cells,
    claim,
    conditions_of,
    is_done,
    load_scores,
)
from training.benchmark_config import FLOOR, BenchmarkConfig
from training.benchmark_memory import peak_memory
from training.benchmark_models import model_facts
from training.benchmark_systems import GROUPS, SERIES, BenchmarkSystem
from training.cell_runs import failure_of

SHOWN = (
    "vpt_lyapunov@0.4",
    "normalised_mae",
    "normalised_mse",
    "smape",
    "mase",
    "normalised_crps",
    "state_space_divergence",
    "state_space_divergence@tail",
    "spectrum_distance@tail",
    "lyapunov_error",
    "correlation_dimension_error",
)
"""Metrics of the tables that are printed, at the smallest and the largest horizon."""
OF_PROTOCOLS = ("context_length", "horizons", "look_back", "look_ahead", "rollout_tail")
"""Fields of a protocol that a short series changes."""


class ModelCells(NamedTuple):
    """What a model scored under a condition: over all windows, and the content of `cell.json` by system."""

    scores: Scores
    contents: dict[str, dict[str, Any]]


def results_file(config: BenchmarkConfig, condition: str) -> Path:
    """Return the results file of a condition, compressed: with many models it has 10 MB of rows."""
    return Path(config.output_dir, "results", f"{config.name}-{condition}.json.gz")


def collect_condition(
    config: BenchmarkConfig, condition: str, cells: Sequence[BenchmarkCell], systems: Mapping[str, BenchmarkSystem]
) -> tuple[EvaluationResults | None, list[str]]:
    """Return the results of the models all of whose cells are done under a condition, and what is wrong with cells.

    None if no model is done; one with a cell of other settings is left out.

    systems: all that are forecast, by name.
    """
    protocol = config.conditions[condition]
    windows = {name: system.windows(protocol) for name, system in systems.items()}
    found, refused = {}, []
    for model in (*config.models, FLOOR):
        own = [
            cell
            for cell in cells
            if cell.model == model and condition in conditions_of(config, cell, systems[cell.system])
        ]
        if own and all(is_done(cell, condition) for cell in own):
            unfit = [
                failure_of(cell.name, partial(claim, config, cell, condition, systems[cell.system])) for cell in own
            ]
            refused += [failure for failure in unfit if failure is not None]
            if not any(unfit):
                found[TRUTH if model == FLOOR else model] = _joined(own, condition, windows)
    if not set(found) - {TRUTH}:
        return None, refused
    every = _numbered([window for name in systems for window in windows[name]])
    scores = {name: each.scores for name, each in found.items()}
    header = _header(config, condition, found, every, systems)
    generated = {name for name, system in systems.items() if system.group != SERIES}
    return collect_results(scores, every, protocol, header, systems=generated or None), refused


def collect_rollouts(
    config: BenchmarkConfig, condition: str, models: Sequence[str], systems: Mapping[str, BenchmarkSystem]
) -> Attractors:
    """Return the rollouts of `config.drawn` under a condition beside their truths; nothing where it has no rollouts.

    models: whose rollouts. systems: all that are forecast, by name.
    """
    found: Attractors = {}
    cells = {(cell.model, cell.system): cell for cell in build_cells(config)}
    for name in config.drawn:
        protocol = systems[name].protocol(config.conditions[condition])
        files = {model: cells[model, name].folder / condition / ROLLOUT_FILE for model in models}
        rollouts = {model: np.load(file, allow_pickle=False) for model, file in files.items() if file.is_file()}
        if rollouts:
            windows = systems[name].windows(config.conditions[condition])
            first = next(window for window in windows if not np.isnan(protocol.context_of(window)).all())
            truth = first.values[protocol.origin : protocol.origin + protocol.prediction_length]
            found[name] = {TRUE_SERIES: truth} | rollouts
    return found


def _numbered(windows: Sequence[HeldOutWindow]) -> list[HeldOutWindow]:
    return [replace(window, index=index) for index, window in enumerate(windows)]


def _joined(cells: Sequence[BenchmarkCell], condition: str, windows: Mapping[str, list[HeldOutWindow]]) -> ModelCells:
    """The scores of a model's cells, one after another in the order of `windows`; NaN where it has no cell."""
    firsts = dict(zip(windows, np.cumsum([0, *map(len, windows.values())]).tolist(), strict=False))
    joined, contents = Scores(sum(map(len, windows.values()))), {}
    for cell in cells:
        scores, contents[cell.system] = load_scores(cell, condition)
        indices = list(range(firsts[cell.system], firsts[cell.system] + scores.num_windows))
        for place, values in scores.values.items():
            joined.set(*place, indices, values)
        for horizon, shares in scores.share_below.items():
            empty = np.full((joined.num_windows, shares.shape[1]), np.nan)
            joined.share_below.setdefault(horizon, empty)[indices] = shares
        joined.failed.update(indices[window] for window in scores.failed)
        for clock, seconds in scores.seconds.items():
            joined.seconds[clock] = joined.seconds.get(clock, 0.0) + seconds
    return ModelCells(joined, contents)


def _header(
    config: BenchmarkConfig,
    condition: str,
    found: Mapping[str, ModelCells],
    windows: list[HeldOutWindow],
    systems: Mapping[str, BenchmarkSystem],
) -> dict[str, Any]:
    protocol = config.conditions[condition]
    baselines = [name for name, entry in config.models.items() if entry.baseline and name in found]
    scores = {name: each.scores for name, each in found.items()}
    first = next(iter(systems.values())).source
    header = results_header(scores, windows, first, protocol, baselines=baselines, device=torch.device("cpu"))
    header["dataset"]["num_trajectories"] = sum(len(system.source) for system in systems.values())
    for name, system in systems.items():
        own = system.protocol(protocol)
        changed = {field: _plain(own, field) for field in OF_PROTOCOLS if _plain(own, field) != _plain(protocol, field)}
        header["systems"][name] |= {"group": system.group} | ({"protocol": changed} if changed else {})
    models = {name: _facts(config, condition, name, each) for name, each in found.items() if name != TRUTH}
    series = {name: each.source.fingerprint for name, each in systems.items() if each.group == SERIES}
    header["benchmark"] = {"name": config.name, "condition": condition, "models": models, "series": series}
    return header


def _plain(protocol: EvaluationProtocol, field: str) -> Any:
    value = getattr(protocol, field)
    return list(value) if isinstance(value, tuple) else value


def _facts(config: BenchmarkConfig, condition: str, model: str, cells: ModelCells) -> dict[str, Any]:
    """What the header says of a model; times of a forecast are medians over systems, whose first one warms up."""
    contents = cells.contents.values()
    per_forecast = {
        f"{clock}_per_forecast": round(median(each["seconds"][clock] / each["num_windows"] for each in contents), 6)
        for clock in cells.scores.seconds
    }
    facts = model_facts(config.models[model], model)
    facts["num_parameters"] = next(iter(contents))["num_parameters"]
    facts["cost"] = per_forecast | {"peak_memory_bytes": peak_memory(config, model, condition)}
    facts["errors"] = {name: each["errors"] for name, each in cells.contents.items() if each["errors"]}
    return facts


def render_tables(results: EvaluationResults) -> str:
    """Return the tables of a condition: medians over the dataset's systems, then over each group of systems."""
    groups = [facts["group"] for facts in results.header["systems"].values()]
    held_out = len(groups) - groups.count(SERIES)
    parts = [(f"systems of the dataset ({held_out})", results)] if held_out not in map(groups.count, GROUPS) else []
    for group in (each for each in GROUPS if each in groups):
        parts.append((f"{group.replace('_', ' ')} ({groups.count(group)})", of_group(results, group)))
    return "\n\n".join(f"{title}\n\n{_table(part)}" for title, part in parts)


def _table(results: EvaluationResults) -> str:
    horizons = [row.horizon for row in results.summary if row.metric in SHOWN]
    return results.summary_table(SHOWN, sorted({min(horizons), max(horizons)}))


def failed_lines(results: EvaluationResults) -> list[str]:
    """Return a sentence on every model with failed windows."""
    lines, count = [], results.header["dataset"]["num_windows"]
    for model, facts in results.header["benchmark"]["models"].items():
        failed = results.header["cost"][model]["failed_windows"]
        if failed:
            said = next((f"; {system}: {texts[0]}" for system, texts in facts["errors"].items()), "")
            lines.append(f"{model} failed on {failed} of {count} windows, which count as infinite errors{said}")
    return lines
