"""Echo-state network: a fixed random recurrent network, of which the readout alone is fitted, to each context."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .naive import FittedRule, widened_range

GROUP = 16
"""Series that are computed together, always so many: how a product rounds depends on its shape."""


class Network(NamedTuple):
    """A and B transposed, (units, units) and (channels, units), and c, (units,), all float64."""

    recurrent: Tensor
    inputs: Tensor
    bias: Tensor


@dataclass(frozen=True)
class EchoState(FittedRule):
    """Leaky echo-state network, the same for every series; its readout is a ridge regression on each context.

    With z the z-scores of all channels, and e the leak,

        r(t) = (1 - e) r(t - 1) + e tanh(A r(t - 1) + B z(t) + c),
        z(t + 1) = z(t) + W [1, z(t), r(t)],

    from r = 0. A is random and normal, scaled to its spectral radius; B and c are uniform, up to `input_scaling` and
    `bias_scaling` in size. They are functions of `seed`, and A, c and each column of B do not change with the channels.
    The first `washout` steps, at most a quarter of the context, are not fitted. Then the network feeds itself.

    A network that feeds itself can leave the attractor. Every channel is therefore held inside the range that it has in
    the context, widened on both sides by `margin` times that range. The constants c tell a series from its mirror
    image: a f(x) + b holds for a > 0. A context of one step is continued by its value.

    Args:
        num_units, washout: at least 1 and 0.
        spectral_radius, input_scaling, leak: above 0, the leak at most 1. bias_scaling, margin: at least 0.
        penalty: of squared weights, a step that is fitted, none on the constant; above 0.
    Source: Jaeger, "The echo state approach" (GMD report 148, 2001); leaky units as in Lukosevicius, "A practical guide
    to applying echo state networks" (2012), equations 2 to 4. The readout of changes and the bounds are ours.
    """

    num_units: int = 300
    spectral_radius: float = 0.5
    leak: float = 0.5
    input_scaling: float = 0.5
    bias_scaling: float = 0.5
    penalty: float = 1e-6
    washout: int = 50
    margin: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_units < 1 or self.washout < 0 or self.seed < 0:
            raise ValueError(
                "num_units must be at least 1, washout and seed at least 0, found "
                f"{self.num_units!r}, {self.washout!r} and {self.seed!r}; correct them."
            )
        positive = (self.spectral_radius, self.leak, self.input_scaling, self.penalty)
        known = (*positive, self.bias_scaling, self.margin)
        if min(positive) <= 0 or self.leak > 1 or min(known) < 0 or not max(known) < float("inf"):
            raise ValueError(
                "spectral_radius, leak, input_scaling and penalty must be above 0, leak at most 1, bias_scaling and "
                f"margin at least 0, and all finite, found {self}; correct them."
            )

    def roll_out(self, z: Tensor, steps: int) -> Tensor:
        """Continue z-scores, as `FittedRule` says."""
        if z.shape[1] == 1:
            return z.repeat(1, steps, 1)
        network = Network(*(each.to(z.device) for each in self.network(z.shape[2])))
        padded = torch.cat([z, z[:1].expand(-len(z) % GROUP, -1, -1)])
        return torch.cat([self.continue_group(each, steps, network) for each in padded.split(GROUP)])[: len(z)]

    def continue_group(self, z: Tensor, steps: int, network: Network) -> Tensor:
        """Fit the readout of each of `GROUP` series, and let the network feed itself."""
        first, last = min(self.washout, z.shape[1] // 4), z.shape[1] - 1
        state, states = z.new_zeros(len(z), self.num_units), []
        for now in z.unbind(1):
            state = self.advance(state, now, network)
            states.append(state)
        inputs = features(z[:, first:last], torch.stack(states[first:last], dim=1))
        weights = ridge(inputs, z[:, first + 1 :] - z[:, first:last], self.penalty)
        lowest, highest = widened_range(z, self.margin)
        now, path = z[:, -1], []
        for _ in range(steps):
            change = (features(now, state)[:, None] @ weights)[:, 0]
            now = torch.minimum(torch.maximum(now + change, lowest), highest)
            state = self.advance(state, now, network)
            path.append(now)
        return torch.stack(path, dim=1)

    def advance(self, state: Tensor, now: Tensor, network: Network) -> Tensor:
        """Return r (series, units) after z-scores (series, channels)."""
        driven = state @ network.recurrent + now @ network.inputs + network.bias
        return (1 - self.leak) * state + self.leak * driven.tanh()

    def network(self, channels: int) -> Network:
        """Return the network for so many channels."""
        rng = [np.random.default_rng([self.seed, part]) for part in range(2)]
        recurrent = self.spectral_radius * unit_radius(self.num_units, self.seed).T
        inputs = self.input_scaling * rng[0].uniform(-1, 1, (channels, self.num_units))
        bias = self.bias_scaling * rng[1].uniform(-1, 1, self.num_units)
        return Network(*(torch.from_numpy(np.ascontiguousarray(each)) for each in (recurrent, inputs, bias)))


@lru_cache(maxsize=4)
def unit_radius(num_units: int, seed: int) -> np.ndarray:
    """Return a random matrix (units, units) whose largest eigenvalue has modulus 1."""
    matrix = np.random.default_rng([seed, 2]).normal(size=(num_units, num_units))
    return matrix / np.abs(np.linalg.eigvals(matrix)).max()


def features(now: Tensor, states: Tensor) -> Tensor:
    """Return what is read out, (..., 1 + channels + units): 1, z-scores and states."""
    return torch.cat([torch.ones_like(now[..., :1]), now, states], dim=-1)


def ridge(inputs: Tensor, targets: Tensor, penalty: float) -> Tensor:
    """Return weights (series, D, C) from inputs (series, steps, D), the first of them 1, to targets."""
    steps, size = inputs.shape[1:]
    diagonal = torch.full((size,), penalty * steps, dtype=inputs.dtype, device=inputs.device)
    diagonal[0] = 0.0
    factor = torch.linalg.cholesky(inputs.mT @ inputs + diagonal.diag())
    return torch.cholesky_solve(inputs.mT @ targets, factor)
