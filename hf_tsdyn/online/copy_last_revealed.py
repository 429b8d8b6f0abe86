"""What is left of an immediate evaluation's difficulty when its leak is simply read off."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from ..interpolation import fill_linear
from .learner import OnlineLearner, Window


class CopyLastRevealed(OnlineLearner, kind="copy_last_revealed"):
    """Repeat the targets that were revealed at the previous step; the latest of them stands for the one step beyond.

    With the immediate protocol all but one of the steps ahead are known that way: this is the floor that says how much
    of an error under that protocol is skill. Targets that were not seen are interpolated; before anything is revealed
    it is persistence.
    """

    def __init__(self, *, context_length: int, prediction_length: int, num_channels: int, num_time_features: int = 0):
        super().__init__(
            context_length=context_length,
            prediction_length=prediction_length,
            num_channels=num_channels,
            num_time_features=num_time_features,
            protocol="immediate",
        )
        self._revealed = torch.full((prediction_length, num_channels), torch.nan)
        self._revealed_after = torch.tensor(0)  # steps that had been observed then

    def _forecast(self, window: Window) -> Tensor:
        passed = self.num_observed - int(self._revealed_after)
        known = torch.cat([window.past_values, self._revealed[None, passed:]], dim=1)
        filled = fill_linear(known, ~known.isnan())[0]
        beyond = filled[-1:].expand(self.prediction_length, -1)
        return torch.cat([filled[self.context_length :], beyond])[: self.prediction_length]

    def _learn(self, window: Window, future_values: Tensor, future_observed_mask: Tensor) -> None:
        self._revealed.copy_(future_values)
        self._revealed_after.fill_(self.num_observed)

    def _state(self) -> dict[str, Tensor]:
        return {"revealed": self._revealed, "revealed_after": self._revealed_after}

    def _load_state(self, state: dict[str, Tensor]) -> None:
        for name, tensor in self._state().items():
            tensor.copy_(state[name])

    def _describe(self, folder: Path) -> dict[str, Any]:
        names = ("context_length", "prediction_length", "num_channels", "num_time_features")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def _rebuild(cls, folder: Path, description: dict[str, Any]) -> Self:
        return cls(**description)
