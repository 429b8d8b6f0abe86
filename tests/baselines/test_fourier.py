"""Fourier against sums of sinusoids, which it must continue."""

import numpy as np
import pytest
import torch

from hf_tsdyn.baselines import Fourier

TIME = torch.arange(400, dtype=torch.float64)


def waves(cycles, *, context=300):
    """Sinusoids about 5 with so many cycles in `context` steps each, (1, 400, 1)."""
    parts = [(n + 1) * torch.sin(2 * torch.pi * each * TIME / context + n) for n, each in enumerate(cycles)]
    return 5 + torch.stack(parts).sum(dim=0)[None, :, None]


@pytest.mark.parametrize("refinements", [0, 4])
@pytest.mark.parametrize("cycles", [(7,), (8, 20, 31), (8, 9, 10)])
def test_sinusoids_with_whole_numbers_of_cycles_are_continued_exactly(cycles, refinements):
    series = waves(cycles)
    forecast = Fourier(refinements=refinements).forecast(series[:, :300], prediction_length=100)
    torch.testing.assert_close(forecast, series[:, 300:], rtol=0, atol=1e-9)


@pytest.mark.parametrize("cycles", [(7.3,), (8.3, 20.7, 31.2), (8.3, 9.6, 12.4)])
def test_refinements_continue_sinusoids_with_any_numbers_of_cycles(cycles):
    series = waves(cycles)
    forecast = Fourier(refinements=6).forecast(series[:, :300], prediction_length=100)
    torch.testing.assert_close(forecast, series[:, 300:], rtol=0, atol=1e-8)


def test_on_the_lines_it_is_the_strongest_of_the_discrete_transform(generator):
    past = torch.randn(2, 90, 3, generator=generator, dtype=torch.float64)
    forecast = Fourier(5, refinements=0).forecast(past, prediction_length=30)
    for series, found in zip(past.numpy(), forecast.numpy(), strict=True):
        coefficients = np.fft.rfft(series, axis=0)
        expected = np.tile(series.mean(axis=0), (30, 1))
        for channel in range(3):
            strongest = 1 + np.abs(coefficients[1:45, channel]).argsort()[-5:]
            for line in strongest:
                turns = np.exp(2j * np.pi * line * np.arange(30) / 90)
                expected[:, channel] += (coefficients[line, channel] * turns).real * 2 / 90
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_a_trend_is_continued_when_it_is_asked_for():
    series = waves((8.3, 20.7)) + 0.03 * TIME[:, None]
    found = {trend: Fourier(2, 8, trend=trend).forecast(series[:, :300], prediction_length=100) for trend in (0, 1)}
    torch.testing.assert_close(found[True], series[:, 300:], rtol=0, atol=1e-6)
    assert (found[False] - series[:, 300:]).abs().max() > 1


def test_a_gap_is_interpolated_before():
    series = waves((8, 20))[:, :300]
    gappy = series.clone()
    gappy[0, 50] = torch.nan
    filled = series.clone()
    filled[0, 50] = (series[0, 49] + series[0, 51]) / 2
    found = Fourier().forecast(gappy, prediction_length=20)
    torch.testing.assert_close(found, Fourier().forecast(filled, prediction_length=20))


@pytest.mark.parametrize("options", [{"num_harmonics": 0}, {"refinements": -1}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match="num_harmonics must be at least 1 and refinements at least 0, found"):
        Fourier(**options)
