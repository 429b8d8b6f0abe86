"""Memories of fixed size: the latest steps of a stream, and a fair sample of the windows that were learnt."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Ring:
    """The latest `length` rows of a stream, time ascending, each stored twice so that any stretch is one view.

    Args:
        width: numbers a row. empty: what stands at the steps before the first row.
    """

    def __init__(self, length: int, width: int, *, empty: float):
        self._length = length
        self._rows = np.full((2 * length, width), empty, dtype=np.float32)
        self._next = 0

    @property
    def rows(self) -> np.ndarray:
        """All rows, (length, width), a view that holds until the next row is appended."""
        return self._rows[self._next : self._next + self._length]

    def append(self, row: np.ndarray) -> None:
        """Take in the next row, (width,), and drop the oldest."""
        self._rows[self._next] = row
        self._rows[self._next + self._length] = row
        self._next = (self._next + 1) % self._length

    def latest(self, count: int, age: int = 0) -> np.ndarray:
        """Return the `count` rows before the last `age`, a view as `rows` is."""
        end = self._next + self._length - age
        return self._rows[end - count : end]

    def restore(self, rows: np.ndarray) -> None:
        """Hold a copy of `rows`, as `rows` gave them.

        Raises: ValueError on another shape.
        """
        expected = (self._length, self._rows.shape[1])
        if rows.shape != expected:
            raise ValueError(
                f"the stream's rows must have shape {expected}, found {rows.shape}; the state is of another learner."
            )
        self._rows[: self._length] = self._rows[self._length :] = rows
        self._next = 0


class Remembered(NamedTuple):
    """Windows drawn from a reservoir, copies: batch first, data units, NaN = unseen.

    past_values (batch, L, C), past_time_features (batch, L, F) or None, future_values (batch, H, C), and outputs, like
    `future_values`: what was forecast when the window was learnt, NaN where the target was unseen.
    """

    past_values: Tensor
    past_time_features: Tensor | None
    future_values: Tensor
    outputs: Tensor | None

    def tensors(self) -> dict[str, Tensor]:
        """Return what a model's `forward` takes; with outputs each window comes twice, the second time with them."""
        future = [self.future_values] if self.outputs is None else [self.future_values, self.outputs]
        found = {"past_values": self.past_values, "past_time_features": self.past_time_features}
        inputs = {name: torch.cat([each] * len(future)) for name, each in found.items() if each is not None}
        return inputs | {"future_values": torch.cat(future)}


class Reservoir:
    """A uniform sample, of fixed size, of all windows that were ever added.

    Of n windows added so far each is held with probability min(1, size / n). All memory is taken at once.

    Args:
        size: windows held at most. seed: of all draws.
        context_length, prediction_length, num_channels, num_time_features: of every window.
        with_outputs: whether forecasts are held too.
    Source: Vitter, "Random sampling with a reservoir" (1985), algorithm R.
    """

    def __init__(
        self,
        size: int,
        *,
        context_length: int,
        prediction_length: int,
        num_channels: int,
        num_time_features: int,
        with_outputs: bool,
        seed: int,
    ):
        self._size = size
        self._tensors = {
            "past_values": torch.zeros(size, context_length, num_channels),
            "future_values": torch.zeros(size, prediction_length, num_channels),
        }
        if num_time_features:
            self._tensors["past_time_features"] = torch.zeros(size, context_length, num_time_features)
        if with_outputs:
            self._tensors["outputs"] = torch.zeros(size, prediction_length, num_channels)
        self._num_added = 0
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return min(self._num_added, self._size)

    def add(self, **window: Tensor) -> None:
        """Offer one window, its tensors by the names of `Remembered`, without the batch axis; it is copied."""
        place = self._num_added
        if place >= self._size:
            place = int(torch.randint(place + 1, (), generator=self._generator))
        self._num_added += 1
        if place < self._size:
            for name, held in self._tensors.items():
                held[place] = window[name]

    def sample(self, count: int) -> Remembered:
        """Draw `count` different windows, all equally likely; if fewer are held, all of them in random order."""
        chosen = torch.randperm(len(self), generator=self._generator)[:count]
        drawn = {name: held[chosen] for name, held in self._tensors.items()}
        return Remembered(
            drawn["past_values"], drawn.get("past_time_features"), drawn["future_values"], drawn.get("outputs")
        )

    def state(self) -> dict[str, Tensor]:
        """Return all that moves: the windows held, how many were added, and the generator's state."""
        held = {name: tensor[: len(self)] for name, tensor in self._tensors.items()}
        return held | {"num_added": torch.tensor(self._num_added), "generator": self._generator.get_state()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from a copy of what `state` returned.

        Raises: ValueError if it is of a reservoir of other windows.
        """
        self._num_added = int(state["num_added"])
        for name, held in self._tensors.items():
            if name not in state or state[name].shape != held[: len(self)].shape:
                found = tuple(state[name].shape) if name in state else "nothing"
                raise ValueError(
                    f"{name} of a reservoir must have shape {tuple(held[: len(self)].shape)}, found {found}; the state "
                    "is of another learner."
                )
            held[: len(self)] = state[name]
        self._generator.set_state(state["generator"])


__all__ = ["Remembered", "Reservoir", "Ring"]
