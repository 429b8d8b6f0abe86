"""FSNet: a dilated convolutional network that calibrates itself by averages of its own gradients, and a memory of them.

Source of the architecture: Q. Pham, C. Liu, D. Sahoo, S. Hoi, "Learning Fast and Slow for Online Time Series
Forecasting", ICLR 2023. What differs from it stands in the configuration.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout
from transformers.utils.generic import TransformersKwargs, can_return_tuple

from ...forecasting import ForecastMixin, ForecastOutput, check_prediction_length, evaluating
from ...interpolation import fill_linear
from ...losses import loss_targets, mean_over, point_loss
from ...observations import observed
from .configuration_fsnet import FSNetConfig
from .network import DilatedNetwork
from .pretrained import FSNetPreTrainedModel

# Arguments of transformers' own that may travel through `forward`.
_PASSED_ON = {*TransformersKwargs.__annotations__, "return_dict", "use_cache"}


class FSNetModel(FSNetPreTrainedModel):
    """The network on windows in the series' scale."""

    def __init__(self, config: FSNetConfig):
        super().__init__(config)
        self.input_projection = nn.Linear(config.num_channels + config.num_time_features, config.hidden_size)
        self.network = DilatedNetwork(config)
        self._learns_online = False
        self.post_init()

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Let forwards in eval mode move the state of queries and memory, as in training, but without dropout."""
        before, self._learns_online = self._learns_online, True
        try:
            yield
        finally:
            self._learns_online = before

    @can_return_tuple
    def forward(
        self,
        past_values: Tensor,
        past_observed_mask: Tensor | None = None,
        *,
        past_time_features: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ForecastOutput:
        """Represent windows.

        State moves in training and inside `learning()` alone.

        Args:
            past_values: (batch, time, channels), data units; NaN = unseen. Of more than `context_length` steps the
                latest count, of fewer the earlier ones do as unseen. Gaps are filled by straight lines.
            past_observed_mask: boolean, same shape, True = seen.
            past_time_features: (batch, time, num_time_features) where the configuration asks for some.
        Returns: `last_hidden_state` (batch, representation_size); `loc` and `scale` (batch, 1, channels), data units:
            what the forecast is a multiple of; on request `hidden_states`: the embedded window and the output of every
            block but the last at the steps that count, (batch, steps, hidden_size).
        """
        unknown = sorted(kwargs.keys() - _PASSED_ON)
        if unknown:
            raise TypeError(f"forward takes no arguments {unknown}; see its docstring for those it takes.")
        values, level = self._window(past_values, past_observed_mask)
        features = self._time_features(past_time_features, past_values)
        embedded = self.input_projection(torch.cat([values, *features], dim=2).to(self.dtype))
        wanted = kwargs.get("output_hidden_states")
        keep = bool(self.config.output_hidden_states if wanted is None else wanted)
        found, outputs = self.network(embedded, learning=self.training or self._learns_online, keep=keep)
        scale = self.scale
        return ForecastOutput(
            last_hidden_state=found,
            loc=level * scale + self.loc,
            scale=scale.expand_as(level),
            hidden_states=(embedded, *outputs) if keep else None,
        )

    def _window(self, past_values: Tensor, past_observed_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """(batch, context_length, channels) in the series' scale, and the level (batch, 1, channels) taken from it."""
        self.check_window(past_values, past_observed_mask)
        length = self.config.context_length
        seen = observed(past_values, past_observed_mask)[:, -length:]
        values = self.to_scaled(past_values[:, -length:].masked_fill(~seen, 0.0))
        missing = length - values.shape[1]
        if missing:
            values, seen = (nn.functional.pad(each, (0, 0, missing, 0)) for each in (values, seen))
        if torch.compiler.is_compiling() or seen.is_meta or not bool(seen.all()):
            values = fill_linear(values, seen)
        level = values[:, -1:] if self.config.anchor == "last" else torch.zeros_like(values[:, :1])
        return values - level, level

    def _time_features(self, features: Tensor | None, past_values: Tensor) -> list[Tensor]:
        """Those of the window's steps, if the configuration asks for some; the first step's before the window."""
        expected = (*past_values.shape[:2], self.config.num_time_features)
        if (0 if features is None else features.shape[-1]) != expected[2] or (
            features is not None and features.shape != expected
        ):
            raise ValueError(
                f"past_time_features must have shape {expected}, num_time_features of each step of past_values, found "
                f"{None if features is None else tuple(features.shape)}; give those that the model was trained with."
            )
        if features is None:
            return []
        features = features[:, -self.config.context_length :]
        missing = self.config.context_length - features.shape[1]
        return [torch.cat([features[:, :1].expand(-1, missing, -1), features], dim=1)]


