"""Draws of parameters and initial conditions around a system's defaults, and the maps that apply them.

A parameter that is exactly 0 stays 0: it says that a term is absent (a missing link of a network, a forcing
that is switched off), and giving it a value makes another system. Every other one is perturbed as a real
number, exponents of rate laws included, which are fitted numbers in their sources."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Variance that keeps a parameter close to 0 from being frozen.
VARIANCE_FLOOR = 1e-6


@dataclass(frozen=True, eq=False)
class ParameterDraw:
    """The random part of a perturbed parameter vector; each array has the shape (num_parameters,)."""

    normal: np.ndarray
    is_sign_matched: np.ndarray
    is_ignored: np.ndarray


def draw_parameters(
    num_parameters: int, *, sign_match: float, ignore_probability: float, rng: np.random.Generator
) -> ParameterDraw:
    """Draw from `rng` what `perturb_parameters` needs.

    A parameter is ignored with probability ignore_probability (1 - exp(-num_parameters)), so that a system of
    few parameters is not left as it is more often than one of many."""
    ignore_rate = ignore_probability * -np.expm1(-num_parameters)
    return ParameterDraw(
        normal=rng.standard_normal(num_parameters),
        is_sign_matched=rng.random(num_parameters) < sign_match,
        is_ignored=rng.random(num_parameters) < ignore_rate,
    )


def perturb_parameters(parameters: np.ndarray, draw: ParameterDraw, *, scale: float) -> np.ndarray:
    """Return theta + N(0, (scale |theta|)² + 1e-6), with the exceptions of `draw` and of zeros.

    Args:
        parameters: (num_parameters,) theta.
        scale: relative standard deviation.
    Returns: (num_parameters,), a new array."""
    delta = draw.normal * np.sqrt((scale * parameters) ** 2 + VARIANCE_FLOOR)
    delta = np.where(draw.is_sign_matched, np.copysign(delta, parameters), delta)
    return np.where(draw.is_ignored | (parameters == 0), parameters, parameters + delta)


def perturb_initial_condition(
    initial_condition: np.ndarray, state_std: np.ndarray, *, scale: float, rng: np.random.Generator
) -> np.ndarray:
    """Return a normal draw around an initial condition.

    Args:
        initial_condition: (dimension,) centre.
        state_std: (dimension,) spread of the attractor along each state.
        scale: standard deviation of the draw, in units of `state_std`."""
    return initial_condition + scale * state_std * rng.standard_normal(len(initial_condition))


def draw_num_periods(num_periods: float | Sequence[float], *, rng: np.random.Generator) -> float:
    """Return `num_periods` itself, or a uniform draw between the two numbers it gives."""
    if not isinstance(num_periods, Sequence):
        return num_periods
    low, high = num_periods
    return float(rng.uniform(low, high))


def add_observation_noise(values: np.ndarray, *, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Return values with white Gaussian noise; the same array where `scale` is 0.

    Args:
        values: (channels, time).
        scale: standard deviation of the noise, in those of each channel."""
    if scale == 0:
        return values
    return values + scale * values.std(axis=1, keepdims=True) * rng.standard_normal(values.shape)
