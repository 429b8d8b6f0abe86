"""Verdicts of the checks against slow, plain definitions of each, on many kinds of series."""

import numpy as np
import pytest
from scipy.interpolate import CubicSpline
from statsmodels.tools.sm_exceptions import InterpolationWarning
from statsmodels.tsa.stattools import adfuller, kpss

from data_generation.config import ValidityConfig
from data_generation.integration import integrate
from data_generation.systems import load_system
from data_generation.validity import (
    check_chaotic,
    check_not_limit_cycle,
    check_not_linear,
    check_spectrum,
    check_stationary,
)
from data_generation.zero_one_test import draw_frequencies, information_lag

LIMITS = ValidityConfig()


def standardised(values: np.ndarray) -> np.ndarray:
    return (values - values.mean(axis=1, keepdims=True)) / values.std(axis=1, keepdims=True)


def mixed_cases() -> list[np.ndarray]:
    """240 of (3, 400) or, for tones, (3, 1200): chaos, noise, walks, cycles, tori, lines, drifts, with some noise."""
    rng, cases, num_points = np.random.default_rng(0), [], 400
    system = load_system("Lorenz")
    start = system.initial_condition + 0.1 * system.state_std * rng.standard_normal((30, 3))
    times = {"dt": 0.04 * system.period, "transient": 20 * system.period}
    lorenz = integrate(system.vector_field, start, system.parameter_vector, num_points=num_points, **times).states
    for i in range(30):
        angle = 2 * np.pi * np.arange(num_points) / rng.uniform(10, 60) + rng.uniform(0, 6)
        circle, other = np.stack([np.sin(angle), np.cos(angle), np.sin(2 * angle)]), np.sin(np.sqrt(2) * angle)
        walk = rng.standard_normal((3, num_points)).cumsum(axis=1)
        fast = 2 * np.pi * np.arange(3 * num_points) / rng.uniform(4.3, 7.7)
        cases += [
            lorenz[i].T,
            rng.standard_normal((3, num_points)),
            walk,
            circle + 10.0 ** rng.uniform(-6, -1) * other,
            circle + other * np.array([[0.2], [0.5], [1.0]]),
            np.stack([circle[0], 2 * circle[0], -circle[0]]) + 10.0 ** rng.uniform(-2, -0.5) * other,
            np.stack([np.sin(fast), np.cos(fast), np.sin(fast + 1)]),
            lorenz[i].T + 3 * walk,
        ]
    return [case + 1e-4 * rng.standard_normal(case.shape) for case in cases]


def plain_linear(values: np.ndarray) -> bool:
    squares = np.linalg.svd(standardised(values), compute_uv=False) ** 2
    return bool(squares[0] / squares.sum() <= LIMITS.max_line_share)


def plain_limit_cycle(values: np.ndarray) -> bool:
    """Every shift by itself, then a search between samples."""
    values = standardised(values)
    times = np.arange(values.shape[1] // 2, values.shape[1])
    spline = CubicSpline(np.arange(values.shape[1]), values, axis=1)

    def distance(shift: float) -> float:
        return float(np.sqrt(np.mean((values[:, times] - spline(times - shift)) ** 2) / 2))

    distances = [distance(shift) for shift in range(times[0] + 1)]
    start = next((shift for shift, one in enumerate(distances) if one > 0.5), 0)
    shift = start + int(np.argmin(distances[start:]))
    fine = [distance(one) for one in np.linspace(max(shift - 1, 0), min(shift + 1, times[0]), 201)]
    nearest = min(distances[shift], *fine) if shift > start > 0 else distances[shift]
    return nearest > LIMITS.min_return_distance


def plain_spectrum(values: np.ndarray) -> bool:
    """A peak is as prominent as it stands above the higher of the two valleys that part it from higher peaks."""
    for channel in values - values.mean(axis=1, keepdims=True):
        power, num_peaks = np.abs(np.fft.fft(channel)[: len(channel) // 2 + 1]) ** 2, 0
        for i in range(1, len(power) - 1):
            if power[i - 1] < power[i] > power[i + 1]:
                higher = np.flatnonzero(power > power[i])
                left, right = higher[higher < i], higher[higher > i]
                valleys = (
                    power[left[-1] if left.size else 0 : i].min(),
                    power[i + 1 : right[0] + 1 if right.size else None].min(),
                )
                num_peaks += power[i] - max(valleys) >= LIMITS.min_peak_power * power.max()
        if num_peaks >= LIMITS.min_num_peaks:
            return True
    return False


def plain_stationary(values: np.ndarray) -> bool:
    return all(
        kpss(channel, result_object=True).pvalue >= 0.05
        or adfuller(channel, autolag="AIC", result_object=True).pvalue < 0.05
        for channel in values
    )


def plain_chaotic(values: np.ndarray) -> bool:
    """All walks at once, all of them."""
    frequencies = draw_frequencies(np.random.default_rng(0))[:, None]
    for channel in values:
        series = channel[:: information_lag(channel)]
        steps = (series - series.mean()) * np.exp(1j * frequencies * np.arange(1, len(series) + 1))
        walks, shifts = steps.cumsum(axis=1), np.arange(1, len(series) // 10 + 1)
        spread = [np.mean(np.abs(walks[:, n:] - walks[:, :-n]) ** 2, axis=1) for n in shifts]
        if np.mean(np.corrcoef(np.stack([shifts, *np.transpose(spread)]))[0, 1:] >= 0.2) >= 0.2:
            return True
    return False


def is_chaotic(values: np.ndarray) -> bool:
    rng = np.random.default_rng(0)
    return check_chaotic(values, min_growth_correlation=0.2, min_diffusing_share=0.2, rng=rng)[1]


@pytest.mark.filterwarnings(f"ignore::{InterpolationWarning.__module__}.{InterpolationWarning.__name__}")
def test_verdicts_are_those_of_plain_definitions():
    cases = mixed_cases()
    pairs = {
        "linear": (plain_linear, lambda case: check_not_linear(case, max_line_share=0.99)[1]),
        "limit_cycle": (plain_limit_cycle, lambda case: check_not_limit_cycle(case, min_return_distance=0.01)[1]),
        "few_peaks": (plain_spectrum, lambda case: check_spectrum(case, min_num_peaks=4, min_peak_power=1e-5)[1]),
        "not_stationary": (plain_stationary, lambda case: check_stationary(case, max_unit_root_p=0.05)[1]),
        "regular": (plain_chaotic, is_chaotic),
    }
    passed = {}
    for name, (plain, fast) in pairs.items():
        passed[name] = np.array([plain(case) for case in cases])
        assert [bool(fast(case)) for case in cases] == passed[name].tolist(), name
        assert 10 < passed[name].sum() < len(cases) - 10, name
    accepted = np.logical_and.reduce(list(passed.values()))
    assert len(cases) >= 200
    assert accepted.mean() <= 0.5
