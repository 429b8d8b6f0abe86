"""Lyapunov exponents against closed forms and the literature; what a batch or a failure may not change."""

import numpy as np
import pytest

from data_generation.expressions import trace
from data_generation.integration import IntegrationStatus, integrate
from data_generation.lyapunov import conditional_lyapunov_exponents, largest_lyapunov_exponents
from data_generation.lyapunov_spectrum import lyapunov_spectrum
from data_generation.systems import load_system
from hf_tsdyn.metrics import kaplan_yorke_dimension

COMPLETED = IntegrationStatus.COMPLETED
LORENZ = trace(
    lambda x, t, p: [p["sigma"] * (x[1] - x[0]), x[0] * (p["rho"] - x[2]) - x[1], x[0] * x[1] - p["beta"] * x[2]],
    3,
    {"beta": 8 / 3, "rho": 28.0, "sigma": 10.0},
)
LORENZ_STARTS = np.array([1.0, 1.0, 20.0]) + np.linspace(0, 3, 16)[:, None]
CLASSIC = [8 / 3, 28.0, 10.0]
LINEAR = trace(lambda x, t, p: p["a"] @ x, 4, {"a": np.zeros((4, 4))})
SQUARE = trace(lambda x, t, p: [p["rate"] * x[0] ** 2], 1, {"rate": 1.0})


def rng():
    return np.random.default_rng(0)


def linear_map(*rates):
    """A matrix with a pair of complex eigenvalues rates[0] +- 2i and the real ones that follow, far from normal."""
    block = np.diag([rates[0], rates[0], *rates[1:]])
    block[0, 1], block[1, 0] = 2.0, -2.0
    basis = np.random.default_rng(1).standard_normal((4, 4))
    return (basis @ block @ np.linalg.inv(basis)).ravel()


def shifted(x, steps):
    return np.hstack([x[-steps:], x[:-steps]])


def two_cycles(x, t, p):
    """Two uncoupled oscillators with the unit circle as limit cycle, rate of return 2, incommensurate frequencies."""
    slow, fast = 1 - x[0] ** 2 - x[1] ** 2, 1 - x[2] ** 2 - x[3] ** 2
    turns = [-p["f"] * x[1], p["f"] * x[0], -x[3], x[2]]
    return [x[0] * slow + turns[0], x[1] * slow + turns[1], x[2] * fast + turns[2], x[3] * fast + turns[3]]


@pytest.mark.parametrize(
    ("name", "parameters", "exponent"),
    [("Lorenz", CLASSIC, 0.906), ("Rossler", [0.2, 0.2, 5.7], 0.0714)],
)
def test_largest_exponent_is_that_of_the_literature(name, parameters, exponent):
    system = load_system(name)
    starts = system.initial_condition * (1 + 0.01 * np.arange(16)[:, None])
    result = largest_lyapunov_exponents(system.vector_field, starts, parameters, period=system.period, rng=rng())
    assert result.status == [COMPLETED] * 16
    np.testing.assert_allclose(result.exponents.mean(), exponent, rtol=0.05)


def test_standard_error_is_the_scatter_between_trajectories():
    result = largest_lyapunov_exponents(LORENZ, LORENZ_STARTS, CLASSIC, period=1.0, rng=rng())
    scatter = result.exponents.std(ddof=1)
    assert 0.6 * scatter < result.standard_errors.mean() < 3 * scatter


def test_exponent_of_lorenz_96_with_forty_sites_is_that_of_the_literature():
    field = trace(lambda x, t, p: (shifted(x, -1) - shifted(x, 2)) * shifted(x, 1) - x + p["force"], 40, {"force": 8})
    starts = 8.0 + np.random.default_rng(2).standard_normal((16, 40))
    result = largest_lyapunov_exponents(field, starts, [8.0], period=1.0, num_periods=40, rng=rng())
    np.testing.assert_allclose(result.exponents.mean(), 1.67, rtol=0.05)


def test_spectrum_of_lorenz_is_that_of_the_literature():
    result = lyapunov_spectrum(LORENZ, LORENZ_STARTS, CLASSIC, period=1.0, num_periods=60, rng=rng())
    mean = result.exponents.mean(axis=0)
    np.testing.assert_allclose(mean, [0.906, 0.0, -14.57], rtol=0.05, atol=0.01)
    np.testing.assert_allclose(result.exponents.sum(axis=1), -(1 + 8 / 3 + 10), rtol=1e-5)
    np.testing.assert_allclose(kaplan_yorke_dimension(mean), 2.06, atol=0.01)


