"""AL-RNN: a recurrent network of a few rectified and otherwise linear units, which reconstructs one system.

Source: Brenner, Hemmer, Monfared, Durstewitz, NeurIPS 2024, arXiv:2410.14240.
"""

from typing import Unpack

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils.generic import TransformersKwargs, can_return_tuple

from ...channel_scaling import ChannelScalingMixin
from ...checkpoint_safety import SafeLoadingMixin
from ...forecasting import ForecastMixin, ForecastOutput
from ...hub_card import HubCardMixin
from ...losses import loss_targets
from ...observations import last_observed, observed
from .configuration_alrnn import ALRNNConfig
from .forcing import Parameters, draw_parameters, lift, one_step_run, penalty, prediction_loss, synchronise
from .recurrence import forced_run, free_run

# Arguments of transformers' own that may travel through `forward`.
_PASSED_ON = {*TransformersKwargs.__annotations__, "return_dict", "use_cache"}


class ALRNNPreTrainedModel(SafeLoadingMixin, HubCardMixin, ChannelScalingMixin, PreTrainedModel):
    """What the backbone and its head share: configuration, initialisation, abilities."""

    config: ALRNNConfig
    config_class = ALRNNConfig
    base_model_prefix = "model"
    input_modalities = "time"
    main_input_name = "past_values"
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = False
    _no_split_modules = ["ALRNNModel"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ALRNNModel):
            for name, value in draw_parameters(self.config)._asdict().items():
                init.copy_(getattr(module, name), value[0])


