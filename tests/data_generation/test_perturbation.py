"""Perturbations: their distribution, and what they leave alone."""

import numpy as np
import pytest

from data_generation.config import IntegrationConfig, PerturbationConfig
from data_generation.perturbation import (
    ParameterDraw,
    add_observation_noise,
    draw_num_periods,
    draw_parameters,
    perturb_initial_condition,
    perturb_parameters,
)

PARAMETERS = np.array([10.0, -2.0, 0.0, 1e-4])


def draw(**changes: np.ndarray) -> ParameterDraw:
    settings = {"normal": np.ones(4), "is_sign_matched": np.zeros(4, bool), "is_ignored": np.zeros(4, bool)}
    return ParameterDraw(**{**settings, **changes})


def test_a_perturbation_follows_its_formula():
    expected = PARAMETERS + np.sqrt((0.5 * PARAMETERS) ** 2 + 1e-6)
    expected[2] = 0.0
    before = PARAMETERS.copy()
    np.testing.assert_array_equal(perturb_parameters(PARAMETERS, draw(), scale=0.5), expected)
    np.testing.assert_array_equal(PARAMETERS, before)


def test_a_matched_perturbation_makes_its_parameter_grow():
    matched = draw(normal=np.array([-1.0, 1.0, 1.0, -1.0]), is_sign_matched=np.ones(4, bool))
    perturbed = perturb_parameters(PARAMETERS, matched, scale=0.5)
    grown = PARAMETERS != 0
    assert (np.abs(perturbed[grown]) > np.abs(PARAMETERS[grown])).all()
    np.testing.assert_array_equal(np.sign(perturbed), np.sign(PARAMETERS))


def test_ignored_and_zero_parameters_stay():
    ignored = draw(is_ignored=np.array([True, False, False, True]))
    np.testing.assert_array_equal(
        perturb_parameters(PARAMETERS, ignored, scale=0.5) == PARAMETERS, [True, False, True, True]
    )


def test_draws_have_the_asked_rates():
    drawn = draw_parameters(40_000, sign_match=0.3, ignore_probability=0.2, rng=np.random.default_rng(0))
    # Five standard errors.
    assert drawn.normal.mean() == pytest.approx(0, abs=5 / 200)
    assert drawn.normal.std() == pytest.approx(1, abs=5 / 280)
    assert drawn.is_sign_matched.mean() == pytest.approx(0.3, abs=5 * np.sqrt(0.21) / 200)
    assert drawn.is_ignored.mean() == pytest.approx(0.2, abs=5 * np.sqrt(0.16) / 200)


def test_a_lone_parameter_is_ignored_less_often():
    rng = np.random.default_rng(0)
    draws = [draw_parameters(1, sign_match=0.0, ignore_probability=1.0, rng=rng) for _ in range(10_000)]
    rate = np.mean([drawn.is_ignored[0] for drawn in draws])
    assert rate == pytest.approx(1 - np.exp(-1), abs=5 * np.sqrt(0.632 * 0.368) / 100)


def test_the_same_generator_gives_the_same_draw():
    one, other = (
        draw_parameters(5, sign_match=0.5, ignore_probability=0.5, rng=np.random.default_rng(3)) for _ in range(2)
    )
    for name in ("normal", "is_sign_matched", "is_ignored"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_initial_conditions_spread_with_the_attractor():
    rng = np.random.default_rng(0)
    centre, std = np.array([1.0, -5.0]), np.array([0.1, 8.0])
    points = np.array([perturb_initial_condition(centre, std, scale=0.5, rng=rng) for _ in range(10_000)])
    np.testing.assert_allclose(points.mean(axis=0), centre, atol=0.025 * std.max())
    np.testing.assert_allclose(points.std(axis=0), 0.5 * std, rtol=0.05)
    np.testing.assert_array_equal(perturb_initial_condition(centre, std, scale=0.0, rng=rng), centre)


def test_the_number_of_periods_is_fixed_or_drawn_between_two():
    rng = np.random.default_rng(0)
    assert draw_num_periods(40.0, rng=rng) == 40.0
    drawn = np.array([draw_num_periods([25.0, 100.0], rng=rng) for _ in range(2000)])
    assert 25 <= drawn.min() < 27
    assert 98 < drawn.max() <= 100
    assert drawn.mean() == pytest.approx(62.5, abs=5 * 75 / np.sqrt(12 * 2000))


def test_observation_noise_is_relative_to_each_channel():
    values = np.random.default_rng(1).normal(size=(2, 20_000)) * [[1.0], [100.0]]
    noise = add_observation_noise(values, scale=0.1, rng=np.random.default_rng(0)) - values
    np.testing.assert_allclose(noise.std(axis=1), 0.1 * values.std(axis=1), rtol=0.03)
    assert add_observation_noise(values, scale=0.0, rng=np.random.default_rng(0)) is values


@pytest.mark.parametrize("num_periods", [0.0, [10.0], [20.0, 10.0], [0.0, 10.0], [1.0, 2.0, 3.0], float("inf")])
def test_a_wrong_number_of_periods_is_refused(num_periods):
    with pytest.raises(ValueError, match=r"num_periods must be positive and finite, or \[low, high\]"):
        IntegrationConfig(num_periods=num_periods)


def test_negative_noise_is_refused():
    with pytest.raises(ValueError, match=r"observation_noise must be finite and not negative, found -0\.1"):
        PerturbationConfig(observation_noise=-0.1)
