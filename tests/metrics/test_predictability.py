"""Valid prediction on errors that grow in a known way."""

import numpy as np
import pytest

from hf_tsdyn.metrics import lyapunov_unit, valid_prediction


@pytest.fixture
def square_wave():
    """(windows, time, channels) = (1, 40, 2) of standard deviations 3 and 4, hence of norm 5."""
    return (np.array([3.0, 4.0]) * np.where(np.arange(40) % 2, 1, -1)[:, None])[None]


@pytest.mark.parametrize(("threshold", "expected"), [(0.4, 21), (0.2, 11)])
def test_steps_are_those_at_which_a_linear_error_crosses(square_wave, threshold, expected):
    growth = 0.1 * np.arange(1, 41)[:, None] * np.array([0.6, 0.8])  # norm 0.1 k, to cross 5 * threshold
    valid = valid_prediction(square_wave, square_wave + growth - 1e-9, past_values=square_wave, threshold=threshold)
    assert valid.steps.tolist() == [expected]
    assert not valid.saturated.any()


def test_an_error_that_never_crosses_is_flagged(square_wave):
    valid = valid_prediction(square_wave, square_wave + 0.1, past_values=square_wave)
    assert valid.steps.tolist() == [40]
    assert valid.saturated.tolist() == [True]


def test_crossing_at_the_last_step_is_not_saturated(square_wave):
    forecast = square_wave.copy()
    forecast[0, -1] += 100
    valid = valid_prediction(square_wave, forecast, past_values=square_wave)
    assert (valid.steps.tolist(), valid.saturated.tolist()) == ([40], [False])


def test_later_agreement_does_not_count(square_wave):
    forecast = square_wave.copy()
    forecast[0, 2] += 100
    assert valid_prediction(square_wave, forecast, past_values=square_wave).steps.tolist() == [3]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_forecast_that_is_not_finite_is_valid_no_longer(square_wave, value):
    forecast = square_wave.copy()
    forecast[0, 7:, 1] = value
    assert valid_prediction(square_wave, forecast, past_values=square_wave).steps.tolist() == [8]


def test_unseen_steps_are_passed_over_and_unseen_channels_left_out(square_wave):
    forecast = square_wave.copy()
    forecast[0, 5] += 100
    forecast[0, 9, 1] += 100
    forecast[0, 12, 0] += 0.41 * 3
    future = square_wave.copy()
    future[0, 5] = np.nan
    future[0, 9, 1] = np.nan
    future[0, 12, 1] = np.nan
    assert valid_prediction(future, forecast, past_values=square_wave).steps.tolist() == [13]


def test_spread_is_that_of_context_and_future_together(square_wave):
    constant = np.zeros((1, 40, 2))
    forecast = constant + np.array([0.6, 0.8]) * 1.0
    assert valid_prediction(constant, forecast, past_values=square_wave).saturated.all()  # 1 < 0.4 * 5 / sqrt(2)
    assert valid_prediction(constant, forecast, past_values=constant).steps.tolist() == [1]


def test_time_is_steps_times_dt_over_the_unit(square_wave):
    forecast = square_wave.copy()
    forecast[0, 9:] += 100
    valid = valid_prediction(square_wave, forecast, past_values=square_wave)
    np.testing.assert_allclose(valid.time(dt=0.5, unit=[2.0]), [10 * 0.5 / 2.0])
    assert np.isnan(valid.time(dt=0.5, unit=np.nan)).all()


@pytest.mark.parametrize(
    ("lyapunov_time", "period", "known"), [(None, 1.0, False), (60.0, 1.0, False), (40.0, 1.0, True)]
)
def test_lyapunov_times_are_for_clearly_chaotic_systems(lyapunov_time, period, known):
    unit = lyapunov_unit(lyapunov_time, period)
    assert unit == lyapunov_time if known else np.isnan(unit)


def test_a_threshold_of_zero_is_refused(square_wave):
    with pytest.raises(ValueError, match="threshold must be positive, found 0"):
        valid_prediction(square_wave, square_wave, past_values=square_wave, threshold=0)