class ALRNNModel(ALRNNPreTrainedModel):
    """The recurrence `z' = A z + W phi(z) + h`, started by L and kept on a window's observations."""

    def __init__(self, config: ALRNNConfig):
        super().__init__(config)
        units, channels = config.hidden_size, config.num_channels
        self.A = nn.Parameter(torch.empty(units))
        self.W = nn.Parameter(torch.empty(units, units))
        self.h = nn.Parameter(torch.empty(units))
        self.L = nn.Parameter(torch.empty(units - channels, channels))
        self.post_init()

    @property
    def stacked(self) -> Parameters:
        """The parameters as an ensemble of one, in at least float32."""
        return Parameters(
            *(
                each.to(torch.promote_types(each.dtype, torch.float32))[None]
                for each in (self.A, self.W, self.h, self.L)
            )
        )

    @can_return_tuple
    def forward(
        self,
        past_values: Tensor,
        past_observed_mask: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ForecastOutput:
        """Carry the state through the latest `warmup_length` steps of a window.

        It starts from the first of them, where unseen from the latest value before it, else from `loc`. At each later
        one what is seen is put in place.

        Args:
            past_values: (batch, time, channels), data units; NaN = unseen.
            past_observed_mask: boolean, same shape, True = seen.
        Returns: `last_hidden_state` (batch, steps, hidden_size), scaled: the states at the steps used;
            `loc` and `scale` (batch, 1, channels); on request `hidden_states`: the states as the observations
            alone would start them, and `last_hidden_state`.
        """
        unknown = sorted(kwargs.keys() - _PASSED_ON)
        if unknown:
            raise TypeError(f"forward takes no arguments {unknown}; see its docstring for those it takes.")
        self.check_window(past_values, past_observed_mask)
        seen = observed(past_values, past_observed_mask)
        values, seen = self._scaled_window(past_values, seen)
        return self.states_of(values, seen, keep=bool(self._wanted(kwargs)))

    def _wanted(self, kwargs: TransformersKwargs) -> bool | None:
        wanted = kwargs.get("output_hidden_states")
        return self.config.output_hidden_states if wanted is None else wanted

    def _scaled_window(self, past_values: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """The steps that are used, scaled, with an unseen start filled, and what is seen of them."""
        first = max(past_values.shape[1] - self.config.warmup_length, 0)
        values = self.to_scaled(past_values.masked_fill(~seen, 0.0)).masked_fill(~seen, 0.0)
        start = last_observed(values[:, : first + 1], seen[:, : first + 1])
        return torch.cat([start, values[:, first + 1 :]], dim=1), seen[:, first:]

    def states_of(self, values: Tensor, seen: Tensor, *, keep: bool = False) -> ForecastOutput:
        """Return the output of `forward` for scaled values (batch, time, channels), unseen ones 0 but for the first."""
        parameters = self.stacked
        lifted = lift(parameters.L, values[None])[0]
        states = synchronise(parameters, lifted[None], seen[None], num_relu_units=self.config.num_relu_units)[0]
        expanded = (len(values), 1, self.config.num_channels)
        return ForecastOutput(
            last_hidden_state=states,
            loc=self.loc.expand(expanded),
            scale=self.scale.expand(expanded),
            hidden_states=(lifted, states) if keep else None,
        )


class ALRNNForPrediction(ForecastMixin, ALRNNPreTrainedModel):
    """AL-RNN that is trained by teacher forcing and forecasts by free runs from a context's last state.

    Of a context it uses the latest `warmup_length` steps, and the latest value before them where the first is unseen.
    """

    def __init__(self, config: ALRNNConfig):
        super().__init__(config)
        self.model = ALRNNModel(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        past_values: Tensor,
        past_observed_mask: Tensor | None = None,
        future_values: Tensor | None = None,
        future_observed_mask: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ForecastOutput:
        """Forecast `prediction_length` steps by a free run; with `future_values`, also the teacher-forced loss.

        Args:
            past_values, past_observed_mask: as in `ALRNNModel.forward`.
            future_values: (batch, at most prediction_length, channels), data units; NaN = unseen.
            future_observed_mask: boolean, same shape; unseen targets neither count nor force.
        Returns: `prediction_outputs` (batch, prediction_length, channels) in data units, of a run that sees nothing
            of the future; `loss`, the mean squared error, in scaled units, of one-step predictions along the future
            with the observed units pulled to it at every `forcing_interval`-th step, plus the penalty. In
            training noise of `noise_std` is added to window and targets, from torch's own generator.
        """
        self.model.check_window(past_values, past_observed_mask)
        if future_values is not None and 0 in future_values.shape:
            raise ValueError(
                f"future_values must hold at least one step, found {tuple(future_values.shape)}; leave them out for a "
                "forecast alone."
            )
        noisy = self.training and self.config.noise_std > 0
        if noisy:
            noise = self.config.noise_std * self.model.scale
            past_values = past_values + noise * torch.randn_like(past_values)
        outputs = self.model(past_values, past_observed_mask, **kwargs | {"return_dict": True})
        state = outputs.last_hidden_state[:, -1]
        loss = None
        if future_values is not None:
            if noisy:
                future_values = future_values + noise * torch.randn_like(future_values)
            loss = self._loss(state, future_values, future_observed_mask)
        return ForecastOutput(
            loss=loss,
            prediction_outputs=self.read_out(self._run(state, self.config.prediction_length)),
            loc=outputs.loc,
            scale=outputs.scale,
            hidden_states=outputs.hidden_states,
        )

    def _loss(self, state: Tensor, future_values: Tensor, mask: Tensor | None) -> Tensor:
        block = state.new_empty(()).expand(len(state), self.config.prediction_length, self.config.num_channels)
        targets = loss_targets(
            block,
            self.model.to_scaled(future_values),
            mask,
            loc=self.model.loc,
            scale=self.model.scale,
            known=torch.ones_like(self.model.loc, dtype=torch.bool),
            normalize=False,
        )
        parameters = self.model.stacked
        values, seen = targets.values[None], targets.counted[None]
        run = one_step_run(parameters, state[None], values, seen, self.config)
        loss = prediction_loss(run.observed, values, seen)
        if self.config.regularization_weight > 0:
            loss = loss + penalty(parameters, self.config)
        return loss[0]

    def _run(self, state: Tensor, num_steps: int) -> Tensor:
        """States (batch, num_steps, units) after `state`, with derivatives."""
        A, W, h, _ = self.model.stacked
        nothing = state.new_zeros(()).expand(1, len(state), num_steps, self.config.num_channels)
        return forced_run(A, W, h, state[None], nothing, nothing, num_relu_units=self.config.num_relu_units).states[0]

    @torch.no_grad()
    def initial_state(self, past_values: Tensor, past_observed_mask: Tensor | None = None) -> Tensor:
        """Return the state (batch, hidden_size), scaled, at the last step of `past_values`, as `ALRNNModel` has it."""
        return self.model(past_values, past_observed_mask, return_dict=True).last_hidden_state[:, -1]

    @torch.no_grad()
    def free_run(self, initial_state: Tensor, num_steps: int) -> Tensor:
        """Return the `num_steps` states (batch, num_steps, hidden_size) after `initial_state` (batch, hidden_size)."""
        A, W, h, _ = self.model.stacked
        return free_run(A, W, h, initial_state[None], num_steps, num_relu_units=self.config.num_relu_units)[0]

    def read_out(self, states: Tensor) -> Tensor:
        """Return the channels (..., num_channels), data units, of states (..., units)."""
        return states[..., : self.config.num_channels] * self.model.scale + self.model.loc

    def _roll_out(self, values: Tensor, mask: Tensor, *, steps: int, **rest: object) -> Tensor:
        """One free run; the state goes on where a model of blocks would have to start anew."""
        state = self.initial_state(values, mask)
        A, W, h, _ = self.model.stacked
        config = self.config
        run = free_run(A, W, h, state[None], steps, num_relu_units=config.num_relu_units, num_units=config.num_channels)
        forecast = self.read_out(run[0]).to(values.dtype)
        lost = (~forecast.isfinite().all(dim=2, keepdim=True)).cumsum(dim=1) > 0
        return forecast.masked_fill(lost, torch.nan)


__all__ = ["ALRNNForPrediction", "ALRNNModel", "ALRNNPreTrainedModel"]
