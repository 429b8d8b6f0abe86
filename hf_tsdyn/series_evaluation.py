"""Errors of a forecaster on every window of a series, and how sure their means are when windows overlap."""

from __future__ import annotations

import io
import os
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import stats
from torch import Tensor
from tqdm.auto import tqdm

from .data.time_features import time_feature_arguments
from .data.windows import SequentialWindows
from .forecasting import Forecaster
from .results import write_atomically

SHORTEST_BLOCK = 168
"""Windows of a bootstrap block at least: a week of hours, over which errors of hourly series go up and down."""


@dataclass(frozen=True)
class WindowErrors:
    """Errors of one forecaster on all windows of a split, each the mean over the horizon's seen targets.

    squared, absolute: (num_windows, channels), in units of `scale` and its square; NaN where no target is seen.
    scale: (channels,), standard deviations of the training rows, in the data's own units.
    cpu_seconds: of the forecasts.

    A metric is "mse", "mae", or with "raw_" before it the same in the data's own units; "mse/NAME" is that of
    one channel. Means over channels count those with seen targets alike, means over windows the windows.
    """

    squared: np.ndarray
    absolute: np.ndarray
    scale: np.ndarray
    channel_names: tuple[str, ...]
    cpu_seconds: float

    @property
    def mse(self) -> float:
        """Mean squared error in units of the scaler."""
        return self.mean("mse")

    @property
    def mae(self) -> float:
        """Mean absolute error in units of the scaler."""
        return self.mean("mae")

    @property
    def raw_mse(self) -> float:
        """Mean squared error in the data's own units."""
        return self.mean("raw_mse")

    @property
    def raw_mae(self) -> float:
        """Mean absolute error in the data's own units."""
        return self.mean("raw_mae")

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of all metrics, of single channels after those of all."""
        names = ("mse", "mae", "raw_mse", "raw_mae")
        return names + tuple(f"{name}/{channel}" for name in names for channel in self.channel_names)

    def of_windows(self, metric: str) -> np.ndarray:
        """Return (num_windows,), NaN where no target is seen.

        Raises: ValueError on an unknown metric.
        """
        name, _, channel = metric.partition("/")
        if metric not in self.metrics:
            raise ValueError(
                f"metric must be mse, mae, raw_mse or raw_mae, with /CHANNEL of {self.channel_names} for one channel, "
                f"found {metric!r}; correct it."
            )
        values, power = (self.squared, 2) if name.endswith("mse") else (self.absolute, 1)
        values = np.asarray(values, np.float64) * (self.scale**power if name.startswith("raw_") else 1.0)
        if channel:
            return values[:, self.channel_names.index(channel)]
        seen = ~np.isnan(values)
        return np.where(seen, values, 0.0).sum(axis=1) / np.where(seen.any(axis=1), seen.sum(axis=1), np.nan)

    def mean(self, metric: str) -> float:
        """Return the mean over the windows with a seen target; NaN of a channel that has none."""
        values = self.of_windows(metric)
        values = values[~np.isnan(values)]
        return float(values.mean()) if len(values) else float("nan")


def score_windows(
    forecaster: Forecaster,
    windows: SequentialWindows,
    *,
    scale: ArrayLike,
    batch_size: int = 256,
    show_progress: bool = True,
) -> WindowErrors:
    """Forecast every window, in batches of which the last may be short, and return the errors.

    Windows with nothing seen in the context or in the future are not forecast. All windows of one step's distance
    (stride 1) of a split are what tables of the ETT benchmarks mean, where no batch is dropped.

    Args:
        scale: (channels,), of the errors: the training rows' standard deviations (`channel_statistics`).
    Raises: ValueError if channels differ, no window has a target, a forecast has another shape or is not
        finite, naming the windows.
    """
    scale = np.asarray(scale, np.float64)
    _check_channels(windows, scale)
    names = _channel_names(windows)
    errors = np.full((2, len(windows), len(scale)), np.nan)
    seconds = 0.0
    with tqdm(total=len(windows), unit="window", desc="score", disable=not show_progress, leave=False) as progress:
        for first in range(0, len(windows), batch_size):
            indices = np.arange(first, min(first + batch_size, len(windows)))
            kept, found, cost = _score_batch(forecaster, windows, indices, scale)
            errors[:, kept] = found
            seconds += cost
            progress.update(len(indices))
    if np.isnan(errors).all():
        raise ValueError(
            f"some window must have something seen in context and future, found none in {len(windows)}; choose another "
            "part of the series."
        )
    return WindowErrors(errors[0], errors[1], scale, names, seconds)


def _score_batch(
    forecaster: Forecaster, windows: SequentialWindows, indices: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Indices of the windows with a target, squared and absolute errors (2, those, channels), and CPU seconds."""
    batch = windows.__getitems__(indices.tolist())
    seen = batch.get("future_observed_mask", torch.ones_like(batch["future_values"], dtype=torch.bool))
    kept = seen.any(dim=(1, 2))
    indices = indices[kept.numpy()]
    if not len(indices):
        return indices, np.empty((2, 0, len(scale))), 0.0
    batch, seen = {name: values[kept] for name, values in batch.items()}, seen[kept]
    start = time.process_time()
    forecast = _forecast(forecaster, batch, indices)
    seconds = time.process_time() - start
    errors = (forecast.double() - batch["future_values"].double()) / torch.from_numpy(scale)
    return indices, np.stack([_mean_over_horizon(each, seen) for each in (errors.square(), errors.abs())]), seconds


