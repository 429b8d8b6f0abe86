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
from ...checkpoint_safety import SafeLoadingMixin
from ...forecasting import ForecastMixin, ForecastOutput
from ...hub_card import HubCardMixin
from ...interpolation import fill_linear
from ...losses import MAX_LOSS_DEVIATION, mean_over
from ...observations import observed
from ...scaling import scale
from .closed_form import fit_specialists, windows_without_gaps
from .configuration_dynonet import DynoNetConfig
from .controller import Controller, Signals
from .decomposition import split_window
from .errors import ChannelLosses, SquaredErrors, squared_errors
from .initialization import init_part, set_uniform, set_zero
from .specialists import Specialist, build_specialist
from .workers import Workers

# Arguments of transformers' own that may travel through `forward`.
_PASSED_ON = {*TransformersKwargs.__annotations__, "return_dict", "use_cache"}


class DynoNetPreTrainedModel(SafeLoadingMixin, HubCardMixin, ChannelScalingMixin, PreTrainedModel):
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
        if torch.compiler.is_compiling() or seen.is_meta or not bool(seen.all()):
            z = fill_linear(z, seen)
        return (z * self.norm_weight + self.norm_bias).to(self.dtype), loc, spread

    def _forecast(
        self, values: Tensor, signals: Signals, *, relaxed: bool, keep: bool
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, H, C) of scaled windows, and the workers' hidden states if they are kept."""
        forecast, hidden = values.new_zeros(()), ()
        if self.specialists:
            each = torch.stack([specialist(values) for specialist in self.specialists], dim=3)
            forecast = (each * signals["mixture"][:, None]).sum(dim=3) if "mixture" in signals else each[..., 0]
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
    def without_gradient(self) -> frozenset[str]:
        """Names of the parameters that no forecast depends on: they say how workers learn, and learn by look-ahead."""
        heads = ("model.controller.training_signals.", "model.controller.input_noise.")
        return frozenset(name for name, _ in self.named_parameters() if name.startswith(heads))

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
        found = ForecastOutput(
            prediction_outputs=outputs.last_hidden_state * outputs.scale + outputs.loc,
            loc=outputs.loc,
            scale=outputs.scale,
            hidden_states=outputs.hidden_states,
            signals=outputs.signals if output_signals else None,
        )
        if future_values is not None:
            errors = self._compare(found, past_values, past_observed_mask, future_values, future_observed_mask)
            found.loss = mean_over(errors.values, errors.counted)
        return found

    def channel_losses(
        self,
        output: ForecastOutput,
        past_values: Tensor,
        future_values: Tensor,
        *,
        past_observed_mask: Tensor | None = None,
        future_observed_mask: Tensor | None = None,
    ) -> ChannelLosses:
        """Return the loss of each window and channel, for the output of `forward` on these windows."""
        errors = self._compare(output, past_values, past_observed_mask, future_values, future_observed_mask)
        counted = errors.counted.sum(dim=1)
        return ChannelLosses(errors.values.sum(dim=1) / counted.clamp(min=1), counted)

    def _compare(
        self,
        output: ForecastOutput,
        past_values: Tensor,
        past_observed_mask: Tensor | None,
        future_values: Tensor,
        future_observed_mask: Tensor | None,
    ) -> SquaredErrors:
        return squared_errors(
            output,
            past_values,
            observed(past_values, past_observed_mask),
            future_values,
            future_observed_mask,
            unit=None if self.config.normalize_loss else self.scale,
        )

    def fit_specialists(self, series: Iterable[ArrayLike], *, batch_size: int = 1024) -> None:
        """Set the specialists to their closed-form solution on all windows of series (channels, time), data units.

        Windows with gaps are left out. Errors count in each window's own scale, as with `normalize_loss`.
        Raises: ValueError if no window is left.
        """
        specialists = cast(Iterable[Specialist], self.model.specialists)
        fit_specialists(specialists, self._windows(series, batch_size))

    @torch.no_grad()
    def _windows(self, series: Iterable[ArrayLike], batch_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Past and future of every window without gaps, in its own scale, and the weight of its errors.

        A window counts no more than one whose future is `MAX_LOSS_DEVIATION` of its deviations away, as in the loss.
        """
        inner, length = self.model, self.config.context_length
        for each in series:
            values = torch.as_tensor(np.array(each), dtype=self.dtype, device=self.device).T
            for window in windows_without_gaps(values, length + self.config.prediction_length, batch_size):
                z, loc, spread = inner.scale_window(window[:, :length], None)
                future = (self.to_scaled(window[:, length:]) - loc) / spread
                distance = future.square().mean(dim=1, keepdim=True).sqrt()
                weight = (MAX_LOSS_DEVIATION / distance.clamp(min=MAX_LOSS_DEVIATION)).square()
                yield z, future * inner.norm_weight + inner.norm_bias, weight

    def signals(self, past_values: Tensor, past_observed_mask: Tensor | None = None) -> Signals:
        """Return what the controller says of windows, see `Controller.forward`, with derivatives."""
        return self.model.controller(self.model.scale_window(past_values, past_observed_mask)[0])


__all__ = ["DynoNetForPrediction", "DynoNetModel", "DynoNetPreTrainedModel"]
