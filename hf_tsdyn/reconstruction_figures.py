"""Pictures of a reconstructed system beside the true one, and of how its training went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .figures import CONTEXT_COLOUR, FORECAST_COLOUR, TRUTH_COLOUR, new_figure
from .metrics.invariants import smoothed_spectrum

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

HISTORY_LABELS = {
    "loss": "training loss",
    "state_space_divergence": "state-space divergence",
    "spectrum_distance": "spectrum distance",
}


def reconstruction_figure(truth: np.ndarray, generated: np.ndarray, *, num_steps: int = 10_000) -> Figure:
    """Draw the truth and a free run beside it in phase space, on the truth's axes, as many steps of both.

    Args:
        truth, generated: (time, channels), data units. The first three channels are drawn, both of two in the plane,
            a single one against itself one delay later (where the truth's autocorrelation has fallen to 1/e), as
            points where that is the next step, of a map.
        num_steps: drawn at most, the first.
    Raises: ValueError if the channels differ; ImportError without matplotlib.
    """
    check_pair(truth, generated)
    length = min(len(truth), len(generated), num_steps)
    delay = embedding_delay(truth[:length])
    frame = phase_coordinates(truth[:length], delay)
    figure = new_figure(8.6, 4.4)
    series = {"truth": (truth, TRUTH_COLOUR), "free run": (generated, FORECAST_COLOUR)}
    for place, (name, (values, colour)) in enumerate(series.items(), start=1):
        axes = phase_axes(figure, (1, 2, place), frame, delay)
        points = phase_coordinates(values[:length], delay)
        clip: dict[str, Any] = {"axlim_clip": True} if points.shape[1] == 3 else {}
        look = {"linestyle": "none", "marker": ".", "markersize": 1.5} if delay == 1 else {"linewidth": 0.4, **clip}
        axes.plot(*np.where(np.isfinite(points), points, np.nan).T, color=colour, **look)
        axes.set_title(f"{name}, T = {length:,} steps", fontsize=12, y=0.95 if points.shape[1] == 3 else 1.0)
    return figure


def check_pair(truth: np.ndarray, generated: np.ndarray) -> None:
    """Raise ValueError unless both are (time, channels) of several steps with the same channels."""
    if truth.ndim != 2 or generated.ndim != 2 or truth.shape[1] != generated.shape[1] or len(truth) < 2:
        raise ValueError(
            f"truth and generated must be (time, channels) with the same channels, found {truth.shape} and "
            f"{generated.shape}; select the channels of the model."
        )


def embedding_delay(values: np.ndarray) -> int:
    """Return the steps after which the autocorrelation of a single channel has fallen to 1/e; 0 for several channels.

    At most a tenth of the series.
    """
    if values.shape[1] > 1:
        return 0
    centred = values[:, 0] - np.nanmean(values[:, 0])
    centred = np.nan_to_num(centred)
    power = np.abs(np.fft.rfft(centred, 2 * len(centred))) ** 2
    correlation = np.fft.irfft(power)[: max(len(centred) // 10, 2)]
    fallen = np.flatnonzero(correlation < correlation[0] / np.e)
    return int(fallen[0]) if fallen.size else len(correlation) - 1


def phase_coordinates(values: np.ndarray, delay: int) -> np.ndarray:
    """Return (time, 2 or 3): the first three channels, or with a delay the channel at each step and `delay` later."""
    if delay:
        return np.stack([values[:-delay, 0], values[delay:, 0]], axis=1)
    return values[:, :3]


def phase_axes(figure: Figure | SubFigure, place: tuple[int, int, int], coordinates: np.ndarray, delay: int) -> Any:
    """Add axes for phase space, in the plane or in three dimensions, that hold `coordinates` (time, 2 or 3)."""
    spatial = coordinates.shape[1] == 3
    axes: Any = figure.add_subplot(*place, projection="3d" if spatial else None)
    low, high = np.nanmin(coordinates, axis=0), np.nanmax(coordinates, axis=0)
    margin = 0.05 * np.where(high > low, high - low, 1.0)
    axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
    axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
    axes.set_xlabel("channel 0")
    axes.set_ylabel(f"channel 0, {delay} step{'' if delay == 1 else 's'} later" if delay else "channel 1")
    axes.tick_params(labelsize=8)
    if spatial:
        axes.set_zlim(low[2] - margin[2], high[2] + margin[2])
        axes.set_zlabel("channel 2")
        axes.locator_params(nbins=5)
        axes.set_box_aspect(None, zoom=0.85)  # room for the z label
    return axes


def spectrum_figure(truth: np.ndarray, generated: np.ndarray, *, smoothing: float = 20.0, dt: float = 1.0) -> Figure:
    """Draw the power spectra of truth and free run for the first three channels, as the spectrum distance sees them.

    Args:
        truth, generated: (time, channels), data units; both are cut to the shorter's length, and z-scored.
        smoothing: width of the Gaussian over frequencies, in bins.
        dt: time between two steps; frequencies are in cycles per unit of it.
    Raises: ValueError if the channels differ, or truth is not finite; ImportError without matplotlib.
    """
    check_pair(truth, generated)
    if not np.isfinite(truth).all():
        raise ValueError(f"a spectrum needs a truth without gaps, found {np.isnan(truth).sum()} unseen; fill them.")
    length = min(len(truth), len(generated))
    shown = min(truth.shape[1], 3)
    figure = new_figure(3.7 * shown + 0.4, 3.7)
    frequencies = np.fft.rfftfreq(length, dt)[1:]
    series = {"truth": (truth, TRUTH_COLOUR, 2.4), "free run": (generated, FORECAST_COLOUR, 1.3)}
    panels = figure.subplots(1, shown, squeeze=False)[0]
    for channel, axes in enumerate(panels):
        for name, (values, colour, width) in series.items():
            part = values[:length, channel]
            has_spectrum = np.isfinite(part).all() and np.ptp(part) > 0
            power = smoothed_spectrum(part, smoothing)[1:] if has_spectrum else np.full(len(frequencies), np.nan)
            axes.plot(frequencies, power, color=colour, linewidth=width, label=name)
        axes.set(xscale="log", yscale="log")
        axes.set_xlabel("frequency (cycles per step)" if dt == 1 else "frequency (cycles per unit of time)")
        axes.set_title(f"channel {channel}", fontsize=12)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("share of power")
    title = f"T = {length:,} steps, smoothed over {smoothing:g} frequencies"
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=11, title=title)
    return figure


def history_figure(
    histories: Sequence[Sequence[Mapping[str, float]]], *, chosen: int = 0, best_epoch: int | None = None
) -> Figure:
    """Draw the loss and the metrics of one or several models over epochs, on logarithmic axes, one of them in front.

    Values that are not finite (a run that diverged) are crosses at the upper edge.
    Args:
        histories: of each model, a mapping an evaluated epoch with `epoch` and any of `HISTORY_LABELS`.
        chosen: the index of the model in colour; its `best_epoch` is marked.
    Raises: ValueError if nothing was recorded; ImportError without matplotlib.
    """
    names = [name for name in HISTORY_LABELS if any(name in entry for history in histories for entry in history)]
    if not names or not 0 <= chosen < len(histories):
        found = [sorted(history[0]) if history else [] for history in histories]
        raise ValueError(
            f"a history figure needs histories with any of {list(HISTORY_LABELS)} and the index of one of them, found "
            f"{found} and {chosen}; give what fitting recorded."
        )
    figure = new_figure(3.7 * len(names) + 0.4, 3.8)
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        _draw_histories(axes, histories, name, chosen, best_epoch)
    handles, labels = panels[0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    look: dict[str, Any] = {"ncols": len(unique), "frameon": False, "fontsize": 11}
    figure.legend(list(unique.values()), list(unique), loc="outside lower center", **look)
    return figure


def _draw_histories(
    axes: Axes, histories: Sequence[Sequence[Mapping[str, float]]], name: str, chosen: int, best_epoch: int | None
) -> None:
    """Draw one quantity of every model, the chosen one last."""
    crosses = []
    for place in [*(place for place in range(len(histories)) if place != chosen), chosen]:
        pairs = [(entry["epoch"], entry[name]) for entry in histories[place] if name in entry]
        epochs, values = np.array(pairs, dtype=float).reshape(-1, 2).T
        drawn = np.where(np.isfinite(values), values, np.nan)
        colour, label = (FORECAST_COLOUR, "chosen") if place == chosen else (CONTEXT_COLOUR, "other seeds")
        axes.plot(epochs, drawn, color=colour, linewidth=1.8 if place == chosen else 0.9, label=label)
        crosses.append((epochs[np.isnan(drawn)], colour))
        if place == chosen and best_epoch is not None:
            look: dict[str, Any] = {"color": colour, "edgecolors": "black", "s": 60, "zorder": 4}
            axes.scatter(best_epoch, drawn[epochs == best_epoch], label=f"best: epoch {best_epoch}", **look)
    axes.set(yscale="log", xlabel="epoch")
    _label_plainly(axes)
    for epochs, colour in crosses:
        axes.plot(epochs, np.full(len(epochs), 0.98), "x", color=colour, transform=axes.get_xaxis_transform())
    axes.set_title(HISTORY_LABELS[name], fontsize=12)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _label_plainly(axes: Axes) -> None:
    """Write 0.2, 0.5, 1 on the vertical axis instead of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
