"""The learner that follows the gradient of each revealed window."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from transformers import PreTrainedModel

from .drift import DriftMonitor
from .frozen import FrozenLearner
from .gradient_options import GradientOptions, choose_trainable
from .learner import OnlineLearner, Protocol, Window, below
from .optimizer_state import optimizer_tensors, restore_optimizer
from .replay import Reservoir
from .saving import describe_forecaster, rebuild_forecaster

LARGEST_GRADIENT = 1e18
"""The norm beyond which a gradient is not learnt: squares of it leave float32, and AdamW would stand still for good."""


class GradientLearner(OnlineLearner, kind="gradient"):
    """Train a copy of a forecaster by AdamW on each revealed window: online gradient descent, or with rehearsal.

    The copy, `forecaster`, is in eval mode. Where it has `learning()`, revealed windows are forwarded inside, replayed
    ones outside; where it has `after_optimizer_step`, that is called with `online=True`. A step whose loss is not
    finite, or whose gradient is longer than AdamW can square (`LARGEST_GRADIENT`), is left out and moves nothing; with
    a learning rate of 0 there are none. `drift` watches the loss that each revealed window had before it was learnt.

    Args:
        forecaster: any model of ours; the lengths are those of its configuration.
        options: how it learns.
        num_channels: of the series, needed by forecasters that take any number.
    Raises: ValueError if a pattern of `options.trainable` fits no parameter, on partial feedback with the immediate
        protocol, where nothing is partial, or if the number of channels is missing or not the forecaster's.
    Source: experience replay and DER++ of Buzzega et al., "Dark experience for general continual learning" (2020), in
        the setting of Pham et al., "Learning fast and slow for online time series forecasting" (2023).
    """

    def __init__(
        self,
        forecaster: PreTrainedModel,
        options: GradientOptions | None = None,
        protocol: Protocol = "delayed",
        *,
        num_channels: int | None = None,
    ):
        self.options = options or GradientOptions()
        config = cast(Any, forecaster.config)
        super().__init__(
            context_length=config.context_length,
            prediction_length=config.prediction_length,
            num_channels=_num_channels(config, num_channels),
            num_time_features=getattr(config, "num_time_features", 0),
            protocol=protocol,
        )
        if self.options.feedback == "partial" and protocol == "immediate":
            raise ValueError('feedback must be "complete" with the immediate protocol, found "partial"; change one.')
        self.forecaster = copy.deepcopy(forecaster).eval()
        self._device = self.forecaster.device
        self.drift = DriftMonitor()
        self._trained = choose_trainable(self.forecaster, self.options.trainable)
        self._optimizer = torch.optim.AdamW(
            self._trained, lr=self.options.learning_rate, weight_decay=self.options.weight_decay, fused=True
        )
        self._reservoir = None
        if self.options.rehearsal != "none":
            self._reservoir = Reservoir(
                self.options.buffer_size,
                context_length=self.context_length,
                prediction_length=self.prediction_length,
                num_channels=self.num_channels,
                num_time_features=self.num_time_features,
                with_outputs=self.options.rehearsal == "der++",
                seed=self.options.seed,
            )
        self._num_updates = self._num_rejected = 0
        self._triggers = _triggers(self.forecaster)
        self._num_triggers = [torch.zeros_like(each, dtype=torch.int64) for each in self._triggers]

    @property
    def num_triggers(self) -> Tensor:
        """How often each layer of a forecaster with a memory has asked for it, (layers,); empty for others."""
        return torch.cat(self._num_triggers) if self._num_triggers else torch.zeros(0, dtype=torch.int64)

    def statistics(self) -> dict[str, float]:
        """Return counts of steps, updates, steps that were left out, alarms, and the share of triggered layers."""
        found = super().statistics() | {
            "num_updates": float(self._num_updates),
            "num_rejected": float(self._num_rejected),
            "drift_alarms": float(self.drift.num_alarms),
        }
        if self._triggers:
            found["trigger_rate"] = float(self.num_triggers.float().mean()) / max(self._num_updates, 1)
        return found

    @torch.no_grad()
    def _forecast(self, window: Window) -> Tensor:
        return self.forecaster(**self._inputs(window)).prediction_outputs[0].cpu()

    def _learn(self, window: Window, future_values: Tensor, future_observed_mask: Tensor) -> None:
        if self.options.learning_rate:
            self._remember(window, future_values, self._update(window, future_values[None]))

    def _learn_delayed(self) -> None:
        if self.options.feedback == "complete":
            super()._learn_delayed()
        else:
            self._learn_partial()

    def _learn_partial(self) -> None:
        """Learn from the windows of which the latest step is a target, the oldest first; remember the completed one."""
        horizon, count = self.prediction_length, self._num_open()
        if count < 1 or not self.options.learning_rate:
            return
        window = self._windows(count)
        known = window.past_observed_mask.flatten(1).any(dim=1)
        latest = torch.from_numpy(self._values.latest(1))
        completed = torch.from_numpy(self._values.latest(horizon))
        first = _chosen(window, slice(1))
        is_remembered = count == horizon and bool(known[0]) and not completed.isnan().all()
        if latest.isnan().all():
            if self._reservoir is not None and is_remembered:
                self._remember(first, completed, self._forecast(first)[None])
        elif known.any():
            steps = torch.arange(count)
            targets = torch.full((count, horizon, self.num_channels), torch.nan)
            targets[steps, count - 1 - steps] = latest
            outputs = self._update(_chosen(window, known), targets[known])
            if is_remembered:
                self._remember(first, completed, outputs)

    def _update(self, window: Window, targets: Tensor) -> Tensor | None:
        """Learn targets (batch, H, C), NaN = not counted; return what was forecast of them, None if not learnt."""
        learning = getattr(self.forecaster, "learning", nullcontext)
        targets = targets.to(self._device)
        outputs = None
        for repetition in range(self.options.updates_per_step):
            moved = [(each, each.clone()) for each in getattr(self.forecaster, "moved_by_learning", ())]
            with learning():
                found = self.forecaster(**self._inputs(window), future_values=targets)
            if not self._step(self._add_replayed(found.loss)):
                for buffer, before in moved:
                    buffer.copy_(before)
                self._num_rejected += 1
                return outputs
            if not repetition:
                self.drift.update(found.loss.item())
            self._count_update()
            outputs = found.prediction_outputs.detach()
        return outputs

    def _step(self, loss: Tensor) -> bool:
        """Follow the loss's gradient, unless it leads out of the range of numbers; return whether that was done."""
        forecaster, longest = self.forecaster, self.options.max_grad_norm
        if not math.isfinite(loss.item()):
            return False
        loss.backward()
        norm = get_total_norm([each.grad for each in self._trained if each.grad is not None])
        is_usable = norm.item() <= LARGEST_GRADIENT
        if is_usable:
            if longest is not None:
                clip_grads_with_norm_(self._trained, longest, norm)
            self._optimizer.step()
            if hasattr(forecaster, "after_optimizer_step"):
                cast(Any, forecaster).after_optimizer_step(online=True)
        forecaster.zero_grad()
        return is_usable

    def _add_replayed(self, loss: Tensor) -> Tensor:
        if not self._reservoir:
            return loss
        drawn = self._reservoir.sample(self.options.num_replayed)
        replayed = self.forecaster(**{name: each.to(self._device) for name, each in drawn.tensors().items()}).loss
        # Outputs are held where targets are seen, so that the mean over both is the mean of the two losses.
        num_losses = 1 if drawn.outputs is None else 2
        return loss + num_losses * self.options.replay_weight * replayed

    def _count_update(self) -> None:
        self._num_updates += 1
        for count, trigger in zip(self._num_triggers, self._triggers, strict=True):
            count += trigger

    def _remember(self, window: Window, targets: Tensor, outputs: Tensor | None) -> None:
        """Offer the first of a batch of windows to the reservoir, with what was forecast; None if it was not learnt."""
        if self._reservoir is None or outputs is None:
            return
        tensors = {"past_values": window.past_values[0], "future_values": targets}
        if window.past_time_features is not None:
            tensors["past_time_features"] = window.past_time_features[0]
        self._reservoir.add(**tensors, outputs=outputs[0].cpu().masked_fill(targets.isnan(), torch.nan))

    def _inputs(self, window: Window) -> dict[str, Tensor]:
        inputs = {"past_values": window.past_values.to(self._device)}
        if window.past_time_features is not None:
            inputs["past_time_features"] = window.past_time_features.to(self._device)
        return inputs

    def _state(self) -> dict[str, Tensor]:
        state = {f"forecaster.{name}": tensor for name, tensor in self.forecaster.state_dict().items()}
        state |= {f"optimizer.{name}": tensor for name, tensor in optimizer_tensors(self._optimizer).items()}
        if self._reservoir is not None:
            state |= {f"reservoir.{name}": tensor for name, tensor in self._reservoir.state().items()}
        counts = torch.tensor([self._num_updates, self._num_rejected])
        return state | {"drift": self.drift.state(), "counts": counts, "num_triggers": self.num_triggers}

    def _load_state(self, state: dict[str, Tensor]) -> None:
        self.forecaster.load_state_dict(below("forecaster.", state))
        restore_optimizer(self._optimizer, below("optimizer.", state))
        if self._reservoir is not None:
            self._reservoir.load_state(below("reservoir.", state))
        self.drift.load_state(state["drift"])
        self._num_updates, self._num_rejected = state["counts"].tolist()
        lengths = [len(each) for each in self._num_triggers]
        self._num_triggers = [each.clone() for each in state["num_triggers"].split(lengths)] if lengths else []

    def _describe(self, folder: Path) -> dict[str, Any]:
        return {
            "forecaster": describe_forecaster(self.forecaster, folder),
            "options": asdict(self.options),
            "protocol": self.protocol,
            "num_channels": self.num_channels,
            "frozen": [name for name, each in self.forecaster.named_parameters() if not each.requires_grad],
        }

    @classmethod
    def _rebuild(cls, folder: Path, description: dict[str, Any]) -> Self:
        forecaster = cast(PreTrainedModel, rebuild_forecaster(folder, description["forecaster"]))
        for name in description["frozen"]:
            forecaster.get_parameter(name).requires_grad_(False)
        options = GradientOptions(**description["options"])
        return cls(forecaster, options, description["protocol"], num_channels=description["num_channels"])


def _chosen(windows: Window, rows: slice | Tensor) -> Window:
    """Some of a batch of windows."""
    past, features, mask = windows
    return Window(past[rows], None if features is None else features[rows], mask[rows])


def _num_channels(config: Any, asked: int | None) -> int:
    own = getattr(config, "num_channels", None)
    if (own is None and asked is None) or (own is not None and asked not in (None, own)):
        raise ValueError(
            f"num_channels must be the forecaster's, {'any number' if own is None else own}, found {asked}; "
            "give the series' number of channels, or another forecaster."
        )
    return cast(int, own or asked)


def _triggers(forecaster: PreTrainedModel) -> list[Tensor]:
    """Of a forecaster with a memory, the flags that say which layers are about to ask it."""
    calibrations = (bank.calibration for bank in getattr(forecaster, "banks", ()))
    return [each.averages.trigger for each in calibrations if each is not None and each.memory is not None]


__all__ = ["FrozenLearner", "GradientLearner", "GradientOptions"]
