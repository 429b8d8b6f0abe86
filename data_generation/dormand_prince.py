"""Dormand-Prince 8(5,3) for many trajectories at once: the compiled stepping core.

`LANES` trajectories advance side by side, each with its own time, step size and fate. All arithmetic runs over the
lanes of every state (arrays of rows of `LANES` numbers), and no lane ever reads another, so a trajectory has the same
bits whatever its neighbours. A lane whose trajectory ends takes the next one from the queue. numba's disk cache watches
this file alone: whatever is compiled into the integrator stands here.

Method, error estimate and interpolant: E. Hairer, S. P. Norsett, G. Wanner, Solving Ordinary Differential Equations I,
second edition, II.5-II.6; coefficients and step control are those of SciPy's `DOP853`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import njit
from scipy.integrate._ivp import dop853_coefficients as tableau

from data_generation.lanes import DRIVER_SIGNATURE, Lanes, Task

LANES = 16
FAST_MATH = {"contract", "nsz", "arcp"}
"""Fused multiply-add, no signed zeros, division by reciprocal: none of them breaks checks for NaN."""
COMPLETED, DIVERGED, NOT_FINITE, STEP_TOO_SMALL, TOO_MANY_STEPS = range(5)

NUM_STAGES = tableau.N_STAGES
NUM_EXTENDED = tableau.N_STAGES_EXTENDED
SAFETY, SMALLEST_FACTOR, LARGEST_FACTOR = 0.9, 0.2, 10.0
SMALLEST_STEP = 1e-10
LARGEST_STEP = 1e3
"""Both in sampling intervals."""

# Every weighted sum of stages that a step needs, zeros left out: row r is ENTRIES[STARTS[r] : STARTS[r + 1]].
_rows = [*tableau.A, *(np.pad(row, (0, NUM_EXTENDED - len(row))) for row in (tableau.E3, tableau.E5)), *tableau.D]
ERROR_3, ERROR_5, INTERPOLANT = NUM_EXTENDED, NUM_EXTENDED + 1, NUM_EXTENDED + 2
STARTS = np.cumsum([0, *(int(np.count_nonzero(row)) for row in _rows)])
ENTRIES = np.concatenate([np.flatnonzero(row) for row in _rows])
WEIGHTS = np.concatenate([row[row != 0] for row in _rows])
NODES = np.array(tableau.C)

# Arrays come from Python and are only borrowed here: without numba's reference counting a step takes a third less time.
_OPTIONS: dict[str, Any] = {"fastmath": FAST_MATH, "error_model": "numpy", "nogil": True, "_nrt": False}
_compiled = njit(**_OPTIONS)


def idle_lanes(dimension: int, num_constants: int) -> Lanes:
    """Return lanes with nothing in them."""
    shapes = dict.fromkeys(Lanes._fields, LANES)
    shapes |= dict.fromkeys(("state", "argument", "proposal", "total", "total_3"), dimension * LANES)
    shapes |= {"lane_constants": num_constants * LANES}
    shapes |= {"stages": (NUM_EXTENDED, dimension * LANES), "polynomial": (7, dimension * LANES)}
    whole, flags = ("trajectory", "next_point", "num_steps"), ("starting", "rejected")
    return Lanes(
        **{
            field: np.zeros(shape, np.int64 if field in whole else np.bool_ if field in flags else np.float64)
            for field, shape in shapes.items()
        }
    )


@_compiled
def _sum_stages(row, stages, total):
    total[:] = 0.0
    for entry in range(STARTS[row], STARTS[row + 1]):
        stage, weight = ENTRIES[entry], WEIGHTS[entry]
        for i in range(total.size):
            total[i] += weight * stages[stage, i]


@_compiled
def _set_clock(clock, first_time, time, taken, fraction):
    for lane in range(LANES):
        clock[lane] = first_time[lane] + (time[lane] + fraction * taken[lane])


@_compiled
def _evaluate_stages(kernel, lanes, first, end, argument):
    """Fill stages `first` to `end` - 1; the argument of the last one stays in `argument`."""
    state, taken, total, stages = lanes.state, lanes.taken, lanes.total, lanes.stages
    first_time, time, clock, constants = lanes.first_time, lanes.time, lanes.clock, lanes.lane_constants
    for stage in range(first, end):
        _sum_stages(stage, stages, total)
        for start in range(0, state.size, LANES):
            for lane in range(LANES):
                argument[start + lane] = state[start + lane] + taken[lane] * total[start + lane]
        _set_clock(clock, first_time, time, taken, NODES[stage])
        kernel(argument, clock, constants, stages[stage])


@_compiled
def _estimate_error(lanes, rtol, atol):
    """Fill `error` with the norm of SciPy's DOP853: 1 is just acceptable."""
    state, proposal, taken, error = lanes.state, lanes.proposal, lanes.taken, lanes.error
    total, total_3 = lanes.total, lanes.total_3
    _sum_stages(ERROR_3, lanes.stages, total_3)
    _sum_stages(ERROR_5, lanes.stages, total)
    norm_3, norm_5 = lanes.argument[:LANES], error
    norm_3[:] = 0.0
    norm_5[:] = 0.0
    for start in range(0, state.size, LANES):
        for lane in range(LANES):
            i = start + lane
            scale = atol + rtol * max(abs(state[i]), abs(proposal[i]))
            norm_3[lane] += (total_3[i] / scale) ** 2
            norm_5[lane] += (total[i] / scale) ** 2
    dimension = state.size // LANES
    for lane in range(LANES):
        denominator = np.sqrt((norm_5[lane] + 0.01 * norm_3[lane]) * dimension)
        error[lane] = taken[lane] * norm_5[lane] / denominator if denominator != 0.0 else 0.0


