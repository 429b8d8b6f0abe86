"""The figures beside an evaluated checkpoint, as far as its data and its model have what they show."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hf_tsdyn.data.held_out_windows import HeldOutWindow, draw_held_out_windows
from hf_tsdyn.data.series import TrajectorySource
from hf_tsdyn.figures import (
    AttractorPanel,
    FanPanel,
    attractor_figure,
    calibration_figure,
    error_growth_figure,
    forecast_fan_figure,
    new_figure,
    save_figure,
    system_error_figure,
)
from hf_tsdyn.results import EvaluationResults
from training.run_config import EvaluationConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_SYSTEMS = ("Lorenz", "Rossler", "Chua", "Halvorsen", "Thomas", "Aizawa")
"""Systems of the panels, as far as the split holds them; then others of the split."""
FAN_LEVELS = (0.1, 0.5, 0.9)
NAMES = ("attractors", "fans", "calibration", "error_growth", "systems")
"""Of all figures that a forecaster may have."""


def figure_captions(results: EvaluationResults, evaluation: EvaluationConfig) -> dict[str, str]:
    """Return the captions of the figures that results have, by name."""
    protocol = evaluation.protocol
    steps = f"truth against the forecast of {protocol.prediction_length} steps"
    captions = {}
    if any(system["num_channels"] >= 2 for system in results.header["systems"].values()):
        captions["attractors"] = f"Held-out data: {steps}"
    if evaluation.name in results.header["calibration"]:
        captions["fans"] = f"First channels: {steps}, with its 80 % interval"
        captions["calibration"] = "Share of targets below each quantile against its level"
    captions["error_growth"] = "Growth of the error, median and quartiles over systems"
    if len(results.header["systems"]) > 1:
        captions["systems"] = f"Error of the first {min(protocol.horizons)} steps on every held-out system"
    return captions


def write_figures(
    folder: Path, results: EvaluationResults, dataset: TrajectorySource, model: Any, evaluation: EvaluationConfig
) -> None:
    """Draw what there is to show into `folder/figures`, as `replace_figures` does."""

    def draw() -> dict[str, Figure]:
        drawing = _drawing(results, dataset, model, evaluation)
        return {name: drawing[name]() for name in figure_captions(results, evaluation)}

    replace_figures(folder, NAMES, draw)


def _drawing(
    results: EvaluationResults, dataset: TrajectorySource, model: Any, evaluation: EvaluationConfig
) -> dict[str, Callable[[], Figure]]:
    """What draws each figure."""
    windows = _shown_windows(dataset, evaluation)
    flows = [window for window in windows if window.values.shape[1] >= 2][: len(SHOWN_SYSTEMS)]
    fans = windows[: len(SHOWN_SYSTEMS)]
    name, horizon = evaluation.name, min(evaluation.protocol.horizons)
    return {
        "attractors": lambda: attractor_figure([_attractor_panel(window, evaluation, model) for window in flows]),
        "fans": lambda: forecast_fan_figure([_fan_panel(window, evaluation, model) for window in fans]),
        "calibration": lambda: calibration_figure(results, model=name),
        "error_growth": lambda: error_growth_figure(results),
        "systems": lambda: system_error_figure(results, model=name, horizon=horizon),
    }


def replace_figures(folder: Path, names: Iterable[str], draw: Callable[[], Mapping[str, Figure]]) -> None:
    """Put figures, by name, into `folder/figures`, in place of those that an earlier evaluation left there.

    Without matplotlib there are none then, and a note on stderr says how to install it.

    Args:
        names: of all figures that there may be.
        draw: returns those that there are.
    """
    try:
        new_figure(1, 1)
    except ImportError as error:
        print(f"note: {error}; then evaluate again for a card with figures", file=sys.stderr)
        figures = {}
    else:
        figures = draw()
    for name in names:
        (folder / "figures" / f"{name}.png").unlink(missing_ok=True)
    for name, figure in figures.items():
        save_figure(figure, folder / "figures" / f"{name}.png")


def figures_place(folder: Path) -> Path | str:
    """Return where the figures of a folder lie, or "none" with the reason."""
    return folder / "figures" if any((folder / "figures").glob("*.png")) else "none: no matplotlib here"


def present_figures(folder: Path, captions: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return (path within the folder, caption) of those figures that are there, out of captions by name."""
    figures = {f"figures/{name}.png": caption for name, caption in captions.items()}
    return tuple((path, caption) for path, caption in figures.items() if (folder / path).is_file())


def _shown_windows(dataset: TrajectorySource, evaluation: EvaluationConfig) -> list[HeldOutWindow]:
    """The first window of each system with something seen in its context, the systems to show first."""
    protocol = evaluation.protocol
    length = protocol.context_length + protocol.prediction_length
    windows: dict[str, HeldOutWindow] = {}
    for window in draw_held_out_windows(dataset, length=length, num_windows=protocol.num_windows, seed=protocol.seed):
        if not np.isnan(window.values[: protocol.context_length]).all():
            windows.setdefault(window.trajectory.system, window)
    names = [name for name in SHOWN_SYSTEMS if name in windows]
    return [windows[name] for name in (*names, *(name for name in windows if name not in names))]


def _halves(window: HeldOutWindow, evaluation: EvaluationConfig, model: Any) -> tuple[np.ndarray, np.ndarray, Any]:
    """Context and truth (time, channels), and the context as the model takes it."""
    values = np.array(window.values)
    past, future = np.split(values, [evaluation.protocol.context_length])
    return past, future, torch.from_numpy(past)[None].to(model.device)


def _attractor_panel(window: HeldOutWindow, evaluation: EvaluationConfig, model: Any) -> AttractorPanel:
    past, future, past_values = _halves(window, evaluation, model)
    forecast = model.forecast(past_values, prediction_length=len(future))
    return AttractorPanel(window.trajectory.system, past, future, forecast[0].cpu().numpy())


def _fan_panel(window: HeldOutWindow, evaluation: EvaluationConfig, model: Any) -> FanPanel:
    past, future, past_values = _halves(window, evaluation, model)
    quantiles = model.forecast_quantiles(
        past_values,
        prediction_length=len(future),
        quantile_levels=FAN_LEVELS,
        num_samples=evaluation.protocol.num_samples,
        generator=torch.Generator().manual_seed(evaluation.protocol.seed),
    )
    return FanPanel(window.trajectory.system, past[:, 0], future[:, 0], quantiles[0, :, 0].cpu().numpy())
