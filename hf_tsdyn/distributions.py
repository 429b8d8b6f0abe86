"""Predictive distributions of one value each, made from what a head puts out.

Scores are standard normal: score s asks for the quantile of level Phi(s), 0 for the median. Shapes: a head's raw output
is (batch, steps, channels, num_parameters) in scaled units; origin and scale are (batch, 1, channels), data units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, SupportsIndex

import numpy as np
import torch
from scipy.special import ndtri, stdtrit
from torch import Tensor
from torch.nn import functional as F


class Distribution(Protocol):
    """What a model with a distribution head needs to know of it."""

    num_parameters: int

    def parameters(self, raw: Tensor, origin: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        """Return the parameters of every value's distribution in data units, at least float32."""
        ...

    def point(self, parameters: tuple[Tensor, ...]) -> Tensor:
        """Return the medians, (batch, steps, channels)."""
        ...

    def loss(self, parameters: tuple[Tensor, ...], targets: Tensor, unit: Tensor) -> Tensor:
        """Return a proper score of each target, (batch, steps, channels), lengths measured in `unit`."""
        ...

    def at_scores(self, parameters: tuple[Tensor, ...], scores: Tensor) -> Tensor:
        """Return (batch, steps, channels, K) quantiles at `scores`, any shape that broadcasts to that."""
        ...