def _check_channels(windows: SequentialWindows, scale: np.ndarray) -> None:
    num_channels = set(windows.trajectories.num_channels.tolist())
    if num_channels != {len(scale)} or not (np.isfinite(scale) & (scale > 0)).all():
        raise ValueError(
            "scale must hold a positive number for each channel, and all series the same channels, found "
            f"{scale.tolist()} and {sorted(num_channels)} channels; take the standard deviations of the training rows."
        )


def _forecast(forecaster: Forecaster, batch: Mapping[str, Tensor], indices: np.ndarray) -> Tensor:
    past, shape = batch["past_values"], batch["future_values"].shape
    mask = batch.get("past_observed_mask")
    features = time_feature_arguments(forecaster, batch.get("past_time_features"))
    forecast = forecaster.forecast(past, prediction_length=shape[1], past_observed_mask=mask, **features).cpu()
    if forecast.shape != shape:
        raise ValueError(f"forecasts must have the shape {tuple(shape)}, found {tuple(forecast.shape)}; correct that.")
    lost = indices[~forecast.isfinite().all(dim=2).all(dim=1).numpy()].tolist()
    if lost:
        raise ValueError(
            f"forecasts must be finite, found some that are not in windows {lost[:5]} ({len(lost)} of the "
            f"{len(past)} of a batch); train again with a lower learning rate, or look at those windows."
        )
    return forecast


def _mean_over_horizon(errors: Tensor, seen: Tensor) -> np.ndarray:
    count = seen.sum(dim=1)
    total = errors.masked_fill(~seen, 0.0).sum(dim=1)
    return torch.where(count > 0, total / count, torch.nan).numpy()


def _channel_names(windows: SequentialWindows) -> tuple[str, ...]:
    """The names that all series give their channels; their numbers in data without names."""
    source = windows.trajectories
    named = dict.fromkeys(getattr(source, "channel_names", None) or ())
    if len(named) > 1:
        raise ValueError(
            f"series that are scored together must have the same channels, found {list(map(list, named))} in "
            f"{source.path}; score them one by one, or rename their columns."
        )
    return next(iter(named), tuple(map(str, range(int(source.num_channels[0])))))


class MeanInterval(NamedTuple):
    """A mean and the ends of its confidence interval."""

    mean: float
    low: float
    high: float