@pytest.mark.parametrize("rates", [(-0.5, 0.3, -60.0), (-0.5, -0.7, -2.0)])
def test_exponents_of_a_linear_system_are_the_real_parts_of_its_eigenvalues(rates):
    timing = {"period": np.pi, "num_periods": 10, "rng": rng()}
    expected = np.sort([rates[0], *rates])[::-1]
    spectrum = lyapunov_spectrum(LINEAR, np.zeros(4), linear_map(*rates), **timing)
    np.testing.assert_allclose(spectrum.exponents, [expected], rtol=1e-3, atol=1e-3)
    largest = largest_lyapunov_exponents(LINEAR, np.zeros(4), linear_map(*rates), **timing)
    np.testing.assert_allclose(largest.exponents, expected[:1], rtol=1e-3, atol=1e-3)


def test_limit_cycle_has_exponent_zero_and_the_mean_divergence_as_the_sum():
    field = trace(lambda x, t, p: [x[1], p["mu"] * (1 - x[0] ** 2) * x[1] - x[0]], 2, {"mu": 1.0})
    period = 6.6632868593231  # of van der Pol's equation at mu = 1
    settings = {"period": period, "rng": rng()}
    assert abs(largest_lyapunov_exponents(field, [2.0, 0.0], [1.0], **settings).exponents[0]) < 1e-6
    spectrum = lyapunov_spectrum(field, [2.0, 0.0], [1.0], **settings).exponents[0]
    cycle = integrate(field, [2.0, 0.0], [1.0], transient=20 * period, dt=period / 1000, num_points=1000).states[0]
    np.testing.assert_allclose(spectrum, [0.0, (1 - cycle[:, 0] ** 2).mean()], atol=1e-5)


def test_torus_has_two_exponents_zero():
    field = trace(two_cycles, 4, {"f": 1.0})
    result = lyapunov_spectrum(field, [1.0, 0.2, 0.3, 0.5], [np.sqrt(2)], period=2 * np.pi, num_periods=50, rng=rng())
    np.testing.assert_allclose(result.exponents, [[0, 0, -2, -2]], atol=1e-5)


def test_spectrum_of_a_conservative_system_sums_to_zero():
    system = load_system("HenonHeiles")
    settings = {"period": system.period, "num_periods": 30, "rng": rng()}
    spectrum = lyapunov_spectrum(system.vector_field, system.initial_condition, system.parameter_vector, **settings)
    np.testing.assert_allclose(spectrum.exponents.sum(), 0.0, atol=1e-8)
    np.testing.assert_allclose(spectrum.exponents, 0.0, atol=0.01)


def test_fewer_exponents_are_the_first_of_the_spectrum():
    settings = {"period": np.pi, "num_periods": 20, "rng": rng()}
    found = lyapunov_spectrum(LINEAR, np.zeros(4), linear_map(-0.5, 0.3, -2.0), num_exponents=2, **settings)
    np.testing.assert_allclose(found.exponents, [[0.3, -0.5]], atol=1e-3)


@pytest.mark.parametrize(("response", "rho", "exponent"), [((0, 2), 28.0, -8 / 3), ((1, 2), 60.0, -1.81)])
def test_conditional_exponent_of_driven_lorenz_is_that_of_pecora_and_carroll(response, rho, exponent):
    """Driven by y the response has the rates -beta and -sigma exactly."""
    settings = {"response": response, "period": 1.0, "rng": rng()}
    result = conditional_lyapunov_exponents(LORENZ, LORENZ_STARTS, [8 / 3, rho, 10.0], **settings)
    assert result.status == [COMPLETED] * 16
    np.testing.assert_allclose(result.exponents.mean(), exponent, rtol=0.01)


def test_conditional_exponent_of_a_linear_response_is_its_own_rate():
    def driven(x, t, p):
        return [x[1], (1 - x[0] ** 2) * x[1] - x[0], x[0] - p["rate"] * x[2]]

    settings = {"period": 6.66, "rng": rng()}
    field = trace(driven, 3, {"rate": 0.5})
    result = conditional_lyapunov_exponents(field, [2.0, 0.0, 0.0], [[0.5], [7.0]], response=[2], **settings)
    np.testing.assert_allclose(result.exponents, [-0.5, -7.0], rtol=1e-6)


def test_conditional_exponent_of_a_response_to_a_driver_that_jumps_is_its_own_rate():
    field = trace(lambda x, t, p: [2 + np.sign(np.sin(x[0])), np.cos(x[0]) - 0.5 * x[1]], 2, {})
    settings = {"response": [1], "period": 4.0, "num_periods": 5, "rng": rng()}
    result = conditional_lyapunov_exponents(field, [0.5, 0.0], [], **settings)
    np.testing.assert_allclose(result.exponents, [-0.5], rtol=1e-3)


@pytest.mark.parametrize("function", [largest_lyapunov_exponents, lyapunov_spectrum])
def test_neighbours_in_the_batch_change_no_bit(function):
    settings = {"period": 1.0, "num_periods": 4, "transient_periods": 2}
    together = function(LORENZ, LORENZ_STARTS, CLASSIC, rng=rng(), **settings)
    alone = function(LORENZ, LORENZ_STARTS[5], CLASSIC, rng=rng(), **settings)
    np.testing.assert_array_equal(alone.exponents[0], together.exponents[5])
    np.testing.assert_array_equal(alone.standard_errors[0], together.standard_errors[5])


