"""Baselines against closed forms and a search written out in loops."""

import numpy as np
import pytest
import torch

from hf_tsdyn.baselines import BASELINES, EchoState
from hf_tsdyn.baselines.naive import ContextMean, ContextParroting, Persistence, SeasonalNaive, estimate_period
from hf_tsdyn.forecasting import Forecaster

ALL_BASELINES = [*(each() for each in BASELINES.values()), SeasonalNaive(24)]


def parrot_by_loops(series: np.ndarray, length: int, min_lag: int, prediction_length: int) -> np.ndarray:
    """(time, channels) -> (prediction_length, channels), one candidate and one step at a time."""
    time = len(series)
    std = series.std(axis=0)
    best_lag, best = 0, np.inf
    for lag in range(min_lag, time - length + 1):
        distance = sum((((series[time - 1 - k] - series[time - 1 - k - lag]) / std) ** 2).sum() for k in range(length))
        if distance < best:
            best_lag, best = lag, distance
    continued = list(series)
    for _ in range(prediction_length):
        continued.append(continued[-best_lag])
    return np.array(continued[time:])


@pytest.mark.parametrize("baseline", ALL_BASELINES, ids=lambda b: type(b).__name__)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_forecast_has_the_asked_length_and_leaves_its_input_alone(baseline, dtype, generator):
    past = torch.randn(3, 37, 2, generator=generator).to(dtype)
    past[0, 5:9, 1] = torch.nan
    before = past.clone()
    forecast = baseline.forecast(past, prediction_length=53)
    assert isinstance(baseline, Forecaster)
    assert forecast.shape == (3, 53, 2)
    assert forecast.dtype == dtype
    assert forecast.isfinite().all()
    torch.testing.assert_close(past, before, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("baseline", ALL_BASELINES, ids=lambda b: type(b).__name__)
def test_mask_and_nan_mean_the_same(baseline, generator):
    past = torch.randn(4, 60, 3, generator=generator)
    mask = torch.rand(past.shape, generator=generator) > 0.3
    masked = baseline.forecast(past, prediction_length=20, past_observed_mask=mask)
    as_nan = baseline.forecast(past.masked_fill(~mask, torch.nan), prediction_length=20)
    assert torch.equal(masked, as_nan)


@pytest.mark.parametrize("baseline", ALL_BASELINES, ids=lambda b: type(b).__name__)
def test_a_series_is_forecast_alike_alone_and_in_a_batch(baseline, generator):
    past = torch.randn(5, 60, 3, generator=generator, dtype=torch.float64)
    past[1, 20:30] = torch.nan
    batch = baseline.forecast(past, prediction_length=20)
    alone = torch.cat([baseline.forecast(one[None], prediction_length=20) for one in past])
    torch.testing.assert_close(batch, alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("baseline", ALL_BASELINES, ids=lambda b: type(b).__name__)
@pytest.mark.parametrize(("scale", "shift"), [(1e6, 0.0), (1e-6, 0.0), (-3.0, 50.0)])
def test_forecast_follows_the_units_of_the_data(baseline, scale, shift, generator):
    scale = abs(scale) if isinstance(baseline, EchoState) else scale  # its constants know up from down
    waves = torch.sin(0.3 * torch.arange(160, dtype=torch.float64))[:, None]
    past = waves + 0.1 * torch.randn(2, 160, 2, generator=generator, dtype=torch.float64)
    expected = baseline.forecast(past, prediction_length=20)
    found = baseline.forecast(scale * past + shift, prediction_length=20)
    torch.testing.assert_close((found - shift) / scale, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("baseline", BASELINES.values(), ids=BASELINES)
@pytest.mark.parametrize("time", [2, 3, 4, 5, 7, 11, 17, 23])
def test_short_contexts_have_finite_forecasts(baseline, time, generator):
    past = torch.randn(2, time, 2, generator=generator)
    past[1] = 3.0
    forecast = baseline().forecast(past, prediction_length=9)
    assert forecast.shape == (2, 9, 2)
    assert forecast.isfinite().all()
    torch.testing.assert_close(forecast[1], torch.full((9, 2), 3.0))  # nothing moved, so nothing will


@pytest.mark.parametrize("baseline", ALL_BASELINES, ids=lambda b: type(b).__name__)
def test_a_channel_with_nothing_seen_is_forecast_as_zero(baseline, generator):
    past = torch.randn(1, 40, 2, generator=generator)
    past[..., 1] = torch.nan
    assert torch.equal(baseline.forecast(past, prediction_length=7)[..., 1], torch.zeros(1, 7))


@pytest.mark.parametrize("baseline", ALL_BASELINES, ids=lambda b: type(b).__name__)
def test_quantiles_are_refused_by_name(baseline):
    with pytest.raises(NotImplementedError, match=type(baseline).__name__):
        baseline.forecast_quantiles(torch.zeros(1, 5, 1), prediction_length=2, quantile_levels=[0.5])


def test_persistence_holds_the_last_seen_value():
    past = torch.tensor([[[1.0, 4.0], [2.0, 5.0], [3.0, torch.nan]]])
    forecast = Persistence().forecast(past, prediction_length=2)
    assert forecast.tolist() == [[[3.0, 5.0], [3.0, 5.0]]]


def test_mean_is_over_what_was_seen():
    past = torch.tensor([[[1.0, 4.0], [2.0, 8.0], [6.0, torch.nan]]])
    forecast = ContextMean().forecast(past, prediction_length=2)
    assert forecast.tolist() == [[[3.0, 6.0], [3.0, 6.0]]]


@pytest.mark.parametrize("prediction_length", [1, 4, 5, 12])
def test_seasonal_naive_repeats_the_last_period(prediction_length, generator):
    past = torch.randn(2, 17, 3, generator=generator)
    forecast = SeasonalNaive(4).forecast(past, prediction_length=prediction_length)
    assert torch.equal(forecast, torch.stack([past[:, 13 + step % 4] for step in range(prediction_length)], dim=1))


def test_seasonal_naive_interpolates_gaps_it_has_to_repeat():
    past = torch.tensor([[[9.0], [1.0], [torch.nan], [3.0], [torch.nan]]])
    forecast = SeasonalNaive(3).forecast(past, prediction_length=4)
    assert forecast.flatten().tolist() == [2.0, 3.0, 3.0, 2.0]


def test_seasonal_naive_refuses_no_period_and_a_context_without_one():
    with pytest.raises(ValueError, match="at least 1, found 0"):
        SeasonalNaive(0)
    with pytest.raises(ValueError, match="at least the 24 steps of a period for SeasonalNaive, found 23"):
        SeasonalNaive(24).forecast(torch.zeros(1, 23, 1), prediction_length=3)


@pytest.mark.parametrize("period", [2, 3, 10, 61])
@pytest.mark.parametrize("slope", [0.0, 0.05])
def test_the_period_of_a_repeating_series_is_found(period, slope, generator):
    cycle = torch.randn(6, period, 2, generator=generator)
    cycle[:, :, 1] = 0
    series = cycle.repeat(1, 150 // period + 1, 1)[:, :150] + slope * torch.arange(150.0)[:, None]
    assert (estimate_period(series) == period).all()
    if not slope:
        forecast = SeasonalNaive().forecast(series, prediction_length=2 * period)
        expected = torch.stack([series[:, 150 - period + step % period] for step in range(2 * period)], dim=1)
        assert torch.equal(forecast, expected)


def test_the_period_of_a_noisy_wave_is_found(generator):
    series = torch.sin(torch.arange(400.0) * (2 * torch.pi / 37))[None, :, None]
    series = series + 0.3 * torch.randn(8, 400, 1, generator=generator)
    assert ((estimate_period(series) % 37 - 37 // 2).abs() >= 37 // 2 - 3).all()  # or a multiple, give or take 3


@pytest.mark.parametrize("series", [torch.ones(40), torch.arange(40.0) / 7 + 1, torch.zeros(3)])
def test_what_does_not_come_back_has_the_period_1(series):
    assert estimate_period(series[None, :, None]).tolist() == [1]


@pytest.mark.parametrize("period", [10, 23, 61])
@pytest.mark.parametrize("channels", [1, 3])
def test_parroting_continues_a_periodic_signal_exactly(period, channels, generator):
    cycle = torch.randn(4, period, channels, generator=generator)
    signal = cycle.repeat(1, 330 // period + 1, 1)[:, :330]
    forecast = ContextParroting().forecast(signal[:, :130], prediction_length=200)
    assert torch.equal(forecast, signal[:, 130:])


@pytest.mark.parametrize(("time", "length", "min_lag"), [(50, 5, 5), (50, 1, 1), (33, 8, 20), (64, 12, 3)])
def test_parroting_is_the_search_written_out(time, length, min_lag, generator):
    past = torch.randn(6, time, 2, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 1e3])
    forecast = ContextParroting(length, min_lag).forecast(past, prediction_length=70)
    for series, found in zip(past.numpy(), forecast.numpy(), strict=True):
        np.testing.assert_array_equal(found, parrot_by_loops(series, length, min_lag, 70))


@pytest.mark.parametrize("time", [2, 3, 7, 19, 20, 21])
def test_parroting_uses_a_shorter_motif_in_a_short_context(time, generator):
    past = torch.randn(3, time, 2, generator=generator, dtype=torch.float64)
    forecast = ContextParroting(10, 10).forecast(past, prediction_length=9)
    length = min(10, time // 2)
    for series, found in zip(past.numpy(), forecast.numpy(), strict=True):
        np.testing.assert_array_equal(found, parrot_by_loops(series, length, min(10, time - length), 9))


def test_parroting_finds_the_period_despite_gaps(generator):
    cycle = torch.randn(1, 25, 2, generator=generator)
    signal = cycle.repeat(1, 8, 1)
    past = signal[:, :150].clone()
    past[:, 30:41] = torch.nan
    past[:, 147, 0] = torch.nan
    forecast = ContextParroting().forecast(past, prediction_length=22)  # copies no gap: the motif is 25 back
    assert torch.equal(forecast, signal[:, 150:172])


def test_parroting_interpolates_gaps_it_has_to_copy():
    signal = torch.arange(20.0).repeat(5)[None, :, None]
    past = signal.clone()
    past[:, 83:86] = torch.nan
    forecast = ContextParroting(10, 10).forecast(past, prediction_length=20)
    torch.testing.assert_close(forecast, signal[:, :20])


def test_parroting_ignores_unseen_padding_in_front(generator):
    past = torch.randn(2, 60, 2, generator=generator)
    padded = torch.cat([torch.full((2, 40, 2), torch.nan), past], dim=1)
    forecaster = ContextParroting(5, 5)
    plain = forecaster.forecast(past, prediction_length=15)
    torch.testing.assert_close(forecaster.forecast(padded, prediction_length=15), plain)


@pytest.mark.parametrize("arguments", [{"embedding_length": 0}, {"min_lag": 0}])
def test_parroting_refuses_lengths_below_one(arguments):
    with pytest.raises(ValueError, match="must be at least 1"):
        ContextParroting(**arguments)


def test_parroting_refuses_a_single_step():
    with pytest.raises(ValueError, match="at least 2 steps for ContextParroting, found 1"):
        ContextParroting().forecast(torch.zeros(1, 1, 1), prediction_length=3)


@pytest.mark.parametrize("baseline", ALL_BASELINES, ids=lambda b: type(b).__name__)
def test_a_prediction_length_of_zero_is_refused(baseline):
    with pytest.raises(ValueError, match="at least 1, found 0"):
        baseline.forecast(torch.zeros(1, 5, 1), prediction_length=0)