@_compiled
def _try_step(kernel, task, lanes):
    """Try one step in every lane: fill `taken`, `stages`, `proposal` and `error`."""
    time, step, taken = lanes.time, lanes.step, lanes.taken
    for lane in range(LANES):
        taken[lane] = -time[lane] if time[lane] < 0.0 and time[lane] + step[lane] >= 0.0 else step[lane]
    _evaluate_stages(kernel, lanes, 1, NUM_STAGES, lanes.argument)
    _evaluate_stages(kernel, lanes, NUM_STAGES, NUM_STAGES + 1, lanes.proposal)
    _estimate_error(lanes, task.rtol, task.atol)


@_compiled
def _reaches_point(lanes):
    """Whether any accepted step holds a sampling point."""
    trajectory, next_point, dt = lanes.trajectory, lanes.next_point, lanes.dt
    time, taken, error = lanes.time, lanes.taken, lanes.error
    for lane in range(LANES):
        stores = trajectory[lane] >= 0 and time[lane] >= 0.0 and error[lane] < 1.0
        if stores and next_point[lane] * dt[lane] <= time[lane] + taken[lane]:
            return True
    return False


@_compiled
def _interpolate(kernel, lanes):
    """Fill `polynomial`, the seventh-order interpolant of the step just tried."""
    state, proposal, taken, polynomial, stages = (
        lanes.state, lanes.proposal, lanes.taken, lanes.polynomial, lanes.stages
    )  # fmt: skip
    for start in range(0, state.size, LANES):
        for lane in range(LANES):
            i = start + lane
            change = proposal[i] - state[i]
            slope = taken[lane] * stages[0, i]
            polynomial[0, i] = change
            polynomial[1, i] = slope - change
            polynomial[2, i] = 2.0 * change - slope - taken[lane] * stages[NUM_STAGES, i]
    _evaluate_stages(kernel, lanes, NUM_STAGES + 1, NUM_EXTENDED, lanes.argument)
    for power in range(3, 7):
        _sum_stages(INTERPOLANT + power - 3, stages, polynomial[power])
        for start in range(0, state.size, LANES):
            for lane in range(LANES):
                polynomial[power, start + lane] *= taken[lane]


