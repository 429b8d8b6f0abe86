import pytest
import torch
from torch import nn

from hf_tsdyn.forecasting import (
    Forecaster,
    ForecastMixin,
    ForecastOutput,
    check_past_values,
    forecast_loss,
    last_observed,
)


class Ramp(ForecastMixin, nn.Module):
    """Continues every channel by +1 a step, four steps a block, and keeps what it was shown."""

    device = torch.device("cpu")

    def __init__(self, longest=None):
        super().__init__()
        self.longest, self.windows = longest, []

    @property
    def min_context_length(self):
        return 2

    @property
    def max_context_length(self):
        return self.longest

    def forward(self, past_values, past_observed_mask):
        assert not self.training
        self.windows.append((past_values.clone(), past_observed_mask.clone()))
        steps = torch.arange(1, 5, dtype=past_values.dtype).reshape(1, 4, 1)
        return ForecastOutput(prediction_outputs=past_values[:, -1:] + steps)


def ramp(length, channels=2):
    return torch.arange(length, dtype=torch.float32).reshape(1, length, 1).repeat(3, 1, channels)


@pytest.mark.parametrize("steps", [1, 3, 4, 5, 8, 11])
def test_forecast_returns_exactly_the_asked_length(steps):
    forecast = Ramp().forecast(ramp(6), prediction_length=steps)
    torch.testing.assert_close(forecast, ramp(6 + steps)[:, 6:])


def test_context_slides_by_default_and_grows_when_asked():
    sliding, growing = Ramp(), Ramp()
    sliding.forecast(ramp(6), prediction_length=9)
    growing.forecast(ramp(6), prediction_length=9, growing_context=True)
    assert [values.shape[1] for values, _ in sliding.windows] == [6, 6, 6]
    assert [values.shape[1] for values, _ in growing.windows] == [6, 10, 14]
    torch.testing.assert_close(sliding.windows[1][0], ramp(10)[:, 4:])


def test_context_beyond_the_longest_is_cut_to_the_latest_steps():
    model = Ramp(longest=8)
    model.forecast(ramp(20), prediction_length=9)
    model.forecast(ramp(6), prediction_length=9, growing_context=True)
    assert [values.shape[1] for values, _ in model.windows] == [8, 8, 8, 6, 8, 8]
    torch.testing.assert_close(model.windows[0][0], ramp(20)[:, 12:])


def test_nan_and_mask_hide_the_same_values_and_forecasts_count_as_seen():
    values = ramp(6)
    by_nan, by_mask = values.clone(), torch.ones_like(values, dtype=torch.bool)
    by_nan[0, 1, 0], by_mask[0, 1, 0] = float("nan"), False
    first, second = Ramp(), Ramp()
    first.forecast(by_nan, prediction_length=5)
    second.forecast(values, prediction_length=5, past_observed_mask=by_mask)
    for (values_a, mask_a), (values_b, mask_b) in zip(first.windows, second.windows, strict=True):
        assert torch.equal(values_a, values_b)
        assert torch.equal(mask_a, mask_b)
    assert first.windows[1][1][:, -4:].all()


def test_inputs_dtype_and_mode_are_left_as_they_were():
    model = Ramp().train()
    values = ramp(6).to(torch.float64)
    values[0, 2] = float("nan")
    before = values.clone()
    forecast = model.forecast(values, prediction_length=3)
    assert forecast.dtype == torch.float64
    assert torch.equal(values, before) or torch.equal(values.isnan(), before.isnan())
    assert model.training


@pytest.mark.parametrize("steps", [0, -3, 2.0, True, "4"])
def test_a_prediction_length_that_counts_no_steps_is_refused(steps):
    with pytest.raises(ValueError, match="prediction_length must be an integer"):
        Ramp().forecast(ramp(6), prediction_length=steps)


def test_bad_contexts_are_refused_with_what_was_found():
    model = Ramp()
    with pytest.raises(ValueError, match=r"at least 2 steps for Ramp, found 1"):
        model.forecast(ramp(1), prediction_length=1)
    with pytest.raises(ValueError, match=r"\(batch, time, channels\).*found \(6, 2\)"):
        model.forecast(ramp(6)[0], prediction_length=1)
    with pytest.raises(TypeError, match=r"floating-point tensor, found torch\.int64"):
        model.forecast(torch.ones(1, 6, 1, dtype=torch.long), prediction_length=1)
    unseen = ramp(6)
    unseen[1] = float("nan")
    with pytest.raises(ValueError, match=r"at least one seen value.*\[1\]"):
        model.forecast(unseen, prediction_length=1)
    with pytest.raises(ValueError, match="finite"):
        model.forecast(ramp(6) / 0, prediction_length=1)
    with pytest.raises(ValueError, match="past_observed_mask must have the shape"):
        check_past_values(ramp(6), torch.ones(3, 6, 1, dtype=torch.bool))


