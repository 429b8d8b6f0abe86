"""What the compiled integrator works on: the task, the state of its lanes, and their types."""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types


class Task(NamedTuple):
    """What to integrate, one row per trajectory, and where the results go."""

    initial_states: Any
    constants: Any
    first_time: Any
    """Time of the first stored point; lanes count time from there."""
    transient: Any
    dt: Any
    limits: Any
    """(dimension,) largest magnitude of each state."""
    rtol: float
    atol: float
    max_steps: int
    points: Any
    """(num_trajectories, num_points, dimension)"""
    status: Any
    evaluations: Any
    queue: Any
    """(2,) next trajectory to start, number of trajectories ended."""


class Lanes(NamedTuple):
    """State of the lanes: one number per lane, or flat arrays of one row of `LANES` numbers per state."""

    trajectory: Any
    """-1 in an idle lane."""
    starting: Any
    first_time: Any
    dt: Any
    time: Any
    step: Any
    """Step size wished for; `taken` is the one tried, shorter where the first stored point is met, 0 if idle."""
    taken: Any
    error: Any
    rejected: Any
    """Whether the last attempt was rejected."""
    next_point: Any
    num_steps: Any
    state: Any
    argument: Any
    proposal: Any
    total: Any
    total_3: Any
    clock: Any
    steepness: Any
    lane_constants: Any
    stages: Any
    """(NUM_EXTENDED, dimension * LANES)"""
    polynomial: Any
    """(7, dimension * LANES)"""


_numbers, _table, _counts, _flags = types.float64[::1], types.float64[:, ::1], types.int64[::1], types.boolean[::1]
_FIELD_TYPES = {
    **dict.fromkeys((*Task._fields, *Lanes._fields), _numbers),
    **dict.fromkeys(("initial_states", "constants", "stages", "polynomial"), _table),
    **dict.fromkeys(("status", "evaluations", "queue", "trajectory", "next_point", "num_steps"), _counts),
    **dict.fromkeys(("starting", "rejected"), _flags),
    **dict.fromkeys(("rtol", "atol"), types.float64),
    "max_steps": types.int64,
    "points": types.float64[:, :, ::1],
}
DRIVER_SIGNATURE = types.void(
    types.FunctionType(types.void(_numbers, _numbers, _numbers, _numbers)),
    types.NamedTuple([_FIELD_TYPES[field] for field in Task._fields], Task),
    types.NamedTuple([_FIELD_TYPES[field] for field in Lanes._fields], Lanes),
)
