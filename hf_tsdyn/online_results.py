"""What an online study adds to the results of series: entries of their header, and how they are read.

An online study is a `SeriesResults` whose `split` is the protocol: "delayed" (a window is learnt when its last target
has been observed) or "immediate" (all targets are revealed right after the forecast, which leaks the future into the
next one; its numbers are called leaky wherever they appear). Its rows have the metrics mse, mae, mse@K of step K,
raw_mae, mape (percent, of z-scores), mase. Its header has, beside what `SeriesResults` says:

methods: by model, facts of its learner to be shown: `learner`, `learns` (false of what never does while it
    forecasts), `learning_rate` and others, among them `frozen`, the model that is its own network without learning
    (what has it, and learns, is a learner that a verdict is about), `memory_off`, the model of the same start with its
    memory switched off, and `validation_rows`, a list of what it used them for, of `VALIDATION_USES`.
roles: models by what figures and verdicts take them for: `reference` (what improvements are measured from),
    `persistence`, `ridge` (frozen), `chosen` (the learner that was named before the stretch was looked at; may be
    absent), and two lists, `roadmap` (each step changes the one before it) and `bug_fix` (memories set side by side).
groups: models by the title of their part of the table of methods.
remarks: sentences that the page adds to its limits.
leave_one_out: by model, {model that lacks one part: text of that part}.
compare: other pairs of models whose difference is shown.
claims: as elsewhere, each with the `protocol` that it is to be compared with, and perhaps `mape`.

Six entries are by place: {protocol: {"DATASET-HORIZON": {model: value}}}, written with `put_entry`, read with
`entries_at`, each absent where unknown:

curves: {"step": [...], "mse": [...]}, the mean squared error of all forecasts so far, mean over seeds.
cpu_ms: CPU milliseconds of a step, forecast and learning.
trigger_rates: share of layer-steps with the trigger set.
heat: {"triggers": [[rate by layer] by bin of time], "bin_edges": [0, ..., number of forecasts], "slot_norms": [[norm by
    slot] by layer]}, each where the model has it.
learning_rates: by seed, those that a delayed replay of the validation rows chose; 0 never learns.
seeds: {"expected": [...], "found": [...], "diverged": [...]}, also of methods that were not scored there; those that
    diverged, whose errors are no numbers, are in no row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .series_results import SeedMean, SeriesResults
from .series_scores import SeriesInterval

DELAYED, IMMEDIATE = PROTOCOLS = ("delayed", "immediate")
PROTOCOL_TITLES = {DELAYED: "delayed feedback", IMMEDIATE: "immediate feedback, leaky"}
METRIC_LABELS = {"mse": "MSE", "mae": "MAE", "mape": "MAPE, %"}
VALIDATION_USES = {
    "run_in": "Learnt through the validation rows, with delay, before the stretch",
    "refit": "Fitted to the validation rows too, after the training rows",
    "learning_rate": "Learning rate chosen by a delayed replay of the validation rows, seed by seed",
    "penalty": "Penalty chosen by the errors on the validation rows",
}
"""What methods use the rows between those of training and the stretch for."""
ENTRIES = ("curves", "cpu_ms", "trigger_rates", "heat", "learning_rates", "seeds")
"""Of the header, by place."""


def is_online(results: Any) -> bool:
    """Return whether results of any kind are those of an online study."""
    return isinstance(results, SeriesResults) and "methods" in results.header


def put_entry(
    header: dict[str, Any], entry: str, model: str, value: Any, *, dataset: str, horizon: int, protocol: str
) -> None:
    """Set what a header says of a model at a place.

    Args:
        entry: one of `ENTRIES`.
    Raises: ValueError on another entry or protocol.
    """
    _check(entry, protocol)
    header.setdefault(entry, {}).setdefault(protocol, {}).setdefault(f"{dataset}-{horizon}", {})[model] = value


def entries_at(header: Mapping[str, Any], entry: str, dataset: str, horizon: int, protocol: str) -> dict[str, Any]:
    """Return what a header says of the models at a place; empty where it says nothing.

    Raises: ValueError on an entry that is none of `ENTRIES`, or another protocol.
    """
    _check(entry, protocol)
    return header.get(entry, {}).get(protocol, {}).get(f"{dataset}-{horizon}", {})


def _check(entry: str, protocol: str) -> None:
    if entry not in ENTRIES or protocol not in PROTOCOLS:
        raise ValueError(
            f"an entry must be one of {ENTRIES} under one of {PROTOCOLS}, found {entry!r} under {protocol!r}; correct "
            "the name."
        )


def methods_at(results: SeriesResults, dataset: str, horizon: int, protocol: str) -> list[str]:
    """Return the models that have a squared error at a place, without those that lack one part of another."""
    parts = {model for without in results.header.get("leave_one_out", {}).values() for model in without}
    place = (dataset, horizon, protocol)
    scored = {row.model for row in results.rows if (row.dataset, row.horizon, row.split) == place}
    models = [model for model in results.header["models"] if model in scored and model not in parts]
    return [model for model in models if mean_at(results, model, "mse", *place)]


def mean_at(
    results: SeriesResults, model: str | None, metric: str, dataset: str, horizon: int, protocol: str
) -> SeedMean | None:
    """Return a metric's mean over the model's seeds at a place; None if it was not scored there, or no model."""
    return None if model is None else results.mean_of(model, metric, dataset, horizon, split=protocol)


def seeds_at(
    results: SeriesResults, model: str, metric: str, dataset: str, horizon: int, protocol: str
) -> dict[int | None, float]:
    """Return a metric of each of the model's seeds at a place; empty if it was not scored there."""
    place = (model, metric, dataset, horizon, protocol)
    rows = (row for row in results.rows if (row.model, row.metric, row.dataset, row.horizon, row.split) == place)
    return {row.seed: row.value for row in rows}


