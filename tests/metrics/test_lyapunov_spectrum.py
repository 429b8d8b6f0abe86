"""Lyapunov spectra of maps whose exponents are known, and dimensions of spectra."""

import time

import numpy as np
import pytest

from hf_tsdyn.metrics import kaplan_yorke_dimension, lyapunov_spectrum


@pytest.fixture(scope="module")
def henon_jacobians():
    """(steps, 2, 2): the map x' = 1 - 1.4 x^2 + y, y' = 0.3 x along its attractor."""
    x, y = 0.1, 0.1
    jacobians = np.empty((40_500, 2, 2))
    for jacobian in jacobians:
        jacobian[:] = [[-2.8 * x, 1.0], [0.3, 0.0]]
        x, y = 1 - 1.4 * x * x + y, 0.3 * x
    return jacobians


def test_exponents_of_a_diagonal_matrix_are_its_logarithms():
    diagonal = np.array([0.5, -2.0, 0.1, 1.3])
    spectrum = lyapunov_spectrum([np.tile(np.diag(diagonal), (700, 1, 1))], dt=0.5)
    np.testing.assert_allclose(spectrum.exponents, np.log([2.0, 1.3, 0.5, 0.1]) / 0.5, rtol=1e-12)
    np.testing.assert_allclose(spectrum.standard_errors, 0, atol=1e-12)


def test_exponents_of_the_cat_map_are_those_of_the_golden_ratio():
    spectrum = lyapunov_spectrum([np.tile([[2.0, 1.0], [1.0, 1.0]], (600, 1, 1))])
    expected = 2 * np.log((1 + np.sqrt(5)) / 2)
    np.testing.assert_allclose(spectrum.exponents, [expected, -expected], rtol=1e-12)


def test_spectrum_of_the_henon_map(henon_jacobians):
    spectrum = lyapunov_spectrum([henon_jacobians])
    np.testing.assert_allclose(spectrum.exponents.sum(), np.log(0.3), rtol=1e-12)
    assert spectrum.exponents[0] == pytest.approx(0.4192, abs=3 * spectrum.standard_errors[0])
    assert 0.0005 < spectrum.standard_errors[0] < 0.005
    assert kaplan_yorke_dimension(spectrum.exponents) == pytest.approx(1.258, abs=0.005)


def test_standard_errors_are_the_spread_of_independent_growth():
    growth = np.random.default_rng(1).normal(size=(10_000, 1, 1))
    spectrum = lyapunov_spectrum([np.exp(growth)], transient=0, dt=0.1, num_blocks=100)
    np.testing.assert_allclose(spectrum.exponents, growth.mean() / 0.1, rtol=1e-10)
    np.testing.assert_allclose(spectrum.standard_errors, growth.std() / np.sqrt(10_000) / 0.1, rtol=0.25)


def test_cutting_the_orbit_into_chunks_changes_nothing(henon_jacobians):
    whole = lyapunov_spectrum([henon_jacobians[:2000]])
    cut = lyapunov_spectrum(iter(np.split(henon_jacobians[:2000], [1, 700, 1999])))
    np.testing.assert_array_equal(cut.exponents, whole.exponents)
    np.testing.assert_array_equal(cut.standard_errors, whole.standard_errors)


def test_the_first_exponents_are_those_of_the_whole_spectrum():
    jacobians = np.random.default_rng(2).normal(size=(1500, 6, 6))
    whole, first = (lyapunov_spectrum([jacobians], num_exponents=count) for count in (None, 2))
    np.testing.assert_allclose(first.exponents, whole.exponents[:2], atol=1e-3)


def test_exponents_come_from_the_largest_down_where_the_orbit_is_short():
    growth = np.random.default_rng(1).normal(size=(600, 8))
    found = lyapunov_spectrum([np.exp(growth)[:, None] * np.eye(8)])
    assert (np.diff(found.exponents) < 0).all()
    np.testing.assert_allclose(found.exponents.sum(), growth[500:].mean(axis=0).sum(), rtol=1e-9)


def test_a_direction_that_is_annihilated_has_exponent_minus_infinity():
    spectrum = lyapunov_spectrum([np.tile(np.diag([0.5, 0.0]), (600, 1, 1))])
    assert spectrum.exponents.tolist() == [pytest.approx(np.log(0.5)), -np.inf]
    assert spectrum.standard_errors[1] == 0
    assert kaplan_yorke_dimension([0.5, -np.inf]) == 1.0


def test_twenty_units_and_twenty_thousand_steps_take_less_than_a_second():
    jacobians = np.random.default_rng(3).normal(scale=0.2, size=(20_000, 20, 20))
    start = time.process_time()
    lyapunov_spectrum([jacobians])
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize(
    ("jacobians", "options", "message"),
    [
        (np.ones((600, 2, 2)), {}, r"shape \(steps, units, units\), found \(2, 2\)"),
        ([np.ones((300, 2, 2)), np.ones((300, 3, 3))], {}, r"shape \(steps, 2, 2\), found \(300, 3, 3\)"),
        ([np.ones((539, 2, 2))], {}, "at least 540 steps, transient \\+ 2 num_blocks, found 539"),
        ([], {}, "found 0"),
        ([np.ones((600, 2, 2))], {"num_exponents": 3}, "from 1 to 2, found 3"),
        ([np.ones((600, 2, 2))], {"dt": 0.0}, "found 0.0, 500, 20"),
    ],
)
def test_what_cannot_be_measured_is_named(jacobians, options, message):
    with pytest.raises(ValueError, match=message):
        lyapunov_spectrum(jacobians, **options)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_step_of_a_jacobian_that_is_not_finite_is_named(value):
    jacobians = np.tile(np.eye(2), (600, 1, 1))
    jacobians[321, 0, 1] = value
    with pytest.raises(ValueError, match="NaN or infinite entries at step 321"):
        lyapunov_spectrum(np.split(jacobians, 2))


@pytest.mark.parametrize(
    ("exponents", "dimension"),
    [
        ([0.906, 0.0, -14.57], 2 + 0.906 / 14.57),
        ([-14.57, 0.906, 0.0], 2 + 0.906 / 14.57),
        ([-1.0, -2.0], 0.0),
        ([0.0, -1.0], 1.0),
        ([0.3, 0.2], 2.0),
    ],
)
def test_dimension_of_a_spectrum(exponents, dimension):
    assert kaplan_yorke_dimension(exponents) == pytest.approx(dimension)


@pytest.mark.parametrize("exponents", [[], [0.1, np.nan], [[0.1, -1.0]], [np.inf, -1.0], 0.3])
def test_what_is_no_spectrum_is_refused(exponents):
    with pytest.raises(ValueError, match="one row of numbers below infinity"):
        kaplan_yorke_dimension(exponents)
