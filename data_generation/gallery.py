"""A page of attractors, one stored trajectory per system, drawn beside the dataset's card."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_generation.row_statistics import read_columns

GALLERY_FILE = "attractors.png"
MAX_PANELS = 144
NUM_COLUMNS = 12


def gallery_image(files: Sequence[Path]) -> bytes | None:
    """Return a PNG of the first trajectory of each system, None without matplotlib.

    Of more than MAX_PANELS systems, as many are drawn, evenly spread. Equal rows give equal bytes, whatever the
    user's matplotlib settings.

    Args:
        files: shards, in order."""
    try:
        import matplotlib.style
        from matplotlib.figure import Figure
    except ImportError:
        return None
    series = first_trajectories(files)
    names = sorted(series)
    chosen = [names[place] for place in np.unique(np.linspace(0, len(names) - 1, MAX_PANELS).round().astype(int))]
    num_columns = min(NUM_COLUMNS, len(chosen))
    num_rows = -(-len(chosen) // num_columns)
    with matplotlib.style.context("default"):
        figure = Figure(figsize=(1.3 * num_columns, 1.45 * num_rows), dpi=100)
        # One pair of axes for all of them: a hundred take ten times as long.
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set(xlim=(0, num_columns), ylim=(1.1 * num_rows, 0))
        axes.set_axis_off()
        for place, name in enumerate(chosen):
            row, column = divmod(place, num_columns)
            curve = _fit(project(series[name]))
            axes.plot(
                column + 0.5 + 0.42 * curve[0], 1.1 * row + 0.62 - 0.42 * curve[1], linewidth=0.25, color="#0072B2"
            )
            axes.text(column + 0.5, 1.1 * row + 0.13, _short(name), fontsize=6, ha="center", parse_math=False)
        page = io.BytesIO()
        figure.savefig(page, format="png", metadata={"Software": None})
    return page.getvalue()


def first_trajectories(files: Sequence[Path]) -> dict[str, np.ndarray]:
    """Return the first trajectory of every system, (channels, time), in the order of the files."""
    series: dict[str, np.ndarray] = {}
    for file in files:
        table = read_columns(file, ["system", "target"])
        for place, name in enumerate(table.column("system").to_pylist()):
            if name not in series:
                series[name] = np.stack([channel.values.to_numpy() for channel in table.column("target")[place]])
    return series


def project(values: np.ndarray) -> np.ndarray:
    """Return (2, time): the first three channels, in standard deviations, seen along the diagonal of their cube.

    Both of two channels are taken as they are, and a single one against time.

    Args:
        values: (channels, time)."""
    spread = np.nanstd(values, axis=1, keepdims=True)
    scaled = (values - np.nanmean(values, axis=1, keepdims=True)) / np.where(spread > 0, spread, 1.0)
    if len(scaled) == 1:
        return np.stack([np.linspace(-1, 1, scaled.shape[1]), scaled[0]])
    if len(scaled) == 2:
        return scaled
    x, y, z = scaled[:3]
    return np.stack([(x - y) / np.sqrt(2), (2 * z - x - y) / np.sqrt(6)])


def _fit(curve: np.ndarray) -> np.ndarray:
    """Shift and stretch each coordinate to [-1, 1]."""
    low, high = np.nanmin(curve, axis=1, keepdims=True), np.nanmax(curve, axis=1, keepdims=True)
    return (2 * curve - low - high) / np.where(high > low, high - low, 1.0)


def _short(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"
