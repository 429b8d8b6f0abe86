"""Pictures of the symbols that a piecewise linear model gives its orbit: where, when, and what follows what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .figures import COLOURS, CONTEXT_COLOUR, new_figure
from .reconstruction_figures import embedding_delay, phase_axes, phase_coordinates

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .models.alrnn.fixed_points import FixedPoint
    from .models.alrnn.symbolic import SymbolicOrbit

REGION_COLOURS = (*COLOURS, "#882255")
"""Of the most visited regions; all others share one grey."""
GRAPH_REGIONS = 12
"""Regions in a transition figure, the most visited."""
LONGEST_CODE = 12
"""Units of a region's code that is written out in figures and tables; longer ones are numbered."""
LEAST_SHARE = 0.5
"""Of the time, in the regions that a figure would tell apart: with less it says that there are too many."""
DRAWN_FIXED_POINTS = 12
_MONOSPACE = "DejaVu Sans Mono"


def region_name(orbit: SymbolicOrbit, region: int) -> str:
    """Return the region's code, a sign a unit, or its rank by occupancy where the code is long."""
    code = orbit.label(region)
    return (code or "linear") if len(code) <= LONGEST_CODE else f"#{region + 1:,}"


def symbol_figure(
    orbit: SymbolicOrbit, points: Sequence[FixedPoint] = (), *, num_steps: int = 10_000, series_steps: int = 1_000
) -> Figure:
    """Draw the orbit in phase space and beside it its first channels over time, coloured by symbol, and fixed points.

    A step has the colour of the region that it leaves from. Beyond eight regions the others are grey, and all of them
    are where those eight hold less than `LEAST_SHARE` of the time. Real fixed points are filled, virtual ones hollow,
    those of regions that the orbit did not visit diamonds. At most `DRAWN_FIXED_POINTS` are drawn, real ones first;
    none outside the orbit's frame, no virtual ones of grey regions, and none where a single channel is drawn against
    itself; the title then counts. A single channel of a map, with a delay of one step, is drawn as points.
    Raises: ImportError without matplotlib.
    """
    values, symbols = orbit.observed[:num_steps], orbit.symbols[:num_steps]
    num_channels = min(values.shape[1], 3)
    delay = embedding_delay(values)
    coordinates = phase_coordinates(values, delay)
    figure = new_figure(10.5, 5.0)
    grid = figure.add_gridspec(1, 2, width_ratios=(1, 1.15))
    attractor, right = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    axes = phase_axes(attractor, (1, 1, 1), coordinates, delay)
    palette = _step_colours(orbit)
    colours = np.array(palette)[symbols]
    if delay == 1:
        axes.scatter(*coordinates.T, s=1, c=list(colours[: len(coordinates)]))
    else:
        _add_line(axes, coordinates, colours, linewidth=0.5)
    num_drawn = 0 if delay else _draw_fixed_points(axes, orbit, points, palette)
    note = f"\n{num_drawn} of {len(points):,} fixed points drawn" if num_drawn < len(points) else ""
    axes.set_title(f"{len(values):,} steps of the free run{note}", fontsize=11, y=0.97 if num_channels == 3 else 1.0)
    stacked = right.subplots(num_channels, 1, sharex=True, squeeze=False)[:, 0]
    for channel, panel in enumerate(stacked):
        shown = np.stack([np.arange(len(values)), values[:, channel]], axis=1)[:series_steps]
        _add_line(panel, shown, colours[:series_steps], linewidth=1.4)
        panel.autoscale_view()
        panel.margins(x=0)
        panel.set_ylabel(f"channel {channel}")
        panel.spines[["top", "right"]].set_visible(False)
    stacked[-1].set_xlabel("step")
    _symbol_legend(figure, orbit, axes)
    return figure


def _covers(orbit: SymbolicOrbit, num_regions: int) -> bool:
    """Whether so many regions, the most visited, hold enough of the time to be worth telling apart."""
    return float(orbit.occupancy[:num_regions].sum()) >= LEAST_SHARE


def _region_colours(num_regions: int) -> list[str]:
    return [*REGION_COLOURS, *[CONTEXT_COLOUR] * num_regions][:num_regions]


def _step_colours(orbit: SymbolicOrbit) -> list[str]:
    """Of each region in a picture of the orbit, all grey where colours would be for few steps alone."""
    size = len(orbit.regions)
    return _region_colours(size) if _covers(orbit, len(REGION_COLOURS)) else [CONTEXT_COLOUR] * size