@pytest.mark.parametrize("function", [largest_lyapunov_exponents, lyapunov_spectrum])
def test_periods_and_parameters_may_differ_between_trajectories(function):
    field = trace(lambda x, t, p: [-p["rate"] * x[0]], 1, {"rate": 1.0})
    result = function(field, [1.0], [[1.0], [3.0]], period=[1.0, 0.2], num_periods=10, rng=rng())
    np.testing.assert_allclose(result.exponents.ravel(), [-1.0, -3.0], rtol=1e-6)


@pytest.mark.parametrize("function", [largest_lyapunov_exponents, lyapunov_spectrum])
def test_failure_is_named_and_leaves_the_others_alone(function):
    settings = {"period": 1.0, "num_periods": 4, "transient_periods": 0, "rng": rng()}
    result = function(SQUARE, [1.0], [[-1.0], [1.0], [np.nan]], **settings)
    assert result.status == [COMPLETED, IntegrationStatus.DIVERGED, IntegrationStatus.NOT_FINITE]
    np.testing.assert_array_equal(np.isfinite(result.exponents).ravel(), [True, False, False])
    np.testing.assert_array_equal(np.isfinite(result.standard_errors).ravel(), [True, False, False])
    np.testing.assert_allclose(result.exponents[0], -2 * np.log(5) / 4, rtol=1e-5)  # u = 1 / (1 + t)^2


@pytest.mark.parametrize("function", [largest_lyapunov_exponents, lyapunov_spectrum])
def test_steps_are_counted_over_the_whole_run(function):
    settings = {"period": 1.0, "num_periods": 100, "max_steps": 60, "rng": rng()}
    result = function(LORENZ, LORENZ_STARTS[:2], CLASSIC, **settings)
    assert result.status == [IntegrationStatus.TOO_MANY_STEPS] * 2


@pytest.mark.parametrize("function", [largest_lyapunov_exponents, lyapunov_spectrum])
def test_jump_changes_a_perturbation_by_the_ratio_of_the_flows_on_both_sides(function):
    field = trace(lambda x, t, p: [2 + np.sign(np.sin(x[0]))], 1, {})
    settings = {"period": 2.0, "num_periods": 1, "transient_periods": 0, "num_blocks": 2, "rng": rng()}
    result = function(field, [0.5], [], **settings)  # passes pi, from velocity 3 to 1
    np.testing.assert_allclose(result.exponents.ravel(), -np.log(3) / 2, rtol=0.02)


def test_unbounded_states_may_grow():
    field = trace(lambda x, t, p: [-x[0] * (1 + np.sin(x[1])), 1.0], 2, {})
    settings = {"period": 2 * np.pi, "max_abs": 2.0, "rng": rng()}
    assert largest_lyapunov_exponents(field, [1.0, 0.0], [], **settings).status == [IntegrationStatus.DIVERGED]
    result = lyapunov_spectrum(field, [1.0, 0.0], [], unbounded=[1], num_periods=10, **settings)
    np.testing.assert_allclose(result.exponents, [[0.0, -1.0]], atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"period": 0.0}, "period must be positive and finite, found 0.0"),
        ({"num_periods": np.inf}, "num_periods must be positive and finite, found inf"),
        ({"transient_periods": -1.0}, "transient_periods must be zero or more and finite, found -1.0"),
        ({"num_blocks": 1}, "num_blocks must be at least 2, found 1"),
        ({"num_exponents": 4}, "num_exponents must be from 1 to 3, found 4"),
    ],
)
def test_bad_setting_is_an_error_that_names_it(settings, message):
    with pytest.raises(ValueError, match=message):
        lyapunov_spectrum(LORENZ, LORENZ_STARTS, CLASSIC, **{"period": 1.0, "rng": rng()} | settings)


@pytest.mark.parametrize("function", [largest_lyapunov_exponents, lyapunov_spectrum])
@pytest.mark.parametrize(
    ("starts", "parameters", "name"),
    [([1.0, 2.0], CLASSIC, "initial_conditions"), ([1.0, 2.0, 3.0], [1.0, 2.0], "parameters")],
)
def test_wrong_shape_is_an_error_that_names_it(function, starts, parameters, name):
    with pytest.raises(ValueError, match=f"{name} must"):
        function(LORENZ, starts, parameters, period=1.0, rng=rng())


@pytest.mark.parametrize("response", [[], [0, 0], [3]])
def test_bad_response_is_an_error_that_names_it(response):
    with pytest.raises(ValueError, match="response must"):
        conditional_lyapunov_exponents(LORENZ, LORENZ_STARTS, CLASSIC, response=response, period=1.0, rng=rng())
