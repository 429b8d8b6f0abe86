"""Hold forecasters against each other on the same windows of held-out systems: one path for models and baselines."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import groupby

import numpy as np
import torch
from tqdm.auto import tqdm

from .data.held_out_windows import HeldOutWindow, batches_of_equal_channels, draw_held_out_windows
from .data.trajectories import TrajectoryDataset
from .forecasting import Forecaster
from .metrics import lyapunov_unit, mase, normalised_mae, normalised_mse, smape, valid_prediction
from .provenance import git_revision, hardware_class, package_versions
from .results import EvaluationResults, ResultRow, summarise

METRICS = {"smape": smape, "normalised_mae": normalised_mae, "normalised_mse": normalised_mse, "mase": mase}
"""Metrics accumulated up to each horizon."""

STEP_METRIC = "step_normalised_mae"
"""Error of a single step, for curves of error growth; reported, not summarised."""


@dataclass(frozen=True)
class EvaluationProtocol:
    """What is asked of every forecaster.

    context_length: steps that a forecaster sees. horizons: steps ahead at which accumulated errors are reported;
    the largest is forecast. num_windows: drawn per trajectory without repetition (all there are, if fewer).
    seed: of the windows and the bootstrap. num_curve_points: single steps, spaced geometrically, at which error
    growth is kept. num_resamples, confidence: of the bootstrap over systems.
    """

    context_length: int = 512
    horizons: tuple[int, ...] = (64, 128, 256, 512)
    num_windows: int = 4
    seed: int = 0
    batch_size: int = 64
    vpt_thresholds: tuple[float, ...] = (0.4, 0.2)
    num_curve_points: int = 16
    num_resamples: int = 2000
    confidence: float = 0.95

    def __post_init__(self) -> None:
        counts = ("context_length", "num_windows", "batch_size", "num_curve_points", "num_resamples")
        wrong = {name: getattr(self, name) for name in counts if getattr(self, name) < 1}
        wrong |= {"horizons": self.horizons} if not self.horizons or min(self.horizons) < 1 else {}
        wrong |= {"vpt_thresholds": self.vpt_thresholds} if any(t <= 0 for t in self.vpt_thresholds) else {}
        wrong |= {"confidence": self.confidence} if not 0 < self.confidence < 1 else {}
        if wrong:
            raise ValueError(
                f"an evaluation protocol must count in positive numbers and have a confidence between 0 and 1, "
                f"found {wrong}; correct these fields."
            )

    @property
    def prediction_length(self) -> int:
        """The largest horizon."""
        return max(self.horizons)

    @property
    def curve_steps(self) -> list[int]:
        """Steps at which error growth is kept, the first and the last included."""
        steps = np.geomspace(1, self.prediction_length, self.num_curve_points)
        return sorted({int(step) for step in steps.round()})


@dataclass(eq=False)
class _Scores:
    """One model's values per window, by (metric, horizon); NaN where there is nothing to score."""

    num_windows: int
    values: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    failed_windows: int = 0

    def set(self, metric: str, horizon: int, indices: list[int], values: np.ndarray) -> None:
        self.values.setdefault((metric, horizon), np.full(self.num_windows, np.nan))[indices] = values


def evaluate(
    forecasters: Mapping[str, Forecaster],
    dataset: TrajectoryDataset,
    protocol: EvaluationProtocol,
    *,
    baselines: Collection[str] = (),
    device: str | torch.device = "cpu",
    show_progress: bool = True,
) -> EvaluationResults:
    """Forecast the same windows with every forecaster and report errors per system and over systems.

    Per window: the metrics of `METRICS` up to each horizon, the error of single steps, and valid prediction times.
    Per system: their medians over its windows. Over systems: the median with a bootstrap interval, and the paired
    difference of every forecaster to each baseline. A forecast with a value that is not finite counts as a failed
    window: it stays in the medians as an infinite error (sMAPE 100) and in the header as a count.

    Args:
        forecasters: by the name they are reported under.
        dataset: whose trajectories windows are drawn from; a trajectory's windows depend on its `item_id` and the
            protocol alone, so that adding systems leaves those of the others as they were.
        baselines: names in `forecasters` that the others are compared with.
        device: where contexts are put; forecasters must be there already.
    Raises: ValueError if there is no forecaster or trajectory, a baseline is unknown, a trajectory is shorter than
        context and largest horizon together, or a forecast has the wrong shape.
    """
    _check(forecasters, dataset, baselines)
    length = protocol.context_length + protocol.prediction_length
    windows = draw_held_out_windows(dataset, length=length, num_windows=protocol.num_windows, seed=protocol.seed)
    scores = {name: _Scores(len(windows)) for name in forecasters}
    batches = list(batches_of_equal_channels(windows, protocol.batch_size))
    with tqdm(total=len(batches) * len(scores), desc="evaluate", disable=not show_progress) as progress:
        for batch in batches:
            values = np.stack([window.values for window in batch])
            for name, forecaster in forecasters.items():
                progress.set_postfix_str(name, refresh=False)
                forecast = _forecast(name, forecaster, values, protocol, torch.device(device), scores[name])
                _score(batch, values, forecast, protocol, scores[name])
                progress.update()
    rows = [row for name in forecasters for row in _system_rows(name, scores[name], windows, protocol.seed)]
    header = {
        "models": list(forecasters),
        "baselines": [name for name in forecasters if name in baselines],
        "protocol": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(protocol).items()},
        "dataset": _dataset_facts(dataset, windows),
        "systems": _system_facts(windows),
        "cost": {name: _cost(score) for name, score in scores.items()},
        "versions": package_versions(),
        "hardware": hardware_class(torch.device(device)),
        "git_revision": git_revision(),
    }
    summarised = [row for row in rows if row.metric != STEP_METRIC]
    summary, differences = summarise(
        summarised,
        baselines=header["baselines"],
        seed=protocol.seed,
        num_resamples=protocol.num_resamples,
        confidence=protocol.confidence,
    )
    return EvaluationResults(header, rows, summary, differences)