def default_block_length(horizon: int, num_windows: int) -> int:
    """Return the windows of a bootstrap block: twice the horizon, but a week of hours at least.

    Windows `horizon` steps apart share no target any more; blocks of only that length would miss a third of the
    variance of a mean whose dependence ends there, blocks of twice that length a sixth. No longer than a third
    of all windows, so that there are three blocks.
    """
    return max(1, min(max(2 * horizon, SHORTEST_BLOCK), num_windows // 3))


def bootstrap_mean(
    values: ArrayLike, *, block_length: int, num_resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> MeanInterval:
    """Return the mean of one value per window and its interval, from resampled blocks of consecutive windows.

    Blocks start at any window and go on at the first one after the last, so that resampled means have the mean
    itself as expectation; their quantiles' distances to it are widened as few blocks demand, by sqrt(k / (k - 1)) and
    by Student's quantile with k - 1 degrees of freedom over the normal one, k = windows / `block_length`. On
    running means over 96, 192, 336 and 720 steps of a squared autoregression, in as many windows as the ETT test
    months have, 95 % intervals held the truth in 92, 94, 95 and 92 % of 300 series; plain ones in 89 to 63 %.

    Args:
        values: (num_windows,), in the order of time; of a comparison, the paired differences.
        seed: of the resamples; with equal seeds, values that are compared are resampled alike.
    Raises: ValueError if a value is not finite, or there are not two blocks.
    Source: circular blocks of Politis and Romano (1992); the widening is ours.
    """
    values = np.asarray(values, dtype=np.float64)
    size = len(values)
    if values.ndim != 1 or not np.isfinite(values).all() or not 1 <= block_length <= size / 2:
        raise ValueError(
            f"values must be finite, (num_windows,), and hold two blocks of {block_length!r} at least, found shape "
            f"{values.shape} with {(~np.isfinite(values)).sum()} that are not finite; leave those out, or lower "
            "block_length."
        )
    num_blocks = -(-size // block_length)
    lengths = np.full(num_blocks, block_length)
    lengths[-1] = size - (num_blocks - 1) * block_length
    starts = np.random.default_rng(seed).integers(size, size=(num_resamples, num_blocks))
    mean = float(values.mean())
    running = np.concatenate([[0.0], np.cumsum(np.tile(values - mean, 2))])
    deviations = (running[starts + lengths] - running[starts]).sum(axis=1) / size
    tail, count = (1 - confidence) / 2, size / block_length
    widening = np.sqrt(count / (count - 1)) * stats.t.ppf(tail, count - 1) / stats.norm.ppf(tail)
    low, high = mean + widening * np.quantile(deviations, [tail, 1 - tail])
    return MeanInterval(mean, float(low), float(high))


def save_errors(errors: Mapping[str, WindowErrors], path: str | os.PathLike[str]) -> None:
    """Write window errors by name to an NPZ file, replacing `path` in one step; errors are kept as float32."""
    arrays: dict[str, Any] = {}
    for name, each in errors.items():
        arrays[f"{name}/squared"] = each.squared.astype(np.float32)
        arrays[f"{name}/absolute"] = each.absolute.astype(np.float32)
        arrays[f"{name}/scale"] = each.scale
        arrays[f"{name}/channel_names"] = np.array(each.channel_names)
        arrays[f"{name}/cpu_seconds"] = np.array(each.cpu_seconds)
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_atomically(path, content.getvalue())


def load_errors(path: str | os.PathLike[str]) -> dict[str, WindowErrors]:
    """Return what `save_errors` wrote.

    Raises: FileNotFoundError; ValueError on a file that is none of its.
    """
    content = Path(path).read_bytes()
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            names = dict.fromkeys(key.rpartition("/")[0] for key in arrays.files)
            return {name: _errors_of(arrays, name) for name in names}
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} must be a whole file of window errors, found {error!r}; delete it.") from error


def _errors_of(arrays: Mapping[str, np.ndarray], name: str) -> WindowErrors:
    squared, absolute, scale, channel_names, cpu_seconds = (
        arrays[f"{name}/{part}"] for part in ("squared", "absolute", "scale", "channel_names", "cpu_seconds")
    )
    return WindowErrors(squared, absolute, scale, tuple(channel_names.tolist()), float(cpu_seconds))