@_compiled
def _store_points(points, point, dt, time, taken, lane, state, polynomial):
    """Write the sampling points of one trajectory that lie in the step just taken; return the next one."""
    while point < points.shape[0] and point * dt <= time + taken:
        x = (point * dt - time) / taken
        for d in range(points.shape[1]):
            i = d * LANES + lane
            value = polynomial[6, i] * x
            value = (value + polynomial[5, i]) * (1.0 - x)
            value = (value + polynomial[4, i]) * x
            value = (value + polynomial[3, i]) * (1.0 - x)
            value = (value + polynomial[2, i]) * x
            value = (value + polynomial[1, i]) * (1.0 - x)
            value = (value + polynomial[0, i]) * x
            points[point, d] = state[i] + value
        point += 1
    return point


@_compiled
def _judge(task, lanes):
    """In every lane accept or reject the step just tried, and choose the next one; end what is to end."""
    state, proposal, stages, polynomial = lanes.state, lanes.proposal, lanes.stages, lanes.polynomial
    time, step, taken, error, dt = lanes.time, lanes.step, lanes.taken, lanes.error, lanes.dt
    rejected, next_point, num_steps = lanes.rejected, lanes.next_point, lanes.num_steps
    trajectories, evaluations, points, limits = lanes.trajectory, task.evaluations, task.points, task.limits
    for lane in range(LANES):
        trajectory = trajectories[lane]
        if trajectory < 0:
            continue
        num_steps[lane] += 1
        evaluations[trajectory] += NUM_STAGES
        factor = SAFETY / np.sqrt(np.sqrt(np.sqrt(error[lane])))
        if not error[lane] < 1.0:
            rejected[lane] = True
            step[lane] = taken[lane] * (factor if factor > SMALLEST_FACTOR else SMALLEST_FACTOR)
            if step[lane] < SMALLEST_STEP * dt[lane]:
                _end(task, lanes, lane, STEP_TOO_SMALL if np.isfinite(error[lane]) else NOT_FINITE)
            elif num_steps[lane] >= task.max_steps:
                _end(task, lanes, lane, TOO_MANY_STEPS)
            continue
        inside = True
        for d in range(limits.size):
            inside &= abs(proposal[d * LANES + lane]) <= limits[d]
        if not inside:
            _end(task, lanes, lane, DIVERGED)
            continue
        before = time[lane]
        time[lane] += taken[lane]
        if before >= 0.0 and next_point[lane] * dt[lane] <= time[lane]:
            evaluations[trajectory] += NUM_EXTENDED - NUM_STAGES - 1
            next_point[lane] = _store_points(
                points[trajectory], next_point[lane], dt[lane], before, taken[lane], lane, state, polynomial
            )
        for i in range(lane, state.size, LANES):
            state[i] = proposal[i]
            stages[0, i] = stages[NUM_STAGES, i]
        factor = min(factor, 1.0 if rejected[lane] else LARGEST_FACTOR)
        step[lane] = min(taken[lane] * factor, LARGEST_STEP * dt[lane])
        rejected[lane] = False
        if before < 0.0 and time[lane] == 0.0:
            _meet_first_point(task, lanes, lane)
        if next_point[lane] == points.shape[1]:
            _end(task, lanes, lane, COMPLETED)
        elif num_steps[lane] >= task.max_steps:
            _end(task, lanes, lane, TOO_MANY_STEPS)


@_compiled
def _meet_first_point(task, lanes, lane):
    """Store it and start afresh, so that integrating from the stored point gives the same bits."""
    for d in range(task.points.shape[2]):
        task.points[lanes.trajectory[lane], 0, d] = lanes.state[d * LANES + lane]
    lanes.next_point[lane] = 1
    lanes.starting[lane] = True


@_compiled
def _end(task, lanes, lane, status):
    trajectory = lanes.trajectory[lane]
    task.status[trajectory] = status
    for point in range(lanes.next_point[lane], task.points.shape[1]):
        for d in range(task.points.shape[2]):
            task.points[trajectory, point, d] = np.nan
    task.queue[1] += 1
    _load_next(task, lanes, lane)


