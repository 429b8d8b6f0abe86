"""What each window of an evaluation scored, what it took, and the header that says how it came about."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import torch

from .attractor_statistics import attractor_statistics
from .data.held_out_windows import HeldOutWindow
from .data.series import TrajectorySource
from .evaluation_protocol import EvaluationProtocol
from .metrics import (
    central_intervals,
    interval_coverage,
    interval_width,
    lyapunov_unit,
    mase,
    normalised_crps,
    normalised_mae,
    normalised_mse,
    share_below,
    smape,
    valid_prediction,
    weighted_quantile_loss,
)
from .provenance import git_revision, hardware_class, package_versions
from .results import STEP_METRIC, ResultRow

METRICS = {"smape": smape, "normalised_mae": normalised_mae, "normalised_mse": normalised_mse, "mase": mase}
"""Metrics accumulated up to each horizon."""

TRUTH = "truth against truth"
"""Row of the floors of attractor statistics: the truth before the origin, scored as if it were a forecast."""


@dataclass(eq=False)
class Scores:
    """One model's values per window, by (metric, horizon); NaN where there is nothing to score.

    share_below: per horizon (windows, levels), the share of targets at or below each quantile; empty for a model
    without a distribution. failed: windows with a forecast or a quantile that was not finite. seconds: of what.
    """

    num_windows: int
    values: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    share_below: dict[int, np.ndarray] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)
    seconds: dict[str, float] = field(default_factory=dict)

    def set(self, metric: str, horizon: int, indices: list[int], values: np.ndarray) -> None:
        """Keep the values of the windows `indices`."""
        self.values.setdefault((metric, horizon), np.full(self.num_windows, np.nan))[indices] = values

    def set_failed(self, indices: list[int], forecast: np.ndarray) -> None:
        """Mark the windows `indices` whose forecast (windows, ...) is not finite somewhere."""
        failed = ~np.isfinite(forecast).reshape(len(forecast), -1).all(axis=1)
        self.failed.update(np.asarray(indices)[failed].tolist())


def score_forecast(
    scores: Scores,
    batch: list[HeldOutWindow],
    values: np.ndarray,
    forecast: np.ndarray,
    protocol: EvaluationProtocol,
) -> None:
    """Score point forecasts: errors up to each horizon, errors of single steps, valid prediction times.

    values: (windows, context and prediction, channels). forecast: (windows, prediction, channels). A window whose
    system has no known period has no valid prediction time.
    """
    past, future = values[:, : protocol.context_length], values[:, protocol.context_length :]
    indices = [window.index for window in batch]
    scores.set_failed(indices, forecast)
    for horizon in protocol.horizons:
        for metric, function in METRICS.items():
            errors = function(future[:, :horizon], forecast[:, :horizon], past_values=past)
            scores.set(metric, horizon, indices, errors)
    for step in protocol.curve_steps:
        one = slice(step - 1, step)
        scores.set(STEP_METRIC, step, indices, normalised_mae(future[:, one], forecast[:, one], past_values=past))

    dt = np.array([window.trajectory.dt for window in batch])
    period = np.array([window.trajectory.period for window in batch])
    lyapunov_time = _lyapunov_units(batch)
    lyapunov_time[np.isnan(period)] = np.nan
    horizon = protocol.prediction_length
    for threshold in protocol.vpt_thresholds:
        valid = valid_prediction(future, forecast, past_values=past, threshold=threshold)
        saturated = np.where(np.isnan(period), np.nan, valid.saturated)
        scores.set(f"vpt_periods@{threshold:g}", horizon, indices, valid.time(dt=dt, unit=period))
        scores.set(f"vpt_lyapunov@{threshold:g}", horizon, indices, valid.time(dt=dt, unit=lyapunov_time))
        scores.set(f"vpt_saturated@{threshold:g}", horizon, indices, saturated)


def _lyapunov_units(batch: list[HeldOutWindow]) -> np.ndarray:
    return np.array([lyapunov_unit(window.trajectory.lyapunov_time, window.trajectory.period) for window in batch])


def score_rollout(
    scores: Scores,
    batch: list[HeldOutWindow],
    truth: np.ndarray,
    forecast: np.ndarray,
    protocol: EvaluationProtocol,
) -> None:
    """Score whether forecasts, (windows, prediction, channels) as the truth, stay on the attractor.

    Over all steps, and, as `NAME@tail`, over those from `rollout_tail` on, when nothing is left to know of the start.
    """
    indices = [window.index for window in batch]
    dt = np.array([window.trajectory.dt for window in batch])
    times: dict[str, Any] = {"dt": dt, "lyapunov_time": _lyapunov_units(batch), "seed": protocol.seed}
    for suffix, first in (("", 0), ("@tail", protocol.rollout_tail)):
        found = attractor_statistics(truth[:, first:], forecast[:, first:], **times)
        for name, values in found.items():
            scores.set(f"{name}{suffix}", protocol.prediction_length, indices, values)


def score_quantiles(
    scores: Scores,
    batch: list[HeldOutWindow],
    values: np.ndarray,
    quantiles: np.ndarray,
    protocol: EvaluationProtocol,
) -> None:
    """Score quantiles (windows, steps, channels, levels) as `score_forecast` does forecasts, as far as they go.

    Every central interval has its coverage, the widest its width too.
    """
    past, future = values[:, : protocol.context_length], values[:, protocol.context_length :]
    indices = [window.index for window in batch]
    scores.set_failed(indices, quantiles)
    intervals = list(central_intervals(protocol.quantile_levels))
    known = {"quantile_levels": protocol.quantile_levels, "past_values": past}
    for horizon in (each for each in protocol.horizons if each <= quantiles.shape[1]):
        target = (future[:, :horizon], quantiles[:, :horizon])
        scores.set("normalised_crps", horizon, indices, normalised_crps(*target, **known))
        scores.set("weighted_quantile_loss", horizon, indices, weighted_quantile_loss(*target, **known))
        for nominal in intervals:
            covered = interval_coverage(*target, **known, nominal=nominal)
            scores.set(f"coverage@{nominal:g}", horizon, indices, covered)
        for nominal in intervals[:1]:
            scores.set(
                f"interval_width@{nominal:g}", horizon, indices, interval_width(*target, **known, nominal=nominal)
            )
        empty = np.full((scores.num_windows, len(protocol.quantile_levels)), np.nan)
        scores.share_below.setdefault(horizon, empty)[indices] = share_below(*target, **known)


def by_system(windows: Sequence[HeldOutWindow]) -> dict[str, list[HeldOutWindow]]:
    """Return the windows of each system, in the order of their names."""
    ordered = sorted(windows, key=lambda window: window.trajectory.system)
    return {name: list(group) for name, group in groupby(ordered, key=lambda window: window.trajectory.system)}


def system_rows(model: str, scores: Scores, windows: Sequence[HeldOutWindow], seed: int) -> Iterator[ResultRow]:
    """Yield the median over each system's windows; a metric that scored none of them has no row."""
    for system, members in by_system(windows).items():
        indices = [window.index for window in members]
        for (metric, horizon), values in scores.values.items():
            scored = values[indices]
            scored = scored[~np.isnan(scored)]
            if len(scored):
                median = float(f"{np.median(scored):.6g}")  # before the summary, which can then be made from the file
                yield ResultRow(model, system, horizon, metric, median, len(scored), seed)


