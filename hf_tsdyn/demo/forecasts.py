"""One forecast of the demo and all that its page says about it, in numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch

from ..attractor_statistics import ATTRACTOR_STATISTICS, attractor_statistics
from ..forecasting import Forecaster, ForecastMixin
from ..metrics import ValidPrediction, normalised_mae, smape, valid_prediction
from ..models.alrnn import ALRNNForPrediction
from ..models.alrnn.fixed_points import FixedPoint, fixed_points
from ..models.alrnn.symbolic import SymbolicOrbit, symbolic_orbit
from ..results import METRIC_LABELS
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
BAND_SAMPLES = 50
"""Paths that the quantiles of a forecast longer than the model's own are of."""


@dataclass(frozen=True, eq=False)
class ForecastStudy:
    """A forecast, what came true, and how far apart they are.

    past_values, future_values, forecast: (time, channels), data units; the context begins at step `start`.
    band: (horizon, channels, 2), its quantiles of `BAND_LEVELS`; None of a model without a distribution.
    error: (horizon,), of a step, in standard deviations of the truth; valid: until it exceeds `THRESHOLD`.
    attractor, run: (compared, channels), the truth after the context, and the forecast rolled out as far.
    statistics, floor: of `ATTRACTOR_STATISTICS`, of the run, and of the next stretch of the truth if there is one.
    orbit, points: of an AL-RNN, its symbols and its fixed points.
    """

    trajectory: Trajectory
    model: str
    start: int
    past_values: np.ndarray
    future_values: np.ndarray
    forecast: np.ndarray
    band: np.ndarray | None
    error: np.ndarray
    valid: ValidPrediction
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
    trajectory: Trajectory, forecaster: Forecaster, *, model: str, context_length: int, horizon: int, start: int = 0
) -> ForecastStudy:
    """Forecast a series from `context_length` of its steps, the first at `start`, and compare with what follows.

    Raises: ValueError on lengths out of range or beyond the series, or where the forecaster refuses the context.
    """
    _check_lengths(trajectory, context_length, horizon, start)
    past, rest = np.split(trajectory.values[start:], [context_length])
    has_floor = len(rest) >= 2 * FEWEST_COMPARED
    compared = min(len(rest) // 2 if has_floor else len(rest), COMPARED_STEPS)
    context = torch.from_numpy(np.array(past, dtype=np.float32))[None]
    run = forecaster.forecast(context, prediction_length=max(horizon, compared))[0].cpu().numpy()
    future, forecast, attractor = rest[:horizon], run[:horizon], rest[:compared]
    orbit, points = _symbols(forecaster, past)
    return ForecastStudy(
        trajectory,
        model,
        start,
        past,
        future,
        forecast,
        band=_band(forecaster, context, horizon),
        error=error_growth(past, future, forecast),
        valid=valid_prediction(future[None], forecast[None], past_values=past[None], threshold=THRESHOLD),
        attractor=attractor,
        run=run[:compared],
        statistics=_statistics(trajectory, attractor, run[:compared]),
        floor=_statistics(trajectory, attractor, rest[compared : 2 * compared]) if has_floor else None,
        orbit=orbit,
        points=points,
    )


def _band(forecaster: Forecaster, context: torch.Tensor, horizon: int) -> np.ndarray | None:
    """Return (horizon, channels, levels) of a model that describes a distribution; None of others."""
    if not isinstance(forecaster, ForecastMixin) or forecaster.distribution is None:
        return None
    asked = {"prediction_length": horizon, "quantile_levels": BAND_LEVELS, "num_samples": BAND_SAMPLES}
    return forecaster.forecast_quantiles(context, **asked)[0].cpu().numpy()


def _check_lengths(trajectory: Trajectory, context_length: int, horizon: int, start: int) -> None:
    for name, steps, (least, most) in (
        ("context", context_length, CONTEXT_RANGE),
        ("horizon", horizon, HORIZON_RANGE),
    ):
        if not least <= steps <= most:
            raise ValueError(f"the {name} must have {least} to {most:,} steps, found {steps:,}; move its slider.")
    if start < 0 or start + context_length + horizon > len(trajectory.values):
        raise ValueError(
            f"start, context and horizon must fit into the series of {len(trajectory.values):,} steps, found "
            f"{start:,}, {context_length:,} and {horizon:,}; start earlier, or make one shorter."
        )


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


def summary_table(study: ForecastStudy) -> str:
    """Return the numbers of a study as a Markdown table: of the forecast, and of truth against truth."""
    steps, bound = int(study.valid.steps[0]), "at least " if study.valid.saturated[0] else ""
    rows = [(f"valid prediction, {study.time_unit}", f"{bound}{_number(steps * study.step_time)}", "-")]
    if study.trajectory.lyapunov_time is not None:
        rows.append(("valid prediction, steps", f"{bound}{steps:,}", "-"))
    for name, metric in {"smape": smape, "normalised_mae": normalised_mae}.items():
        value = metric(study.future_values[None], study.forecast[None], past_values=study.past_values[None])[0]
        rows.append((METRIC_LABELS[name], _number(value), "-"))
    for name in ATTRACTOR_STATISTICS:
        floor = "-" if study.floor is None else _number(study.floor[name])
        rows.append((METRIC_LABELS[name], _number(study.statistics[name]), floor))
    if study.orbit is not None:
        rows.append((METRIC_LABELS["num_regions"], f"{len(study.orbit.regions):,}", "-"))
    titles = plain_markdown(study.trajectory.title), plain_markdown(study.model)
    lines = [f"| {' | '.join(titles)} | truth against truth |", "|---|---:|---:|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def plain_markdown(text: str) -> str:
    """Escape a text, so that a page shows it as it is: what came with a file is no Markdown, and no HTML."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>&$])", lambda found: f"&#{ord(found[1])};", text)


def _number(value: float) -> str:
    return "-" if np.isnan(value) else "infinite" if np.isinf(value) else f"{value:.3g}"


def notes(study: ForecastStudy) -> str:
    """Return, in Markdown, what a reader has to know to take the numbers for what they are."""
    compared = len(study.attractor)
    found = [
        f"The model saw {len(study.past_values):,} steps, from step {study.start:,} on. Its forecast is valid until "
        f"its error exceeds {THRESHOLD:g} standard deviations of the truth. sMAPE and MAE are over the horizon of "
        f"{len(study.forecast):,} steps; what follows them in the table compares the truth with the forecast rolled on "
        f"over {compared:,} steps.",
    ]
    if study.trajectory.lyapunov_time is None:
        found.append("No Lyapunov time of this series is known: time is in steps.")
    if study.floor is not None:
        found.append(f"A perfect model would score about as the truth's next {compared:,} steps do.")
    if study.band is not None:
        low, high = (f"{level:.0%}" for level in BAND_LEVELS)
        found.append(f"The band of the channels lies between the forecast's {low} and {high} quantiles of each step.")
    if study.orbit is not None:
        found.append("An AL-RNN knows one system, in the units and at the time step of the series that it learnt.")
    if not np.isfinite(study.forecast).all():
        found.append("**The forecast leaves the range of numbers: the model diverges.**")
    return "\n\n".join(found)
