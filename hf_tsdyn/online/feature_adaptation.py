"""A frozen network whose last hidden state is corrected by a small adapter, the only part that learns online."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn.utils import get_total_norm, skip_init
from transformers import PreTrainedModel

from ..forecasting import evaluating
from .gradient import LARGEST_GRADIENT
from .learner import OnlineLearner, Protocol, Window, below
from .optimizer_state import optimizer_tensors, restore_optimizer
from .saving import describe_forecaster, rebuild_forecaster, with_state


@dataclass(frozen=True)
class FeatureAdaptationOptions:
    """How the adapter of a `FeatureAdaptation` learns.

    Args:
        learning_rate, weight_decay: of AdamW; a rate of 0 learns nothing.
        adapter_size: units of the adapter's hidden layer.
        num_windows: revealed windows that are remembered: their gradients are averaged, and one step of AdamW follows
            their mean loss after each revealed window.
        seed: of the adapter's first layer.
    Raises: ValueError on values out of range.
    """

    learning_rate: float = 3e-5
    weight_decay: float = 0.01
    adapter_size: int = 64
    num_windows: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and at least 0, found {getattr(self, name)}; change it.")
        for name in ("adapter_size", "num_windows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}; raise it.")


class Revealed(NamedTuple):
    """Windows whose targets are known, the oldest first.

    hidden: (windows, R), what the network made of their contexts. signal: (windows, R), the gradients that were known
        when they were forecast. targets: (windows, H * C), in the head's units, NaN = not counted.
    """

    hidden: Tensor
    signal: Tensor
    targets: Tensor


class FeatureAdaptation(OnlineLearner, kind="feature_adaptation"):
    """Forecast with a frozen network's head from z + A(z, g): its hidden state, moved by an adapter that learns.

    g is the mean, over the latest revealed windows i, of dLoss_i / dz_i: by how much, and where to, the network's own
    hidden states should have moved. The loss is the squared error of the frozen network, averaged over the targets that
    are seen, in the series' scale; g is multiplied by H C / 2 over the head's typical column (root mean square length),
    which makes it about as large as the errors are. The adapter, one hidden layer, returns 0 at first: the learner
    begins as the network.
    Each revealed window is learnt, beside those before it, from the g that was known when it was forecast.

    The network is held, not copied, and never changed; a state is loaded into a copy. A step whose gradient is longer
    than AdamW can square (`LARGEST_GRADIENT`), or is not finite, is left out together with its window.

    Args:
        forecaster: a model of ours of the FSNet family, or one like it: `forecaster.model` represents windows, with
            `last_hidden_state` (batch, R), `loc` and `scale`; `forecaster.head` is linear, R to H * C; and
            `forecaster.forecast_from_hidden(hidden, loc, scale)` turns that into data units.
        options: how it learns.
    Raises: TypeError on a forecaster without these parts.
    Source: ADAPT-Z of Huang et al., "Online time series prediction using feature adjustment", arXiv 2509.03810 (2025).
        The adapter here is not pre-trained offline; g is that of the frozen network.
    """

    def __init__(
        self,
        forecaster: PreTrainedModel,
        options: FeatureAdaptationOptions | None = None,
        protocol: Protocol = "delayed",
    ):
        self.options = options or FeatureAdaptationOptions()
        self.forecaster, config = _checked(forecaster), cast(Any, forecaster.config)
        super().__init__(
            context_length=config.context_length,
            prediction_length=config.prediction_length,
            num_channels=config.num_channels,
            num_time_features=config.num_time_features,
            protocol=protocol,
        )
        head, windows = self.forecaster.head, self.options.num_windows
        self._adapter = _adapter(head, self.options)
        self._trained = list(self._adapter.parameters())
        self._optimizer = torch.optim.AdamW(
            self._trained, lr=self.options.learning_rate, weight_decay=self.options.weight_decay, fused=True
        )
        nothing = head.weight.new_zeros(windows, head.in_features).detach()
        targets = head.weight.new_full((windows, head.out_features), torch.nan).detach()
        self._revealed = Revealed(nothing, nothing.clone(), targets)
        # What was known at the step that the window to be learnt ends at stands first, what is known now last.
        steps = self.prediction_length if protocol == "delayed" else 1
        self._signals = head.weight.new_zeros(steps, head.in_features).detach()
        self._num_updates = self._num_rejected = 0

    def learn_one(self, values: ArrayLike, time_features: ArrayLike | None = None) -> None:
        """Observe the next step and learn what it reveals, as `OnlineLearner.learn_one` says."""
        super().learn_one(values, time_features)
        self._signals = torch.cat([self._signals[1:], self._signal(self._revealed)])

    def statistics(self) -> dict[str, float]:
        """Return counts of steps, updates, and steps that were left out."""
        counts = {"num_updates": float(self._num_updates), "num_rejected": float(self._num_rejected)}
        return super().statistics() | counts

    @torch.no_grad()
    def _forecast(self, window: Window) -> Tensor:
        hidden, loc, scale = self._represented(window)
        moved = self._moved(hidden, self._signals[-1:])
        return self.forecaster.forecast_from_hidden(moved, loc, scale)[0].cpu()

    def _learn(self, window: Window, future_values: Tensor, future_observed_mask: Tensor) -> None:
        if not self.options.learning_rate:
            return
        hidden, loc, scale = self._represented(window)
        targets = ((future_values.to(loc) - loc) / scale).flatten(1).to(hidden)
        latest = (hidden, self._signals[:1], targets)
        kept = zip(self._revealed, latest, strict=True)
        revealed = Revealed(*(torch.cat([windows[1:], window]) for windows, window in kept))
        if self._step(revealed):
            self._revealed = revealed
            self._num_updates += 1
        else:
            self._num_rejected += 1

    def _step(self, revealed: Revealed) -> bool:
        """Follow the gradient of the windows' loss, where it is within the range of numbers; return whether it is."""
        errors = self.forecaster.head(self._moved(revealed.hidden, revealed.signal)) - revealed.targets
        loss = errors[~revealed.targets.isnan()].square().mean()
        loss.backward(inputs=self._trained)
        norm = get_total_norm([cast(Tensor, each.grad) for each in self._trained])
        is_usable = norm.item() <= LARGEST_GRADIENT
        if is_usable:
            self._optimizer.step()
        self._optimizer.zero_grad()
        return is_usable

    @torch.no_grad()
    def _signal(self, revealed: Revealed) -> Tensor:
        """The mean gradient of the frozen network's loss in its hidden state, (1, R); 0 before anything is revealed."""
        head = self.forecaster.head
        is_counted = ~revealed.targets.isnan()
        errors = (head(revealed.hidden) - revealed.targets).masked_fill(~is_counted, 0.0)
        gradients = 2 * (errors / is_counted.sum(dim=1, keepdim=True).clamp(min=1)) @ head.weight
        unit = head.weight.square().sum(dim=0).mean().sqrt().clamp(min=torch.finfo(head.weight.dtype).tiny)
        count = is_counted.any(dim=1).sum().clamp(min=1)
        return gradients.sum(dim=0, keepdim=True) * (head.out_features / 2 / unit / count)

    def _moved(self, hidden: Tensor, signal: Tensor) -> Tensor:
        return hidden + self._adapter(torch.cat([hidden, signal], dim=1))

    @torch.no_grad()
    def _represented(self, window: Window) -> tuple[Tensor, Tensor, Tensor]:
        """A window's hidden state, (1, R), and what its forecast is a multiple of, (1, 1, C) both."""
        device, features = self.forecaster.device, window.past_time_features
        known = {} if features is None else {"past_time_features": features.to(device)}
        with evaluating(self.forecaster):
            found = self.forecaster.model(window.past_values.to(device), **known)
        return found.last_hidden_state, found.loc, found.scale

    def _state(self) -> dict[str, Tensor]:
        parts = {
            "forecaster": self.forecaster.state_dict(),
            "adapter": self._adapter.state_dict(),
            "optimizer": optimizer_tensors(self._optimizer),
            "revealed": self._revealed._asdict(),
        }
        state = {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}
        return state | {"signals": self._signals, "counts": torch.tensor([self._num_updates, self._num_rejected])}

    def _load_state(self, state: dict[str, Tensor]) -> None:
        self.forecaster = with_state(self.forecaster, below("forecaster.", state))
        self._adapter.load_state_dict(below("adapter.", state))
        restore_optimizer(self._optimizer, below("optimizer.", state))
        device = self._signals.device
        revealed = below("revealed.", state)
        self._revealed = Revealed(**{name: revealed[name].to(device, copy=True) for name in Revealed._fields})
        self._signals = state["signals"].to(device, copy=True)
        self._num_updates, self._num_rejected = state["counts"].tolist()

    def _describe(self, folder: Path) -> dict[str, Any]:
        described = describe_forecaster(self.forecaster, folder)
        return {"forecaster": described, "options": asdict(self.options), "protocol": self.protocol}

    @classmethod
    def _rebuild(cls, folder: Path, description: dict[str, Any]) -> Self:
        forecaster = cast(PreTrainedModel, rebuild_forecaster(folder, description["forecaster"]))
        return cls(forecaster, FeatureAdaptationOptions(**description["options"]), description["protocol"])


def _checked(forecaster: Any) -> Any:
    head = getattr(forecaster, "head", None)
    if not isinstance(head, nn.Linear) or not hasattr(forecaster, "forecast_from_hidden"):
        raise TypeError(
            "forecaster must have a linear head on its last hidden state, and forecast_from_hidden, found "
            f"{type(forecaster).__name__} without; take a model of the FSNet family, or another learner."
        )
    return forecaster


def _adapter(head: nn.Linear, options: FeatureAdaptationOptions) -> nn.Sequential:
    """From hidden state and gradient, (batch, 2 R), to a change of the hidden state, (batch, R), at first 0."""
    placed: dict[str, Any] = {"dtype": head.weight.dtype, "device": head.weight.device}
    first = skip_init(nn.Linear, 2 * head.in_features, options.adapter_size, **placed)
    last = skip_init(nn.Linear, options.adapter_size, head.in_features, **placed)
    bound = 1 / math.sqrt(2 * head.in_features)
    generator = torch.Generator().manual_seed(options.seed)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))
        for parameter in last.parameters():
            parameter.zero_()
    return nn.Sequential(first, nn.GELU(), last)


__all__ = ["FeatureAdaptation", "FeatureAdaptationOptions"]