@_compiled
def _load_next(task, lanes, lane):
    """Put the next trajectory of the queue into a lane, or leave the lane idle."""
    trajectory = task.queue[0]
    lanes.step[lane] = 0.0
    lanes.starting[lane] = trajectory < task.status.size
    if trajectory == task.status.size:
        lanes.trajectory[lane] = -1
        return
    task.queue[0] += 1
    lanes.trajectory[lane] = trajectory
    lanes.first_time[lane] = task.first_time[trajectory]
    lanes.dt[lane] = task.dt[trajectory]
    lanes.time[lane] = -task.transient[trajectory]
    lanes.num_steps[lane] = 0
    lanes.next_point[lane] = 0
    lanes.rejected[lane] = False
    for d in range(task.initial_states.shape[1]):
        lanes.state[d * LANES + lane] = task.initial_states[trajectory, d]
    for c in range(task.constants.shape[1]):
        lanes.lane_constants[c * LANES + lane] = task.constants[trajectory, c]
    if lanes.time[lane] == 0.0:
        _meet_first_point(task, lanes, lane)


@_compiled
def _start_lanes(kernel, task, lanes):
    """Evaluate the flow and choose the first step in every lane that starts (Hairer et al., II.4)."""
    state, argument, total, stages, taken = lanes.state, lanes.argument, lanes.total, lanes.stages, lanes.taken
    steepness = lanes.steepness
    steepness[:] = 0.0
    taken[:] = 0.0
    for i in range(state.size):
        argument[i] = state[i]
    _set_clock(lanes.clock, lanes.first_time, lanes.time, taken, 0.0)
    kernel(state, lanes.clock, lanes.lane_constants, total)
    for lane in range(LANES):
        if lanes.starting[lane]:
            size = 0.0
            for i in range(lane, state.size, LANES):
                scale = task.atol + task.rtol * abs(state[i])
                size += (state[i] / scale) ** 2
                steepness[lane] += (total[i] / scale) ** 2
                stages[0, i] = total[i]
            trial, least = 0.01 * np.sqrt(size / steepness[lane]), 1e-6 * lanes.dt[lane]
            taken[lane] = min(trial, lanes.dt[lane]) if trial > least else least
            for i in range(lane, state.size, LANES):
                argument[i] += taken[lane] * total[i]
    _set_clock(lanes.clock, lanes.first_time, lanes.time, taken, 1.0)
    kernel(argument, lanes.clock, lanes.lane_constants, total)
    for lane in range(LANES):
        if lanes.starting[lane]:
            bend = 0.0
            for i in range(lane, state.size, LANES):
                scale = task.atol + task.rtol * abs(state[i])
                bend += ((total[i] - stages[0, i]) / (scale * taken[lane])) ** 2
            steepest = np.sqrt(max(steepness[lane], bend) / task.limits.size)
            lanes.step[lane] = min(100.0 * taken[lane], np.sqrt(np.sqrt(np.sqrt(0.01 / steepest))))
            lanes.starting[lane] = False
            task.evaluations[lanes.trajectory[lane]] += 2
            if not np.isfinite(steepness[lane] + bend):
                _end(task, lanes, lane, NOT_FINITE)


@cache
def load_driver() -> Callable[[Any, Task, Lanes], None]:
    """Return the compiled integrator `(kernel, task, lanes)`; it fills the last four fields of `task`.

    Compiled once for all systems, in about ten seconds, and kept in numba's disk cache. `kernel` is a
    `Kernel.function`, `lanes` come from `idle_lanes`.
    """
    return njit(DRIVER_SIGNATURE, cache=True, **_OPTIONS)(_integrate_lanes)


def _integrate_lanes(kernel, task, lanes):
    for lane in range(LANES):
        _load_next(task, lanes, lane)
    while task.queue[1] < task.status.size:
        while lanes.starting.any():
            _start_lanes(kernel, task, lanes)
        _try_step(kernel, task, lanes)
        if _reaches_point(lanes):
            _interpolate(kernel, lanes)
        _judge(task, lanes)
