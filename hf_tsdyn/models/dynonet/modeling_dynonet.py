"""DynoNet: a controller that reads the window and modulates one tiny recurrent forecaster a channel.

Source of the architecture: K. Vu, DynoNet, 2025. What differs from it stands in the configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Unpack, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils.generic import TransformersKwargs, can_return_tuple

from ...channel_scaling import ChannelScalingMixin
from ...forecasting import ForecastMixin, ForecastOutput
from ...interpolation import fill_linear
from ...losses import LossTargets, loss_targets, mean_over
from ...observations import observed
from ...scaling import scale
from .closed_form import fit_specialists
from .configuration_dynonet import DynoNetConfig
from .controller import Controller, Signals
from .decomposition import split_window
from .initialization import init_part, set_uniform, set_zero
from .specialists import Specialist, build_specialist
from .workers import Workers

# Arguments of transformers' own that may travel through `forward`.
_PASSED_ON = {*TransformersKwargs.__annotations__, "return_dict", "use_cache"}


class DynoNetPreTrainedModel(ChannelScalingMixin, PreTrainedModel):
    """What the backbone and its head share: configuration, initialisation, abilities."""

    config: DynoNetConfig
    config_class = DynoNetConfig
    base_model_prefix = "model"
    input_modalities = "time"
    main_input_name = "past_values"
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = False
    _no_split_modules = ["DynoNetModel"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, DynoNetModel):
            init.ones_(module.norm_weight)
            init.zeros_(module.norm_bias)
            if module.mixer is not None:
                set_uniform(module.mixer[0], fan_in=self.config.num_channels)
                set_zero(module.mixer[-1])
        else:
            init_part(module, self.config)


class DynoNetModel(DynoNetPreTrainedModel):
    """The network on a window in its own scale: specialists or trend head, workers, channel mixer, controller."""

    def __init__(self, config: DynoNetConfig):
        super().__init__(config)
        channels = config.num_channels
        self.norm_weight = nn.Parameter(torch.empty(channels))
        self.norm_bias = nn.Parameter(torch.empty(channels))
        self.controller = Controller(config)
        self.specialists = nn.ModuleList(build_specialist(config, options) for options in config.specialists or ())
        self.trend_head = nn.Linear(config.context_length, config.prediction_length) if config.trend_head else None
        self.workers = Workers(config) if config.num_worker_layers else None
        self.mixer = None
        if config.channel_mixer:
            hidden = nn.Linear(channels, 4 * channels)
            self.mixer = nn.Sequential(
                hidden, nn.GELU(), nn.Dropout(config.mixer_dropout), nn.Linear(4 * channels, channels)
            )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        past_values: Tensor,
        past_observed_mask: Tensor | None = None,
        *,
        signals: Mapping[str, Tensor] | None = None,
        relaxed: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ForecastOutput:
        """Forecast in each window's own scale.

        Args:
            past_values: (batch, time, channels), data units; NaN = unseen. Of more than `context_length` steps the
                latest count, of fewer the earlier ones do as unseen. Gaps are filled by straight lines.
            past_observed_mask: boolean, same shape, True = seen.
            signals: used in place of the controller's, see `Controller.forward`.
            relaxed: in training, let dropout and noise carry derivatives to the signals they come from, see
                `Workers.forward`.
        Returns: `last_hidden_state` (batch, prediction_length, channels): the forecast, in each window's standard
            deviations from its mean; `loc` and `scale` (batch, 1, channels), data units; `signals`; on request
            `hidden_states`: the workers' embedded input and what each of their layers puts out, (batch, channels,
            steps, worker_hidden_size).
        """
        unknown = sorted(kwargs.keys() - _PASSED_ON)
        if unknown:
            raise TypeError(f"forward takes no arguments {unknown}; see its docstring for those it takes.")
        values, loc, spread = self.scale_window(past_values, past_observed_mask)
        wanted = kwargs.get("output_hidden_states")
        keep = bool(self.config.output_hidden_states if wanted is None else wanted)
        used: Signals = self.controller(values) if signals is None else dict(signals)
        forecast, hidden = self._forecast(values, used, relaxed=relaxed, keep=keep)
        return ForecastOutput(
            last_hidden_state=(forecast.to(loc.dtype) - self.norm_bias) / (self.norm_weight + 1e-10),
            loc=loc * self.scale + self.loc,
            scale=spread * self.scale,
            signals=used,
            hidden_states=hidden if keep else None,
        )

    def scale_window(self, past_values: Tensor, past_observed_mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the window (batch, context_length, channels) that the network reads, and mean and standard deviation.

        The first in the window's own scale and the network's precision; these (batch, 1, channels), in the series'.
        """
        self.check_window(past_values, past_observed_mask)
        config = self.config
        seen = observed(past_values, past_observed_mask)[:, -config.context_length :]
        past_values = past_values[:, -config.context_length :]
        values = self.to_scaled(past_values.masked_fill(~seen, 0.0))
        missing = config.context_length - values.shape[1]
        if missing:
            values, seen = (nn.functional.pad(each, (0, 0, missing, 0)) for each in (values, seen))
        z, loc, spread = scale(values, seen, epsilon=config.scaling_epsilon, relative=config.relative_scaling_epsilon)
        if torch.compiler.is_compiling() or not bool(seen.all()):
            z = fill_linear(z, seen)
        return (z * self.norm_weight + self.norm_bias).to(self.dtype), loc, spread

    def _forecast(
        self, values: Tensor, signals: Signals, *, relaxed: bool, keep: bool
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, H, C) of scaled windows, and the workers' hidden states if they are kept."""
        forecast, hidden = values.new_zeros(()), ()
        if self.specialists:
            each = torch.stack([specialist(values) for specialist in self.specialists], dim=3)
            forecast = (each * signals["mixture"][:, None]).sum(dim=3)
        if self.trend_head is not None or self.workers is not None:
            trend, residual = split_window(
                self._add_noise(values, signals, relaxed=relaxed),
                self.config.trend_window,
                residual_length=self.config.worker_context_length if self.workers is not None else 0,
                trend_map=None if self.trend_head is None else self.trend_head.weight,
            )
            if self.trend_head is not None and trend is not None:
                forecast = forecast + (trend + self.trend_head.bias[:, None])
            if self.workers is not None:
                correction, hidden = self.workers(residual, signals, relaxed=relaxed, keep=keep)
                forecast = forecast + correction
        if self.mixer is not None:
            forecast = forecast + self.mixer(forecast)
        return forecast, hidden

    def _add_noise(self, values: Tensor, signals: Signals, *, relaxed: bool) -> Tensor:
        """Values with the controller's noise, in training; it is a shift or drawn for each."""
        if not self.training or "input_noise" not in signals:
            return values
        noise = signals["input_noise"][:, None].to(values.dtype)
        noise = noise if relaxed else noise.detach()
        return values + (noise if self.config.input_noise == "shift" else noise * torch.randn_like(values))


