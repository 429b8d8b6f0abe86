"""Fracast-0 behind our protocol; its weights come with its package."""

import sys

import pytest
import torch

from hf_tsdyn.baselines.fracast import FracastForecaster
from hf_tsdyn.forecasting import Forecaster


@pytest.fixture(scope="module")
def forecaster():
    pytest.importorskip("fracast", reason="the extra fracast is not installed")
    return FracastForecaster()


def test_channels_are_forecast_as_the_package_does(forecaster, generator):
    import fracast

    past = torch.randn(2, 300, 3, generator=generator).cumsum(dim=1)
    model = fracast.FracastModel.from_pretrained(weights="fp32")
    forecast = forecaster.forecast(past, prediction_length=100)
    assert isinstance(forecaster, Forecaster)
    for series, found in zip(past, forecast, strict=True):
        expected = torch.from_numpy(model.forecast(series.T.numpy(), horizon=100)[:, :, 4]).T
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_gaps_short_channels_and_units(forecaster, generator):
    past = torch.randn(2, 60, 2, generator=generator).cumsum(dim=1)
    past[0, 10:30, 0] = torch.nan
    past[1, 3:, 1] = torch.nan
    before = past.clone()
    forecast = forecaster.forecast(past, prediction_length=50)
    assert forecast.shape == (2, 50, 2)
    assert (forecast[1, :, 1] == past[1, 2, 1]).all()  # three seen values: held at the last
    changed = forecaster.forecast(1e4 * past + 7, prediction_length=50)
    torch.testing.assert_close((changed - 7) / 1e4, forecast, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(past, before, equal_nan=True, rtol=0, atol=0)


def test_without_the_package_its_install_line_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fracast", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'hf_tsdyn\[fracast\]'"):
        FracastForecaster()