class QuantileDistribution:
    """Quantiles at fixed levels that cannot cross: the median, and non-negative distances from level to level.

    Between levels, and beyond the outermost, quantiles go linearly with the score, as those of a normal distribution
    do. Raw outputs of 0 mean a standard normal distribution in scaled units. Scored by the pinball loss
    (Koenker and Bassett 1978), twice its mean over levels, which approximates the CRPS.

    Args:
        levels: increasing, in (0, 1), 0.5 among them.
        spread_factor: what the distances from the median are multiplied by, as a calibration found it.
    """

    def __init__(self, levels: Sequence[float], spread_factor: float = 1.0):
        self.levels = tuple(levels)
        self.spread_factor = spread_factor
        self.num_parameters = len(levels)
        self._middle = self.levels.index(0.5)
        # NumPy: a model may be built on the meta device, where torch has no numbers.
        scores = ndtri(np.array(self.levels))
        self._scores: list[float] = scores.tolist()
        self._offsets: list[float] = np.log(np.expm1(np.diff(scores))).tolist()  # softplus(offset) = step

    def parameters(self, raw: Tensor, origin: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        raw = raw.to(scale.dtype)
        m = self._middle
        below, median, above = raw[..., :m], raw[..., m : m + 1], raw[..., m + 1 :]
        offsets = torch.tensor(self._offsets, dtype=raw.dtype, device=raw.device)
        fall = F.softplus(below + offsets[:m]).flip(-1).cumsum(-1).flip(-1)
        rise = F.softplus(above + offsets[m:]).cumsum(-1)
        z = torch.cat([median - self.spread_factor * fall, median, median + self.spread_factor * rise], dim=-1)
        return (z * scale[..., None] + origin[..., None],)

    def point(self, parameters: tuple[Tensor, ...]) -> Tensor:
        return parameters[0][..., self._middle]

    def loss(self, parameters: tuple[Tensor, ...], targets: Tensor, unit: Tensor) -> Tensor:
        excess = (targets[..., None] - parameters[0]) / unit[..., None]
        levels = torch.tensor(self.levels, dtype=excess.dtype, device=excess.device)
        return 2 * torch.maximum(levels * excess, (levels - 1) * excess).mean(dim=-1)

    def at_scores(self, parameters: tuple[Tensor, ...], scores: Tensor) -> Tensor:
        (values,) = parameters
        if self.num_parameters == 1:
            return values.expand(torch.broadcast_shapes(values.shape, scores.shape)).clone()
        knots = torch.tensor(self._scores, dtype=values.dtype, device=values.device)
        scores = scores.to(values)
        right = torch.searchsorted(knots, scores.contiguous()).clamp(1, self.num_parameters - 1)
        place = (scores - knots[right - 1]) / (knots[right] - knots[right - 1])
        shape = (*torch.broadcast_shapes(values.shape[:-1], scores.shape[:-1]), scores.shape[-1])
        values, right = values.expand(*shape[:-1], -1), right.expand(shape)
        low, high = values.gather(-1, right - 1), values.gather(-1, right)
        return low + place * (high - low)


class StudentTDistribution:
    """Student's t with location, scale and degrees of freedom above 2, scored by its negative log-likelihood.

    As in transformers' PatchTST (`distribution_output="student_t"`).

    Args:
        spread_factor: what the scale is multiplied by, as a calibration found it.
    """

    num_parameters = 3

    def __init__(self, spread_factor: float = 1.0):
        self.spread_factor = spread_factor

    def parameters(self, raw: Tensor, origin: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        raw_df, raw_loc, raw_spread = raw.to(scale.dtype).unbind(-1)
        smallest = torch.finfo(scale.dtype).eps
        spread = F.softplus(raw_spread).clamp(min=smallest)
        return 2 + F.softplus(raw_df), raw_loc * scale + origin, self.spread_factor * spread * scale

    def point(self, parameters: tuple[Tensor, ...]) -> Tensor:
        return parameters[1]

    def loss(self, parameters: tuple[Tensor, ...], targets: Tensor, unit: Tensor) -> Tensor:
        df, loc, spread = parameters
        # Bounds that no target that counts comes near: where none does, units may be 0 or infinite.
        centred = torch.distributions.StudentT(df, 0.0, (spread / unit).clamp(1e-9, 1e9), validate_args=False)
        return -centred.log_prob(((targets - loc) / unit).clamp(-1e9, 1e9))

    def at_scores(self, parameters: tuple[Tensor, ...], scores: Tensor) -> Tensor:
        df, loc, spread = (part[..., None] for part in parameters)
        # Levels below 1e-20, where SciPy's quantiles fail, count as 1e-20.
        levels = torch.special.ndtr(scores.cpu().double()).clamp(min=1e-20)
        quantiles = stdtrit(df.cpu().double().numpy(), levels.numpy())
        return loc + spread * torch.as_tensor(quantiles).to(loc)


def build_distribution(name: str, quantile_levels: Sequence[float], spread_factor: float) -> Distribution | None:
    """Return the distribution that a configuration names: "quantiles", "student_t", or None for "point".

    Raises: ValueError unless the factor is positive and finite.
    """
    if not 0 < spread_factor < float("inf"):
        raise ValueError(f"spread_factor must be positive and finite, found {spread_factor}; 1 changes nothing.")
    if name == "quantiles":
        return QuantileDistribution(quantile_levels, spread_factor)
    return StudentTDistribution(spread_factor) if name == "student_t" else None


def check_quantile_levels(quantile_levels: Sequence[float]) -> Tensor:
    """Return the levels as a float64 tensor; ValueError unless there are some and all lie in (0, 1)."""
    levels = torch.as_tensor(quantile_levels, dtype=torch.float64)
    if levels.ndim != 1 or not len(levels) or not ((levels > 0) & (levels < 1)).all():
        raise ValueError(
            f"quantile_levels must be numbers between 0 and 1, at least one, found {quantile_levels!r}; the median "
            "is 0.5."
        )
    return levels


def check_num_samples(num_samples: int) -> None:
    """Raise ValueError unless `num_samples` is a positive integer."""
    if isinstance(num_samples, bool) or not isinstance(num_samples, SupportsIndex) or int(num_samples) < 1:
        raise ValueError(f"num_samples must be an integer of at least 1, found {num_samples!r}; 100 is usual.")


def sample_quantiles(samples: Tensor, levels: Tensor) -> Tensor:
    """Return quantiles (batch, steps, channels, levels) of samples (batch, samples, steps, channels).

    Linear between the ranks level (n + 1), so that one more sample falls below with the probability of the level
    (Hyndman and Fan 1996, definition 6), however few samples there are; the outermost samples bound them.
    """
    ordered = samples.sort(dim=1).values.movedim(1, -1)
    last = samples.shape[1] - 1
    ranks = (levels.to(samples) * (last + 2) - 1).clamp(0, last)
    low = ranks.floor().long()
    high = (low + 1).clamp(max=last)
    return torch.lerp(ordered[..., low], ordered[..., high], ranks - low)
