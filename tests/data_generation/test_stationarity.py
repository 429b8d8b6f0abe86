"""KPSS and ADF: the p-values of statsmodels where it is accurate, and of 80-bit arithmetic where it is not."""

import numpy as np
import pytest
from statsmodels.tools.sm_exceptions import InterpolationWarning
from statsmodels.tsa.stattools import adfuller, kpss

from data_generation.integration import integrate
from data_generation.stationarity import adf_p_value, adf_statistic, kpss_p_value
from data_generation.systems import load_system

pytestmark = pytest.mark.filterwarnings(f"ignore::{InterpolationWarning.__module__}.{InterpolationWarning.__name__}")


def autoregressive(coefficient: float, num_points: int, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(num_points)
    for i in range(1, num_points):
        noise[i] += coefficient * noise[i - 1]
    return noise


@pytest.fixture(scope="module")
def many_series() -> list[np.ndarray]:
    """240 series: autoregressive of every strength up to random walks, some with a slow wave."""
    rng, series = np.random.default_rng(0), []
    for i in range(240):
        num_points = int(rng.integers(60, 500))
        coefficient = 1.0 if i % 2 else rng.uniform(0.0, 0.99)
        times = np.arange(num_points) / num_points
        slow = (0, 0, 0, 10)[i % 4] * np.sin(4 * times + i)
        series.append(1e3 + rng.uniform(0.1, 100) * (autoregressive(coefficient, num_points, rng) + slow))
    return series


@pytest.fixture(scope="module")
def expected(many_series: list[np.ndarray]) -> np.ndarray:
    """(240, 2) p-values of KPSS and ADF from statsmodels."""
    return np.array(
        [
            (kpss(one, result_object=True).pvalue, adfuller(one, autolag="AIC", result_object=True).pvalue)
            for one in many_series
        ]
    )


def test_p_values_are_those_of_statsmodels(many_series: list[np.ndarray], expected: np.ndarray):
    found = np.array([(kpss_p_value(one), adf_p_value(one)) for one in many_series])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.all(np.ptp(expected, axis=0) > (0.089, 0.8))


def test_verdicts_are_those_of_statsmodels(many_series: list[np.ndarray], expected: np.ndarray):
    rejects = (expected[:, 0] < 0.05) & (expected[:, 1] >= 0.05)
    assert 0.4 < rejects.mean() < 0.6
    assert [kpss_p_value(one) < 0.05 and adf_p_value(one) >= 0.05 for one in many_series] == rejects.tolist()


@pytest.mark.parametrize("num_points", [24, 25, 100, 4096])
def test_any_length_from_24_will_do(num_points: int):
    rng = np.random.default_rng(num_points)
    for one in (rng.standard_normal(num_points), rng.standard_normal(num_points).cumsum()):
        adf = adfuller(one, autolag="AIC", result_object=True).pvalue
        assert adf_p_value(one) == pytest.approx(adf, abs=1e-6)
        assert kpss_p_value(one) == pytest.approx(kpss(one, result_object=True).pvalue, abs=1e-6)


def triangular_factor(matrix: np.ndarray) -> np.ndarray:
    """Householder's in the precision of `matrix`."""
    matrix = matrix.copy()
    for j in range(matrix.shape[1]):
        reflection = matrix[j:, j].copy()
        reflection[0] += np.copysign(np.sqrt(np.sum(reflection**2)), reflection[0])
        scale = 2 / np.sum(reflection**2)
        matrix[j:, j:] -= np.outer(reflection, scale * (reflection @ matrix[j:, j:]))
    return matrix[: matrix.shape[1]]


def slow_adf_statistic(levels: np.ndarray, max_lag: int) -> float:
    """Every regression on its own, in 80 bits."""
    levels = levels.astype(np.longdouble)
    differences = np.diff(levels)

    def factor(num_lags: int, first: int) -> np.ndarray:
        times = np.arange(first, len(differences))
        lagged = [differences[times - lag] for lag in range(1, num_lags + 1)]
        return triangular_factor(np.column_stack([np.ones(len(times)), levels[times], *lagged, differences[times]]))

    num_rows = len(differences) - max_lag
    squares = [factor(lag, max_lag)[-1, -1] ** 2 for lag in range(max_lag + 1)]
    lag = int(np.argmin([num_rows * np.log(square) + 2 * lag for lag, square in enumerate(squares)]))
    triangle, size = factor(lag, lag), lag + 2
    row = np.zeros(size, np.longdouble)
    row[1] = 1 / triangle[1, 1]
    for j in range(2, size):
        row[j] = -(row[1:j] @ triangle[1:j, j]) / triangle[j, j]
    deviation = abs(triangle[size, size]) / np.sqrt(len(differences) - lag - size)
    return float(row @ triangle[:size, size] / (deviation * np.sqrt(np.sum(row**2))))


@pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="no extended precision here")
@pytest.mark.parametrize("name", ["Hadley", "Rossler", "SprottQ"])
def test_finely_sampled_trajectories_lose_few_digits(name: str):
    """Their lagged differences are nearly collinear: a pseudoinverse would cut some off."""
    system = load_system(name)
    dt, transient = 32 * system.period / 4096, 8 * system.period
    start, parameters = system.initial_condition[None], system.parameter_vector
    states = integrate(system.vector_field, start, parameters, dt=dt, num_points=1024, transient=transient).states
    levels = states[0, :, 0]
    levels = (levels - levels.mean()) / levels.std()
    assert adf_statistic(levels, 12) == pytest.approx(slow_adf_statistic(levels, 12), rel=1e-3)


def test_p_values_outside_the_tables_are_their_limits():
    rng = np.random.default_rng(0)
    trend = np.linspace(0, 1, 500)
    assert kpss_p_value(trend + 0.01 * rng.standard_normal(500)) == 0.01
    assert kpss_p_value(np.tile([1.0, -1.0], 250)) == 0.10
    assert adf_p_value(1e-3 * rng.standard_normal(4096)) < 1e-20
    assert adf_p_value(np.exp(np.arange(300) / 20) + 1e-3 * rng.standard_normal(300)) == 1.0
