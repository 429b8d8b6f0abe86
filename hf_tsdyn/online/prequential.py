"""Test, then learn, step after step of a stretch of a stream; and what came of it, on disk."""

from __future__ import annotations

import io
import json
import os
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from tqdm.auto import tqdm

from ..results import write_atomically
from ..series_evaluation import WindowErrors
from .learner import OnlineLearner
from .stream import Stream

LARGEST = 1e15
"""Z-scores of forecasts lie within this distance of 0: squares of anything beyond are no numbers any more."""


class ForecastNotFiniteError(ValueError):
    """A learner has left the range of numbers that can be scored."""


@dataclass(frozen=True, eq=False)
class PrequentialRun:
    """Errors of one learner's forecasts along a stretch of a stream; T forecasts, H steps ahead, C channels.

    squared, absolute: (T, H) float32, means over the seen channels of a target step, in units of `scale`; NaN where
        none is seen.
    channel_squared, channel_absolute: (T, C) float32, means over the seen target steps of a channel, in the same units.
    percentage: (T,) float32, mean over seen targets of 100 |y - f| / |y|, y and f being z-scores: mostly an artefact
        of where 0 lies, and without the targets that lie exactly there.
    scale: (C,), of the z-scores, data units. typical_step: (C,), mean absolute difference of neighbouring steps before
        the stretch, data units; NaN where none are seen.
    first_step: row of the stream that is the first target of the first forecast.
    forecast_seconds, learn_seconds: CPU time of all forecasts, and of all that was learnt.
    statistics: the learner's own, at the end.
    """

    squared: np.ndarray
    absolute: np.ndarray
    channel_squared: np.ndarray
    channel_absolute: np.ndarray
    percentage: np.ndarray
    scale: np.ndarray
    typical_step: np.ndarray
    channel_names: tuple[str, ...]
    first_step: int
    forecast_seconds: float
    learn_seconds: float
    statistics: dict[str, float]

    def __len__(self) -> int:
        return len(self.squared)

    @property
    def prediction_length(self) -> int:
        """Steps of each forecast."""
        return self.squared.shape[1]

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds of a step, forecast and learning."""
        return 1000 * (self.forecast_seconds + self.learn_seconds) / len(self)

    @property
    def errors(self) -> WindowErrors:
        """The errors of each forecast by channel, as those of the windows of a split: with their means and metrics."""
        seconds = self.forecast_seconds
        return WindowErrors(self.channel_squared, self.channel_absolute, self.scale, self.channel_names, seconds)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the run to an NPZ file, replacing `path` in one step."""
        content = io.BytesIO()
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        values["statistics"] = json.dumps(self.statistics)
        np.savez(content, **values)
        write_atomically(path, content.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PrequentialRun:
        """Return what `save` wrote.

        Raises: FileNotFoundError; ValueError on a file that is none of its.
        """
        content = Path(path).read_bytes()
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                found: dict[str, Any] = {field.name: arrays[field.name] for field in fields(cls)}
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} must be a whole file of an online run, found {error!r}; delete it.") from error
        for name in ("first_step", "forecast_seconds", "learn_seconds"):
            found[name] = found[name].item()
        found["channel_names"] = tuple(found["channel_names"].tolist())
        found["statistics"] = json.loads(found["statistics"].item())
        return cls(**found)


def run_prequential(
    learner: OnlineLearner,
    stream: Stream,
    *,
    start: int,
    stop: int,
    loc: ArrayLike,
    scale: ArrayLike,
    warm_up: bool = True,
    show_progress: bool = True,
) -> PrequentialRun:
    """Warm a learner up on what comes before a stretch, then forecast every step of it and learn what is revealed.

    The warm-up is the L steps before row `start`, as far as there are any. From the end of each row t of start - 1 to
    stop - 1 - H the learner forecasts rows t + 1 to t + H, which all lie in the stretch. With the delayed protocol it
    then observes row t + 1; with the immediate one the targets of the forecast are revealed to it before that. A
    forecast from L rows of which nothing is seen is not made, and has no errors; unseen targets count for nothing.

    Args:
        learner: as it is; without time features of its own it gets none of the stream's.
        start, stop: rows of the stretch, [start, stop).
        loc, scale: (C,), data units: errors are of z-scores by them; those of the training rows.
        warm_up: False leaves the warm-up out, for a learner that has observed the rows before the stretch: to go on
            where another run ended, begin one row after its last forecast did.
    Raises: ValueError on a stretch that is outside of the stream, begins at its first row or is shorter than H, on
        other channels or time features; ForecastNotFiniteError, naming the row, on a forecast that is not finite.
    """
    loc, scale = (np.asarray(each, np.float64) for each in (loc, scale))
    _check(learner, stream, start, stop, loc, scale)
    if warm_up:
        before = slice(max(start - learner.context_length, 0), start)
        features = stream.time_features if learner.num_time_features else None
        learner.warm_up(stream.values[before], None if features is None else features[before])
    rows = range(start, stop - learner.prediction_length + 1)
    forecasts, seconds = _follow(learner, stream, rows, loc=loc, scale=scale, show_progress=show_progress)
    return PrequentialRun(
        **_errors(forecasts, stream, start, loc=loc, scale=scale),
        forecast_seconds=seconds[0],
        learn_seconds=seconds[1],
        statistics=learner.statistics(),
    )


