"""Windows of trajectories, a whole batch at a time."""

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import numpy as np
from torch.utils.data import Sampler

from hf_tsdyn.data.augmentations import Augmentations
from hf_tsdyn.data.draws import uniforms
from hf_tsdyn.data.series import TrajectorySource
from hf_tsdyn.data.window_dataset import NO_WINDOW, WindowDataset

_INDICES_PER_RUN = 1 << 32


def identity(batch: Any) -> Any:
    """Return the batch as it is: the `collate_fn` of a `DataLoader` over a `WindowDataset`."""
    return batch


class RandomWindows(WindowDataset):
    """Draw windows at random: window n is a pure function of (seed, n), for every n from 0 on.

    Neither workers nor restarts nor the order of requests change it; with augmentations that change the number of
    channels, the first index of its batch counts too. `ChannelBucketSampler` goes on through the indices from epoch
    to epoch; any other sampler repeats the first `num_windows` windows in each.

    Args:
        num_windows: the length of an epoch.
        balance: draw rows with equal probability, or systems and then one of the system's rows.
    Raises: ValueError, naming the trajectories, when some are shorter than a window.
    """

    def __init__(
        self,
        trajectories: TrajectorySource,
        *,
        context_length: int,
        prediction_length: int,
        num_windows: int,
        seed: int,
        balance: Literal["rows", "systems"] = "rows",
        augmentations: Augmentations | None = None,
    ):
        super().__init__(trajectories, context_length=context_length, prediction_length=prediction_length)
        if num_windows < 1 or not 0 <= seed < 1 << 64:
            found = f"{num_windows!r} and {seed!r}"
            raise ValueError(f"num_windows must be at least 1 and seed in [0, 2**64), found {found}; change them.")
        if balance not in ("rows", "systems"):
            raise ValueError(f"balance must be 'rows' or 'systems', found {balance!r}; choose one of them.")
        self.num_windows = num_windows
        self.seed = seed
        self.balance = balance
        self.augmentations = augmentations
        names = trajectories.systems if balance == "systems" else [""] * len(trajectories)
        groups = np.unique(names, return_inverse=True)[1]
        self._rows_by_group = np.argsort(groups, kind="stable")
        self._group_sizes = np.bincount(groups)
        self._group_starts = np.cumsum(self._group_sizes) - self._group_sizes
        self._num_starts = trajectories.lengths - self.window_length + 1
        self.row_weights = 1.0 / (len(self._group_sizes) * self._group_sizes[groups])
        if augmentations is not None and self.has_time_features:
            raise ValueError(
                "windows with time features must stay as they are, found augmentations, which move and mix steps but "
                "not their dates; leave out augmentations, or time_features."
            )
        if augmentations is not None:
            augmentations.check_surplus(int(self._num_starts.min()) - 1)

    def __reduce__(self) -> tuple[Any, ...]:
        names = ("context_length", "prediction_length", "num_windows", "seed", "balance", "augmentations")
        return partial(RandomWindows, self.trajectories, **{name: getattr(self, name) for name in names}), ()

    def __len__(self) -> int:
        return self.num_windows

    def _fill(self, indices: np.ndarray, rows: np.ndarray, starts: np.ndarray) -> np.ndarray:
        values = super()._fill(indices, rows, starts)
        if self.augmentations is None:
            return values
        return self.augmentations.augment(values, self, indices, rows, starts)

    def locate(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        draws = {stream: uniforms(self.seed, stream, indices) for stream in ("group", "row", "start")}
        groups = (draws["group"] * len(self._group_sizes)).astype(np.int64)
        places = self._group_starts[groups] + (draws["row"] * self._group_sizes[groups]).astype(np.int64)
        rows = self._rows_by_group[places]
        return rows, (draws["start"] * self._num_starts[rows]).astype(np.int64)


class SequentialWindows(WindowDataset):
    """Place windows along every trajectory in turn, `stride` steps apart, in a fixed order.

    Args:
        align_end: let the last window, not the first, touch its end of the trajectory.
        max_windows_per_trajectory: keep so many, from the aligned end on; all by default.
    Raises: ValueError, naming the trajectories, when some are shorter than a window.
    """

    def __init__(
        self,
        trajectories: TrajectorySource,
        *,
        context_length: int,
        prediction_length: int,
        stride: int,
        align_end: bool = False,
        max_windows_per_trajectory: int | None = None,
    ):
        super().__init__(trajectories, context_length=context_length, prediction_length=prediction_length)
        limit = max_windows_per_trajectory
        if stride < 1 or (limit is not None and limit < 1):
            raise ValueError(
                f"stride and max_windows_per_trajectory must be at least 1, found {stride!r} and {limit!r}; raise them."
            )
        self.stride = stride
        self.align_end = align_end
        self.max_windows_per_trajectory = limit
        spare = trajectories.lengths - self.window_length
        counts = np.minimum(spare // stride + 1, spare + 1 if limit is None else limit)
        self._first_starts = spare - (counts - 1) * stride if align_end else np.zeros_like(spare)
        self._ends = np.cumsum(counts)
        self.row_weights = counts / counts.sum()

    def __reduce__(self) -> tuple[Any, ...]:
        names = ("context_length", "prediction_length", "stride", "align_end", "max_windows_per_trajectory")
        return partial(SequentialWindows, self.trajectories, **{n: getattr(self, n) for n in names}), ()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def locate(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if indices.size and indices.max() >= len(self):
            raise IndexError(f"index must be below the number of windows, {len(self)}, found {indices.max()}.")
        rows = np.searchsorted(self._ends, indices, side="right")
        places = indices - np.where(rows > 0, self._ends[rows - 1], 0)
        return rows, self._first_starts[rows] + places * self.stride


class ChannelBucketSampler(Sampler[int]):
    """Yield window indices so that each run of `batch_size` of them has one number of channels.

    Cut into batches of that `batch_size`, as `DataLoader` and `Trainer` do, no batch mixes channel counts; every
    run has its full length, so sharding over processes (accelerate hands out whole batches) and gradient
    accumulation keep the runs intact.

    Over `RandomWindows`: `len(windows) // batch_size` runs an epoch, a pure function of (seed, epoch, run) with
    indices that no other run has; the channel count is drawn with its share of the windows. Over
    `SequentialWindows`: every window once, channel count by channel count; the last run of each is filled
    up with `NO_WINDOW`, so that its batch is shorter.

    Raises: ValueError on a `batch_size` that is below 1 or above the windows of an epoch drawn at random.
    """

    def __init__(self, windows: RandomWindows | SequentialWindows, batch_size: int):
        if batch_size < 1 or (isinstance(windows, RandomWindows) and batch_size > len(windows)):
            raise ValueError(
                f"batch_size must lie between 1 and the {len(windows)} windows of an epoch, "
                f"found {batch_size!r}; change it, or num_windows."
            )
        self.windows = windows
        self.batch_size = batch_size
        self.epoch = 0
        self._channels, self._bucket_of_row = np.unique(windows.trajectories.num_channels, return_inverse=True)
        self._shares = np.bincount(self._bucket_of_row, weights=windows.row_weights)

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration yield the indices of this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        if isinstance(self.windows, RandomWindows):
            return len(self.windows) // self.batch_size * self.batch_size
        sizes = np.rint(self._shares * len(self.windows)).astype(np.int64)
        return int((-(-sizes // self.batch_size)).sum()) * self.batch_size

    def __iter__(self) -> Iterator[int]:
        if isinstance(self.windows, SequentialWindows):
            yield from self._sequential_indices(self.windows)
            return
        num_batches = len(self) // self.batch_size
        for batch in range(self.epoch * num_batches, (self.epoch + 1) * num_batches):
            yield from self._random_run(self.windows, batch).tolist()

    def _sequential_indices(self, windows: SequentialWindows) -> Iterator[int]:
        indices = np.arange(len(windows))
        buckets = self._bucket_of_row[windows.locate(indices)[0]]
        for bucket in range(len(self._channels)):
            members = indices[buckets == bucket]
            yield from members.tolist()
            yield from [NO_WINDOW] * (-members.size % self.batch_size)

    def _random_run(self, windows: RandomWindows, batch: int) -> np.ndarray:
        draw = uniforms(windows.seed, "bucket", np.array([batch]))
        bucket = int(np.searchsorted(np.cumsum(self._shares)[:-1], draw[0], side="right"))
        step = int(np.ceil(1.5 * self.batch_size / self._shares[bucket]))
        first = batch * _INDICES_PER_RUN
        if len(self._shares) == 1:
            return np.arange(first, first + self.batch_size)
        found = np.empty(0, np.int64)
        while found.size < self.batch_size:
            candidates = np.arange(first, first + step)
            rows, _ = windows.locate(candidates)
            found = np.concatenate([found, candidates[self._bucket_of_row[rows] == bucket]])
            first += step
        return found[: self.batch_size]
