"""The Trainer of a controller and its workers, both of which take a step in each training step.

The workers' step: the signals of the training batch enter as numbers, without derivatives. Losses are multiplied by
`loss_weight` window by window and channel by channel, each channel's gradient is clipped at the batch's mean
`grad_clip`, and Adam's step of each channel is multiplied by the mean `lr_scale`, its weight decay by the mean
`wd_scale`; a channel stays where it is for the step with the mean `freeze_prob`. `dropout_rate` and `input_noise` act
in the model. What channels share (trend head, mixer, norms, specialists) has plain steps on the same loss.

The controller's step: the gradient of the plain loss on windows of the meta split, without dropout or noise, either
after a smooth step of the workers (`training.lookahead`) or at the weights as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from hf_tsdyn.data.draws import uniforms
from hf_tsdyn.data.windows import RandomWindows
from training.bilevel_optimizer import AdamStep, ChannelAdamW
from training.bilevel_options import BilevelOptions
from training.lookahead import (
    channel_rates,
    chosen,
    clip_channels,
    clip_together,
    controller_gradients,
    gradients_of,
    look_ahead,
    mean_loss,
    parameter_roles,
)
from training.signal_log import NUM_LOGGED_WINDOWS, SIGNALS_FILE, SignalLog
from training.window_trainer import WindowTrainer

Batch = dict[str, Tensor]

_HYPERGRADIENT_EPSILON = 1e-15
"""Of Adam: the hypergradients of some signals are below the usual 1e-8, which would keep these from moving."""


class BilevelTrainer(WindowTrainer):
    """Trainer of models with `signals` and `channel_losses`, such as DynoNet, by one AdamW with groups of parameters.

    Args:
        meta_windows: of the meta split; None in the mode "none", which has no such split.
    """

    def __init__(self, *, options: BilevelOptions, meta_windows: RandomWindows | None, **arguments: Any):
        super().__init__(**arguments)
        self.options = options
        self.meta_windows = meta_windows
        network: Any = self.model
        self.network = network
        if options.controller_learning_rate == 0:
            network.model.controller.requires_grad_(False)
        self.roles = parameter_roles(network)
        self.signal_log = SignalLog(Path(str(self.args.output_dir)) / SIGNALS_FILE, self._logged_signals)
        windows = cast(RandomWindows, self.train_dataset)
        self._logged_windows = windows.__getitems__(range(min(NUM_LOGGED_WINDOWS, len(windows))))

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Set up AdamW with the workers, what they share, and the controller at rates of its own."""
        if self.optimizer is None:
            arguments, options = self.args, self.options
            own = {"lr": options.controller_learning_rate, "weight_decay": options.controller_weight_decay}
            if options.mode == "lookahead":
                own["eps"] = _HYPERGRADIENT_EPSILON
            plain = {"weight_decay": arguments.weight_decay}
            groups = [
                {"params": list(self.roles.workers.values()), "per_channel": True, **plain},
                *self._groups(self.roles.shared, plain),
                *self._groups(self.roles.controller, own),
            ]
            self.optimizer = self._adam = ChannelAdamW(
                [group for group in groups if group["params"]],
                lr=arguments.learning_rate,
                betas=(arguments.adam_beta1, arguments.adam_beta2),
                eps=arguments.adam_epsilon,
            )
        return self.optimizer

    def _groups(self, parameters: Mapping[str, Tensor], settings: dict[str, float]) -> list[dict[str, Any]]:
        """One group with weight decay, one of biases and norms without."""
        decayed = set(self.get_decay_parameter_names(self.network))
        kinds = {name: name in decayed and each.ndim > 1 for name, each in parameters.items()}
        return [
            {"params": [each for name, each in parameters.items() if kinds[name] is kind], **settings | own}
            for kind, own in ((True, {}), (False, {"weight_decay": 0.0}))
        ]

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Leave each parameter's gradient for one step on a batch, and return the loss that the workers learn from."""
        batch = self._prepare_inputs(inputs)
        if self.state.global_step == 0:
            self.signal_log.record(0)
        model.train()
        with self.compute_loss_context_manager():
            loss = self._joint_gradients(batch) if self.options.mode == "none" else self._bilevel_gradients(batch)
        return self.check_finite(loss)

    def _joint_gradients(self, batch: Batch) -> Tensor:
        signals = self._signals(batch)
        idle = {name: torch.zeros_like(signals[name]) for name in ("dropout_rate", "input_noise") if name in signals}
        loss = mean_loss(self.network, batch, signals=signals | idle)
        loss.backward()
        return loss.detach()

    def _bilevel_gradients(self, batch: Batch) -> Tensor:
        controller_learns = self.roles.controller and self.state.global_step % self.options.controller_interval == 0
        with torch.set_grad_enabled(bool(controller_learns) and self.options.mode == "lookahead"):
            signals = self._signals(batch)
        fixed = {name: signal.detach() for name, signal in signals.items()}
        loss = mean_loss(self.network, batch, signals=fixed, weighted=True)
        self._set_learners_gradients(loss, fixed)
        if controller_learns:
            self._set_controller_gradients(batch, signals)
        return loss.detach()

    def _set_learners_gradients(self, loss: Tensor, signals: Mapping[str, Tensor]) -> None:
        gradients = gradients_of(loss, self.roles.learners)
        self._gradient_norm = nn.utils.get_total_norm(gradients.values())
        clipped = clip_together(chosen(gradients, self.roles.shared), self.args.max_grad_norm)
        if self.roles.workers:
            clipped |= clip_channels(chosen(gradients, self.roles.workers), signals["grad_clip"].mean(0))
            self._adam.channel_rates = channel_rates(signals, 1 - self._draw_frozen(signals["freeze_prob"].mean(0)))
        _set_gradients(self.roles.learners, clipped)

    def _draw_frozen(self, probabilities: Tensor) -> Tensor:
        """1 for each channel that does not move in this step, (C,), a function of seed and step."""
        count = len(probabilities)
        indices = np.arange(count) + self.state.global_step * count
        draws = torch.from_numpy(uniforms(self.args.seed, "freeze", indices))
        return (draws.to(probabilities) < probabilities).to(probabilities.dtype)

    def _set_controller_gradients(self, batch: Batch, signals: Mapping[str, Tensor]) -> None:
        network, roles, limit = self.network, self.roles, self.args.max_grad_norm
        if self.options.mode == "lookahead":
            leaves = {name: each.detach().requires_grad_() for name, each in signals.items() if each.requires_grad}
            steps, used = self._next_steps(), {**signals, **leaves}
            ahead = look_ahead(network, batch, used, roles=roles, steps=steps, max_grad_norm=limit)
            gradients = controller_gradients(self._meta_loss(ahead), roles.controller, signals, leaves)
        else:
            gradients = gradients_of(self._meta_loss(), roles.controller)
        _set_gradients(roles.controller, clip_together(gradients, limit))

    def _meta_loss(self, parameters: dict[str, Tensor] | None = None) -> Tensor:
        """The loss on the meta batch of this step, of the network with these parameters in place of its own."""
        self.network.eval()
        loss = mean_loss(self.network, self._meta_batch(), parameters=parameters)
        self.network.train()
        return loss

    def _next_steps(self) -> dict[str, AdamStep]:
        """The step that each parameter with a gradient is about to take, by name."""
        names = {parameter: name for name, parameter in self.roles.learners.items() if parameter.grad is not None}
        return {
            names[parameter]: self._adam.preview(group, parameter)
            for group in self._adam.param_groups
            for parameter in group["params"]
            if parameter in names
        }

    def _meta_batch(self) -> Batch:
        windows, step = cast(RandomWindows, self.meta_windows), self.state.global_step
        size = self.options.meta_batch_size or self._train_batch_size
        return self._prepare_inputs(windows.__getitems__(range(step * size, (step + 1) * size)))

    def _signals(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.network.signals(batch["past_values"], batch.get("past_observed_mask"))

    @torch.no_grad()
    def _logged_signals(self) -> dict[str, Tensor]:
        with self.compute_loss_context_manager():
            return self._signals(self._prepare_inputs(self._logged_windows))

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        return super()._clip_grad_norm(model) if self.options.mode == "none" else self._gradient_norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, and with it the signals of the step."""
        super().log(logs, start_time)
        if self.is_in_train:
            self.signal_log.record(self.state.global_step)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.signal_log.write()
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.signal_log.resume(int(Path(resume_from_checkpoint).name.split("-")[1]))

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as the Trainer does, and write the signals."""
        output = super().train(*args, **kwargs)
        self.signal_log.write()
        return output


def _set_gradients(parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> None:
    for name, gradient in gradients.items():
        parameters[name].grad = gradient