def _add_line(axes: Any, points: np.ndarray, colours: np.ndarray, *, linewidth: float) -> None:
    """Draw a line through points (time, 2 or 3), each piece in the colour of the point that it leaves."""
    from matplotlib.collections import LineCollection
    from mpl_toolkits.mplot3d.art3d import Line3DCollection

    pieces: Any = np.stack([points[:-1], points[1:]], axis=1)
    look: dict[str, Any] = {"colors": list(colours[: len(pieces)]), "linewidths": linewidth}
    if points.shape[1] == 3:
        axes.add_collection3d(Line3DCollection(pieces, **look), autolim=False)
    else:
        axes.add_collection(LineCollection(pieces, **look))


def _draw_fixed_points(axes: Any, orbit: SymbolicOrbit, points: Sequence[FixedPoint], palette: Sequence[str]) -> int:
    """Mark the fixed points that are worth it in the colour of their region, and return how many those are."""
    dimension = min(orbit.observed.shape[1], 3)
    frame = np.array([axes.get_xlim(), axes.get_ylim(), axes.get_zlim() if dimension == 3 else (0, 0)])[:dimension]
    num_drawn = 0
    for point in sorted(points, key=lambda point: not point.is_real):
        place = point.observed[:dimension]
        found = np.flatnonzero((orbit.regions == point.region).all(axis=1))
        colour = palette[found[0]] if found.size else CONTEXT_COLOUR
        is_outside = (place < frame[:, 0]).any() or (place > frame[:, 1]).any()
        if num_drawn == DRAWN_FIXED_POINTS or is_outside or not (point.is_real or colour != CONTEXT_COLOUR):
            continue
        face, edge = (colour, "black") if point.is_real else ("white", colour)
        label = f"{'real' if point.is_real else 'virtual'} fixed point{'' if found.size else ', region not visited'}"
        look = {"marker": "o" if found.size else "D", "s": 70, "linewidths": 1.8, "zorder": 5}
        axes.scatter(*place[:, None], color=face, edgecolors=edge, label=label, **look)
        num_drawn += 1
    return num_drawn


def _symbol_legend(figure: Figure, orbit: SymbolicOrbit, axes: Any) -> None:
    """Name each colour with its share of time, and the marks of fixed points that were drawn."""
    from matplotlib.lines import Line2D

    palette = _step_colours(orbit)
    named = sum(colour != CONTEXT_COLOUR for colour in palette)
    shares = [f"{region_name(orbit, region)}  {100 * orbit.occupancy[region]:.1f} %" for region in range(named)]
    handles = [Line2D([], [], color=palette[place], linewidth=3, label=share) for place, share in enumerate(shares)]
    if len(orbit.regions) > named:
        rest = f"{len(orbit.regions) - named:,} others  {100 * orbit.occupancy[named:].sum():.1f} %"
        most = len(REGION_COLOURS)
        share = f"{100 * orbit.occupancy[:most].sum():.1f} %"
        many = f"{len(orbit.regions):,} regions, the {most} most visited only {share} of the time"
        handles.append(Line2D([], [], color=CONTEXT_COLOUR, linewidth=3, label=rest if named else many))
    look: dict[str, Any] = {"linestyle": "none", "markersize": 8, "markeredgecolor": "black"}
    for label in sorted(set(axes.get_legend_handles_labels()[1])):
        face, marker = "#555555" if label.startswith("real") else "white", "D" if "not visited" in label else "o"
        handles.append(Line2D([], [], marker=marker, markerfacecolor=face, label=label, **look))
    columns = min(len(handles), 5)
    font = {"family": _MONOSPACE, "size": 9.5}
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, prop=font)