def test_quantiles_of_a_point_forecaster_are_refused_by_name():
    with pytest.raises(NotImplementedError, match="found Ramp"):
        Ramp().forecast_quantiles(ramp(6), prediction_length=1, quantile_levels=[0.5])


def test_the_protocol_recognises_a_forecaster():
    assert isinstance(Ramp(), Forecaster)
    assert not isinstance(nn.Linear(1, 1), Forecaster)


@pytest.mark.parametrize(
    ("kind", "normalize", "expected"),
    [
        ("mse", False, (1 + 9) / 2),
        ("mae", False, (1 + 3) / 2),
        ("huber", False, (0.5 + 2.5) / 2),
        ("mse", True, (0.25 + 2.25) / 2),
        ("mae", True, (0.5 + 1.5) / 2),
    ],
)
def test_loss_has_its_closed_form(kind, normalize, expected):
    prediction = torch.tensor([1.0, 3.0, 100.0]).reshape(1, 3, 1)
    target = torch.tensor([0.0, 0.0, float("nan")]).reshape(1, 3, 1)
    loc, scale = torch.zeros(1, 1, 1), torch.full((1, 1, 1), 2.0)
    loss = forecast_loss(
        prediction, target, None, loc=loc, scale=scale, kind=kind, huber_delta=1.0, normalize=normalize
    )
    assert loss.item() == pytest.approx(expected)


def test_a_channel_constant_in_the_context_has_no_normalised_loss():
    prediction, target = torch.zeros(1, 2, 2), torch.ones(1, 2, 2)
    loc, scale = torch.tensor([[[5.0, 5.0]]]), torch.tensor([[[2.0, 5e-6]]])
    loss = forecast_loss(prediction, target, None, loc=loc, scale=scale, kind="mse", huber_delta=1.0, normalize=True)
    assert loss.item() == pytest.approx(0.25)


def test_targets_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="future_values must have shape"):
        forecast_loss(
            torch.zeros(1, 4, 2),
            torch.zeros(1, 5, 2),
            None,
            loc=torch.zeros(1, 1, 2),
            scale=torch.ones(1, 1, 2),
            kind="mse",
            huber_delta=1.0,
            normalize=True,
        )


def test_the_latest_seen_value_is_found_channel_by_channel():
    values = torch.tensor([[1.0, 5.0, 9.0], [2.0, 6.0, 9.0], [3.0, float("nan"), 9.0]])[None]
    mask = torch.tensor([[True, True, False], [True, True, False], [True, False, False]])[None]
    assert last_observed(values, mask).tolist() == [[[3.0, 6.0, 0.0]]]


class Exploding(Ramp):
    """Doubles its last value into infinity, for the first series only."""

    def forward(self, past_values, past_observed_mask):
        block = past_values[:, -1:].repeat(1, 4, 1)
        block[0] = block[0] * 1e30
        return ForecastOutput(prediction_outputs=block)


def test_a_forecast_that_is_lost_stays_lost_and_alone():
    forecast = Exploding().forecast(ramp(6) + 1, prediction_length=12)
    assert forecast[0, :4].isfinite().all()
    assert forecast[0, 4:].isnan().all()
    assert (forecast[1:] == 6).all()


def test_frozen_parts_stay_in_their_mode():
    model = Ramp()
    model.frozen = nn.Dropout().eval()
    model.train()
    model.frozen.eval()
    model.forecast(ramp(6), prediction_length=1)
    assert model.training
    assert not model.frozen.training


def test_a_channel_that_wakes_up_counts_for_no_more_than_ten_deviations():
    loc, scale = torch.zeros(1, 1, 1), torch.full((1, 1, 1), 1e-3)
    arguments = {"loc": loc, "scale": scale, "huber_delta": 1.0, "normalize": True}
    target = torch.full((1, 4, 1), 5.0)
    loss = forecast_loss(torch.zeros(1, 4, 1), target, None, kind="mse", **arguments)
    assert loss.item() == pytest.approx(100.0, rel=1e-5)
    small = forecast_loss(torch.zeros(1, 4, 1), 1e-3 * target, None, kind="mse", **arguments)
    assert small.item() == pytest.approx(25.0, rel=1e-5)


def test_target_masks_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="future_observed_mask must have the shape"):
        forecast_loss(
            torch.zeros(1, 4, 2),
            torch.zeros(1, 4, 2),
            torch.ones(1, 1, 2, dtype=torch.bool),
            loc=torch.zeros(1, 1, 2),
            scale=torch.ones(1, 1, 2),
            kind="mse",
            huber_delta=1.0,
            normalize=True,
        )
