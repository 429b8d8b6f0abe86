"""One forecast of the demo, and how far it is from what came true."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..attractor_statistics import attractor_statistics
from ..forecasting import Forecaster, ForecastMixin
from ..metrics import ValidPrediction, valid_prediction
from ..models.alrnn import ALRNNForPrediction
from ..models.alrnn.fixed_points import FixedPoint, fixed_points
from ..models.alrnn.symbolic import SymbolicOrbit, symbolic_orbit
from ..symbolic_analysis import regions_to_solve
from .systems import Trajectory

CONTEXT_RANGE, HORIZON_RANGE = (32, 1024), (32, 2048)
"""Steps, least and most."""
THRESHOLD = 0.4
"""Of the error, in standard deviations of the truth, up to which a forecast is valid."""
COMPARED_STEPS = 4_000
"""Of the attractors that are compared, at most."""
FEWEST_COMPARED = 1_000
"""Steps below which no second stretch of the truth is split off, as exponents and dimensions need them."""
SYMBOLIC_STEPS = 5_000
BAND_LEVELS = (0.1, 0.9)
"""Quantiles between which a forecast's band lies."""
BAND_STEPS = 512
"""Of a forecast, the first, that have a band."""
BAND_CHANNELS, FEWEST_PATHS = 100, 10
"""Paths times channels that are sampled for a band, about; and paths at least."""
NUM_ORIGINS, ORIGIN_STEPS = 8, 512
"""Forecasts from steps spread over the series, at most, and their horizon, at most."""


@dataclass(frozen=True, eq=False)
class ForecastStudy:
    """A forecast, what came true, and how far apart they are.

    past_values, future_values, forecast: (time, channels), data units; the forecast begins at step `origin`.
    band: (steps, channels, 2), quantiles of `BAND_LEVELS` of the first steps; None of a model without a distribution.
    error: (horizon,), of a step, in standard deviations of the truth; valid: until it exceeds `THRESHOLD`.
    spread: the same of forecasts from steps spread over the series, `spread_steps` long; None of a short series.
    attractor, run: (compared, channels), the truth after the context, and the forecast rolled out as far.
    statistics, floor: of `ATTRACTOR_STATISTICS`, of the run, and of the next stretch of the truth if there is one.
    orbit, points: of an AL-RNN, its symbols and its fixed points.
    """

    trajectory: Trajectory
    model: str
    origin: int
    past_values: np.ndarray
    future_values: np.ndarray
    forecast: np.ndarray
    band: np.ndarray | None
    error: np.ndarray
    valid: ValidPrediction
    spread: ValidPrediction | None
    spread_steps: int
    attractor: np.ndarray
    run: np.ndarray
    statistics: dict[str, float]
    floor: dict[str, float] | None
    orbit: SymbolicOrbit | None
    points: list[FixedPoint]

    @property
    def step_time(self) -> float:
        """Of one step, in Lyapunov times; 1 where those are not known."""
        known = self.trajectory.lyapunov_time
        return 1.0 if known is None else self.trajectory.dt / known

    @property
    def time_unit(self) -> str:
        """Name of what `step_time` is measured in."""
        return "steps" if self.trajectory.lyapunov_time is None else "Lyapunov times"


