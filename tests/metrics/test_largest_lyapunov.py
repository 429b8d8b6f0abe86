"""Largest exponents of orbits against those known of their systems, and against a count over all pairs."""

import numpy as np
import pytest
from scipy.integrate import odeint

from hf_tsdyn.metrics import largest_lyapunov


def logistic(steps):
    orbit = np.empty((steps, 1))
    x = 0.3
    for point in orbit:
        x = 4 * x * (1 - x)
        point[:] = x
    return orbit


def henon(steps):
    orbit = np.empty((steps, 2))
    x, y = 0.1, 0.1
    for point in orbit:
        x, y = 1 - 1.4 * x * x + y, 0.3 * x
        point[:] = x, y
    return orbit


def lorenz(steps, dt=0.05):
    def flow(state, _):
        x, y, z = state
        return 10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z

    return odeint(flow, [1.0, 1.0, 20.0], dt * np.arange(steps + 500), rtol=1e-9, atol=1e-9)[500:]


def rossler(steps, dt=0.1):
    def flow(state, _):
        x, y, z = state
        return -y - z, x + 0.2 * y, 0.2 + z * (x - 5.7)

    return odeint(flow, [1.0, 1.0, 0.0], dt * np.arange(steps + 1000), rtol=1e-9, atol=1e-9)[1000:]


def circle(steps, turn=0.1234567):
    phase = turn * np.arange(steps)
    return np.stack([np.cos(phase), 100 * np.sin(phase) + 5], axis=1)


def noise(steps, channels, seed=0):
    return np.random.default_rng(seed).normal(size=(steps, channels))


@pytest.mark.parametrize("steps", [2048, 3584])
@pytest.mark.parametrize(
    ("system", "dt", "exponent", "tolerance"),
    [
        (logistic, 1.0, np.log(2), 0.02),
        (henon, 1.0, 0.419, 0.05),
        (lorenz, 0.05, 0.906, 0.25),
        (rossler, 0.1, 0.0714, 0.35),
    ],
)
def test_exponent_of_a_known_system(system, dt, exponent, tolerance, steps):
    orbit = system(2 * steps)
    for part in (orbit[:steps], orbit[steps:]):
        found = largest_lyapunov(part, dt=dt)
        assert found.exponent == pytest.approx(exponent, rel=tolerance)
        assert 0 < found.standard_error < 0.35 * exponent


@pytest.mark.parametrize("turn", [0.1234567, 2 * np.pi / 50], ids=["never the same point", "the same 50 points"])
def test_a_cycle_has_no_growth(turn):
    found = largest_lyapunov(circle(2048, turn))
    assert found.exponent == pytest.approx(0, abs=1e-6)
    assert found.standard_error == pytest.approx(0, abs=1e-6)
    assert (found.first, found.last) == (0, 2048 // 8)


def test_noise_parts_at_once():
    assert largest_lyapunov(noise(2048, 3)).exponent > 1


def slope(curve, first, last):
    return np.polyfit(np.arange(first, last + 1), curve[first : last + 1], 1)[0]


def test_result_is_that_of_all_pairs_written_out():
    orbit, window, kept, followed = henon(1200), 7, 1050, 150
    found = largest_lyapunov(orbit, theiler_window=window)
    points = (orbit - orbit.mean(axis=0)) / orbit.std(axis=0)
    distances = np.linalg.norm(points[:, None] - points, axis=-1)
    times = np.arange(kept)
    near = np.abs(times[:, None] - times) <= window
    nearest = np.where(near, np.inf, distances[:kept, :kept]).argmin(axis=1)
    logs = np.log([distances[times + step, nearest + step] for step in range(followed + 1)])
    curve = logs.mean(axis=1)
    np.testing.assert_allclose(found.log_distances, curve, rtol=1e-9, atol=1e-9)

    lags = np.linspace(window + 1, 600, 16).astype(int)
    saturation = np.mean([np.log(np.diagonal(distances, lag)).mean() for lag in lags])
    climb = (curve - curve[0]) / (saturation - curve[0])
    first, last = np.argmax(climb > 0.3), np.argmax(climb > 0.6)
    assert (found.first, found.last) == (first, last)
    assert found.exponent == pytest.approx(slope(curve, first, last))

    blocks = times * 10 // kept
    without = [slope(logs[:, blocks != block].mean(axis=1), first, last) for block in range(10)]
    middle = (first + last) // 2
    bend = (slope(curve, first, middle) - slope(curve, middle, last)) / 2
    assert found.standard_error == pytest.approx(np.hypot(np.sqrt(9 * np.var(without)), bend))


def test_neighbours_are_outside_the_window():
    default, shorter = (largest_lyapunov(lorenz(2048, 0.002), theiler_window=window) for window in (None, 1))
    # Within it the next points of the same stretch are nearest, and stay so.
    assert shorter.log_distances[0] < default.log_distances[0] - 0.5
    assert shorter.exponent < 0.5 * default.exponent


def test_exponents_are_per_time_and_do_not_depend_on_units():
    orbit = henon(2048)
    found, rescaled = largest_lyapunov(orbit), largest_lyapunov(orbit * [1e-6, 1e6] + [5.0, -1e3], dt=0.01)
    assert rescaled.exponent == pytest.approx(100 * found.exponent, rel=1e-4)
    assert rescaled.standard_error == pytest.approx(100 * found.standard_error, rel=1e-2)


@pytest.mark.parametrize(
    ("series", "options", "message"),
    [
        (noise(999, 2), {}, r"at least 1000 steps, found \(999, 2\)"),
        (noise(2000, 2) * [1, 0], {}, r"constant channels \[1\]"),
        (np.full((2000, 2), 3.0), {}, r"constant channels \[0, 1\]"),
        (np.where(np.arange(2000)[:, None] == 7, np.inf, noise(2000, 2)), {}, "NaN or infinity"),
        (noise(2000, 2), {"theiler_window": -1}, "found -1"),
        (noise(2000, 2), {"dt": 0.0}, "dt must be positive, found 0.0"),
        (np.linspace(0, 1, 2000)[:, None], {}, "a tenth of the series' 2000 steps"),
    ],
)
def test_what_has_no_exponent_is_named(series, options, message):
    with pytest.raises(ValueError, match=message):
        largest_lyapunov(series, **options)
