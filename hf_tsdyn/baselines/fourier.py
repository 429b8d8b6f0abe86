"""Extrapolation of each channel by its strongest sinusoids."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .naive import FittedRule


@dataclass(frozen=True)
class Fourier(FittedRule):
    """Continue each channel as a mean and its strongest sinusoids, found one after another.

    The next sinusoid is the strongest line in the discrete Fourier transform of what the ones before leave over; mean,
    trend and all amplitudes are then solved anew by least squares. With `refinements`, Gauss-Newton steps move all
    frequencies together, none farther than half a line from where it was found, so that sinusoids which do not fit the
    context an integer number of times are continued as well. A sum of at most `num_harmonics` sinusoids with integer
    numbers of periods in the context is continued exactly.

    Contexts of L steps have at most (L - 1) / 2 of them, the whole part of it.

    Args:
        num_harmonics: sinusoids of a channel, at least 1.
        refinements: Gauss-Newton steps after each new sinusoid; 0 leaves frequencies on the lines.
        trend: fits a straight line beside them. It goes on for ever.
    """

    num_harmonics: int = 3
    refinements: int = 4
    trend: bool = False

    def __post_init__(self) -> None:
        if self.num_harmonics < 1 or self.refinements < 0:
            raise ValueError(
                "num_harmonics must be at least 1 and refinements at least 0, found "
                f"{self.num_harmonics!r} and {self.refinements!r}; 3 and 4 are the defaults."
            )

    def roll_out(self, z: Tensor, steps: int) -> Tensor:
        """Extrapolate z-scores, as `FittedRule` says."""
        series = z.transpose(1, 2).flatten(0, 1)  # (batch * channels, time)
        time = series.shape[1]
        found = series.new_zeros(len(series), 0)  # in lines, cycles per context
        lines, weights = found, solve(self.design(found, time, time), series)
        for _ in range(min(self.num_harmonics, (time - 1) // 2)):
            rest = series - (self.design(found, time, time) @ weights).squeeze(2)
            strength = torch.fft.rfft(rest, dim=1)[:, : (time + 1) // 2].abs()
            strength[:, 0] = -1.0
            strength.scatter_(1, lines.long(), -1.0)
            line = strength.argmax(dim=1, keepdim=True).to(series)
            lines, found = torch.cat([lines, line], dim=1), torch.cat([found, line], dim=1)
            weights = solve(self.design(found, time, time), series)
            for _ in range(self.refinements):
                found = self.refine(series, found, lines, weights)
                weights = solve(self.design(found, time, time), series)
        ahead = self.design(found, time, time + steps)[:, time:] @ weights
        return ahead.unflatten(0, (len(z), -1)).squeeze(3).transpose(1, 2)

    def design(self, found: Tensor, time: int, steps: int) -> Tensor:
        """Return the regressors (series, steps, 1 + trend + 2 K) of sinusoids (series, K) in lines of `time` steps."""
        grid = torch.arange(steps, dtype=found.dtype, device=found.device)[None, :, None] / time
        phase = 2 * math.pi * grid * found[:, None]
        constant = torch.ones_like(phase[:, :, :1]) if found.shape[1] else grid.new_ones(len(found), steps, 1)
        line = (2 * grid - 1).expand(len(found), -1, -1)[:, :, : int(self.trend)]
        return torch.cat([constant, line, phase.cos(), phase.sin()], dim=2)

    def refine(self, series: Tensor, found: Tensor, lines: Tensor, weights: Tensor) -> Tensor:
        """Return the sinusoids (series, K) after one Gauss-Newton step in frequencies and weights together."""
        time, count = series.shape[1], found.shape[1]
        regressors = self.design(found, time, time)
        first = 1 + int(self.trend)
        cosine, sine = regressors[:, :, first : first + count], regressors[:, :, first + count :]
        a, b = weights[:, None, first : first + count, 0], weights[:, None, first + count :, 0]
        grid = torch.arange(time, dtype=found.dtype, device=found.device)[None, :, None] / time - 0.5
        slopes = 2 * math.pi * grid * (b * cosine - a * sine)
        rest = series - (regressors @ weights).squeeze(2)
        change = solve(torch.cat([regressors, slopes], dim=2), rest)[:, -count:, 0]
        return torch.minimum(torch.maximum(found + change, lines - 0.5), lines + 0.5)


def solve(regressors: Tensor, targets: Tensor) -> Tensor:
    """Return the weights (series, D, 1) of the least squared error of `targets` (series, time)."""
    gram = regressors.mT @ regressors
    ridge = 1e-12 * gram.diagonal(dim1=1, dim2=2).amax(dim=1)[:, None, None]
    gram = gram + ridge * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    return torch.cholesky_solve(regressors.mT @ targets[:, :, None], torch.linalg.cholesky(gram))
