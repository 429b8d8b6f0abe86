"""Affine parroting: follow the context's nearest point at a distance that shrinks, step by step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .naive import FittedRule, widened_range


@dataclass(frozen=True)
class AffineParroting(FittedRule):
    """Move as the nearest point of the context moved, and keep most of the distance to it.

    With x the z-scores of the context and z the state, all channels together,

        z' = x(k + 1) + a (z - x(k)),

    where k is the step of the context whose last `embedding_length` steps are nearest to those of z (sum of squared
    differences; the latest of several that are equally near), sought anew after each step. Forecast steps are compared
    like those of the context, so that the path leaves a stretch for another one as soon as that is nearer. With a = 0
    it is a copy of stretches, and soon repeats itself; with a = 1 it copies increments, does not repeat itself, and can
    drift away from the context. Below 1, distances die out and every path ends in a cycle: near 1, after very long.

    At least `min_lag` steps lie between k and where z stands, as in `ContextParroting`. Each channel is held inside the
    range that it has in the context, widened on both sides by `margin` times that range. Contexts shorter than
    `embedding_length + min_lag` use a shorter motif, at most half of the context, and whatever lags are left; a context
    of one step is continued by its value. Computed on one core of the CPU.

    Args:
        factor: a, from 0 to 1.
        embedding_length: steps that are compared, at least 1.
        min_lag: at least 1.
        margin: at least 0.
    Source: with a = 0 the locally constant and with a = 1 the locally incremental operator of analog forecasting
    (Platzer et al. 2021, "Using local dynamics to explain analog forecasting of chaotic systems", arXiv:2007.14216),
    applied step by step.
    """

    factor: float = 0.999
    embedding_length: int = 5
    min_lag: int = 10
    margin: float = 0.1

    def __post_init__(self) -> None:
        if self.embedding_length < 1 or self.min_lag < 1:
            raise ValueError(
                "embedding_length and min_lag must be at least 1, found "
                f"{self.embedding_length!r} and {self.min_lag!r}; both count steps."
            )
        if not 0 <= self.factor <= 1 or not 0 <= self.margin < float("inf"):
            raise ValueError(
                "factor must be from 0 to 1 and margin finite and at least 0, found "
                f"{self.factor!r} and {self.margin!r}; a factor above 1 leaves the context behind."
            )

    def roll_out(self, z: Tensor, steps: int) -> Tensor:
        """Continue z-scores, as `FittedRule` says."""
        time = z.shape[1]
        if time == 1:
            return z.repeat(1, steps, 1)
        from .affine_parroting_cpu import roll_out  # numba takes a while to import

        length = min(self.embedding_length, time // 2)
        min_lag = min(self.min_lag, time - length)
        bounds = torch.stack(widened_range(z, self.margin), dim=1).cpu().numpy()
        series = z.mT.contiguous().cpu()
        path = torch.cat([series[:, :, -length:], series.new_zeros(*series.shape[:2], steps)], dim=2)
        for past, limits, found in zip(series.numpy(), bounds, path.numpy(), strict=True):
            roll_out(past, limits, length, min_lag, self.factor, found)
        return path[:, :, length:].mT.to(z.device)
