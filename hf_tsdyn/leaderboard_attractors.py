"""Rollouts that a leaderboard draws beside the truth: one file beside each results file that has some.

Beside `NAME.json`, or `NAME.json.gz`, lies `NAME.attractors.npz`. Its array `names`, (series, 2), has a system and
whose series it is, a model of the results or "truth"; `series_0`, `series_1`, ... are those series, (time, channels),
in data units, in that order. Every system has its truth: the steps after one forecast origin, as many as were forecast.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .results import write_atomically

TRUE_SERIES = "truth"
Attractors = dict[str, dict[str, np.ndarray]]
"""By system, by whose series it is: (time, channels)."""


def attractors_file(results: str | os.PathLike[str]) -> Path:
    """Return where the rollouts of a results file lie."""
    path = Path(results)
    name = path.name.removesuffix(".gz").removesuffix(".json")
    return path.with_name(f"{name}.attractors.npz")


def write_attractors(attractors: Mapping[str, Mapping[str, np.ndarray]], path: str | os.PathLike[str]) -> None:
    """Write rollouts by system and model, replacing `path` in one step; equal series give equal bytes.

    Raises: ValueError if a system has no truth, or a series another number of channels than it.
    """
    for system, series in attractors.items():
        shapes = {name: np.shape(values) for name, values in series.items()}
        channels = {shape[1] if len(shape) == 2 else None for shape in shapes.values()}
        if TRUE_SERIES not in series or len(channels) != 1 or None in channels:
            raise ValueError(
                f"a system's rollouts must be (time, channels) of equal channels, {TRUE_SERIES!r} among them, found "
                f"{shapes} of {system!r}; give the truth, and what was forecast of it."
            )
    flat = [(system, name, values) for system, series in attractors.items() for name, values in series.items()]
    buffer = io.BytesIO()
    names = np.array([[system, name] for system, name, _ in flat], dtype=str).reshape(-1, 2)
    arrays: dict[str, Any] = {
        f"series_{place}": np.asarray(values, dtype=np.float32) for place, (*_, values) in enumerate(flat)
    }
    np.savez_compressed(buffer, names=names, **arrays)
    write_atomically(path, buffer.getvalue())


def read_attractors(path: str | os.PathLike[str]) -> Attractors:
    """Read what `write_attractors` wrote.

    Raises: FileNotFoundError; ValueError on a file of another format.
    """
    found: Attractors = {}
    with np.load(path, allow_pickle=False) as content:
        if "names" not in content:
            raise ValueError(f"{path} must hold an array `names`, found {content.files}; write it with this version.")
        for place, (system, name) in enumerate(content["names"].tolist()):
            found.setdefault(system, {})[name] = content[f"series_{place}"]
    return found


def merge_attractors(folder: str | os.PathLike[str], files: Mapping[str, object]) -> Attractors:
    """Return the rollouts that lie beside the results files of a folder, all models of a system together.

    Raises: ValueError if two files have another truth of a system.
    """
    merged: Attractors = {}
    for name in files:
        path = attractors_file(Path(folder, name))
        for system, series in (read_attractors(path) if path.is_file() else {}).items():
            known = merged.setdefault(system, series)
            if not np.array_equal(known[TRUE_SERIES], series[TRUE_SERIES], equal_nan=True):
                raise ValueError(
                    f"rollouts of a system must have one truth, found another of {system!r} in {path.name}; write it "
                    "again from the windows of the other results."
                )
            merged[system] = series | known
    return merged
