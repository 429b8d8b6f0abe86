import pytest
import torch
from torch import nn

from hf_tsdyn.distributions import QuantileDistribution
from hf_tsdyn.forecasting import Forecaster, ForecastMixin, ForecastOutput
from hf_tsdyn.observations import check_past_values, last_observed


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


class Gaussian(Ramp):
    """A normal distribution around a random walk: level by its last value, spread 1, four steps a block."""

    distribution = QuantileDistribution((0.1, 0.5, 0.9))

    def forward(self, past_values, past_observed_mask):
        shape = (len(past_values), 4, past_values.shape[2])
        origin = past_values[:, -1:]
        parameters = self.distribution.parameters(torch.zeros(*shape, 3), origin, torch.ones_like(origin))
        return ForecastOutput(prediction_outputs=self.distribution.point(parameters), distribution_outputs=parameters)


def test_quantiles_of_the_first_block_are_the_models_own():
    levels = [0.5, 0.9, 0.025]
    quantiles = Gaussian().forecast_quantiles(ramp(6), prediction_length=3, quantile_levels=levels)
    assert quantiles.shape == (3, 3, 2, 3)
    expected = 5 + torch.tensor([0.0, 1.2815516, -1.9599640])
    torch.testing.assert_close(quantiles, expected.expand(3, 3, 2, 3))


def test_quantiles_beyond_one_block_come_from_sampled_paths():
    arguments = {"prediction_length": 12, "quantile_levels": [0.1, 0.5, 0.9]}
    quantiles = Gaussian().forecast_quantiles(
        ramp(6), **arguments, num_samples=4000, generator=torch.Generator().manual_seed(1)
    )
    for block in range(3):  # independent steps of a random walk: the variances add up
        expected = 5 + (block + 1) ** 0.5 * torch.tensor([-1.2815516, 0.0, 1.2815516])
        found = quantiles[:, 4 * block : 4 * block + 4]
        torch.testing.assert_close(found, expected.expand_as(found), atol=0.15, rtol=0)


def test_sampled_quantiles_repeat_and_no_series_depends_on_its_batch(monkeypatch):
    arguments = {"prediction_length": 10, "quantile_levels": [0.2, 0.8], "num_samples": 30}

    def quantiles(seed):
        generator = torch.Generator().manual_seed(seed)
        return Gaussian().forecast_quantiles(ramp(6), **arguments, generator=generator)

    whole = quantiles(3)
    monkeypatch.setattr("hf_tsdyn.forecasting.MAX_PATHS", 30)
    torch.testing.assert_close(quantiles(3), whole)
    assert not torch.equal(quantiles(4), whole)
    alone = Gaussian().forecast_quantiles(ramp(6)[:1], **arguments, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(alone, whole[:1])
    longer = Gaussian().forecast_quantiles(
        ramp(6), **(arguments | {"prediction_length": 19}), generator=torch.Generator().manual_seed(3)
    )
    torch.testing.assert_close(longer[:, :10], whole)
    default = [Gaussian().forecast_quantiles(ramp(6), **arguments) for _ in range(2)]
    assert torch.equal(*default)


def test_quantiles_never_cross_in_whatever_order_they_are_asked():
    levels = torch.rand(9, generator=torch.Generator().manual_seed(0)).tolist()
    quantiles = Gaussian().forecast_quantiles(ramp(6), prediction_length=9, quantile_levels=levels, num_samples=17)
    ordered = quantiles[..., torch.tensor(levels).argsort()]
    assert (ordered.diff(dim=-1) >= 0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantile_levels": []}, "quantile_levels must be numbers between 0 and 1"),
        ({"quantile_levels": [0.5, 1.0]}, "quantile_levels must be numbers between 0 and 1"),
        ({"quantile_levels": 0.5}, "quantile_levels must be numbers between 0 and 1"),
        ({"num_samples": 0}, "num_samples must be an integer of at least 1"),
        ({"prediction_length": 0}, "prediction_length must be an integer"),
    ],
)
def test_impossible_quantile_requests_are_refused(changes, message):
    arguments = {"prediction_length": 3, "quantile_levels": [0.5]} | changes
    with pytest.raises(ValueError, match=message):
        Gaussian().forecast_quantiles(ramp(6), **arguments)


def test_samples_are_paths_of_the_distribution_block_by_block():
    samples = Gaussian().forecast_samples(ramp(6), prediction_length=10, num_samples=4000)
    assert samples.shape == (3, 10, 2, 4000)
    blocks = samples[:, [0, 4, 8]]
    torch.testing.assert_close(blocks.mean(dim=-1), torch.full((3, 3, 2), 5.0), atol=0.1, rtol=0)
    steps = torch.cat([blocks[:, :1] - 5, blocks.diff(dim=1)], dim=1)  # of a random walk: spread 1, independent
    torch.testing.assert_close(torch.cov(steps[0].flatten(0, 1)), torch.eye(6), atol=0.08, rtol=0)
    assert torch.equal(samples[:, :4], samples[:, :1].expand(-1, 4, -1, -1))


def test_quantiles_beyond_one_block_are_those_of_the_samples():
    arguments = {"prediction_length": 11, "num_samples": 99}
    samples = Gaussian().forecast_samples(ramp(6), **arguments)
    median = Gaussian().forecast_quantiles(ramp(6), **arguments, quantile_levels=[0.5])
    torch.testing.assert_close(samples[:, 4:].median(dim=-1).values, median[:, 4:, :, 0])
    other = Gaussian().forecast_samples(ramp(6), **arguments, generator=torch.Generator().manual_seed(4))
    assert not torch.equal(other, samples)


def test_samples_of_a_point_forecaster_are_refused_by_name():
    with pytest.raises(NotImplementedError, match="forecast_samples needs a model with a distribution, found Ramp"):
        Ramp().forecast_samples(ramp(6), prediction_length=1)