def results_at(results: SeriesResults, dataset: str, horizon: int, protocol: str) -> SeriesResults:
    """Return the results with the rows and intervals of one place alone, in which what is there is found faster."""
    place = (dataset, horizon, protocol)
    rows = [row for row in results.rows if (row.dataset, row.horizon, row.split) == place]
    intervals = [row for row in results.intervals if (row.dataset, row.horizon, row.split) == place]
    return SeriesResults(results.header, rows, intervals)


def title_of(dataset: str, horizon: int, protocol: str) -> str:
    """Return the words for a place; those of the immediate protocol say leaky."""
    return f"{dataset}, {horizon} step{'s' if horizon > 1 else ''} ahead, {PROTOCOL_TITLES[protocol]}"


def role_of(results: SeriesResults, role: str) -> str | None:
    """Return the model that has a role; None if none has."""
    return results.header.get("roles", {}).get(role)


def frozen_of(results: SeriesResults, model: str) -> str | None:
    """Return the model that is a learner's own network without learning; None of what does not learn."""
    return results.header["methods"].get(model, {}).get("frozen") if learns(results, model) else None


def learns(results: SeriesResults, model: str) -> bool:
    """Return whether a method learns while it forecasts."""
    return results.header["methods"].get(model, {}).get("learns", True)


def gaps_at(results: SeriesResults, dataset: str, horizon: int, protocol: str) -> dict[str, str]:
    """Return, by method, how many of its seeds were scored at a place, of methods that lack some, and why if known."""
    gaps = {}
    for model, seeds in entries_at(results.header, "seeds", dataset, horizon, protocol).items():
        if len(seeds["found"]) < len(seeds["expected"]):
            diverged = f", diverged: {', '.join(map(str, seeds['diverged']))}" if seeds["diverged"] else ""
            gaps[model] = f"{len(seeds['found'])} of {len(seeds['expected'])} seeds{diverged}"
    return gaps


def skill_of(results: SeriesResults, model: str, dataset: str, horizon: int, protocol: str) -> float | None:
    """Return 1 - MSE / MSE of persistence; None where one of them was not scored."""
    names = (model, role_of(results, "persistence"))
    found, naive = (mean_at(results, name, "mse", dataset, horizon, protocol) for name in names)
    return 1 - found.mean / naive.mean if found and naive else None


def claims_at(results: SeriesResults, dataset: str, horizon: int, protocol: str) -> dict[str, dict[str, Any]]:
    """Return what others published of a place under a protocol."""
    claims = results.claims_at(dataset, horizon).items()
    return {name: claim for name, claim in claims if claim.get("protocol") == protocol}


def difference_to(
    results: SeriesResults, model: str, baseline: str | None, dataset: str, horizon: int, protocol: str
) -> SeriesInterval | None:
    """Return the interval of the difference of a model's MSE to a baseline's; None if there is none, or no baseline."""
    if baseline is None:
        return None
    return results.interval_of(model, baseline, "mse", dataset, horizon, split=protocol)


class NothingScoredError(ValueError):
    """A table or a figure has nothing to show at a place."""


def nothing_scored(
    results: SeriesResults, wanted: str, dataset: str, horizon: int, protocol: str, *, needs: str = "an MSE"
) -> NothingScoredError:
    """Return the error of a table or a figure that has nothing to show at a place."""
    found = sorted({(row.dataset, row.horizon, row.split) for row in results.rows})
    return NothingScoredError(
        f"{wanted} needs methods with {needs} on {dataset!r}, {horizon} steps ahead, {protocol}, found none; scored "
        f"were {found}; run the cells of that place."
    )


def shown_metrics(results: SeriesResults, dataset: str, horizon: int, protocol: str) -> list[str]:
    """Return the metrics of `METRIC_LABELS` that were scored at a place.

    MAPE of z-scores, an artefact of the scaler, is shown beside leaky numbers alone, which others published.
    """
    place = (dataset, horizon, protocol)
    scored = {row.metric for row in results.rows if (row.dataset, row.horizon, row.split) == place}
    return [name for name in METRIC_LABELS if name in scored and (name != "mape" or protocol == IMMEDIATE)]


def three_digits(value: float) -> str:
    """Return a number with three significant digits, zeros at the end among them."""
    return f"{value:#.3g}".rstrip(".") if 1e-4 <= abs(value) < 1000 else f"{value:.3g}"
