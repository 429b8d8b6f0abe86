"""Pictures of what goes on inside the learners of an online study: triggers over time, and how large slots are.

They are drawn from the header's entry `heat`, whose form `online_results` describes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .figures import new_figure
from .online_results import entries_at, nothing_scored, title_of
from .series_results import SeriesResults

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def trigger_figure(results: SeriesResults, dataset: str, horizon: int, protocol: str) -> Figure:
    """Draw the rate of triggers in each layer over time, in percent, a panel a model, with one scale of colours.

    Raises: ValueError if no model has them; ImportError without matplotlib.
    """
    heat = with_maps(results, dataset, horizon, protocol, "triggers")
    if not heat:
        raise nothing_scored(results, "the figure", dataset, horizon, protocol, needs="rates of triggers")
    rates = {model: 100 * np.asarray(found["triggers"], dtype=float).T for model, found in heat.items()}
    top = max(float(each.max()) for each in rates.values()) or 1.0
    figure = new_figure(9.0, 1.0 + 1.5 * len(rates))
    figure.suptitle(title_of(dataset, horizon, protocol), fontsize=12)
    panels = figure.subplots(len(rates), 1, squeeze=False, sharex=True)[:, 0]
    images = []
    for axes, (model, values) in zip(panels, rates.items(), strict=True):
        layers = np.arange(len(values) + 1) - 0.5
        images.append(axes.pcolormesh(heat[model]["bin_edges"], layers, values, cmap="cividis", vmin=0, vmax=top))
        axes.invert_yaxis()
        axes.set_title(results.label(model), fontsize=10, loc="left")
        axes.set_ylabel("layer", fontsize=9)
        axes.locator_params(axis="y", integer=True, nbins=5)
    panels[-1].set_xlabel("step of the stretch")
    figure.colorbar(images[0], ax=list(panels), label="triggers, %", fraction=0.03, pad=0.015)
    return figure


def memory_figure(results: SeriesResults, dataset: str, horizon: int, protocol: str) -> Figure:
    """Draw the norm of each layer's slots at the end, a panel a model.

    Raises: ValueError if no model has them; ImportError without matplotlib.
    """
    heat = with_maps(results, dataset, horizon, protocol, "slot_norms")
    if not heat:
        raise nothing_scored(results, "the figure", dataset, horizon, protocol, needs="norms of slots")
    figure = new_figure(7.0, 0.7 + 2.1 * len(heat))
    figure.suptitle(title_of(dataset, horizon, protocol), fontsize=12)
    panels = figure.subplots(len(heat), 1, squeeze=False)[:, 0]
    for axes, (model, found) in zip(panels, heat.items(), strict=True):
        values = np.asarray(found["slot_norms"], dtype=float)
        image = axes.imshow(values, cmap="cividis", vmin=0, aspect="auto", interpolation="nearest")
        axes.set_title(results.label(model), fontsize=10, loc="left")
        axes.set(xlabel="slot", ylabel="layer")
        axes.locator_params(integer=True, nbins=6)
        figure.colorbar(image, ax=axes, label="norm of a slot")
    return figure


def with_maps(
    results: SeriesResults, dataset: str, horizon: int, protocol: str, kind: str
) -> dict[str, Mapping[str, Any]]:
    """Return what `heat` holds at a place of each model that has one kind of it, in the header's order."""
    heat = entries_at(results.header, "heat", dataset, horizon, protocol)
    models = [model for model in results.header["models"] if heat.get(model, {}).get(kind)]
    return {model: heat[model] for model in models}