def _follow(
    learner: OnlineLearner, stream: Stream, rows: range, *, loc: np.ndarray, scale: np.ndarray, show_progress: bool
) -> tuple[np.ndarray, list[float]]:
    """Forecast from before each of the rows, then learn; return forecasts (T, H, C), and CPU seconds of either."""
    horizon, features = learner.prediction_length, stream.time_features if learner.num_time_features else None
    forecasts = np.full((len(rows), horizon, stream.num_channels), np.nan, np.float32)
    seconds = np.zeros(2)
    has_context = _has_context(stream.values, learner.context_length)
    for number, row in enumerate(tqdm(rows, unit="step", desc="online", disable=not show_progress, leave=False)):
        began = time.process_time()
        if has_context[row]:
            forecasts[number] = _forecast(learner, row, loc=loc, scale=scale)
        learnt = time.process_time()
        if learner.protocol == "immediate":
            learner.learn_revealed(stream.values[row : row + horizon])
        learner.learn_one(stream.values[row], None if features is None else features[row])
        seconds += learnt - began, time.process_time() - learnt
    return forecasts, seconds.tolist()


def _check(learner: OnlineLearner, stream: Stream, start: int, stop: int, loc: np.ndarray, scale: np.ndarray) -> None:
    horizon, channels = learner.prediction_length, (stream.num_channels,)
    if not 1 <= start <= stop - horizon or stop > len(stream):
        raise ValueError(
            f"a stretch must leave a row of context before it, hold the {horizon} steps of a forecast and end within "
            f"the {len(stream)} rows of {stream.name!r}, found [{start}, {stop}); move it."
        )
    if learner.num_channels != stream.num_channels or learner.num_time_features not in (0, stream.num_time_features):
        raise ValueError(
            f"a learner must have the channels of the stream, and its time features or none, found "
            f"{learner.num_channels} and {learner.num_time_features} for the {stream.num_channels} and "
            f"{stream.num_time_features} of {stream.name!r}; build it for this stream."
        )
    if loc.shape != channels or scale.shape != channels or not np.isfinite(loc).all() or not (scale > 0).all():
        raise ValueError(
            f"loc and scale must hold a finite, and a positive, number for each of the {stream.num_channels} channels, "
            f"found {loc.tolist()} and {scale.tolist()}; take those of the training rows."
        )


def _has_context(values: np.ndarray, context_length: int) -> np.ndarray:
    """(rows + 1,): whether anything is seen in the `context_length` rows before each row."""
    count = np.concatenate([[0], np.cumsum(~np.isnan(values).all(axis=1))])
    ends = np.arange(len(count))
    return count > count[np.maximum(ends - context_length, 0)]


def _forecast(learner: OnlineLearner, row: int, *, loc: np.ndarray, scale: np.ndarray) -> np.ndarray:
    forecast = learner.forecast().numpy()
    lost = ~(np.abs((forecast - loc) / scale) < LARGEST)
    if lost.any():
        raise ForecastNotFiniteError(
            f"forecasts must be finite and within {LARGEST:g} standard deviations, found {lost.sum()} numbers that are "
            f"not in the one whose first step is row {row}; lower the learning rate."
        )
    return forecast


def _errors(
    forecasts: np.ndarray, stream: Stream, start: int, *, loc: np.ndarray, scale: np.ndarray
) -> Mapping[str, Any]:
    """The arrays of errors of a run and what they refer to, by name."""
    num_forecasts, horizon, _ = forecasts.shape
    rows = np.asarray(stream.values[start : start + num_forecasts + horizon - 1], np.float64)
    truth = np.lib.stride_tricks.sliding_window_view((rows - loc) / scale, horizon, axis=0).swapaxes(1, 2)
    error = np.abs((forecasts - loc) / scale - truth)
    size = np.where(truth == 0, np.nan, np.abs(truth))
    return {
        "squared": _seen_mean(error**2, axis=2),
        "absolute": _seen_mean(error, axis=2),
        "channel_squared": _seen_mean(error**2, axis=1),
        "channel_absolute": _seen_mean(error, axis=1),
        "percentage": _seen_mean(100 * error / size, axis=(1, 2)),
        "scale": scale,
        "typical_step": _typical_step(stream.values[:start]),
        "channel_names": stream.channel_names,
        "first_step": start,
    }


def _seen_mean(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """Mean of what is not NaN, float32; NaN of nothing."""
    seen = ~np.isnan(values)
    count = seen.sum(axis=axis)
    return (np.where(seen, values, 0.0).sum(axis=axis) / np.where(count, count, np.nan)).astype(np.float32)


def _typical_step(values: np.ndarray) -> np.ndarray:
    """Mean absolute difference of neighbouring seen rows by channel; NaN without any."""
    return _seen_mean(np.abs(np.diff(values.astype(np.float64), axis=0)), axis=0).astype(np.float64)