def study_forecast(
    trajectory: Trajectory,
    forecaster: Forecaster,
    *,
    model: str,
    context_length: int,
    horizon: int,
    origin: int | None = None,
) -> ForecastStudy:
    """Forecast a series from step `origin` on, the context's end by default, and compare with what follows.

    Raises: ValueError on lengths out of range or beyond the series, where nothing is seen of the context, or of a
        channel of what follows, or where the forecaster refuses the context.
    """
    origin = context_length if origin is None else origin
    _check_lengths(trajectory, context_length, horizon, origin)
    past, rest = trajectory.values[origin - context_length : origin], trajectory.values[origin:]
    has_floor = len(rest) >= 2 * FEWEST_COMPARED
    compared = min(len(rest) // 2 if has_floor else len(rest), COMPARED_STEPS)
    _check_seen(trajectory, past, rest[:compared])
    context = torch.from_numpy(np.array(past, dtype=np.float32))[None]
    run = forecaster.forecast(context, prediction_length=max(horizon, compared))[0].cpu().numpy()
    future, forecast, attractor = rest[:horizon], run[:horizon], rest[:compared]
    orbit, points = _symbols(forecaster, past)
    spread_steps = min(horizon, ORIGIN_STEPS)
    return ForecastStudy(
        trajectory,
        model,
        origin,
        past,
        future,
        forecast,
        band=_band(forecaster, context, min(horizon, BAND_STEPS)),
        error=error_growth(past, future, forecast),
        valid=valid_prediction(future[None], forecast[None], past_values=past[None], threshold=THRESHOLD),
        spread=_spread(trajectory.values, forecaster, context_length, spread_steps),
        spread_steps=spread_steps,
        attractor=attractor,
        run=run[:compared],
        statistics=_statistics(trajectory, attractor, run[:compared]),
        floor=_statistics(trajectory, attractor, rest[compared : 2 * compared]) if has_floor else None,
        orbit=orbit,
        points=points,
    )


def _check_lengths(trajectory: Trajectory, context_length: int, horizon: int, origin: int) -> None:
    for name, steps, (least, most) in (
        ("context", context_length, CONTEXT_RANGE),
        ("horizon", horizon, HORIZON_RANGE),
    ):
        if not least <= steps <= most:
            raise ValueError(f"the {name} must have {least} to {most:,} steps, found {steps:,}; move its slider.")
    if origin < context_length:
        raise ValueError(
            f"the forecast must start after its context of {context_length:,} steps, found a start at step {origin:,}; "
            "start later, or shorten the context."
        )
    if origin + horizon > len(trajectory.values):
        raise ValueError(
            f"the forecast must end within the series of {len(trajectory.values):,} steps, found {horizon:,} from step "
            f"{origin:,} on; start earlier, or shorten the horizon."
        )


def _check_seen(trajectory: Trajectory, past: np.ndarray, following: np.ndarray) -> None:
    """Refuse a context without values, and a channel without any to compare a forecast with."""
    if np.isnan(past).all():
        raise ValueError(f"the context must hold values, found none in its {len(past):,} steps; start elsewhere.")
    unseen = np.isnan(following).all(axis=0)
    if unseen.any():
        raise ValueError(
            "every channel must have values after the start of the forecast, found none in the next "
            f"{len(following):,} steps of {trajectory.channel_name(int(unseen.argmax()))!r}; start elsewhere, or leave "
            "it out."
        )


def _band(forecaster: Forecaster, context: torch.Tensor, steps: int) -> np.ndarray | None:
    """Return (steps, channels, levels) of a model that describes a distribution; None of others."""
    if not isinstance(forecaster, ForecastMixin) or forecaster.distribution is None:
        return None
    paths = max(FEWEST_PATHS, BAND_CHANNELS // context.shape[2])
    asked = {"prediction_length": steps, "quantile_levels": BAND_LEVELS, "num_samples": paths}
    return forecaster.forecast_quantiles(context, **asked)[0].cpu().numpy()


def _spread(values: np.ndarray, forecaster: Forecaster, context_length: int, horizon: int) -> ValidPrediction | None:
    """Return the valid prediction from steps spread over a series (time, channels); None with fewer than two."""
    origins = np.unique(np.linspace(context_length, len(values) - horizon, NUM_ORIGINS).astype(int))
    windows = np.stack([values[origin - context_length : origin + horizon] for origin in origins])
    past, future = np.split(windows, [context_length], axis=1)
    seen = ~(np.isnan(past).all(axis=(1, 2)) | np.isnan(future).all(axis=(1, 2)))
    if seen.sum() < 2:
        return None
    past, future = past[seen], future[seen]
    forecast = forecaster.forecast(torch.from_numpy(past), prediction_length=horizon).cpu().numpy()
    return valid_prediction(future, forecast, past_values=past, threshold=THRESHOLD)


def error_growth(past_values: np.ndarray, future_values: np.ndarray, forecast: np.ndarray) -> np.ndarray:
    """Return (time,) the error that `metrics.valid_prediction` holds against its threshold, step by step.

    NaN at steps with nothing seen; infinite where the forecast is not finite.
    """
    truth = np.ma.masked_invalid(np.concatenate([past_values, future_values]).astype(np.float64))
    spread = truth.var(axis=0).filled(0.0)
    seen, finite = ~np.isnan(future_values), np.isfinite(forecast)
    differences = np.where(finite, forecast, 0.0) - np.where(seen, future_values, 0.0).astype(np.float64)
    error = np.where(seen, np.where(finite, differences**2, np.inf), 0.0).sum(axis=1)
    scale = np.where(seen, spread, 0.0).sum(axis=1)
    return np.sqrt(np.divide(error, scale, out=np.full(len(error), np.nan), where=scale > 0))


def _statistics(trajectory: Trajectory, truth: np.ndarray, generated: np.ndarray) -> dict[str, float]:
    values = attractor_statistics(
        truth[None], generated[None], dt=trajectory.dt, seed=0, lyapunov_time=trajectory.lyapunov_time
    )
    return {name: float(value[0]) for name, value in values.items()}


def _symbols(forecaster: Forecaster, past_values: np.ndarray) -> tuple[SymbolicOrbit | None, list[FixedPoint]]:
    """Read a free run of an AL-RNN as symbols; nothing of other models, and of a run that diverges."""
    if not isinstance(forecaster, ALRNNForPrediction) or not forecaster.config.num_relu_units:
        return None, []
    try:
        orbit = symbolic_orbit(forecaster, np.array(past_values), num_steps=SYMBOLIC_STEPS)
    except ValueError:  # it diverges, which forecast and statistics show
        return None, []
    return orbit, fixed_points(forecaster, regions_to_solve(orbit))
