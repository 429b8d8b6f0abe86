"""Largest Lyapunov exponents: one perturbation carried along by the variational equations.

Exponents are per unit of the system's time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from data_generation.differentiation import growth_field, may_jump
from data_generation.expressions import VectorField
from data_generation.integration import IntegrationStatus, integrate
from data_generation.tangents import TangentBundle


@dataclass(frozen=True, eq=False)
class LyapunovResult:
    """Exponents, one row per trajectory; a row has numbers only where its status is COMPLETED, else NaN."""

    exponents: np.ndarray
    """(num_trajectories,) largest, or (num_trajectories, num_exponents) from the largest down, up to their errors."""
    standard_errors: np.ndarray
    """Of the same shape, from the scatter of blocks of time."""
    status: list[IntegrationStatus]


class Timing:
    """The parts of a run, in the system's time."""

    def __init__(
        self,
        *,
        period: ArrayLike,
        num_periods: float,
        transient_periods: float,
        num_blocks: int,
        start_time: ArrayLike,
    ) -> None:
        self.period = np.asarray(period, np.float64)
        check("period", period, np.all(np.isfinite(self.period) & (self.period > 0)), "be positive and finite")
        check("num_periods", num_periods, 0 < num_periods < np.inf, "be positive and finite")
        check("transient_periods", transient_periods, 0 <= transient_periods < np.inf, "be zero or more and finite")
        check("num_blocks", num_blocks, num_blocks >= 2, "be at least 2")
        self.num_blocks = num_blocks
        self.block = self.period * num_periods / num_blocks
        self.transient = self.period * transient_periods
        self.start_time = np.asarray(start_time, np.float64)


def largest_lyapunov_exponents(
    vector_field: VectorField,
    initial_conditions: ArrayLike,
    parameters: ArrayLike,
    *,
    period: ArrayLike,
    rng: np.random.Generator,
    num_periods: float = 100.0,
    transient_periods: float = 20.0,
    num_blocks: int = 20,
    start_time: ArrayLike = 0.0,
    rtol: float = 1e-6,
    atol: float = 1e-8,
    max_steps: int = 200_000,
    max_abs: float = 1e4,
    unbounded: Sequence[int] = (),
) -> LyapunovResult:
    """Follow one perturbation along each trajectory and return its mean rate of growth.

    One step size serves the state and the direction of the perturbation. Where the field may jump (sign, heaviside) it
    follows a second trajectory close by instead, at several times the cost. All trajectories start from the same
    direction, so that the result of one has the same bits whatever its neighbours.

    Args:
        initial_conditions: (num_trajectories, dimension), or (dimension,) for all.
        parameters: (num_trajectories, num_parameters), or (num_parameters,) for all.
        period: unit of `num_periods` and `transient_periods`, in the system's time; one for all or one each.
        rng: draws the first direction, which the transient forgets.
        num_blocks: parts of the run whose scatter gives the standard error.

    `rtol` to `unbounded` are those of `integrate`.

    Raises:
        ValueError: a shape does not fit, or a number is out of range.
    """
    return _mean_growth(
        vector_field,
        tuple(range(vector_field.num_states)),
        initial_conditions,
        parameters,
        timing=Timing(
            period=period,
            num_periods=num_periods,
            transient_periods=transient_periods,
            num_blocks=num_blocks,
            start_time=start_time,
        ),
        rng=rng,
        tolerances={"rtol": rtol, "atol": atol},
        budget={"max_steps": max_steps, "max_abs": max_abs},
        unbounded=unbounded,
    )


