"""Windows of whole trajectories to evaluate on, the same whoever asks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from ..metrics.pointwise import context_std
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
        rng = _generator(seed, trajectory.item_id)
        for start in sorted(rng.choice(num_starts, size=min(num_windows, num_starts), replace=False).tolist()):
            windows.append(HeldOutWindow(len(windows), trajectory, start, length))
    return windows


def draw_context(
    window: HeldOutWindow, *, origin: int, context_length: int, noise: float, missing: float, seed: int
) -> np.ndarray:
    """Return (context_length, channels): the steps before step `origin` of a window, with noise and gaps.

    The draws are a function of the seed, the trajectory's `item_id`, and where window and origin lie: contexts of
    different lengths share them step by step. What is hidden at one share is hidden at every larger one.

    Args:
        noise: white, in standard deviations of each channel's context; a constant channel gets none.
        missing: probability of each value to be hidden, as NaN.
    """
    context = window.values[origin - context_length : origin]
    shape = (origin, context.shape[1])
    if noise:
        unit = np.nan_to_num(context_std(context[None])[0])
        draws = _generator(seed, repr(("noise", window.trajectory.item_id, window.start))).standard_normal(shape)
        context = (context + noise * unit * draws[-context_length:]).astype(context.dtype)
    if missing:
        draws = _generator(seed, repr(("missing", window.trajectory.item_id, window.start))).random(shape)
        context = np.where(draws[-context_length:] < missing, np.float32(np.nan), context)
    return context


def _generator(seed: int, place: str) -> np.random.Generator:
    digest = hashlib.sha256(place.encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, dtype="<u4").tolist()])


def batches_of_equal_channels(windows: Sequence[HeldOutWindow], batch_size: int) -> Iterator[list[HeldOutWindow]]:
    """Yield at most `batch_size` windows at a time, those with fewer channels first."""

    def num_channels(window: HeldOutWindow) -> int:
        return window.trajectory.values.shape[0]

    for _, group in groupby(sorted(windows, key=num_channels), key=num_channels):
        same = list(group)
        yield from (same[i : i + batch_size] for i in range(0, len(same), batch_size))
