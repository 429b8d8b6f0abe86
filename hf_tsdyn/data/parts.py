"""Parts of a source of trajectories: some steps of each row, or some of its rows."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from hf_tsdyn.data.series import SeriesDataset, TrajectorySource
from hf_tsdyn.data.trajectories import Trajectory


class SeriesPart:
    """View of consecutive steps of rows of another source; it reads as that one does and pickles with it.

    Its `path` and `fingerprint` are those of the source. A `Trajectory` keeps the names and numbers of its row, but for
    `split` and, where the part begins later than the row, `initial_condition`: then the values of its own first step.

    Args:
        ranges: (rows, 2): the first step of each row, and the first one after its last.
        rows: of the source, those that are kept, in this order; all by default.
        split: the part's own name; that of the source by default.
    Raises: ValueError on no rows, rows that the source does not have, or ranges that are empty or leave their row.
    """

    def __init__(
        self,
        source: TrajectorySource,
        ranges: np.ndarray | Sequence[tuple[int, int]],
        *,
        rows: np.ndarray | Sequence[int] | None = None,
        split: str | None = None,
    ):
        self.source = source
        self.rows = np.arange(len(source)) if rows is None else np.asarray(rows, np.int64)
        self.ranges = np.asarray(ranges, np.int64)
        self.split = source.split if split is None else split
        self._check()
        self.path = source.path
        self.fingerprint = source.fingerprint
        self.num_channels = source.num_channels[self.rows]
        self.lengths = self.ranges[:, 1] - self.ranges[:, 0]
        self.systems = [source.systems[row] for row in self.rows]

    def _check(self) -> None:
        if not self.rows.size or self.rows.min() < 0 or self.rows.max() >= len(self.source):
            raise ValueError(
                f"rows must name at least one of the {len(self.source)} rows of {self.source!r}, from 0 on, found "
                f"{self.rows[:5].tolist()}; change them."
            )
        if self.ranges.shape != (self.rows.size, 2):
            raise ValueError(
                f"ranges must have shape {(self.rows.size, 2)}, a first step and an end for each row, found "
                f"{self.ranges.shape}; give one of each."
            )
        first, end = self.ranges.T
        lengths = self.source.lengths[self.rows]
        wrong = np.flatnonzero((first < 0) | (first >= end) | (end > lengths))
        if wrong.size:
            place = wrong[0]
            raise ValueError(
                f"a part must hold at least one step of its row, and none outside of it, found steps {first[place]} to "
                f"{end[place]} of {lengths[place]} in row {self.rows[place]} of {self.source!r}; change ranges."
            )

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"SeriesPart({self.source!r}, {self.split!r}, {len(self)} rows)"

    def __iter__(self) -> Iterator[Trajectory]:
        return (self[row] for row in range(len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(SeriesPart, self.source, self.ranges, rows=self.rows, split=self.split), ()

    def values(self, row: int) -> np.ndarray:
        """Return (channels, time) float32 of one row: a read-only view of the source's."""
        first, end = self.ranges[row].tolist()
        return self.source.values(self.rows.item(row))[:, first:end]

    def times(self, row: int) -> np.ndarray | None:
        """Return when each step of one row was, as `SeriesDataset.times` does; None where the source has no dates."""
        if not isinstance(self.source, SeriesDataset | SeriesPart):
            return None
        times = self.source.times(self.rows.item(row))
        return None if times is None else times[slice(*self.ranges[row].tolist())]

    def time_features(self, row: int) -> np.ndarray | None:
        """Return (features, time) of one row, a view of the source's; None where it has none."""
        features = self.source.time_features(self.rows.item(row))
        return None if features is None else features[:, slice(*self.ranges[row].tolist())]

    def __getitem__(self, row: int) -> Trajectory:
        trajectory = self.source[self.rows.item(row)]
        first, end = self.ranges[row].tolist()
        values = trajectory.values[:, first:end]
        start = trajectory.initial_condition if first == 0 else values[:, 0].astype(np.float64)
        return replace(trajectory, split=self.split, values=values, initial_condition=start)


def carve_end(
    source: TrajectorySource, share: float, *, context_length: int, gap: int = 0
) -> tuple[SeriesPart, SeriesPart]:
    """Cut the end off every row: return what lies before it, and the end.

    Of a row of T steps the last floor(share T) are the end's targets, `share` counted as the decimal number that it is
    written as. The end begins `context_length` steps before them, as far as there are any, so that windows with that
    context have every target inside the end. What lies before stops `gap` steps ahead of the first target.

    Raises: ValueError on a share outside (0, 1), a negative `gap` or `context_length`, or, naming it, a row that is too
        short to leave a step on either side.
    """
    if gap < 0 or context_length < 0:
        raise ValueError(
            f"gap and context_length must be at least 0, found {gap!r} and {context_length!r}; raise them."
        )
    origins = source.lengths - np.array([_floor(share, length) for length in source.lengths.tolist()], np.int64)
    short = np.flatnonzero((origins == source.lengths) | (origins <= gap))
    if short.size:
        raise ValueError(
            f"every row must have steps before and in its last {share:g}, found {short.size} that leave one without, "
            f"such as {lengths_by_name(source, short)} with gap={gap}; change the share, or carve whole rows."
        )
    front = np.stack([np.zeros_like(origins), origins - gap], axis=1)
    end = np.stack([np.maximum(origins - context_length, 0), source.lengths], axis=1)
    return (
        SeriesPart(source, front, split=f"{source.split}-front"),
        SeriesPart(source, end, split=f"{source.split}-end"),
    )


def carve_rows(source: TrajectorySource, share: float, *, seed: int) -> tuple[SeriesPart, SeriesPart]:
    """Set floor(share N) of the N systems of a source apart, with all their rows: return the others, and them.

    For many short rows, of which `carve_end` would leave little. The order of systems is a function of (seed, name)
    alone, so that neither the order of rows nor a larger share puts a carved system back.

    Raises: ValueError on a share outside (0, 1), or so small that no system is carved.
    """
    systems = sorted(set(source.systems), key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    carved = set(systems[: _floor(share, len(systems))])
    if not carved:
        raise ValueError(
            f"share must carve at least one of the {len(systems)} systems of {source!r}, found {share!r}; raise it, or "
            "carve the end of every row."
        )
    is_carved = np.array([system in carved for system in source.systems])
    ranges = np.stack([np.zeros_like(source.lengths), source.lengths], axis=1)
    others, own = (
        SeriesPart(source, ranges[kept], rows=np.flatnonzero(kept), split=f"{source.split}-{name}")
        for name, kept in (("rest", ~is_carved), ("carved", is_carved))
    )
    return others, own


def lengths_by_name(source: TrajectorySource, rows: np.ndarray) -> dict[str, int]:
    """Return the lengths of the first few of some rows, for a message."""
    return {source[row].item_id: source.lengths.item(row) for row in rows[:5].tolist()}


def _floor(share: float, count: int) -> int:
    if not 0 < share < 1:
        raise ValueError(f"share must lie between 0 and 1, found {share!r}; change it.")
    return int(Fraction(str(share)) * count)
