"""AdamW whose step can be written down before it is taken, and differs by channel for the workers."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.optim import Optimizer


class ChannelRates(NamedTuple):
    """What the signals make of one step of the workers, (C,) both."""

    step: Tensor
    """Multiplies Adam's step."""
    decay: Tensor
    """Multiplies the weight decay."""


class AdamStep(NamedTuple):
    """Adam's next step of one parameter as a function of the gradient: (momentum + weight gradient) / denominator.

    The second moments in `denominator` hold the gradient that was last computed for that parameter.
    """

    momentum: Tensor
    weight: float
    denominator: Tensor
    learning_rate: float
    weight_decay: float

    def move(self, parameter: Tensor, gradient: Tensor, rates: ChannelRates | None = None) -> Tensor:
        """Return the parameter after the step; with `rates` its leading axis is that of the channels."""
        direction = (self.momentum + self.weight * gradient) / self.denominator
        step: Tensor | float = self.learning_rate
        decay: Tensor | float = self.learning_rate * self.weight_decay
        if rates is not None:
            shape = (-1,) + (1,) * (parameter.ndim - 1)
            step, decay = step * rates.step.view(shape), decay * rates.decay.view(shape)
        return parameter - step * direction - decay * parameter


class ChannelAdamW(Optimizer):
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) with rates per channel.

    Groups that hold `per_channel=True` take their steps at `channel_rates`, which are set before each step. A channel
    of rate 0 does not move, while its moments go on.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float
    ):
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0, "per_channel": False})
        self.channel_rates: ChannelRates | None = None

    def preview(self, group: dict[str, Any], parameter: Tensor) -> AdamStep:
        """Return the next step of a parameter of that group, second moments with its present gradient included."""
        (beta1, beta2), gradient = group["betas"], cast(Tensor, parameter.grad).detach()
        state = self.state.get(parameter, {})
        number = state.get("step", 0) + 1
        mean, square = (state.get(name, torch.zeros_like(gradient)) for name in ("exp_avg", "exp_avg_sq"))
        correction = 1 - beta1**number
        square = (beta2 * square + (1 - beta2) * gradient**2) / (1 - beta2**number)
        return AdamStep(
            momentum=beta1 / correction * mean,
            weight=(1 - beta1) / correction,
            denominator=square.sqrt() + group["eps"],
            learning_rate=group["lr"],
            weight_decay=group["weight_decay"],
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move every parameter that has a gradient."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            rates = self.channel_rates if group["per_channel"] else None
            for parameter in group["params"]:
                if parameter.grad is not None:
                    moved = self.preview(group, parameter).move(parameter, parameter.grad, rates)
                    self._update_moments(group["betas"], parameter)
                    parameter.copy_(moved)
        return loss

    def _update_moments(self, betas: tuple[float, float], parameter: Tensor) -> None:
        state, gradient = self.state[parameter], parameter.grad
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter))
        state["step"] += 1
        state["exp_avg"].lerp_(gradient, 1 - betas[0])
        state["exp_avg_sq"].mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