class DynoNetForPrediction(ForecastMixin, DynoNetPreTrainedModel):
    """DynoNet that forecasts in the data's own units, block by block beyond `prediction_length`."""

    def __init__(self, config: DynoNetConfig):
        super().__init__(config)
        self.model = DynoNetModel(config)
        self.post_init()

    @property
    def max_context_length(self) -> int:
        """Of a context the latest `context_length` steps are used."""
        return self.config.context_length

    @property
    def hypergradient_only(self) -> frozenset[str]:
        """Names of the parameters that no forecast depends on: they say how workers learn, and learn by look-ahead."""
        controller = self.model.controller
        heads = ("training_signals", "input_noise") if self.config.num_worker_layers else ()
        names = (
            f"model.controller.{head}.{name}"
            for head in heads
            for name, _ in getattr(controller, head).named_parameters()
        )
        return frozenset(names)

    @can_return_tuple
    def forward(
        self,
        past_values: Tensor,
        past_observed_mask: Tensor | None = None,
        future_values: Tensor | None = None,
        future_observed_mask: Tensor | None = None,
        *,
        signals: Mapping[str, Tensor] | None = None,
        relaxed: bool = False,
        output_signals: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ForecastOutput:
        """Forecast `prediction_length` steps; with `future_values`, also the loss.

        Args:
            past_values, past_observed_mask, signals, relaxed: as in `DynoNetModel.forward`.
            future_values: (batch, at most prediction_length, channels), data units; NaN = unseen.
            future_observed_mask: boolean, same shape; unseen targets do not count.
            output_signals: also return the controller's signals.
        Returns: `prediction_outputs` (batch, prediction_length, channels) in data units; `loss`, the mean squared error
            in the series' scale (with `normalize_loss` in each window's); `loc`, `scale`; on request `hidden_states`,
            as in `DynoNetModel.forward`, and `signals`, as in `Controller.forward`.
        """
        options = kwargs | {"signals": signals, "relaxed": relaxed, "return_dict": True}
        outputs = self.model(past_values, past_observed_mask, **options)
        prediction = outputs.last_hidden_state * outputs.scale + outputs.loc
        loss = None
        if future_values is not None:
            targets = self._targets(outputs, past_values, past_observed_mask, future_values, future_observed_mask)
            loss = mean_over(self._errors(prediction, targets).square(), targets.counted)
        return ForecastOutput(
            loss=loss,
            prediction_outputs=prediction,
            loc=outputs.loc,
            scale=outputs.scale,
            hidden_states=outputs.hidden_states,
            signals=outputs.signals if output_signals else None,
        )

    def channel_losses(
        self,
        output: ForecastOutput,
        past_values: Tensor,
        future_values: Tensor,
        *,
        past_observed_mask: Tensor | None = None,
        future_observed_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the mean squared error over the horizon of each window and channel, (batch, channels), as the loss is.

        output: of `forward` on these windows; channels of which no target is seen have 0.
        """
        targets = self._targets(output, past_values, past_observed_mask, future_values, future_observed_mask)
        squared = self._errors(cast(Tensor, output.prediction_outputs), targets).square()
        return squared.sum(dim=1) / targets.counted.sum(dim=1).clamp(min=1)

    def _targets(
        self,
        output: ForecastOutput,
        past_values: Tensor,
        past_observed_mask: Tensor | None,
        future_values: Tensor,
        future_observed_mask: Tensor | None,
    ) -> LossTargets:
        known = observed(past_values, past_observed_mask).any(dim=1, keepdim=True)
        loc, spread = cast(Tensor, output.loc), cast(Tensor, output.scale)
        targets = loss_targets(
            spread.new_empty(len(past_values), self.config.prediction_length, self.config.num_channels),
            future_values,
            future_observed_mask,
            loc=loc,
            scale=spread,
            known=known,
            normalize=self.config.normalize_loss,
        )
        return targets if self.config.normalize_loss else targets._replace(unit=self.scale.expand_as(targets.unit))

    def _errors(self, prediction: Tensor, targets: LossTargets) -> Tensor:
        """(batch, steps, channels) in the loss's units, 0 where a target does not count."""
        error = (prediction[:, : targets.values.shape[1]] - targets.values) / targets.unit
        return error.masked_fill(~targets.counted, 0.0)

    def fit_specialists(self, series: Iterable[ArrayLike], *, batch_size: int = 1024) -> None:
        """Set the specialists to their closed-form solution on all windows of series (channels, time), data units.

        Windows with gaps are left out. Errors count in each window's own scale.
        Raises: ValueError if no window is left.
        """
        specialists = cast(Iterable[Specialist], self.model.specialists)
        fit_specialists(specialists, self._windows(series, batch_size))

    @torch.no_grad()
    def _windows(self, series: Iterable[ArrayLike], batch_size: int) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Past and future of every window without gaps, in its own scale, with the weight of its errors."""
        length = self.config.context_length
        for each in series:
            values = torch.as_tensor(np.array(each), dtype=self.dtype, device=self.device).T
            windows = values.unfold(0, length + self.config.prediction_length, 1).transpose(1, 2)
            windows = windows[~windows.isnan().flatten(1).any(dim=1)]
            for batch in windows.split(batch_size):
                z, loc, spread = self.model.scale_window(batch[:, :length], None)
                yield z, (self.to_scaled(batch[:, length:]) - loc) / spread, 1.0

    def signals(self, past_values: Tensor, past_observed_mask: Tensor | None = None) -> Signals:
        """Return what the controller says of windows, see `Controller.forward`, with derivatives."""
        return self.model.controller(self.model.scale_window(past_values, past_observed_mask)[0])


__all__ = ["DynoNetForPrediction", "DynoNetModel", "DynoNetPreTrainedModel"]
