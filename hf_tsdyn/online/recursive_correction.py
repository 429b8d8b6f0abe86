"""A frozen forecaster whose errors are predicted by a ridge that takes in one window after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..channel_scaling import channel_statistics
from ..data.time_features import TIME_FEATURES, time_feature_arguments
from ..forecasting import Forecaster, evaluating
from ..interpolation import fill_linear
from .learner import OnlineLearner, Protocol, Window, below
from .saving import describe_forecaster, forecaster_state, rebuild_forecaster, with_state

WINDOWS_AT_ONCE = 256
"""Training windows that are forwarded together."""

INTERCEPT_PENALTY = 1e-6
"""As good as none, and enough for a solution before anything was learnt."""


class RecursiveCorrection(OnlineLearner, kind="recursive_correction"):
    """Add to a frozen forecast what a linear regression, learning on every revealed window, says of its error.

    Inputs x of a channel are its changes to the last value at the earlier steps of the context, sines and cosines of
    the time of day, the forecaster's last hidden state where it is a model that has one (its mean over axes between
    the first and the last; in units of its deviation over the training windows), and 1. Outputs are the errors at the
    H steps. Values are z-scores by the training rows. With windows i of training and stream alike, the weights minimise

        sum_i f^age(i) |error_i - W' x_i|^2 + p |W|^2,

    solved anew for each forecast from sums that are kept: exact, bounded, with a penalty that does not fade.
    Around `Persistence` this is recursive least squares of changes on lags and the hour; around a network it adapts the
    network's last layer, and what the layer lacks.

    A window teaches the channels of which all targets are seen; gaps of a context are interpolated.

    Args:
        forecaster: any; it is held, not copied, and never changed: a state is loaded into a copy. `fit` brings the
            training rows.
        num_day_harmonics: K pairs of sine and cosine, 0 for none; needs the features of `hf_tsdyn.data.time_features`.
        penalty: p, in windows, above 0. forgetting: f, above 0, at most 1; 0.999 remembers 1000 windows.
        learns: False keeps the regression of the training rows: what the inputs are worth without learning online.
    Raises: ValueError on numbers out of range, or harmonics without the calendar's features.
    """

    def __init__(
        self,
        forecaster: Forecaster,
        *,
        context_length: int,
        prediction_length: int,
        num_channels: int,
        num_time_features: int = 0,
        num_day_harmonics: int = 0,
        penalty: float = 10.0,
        forgetting: float = 0.999,
        learns: bool = True,
        protocol: Protocol = "delayed",
    ):
        _check(penalty, forgetting, num_day_harmonics, num_time_features)
        super().__init__(
            context_length=context_length,
            prediction_length=prediction_length,
            num_channels=num_channels,
            num_time_features=num_time_features,
            protocol=protocol,
        )
        self.forecaster = forecaster
        self.num_day_harmonics = num_day_harmonics
        self.penalty = penalty
        self.forgetting = forgetting
        self.learns = learns
        features = torch.zeros(1, context_length, num_time_features) if num_time_features else None
        hidden = self._base(torch.zeros(1, context_length, num_channels), features)[1]
        self._fitted = self._nothing_learnt(hidden.shape[1])

    @classmethod
    def fit(
        cls, forecaster: Forecaster, values: Tensor, *, time_features: Tensor | None = None, **options: Any
    ) -> Self:
        """Build the learner and take in all windows of the training rows, the latest counting most.

        Args:
            values: (time, C), data units, NaN = unseen. time_features: (time, F), if and only if the learner has any.
            options: further arguments of the learner.
        Raises: ValueError on rows shorter than a window, a channel that is constant, and as the learner does.
        """
        num_features = 0 if time_features is None else time_features.shape[1]
        learner = cls(forecaster, num_channels=values.shape[1], num_time_features=num_features, **options)
        if len(values) < learner.context_length + learner.prediction_length:
            raise ValueError(
                f"values must have at least the {learner.context_length} + {learner.prediction_length} steps of a "
                f"window, found {len(values)}; give more training rows."
            )
        loc, scale = channel_statistics([values.double().T.numpy()], learner.num_channels)
        learner._fitted["loc"].copy_(torch.from_numpy(loc))
        learner._fitted["scale"].copy_(torch.from_numpy(scale))
        windows = list(learner._training_windows(values, time_features))
        hidden = torch.cat([learner._base(window.past_values, window.past_time_features)[1] for window, _ in windows])
        learner._fitted["hidden_loc"].copy_(hidden.mean(dim=0))
        deviation = (hidden - learner._fitted["hidden_loc"]).square().mean(dim=0).sqrt()
        learner._fitted["hidden_scale"].copy_(torch.where(deviation > 1e-6, deviation, 1.0))
        for window, future in windows:
            learner._take_in(window, future)
        return learner

    def statistics(self) -> dict[str, float]:
        """Return counts, and the root mean square of the weights."""
        size = float(self.weights.square().mean().sqrt())
        return super().statistics() | {"num_learnt": float(self._fitted["num_learnt"].sum()), "weights": size}

    @property
    def weights(self) -> Tensor:
        """The regression as it stands, (C, D, H) float64: inputs in the order of the class's description."""
        gram, moment = self._fitted["gram"], self._fitted["moment"]
        penalties = torch.full((gram.shape[1],), self.penalty, dtype=torch.float64)
        penalties[-1] = INTERCEPT_PENALTY
        return torch.cholesky_solve(moment, torch.linalg.cholesky(gram + torch.diag(penalties)))

    def _nothing_learnt(self, hidden_size: int) -> dict[str, Tensor]:
        """What moves, by name, with sums over no window."""
        size, channels = self.context_length + 2 * self.num_day_harmonics + hidden_size, self.num_channels
        shapes = {
            "loc": (channels,),
            "scale": (channels,),
            "hidden_loc": (hidden_size,),
            "hidden_scale": (hidden_size,),
            "gram": (channels, size, size),
            "moment": (channels, size, self.prediction_length),
            "num_learnt": (channels,),
        }
        fitted = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}
        for name in ("scale", "hidden_scale"):
            fitted[name].fill_(1.0)
        return fitted

    def _forecast(self, window: Window) -> Tensor:
        base, inputs = self._inputs(window)
        errors = (inputs @ self.weights).permute(1, 2, 0)  # (1, H, C)
        return (base + errors * self._fitted["scale"])[0].float()

    def _learn(self, window: Window, future_values: Tensor, future_observed_mask: Tensor) -> None:
        if self.learns:
            self._take_in(window, future_values[None])

    def _take_in(self, window: Window, future: Tensor) -> None:
        """Take in windows of ascending time, and their targets (batch, H, C); NaN = unseen."""
        base, inputs = self._inputs(window)
        errors = ((future.double() - base) / self._fitted["scale"]).permute(2, 0, 1)  # (C, batch, H)
        learnt = errors.isfinite().all(dim=2) & window.past_observed_mask.any(dim=1).T & inputs.isfinite().all(dim=2)
        counts = learnt.sum(dim=1)
        age = counts[:, None] - learnt.cumsum(dim=1)
        weight = (self.forgetting**age * learnt)[..., None]
        inputs, errors = (each.masked_fill(~learnt[..., None], 0.0) for each in (inputs, errors))
        fading = (self.forgetting**counts)[:, None, None]
        self._fitted["gram"] = fading * self._fitted["gram"] + (weight * inputs).mT @ inputs
        self._fitted["moment"] = fading * self._fitted["moment"] + (weight * inputs).mT @ errors
        self._fitted["num_learnt"] += counts

    def _inputs(self, window: Window) -> tuple[Tensor, Tensor]:
        """The forecaster's forecast, (batch, H, C), and the regression's inputs, (C, batch, D), float64 both."""
        base, hidden = self._base(window.past_values, window.past_time_features)
        filled = fill_linear(window.past_values, window.past_observed_mask).double()
        changes = (filled[:, :-1] - filled[:, -1:]) / self._fitted["scale"]
        hidden = (hidden - self._fitted["hidden_loc"]) / self._fitted["hidden_scale"]
        shared = torch.cat([self._day(window.past_time_features, len(base)), hidden, hidden.new_ones(len(base), 1)], 1)
        return base, torch.cat([changes.permute(2, 0, 1), shared.expand(self.num_channels, -1, -1)], dim=2)

    @torch.no_grad()
    def _base(self, past_values: Tensor, features: Tensor | None) -> tuple[Tensor, Tensor]:
        """The forecaster's forecast, (batch, H, C), and its hidden state, (batch, size), empty without one; float64."""
        arguments = time_feature_arguments(self.forecaster, features)
        if not isinstance(self.forecaster, PreTrainedModel):
            forecast = self.forecaster.forecast(past_values, prediction_length=self.prediction_length, **arguments)
            return forecast.double(), torch.zeros(len(past_values), 0, dtype=torch.float64)
        device = self.forecaster.device
        arguments = {name: each.to(device) for name, each in arguments.items()}
        with evaluating(self.forecaster):
            found = self.forecaster(past_values.to(device), **arguments)
        state = found.last_hidden_state
        hidden = past_values.new_zeros(len(past_values), 0) if state is None else _pooled(state)
        return found.prediction_outputs.double().cpu(), hidden.double().cpu()

    def _day(self, features: Tensor | None, count: int) -> Tensor:
        """Sines and cosines of the time of day at the contexts' last step, (batch, 2 K)."""
        if features is None or not self.num_day_harmonics:
            return torch.zeros(count, 0, dtype=torch.float64)
        hour = _count(features[:, -1, TIME_FEATURES.index("hour")].double(), 24)
        minute = _count(features[:, -1, TIME_FEATURES.index("minute")].double(), 60)
        harmonics = torch.arange(1, self.num_day_harmonics + 1, dtype=torch.float64)
        angle = 2 * math.pi / 24 * (hour + minute / 60)[:, None] * harmonics
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    def _training_windows(self, values: Tensor, features: Tensor | None) -> Iterator[tuple[Window, Tensor]]:
        length = self.context_length + self.prediction_length
        rows = values.float().unfold(0, length, 1).mT.split(WINDOWS_AT_ONCE)  # (batch, L + H, C) each
        times = (
            [None] * len(rows) if features is None else features.float().unfold(0, length, 1).mT.split(WINDOWS_AT_ONCE)
        )
        for some, time in zip(rows, times, strict=True):
            past = some[:, : self.context_length]
            known = None if time is None else time[:, : self.context_length]
            yield Window(past, known, ~past.isnan()), some[:, self.context_length :]

    def _state(self) -> dict[str, Tensor]:
        frozen = {f"forecaster.{name}": each for name, each in forecaster_state(self.forecaster).items()}
        return self._fitted | frozen

    def _load_state(self, state: dict[str, Tensor]) -> None:
        for name, tensor in self._fitted.items():
            tensor.copy_(state[name])
        self.forecaster = with_state(self.forecaster, below("forecaster.", state))

    def _describe(self, folder: Path) -> dict[str, Any]:
        names = ("context_length", "prediction_length", "num_channels", "num_time_features", "protocol")
        own = ("num_day_harmonics", "penalty", "forgetting", "learns")
        options = {name: getattr(self, name) for name in (*names, *own)}
        return {"options": options, "forecaster": describe_forecaster(self.forecaster, folder)}

    @classmethod
    def _rebuild(cls, folder: Path, description: dict[str, Any]) -> Self:
        return cls(rebuild_forecaster(folder, description["forecaster"]), **description["options"])


def _check(penalty: float, forgetting: float, num_day_harmonics: int, num_time_features: int) -> None:
    if not 0 < forgetting <= 1 or not 0 < penalty < math.inf:
        raise ValueError(
            "forgetting must be above 0 and at most 1, and penalty finite and above 0, found "
            f"{forgetting!r} and {penalty!r}; leave them out for their defaults."
        )
    if num_day_harmonics < 0 or (num_day_harmonics and num_time_features != len(TIME_FEATURES)):
        raise ValueError(
            f"num_day_harmonics must be 0, or above it with the {len(TIME_FEATURES)} time features of the calendar,"
            f" found {num_day_harmonics} with {num_time_features}; switch the stream's time features on."
        )


def _pooled(state: Tensor) -> Tensor:
    """The mean of (batch, ..., size) over all axes but the first and the last."""
    return state.reshape(len(state), -1, state.shape[-1]).mean(dim=1)


def _count(standardised: Tensor, size: int) -> Tensor:
    """The number from 0 to `size` - 1 that was standardised over all of them, equally frequent."""
    return standardised * math.sqrt((size**2 - 1) / 12) + (size - 1) / 2


__all__ = ["RecursiveCorrection"]
