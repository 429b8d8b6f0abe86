"""Next-generation reservoir: a polynomial of a few delays, fitted to the steps of each context."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .naive import FittedRule, widened_range


class Order(NamedTuple):
    """What an NVAR reads: delays in steps, the state itself (0) first, and whether their products as well."""

    lags: tuple[int, ...]
    is_quadratic: bool

    def num_features(self, channels: int) -> int:
        """Features of a state, the constant among them."""
        linear = channels * len(self.lags)
        return 1 + linear + self.is_quadratic * linear * (linear + 1) // 2


@dataclass(frozen=True)
class NVAR(FittedRule):
    """Next-generation reservoir computing: regress the next change on delays and their products, and roll it forward.

    With z the z-scores of all channels and x = [z(t), z(t - s), ..., z(t - (k - 1) s)],

        z(t + 1) = z(t) + W [1, x, x_i x_j for i <= j],

    W of the least squared error over the context with a squared penalty on all its entries but the constant's. Where
    several strides s or penalties are given, each series has the pair that does best on the last quarter of its own
    context: W is fitted to what is before, rolled forward for `check_length` steps from `num_checks` places, and the
    pair with the least mean absolute error is fitted again, to all of the context.

    A polynomial that is rolled forward can diverge. Every channel is therefore held inside the range that it has in
    the context, widened on both sides by `margin` times that range: a forecast that stands at such a bound has
    diverged. Where the context has fewer steps to fit than W has rows, delays are left out, the oldest first, then
    products; a context of one step is continued by its value. One of fewer than 16 is too short to choose by: it has
    the first stride and the largest penalty.

    Args:
        num_delays: k, at least 1. strides: candidates for s, in steps, at least 1.
        penalties: candidates, of squared weights, a step of the context; above 0. 1e-16 is as good as none.
        margin: at least 0.
        check_length, num_checks: at least 1.
    Source: Gauthier, Bollt, Griffith & Barbosa, "Next generation reservoir computing", Nature Communications 12 (2021)
    5564, equations 4 to 9; z-scores, the bounds, the choice and shorter orders are ours.
    """

    num_delays: int = 2
    strides: tuple[int, ...] = (1, 3, 8)
    penalties: tuple[float, ...] = (1e-7, 1e-5, 1e-3)
    margin: float = 0.2
    check_length: int = 128
    num_checks: int = 8

    def __post_init__(self) -> None:
        for name in ("strides", "penalties"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # a list, as JSON has it, is as good
        counts = (self.num_delays, self.check_length, self.num_checks, *self.strides)
        if min(counts) < 1 or not self.strides:
            raise ValueError(
                "num_delays, check_length, num_checks and each of strides must be at least 1, found "
                f"{self.num_delays!r}, {self.check_length!r}, {self.num_checks!r} and {self.strides!r}; one delay is "
                "the state itself."
            )
        positive = all(0 < each < float("inf") for each in self.penalties)
        if not positive or not self.penalties or not 0 <= self.margin < float("inf"):
            raise ValueError(
                "penalties must hold finite numbers above 0 and margin be finite and at least 0, found "
                f"{self.penalties!r} and {self.margin!r}; a penalty of 1e-16 is as good as none."
            )

    def roll_out(self, z: Tensor, steps: int) -> Tensor:
        """Continue z-scores, as `FittedRule` says."""
        time, channels = z.shape[1:]
        if time == 1:
            return z.repeat(1, steps, 1)
        strides, penalties = self.strides, self.penalties
        if time < 16:
            strides, penalties = strides[:1], (max(penalties),)
        candidates = [(stride, penalty) for stride in strides for penalty in penalties]
        chosen = self.choose(z, candidates) if len(candidates) > 1 else torch.zeros_like(z[:, 0, 0], dtype=torch.long)
        forecast = z.new_empty(len(z), steps, channels)
        for number in chosen.unique().tolist():
            these = chosen == number
            order = self.order(time, channels, candidates[number][0])
            weights = fit(z[these], order, candidates[number][1])
            forecast[these] = self.follow(z[these], weights, order, steps, z[these])
        return forecast

    def choose(self, z: Tensor, candidates: list[tuple[int, float]]) -> Tensor:
        """Return the place (batch,) of the pair of stride and penalty that does best on the last quarter."""
        time, channels = z.shape[1:]
        first = time - time // 4
        length = min(self.check_length, time - first)
        origins = torch.linspace(first, time - length, self.num_checks).long().tolist()
        truths = torch.cat([z[:, each : each + length] for each in origins])
        errors = []
        for stride, penalty in candidates:
            order = self.order(first, channels, stride)
            weights = fit(z[:, :first], order, penalty)
            starts = torch.cat([z[:, each - 1 - order.lags[-1] : each] for each in origins])
            known = z[:, :first].repeat(self.num_checks, 1, 1)
            found = self.follow(starts, weights.repeat(self.num_checks, 1, 1), order, length, known)
            misses = (found - truths).abs().mean(dim=(1, 2))
            errors.append(misses.unflatten(0, (self.num_checks, -1)).mean(dim=0))
        return torch.stack(errors).argmin(dim=0)

    def follow(self, past: Tensor, weights: Tensor, order: Order, steps: int, known: Tensor) -> Tensor:
        """Roll `weights` forward from the end of `past`, within the widened range of `known`."""
        lowest, highest = widened_range(known, self.margin)
        states = list(past[:, -1 - order.lags[-1] :].unbind(1))
        for _ in range(steps):
            x = torch.cat([states[-1 - lag] for lag in order.lags], dim=1)
            change = (features(x, order).unsqueeze(2) * weights).sum(dim=1)
            states.append(torch.minimum(torch.maximum(states[-1] + change, lowest), highest))
        return torch.stack(states[-steps:], dim=1)

    def order(self, time: int, channels: int, stride: int) -> Order:
        """Return the largest order that a context of `time` steps determines, or else the smallest there is."""
        delays = [tuple(range(0, stride * count, stride)) for count in range(self.num_delays, 0, -1)]
        orders = [Order(lags, products) for products in (True, False) for lags in delays]
        fits = (each for each in orders if each.num_features(channels) < time - each.lags[-1])
        return next(fits, orders[-1])


def features(x: Tensor, order: Order) -> Tensor:
    """Return 1, the delays (..., D), and with products those of each pair of them."""
    parts = [torch.ones_like(x[..., :1]), x]
    if order.is_quadratic:
        left, right = torch.triu_indices(x.shape[-1], x.shape[-1], device=x.device)
        parts.append(x[..., left] * x[..., right])
    return torch.cat(parts, dim=-1)


def fit(z: Tensor, order: Order, penalty: float) -> Tensor:
    """Return W (batch, features, channels) of z-scores (batch, time, channels)."""
    first, last = order.lags[-1], z.shape[1] - 1
    x = torch.cat([z[:, first - lag : last - lag] for lag in order.lags], dim=2)
    changes = z[:, first + 1 :] - z[:, first:last]
    return torch.stack([ridge(features(a, order), b, penalty) for a, b in zip(x, changes, strict=True)])


def ridge(inputs: Tensor, targets: Tensor, penalty: float) -> Tensor:
    """Return the weights (D, C) from inputs (steps, D), the first of them 1, to targets (steps, C).

    By an orthogonal factorisation: the delays of a finely sampled flow are so alike that their Gram matrix has lost
    what tells them apart.
    """
    steps, size = inputs.shape
    diagonal = torch.full((size,), (penalty * steps) ** 0.5, dtype=inputs.dtype, device=inputs.device)
    diagonal[0] = 0.0
    factor, rest = torch.linalg.qr(torch.cat([inputs, diagonal.diag()]))
    return torch.linalg.solve_triangular(rest, factor[:steps].mT @ targets, upper=True)
