"""Windows of whole trajectories to evaluate on, the same whoever asks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from .series import TrajectorySource
from .trajectories import Trajectory


@dataclass(frozen=True, eq=False)
class HeldOutWindow:
    """Steps `start` to `start + length` of a trajectory; `index` counts the windows of one draw."""

    index: int
    trajectory: Trajectory
    start: int
    length: int

    @property
    def values(self) -> np.ndarray:
        """(time, channels) view of the trajectory."""
        return self.trajectory.values[:, self.start : self.start + self.length].T


def draw_held_out_windows(
    dataset: TrajectorySource, *, length: int, num_windows: int, seed: int
) -> list[HeldOutWindow]:
    """Draw `num_windows` different windows of each trajectory, or all there are if fewer, in order of time.

    A trajectory's windows depend on its `item_id` and the arguments alone: more systems change nothing for others.
    Raises: ValueError, naming it, if a trajectory is shorter than a window.
    """
    windows = []
    for row in range(len(dataset)):
        trajectory = dataset[row]
        num_starts = trajectory.values.shape[1] - length + 1
        if num_starts < 1:
            raise ValueError(
                f"a trajectory must hold the steps of a window (context and largest horizon), {length} steps, found "
                f"{trajectory.values.shape[1]} in {trajectory.item_id!r}; shorten them or leave the system out."
            )
        digest = hashlib.sha256(trajectory.item_id.encode()).digest()
        rng = np.random.default_rng([seed, *np.frombuffer(digest, dtype="<u4").tolist()])
        for start in sorted(rng.choice(num_starts, size=min(num_windows, num_starts), replace=False).tolist()):
            windows.append(HeldOutWindow(len(windows), trajectory, start, length))
    return windows


def batches_of_equal_channels(windows: Sequence[HeldOutWindow], batch_size: int) -> Iterator[list[HeldOutWindow]]:
    """Yield at most `batch_size` windows at a time, those with fewer channels first."""

    def num_channels(window: HeldOutWindow) -> int:
        return window.trajectory.values.shape[0]

    for _, group in groupby(sorted(windows, key=num_channels), key=num_channels):
        same = list(group)
        yield from (same[i : i + batch_size] for i in range(0, len(same), batch_size))
