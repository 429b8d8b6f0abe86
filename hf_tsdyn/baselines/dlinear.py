"""DLinear: one linear map from the moving average of the latest steps, one from the rest, fitted to each context."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .lag_design import LagDesign, windows_of
from .naive import FittedRule, widened_range


@dataclass(frozen=True)
class DLinear(FittedRule):
    """Map the moving average of the latest steps, and what it leaves over, to the next block of steps.

    With x the latest `context_length` z-scores of a channel and M the moving average over `kernel_size` of them, the
    ends repeated,

        next `block_length` steps = U M x + V (x - M x) + b,

    U, V and b of the least squared error over all windows of the channel in the context, with a squared penalty on U
    and V. Each channel of each series has its own. Blocks are fed back until the horizon is reached.

    A linear map that feeds itself can grow without bound. Every channel is therefore held inside the range that it has
    in the context, widened on both sides by `margin` times that range. In short contexts the window and the block have
    at most a third of the steps each; a context of fewer than 3 is continued by its last value.

    Args:
        context_length, block_length, kernel_size: in steps, at least 1; the kernel is odd.
        penalty: of squared weights, a window; above 0. margin: at least 0.
    Source: Zeng, Chen, Zhang & Xu, "Are transformers effective for time series forecasting?" (arXiv:2205.13504),
    there trained on many series by gradient descent.
    """

    context_length: int = 96
    block_length: int = 32
    kernel_size: int = 25
    penalty: float = 1e-4
    margin: float = 0.2

    def __post_init__(self) -> None:
        if min(self.context_length, self.block_length, self.kernel_size) < 1 or self.kernel_size % 2 == 0:
            raise ValueError(
                "context_length, block_length and kernel_size must be at least 1 and the kernel odd, found "
                f"{self.context_length!r}, {self.block_length!r} and {self.kernel_size!r}; all count steps."
            )
        if not 0 < self.penalty < float("inf") or not 0 <= self.margin < float("inf"):
            raise ValueError(
                "penalty must be above 0, margin at least 0, and both finite, found "
                f"{self.penalty!r} and {self.margin!r}; a penalty of 1e-12 is as good as none."
            )

    def roll_out(self, z: Tensor, steps: int) -> Tensor:
        """Continue z-scores, as `FittedRule` says."""
        third = z.shape[1] // 3
        if third == 0:
            return z[:, -1:].repeat(1, steps, 1)
        length, block = min(self.context_length, third), min(self.block_length, third)
        design = LagDesign(length, block, z.shape[2], anchor="none")
        weights = torch.stack([self.fit(each[None], design) for each in z])  # (batch, channels, length + 1, block)
        lowest, highest = (each[:, None] for each in widened_range(z, self.margin))
        latest, path = z[:, -length:].mT, []
        for _ in range(0, steps, block):
            ahead = (latest[:, :, :, None] * weights[:, :, :-1]).sum(dim=2) + weights[:, :, -1]
            path.append(torch.minimum(torch.maximum(ahead.mT, lowest), highest))
            latest = torch.cat([latest, path[-1].mT], dim=2)[:, :, -length:]
        return torch.cat(path, dim=1)[:, :steps]

    def fit(self, z: Tensor, design: LagDesign) -> Tensor:
        """Return U M + V (1 - M), and b below it, (channels, length + 1, block) of one series (1, time, channels)."""
        gram, moment, count = z.new_zeros(()), z.new_zeros(()), 0
        for past, _, future in windows_of(z, None, design, z.new_zeros(()), z.new_ones(())):
            inputs = design.inputs(past, None)
            gram = gram + inputs.mT @ inputs
            moment = moment + inputs.mT @ design.outputs(past, future)
            count += len(past)
        # Of all U and V that make the same map W, the least squares are those of a squared penalty (M'M + N'N)^-1 on W.
        average = moving_average(design.context_length, self.kernel_size).to(z)
        rest = torch.eye(len(average), dtype=z.dtype, device=z.device) - average
        penalties = torch.zeros_like(gram[0])
        penalties[:-1, :-1] = self.penalty * count * torch.linalg.inv(average.mT @ average + rest.mT @ rest)
        return torch.cholesky_solve(moment, torch.linalg.cholesky(gram + penalties))


def moving_average(length: int, kernel_size: int) -> Tensor:
    """Return the matrix (length, length) float64 that averages over `kernel_size` steps, the ends repeated."""
    steps = torch.arange(length)[:, None] + torch.arange(kernel_size) - kernel_size // 2
    taps = torch.nn.functional.one_hot(steps.clamp(0, length - 1), length)
    return taps.double().mean(dim=1)