def transition_figure(orbit: SymbolicOrbit) -> Figure:
    """Draw where each region is left to: probabilities given that the symbol changes, as a heat map and as a graph.

    Nodes of the graph grow with occupancy, arrows with probability. Beyond twelve regions the most visited are drawn,
    and the exits to all others share one column of the heat map. Where those twelve hold less than `LEAST_SHARE` of
    the time, the figure is a sentence that says so.
    Raises: ImportError without matplotlib.
    """
    shown = min(len(orbit.regions), GRAPH_REGIONS)
    share = f"{100 * orbit.occupancy[:shown].sum():.1f} % of the time"
    if not _covers(orbit, shown):
        figure = new_figure(11.0, 1.2)
        text = f"{len(orbit.regions):,} regions, the {shown} most visited of them only {share}: too many for a graph"
        figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=13)
        return figure
    exits, occupancy = orbit.exits(shown), orbit.occupancy[:shown]
    names, colours = [region_name(orbit, region) for region in range(shown)], _region_colours(shown)
    figure = new_figure(11.0, 5.2)
    heat, bars, graph = figure.subplots(1, 3, width_ratios=(1, 0.35, 1.2))
    if len(orbit.regions) > shown:
        figure.suptitle(f"the {shown} most visited of {len(orbit.regions):,} regions, {share}", fontsize=12)
        others = exits[:, shown:].sum(axis=1, keepdims=True)
        _draw_heat_map(heat, np.hstack([exits[:, :shown], others]), [*names, "others"])
    else:
        _draw_heat_map(heat, exits, names)
    bars.barh(range(shown), 100 * occupancy, color=colours[:shown])
    bars.set(ylim=heat.get_ylim(), xlabel="time spent (%)")
    bars.set_yticks([])
    bars.spines[["top", "right"]].set_visible(False)
    _draw_graph(graph, exits[:, :shown], occupancy, names, colours)
    return figure


def _draw_heat_map(axes: Axes, exits: np.ndarray, names: Sequence[str]) -> None:
    axes.imshow(exits, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    small = len(names) > 8
    for row, column in zip(*np.nonzero(exits), strict=True):
        value = exits[row, column]
        look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7 if small else 10}
        axes.text(
            column,
            row,
            f"{100 * value:.0f}" if value >= 0.005 else "<1",
            color="white" if value > 0.55 else "black",
            **look,
        )
    font: dict[str, Any] = {"family": _MONOSPACE, "fontsize": 8 if small else 10}
    axes.set_yticks(range(len(exits)), names[: len(exits)], **font)
    axes.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 4 else 0, **font)
    axes.set(xlabel="to", ylabel="from")
    axes.set_title("next region, given a change (%)", fontsize=12)


def _draw_graph(
    axes: Axes, exits: np.ndarray, occupancy: np.ndarray, names: Sequence[str], colours: Sequence[str]
) -> None:
    """Draw regions on a circle, in the order in which they tend to follow each other, and an arrow a transition."""
    from matplotlib.patches import FancyArrowPatch

    angles = np.empty(len(names))
    angles[_order_of_flow(exits)] = np.pi / 2 - 2 * np.pi * np.arange(len(names)) / len(names)
    places = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    largest = min(26.0, 60 * np.sin(np.pi / max(len(names), 2)))  # points: neighbours leave room for arrows
    radii = 4 + (largest - 4) * np.sqrt(occupancy / occupancy.max())
    for start, end in np.argwhere(exits).tolist():
        share = float(exits[start, end])
        arrow = FancyArrowPatch(
            tuple(places[start]),
            tuple(places[end]),
            connectionstyle="arc3,rad=0.18",
            arrowstyle="-|>",
            mutation_scale=9 + 6 * share,
            linewidth=0.6 + 3.4 * share,
            color=colours[start],
            alpha=0.45 + 0.5 * share,
            shrinkA=radii[start] + 1,
            shrinkB=radii[end] + 2,
        )
        axes.add_patch(arrow)
    axes.scatter(*places.T, s=(2 * radii) ** 2, c=list(colours[: len(names)]), edgecolors="white", zorder=3)
    for place, radius, name in zip(places, radii, names, strict=True):
        x, y = np.where(np.abs(place) < 0.2, 0, np.sign(place)).astype(int)
        sides = {"ha": ("center", "left", "right")[x], "va": ("center", "bottom", "top")[y]}
        look: dict[str, Any] = {"fontsize": 11 if len(names) <= 8 else 9, "textcoords": "offset points", **sides}
        axes.annotate(name, tuple(place), xytext=tuple((radius + 4) * place), family=_MONOSPACE, **look)
    side = 1.3 + 0.07 * max(map(len, names))
    axes.set(xlim=(-side, side), ylim=(-1.3, 1.35))
    axes.set_title("node: time spent; arrow: probability", fontsize=12)
    axes.set_axis_off()


def _order_of_flow(exits: np.ndarray) -> list[int]:
    """All regions: the first, then each time the likeliest next one that is left, else the most visited."""
    order, left = [0], list(range(1, len(exits)))
    while left:
        order.append(max(left, key=lambda region: (exits[order[-1], region], -region)))
        left.remove(order[-1])
    return order