def calibration(scores: Scores, windows: Sequence[HeldOutWindow], protocol: EvaluationProtocol) -> list[dict[str, Any]]:
    """Return, per horizon, the shares of targets that a results file's header holds of a model with a distribution.

    levels and share_below: nominal and empirical. coverage: of each central interval, by its nominal coverage. A share
    is the mean over systems of the mean over a system's windows; None where no window has a target.
    """
    systems = [[window.index for window in members] for members in by_system(windows).values()]

    def pooled(shares: np.ndarray) -> float | None:
        scored = [shares[indices][~np.isnan(shares[indices])] for indices in systems]
        means = [values.mean() for values in scored if len(values)]
        return round(float(np.mean(means)), 6) if means else None

    return [
        {
            "horizon": horizon,
            "levels": list(protocol.quantile_levels),
            "share_below": [pooled(column) for column in shares.T],
            "coverage": {
                f"{nominal:g}": pooled(scores.values[f"coverage@{nominal:g}", horizon])
                for nominal in central_intervals(protocol.quantile_levels)
            },
        }
        for horizon, shares in scores.share_below.items()
    ]


def timed(
    name: str, call: Callable[[], torch.Tensor], shape: tuple[int, ...], scores: Scores, *, prefix: str
) -> np.ndarray:
    """Return what `call` gives and add the time it took to `scores`, under `prefix`."""
    cpu, wall = time.process_time(), time.perf_counter()
    found = call().float().cpu().numpy()  # the copy waits for the device
    taken = {"cpu_seconds": time.process_time() - cpu, "wall_seconds": time.perf_counter() - wall}
    for clock, seconds in taken.items():
        scores.seconds[prefix + clock] = scores.seconds.get(prefix + clock, 0.0) + seconds
    if found.shape != shape:
        raise ValueError(
            f"forecasts and completions must have the shape that was asked for, {shape}, found {found.shape} from "
            f"{name!r}; give exactly those steps."
        )
    return found


