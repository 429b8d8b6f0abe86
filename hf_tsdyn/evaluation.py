"""Hold forecasters against each other on the same windows of held-out systems: one path for models and baselines."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from .data.held_out_windows import batches_of_equal_channels, draw_held_out_windows
from .data.series import TrajectorySource
from .forecasting import Forecaster
from .metrics.probabilistic import check_increasing_levels
from .results import EvaluationResults, summarise
from .scoring import STEP_METRIC, Scores, results_header, score_forecast, score_quantiles, system_rows, timed


@dataclass(frozen=True)
class EvaluationProtocol:
    """What is asked of every forecaster.

    context_length: steps that a forecaster sees. horizons: steps ahead at which accumulated errors are reported;
    the largest is forecast. num_windows: drawn per trajectory without repetition (all there are, if fewer).
    seed: of the windows, of sampled paths and the bootstrap. num_curve_points: single steps, spaced geometrically, at
    which error growth is kept. num_resamples, confidence: of the bootstrap over systems. quantile_levels: scored of
    forecasters that have a distribution; with none, point forecasts alone are scored. num_samples: paths a series, of
    forecasters whose quantiles are those of sampled paths.
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
    quantile_levels: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    num_samples: int = 100

    def __post_init__(self) -> None:
        counts = ("context_length", "num_windows", "batch_size", "num_curve_points", "num_resamples", "num_samples")
        wrong = {name: getattr(self, name) for name in counts if getattr(self, name) < 1}
        wrong |= {"horizons": self.horizons} if not self.horizons or min(self.horizons) < 1 else {}
        wrong |= {"vpt_thresholds": self.vpt_thresholds} if any(t <= 0 for t in self.vpt_thresholds) else {}
        wrong |= {"confidence": self.confidence} if not 0 < self.confidence < 1 else {}
        if wrong:
            raise ValueError(
                f"an evaluation protocol must count in positive numbers and have a confidence between 0 and 1, "
                f"found {wrong}; correct these fields."
            )
        if self.quantile_levels:
            check_increasing_levels(self.quantile_levels)

    @property
    def prediction_length(self) -> int:
        """The largest horizon."""
        return max(self.horizons)

    @property
    def curve_steps(self) -> list[int]:
        """Steps at which error growth is kept, the first and the last included."""
        steps = np.geomspace(1, self.prediction_length, self.num_curve_points)
        return sorted({int(step) for step in steps.round()})


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
    prediction times; of forecasters with a distribution, also the score of their quantiles and the coverage and width
    of their central intervals. Per system: their medians over its windows. Over systems: the median with a bootstrap
    interval, and the paired difference of every forecaster to each baseline that is scored on the same. Medians of
    shares say little about calibration: the header has their means. A forecast with a value that is not finite counts
    as a failed window: it stays in the medians as an infinite error (sMAPE 100) and in the header as a count. Windows
    with nothing seen in the context are left out, and valid prediction times where the period is unknown.

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
    length = protocol.context_length + protocol.prediction_length
    windows = draw_held_out_windows(dataset, length=length, num_windows=protocol.num_windows, seed=protocol.seed)
    scores = {name: Scores(len(windows)) for name in forecasters}
    seen = [window for window in windows if not np.isnan(window.values[: protocol.context_length]).all()]
    if not seen:
        raise ValueError(
            f"some window must have a seen value in its context, found none in {len(windows)}; lengthen the context, "
            "or choose another part of the data."
        )
    batches = list(batches_of_equal_channels(seen, protocol.batch_size))
    with tqdm(total=len(batches) * len(scores), desc="evaluate", disable=not show_progress) as progress:
        for number, batch in enumerate(batches):
            values = np.stack([window.values for window in batch])
            past = torch.from_numpy(values[:, : protocol.context_length].copy()).to(device)
            for name, forecaster in forecasters.items():
                progress.set_postfix_str(name, refresh=False)
                forecast = _forecast(name, forecaster, past, protocol, scores[name])
                score_forecast(scores[name], batch, values, forecast, protocol)
                quantiles = _forecast_quantiles(name, forecaster, past, protocol, scores[name], batch=number)
                if quantiles is not None:
                    score_quantiles(scores[name], batch, values, quantiles, protocol)
                progress.update()
    rows = [row for name in forecasters for row in system_rows(name, scores[name], windows, protocol.seed)]
    header = results_header(scores, windows, dataset, protocol, baselines=baselines, device=torch.device(device))
    summarised = [row for row in rows if row.metric != STEP_METRIC]
    summary, differences = summarise(
        summarised,
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
        "prediction_length": protocol.prediction_length,
        "quantile_levels": protocol.quantile_levels,
        "num_samples": protocol.num_samples,
        "generator": torch.Generator().manual_seed(seed),
    }
    shape = (len(past), protocol.prediction_length, past.shape[2], len(protocol.quantile_levels))
    try:
        return timed(name, lambda: method(past.clone(), **options), shape, scores, prefix="quantile_")
    except NotImplementedError:
        if scores.share_below:
            raise  # it has a distribution, and something else is missing
        return None
