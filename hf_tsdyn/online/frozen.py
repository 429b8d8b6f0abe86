"""The learner that never learns: what every other one has to beat."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from torch import Tensor

from ..forecasting import Forecaster
from .learner import OnlineLearner, Protocol, Window
from .saving import describe_forecaster, forecaster_state, rebuild_forecaster, with_state


class FrozenLearner(OnlineLearner, kind="frozen"):
    """Forecast with a forecaster as it is, from ever new contexts; nothing is learnt.

    Args:
        forecaster: any, held, not copied; a state is loaded into a copy. With `num_time_features` its `forecast`
            must take `past_time_features`.
        context_length, prediction_length, num_channels, num_time_features, protocol: as `OnlineLearner` says.
    """

    def __init__(
        self,
        forecaster: Forecaster,
        *,
        context_length: int,
        prediction_length: int,
        num_channels: int,
        num_time_features: int = 0,
        protocol: Protocol = "delayed",
    ):
        super().__init__(
            context_length=context_length,
            prediction_length=prediction_length,
            num_channels=num_channels,
            num_time_features=num_time_features,
            protocol=protocol,
        )
        self.forecaster = forecaster

    def _forecast(self, window: Window) -> Tensor:
        features = {} if window.past_time_features is None else {"past_time_features": window.past_time_features}
        steps = self.prediction_length
        return self.forecaster.forecast(window.past_values, prediction_length=steps, **features)[0]

    def _learn(self, window: Window, future_values: Tensor, future_observed_mask: Tensor) -> None:
        pass

    def _state(self) -> dict[str, Tensor]:
        return forecaster_state(self.forecaster)

    def _load_state(self, state: dict[str, Tensor]) -> None:
        self.forecaster = with_state(self.forecaster, state)

    def _describe(self, folder: Path) -> dict[str, Any]:
        names = ("context_length", "prediction_length", "num_channels", "num_time_features", "protocol")
        description = {name: getattr(self, name) for name in names}
        return description | {"forecaster": describe_forecaster(self.forecaster, folder)}

    @classmethod
    def _rebuild(cls, folder: Path, description: dict[str, Any]) -> Self:
        return cls(rebuild_forecaster(folder, description.pop("forecaster")), **description)


__all__ = ["FrozenLearner"]