def _check(forecasters: Mapping[str, Forecaster], dataset: TrajectoryDataset, baselines: Collection[str]) -> None:
    if not forecasters or not len(dataset):
        raise ValueError(
            "evaluate needs at least one forecaster and one trajectory, found "
            f"{len(forecasters)} and {len(dataset)}; name a model, and a split that has systems."
        )
    unknown = [name for name in baselines if name not in forecasters]
    if unknown:
        raise ValueError(
            f"baselines must be among the forecasters {list(forecasters)}, found {unknown}; add them to both."
        )


def _forecast(
    name: str,
    forecaster: Forecaster,
    values: np.ndarray,
    protocol: EvaluationProtocol,
    device: torch.device,
    scores: _Scores,
) -> np.ndarray:
    """Forecast a batch and take the time; the copy back to the CPU waits for the device."""
    past = torch.from_numpy(values[:, : protocol.context_length].copy()).to(device)
    cpu, wall = time.process_time(), time.perf_counter()
    forecast = forecaster.forecast(past, prediction_length=protocol.prediction_length).float().cpu().numpy()
    scores.cpu_seconds += time.process_time() - cpu
    scores.wall_seconds += time.perf_counter() - wall
    expected = (len(values), protocol.prediction_length, values.shape[2])
    if forecast.shape != expected:
        raise ValueError(
            f"forecasts must have shape {expected}, found {forecast.shape} from {name!r}; forecast exactly the "
            "steps that were asked for."
        )
    scores.failed_windows += int((~np.isfinite(forecast)).any(axis=(1, 2)).sum())
    return forecast


def _score(
    batch: list[HeldOutWindow],
    values: np.ndarray,
    forecast: np.ndarray,
    protocol: EvaluationProtocol,
    scores: _Scores,
) -> None:
    past, future = values[:, : protocol.context_length], values[:, protocol.context_length :]
    indices = [window.index for window in batch]
    for horizon in protocol.horizons:
        for metric, function in METRICS.items():
            errors = function(future[:, :horizon], forecast[:, :horizon], past_values=past)
            scores.set(metric, horizon, indices, errors)
    for step in protocol.curve_steps:
        one = slice(step - 1, step)
        scores.set(STEP_METRIC, step, indices, normalised_mae(future[:, one], forecast[:, one], past_values=past))

    dt = np.array([window.trajectory.dt for window in batch])
    period = np.array([window.trajectory.period for window in batch])
    lyapunov_time = np.array(
        [lyapunov_unit(window.trajectory.lyapunov_time, window.trajectory.period) for window in batch]
    )
    horizon = protocol.prediction_length
    for threshold in protocol.vpt_thresholds:
        valid = valid_prediction(future, forecast, past_values=past, threshold=threshold)
        scores.set(f"vpt_periods@{threshold:g}", horizon, indices, valid.time(dt=dt, unit=period))
        scores.set(f"vpt_lyapunov@{threshold:g}", horizon, indices, valid.time(dt=dt, unit=lyapunov_time))
        scores.set(f"vpt_saturated@{threshold:g}", horizon, indices, valid.saturated.astype(np.float64))


def _by_system(windows: list[HeldOutWindow]) -> dict[str, list[HeldOutWindow]]:
    ordered = sorted(windows, key=lambda window: window.trajectory.system)
    return {name: list(group) for name, group in groupby(ordered, key=lambda window: window.trajectory.system)}


def _system_rows(model: str, scores: _Scores, windows: list[HeldOutWindow], seed: int) -> Iterator[ResultRow]:
    """Yield the median over each system's windows; a metric that scored none of them has no row."""
    for system, members in _by_system(windows).items():
        indices = [window.index for window in members]
        for (metric, horizon), values in scores.values.items():
            scored = values[indices]
            scored = scored[~np.isnan(scored)]
            if len(scored):
                median = float(f"{np.median(scored):.6g}")  # before the summary, which can then be made from the file
                yield ResultRow(model, system, horizon, metric, median, len(scored), seed)


def _dataset_facts(dataset: TrajectoryDataset, windows: list[HeldOutWindow]) -> dict[str, str | int]:
    return {
        "fingerprint": dataset.fingerprint,
        "split": dataset.split,
        "num_systems": len(_by_system(windows)),
        "num_trajectories": len(dataset),
        "num_windows": len(windows),
    }


def _system_facts(windows: list[HeldOutWindow]) -> dict[str, dict[str, float | int | None]]:
    """What it takes to turn steps into periods and Lyapunov times: medians over a system's windows."""
    facts = {}
    for system, members in _by_system(windows).items():
        trajectories = [window.trajectory for window in members]
        rates = [t.period / lyapunov_unit(t.lyapunov_time, t.period) for t in trajectories]
        known = [rate for rate in rates if not np.isnan(rate)]
        facts[system] = {
            "num_channels": trajectories[0].values.shape[0],
            "num_trajectories": len({t.item_id for t in trajectories}),
            "num_windows": len(members),
            "steps_per_period": float(np.median([t.period / t.dt for t in trajectories])),
            "lyapunov_times_per_period": float(np.median(known)) if known else None,
        }
    return facts


def _cost(scores: _Scores) -> dict[str, float | int]:
    return {
        "cpu_seconds": round(scores.cpu_seconds, 3),
        "wall_seconds": round(scores.wall_seconds, 3),
        "failed_windows": scores.failed_windows,
    }
