"""PatchTST behind our protocol: transformers' own numbers, any channels and contexts, any units."""

import pytest
import torch
from transformers import PatchTSTConfig, PatchTSTForPrediction

from hf_tsdyn.baselines.patchtst import PatchTSTForecaster
from hf_tsdyn.forecasting import Forecaster

TINY = {
    "num_input_channels": 1,
    "context_length": 32,
    "prediction_length": 8,
    "patch_length": 8,
    "patch_stride": 8,
    "d_model": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "ffn_dim": 32,
    "scaling": "std",
    "loss": "mse",
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return PatchTSTForecaster(PatchTSTConfig(**TINY)).eval()


def test_each_channel_is_forecast_as_transformers_does(model, generator):
    past = torch.randn(3, 32, 2, generator=generator).cumsum(dim=1)
    original = PatchTSTForPrediction(model.config).eval()
    original.load_state_dict(model.state_dict())
    with torch.no_grad():
        found = model(past).prediction_outputs
        for channel in range(2):
            expected = original(past[:, :, channel : channel + 1]).prediction_outputs[..., 0]
            torch.testing.assert_close(found[:, :, channel], expected, rtol=1e-4, atol=1e-4)


def test_checkpoint_loads_here_and_as_transformers_own(model, tmp_path, generator):
    past = torch.randn(2, 32, 1, generator=generator)
    model.save_pretrained(tmp_path)
    again = PatchTSTForecaster.from_pretrained(tmp_path)
    assert torch.equal(again.forecast(past, prediction_length=20), model.forecast(past, prediction_length=20))
    original = PatchTSTForPrediction.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = original(past).prediction_outputs
    torch.testing.assert_close(model.forecast(past, prediction_length=8), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("length", [5, 32, 50])
def test_any_context_gaps_and_horizon(model, length, generator):
    past = torch.randn(2, length, 3, generator=generator)
    past[0, 1:3, 1] = torch.nan
    forecast = model.forecast(past, prediction_length=13)
    assert isinstance(model, Forecaster)
    assert forecast.shape == (2, 13, 3)
    assert forecast.isfinite().all()
    alone = model.forecast(past[:1], prediction_length=13)
    torch.testing.assert_close(alone, forecast[:1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("factor", "shift"), [(1e6, 0.0), (1e-6, 0.0), (1.0, 100.0)])
def test_units_do_not_count(model, factor, shift, generator):
    past = torch.randn(2, 32, 2, generator=generator, dtype=torch.float64)
    plain = model.forecast(past, prediction_length=16)
    changed = model.forecast(past * factor + shift, prediction_length=16)
    torch.testing.assert_close((changed - shift) / factor, plain, rtol=1e-4, atol=1e-4)


def test_loss_is_the_squared_error_in_standard_deviations_of_the_window(model, generator):
    past = 50 * torch.randn(2, 32, 2, generator=generator)
    future = 50 * torch.randn(2, 8, 2, generator=generator)
    future[0, 2, 1] = torch.nan
    with torch.no_grad():
        output = model(past, future_values=future)
    errors = (output.prediction_outputs - future) / past.std(dim=1, unbiased=False, keepdim=True)
    torch.testing.assert_close(output.loss, errors[~errors.isnan()].square().mean(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("wrong", [{"num_input_channels": 3}, {"loss": "nll"}])
def test_other_configurations_are_refused(wrong):
    with pytest.raises(ValueError, match="num_input_channels=1 and loss='mse'"):
        PatchTSTForecaster(PatchTSTConfig(**TINY | wrong))
