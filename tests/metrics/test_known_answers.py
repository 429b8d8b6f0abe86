"""What chaos and simple series promise of the scores of forecasts and of free runs."""

import numpy as np
import pytest
import torch
from scipy.integrate import odeint, solve_ivp

from hf_tsdyn.baselines import Persistence
from hf_tsdyn.metrics import mase, state_space_divergence, truth_floor, valid_prediction

LYAPUNOV_TIME = 1 / 0.9056


def flow(state, _, rho=28.0):
    """Derivatives of Lorenz-63 at a state (3, ...)."""
    x, y, z = state
    return 10 * (y - x), x * (rho - z) - y, x * y - 8 / 3 * z


def long_orbit(start, steps, *, rho=28.0):
    """(steps, 3), 0.1 apart, from a start outside the attractor, after the time it takes to get there."""
    return odeint(flow, start, 0.1 * np.arange(steps + 300), args=(rho,), rtol=1e-6, atol=1e-6)[300:]


def orbits_from(starts, times):
    """(..., times, 3) of orbits from starts (..., 3)."""
    shape = (3, *starts.shape[:-1])
    result = solve_ivp(
        lambda time, states: np.ravel(flow(states.reshape(shape), time)),
        times[[0, -1]],
        np.moveaxis(starts, -1, 0).ravel(),
        method="DOP853",
        t_eval=times,
        rtol=1e-9,
        atol=1e-10,
    )
    return np.moveaxis(result.y.reshape(*shape, len(times)), 0, -1)


def test_valid_prediction_time_grows_as_the_log_of_the_error_over_the_exponent():
    errors, dt, count = np.geomspace(1e-8, 1e-3, 6), 0.02, 32
    starts = long_orbit([1.0, 1.0, 20.0], count * 20)[::20]
    directions = np.random.default_rng(1).normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    moved = starts + errors[:, None, None] * directions
    orbits = orbits_from(np.concatenate([starts[None], moved]), dt * np.arange(1400))
    times = np.empty((len(errors), count))
    for row, forecast in zip(times, orbits[1:], strict=True):
        valid = valid_prediction(orbits[0, :, 1:], forecast[:, 1:], past_values=orbits[0])
        assert not valid.saturated.any()
        row[:] = valid.time(dt=dt, unit=LYAPUNOV_TIME)
    slopes = np.polyfit(-np.log(errors), times, 1)[0]  # one a start: its exponent over the time to go varies
    standard_error = slopes.std(ddof=1) / np.sqrt(count)
    assert standard_error < 0.04
    assert slopes.mean() == pytest.approx(1, abs=3 * standard_error)


def test_divergence_of_one_true_orbit_from_another_is_near_the_floor():
    first, second = long_orbit([1.0, 1.0, 20.0], 20_000), long_orbit([-3.0, 5.0, 30.0], 10_000)
    floor = truth_floor(first, state_space_divergence)
    assert floor.steps == 10_000
    divergence = state_space_divergence(first[:10_000], second)
    assert divergence == pytest.approx(floor.value, rel=0.2)
    other_parameter = long_orbit([1.0, 1.0, 20.0], 10_000, rho=32.0)
    assert state_space_divergence(first[:10_000], other_parameter) > 3 * divergence


@pytest.mark.parametrize(
    ("series", "of_two_steps"),
    [(3.0 * np.arange(60) - 7, 1.5), (np.tile([2.0, -5.0], 30), 0.5)],
    ids=["ramp", "zigzag"],
)
def test_persistence_one_step_ahead_errs_by_one_where_all_steps_are_equal(series, of_two_steps):
    past, future = series[None, :50, None], series[None, 50:, None]
    for horizon, expected in ((1, 1.0), (2, of_two_steps)):
        forecast = Persistence().forecast(torch.from_numpy(past), prediction_length=horizon).numpy()
        np.testing.assert_allclose(mase(future[:, :horizon], forecast, past_values=past), [expected], rtol=1e-12)


def test_persistence_one_step_ahead_errs_by_one_on_average_where_steps_are_alike():
    walks = np.cumsum(np.random.default_rng(0).normal(size=(4000, 101, 1)), axis=1)
    past, future = walks[:, :100], walks[:, 100:]
    forecast = Persistence().forecast(torch.from_numpy(past), prediction_length=1).numpy()
    errors = mase(future, forecast, past_values=past)
    assert errors.mean() == pytest.approx(1, abs=4 * errors.std() / np.sqrt(4000))
