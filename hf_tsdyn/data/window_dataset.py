"""What all windows have in common, however they are placed: whole batches of them, filled at once."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hf_tsdyn.data.series import TrajectorySource

NO_WINDOW = -1
"""The index of no window: it fills up a run of `ChannelBucketSampler` and adds nothing to a batch."""


class WindowDataset(Dataset[dict[str, Tensor]], ABC):
    """Serve windows of trajectories, a whole batch at once: the common part of the two ways to place them.

    A `DataLoader` hands a batch of indices to `__getitems__`, so its `collate_fn` is `identity` (and a `Trainer`
    takes `data_collator=identity` and `remove_unused_columns=False`). A batch holds, float32 and in the data's
    own units, `past_values` (batch, context_length, channels) and `future_values` (batch, prediction_length,
    channels; none if `prediction_length` is 0); all its windows have one number of channels. Only if something in it
    is unseen (NaN in the file, or hidden by an augmentation) it also holds `past_observed_mask` and
    `future_observed_mask`, bool, of the same shapes, True = seen; an unseen value is 0. A channel with nothing seen
    in the past has no units to forecast in: its future counts as unseen too, and adds nothing to a loss. Of a series
    that was opened with its time features, a batch also holds `past_time_features` (batch, context_length, features).
    """

    row_weights: np.ndarray
    """(rows,) share of the windows that comes from each trajectory."""

    def __init__(self, trajectories: TrajectorySource, *, context_length: int, prediction_length: int):
        if context_length < 1 or prediction_length < 0:
            raise ValueError(
                "context_length must be at least 1 and prediction_length at least 0, "
                f"found {context_length!r} and {prediction_length!r}; raise them."
            )
        self.trajectories = trajectories
        self.context_length = context_length
        self.prediction_length = prediction_length
        self.window_length = context_length + prediction_length
        self.has_time_features = trajectories.time_features(0) is not None
        short = np.flatnonzero(trajectories.lengths < self.window_length)
        if short.size:
            found = {trajectories[row].item_id: int(trajectories.lengths[row]) for row in short[:5].tolist()}
            raise ValueError(
                f"every trajectory must have the {self.window_length} steps of a window, found {short.size} that are "
                f"shorter in {trajectories!r}, such as {found}; shorten the window, leave those trajectories out, or "
                "give the split a larger share."
            )

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def locate(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the row of `trajectories` and the first step of each window, (indices,) both."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (self[index] for index in range(len(self)))

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Return one batch; `NO_WINDOW` among the indices is left out.

        Raises: IndexError outside the windows; ValueError if they differ in their number of channels."""
        asked = np.asarray(indices, np.int64)
        asked = asked[asked != NO_WINDOW]
        if not asked.size or asked.min() < 0:
            raise IndexError(f"indices must name windows from 0 on, found {list(indices)[:5]}.")
        rows, starts = self.locate(asked)
        channels = self.trajectories.num_channels[rows]
        if (channels != channels[0]).any():
            found = dict(zip(*(part.tolist() for part in np.unique(channels, return_counts=True)), strict=True))
            raise ValueError(
                f"the windows of a batch must have one number of channels, found {found} (channels: windows); "
                "draw the indices with ChannelBucketSampler(windows, batch_size) and the same batch_size."
            )
        batch = self._split(self._fill(asked, rows, starts))
        if self.has_time_features:
            batch["past_time_features"] = self._past_time_features(rows, starts)
        return batch

    def _fill(self, indices: np.ndarray, rows: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Return (batch, channels, window_length) of the windows `indices`, found at `rows` and `starts`."""
        values = np.empty((rows.size, self.trajectories.num_channels[rows[0]], self.window_length), np.float32)
        for out, row, start in zip(values, rows.tolist(), starts.tolist(), strict=True):
            out[...] = self.cut(row, start, self.window_length)
        return values

    def _past_time_features(self, rows: np.ndarray, starts: np.ndarray) -> Tensor:
        places = [self.trajectories.time_features(row) for row in rows.tolist()]
        parts = [
            part[:, start : start + self.context_length]
            for part, start in zip(places, starts.tolist(), strict=True)
            if part is not None
        ]
        return torch.from_numpy(np.stack(parts)).transpose(1, 2).contiguous()

    def cut(self, row: int, start: int, length: int) -> np.ndarray:
        """Return (channels, length), a view of the file."""
        return self.trajectories.values(row)[:, start : start + length]

    def _split(self, values: np.ndarray) -> dict[str, Tensor]:
        unseen = np.isnan(values)
        parts = {"values": values}
        if unseen.any():
            unseen[..., self.context_length :] |= unseen[..., : self.context_length].all(axis=2, keepdims=True)
            parts = {"values": np.where(unseen, np.float32(0), values), "observed_mask": ~unseen}
        batch = {}
        for name, part in parts.items():
            tensor = torch.from_numpy(part).transpose(1, 2)
            batch[f"past_{name}"] = tensor[:, : self.context_length]
            if self.prediction_length:
                batch[f"future_{name}"] = tensor[:, self.context_length :]
        return batch
