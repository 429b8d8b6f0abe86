"""Correlation dimensions of sets whose dimension is known."""

import numpy as np
import pytest
from scipy.integrate import odeint

from hf_tsdyn.metrics import correlation_dimension


def circle(steps):
    phase = 0.1234567 * np.arange(steps)
    return np.stack([np.cos(phase), 100 * np.sin(phase) + 5], axis=1)


def henon(steps):
    orbit = np.empty((steps, 2))
    x, y = 0.1, 0.1
    for point in orbit:
        x, y = 1 - 1.4 * x * x + y, 0.3 * x
        point[:] = x, y
    return orbit[100:]


def lorenz(steps):
    def flow(state, _):
        x, y, z = state
        return 10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z

    return odeint(flow, [1.0, 1.0, 20.0], 0.1 * np.arange(steps + 500), rtol=1e-7, atol=1e-7)[500:]


def uniform_noise(steps, channels):
    return np.random.default_rng(5).random((steps, channels))


@pytest.mark.parametrize(
    ("sample", "arguments", "dimension"),
    [
        (circle, [20_000], 1.0),
        (henon, [20_000], 1.215),  # 1.21 in Grassberger and Procaccia, 1.22 in later work
        (uniform_noise, [20_000, 2], 2.0),
        (lorenz, [12_000], 2.05),
        (uniform_noise, [20_000, 3], 3.0),
    ],
    ids=["circle", "henon", "square", "lorenz", "cube"],
)
def test_dimension_of_a_known_set(sample, arguments, dimension):
    result = correlation_dimension(sample(*arguments), rng=np.random.default_rng(0))
    assert result.dimension == pytest.approx(dimension, rel=0.05)
    assert 0 < result.standard_error < 0.05 * dimension


@pytest.mark.parametrize(
    ("sample", "arguments", "dimension", "tolerance"),
    [
        (circle, [1000], 1.0, 0.06),
        (henon, [2148], 1.215, 0.06),
        (uniform_noise, [2048, 2], 2.0, 0.06),
        (lorenz, [2048], 2.05, 0.06),
        (uniform_noise, [2048, 3], 3.0, 0.09),
    ],
    ids=["circle", "henon", "square", "lorenz", "cube"],
)
def test_dimension_of_a_short_series(sample, arguments, dimension, tolerance):
    result = correlation_dimension(sample(*arguments), rng=np.random.default_rng(0), min_points=1000)
    assert result.dimension == pytest.approx(dimension, rel=tolerance)
    assert 0 < result.standard_error < 0.1 * dimension
    assert result.pairs[-1] == pytest.approx(4 * result.pairs[0], rel=0.1)


def test_a_lower_minimum_changes_nothing_for_longer_series():
    points = uniform_noise(5000, 2)
    default, lower = (
        correlation_dimension(points, rng=np.random.default_rng(0), **options) for options in ({}, {"min_points": 1000})
    )
    np.testing.assert_array_equal(default.radii, lower.radii)


def slope(radii, pairs):
    return np.polyfit(np.log(radii), np.log(pairs), 1)[0]


def test_result_is_that_of_a_count_over_all_pairs():
    points = uniform_noise(4000, 2)
    result = correlation_dimension(points, rng=np.random.default_rng(0), theiler_window=30)
    points = (points - points.mean(axis=0)) / points.std(axis=0)
    first, second = np.triu_indices(4000, k=31)
    distances = np.linalg.norm(points[first] - points[second], axis=1)
    close = distances <= result.radii[-1] * (1 + 1e-12)
    first, second, distances = first[close], second[close], distances[close]

    def count(chosen):
        return (distances[chosen, None] <= result.radii * (1 + 1e-12)).sum(axis=0)

    np.testing.assert_array_equal(result.pairs, count(slice(None)))
    without = [slope(result.radii, count((first // 400 != block) & (second // 400 != block))) for block in range(10)]
    jackknife = np.sqrt(9 / 10 * np.sum((without - np.mean(without)) ** 2))
    bend = slope(result.radii[:12], result.pairs[:12]) - slope(result.radii[12:], result.pairs[12:])
    assert result.dimension == pytest.approx(slope(result.radii, result.pairs))
    assert result.standard_error == pytest.approx(np.hypot(jackknife, bend / 2))


def test_the_window_is_the_time_in_which_correlation_falls_to_a_share_of_e():
    phase = 0.1 * np.arange(20_000)
    noise = np.random.default_rng(3).normal(scale=0.3, size=(20_000, 2))
    series = np.stack([np.cos(phase), np.sin(phase)], axis=1) + noise
    steps = np.arccos((0.5 + 0.3**2) / 0.5 / np.e) / 0.1  # 11.2
    default, same, shorter = (
        correlation_dimension(series, rng=np.random.default_rng(0), num_points=5000, theiler_window=window).pairs
        for window in (None, int(np.ceil(steps)), int(np.ceil(steps)) - 1)
    )
    np.testing.assert_array_equal(default, same)
    assert not np.array_equal(default, shorter)


def test_equal_seeds_give_equal_results_and_other_seeds_agree():
    series = henon(30_000)
    first, again, other = (
        correlation_dimension(series, rng=np.random.default_rng(seed), num_points=5000) for seed in (0, 0, 1)
    )
    assert first.dimension == again.dimension
    assert first.standard_error == again.standard_error
    assert first.dimension != other.dimension
    assert first.dimension == pytest.approx(other.dimension, abs=3 * first.standard_error)


@pytest.mark.parametrize(
    ("series", "options", "message"),
    [
        (uniform_noise(3999, 2), {}, r"at least 4000 steps, found \(3999, 2\)"),
        (uniform_noise(5000, 2), {"num_points": 10}, "num_points must be at least 4000, found 10"),
        (uniform_noise(999, 2), {"min_points": 1000}, r"at least 1000 steps, found \(999, 2\)"),
        (uniform_noise(5000, 2), {"min_points": 999}, "min_points must be at least 1000, found 999"),
        (uniform_noise(5000, 2) * [1, 0], {}, r"constant channels \[1\]"),
        (np.where(np.arange(10_000) % 3333 == 0, np.nan, uniform_noise(10_000, 2).T).T, {}, "NaN or infinity"),
        (uniform_noise(5000, 2), {"theiler_window": -1}, "found -1"),
        (np.linspace(0, 1, 5000)[:, None], {}, "a tenth of the series' 5000 steps"),
        (np.tile(uniform_noise(7, 2), (1000, 1)), {"theiler_window": 0}, "cycles of few points"),
        (np.tile(uniform_noise(150, 2), (100, 1)), {"theiler_window": 0}, "cycles of few points"),
    ],
)
def test_what_has_no_dimension_is_named(series, options, message):
    with pytest.raises(ValueError, match=message):
        correlation_dimension(series, rng=np.random.default_rng(0), **options)
