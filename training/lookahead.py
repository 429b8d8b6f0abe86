"""One step of the workers as a differentiable function of the controller's signals, and the loss that it leads to.

The gradient of that loss with respect to a signal is its hypergradient, which goes on to the controller. What is hard
in a real step is smooth in this one, so that every signal has a derivative everywhere:

- clipping: a channel's gradient g is multiplied by clip / sqrt(clip^2 + |g|^2), near 1 for small gradients, so that a
  clip norm counts before it is reached;
- freezing: in place of a draw, the step's expectation, (1 - freeze probability) times the step;
- dropout: masks between 0 and 1 that vary smoothly with the rate (the concrete distribution of Maddison, Mnih and Teh,
  arXiv:1611.00712, and Jang, Gu and Poole, arXiv:1611.01144), drawn by the model under `relaxed=True`.

Adam's moments before the step, and the second moments in its denominator, are taken as given. All else is the step of
`training.bilevel_optimizer`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from training.bilevel_optimizer import AdamStep, ChannelRates

Parameters = dict[str, Tensor]
Batch = Mapping[str, Tensor]
Signals = Mapping[str, Tensor]

_EPSILON = 1e-6  # as in torch's own clipping


class ParameterRoles(NamedTuple):
    """A model's trainable parameters by name: the controller's, those with an axis of channels first, all others."""

    controller: Parameters
    workers: Parameters
    shared: Parameters

    @property
    def learners(self) -> Parameters:
        """What a training batch trains."""
        return self.workers | self.shared


def parameter_roles(model: nn.Module) -> ParameterRoles:
    """Sort the trainable parameters by the modules `model.controller` and `model.workers` of a forecaster."""
    roles = ParameterRoles({}, {}, {})
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kinds = {"model.controller.": roles.controller, "model.workers.": roles.workers}
            next((kind for prefix, kind in kinds.items() if name.startswith(prefix)), roles.shared)[name] = parameter
    return roles


def mean_loss(
    model: Any,
    batch: Batch,
    *,
    signals: Signals | None = None,
    parameters: Parameters | None = None,
    weighted: bool = False,
    relaxed: bool = False,
) -> Tensor:
    """Return the mean loss over windows and channels, each with the number of its targets that count: the model's own.

    Args:
        signals: in place of what the controller says of the batch.
        parameters: in place of the model's, by name.
        weighted: multiply the loss of each window and channel by the signal `loss_weight`.
        relaxed: draw smooth dropout masks.
    """
    past = {name: batch[name] for name in ("past_values", "past_observed_mask") if name in batch}
    options = {"signals": signals, "relaxed": relaxed, "return_dict": True}
    output = functional_call(model, parameters or {}, (), past | options)
    targets = {name: values for name, values in batch.items() if name != "past_values"}
    losses, counted = model.channel_losses(output, batch["past_values"], **targets)
    if weighted and signals is not None:
        losses = losses * signals.get("loss_weight", torch.ones_like(losses))
    return (losses * counted).sum() / counted.sum().clamp(min=1)


def gradients_of(loss: Tensor, parameters: Parameters, *, create_graph: bool = False) -> Parameters:
    """Return the gradients, by name, of those parameters that the loss depends on."""
    if not parameters:
        return {}
    found = torch.autograd.grad(loss, list(parameters.values()), create_graph=create_graph, allow_unused=True)
    return {name: each for name, each in zip(parameters, found, strict=True) if each is not None}


def chosen(gradients: Parameters, names: Iterable[str]) -> Parameters:
    """Return the gradients of these names, of those that there are."""
    return {name: gradients[name] for name in names if name in gradients}


def channel_rates(signals: Signals, moving: Tensor) -> ChannelRates:
    """Return the rates of a step: means of the signals over the batch, times `moving`, (C,), 0 for a frozen channel."""
    return ChannelRates(step=signals["lr_scale"].mean(0) * moving, decay=signals["wd_scale"].mean(0) * moving)


def channel_square_norms(gradients: Iterable[Tensor]) -> Tensor:
    """Return the squared norm of each channel's gradient, (C,), over tensors that have the channels first."""
    return torch.stack([gradient.square().flatten(1).sum(dim=1) for gradient in gradients]).sum(dim=0)


def scale_channels(gradients: Mapping[str, Tensor], factors: Tensor) -> Parameters:
    """Return the gradients of each channel times its factor, (C,)."""
    return {name: each * factors.view(-1, *[1] * (each.ndim - 1)) for name, each in gradients.items()}


def clip_channels(gradients: Mapping[str, Tensor], clip: Tensor) -> Parameters:
    """Return gradients no channel of which is longer than its clip norm, (C,)."""
    norms = channel_square_norms(gradients.values()).sqrt()
    return scale_channels(gradients, (clip / (norms + _EPSILON)).clamp(max=1))


def clip_softly(gradients: Mapping[str, Tensor], clip: Tensor) -> Parameters:
    """Return gradients shrunk by channel, the more the longer, to below the clip norm, (C,)."""
    return scale_channels(gradients, clip * torch.rsqrt(clip.square() + channel_square_norms(gradients.values())))


def clip_together(gradients: Mapping[str, Tensor], most: float) -> Parameters:
    """Return gradients that are together no longer than `most`; 0 leaves them as they are."""
    if not gradients or most <= 0:
        return dict(gradients)
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(each) for each in gradients.values()]))
    factor = (most / (norm + _EPSILON)).clamp(max=1)
    return {name: each * factor for name, each in gradients.items()}


def look_ahead(
    model: Any,
    batch: Batch,
    signals: Signals,
    *,
    roles: ParameterRoles,
    steps: Mapping[str, AdamStep],
    max_grad_norm: float,
) -> Parameters:
    """Return all that a training batch trains as one smooth step on it makes it, a function of the signals.

    Args:
        signals: of the batch, numbers as far as the step is concerned; they may need derivatives, not have any.
        steps: Adam's next step of every parameter that the loss depends on.
        max_grad_norm: of the shared parameters together; 0 for no limit.
    """
    learners = roles.learners
    loss = mean_loss(model, batch, signals=signals, weighted=True, relaxed=True)
    gradients = gradients_of(loss, learners, create_graph=True)
    clipped = clip_together(chosen(gradients, roles.shared), max_grad_norm)
    rates = None
    if roles.workers:
        clipped |= clip_softly(chosen(gradients, roles.workers), signals["grad_clip"].mean(0))
        rates = channel_rates(signals, 1 - signals["freeze_prob"].mean(0))
    return {
        name: steps[name].move(learners[name], gradient, rates if name in roles.workers else None)
        for name, gradient in clipped.items()
    }


def controller_gradients(loss: Tensor, controller: Parameters, signals: Signals, leaves: Signals) -> Parameters:
    """Return the gradient of a loss with respect to the controller, itself and through the signals of a step.

    Args:
        signals: of the batch of the step, with their graph.
        leaves: those that have one, without it, as the step was made of them.
    """
    wanted = [*controller.values(), *leaves.values()]
    found = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    direct, by_signal = found[: len(controller)], found[len(controller) :]
    through = torch.autograd.grad(
        [signals[name] for name in leaves],
        list(controller.values()),
        by_signal,
        allow_unused=True,
        materialize_grads=True,
    )
    return {name: one + other for name, one, other in zip(controller, direct, through, strict=True)}