def results_header(
    scores: Mapping[str, Scores],
    windows: Sequence[HeldOutWindow],
    dataset: TrajectorySource,
    protocol: Any,
    *,
    baselines: Collection[str],
    device: torch.device,
) -> dict[str, Any]:
    """Return the header of a results file: `protocol`, any dataclass, and the facts of data, cost and machine."""
    return {
        "models": list(scores),
        "baselines": [name for name in scores if name in baselines],
        "protocol": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(protocol).items()},
        "dataset": _dataset_facts(dataset, windows),
        "systems": _system_facts(windows),
        "cost": {name: _cost(score) for name, score in scores.items()},
        "calibration": {
            name: calibration(score, windows, protocol) for name, score in scores.items() if score.share_below
        },
        "versions": package_versions(),
        "hardware": hardware_class(device),
        "git_revision": git_revision(),
    }


def _dataset_facts(dataset: TrajectorySource, windows: Sequence[HeldOutWindow]) -> dict[str, str | int]:
    return {
        "fingerprint": dataset.fingerprint,
        "split": dataset.split,
        "num_systems": len(by_system(windows)),
        "num_trajectories": len(dataset),
        "num_windows": len(windows),
    }


def _system_facts(windows: Sequence[HeldOutWindow]) -> dict[str, dict[str, float | int | None]]:
    """What it takes to turn steps into periods and Lyapunov times: medians over a system's windows."""
    facts = {}
    for system, members in by_system(windows).items():
        trajectories = [window.trajectory for window in members]
        facts[system] = {
            "num_channels": trajectories[0].values.shape[0],
            "num_trajectories": len({t.item_id for t in trajectories}),
            "num_windows": len(members),
            "steps_per_period": _known_median([t.period / t.dt for t in trajectories]),
            "lyapunov_times_per_period": _known_median(
                [t.period / lyapunov_unit(t.lyapunov_time, t.period) for t in trajectories]
            ),
        }
    return facts


def _known_median(values: list[float]) -> float | None:
    known = [value for value in values if not np.isnan(value)]
    return float(np.median(known)) if known else None


def _cost(scores: Scores) -> dict[str, float | int]:
    seconds = {clock: round(taken, 3) for clock, taken in scores.seconds.items()}
    return seconds | {"failed_windows": len(scores.failed)}
