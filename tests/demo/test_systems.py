import math

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from hf_tsdyn.demo import systems
from hf_tsdyn.demo.systems import SYSTEMS, shipped_trajectory


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_shipped_series_has_the_units_and_the_lyapunov_time_of_its_system(name):
    system, series = SYSTEMS[name], shipped_trajectory(name, num_steps=500)
    np.testing.assert_allclose(series.values.mean(axis=0), system.loc, atol=1e-4)
    np.testing.assert_allclose(series.values.std(axis=0), system.scale, atol=1e-4)
    assert series.lyapunov_time * system.lyapunov_exponent == pytest.approx(1)
    assert series.dt == system.dt
    assert "rescaled" in series.remark
    assert [series.channel_name(channel) for channel in range(3)] == ["x", "y", "z"]


@pytest.mark.parametrize(
    ("name", "slope"),
    {
        "Lorenz-63": (10.0, 23.0, -6.0),
        "Rössler": (-5.0, 1.4, -13.9),
        "Halvorsen": (-25.27, -27.54, -16.81),
        "Thomas": (math.sin(2) - 0.18, math.sin(3) - 0.36, math.sin(1) - 0.54),
    }.items(),
)
def test_each_system_has_its_equations(name, slope):
    """At (1, 2, 3), from the equations as they are printed."""
    assert SYSTEMS[name].derivative(1.0, 2.0, 3.0) == pytest.approx(slope)


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_integration_is_as_precise_as_a_finer_one(name):
    system = SYSTEMS[name]
    times = system.dt * np.arange(60)
    exact = solve_ivp(
        lambda _, state: system.derivative(*state), (0, times[-1]), systems.START, t_eval=times, rtol=1e-9, atol=1e-9
    ).y.T
    np.testing.assert_allclose(systems._integrate(system, 60), exact, atol=2e-4)


@pytest.mark.parametrize("name", SYSTEMS)
def test_each_exponent_is_the_rate_at_which_close_orbits_part(name, monkeypatch):
    """Two orbits, brought back together every few Lyapunov times (Benettin's method), over some 110 of them."""
    system = SYSTEMS[name]
    stretch = round(6 / system.lyapunov_exponent / system.dt)

    def carried(start):
        monkeypatch.setattr(systems, "START", tuple(start))
        return systems._integrate(system, stretch + 1)[-1]

    state = systems._integrate(system, systems.TRANSIENT_STEPS)[-1]
    apart, rates = np.array([1e-6, 0.0, 0.0]), []
    for _ in range(20):
        other, state = carried(state + apart), carried(state)
        distance = np.linalg.norm(other - state)
        rates.append(np.log(distance / 1e-6) / stretch / system.dt)
        apart = (other - state) * 1e-6 / distance
    assert np.mean(rates[2:]) == pytest.approx(system.lyapunov_exponent, rel=0.12)