def conditional_lyapunov_exponents(
    vector_field: VectorField,
    initial_conditions: ArrayLike,
    parameters: ArrayLike,
    *,
    response: Sequence[int],
    period: ArrayLike,
    rng: np.random.Generator,
    num_periods: float = 100.0,
    transient_periods: float = 20.0,
    num_blocks: int = 20,
    start_time: ArrayLike = 0.0,
    rtol: float = 1e-6,
    atol: float = 1e-8,
    max_steps: int = 200_000,
    max_abs: float = 1e4,
    unbounded: Sequence[int] = (),
) -> LyapunovResult:
    """Return the largest exponent of the `response` states when all other states are given.

    Below zero the response forgets its own past and follows the driver: generalised synchronisation.

    Args:
        response: indices of the states that are perturbed; the others drive them, and feel nothing of it.

    The rest as in `largest_lyapunov_exponents`.

    Source:
        L. M. Pecora, T. L. Carroll, Physical Review Letters 64, 821 (1990).
    """
    perturbed = tuple(response)
    check("response", response, len(perturbed) > 0, "name at least one state")
    check("response", response, len(set(perturbed)) == len(perturbed), "name each state once")
    states = range(vector_field.num_states)
    check("response", response, set(perturbed) <= set(states), f"hold state indices below {len(states)}")
    return _mean_growth(
        vector_field,
        perturbed,
        initial_conditions,
        parameters,
        timing=Timing(
            period=period,
            num_periods=num_periods,
            transient_periods=transient_periods,
            num_blocks=num_blocks,
            start_time=start_time,
        ),
        rng=rng,
        tolerances={"rtol": rtol, "atol": atol},
        budget={"max_steps": max_steps, "max_abs": max_abs},
        unbounded=unbounded,
    )


def summarise(growth: np.ndarray, status: list[IntegrationStatus], *, duration: np.ndarray) -> LyapunovResult:
    """Return mean rates and their errors from the logarithmic growth in each block.

    Args:
        growth: (num_trajectories, num_blocks, ...).
        duration: of one block, for all trajectories or one each.
    """
    num_trajectories, num_blocks = growth.shape[:2]
    rates = growth / np.broadcast_to(duration, num_trajectories).reshape(-1, *[1] * (growth.ndim - 1))
    rates[[one is not IntegrationStatus.COMPLETED for one in status]] = np.nan
    mean = rates.mean(axis=1)
    deviations = rates - mean[:, None]
    variance = (deviations**2).sum(axis=1) / (num_blocks - 1)
    # What swings at a border of two blocks is in both, with opposite signs; over the whole run only the ends count.
    of_neighbours = (deviations[:, 1:] * deviations[:, :-1]).sum(axis=1) / (num_blocks - 1)
    variance = np.maximum(variance + 2 * of_neighbours, variance / num_blocks)
    return LyapunovResult(mean, np.sqrt(variance / num_blocks), status)


def check(name: str, value: Any, holds: Any, rule: str) -> None:
    """Raise ValueError unless a rule about an argument holds."""
    if not holds:
        raise ValueError(f"{name} must {rule}, found {value!r}")


def _mean_growth(
    vector_field: VectorField,
    perturbed: tuple[int, ...],
    initial_conditions: ArrayLike,
    parameters: ArrayLike,
    *,
    timing: Timing,
    rng: np.random.Generator,
    tolerances: dict[str, float],
    budget: dict[str, Any],
    unbounded: Sequence[int],
) -> LyapunovResult:
    dimension = vector_field.num_states
    direction = rng.standard_normal(len(perturbed))
    direction /= np.linalg.norm(direction)
    if may_jump(vector_field):
        bundle = TangentBundle(
            vector_field,
            initial_conditions,
            parameters,
            direction[:, None],
            perturbed=perturbed,
            period=timing.period,
            start_time=timing.start_time,
            **tolerances,
        )
        growth = bundle.run(timing.transient, timing.block, num_blocks=timing.num_blocks, unbounded=unbounded, **budget)
        return summarise(growth[:, :, 0], bundle.status, duration=timing.block)
    states = np.atleast_2d(np.asarray(initial_conditions, np.float64))
    check("initial_conditions", states.shape, states.shape[1:] == (dimension,), f"have {dimension} columns")
    field = growth_field(vector_field, perturbed)
    added = np.append(direction, 0.0)
    result = integrate(
        field,
        np.hstack([states, np.broadcast_to(added, (len(states), len(added)))]),
        parameters,
        dt=timing.block,
        num_points=timing.num_blocks + 1,
        start_time=timing.start_time,
        transient=timing.transient,
        unbounded=(*unbounded, *range(dimension, field.num_states)),
        **tolerances,
        **budget,
    )
    return summarise(np.diff(result.states[:, :, -1], axis=1), result.status, duration=timing.block)
