"""Scores of online runs: rows, intervals and curves, as results of series hold them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..series_scores import SeriesInterval, SeriesRow, intervals_of_errors, rows_of_errors
from .prequential import PrequentialRun

STEPS_AHEAD = (1, 2, 3, 6, 12, 24, 48, 96, 192, 336, 720)
"""Steps ahead that have rows of their own, the last step of a forecast beside them."""

MAX_POINTS = 200
"""Points of a curve at most."""


def mape(run: PrequentialRun) -> float:
    """Return the mean absolute percentage error of z-scores, in percent; to compare with what others published."""
    return _mean(run.percentage)


def mase(run: PrequentialRun) -> float:
    """Return the mean absolute error in units of each channel's mean absolute one-step difference before the stretch.

    A channel that never moved there, or of which no two neighbours were seen, has no such unit and is left out.
    """
    unit = np.where(run.typical_step > 0, run.typical_step, np.nan)
    values = run.channel_absolute * run.scale / unit
    seen = ~np.isnan(values)
    count = seen.sum(axis=1)
    return _mean(np.where(seen, values, 0.0).sum(axis=1) / np.where(count, count, np.nan))


def skill(run: PrequentialRun, reference: PrequentialRun) -> float:
    """Return 1 - MSE / the reference's MSE: 0 for the reference itself, 1 for no error; NaN if the reference has none.

    Both are means over the forecasts that both have errors of.

    Raises: ValueError if they were not scored on the same forecasts.
    """
    _check_same_forecasts([run, reference])
    squared = np.stack([each.errors.of_windows("mse") for each in (run, reference)])
    error, floor = map(_mean, np.where(np.isnan(squared).any(axis=0), np.nan, squared))
    return 1 - error / floor if floor else float("nan")


def metrics_of_run(run: PrequentialRun, *, persistence: PrequentialRun | None = None) -> dict[str, float]:
    """Return "mse@K" and "mae@K" of steps K ahead, "mape", "mase" and, given a run of persistence, "skill" against it.

    `PrequentialRun.errors` has the others. NaN of what has nothing seen.
    """
    found = {}
    for name, values in {"mse": run.squared, "mae": run.absolute}.items():
        for step in sorted({*STEPS_AHEAD, run.prediction_length}):
            if step <= run.prediction_length:
                found[f"{name}@{step}"] = _mean(values[:, step - 1])
    found |= {"mape": mape(run), "mase": mase(run)}
    return found if persistence is None else found | {"skill": skill(run, persistence)}


def rows_of_run(
    run: PrequentialRun,
    *,
    model: str,
    dataset: str,
    protocol: str,
    seed: int | None,
    persistence: PrequentialRun | None = None,
) -> list[SeriesRow]:
    """Return a row for every metric of which there is something seen, rounded to 8 digits; the split is the protocol.

    Metrics are those of `WindowErrors` and of `metrics_of_run`.
    """
    horizon = run.prediction_length
    rows = rows_of_errors(run.errors, model=model, dataset=dataset, split=protocol, horizon=horizon, seed=seed)
    return rows + [
        SeriesRow(model, dataset, protocol, horizon, seed, metric, float(f"{value:.8g}"))
        for metric, value in metrics_of_run(run, persistence=persistence).items()
        if not np.isnan(value)
    ]


def intervals_of_runs(
    runs: Sequence[PrequentialRun],
    baseline_runs: Sequence[PrequentialRun] | None = None,
    *,
    model: str,
    baseline: str | None = None,
    dataset: str,
    protocol: str,
    **bootstrap: Any,
) -> list[SeriesInterval]:
    """Return the intervals of a method's errors, or of their paired differences to a baseline's, means over seeds.

    Blocks of consecutive forecasts are resampled, as `intervals_of_errors` says.

    Args:
        runs, baseline_runs: of each seed.
        bootstrap: `num_resamples`, `confidence` and `seed` of `bootstrap_mean`.
    Raises: ValueError if they were not all scored on the same forecasts.
    """
    _check_same_forecasts([*runs, *(baseline_runs or ())])
    return intervals_of_errors(
        [run.errors for run in runs],
        None if baseline_runs is None else [run.errors for run in baseline_runs],
        model=model,
        baseline=baseline,
        dataset=dataset,
        split=protocol,
        horizon=runs[0].prediction_length,
        **bootstrap,
    )


def cumulative_curve(runs: Sequence[PrequentialRun]) -> dict[str, list[float]]:
    """Return the mean squared error of all forecasts so far, mean over the runs of several seeds.

    Returns: "step": forecasts so far, the last of them all, `MAX_POINTS` numbers at most; "mse": the errors there. It
        begins with the first forecast that has an error; empty if none has.
    Raises: ValueError if the runs were not scored on the same forecasts.
    """
    _check_same_forecasts(runs)
    values = np.mean([run.errors.of_windows("mse") for run in runs], axis=0)
    seen = ~np.isnan(values)
    count = np.cumsum(seen)
    points = np.unique(np.linspace(np.argmax(seen), len(values) - 1, min(MAX_POINTS, len(values))).round().astype(int))
    points = points[count[points] > 0]
    means = np.cumsum(np.where(seen, values, 0.0))[points] / count[points]
    return {"step": (points + 1).tolist(), "mse": [float(f"{value:.6g}") for value in means]}


def _mean(values: np.ndarray) -> float:
    values = np.asarray(values, np.float64)[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


def _check_same_forecasts(runs: Sequence[PrequentialRun]) -> None:
    found = {(run.first_step, *run.squared.shape, run.channel_names) for run in runs}
    if len(found) != 1:
        raise ValueError(
            "runs that are compared must have the same first step, forecasts, steps ahead and channels, found "
            f"{sorted(found)}; run them on one stretch."
        )
