"""Intervals that hold, on data that the model was not fitted to, the share of targets that they should."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_tsdyn.data.windows import ChannelBucketSampler, SequentialWindows
from hf_tsdyn.metrics.pointwise import context_std

NOMINAL = 0.8
"""Share of the targets that the interval used for calibration should hold."""
BATCH_SIZE = 64


def calibrate(model: Any, windows: SequentialWindows) -> float:
    """Set the spread of a model's distribution so that its central interval holds `NOMINAL` of the windows' targets.

    Each system counts alike. The factor is the quantile of level `NOMINAL` of the targets' distances from the median,
    each in units of the interval's half on its side: conformal calibration (Vovk et al. 2005) of the one number.

    Returns: the factor, which `model.config.spread_factor` then holds; 1 if no target counts, or, and then nothing is
        changed, if the model has no distribution.
    """
    if model.distribution is None:
        return 1.0
    model.set_spread_factor(1.0)
    ratios, weights = zip(*_weighted_ratios(model, windows), strict=True)
    factor = _weighted_quantile(np.concatenate(ratios), np.concatenate(weights))
    model.set_spread_factor(factor)
    return factor


def _weighted_ratios(model: Any, windows: SequentialWindows) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Distances of the seen targets of each batch and their weights, which add up to the same for every system."""
    rows_of_windows = windows.locate(np.arange(len(windows)))[0]
    _, system_of_row = np.unique(windows.trajectories.systems, return_inverse=True)
    sizes = np.bincount(system_of_row[rows_of_windows])
    indices = list(ChannelBucketSampler(windows, BATCH_SIZE))
    for first in range(0, len(indices), BATCH_SIZE):
        asked = np.array([index for index in indices[first : first + BATCH_SIZE] if index >= 0])
        batch = windows.__getitems__(asked.tolist())
        ratios = _ratios(model, batch)
        seen = ratios.isfinite().numpy()
        counts = np.maximum(seen.sum(axis=(1, 2)), 1)
        weight = 1 / (sizes[system_of_row[rows_of_windows[asked]]] * counts)
        weights = np.broadcast_to(weight[:, None, None], ratios.shape)
        yield ratios.numpy()[seen], weights[seen]


def _ratios(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """(batch, steps, channels), NaN where a target is not seen, or its channel constant in the context."""
    past, future = batch["past_values"], batch["future_values"]
    seen_past = _with_something_seen(batch, past)
    levels = [(1 - NOMINAL) / 2, 0.5, (1 + NOMINAL) / 2]
    low, median, high = model.forecast_quantiles(
        past,
        prediction_length=future.shape[1],
        quantile_levels=levels,
        past_observed_mask=seen_past,
    ).unbind(-1)
    half = torch.where(future > median, high - median, median - low)
    ratios = (future - median).abs() / half
    if "future_observed_mask" in batch:
        ratios = ratios.masked_fill(~batch["future_observed_mask"], torch.nan)
    constant = torch.from_numpy(np.isnan(context_std(past.numpy(), seen_past.numpy())))
    return ratios.masked_fill((half <= 0) | constant, torch.nan)


def _with_something_seen(batch: dict[str, Tensor], past: Tensor) -> Tensor:
    """The mask of the past; of a window with nothing seen, whose targets do not count, all counts as seen."""
    mask = batch.get("past_observed_mask", torch.ones_like(past, dtype=torch.bool))
    return mask | ~mask.flatten(1).any(dim=1)[:, None, None]


def _weighted_quantile(values: np.ndarray, weights: np.ndarray) -> float:
    if not len(values):
        return 1.0
    order = np.argsort(values, kind="stable")
    reached = np.searchsorted(np.cumsum(weights[order]), NOMINAL * weights.sum())
    return float(values[order][min(reached, len(values) - 1)])