class FSNetForPrediction(ForecastMixin, FSNetPreTrainedModel):
    """A member of the FSNet family that forecasts in the data's own units, block by block beyond `prediction_length`.

    Online state (averages of gradients, queries, memory) is in its buffers, and so in every checkpoint.
    """

    def __init__(self, config: FSNetConfig):
        super().__init__(config)
        self.model = FSNetModel(config)
        self.head = nn.Linear(config.representation_size, config.prediction_length * config.num_channels)
        self.post_init()

    @property
    def max_context_length(self) -> int:
        """Of a context the latest `context_length` steps are used."""
        return self.config.context_length

    def learning(self) -> AbstractContextManager[None]:
        """Let forwards in eval mode inside the context move the state, see `FSNetModel.learning`."""
        return self.model.learning()

    @can_return_tuple
    def forward(
        self,
        past_values: Tensor,
        past_observed_mask: Tensor | None = None,
        future_values: Tensor | None = None,
        future_observed_mask: Tensor | None = None,
        *,
        past_time_features: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ForecastOutput:
        """Forecast `prediction_length` steps; with `future_values`, also the loss.

        Args:
            past_values, past_observed_mask, past_time_features: as in `FSNetModel.forward`.
            future_values: (batch, at most prediction_length, channels), data units; NaN = unseen.
            future_observed_mask: boolean, same shape; unseen targets do not count.
        Returns: `prediction_outputs` (batch, prediction_length, channels) in data units; `loss`, the mean squared error
            in the series' scale; `last_hidden_state`, `loc`, `scale`; on request `hidden_states`.
        """
        options = kwargs | {"past_time_features": past_time_features, "return_dict": True}
        found = self.model(past_values, past_observed_mask, **options)
        represented = dropout(found.last_hidden_state, self.config.head_dropout, self.training)
        found.prediction_outputs = self.forecast_from_hidden(represented, found.loc, found.scale)
        if future_values is not None:
            targets = loss_targets(
                found.prediction_outputs,
                future_values,
                future_observed_mask,
                loc=found.loc,
                scale=found.scale,
                known=observed(past_values, past_observed_mask).any(dim=1, keepdim=True),
                normalize=False,
            )
            targets = targets._replace(unit=found.scale)
            losses = point_loss(found.prediction_outputs, targets, kind="mse", huber_delta=1.0)
            found.loss = mean_over(losses, targets.counted)
        return found

    def forecast_from_hidden(self, hidden: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        """Return what the head forecasts, (batch, prediction_length, channels) in data units.

        Args:
            hidden: (batch, representation_size), a `last_hidden_state`, or one that was moved.
            loc, scale: (batch, 1, channels), those of the same window, as `FSNetModel.forward` returns them.
        """
        changes = self.head(hidden).unflatten(1, (-1, self.config.num_channels))
        return changes.to(loc.dtype) * scale + loc

    @torch.no_grad()
    def forecast(
        self,
        past_values: Tensor,
        *,
        prediction_length: int,
        past_observed_mask: Tensor | None = None,
        past_time_features: Tensor | None = None,
        growing_context: bool = False,
    ) -> Tensor:
        """Continue `past_values` as `ForecastMixin.forecast` says.

        past_time_features: (batch, time, num_time_features) for a model that asks for some, which then forecasts one
            block at most: the features of the steps beyond are not known to it.
        Raises: ValueError also if they are not finite, or if nothing is seen in the last `context_length` steps.
        """
        if not self.config.num_time_features and past_time_features is None:
            return super().forecast(
                past_values,
                prediction_length=prediction_length,
                past_observed_mask=past_observed_mask,
                growing_context=growing_context,
            )
        if check_prediction_length(prediction_length) > self.config.prediction_length:
            raise ValueError(
                f"prediction_length must be at most {self.config.prediction_length} for a model with time features, "
                f"found {prediction_length}; train one with a longer prediction_length, or without time features."
            )
        values, mask = self._check_context(past_values, past_observed_mask)
        features = None if past_time_features is None else past_time_features.to(values)
        if features is not None and not bool(features.isfinite().all()):
            raise ValueError(
                f"past_time_features must be finite, found {int((~features.isfinite()).sum())} numbers that are not; "
                "they must be known at every step."
            )
        with evaluating(self):
            found = self(values, mask, past_time_features=features).prediction_outputs
        return found[:, :prediction_length].to(past_values)

    def _check_context(self, past_values: Tensor, past_observed_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        values, mask = super()._check_context(past_values, past_observed_mask)
        length = self.config.context_length
        empty = (~mask[:, -length:].flatten(1).any(dim=1)).nonzero().flatten().tolist()
        if empty:
            raise ValueError(
                f"the last {length} steps of past_values must hold a seen value, found none at batch index {empty[:5]}"
                "; earlier steps are not read: fill the gap, or train a model of longer contexts."
            )
        return values, mask


__all__ = ["FSNetForPrediction", "FSNetModel", "FSNetPreTrainedModel"]
