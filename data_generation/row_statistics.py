"""What the rows of finished shards say together: ranges of parameters, and how chaotic the trajectories are."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa


@dataclass(frozen=True, eq=False)
class RowStatistics:
    """Statistics over all stored trajectories."""

    parameter_ranges: dict[str, dict[str, tuple[float, float]]]
    """Smallest and largest value by system and parameter, over all entries of an array."""
    exponents: np.ndarray
    """Largest Lyapunov exponent x period, of the rows that carry a Lyapunov time."""


def read_statistics(files: Iterable[Path]) -> RowStatistics:
    """Return the statistics of the rows of all files."""
    ranges: dict[str, dict[str, tuple[float, float]]] = {}
    exponents = []
    for file in files:
        columns = read_columns(file, ["system", "parameters", "period", "lyapunov_time"]).to_pydict()
        for system, parameters in zip(columns["system"], columns["parameters"], strict=True):
            known = ranges.setdefault(system, {})
            for name, value in _leaves(json.loads(parameters)):
                low, high = known.get(name, (value, value))
                known[name] = (min(low, value), max(high, value))
        times = zip(columns["period"], columns["lyapunov_time"], strict=True)
        exponents += [period / lyapunov_time for period, lyapunov_time in times if lyapunov_time is not None]
    return RowStatistics(ranges, np.array(exponents, dtype=np.float64))


def read_columns(file: Path, names: list[str]) -> pa.Table:
    """Return some columns of a shard, mapped, not copied."""
    with pa.ipc.open_stream(pa.memory_map(str(file))) as reader:
        return reader.read_all().select(names)


def _leaves(tree: Any, name: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, f"{name}.{key}" if name else key)
    elif isinstance(tree, list):
        for value in tree:
            yield from _leaves(value, name)
    elif isinstance(tree, int | float) and not isinstance(tree, bool):
        yield name, tree
