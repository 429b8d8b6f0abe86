"""The 0-1 test: equal to its definition, and right about maps whose dynamics are known."""

import math

import numpy as np
import pytest

from data_generation.zero_one_test import (
    NUM_FREQUENCIES,
    diffusing_share,
    draw_frequencies,
    growth_correlation,
    information_lag,
)

FREQUENCIES = draw_frequencies(np.random.default_rng(0))


def share(series: np.ndarray) -> float:
    return diffusing_share(series, FREQUENCIES, min_correlation=0.2, min_share=0.2)


def logistic(rate: float, num_points: int = 1000) -> np.ndarray:
    values = [0.3]
    for _ in range(num_points + 500):
        values.append(rate * values[-1] * (1 - values[-1]))
    return np.array(values[-num_points:])


def correlation_of_all_shifts(series: np.ndarray, frequency: float) -> float:
    """K from its definition: the walk is the sum of series(j) exp(i j c)."""
    walk = np.cumsum(series * np.exp(1j * frequency * np.arange(1, len(series) + 1)))
    shifts = np.arange(1, len(series) // 10 + 1)
    return float(np.corrcoef(shifts, [np.mean(np.abs(walk[n:] - walk[:-n]) ** 2) for n in shifts])[0, 1])


def lag_of_histograms(series: np.ndarray) -> int:
    """The first minimum of the information of two-dimensional histograms, three lags averaged."""
    borders = np.linspace(series.min(), series.max(), 65)
    information = []
    for lag in range(1, min(50, len(series) // 20) + 1):
        joint = np.histogram2d(series[:-lag], series[lag:], bins=[borders, borders])[0]
        joint /= joint.sum()
        product = np.outer(joint.sum(axis=1), joint.sum(axis=0))
        seen = joint > 0
        information.append(np.sum(joint[seen] * np.log(joint[seen] / product[seen])))
    smooth = np.convolve(information, np.ones(3) / 3, mode="valid")
    for i in range(1, len(smooth) - 1):
        if smooth[i - 1] > smooth[i] < smooth[i + 1]:
            return i + 2
    return int(np.argmin(information)) + 1


@pytest.fixture(scope="module")
def many_series() -> list[np.ndarray]:
    """40 series: noise, smooth noise, tones and maps, of several lengths."""
    rng, series = np.random.default_rng(1), []
    for i in range(40):
        num_points = (90, 256, 1000, 2048)[i % 4]
        noise = rng.standard_normal(num_points)
        kernel = np.hanning(2 + 7 * (i % 8))
        tone = np.sin(2 * np.pi * np.arange(num_points) / rng.uniform(5, 90)) + 0.01 * noise
        kinds = (noise, np.convolve(noise, kernel, mode="same"), tone, logistic(rng.uniform(3.6, 4), num_points))
        series.append(kinds[i // 4 % 4])
    return series


def test_growth_correlation_equals_its_definition(many_series: list[np.ndarray]):
    for series, frequency in zip(many_series, FREQUENCIES, strict=False):
        centred = series - series.mean()
        expected = correlation_of_all_shifts(centred, frequency)
        assert growth_correlation(centred, frequency) == pytest.approx(expected, abs=1e-9)


def test_information_lag_equals_that_of_histograms(many_series: list[np.ndarray]):
    lags = [information_lag(series) for series in many_series]
    assert lags == [lag_of_histograms(series) for series in many_series]
    assert len(set(lags)) > 8


def test_stopping_early_does_not_change_the_verdict(many_series: list[np.ndarray]):
    verdicts = []
    tones = [np.sin(2 * np.pi * np.arange(2048) / period) for period in np.linspace(4.3, 7.7, 40)]
    for series in [*many_series, *tones]:
        thinned = series[:: information_lag(series)]
        grown = [correlation_of_all_shifts(thinned - thinned.mean(), frequency) >= 0.2 for frequency in FREQUENCIES]
        verdicts.append(np.mean(grown) >= 0.2)
        assert (share(series) >= 0.2) == verdicts[-1]
    assert 10 < sum(verdicts) < len(verdicts) - 10


@pytest.mark.parametrize(
    ("rate", "chaotic"), [(3.2, False), (3.3, False), (3.5, False), (3.7, True), (3.9, True), (4, True)]
)
def test_the_logistic_map_is_chaotic_where_it_is(rate: float, chaotic: bool):
    assert share(logistic(rate)) > 0.9 if chaotic else share(logistic(rate)) < 0.2


def test_neither_level_nor_unit_matters(many_series: list[np.ndarray]):
    for series in many_series[:12]:
        assert share(1e3 * series + 1e4) == share(series)


def test_frequencies_are_drawn_from_the_generator_alone():
    again = draw_frequencies(np.random.default_rng(0))
    np.testing.assert_array_equal(FREQUENCIES, again)
    assert again.shape == (NUM_FREQUENCIES,) == (100,)
    assert math.pi / 5 <= again.min() < again.max() <= 4 * math.pi / 5


@pytest.mark.parametrize("num_points", [20, 64, 500])
def test_a_constant_does_not_diffuse(num_points: int):
    assert share(np.full(num_points, 3.3)) == 0.0
