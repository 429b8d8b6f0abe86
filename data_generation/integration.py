"""Integrate many trajectories of one vector field; every failure is a named value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from data_generation import dormand_prince
from data_generation.expressions import VectorField
from data_generation.kernels import load_kernel
from data_generation.lanes import Task


class IntegrationStatus(Enum):
    """How the integration of one trajectory ended; `message` says what to do about it."""

    COMPLETED = dormand_prince.COMPLETED, "every point was reached"
    DIVERGED = (
        dormand_prince.DIVERGED,
        ("a bounded state grew beyond max_abs; choose parameters nearer the defaults, or raise max_abs"),
    )
    NOT_FINITE = (
        dormand_prince.NOT_FINITE,
        ("the right-hand side has no finite value on the way; choose parameters or initial conditions in its domain"),
    )
    STEP_TOO_SMALL = (
        dormand_prince.STEP_TOO_SMALL,
        (
            "the step fell below 1e-10 sampling intervals, at a singularity or a discontinuity; loosen rtol and atol, "
            "or choose other parameters"
        ),
    )
    TOO_MANY_STEPS = (
        dormand_prince.TOO_MANY_STEPS,
        (
            "max_steps attempts did not reach the last point, perhaps because the system is stiff; raise max_steps, "
            "loosen rtol and atol, or ask for fewer points"
        ),
    )

    def __new__(cls, code: int, message: str) -> IntegrationStatus:
        member = object.__new__(cls)
        member._value_ = code
        return member

    def __init__(self, code: int, message: str) -> None:
        self.message = message


@dataclass(frozen=True, eq=False)
class IntegrationResult:
    """What `integrate` returns, one row per trajectory."""

    states: np.ndarray
    """(num_trajectories, num_points, dimension) float64; NaN from the failure on."""
    status: list[IntegrationStatus]
    num_evaluations: np.ndarray
    """(num_trajectories,) evaluations of the right-hand side, whatever the number of lanes beside it."""


def integrate(
    vector_field: VectorField,
    initial_conditions: ArrayLike,
    parameters: ArrayLike,
    *,
    dt: ArrayLike,
    num_points: int,
    start_time: ArrayLike = 0.0,
    transient: ArrayLike = 0.0,
    rtol: float = 1e-10,
    atol: float = 1e-12,
    max_steps: int = 50_000,
    max_abs: float = 1e4,
    unbounded: Sequence[int] = (),
) -> IntegrationResult:
    """Integrate a batch of trajectories with the Dormand-Prince method of order 8(5,3).

    Each trajectory runs for `transient` from its initial condition, stores the point it has reached, and goes on to
    store `num_points` points in all, `dt` apart, read off an interpolant of order 7. It starts afresh at the first
    stored point: integrating from there (with `start_time` moved by `transient` and no transient) gives the same
    bits. A longer run begins with the bits of a shorter one, and neighbours in the batch change nothing.

    Args:
        initial_conditions: (num_trajectories, dimension), or (dimension,) for all.
        parameters: (num_trajectories, num_parameters), or (num_parameters,) for all.
        dt: sampling interval, one for all or one each; in the system's time, like `start_time` and `transient`.
        num_points: points to store.
        rtol, atol: a step is accepted if its error is below atol + rtol |state|, in the root mean square over states.
        max_steps: steps tried before a trajectory is given up.
        max_abs: largest magnitude of a state, for all but the `unbounded` ones.

    Raises:
        ValueError: a shape does not fit, or a number is out of range.
    """
    _check("num_points", num_points, num_points >= 1, "be at least 1")
    _check("max_steps", max_steps, max_steps >= 1, "be at least 1")
    _check("max_abs", max_abs, max_abs > 0, "be positive")
    _check("rtol", rtol, rtol > 0, "be positive")
    _check("atol", atol, atol > 0, "be positive")
    dimension, num_parameters = vector_field.num_states, len(vector_field.parameter_names)
    _check("unbounded", unbounded, set(unbounded) <= set(range(dimension)), f"hold state indices below {dimension}")
    starts, vectors = (np.atleast_2d(np.asarray(rows, np.float64)) for rows in (initial_conditions, parameters))
    times = {"dt": dt, "start_time": start_time, "transient": transient}
    lengths = (len(starts), len(vectors), *map(np.size, times.values()))
    num_trajectories = next((length for length in lengths if length != 1), 1)
    starts = _rows("initial_conditions", starts, (num_trajectories, dimension))
    vectors = _rows("parameters", vectors, (num_trajectories, num_parameters))
    intervals, first_times, transients = (
        _rows(name, np.asarray(value, np.float64), (num_trajectories,)) for name, value in times.items()
    )
    _check("dt", dt, np.all(np.isfinite(intervals) & (intervals > 0)), "be positive and finite")
    _check("start_time", start_time, np.isfinite(first_times).all(), "be finite")
    _check("transient", transient, np.all(np.isfinite(transients) & (transients >= 0)), "be zero or more and finite")
    limits = np.full(dimension, float(max_abs))
    limits[list(unbounded)] = np.finfo(np.float64).max
    kernel = load_kernel(vector_field)
    constants = np.ascontiguousarray(kernel.constants(vectors))
    task = Task(
        initial_states=starts,
        constants=constants,
        first_time=first_times + transients,
        transient=transients,
        dt=intervals,
        limits=limits,
        rtol=float(rtol),
        atol=float(atol),
        max_steps=int(max_steps),
        points=np.empty((num_trajectories, num_points, dimension)),
        status=np.zeros(num_trajectories, dtype=np.int64),
        evaluations=np.zeros(num_trajectories, dtype=np.int64),
        queue=np.zeros(2, dtype=np.int64),
    )
    lanes = dormand_prince.idle_lanes(dimension, constants.shape[1])
    dormand_prince.load_driver()(kernel.function, task, lanes)
    return IntegrationResult(task.points, [IntegrationStatus(code) for code in task.status.tolist()], task.evaluations)


def _rows(name: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return `values` repeated to `shape`, contiguous and owned."""
    try:
        return np.array(np.broadcast_to(values, shape), order="C")
    except ValueError as error:
        raise ValueError(
            f"{name} must fit shape {shape} (one row per trajectory, or one for all), found {values.shape}"
        ) from error


def _check(name: str, value: Any, holds: Any, rule: str) -> None:
    if not holds:
        raise ValueError(f"{name} must {rule}, found {value!r}")
