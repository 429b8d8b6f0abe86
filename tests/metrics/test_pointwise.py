"""Errors against values worked out by hand, and against dysts where it is installed."""

import numpy as np
import pytest

from hf_tsdyn.metrics import mae, mase, mse, normalised_mae, normalised_mse, smape

ALL_METRICS = [mae, mse, normalised_mae, normalised_mse, mase, smape]


@pytest.fixture
def windows():
    """Past, future and forecast of 5 windows, 3 channels of very different size."""
    rng = np.random.default_rng(0)
    size = np.array([1.0, 1e3, 1e-3])
    return tuple(size * rng.normal(size=(5, time, 3)) for time in (40, 12, 12))


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (mae, (1 + 3) / 2),
        (mse, (1 + 9) / 2),
        (normalised_mae, (1 / 1 + 3 / 2) / 2),
        (normalised_mse, (1 / 1 + 9 / 4) / 2),
        (mase, (1 / 2 + 3 / 4) / 2),
        (smape, 100 * (1 / 7 + 3 / 9) / 2),
    ],
)
def test_value_is_the_one_worked_out_by_hand(metric, expected):
    past = np.array([[[1.0, 2.0], [3.0, 6.0], [1.0, 2.0], [3.0, 6.0]]])  # std 1 and 2, steps 2 and 4
    future, forecast = np.array([[[3.0, 3.0]]]), np.array([[[4.0, 6.0]]])
    np.testing.assert_allclose(metric(future, forecast, past_values=past), [expected], rtol=1e-14)


@pytest.mark.parametrize("metric", ALL_METRICS)
def test_a_perfect_forecast_has_no_error(metric, windows):
    past, future, _ = windows
    future[0, 0] = 0.0
    np.testing.assert_array_equal(metric(future, future, past_values=past), np.zeros(5))


@pytest.mark.parametrize("metric", ALL_METRICS)
def test_unseen_targets_do_not_count(metric, windows):
    past, future, forecast = windows
    mask = np.ones(future.shape, bool)
    mask[:, 6:] = False
    expected = metric(future[:, :6], forecast[:, :6], past_values=past)
    masked = metric(future, forecast, past_values=past, future_observed_mask=mask)
    as_nan = metric(np.where(mask, future, np.nan), forecast, past_values=past)
    np.testing.assert_allclose(masked, expected, rtol=1e-14)
    np.testing.assert_allclose(as_nan, expected, rtol=1e-14)


@pytest.mark.parametrize("metric", ALL_METRICS)
def test_a_window_without_targets_is_nan_and_leaves_the_others_alone(metric, windows):
    past, future, forecast = windows
    expected = metric(future, forecast, past_values=past)
    future[2] = np.nan
    expected[2] = np.nan
    np.testing.assert_array_equal(metric(future, forecast, past_values=past), expected)


@pytest.mark.parametrize("metric", [normalised_mae, normalised_mse, mase])
def test_scaled_errors_do_not_depend_on_units(metric, windows):
    past, future, forecast = windows
    expected = metric(future, forecast, past_values=past)
    scale, shift = np.array([1e6, 1e-6, 7.0]), np.array([1.0, -1.0, 5.0])
    moved = [scale * values + shift for values in (past, future, forecast)]
    np.testing.assert_allclose(metric(*moved[1:], past_values=moved[0]), expected, rtol=1e-6)


@pytest.mark.parametrize("metric", [normalised_mae, normalised_mse, mase])
def test_unseen_context_does_not_set_the_scale(metric, windows):
    past, future, forecast = windows
    mask = np.ones(past.shape, bool)
    mask[:, :10] = False
    expected = metric(future, forecast, past_values=past[:, 10:])
    past[:, :10] = 1e9
    masked = metric(future, forecast, past_values=past, past_observed_mask=mask)
    np.testing.assert_allclose(masked, expected, rtol=1e-12)


@pytest.mark.parametrize("metric", [normalised_mae, normalised_mse, mase])
@pytest.mark.parametrize("constant", [0.1, np.nan])
def test_a_channel_without_a_scale_is_left_out(metric, constant, windows):
    past, future, forecast = windows
    kept = metric(future[..., :2], forecast[..., :2], past_values=past[..., :2])
    past[..., 2] = constant
    np.testing.assert_allclose(metric(future, forecast, past_values=past), kept, rtol=1e-14)


@pytest.mark.parametrize("metric", ALL_METRICS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_forecast_that_is_not_finite_is_worse_than_any_other(metric, value, windows):
    past, future, forecast = windows
    forecast[1] = value
    worst = 100.0 if metric is smape else np.inf
    errors = metric(future, forecast, past_values=past)
    assert errors[1] == worst
    assert np.isfinite(np.delete(errors, 1)).all()


def test_smape_is_that_of_dysts(windows):
    dysts_metrics = pytest.importorskip("dysts.metrics")
    past, future, forecast = windows
    expected = [dysts_metrics.smape(y, f, eps=0) for y, f in zip(future, forecast, strict=True)]
    np.testing.assert_allclose(smape(future, forecast, past_values=past), expected, rtol=1e-12)


def test_smape_ends_at_100(windows):
    past, future, _ = windows
    np.testing.assert_allclose(smape(future, -future, past_values=past), np.full(5, 100.0))


def test_float32_is_scored_in_double_precision():
    future = np.full((1, 2, 1), 16_777_216.0, np.float32)
    forecast = np.full((1, 2, 1), 16_777_218.0, np.float32)
    past = np.arange(4, dtype=np.float32)[None, :, None]
    assert mse(future, forecast, past_values=past) == 4.0


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 5, 1), (2, 4, 1), (2, 9, 1)), "shape of the truth"),
        (((2, 5, 1), (2, 5, 1), (2, 9, 3)), "number of windows and channels"),
        (((5, 1), (5, 1), (9, 1)), "windows, time, channels"),
    ],
)
def test_wrong_shapes_are_named(shapes, message):
    future, forecast, past = (np.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        mae(future, forecast, past_values=past)


def test_a_mask_of_another_shape_is_named():
    future = np.zeros((1, 5, 1))
    with pytest.raises(ValueError, match="shape of its values"):
        mae(future, future, past_values=future, future_observed_mask=np.ones((1, 5), bool))
