"""Pictures of what the controller of a DynoNet does: over a series, and while it is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .figures import COLOURS, LINE_STYLES, new_figure
from .forecasting import evaluating
from .series_figures import MOST_CHANNELS, date_axis, legend_of, panel_grid, say_what_is_shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIGNAL_LABELS = {
    "lr_scale": "learning-rate scale",
    "wd_scale": "weight-decay scale",
    "dropout_rate": "dropout rate",
    "grad_clip": "gradient-clip norm",
    "loss_weight": "loss weight",
    "freeze_prob": "freeze probability",
    "input_noise": "input noise",
}
SMALLEST_RANGE = 0.02
"""Of a colour scale; less is drawn as one colour, and not as a pattern."""


@dataclass(frozen=True, eq=False)
class ControlTrack:
    """What the controller sets as its window slides along a series.

    ends: (num_windows,) the step after each window, as an index into the series.
    panels: (num_windows, channels) by title; of a gate that of all units is the mean. NaN of windows without a value.
        None of a model that neither gates nor mixes.
    """

    ends: np.ndarray
    panels: dict[str, np.ndarray]


@torch.no_grad()
def track_controller(model: Any, values: np.ndarray, *, stride: int = 1, batch_size: int = 256) -> ControlTrack:
    """Run the controller on every window of a series and return gates and weights of specialists over time.

    Args:
        model: `DynoNetForPrediction` with a controller.
        values: (time, channels), data units, at least `context_length` steps; NaN = unseen.
        stride: steps from one window to the next.
    Raises: ValueError on other shapes, a series of which nothing is seen, or a model without a controller.
    """
    config, length = model.config, model.config.context_length
    starts, seen = _windows_to_track(config, values, stride)
    windows = np.lib.stride_tricks.sliding_window_view(values, length, axis=0).swapaxes(1, 2)
    parts: dict[str, list[np.ndarray]] = {}
    with evaluating(model):
        for first in range(0, len(seen), batch_size):
            chosen = starts[seen[first : first + batch_size]]
            batch = torch.tensor(windows[chosen], dtype=torch.float32, device=model.device)
            for title, panel in _panels(model.signals(batch), specialist_names(config.specialists)).items():
                parts.setdefault(title, []).append(panel.cpu().numpy())
    panels = {title: np.full((len(starts), config.num_channels), np.nan) for title in parts}
    for title, panel in panels.items():
        panel[seen] = np.concatenate(parts[title])
    return ControlTrack(starts + length, panels)


def _windows_to_track(config: Any, values: np.ndarray, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """First steps of all windows, and the places among them of those in which something is seen."""
    length = config.context_length
    if values.ndim != 2 or values.shape[1] != config.num_channels or len(values) < length:
        raise ValueError(
            f"values must be (time, {config.num_channels}) with at least {length} steps, found {values.shape}; select "
            "the model's channels and give a longer series."
        )
    if not config.controller:
        raise ValueError("a track needs a model with a controller, found one without; train with controller: true.")
    starts = np.arange(0, len(values) - length + 1, stride)
    num_seen = np.concatenate([[0], np.cumsum(np.isfinite(values).any(axis=1))])
    seen = np.flatnonzero(num_seen[starts + length] > num_seen[starts])
    if not len(seen):
        raise ValueError(f"a track needs something seen, found nothing in {len(values)} steps; choose another part.")
    return starts, seen


def _panels(signals: Mapping[str, torch.Tensor], specialists: Sequence[str]) -> dict[str, torch.Tensor]:
    panels = {}
    if "gate_masks" in signals:
        gates = signals["gate_masks"]  # (batch, channels, [steps,] units)
        panels["gate, mean over units"] = gates.flatten(2).mean(dim=2)
    if "mixture" in signals:
        weights = signals["mixture"].unbind(dim=2)
        if len(weights) == 2:
            panels["weight of {}, the rest is that of {}".format(*specialists)] = weights[0]
        else:
            panels |= {f"weight of {name}": each for name, each in zip(specialists, weights, strict=True)}
    return panels


def specialist_names(specialists: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """Return what figures call the specialists of a configuration: their kind, with a number where it repeats."""
    kinds = [str(options["kind"]).replace("_", " ") for options in specialists or ()]
    return [f"{kind} {kinds[:n].count(kind) + 1}" if kinds.count(kind) > 1 else kind for n, kind in enumerate(kinds)]


def control_figure(track: ControlTrack, *, channel_names: Sequence[str], times: np.ndarray | None = None) -> Figure:
    """Draw a heat map a panel of a track: channels down, time across; of many channels the first, as the title says.

    times: (time,) dates of the series' steps; without them the axis counts steps.
    Raises: ValueError if names or times do not fit the track; ImportError without matplotlib.
    """
    widths = {panel.shape[1] for panel in track.panels.values()}
    if widths != {len(channel_names)} or (times is not None and len(times) < track.ends[-1]):
        raise ValueError(
            f"a track of {sorted(widths)} channels up to step {track.ends[-1]} must have as many names and dates, "
            f"found {len(channel_names)} and {None if times is None else len(times)}; give those of its series."
        )
    names = list(channel_names)[:MOST_CHANNELS]
    figure = new_figure(9.0, 0.6 + len(track.panels) * (0.7 + 0.26 * len(names)))
    rows = figure.subplots(len(track.panels), 1, squeeze=False, sharex=True)[:, 0]
    last = track.ends - 1
    for axes, (title, panel) in zip(rows, track.panels.items(), strict=True):
        _draw_heat_map(figure, axes, last if times is None else times[last], panel[:, : len(names)])
        axes.set_title(title, fontsize=11)
        axes.set_yticks(range(len(names)), names, fontsize=9)
    say_what_is_shown(figure, len(channel_names))
    if times is None:
        rows[-1].set_xlabel("last step of the window")
    else:
        date_axis(rows[-1])
        rows[-1].set_xlabel("end of the window")
    return figure


def _draw_heat_map(figure: Figure, axes: Axes, places: np.ndarray, panel: np.ndarray) -> None:
    low, high = np.nanmin(panel), np.nanmax(panel)
    middle, reach = (low + high) / 2, max(high - low, SMALLEST_RANGE) / 2
    limits = {"vmin": middle - reach, "vmax": middle + reach}
    shown: Any = places
    image = axes.pcolormesh(
        shown, np.arange(panel.shape[1]), panel.T, cmap="cividis", shading="nearest", rasterized=True, **limits
    )
    axes.invert_yaxis()
    figure.colorbar(image, ax=axes, pad=0.01, aspect=12)


def training_signals_figure(history: Mapping[str, Any], *, channel_names: Sequence[str]) -> Figure:
    """Draw each signal of the controller over training: a line a channel, a band of one std over the logged windows.

    Of more channels than `MOST_CHANNELS` the first are drawn, as the title says.

    history: `steps` and, by signal, `mean` and `std`, each (steps, channels): what bilevel training logs.
    Raises: ValueError if nothing was logged, or of other channels; ImportError without matplotlib.
    """
    signals = {name: history["signals"][name] for name in SIGNAL_LABELS if name in history["signals"]}
    shown = channel_names[:MOST_CHANNELS]
    shapes = {name: np.shape(moments["mean"]) for name, moments in signals.items()}
    if set(shapes.values()) != {(len(history["steps"]), len(channel_names))} or not history["steps"]:
        raise ValueError(
            f"a signals figure needs means (steps, channels) over {len(history['steps'])} steps and of the channels "
            f"{list(channel_names)}, found {shapes}; give what bilevel training logged."
        )
    figure = new_figure(3.0 * min(4, len(signals)), 0.5 + 2.4 * -(-len(signals) // 4))
    panels, blank = panel_grid(figure, len(signals), 4)
    for axes, (name, moments) in zip(panels, signals.items(), strict=True):
        _draw_signal(axes, history["steps"], np.array(moments["mean"]), np.array(moments["std"]), shown)
        axes.set_title(SIGNAL_LABELS[name], fontsize=11)
    for axes in panels[-4:]:
        axes.set_xlabel("step")
    legend_of(figure, blank)
    say_what_is_shown(figure, len(channel_names))
    return figure


def _draw_signal(axes: Axes, steps: Sequence[int], mean: np.ndarray, std: np.ndarray, names: Sequence[str]) -> None:
    for channel, name in enumerate(names):
        look: dict[str, Any] = {
            "color": COLOURS[channel % len(COLOURS)],
            "linestyle": LINE_STYLES[channel // len(COLOURS) % len(LINE_STYLES)],
        }
        axes.plot(steps, mean[:, channel], linewidth=1.3, label=name, **look)
        low, high = mean[:, channel] - std[:, channel], mean[:, channel] + std[:, channel]
        axes.fill_between(steps, low, high, color=look["color"], alpha=0.12, linewidth=0)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
