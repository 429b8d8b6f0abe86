"""Hold forecasters against each other on the same windows of held-out systems: one path for models and baselines."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from .data.held_out_windows import HeldOutWindow, batches_of_equal_channels, draw_held_out_windows
from .data.series import TrajectorySource
from .evaluation_protocol import EvaluationProtocol
from .forecasting import Forecaster
from .results import STEP_METRIC, EvaluationResults, summarise
from .scoring import (
    TRUTH,
    Scores,
    results_header,
    score_forecast,
    score_quantiles,
    score_rollout,
    system_rows,
    timed,
)


def evaluate(
    forecasters: Mapping[str, Forecaster],
    dataset: TrajectorySource,
    protocol: EvaluationProtocol,
    *,
    baselines: Collection[str] = (),
    device: str | torch.device = "cpu",
    show_progress: bool = True,
) -> EvaluationResults:
    """Forecast the same windows with every forecaster and report errors per system and over systems.

    Per window: the metrics of `hf_tsdyn.scoring.METRICS` up to each horizon, the error of single steps, and valid
    prediction times; of long rollouts attractor statistics, beside their floor, the row `hf_tsdyn.scoring.TRUTH`,
    where windows look back far enough; of forecasters with a distribution, also the score of their quantiles and the
    coverage and width of their central intervals. Per system: their medians over its windows. Over systems: the median
    with a bootstrap interval, and the paired difference of every forecaster to each baseline that is scored on the
    same. Medians of shares say little about calibration: the header has their means. A forecast with a value that is
    not finite counts as a failed window: it stays in the medians as an infinite error (sMAPE 100) and in the header as
    a count. Windows with nothing seen in the context are left out, and valid prediction times where the period is
    unknown.

    Sampled quantiles are a function of the protocol's seed, the place of the batch and what is in it: they repeat,
    but more systems or another batch size change them within their sampling error.

    Args:
        forecasters: by the name they are reported under.
        dataset: whose trajectories windows are drawn from; a trajectory's windows depend on its `item_id` and the
            protocol alone, so that adding systems leaves those of the others as they were.
        baselines: names in `forecasters` that the others are compared with.
        device: where contexts are put; forecasters must be there already.
    Raises: ValueError if there is no forecaster or trajectory, a baseline is unknown, a trajectory is shorter than
        context and largest horizon together, nothing is seen in any context, or a forecast has the wrong shape.
    """
    _check(forecasters, dataset, baselines)
    windows = draw_windows(dataset, protocol)
    scores = {}
    with tqdm(total=len(forecasters), desc="evaluate", disable=not show_progress) as progress:
        for name, forecaster in forecasters.items():
            progress.set_postfix_str(name, refresh=False)
            scores[name] = score_windows(name, forecaster, windows, protocol, device=device)
            progress.update()
    if protocol.has_floors:
        scores[TRUTH] = score_truth(windows, protocol)
    header = results_header(scores, windows, dataset, protocol, baselines=baselines, device=torch.device(device))
    return collect_results(scores, windows, protocol, header)


def draw_windows(dataset: TrajectorySource, protocol: EvaluationProtocol) -> list[HeldOutWindow]:
    """Return the windows of an evaluation.

    Raises: ValueError if a trajectory is shorter than a window, or nothing is seen in any context.
    """
    length = protocol.window_length
    windows = draw_held_out_windows(dataset, length=length, num_windows=protocol.num_windows, seed=protocol.seed)
    if not any(_is_seen(window, protocol) for window in windows):
        raise ValueError(
            f"some window must have a seen value in its context, found none in {len(windows)}; lengthen the context, "
            "or choose another part of the data."
        )
    return windows


def _is_seen(window: HeldOutWindow, protocol: EvaluationProtocol) -> bool:
    return not np.isnan(protocol.context_of(window)).all()


def score_windows(
    name: str,
    forecaster: Forecaster,
    windows: Sequence[HeldOutWindow],
    protocol: EvaluationProtocol,
    *,
    device: str | torch.device = "cpu",
) -> Scores:
    """Return what one forecaster scores on each of the windows that show it something.

    Raises: ValueError, naming it, if a forecast has the wrong shape.
    """
    scores, origin, length = Scores(len(windows)), protocol.origin, protocol.prediction_length
    seen = [window for window in windows if _is_seen(window, protocol)]
    for number, batch in enumerate(batches_of_equal_channels(seen, protocol.batch_size)):
        values = np.stack([window.values[origin - protocol.context_length : origin + length] for window in batch])
        past = torch.from_numpy(np.stack([protocol.context_of(window) for window in batch])).to(device)
        forecast = _forecast(name, forecaster, past, protocol, scores)
        score_forecast(scores, batch, values, forecast, protocol)
        if protocol.rollout_tail is not None:
            score_rollout(scores, batch, values[:, protocol.context_length :], forecast, protocol)
        quantiles = _forecast_quantiles(name, forecaster, past, protocol, scores, batch=number)
        if quantiles is not None:
            score_quantiles(scores, batch, values, quantiles, protocol)
    return scores


def score_truth(windows: Sequence[HeldOutWindow], protocol: EvaluationProtocol) -> Scores:
    """Return the floors of attractor statistics: what the truth before the origin scores as a forecast."""
    scores, origin, length = Scores(len(windows)), protocol.origin, protocol.prediction_length
    for batch in batches_of_equal_channels(windows, protocol.batch_size):
        values = np.stack([window.values[origin - length : origin + length] for window in batch])
        score_rollout(scores, batch, values[:, length:], values[:, :length], protocol)
    return scores


def collect_results(
    scores: Mapping[str, Scores],
    windows: Sequence[HeldOutWindow],
    protocol: EvaluationProtocol,
    header: dict[str, Any],
    *,
    systems: Collection[str] | None = None,
) -> EvaluationResults:
    """Return the rows of every model and their medians over systems, under the header of `results_header`.

    systems: that medians are taken over; all by default.
    """
    rows = [row for name in scores for row in system_rows(name, scores[name], windows, protocol.seed)]
    summary, differences = summarise(
        [row for row in rows if row.metric != STEP_METRIC and (systems is None or row.system in systems)],
        baselines=header["baselines"],
        seed=protocol.seed,
        num_resamples=protocol.num_resamples,
        confidence=protocol.confidence,
    )
    return EvaluationResults(header, rows, summary, differences)


def _check(forecasters: Mapping[str, Forecaster], dataset: TrajectorySource, baselines: Collection[str]) -> None:
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
    past: torch.Tensor,
    protocol: EvaluationProtocol,
    scores: Scores,
) -> np.ndarray:
    def forecast() -> torch.Tensor:
        return forecaster.forecast(past.clone(), prediction_length=protocol.prediction_length)

    shape = (len(past), protocol.prediction_length, past.shape[2])
    return timed(name, forecast, shape, scores, prefix="")


def _forecast_quantiles(
    name: str,
    forecaster: Forecaster,
    past: torch.Tensor,
    protocol: EvaluationProtocol,
    scores: Scores,
    *,
    batch: int,
) -> np.ndarray | None:
    """Forecast quantiles, sampled ones from a generator that (seed, batch) gives; None without a distribution."""
    method: Callable[..., torch.Tensor] | None = getattr(forecaster, "forecast_quantiles", None)
    if method is None or not protocol.quantile_levels:
        return None
    seed = int(np.random.SeedSequence([protocol.seed, batch]).generate_state(1, np.uint64)[0])
    options: dict[str, Any] = {
        "prediction_length": protocol.quantile_length,
        "quantile_levels": protocol.quantile_levels,
        "num_samples": protocol.num_samples,
        "generator": torch.Generator().manual_seed(seed),
    }
    shape = (len(past), protocol.quantile_length, past.shape[2], len(protocol.quantile_levels))
    try:
        return timed(name, lambda: method(past.clone(), **options), shape, scores, prefix="quantile_")
    except NotImplementedError:
        if scores.share_below:
            raise  # it has a distribution, and something else is missing
        return None
