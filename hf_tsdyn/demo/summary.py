"""What the demo's page says of a series and of a forecast: a table of numbers, and what they mean."""

from __future__ import annotations

import re

import numpy as np

from ..attractor_statistics import ATTRACTOR_STATISTICS
from ..metrics import ValidPrediction, interval_coverage, normalised_mae, smape
from ..results import METRIC_LABELS
from .forecasts import BAND_LEVELS, FEWEST_COMPARED, THRESHOLD, ForecastStudy
from .systems import Trajectory

_NOMINAL = BAND_LEVELS[1] - BAND_LEVELS[0]


def describe(trajectory: Trajectory) -> str:
    """Return, in Markdown, how long and wide a series is, what its channels are called, and what it lacks."""
    steps, channels = trajectory.values.shape
    names = f" ({', '.join(trajectory.channel_names)})" if trajectory.channel_names else ""
    size = f"{steps:,} steps of {channels} channel{'' if channels == 1 else 's'}{names}."
    missing = int(np.isnan(trajectory.values).sum())
    lacks = f"{missing:,} of {trajectory.values.size:,} values are missing." if missing else ""
    return plain_markdown(" ".join(filter(None, (f"{trajectory.title}:", size, trajectory.remark, lacks))))


def summary_table(study: ForecastStudy) -> str:
    """Return the numbers of a study as a Markdown table: of the forecast, and of truth against truth."""
    rows = [(f"valid prediction, {study.time_unit}", _valid(study.valid, study.step_time), "-")]
    if study.trajectory.lyapunov_time is not None:
        rows.append(("valid prediction, steps", _valid(study.valid, 1.0), "-"))
    if study.spread is not None:
        label = f"median over {len(study.spread.steps)} starts, {study.time_unit}"
        rows.append((label, _valid(study.spread, study.step_time), "-"))
    for name, metric in {"smape": smape, "normalised_mae": normalised_mae}.items():
        value = metric(study.future_values[None], study.forecast[None], past_values=study.past_values[None])[0]
        rows.append((METRIC_LABELS[name], _number(value), "-"))
    if study.band is not None:
        rows.append((METRIC_LABELS[f"coverage@{_NOMINAL:.1g}"], _number(_coverage(study, study.band)), "-"))
    for name in ATTRACTOR_STATISTICS:
        floor = "-" if study.floor is None else _number(study.floor[name])
        rows.append((METRIC_LABELS[name], _number(study.statistics[name]), floor))
    if study.orbit is not None:
        rows.append((METRIC_LABELS["num_regions"], f"{len(study.orbit.regions):,}", "-"))
    titles = plain_markdown(study.trajectory.title), plain_markdown(study.model)
    lines = [f"| {' | '.join(titles)} | truth against truth |", "|---|---:|---:|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _valid(valid: ValidPrediction, step_time: float) -> str:
    """Return the median time of forecasts, a bound where one in the middle was valid to its end."""
    middle = np.argsort(valid.steps, kind="stable")[(len(valid.steps) - 1) // 2 : len(valid.steps) // 2 + 1]
    bound = "at least " if valid.saturated[middle].any() else ""
    time = float(valid.steps[middle].mean()) * step_time
    return f"{bound}{time:,.0f}" if time >= 100 else f"{bound}{time:.3g}"


def _coverage(study: ForecastStudy, band: np.ndarray) -> float:
    """Return the share of what came true that lies in the band (steps, channels, 2)."""
    future, past = study.future_values[None, : len(band)], study.past_values[None]
    share = interval_coverage(future, band[None], quantile_levels=BAND_LEVELS, past_values=past, nominal=_NOMINAL)
    return float(share[0])


def plain_markdown(text: str) -> str:
    """Escape a text, so that a page shows it as it is: what came with a file is no Markdown, and no HTML."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>&$])", lambda found: f"&#{ord(found[1])};", text)


def _number(value: float) -> str:
    return "-" if np.isnan(value) else "infinite" if np.isinf(value) else f"{value:.3g}"


def notes(study: ForecastStudy) -> str:
    """Return, in Markdown, what a reader has to know to take the numbers for what they are."""
    compared = len(study.attractor)
    found = [
        f"The model saw the {len(study.past_values):,} steps before step {study.origin:,}. Its forecast is valid until "
        f"its error exceeds {THRESHOLD:g} standard deviations of the truth. sMAPE and MAE are over the horizon of "
        f"{len(study.forecast):,} steps; state-space divergence and what follows it in the table compare the truth "
        f"with the forecast rolled on over {compared:,} steps.",
        *_on_the_series(study),
        *_on_the_forecast(study),
    ]
    return "\n\n".join(found)


def _on_the_series(study: ForecastStudy) -> list[str]:
    trajectory, compared = study.trajectory, len(study.attractor)
    found = [plain_markdown(trajectory.remark)] if trajectory.remark else []
    if trajectory.lyapunov_time is None:
        found.append("No Lyapunov time of this series is known: time is in steps.")
    if study.floor is None:
        found.append(
            f"Too few steps follow the start for a second stretch of the truth, at least {2 * FEWEST_COMPARED:,}: "
            "there is no truth against truth."
        )
    else:
        found.append(f"A perfect model would score about as the truth's next {compared:,} steps do.")
    if not np.isfinite(study.attractor).all():
        found.append("Values are missing in what follows the start: attractors cannot be compared.")
    elif any(np.isnan(value) for value in study.statistics.values()):
        found.append(
            f"A dash is a number that cannot be had: exponents and dimensions need {FEWEST_COMPARED:,} steps of a "
            "series that is chaotic, and never twice the same."
        )
    return found


def _on_the_forecast(study: ForecastStudy) -> list[str]:
    found = []
    if study.spread is not None:
        found.append(
            f"The median is over forecasts of {study.spread_steps:,} steps, from starts spread evenly over the series."
        )
    if study.band is not None:
        low, high = (f"{level:.0%}" for level in BAND_LEVELS)
        found.append(
            f"The band lies between the forecast's {low} and {high} quantiles of each of the first {len(study.band):,} "
            "steps; its coverage is the share of the truth in it."
        )
    if study.orbit is not None:
        found.append("An AL-RNN knows one system, in the units and at the time step of the series that it learnt.")
    if not np.isfinite(study.forecast).all():
        found.append("**The forecast leaves the range of numbers: the model diverges.**")
    return found
