"""How a learner follows the gradient: its settings, and which parameters they let learn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import torch
from transformers import PreTrainedModel


@dataclass(frozen=True)
class GradientOptions:
    """How a `GradientLearner` learns.

    Args:
        learning_rate, weight_decay: of AdamW, whose state starts afresh.
        rehearsal: "er" adds the loss of windows drawn from a reservoir, "der++" also their distance from what was
            forecast when they were learnt.
        buffer_size: windows in the reservoir. num_replayed: windows drawn at each update.
        replay_weight: of each of those losses, relative to the revealed window's.
        feedback: "complete" learns a window when its last target has been observed; "partial" learns, at each step,
            from the H windows of which it is a target, as one batch in which no other target counts.
        trainable: patterns of the names of the parameters that learn, as `fnmatch` has them; each must fit one. They
            alone decide: what fits learns, frozen by the caller or not.
        updates_per_step: steps of the optimiser on what a step has revealed.
        seed: of the reservoir and what is drawn from it.
        max_grad_norm: the gradient is scaled down to this norm where it is longer; None leaves it. AdamW hardly moves
            for thousands of steps after one gradient that is far longer than the others; this keeps it moving.
    Raises: ValueError on values out of range.
    """

    learning_rate: float = 3e-5
    weight_decay: float = 0.01
    rehearsal: Literal["none", "er", "der++"] = "none"
    buffer_size: int = 500
    num_replayed: int = 8
    replay_weight: float = 0.2
    feedback: Literal["complete", "partial"] = "complete"
    trainable: Sequence[str] = ("*",)
    updates_per_step: int = 1
    seed: int = 0
    max_grad_norm: float | None = None

    def __post_init__(self) -> None:
        choices = {"rehearsal": ("none", "er", "der++"), "feedback": ("complete", "partial")}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, found {getattr(self, name)!r}; choose one.")
        for name in ("learning_rate", "weight_decay", "replay_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and at least 0, found {getattr(self, name)}; change it.")
        for name in ("buffer_size", "num_replayed", "updates_per_step"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}; raise it.")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be above 0, found {self.max_grad_norm}; None clips nothing.")
        if isinstance(self.trainable, str) or not self.trainable:
            raise ValueError(f'trainable must hold patterns, found {self.trainable!r}; ("*",) is every parameter.')
        object.__setattr__(self, "trainable", tuple(self.trainable))


def choose_trainable(forecaster: PreTrainedModel, patterns: Sequence[str]) -> list[torch.nn.Parameter]:
    """Return the parameters that fit a pattern; they need gradients, whether they did before or not.

    The others need none any more, but in a forecaster that keeps averages of its gradients, where they stay as they
    are: what does not learn may still be averaged.

    Raises: ValueError if a pattern fits none.
    """
    names = [name for name, _ in forecaster.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            parts = dict.fromkeys(".".join(name.split(".")[:3]) for name in names)
            raise ValueError(
                f"every pattern of trainable must fit a parameter, found {pattern!r}, which fits none; the "
                f"forecaster's parts are {', '.join(parts)}."
            )
    averages = hasattr(forecaster, "after_optimizer_step")
    trained = []
    for name, parameter in forecaster.named_parameters():
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            trained.append(parameter.requires_grad_())
        elif not averages:
            parameter.requires_grad_(False)
    return trained


__all__ = ["GradientOptions", "choose_trainable"]
