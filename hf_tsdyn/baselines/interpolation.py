"""Completers without trained weights: each channel is filled from its own seen values alone.

All are `hf_tsdyn.completion.Completer`s for any number of channels: NaN is hidden, and what the mask hides. A channel
with nothing seen becomes 0.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import scipy.interpolate
import scipy.linalg
import torch
from torch import Tensor

from ..interpolation import fill_hermite, fill_linear


def seen_mask(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the boolean mask of seen values: neither NaN nor hidden by `mask` (True = hidden).

    Raises: TypeError if `values` is no floating tensor; ValueError if it is not (batch, time, channels), is infinite
    where it is seen, or the mask has another shape.
    """
    if not isinstance(values, Tensor) or not values.is_floating_point():
        found = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"values must be a floating-point tensor, found {found}; convert it first.")
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(
            "values must have shape (batch, time, channels), none of them 0, found "
            f"{tuple(values.shape)}; add the missing axis with unsqueeze."
        )
    if mask is not None and mask.shape != values.shape:
        raise ValueError(
            f"mask must have the shape of values, {tuple(values.shape)}, found {tuple(mask.shape)}; give one truth "
            "value per value (True = hidden)."
        )
    seen = ~values.isnan() if mask is None else ~(values.isnan() | mask.bool())
    if values.masked_fill(~seen, 0.0).isinf().any():
        raise ValueError("seen values must be finite, found infinite ones; hide them with mask.")
    return seen


@dataclass(frozen=True)
class MeanFill:
    """Fill each channel with the mean of its seen values."""

    def complete(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Fill `values` (batch, time, channels), as `hf_tsdyn.completion.Completer` says."""
        seen = seen_mask(values, mask)
        total = values.masked_fill(~seen, 0.0).double().sum(dim=1, keepdim=True)
        mean = total / seen.sum(dim=1, keepdim=True).clamp(min=1)
        return torch.where(seen, values, mean.to(values.dtype))


@dataclass(frozen=True)
class LinearInterpolation:
    """Fill each gap by the straight line between its seen neighbours; the ends are held at the last seen value."""

    def complete(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Fill `values` (batch, time, channels), as `hf_tsdyn.completion.Completer` says."""
        return fill_linear(values, seen_mask(values, mask)).to(values.dtype)


@dataclass(frozen=True)
class HermiteInterpolation:
    """Fill each gap by the cubic that continues the slopes at its two ends, as `hf_tsdyn.interpolation.fill_hermite`.

    It sees no farther than three steps from the gap, and never leaves the range of what is seen.
    """

    def complete(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Fill `values` (batch, time, channels), as `hf_tsdyn.completion.Completer` says."""
        return fill_hermite(values, seen_mask(values, mask)).to(values.dtype)


class CurveFill(ABC):
    """Fill each channel by one curve through all of its seen values, computed in double precision on the CPU."""

    @abstractmethod
    def fit(self, steps: np.ndarray, values: np.ndarray, *, num_steps: int) -> np.ndarray:
        """Return the curve through `values` at `steps`, (seen,) both, at the steps 0 to num_steps - 1."""

    def complete(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Fill `values` (batch, time, channels), as `hf_tsdyn.completion.Completer` says."""
        seen = seen_mask(values, mask)
        known, places = values.detach().double().cpu().numpy(), seen.cpu().numpy()
        curves = np.zeros_like(known)
        for series, channel in np.ndindex(known.shape[0], known.shape[2]):
            steps = np.flatnonzero(places[series, :, channel])
            if len(steps):
                curve = self.fit(steps, known[series, steps, channel], num_steps=known.shape[1])
                curves[series, :, channel] = curve
        return torch.where(seen, values, torch.from_numpy(curves).to(values))


@dataclass(frozen=True)
class CubicSpline(CurveFill):
    """Fill each channel by the cubic spline through all its seen values, not-a-knot at the ends.

    Before the first and after the last seen value that value is held: the outermost cubics grow without bound there.
    Two seen values give a line, three a parabola, one a constant.
    """

    def fit(self, steps: np.ndarray, values: np.ndarray, *, num_steps: int) -> np.ndarray:
        """Return the spline, as `CurveFill` says."""
        if len(steps) == 1:
            return np.full(num_steps, values[0])
        asked = np.clip(np.arange(num_steps), steps[0], steps[-1])
        return scipy.interpolate.CubicSpline(steps, values)(asked)


@dataclass(frozen=True)
class GaussianProcess(CurveFill):
    """Fill each channel by the mean of a Gaussian process whose smoothness its own seen values choose.

    The covariance of two steps d apart is (1 + d^2 / (2 a l^2))^(-a) times a variance (rational quadratic: motions of
    many lengths around l), about the mean of what is seen. Of all `length_scales`, `shapes` and `noises`, those of the
    largest marginal likelihood count, the variance maximised in closed form. Far from anything seen the curve returns
    to the mean. Its time grows with the cube of the seen values.

    Args:
        length_scales: candidates for l, in steps.
        shapes: candidates for a; the larger, the fewer lengths take part.
        noises: candidates for the variance of independent noise on seen values, relative to the process's own.
    Source: Rasmussen & Williams, Gaussian Processes for Machine Learning (2006), equations 2.25, 2.30 and 4.19.
    """

    length_scales: tuple[float, ...] = (3.0, 5.0, 8.0, 13.0, 22.0)
    shapes: tuple[float, ...] = (0.5, 2.0)
    noises: tuple[float, ...] = (1e-6, 1e-3)

    def __post_init__(self) -> None:
        candidates = (self.length_scales, self.shapes, self.noises)
        if not all(candidates) or min(map(min, candidates)) <= 0:
            raise ValueError(
                "length_scales, shapes and noises must each hold positive numbers alone, found "
                f"{candidates}; a noise of 1e-6 is as good as none."
            )

    def fit(self, steps: np.ndarray, values: np.ndarray, *, num_steps: int) -> np.ndarray:
        """Return the process's mean, as `CurveFill` says."""
        mean, spread = values.mean(), values.std()
        if spread == 0:
            return np.full(num_steps, mean)
        deviations = (values - mean) / spread
        squares = np.square(np.subtract.outer(np.arange(num_steps), steps), dtype=np.float64)
        best, curve = -np.inf, np.zeros(num_steps)
        for scale, shape, noise in itertools.product(self.length_scales, self.shapes, self.noises):
            covariance = (1 + squares / (2 * shape * scale**2)) ** -shape
            factor = scipy.linalg.cho_factor(covariance[steps] + noise * np.eye(len(steps)), lower=True)
            weights = scipy.linalg.cho_solve(factor, deviations)
            variance = deviations @ weights / len(steps)
            likelihood = -0.5 * len(steps) * np.log(variance) - np.log(np.diag(factor[0])).sum()
            if likelihood > best:
                best, curve = likelihood, covariance @ weights
        return mean + spread * curve
