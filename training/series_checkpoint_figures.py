"""The figures beside a checkpoint that was scored on a series, as far as its data and its model have what they show."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hf_tsdyn.data.series import SeriesDataset, TrajectorySource
from hf_tsdyn.data.time_features import time_feature_arguments
from hf_tsdyn.dynonet_figures import control_figure, track_controller, training_signals_figure
from hf_tsdyn.series_evaluation import WindowErrors
from hf_tsdyn.series_figures import channel_forecasts_figure, difference_figure, error_bars_figure
from hf_tsdyn.series_results import SeriesResults
from training.checkpoint_figures import replace_figures
from training.evaluate_checkpoint import Request
from training.series_facts import CAPTIONS
from training.signal_log import SIGNALS_FILE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DAY, WEEK = 86_400, 7 * 86_400
MOST_TRACKED = 1000
"""Windows in which the controller is run."""


def write_figures(
    folder: Path,
    request: Request,
    results: SeriesResults,
    errors: Mapping[tuple[str, str, int], WindowErrors],
    forecasters: Mapping[str, Any],
    *,
    start: str,
) -> None:
    """Draw a checkpoint's figures into `folder/figures`, as `replace_figures` does.

    Args:
        errors: by model, split and horizon.
        forecasters: the model and what it is compared with, by name.
        start: the name of the model that it began with, which is drawn beside it if there is one.
    """
    replace_figures(folder, CAPTIONS, lambda: _draw(folder, request, results, errors, forecasters, start))


def _draw(
    folder: Path,
    request: Request,
    results: SeriesResults,
    errors: Mapping[tuple[str, str, int], WindowErrors],
    forecasters: Mapping[str, Any],
    start: str,
) -> dict[str, Figure]:
    evaluation = request.evaluation
    protocol, split = evaluation.protocol, evaluation.split
    source = request.data.open(split, protocol.context_length)
    times = source.times(0) if isinstance(source, SeriesDataset) else None
    farthest = errors[evaluation.name, split, max(protocol.horizons)]
    names, model = farthest.channel_names, forecasters[evaluation.name]
    shown = {each: forecasters[each] for each in (evaluation.name, start) if each in forecasters}
    dataset, horizons = evaluation.dataset_name, protocol.horizons
    figures = {"errors": error_bars_figure(results, dataset=dataset, horizons=horizons, split=split)}
    window = middle_window(source, farthest, protocol.context_length + max(horizons))
    if window is not None:
        end = window + protocol.context_length
        figures["forecasts"] = _forecasts(source, times, names, shown, end, protocol.context_length, max(horizons))
    if start in forecasters and times is not None and len(source) == 1:
        figures["difference"] = _difference(errors, evaluation, start, times)
    if hasattr(model, "signals") and model.config.controller and window is not None:
        stride = -(-source.lengths[0] // MOST_TRACKED)
        track = track_controller(model, source.values(0).T, stride=int(stride))
        if track.panels:
            figures["control"] = control_figure(track, channel_names=names, times=times)
    if (folder / SIGNALS_FILE).is_file():
        history = json.loads((folder / SIGNALS_FILE).read_text())
        figures["signals"] = training_signals_figure(history, channel_names=names)
    return figures


def middle_window(source: TrajectorySource, errors: WindowErrors, length: int) -> int | None:
    """The window of the first series with the most channels seen, nearest its middle; None if nothing is seen in any.

    length: of a window with its targets.
    """
    num_seen = np.isfinite(errors.squared[: source.lengths[0] - length + 1]).sum(axis=1)
    if not num_seen.any():
        return None
    windows = np.flatnonzero(num_seen == num_seen.max())
    return int(windows[np.abs(windows - (len(num_seen) - 1) // 2).argmin()])


def _forecasts(
    source: TrajectorySource,
    times: np.ndarray | None,
    names: tuple[str, ...],
    forecasters: Mapping[str, Any],
    end: int,
    length: int,
    horizon: int,
) -> Figure:
    """The window whose context ends before step `end`, and the last of that context."""
    values = np.array(source.values(0).T)
    past, future = values[end - length : end], values[end : end + horizon]
    features = source.time_features(0)
    places = None if features is None else torch.from_numpy(features[:, end - length : end].T.copy())[None]
    forecasts = {}
    for name, each in forecasters.items():
        arguments = time_feature_arguments(each, places)
        forecast = each.forecast(torch.from_numpy(past)[None], prediction_length=horizon, **arguments)
        forecasts[name] = forecast[0].cpu().numpy()
    seen = min(length, 2 * horizon)
    dates = None if times is None else times[end - seen : end + horizon]
    return channel_forecasts_figure(past[-seen:], future, forecasts, channel_names=names, times=dates)


def _difference(
    errors: Mapping[tuple[str, str, int], WindowErrors], evaluation: Any, start: str, times: np.ndarray
) -> Figure:
    horizon = min(evaluation.protocol.horizons)
    own, other = (errors[each, evaluation.split, horizon].of_windows("mse") for each in (evaluation.name, start))
    seconds = (times[1] - times[0]) / np.timedelta64(1, "s")
    return difference_figure(
        own - other,
        times[evaluation.protocol.context_length :][: len(own)],
        smoothing=min(max(round(WEEK / seconds), 1), len(own)),
        title=f"MSE at {horizon} steps, {evaluation.name} less {start}",
        num_bins=min(max(round(DAY / seconds), 1), 24),
    )
