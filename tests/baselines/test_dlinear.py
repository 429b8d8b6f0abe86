"""DLinear against both of its maps fitted by the normal equations written out."""

import numpy as np
import pytest
import torch

from hf_tsdyn.baselines import DLinear
from hf_tsdyn.baselines.dlinear import moving_average


def continue_by_loops(series, *, length, block, kernel, penalty, margin, steps):
    """(time,) -> (steps,): two maps, of the average and of the rest, side by side."""
    loc, scale = series.mean(), series.std()
    z = (series - loc) / scale

    def read(window):
        padded = np.pad(window, kernel // 2, mode="edge")
        average = np.array([padded[n : n + kernel].mean() for n in range(length)])
        return np.concatenate([average, window - average, [1]])

    windows = range(len(z) - length - block + 1)
    x = np.array([read(z[n : n + length]) for n in windows])
    y = np.array([z[n + length : n + length + block] for n in windows])
    diagonal = np.diag([penalty * len(x)] * (2 * length) + [0.0])
    weights = np.linalg.solve(x.T @ x + diagonal, x.T @ y)
    room = margin * np.ptp(z)
    path = z
    for _ in range(-(-steps // block)):
        ahead = np.clip(read(path[-length:]) @ weights, z.min() - room, z.max() + room)
        path = np.concatenate([path, ahead])
    return path[len(z) : len(z) + steps] * scale + loc


@pytest.mark.parametrize(("length", "block", "kernel"), [(12, 5, 5), (6, 9, 11), (8, 1, 1)])
def test_it_is_both_regressions_written_out(length, block, kernel, generator):
    past = torch.randn(2, 80, 2, generator=generator, dtype=torch.float64).cumsum(dim=1)
    forecast = DLinear(length, block, kernel, penalty=1e-2).forecast(past, prediction_length=22)
    options = {"length": length, "block": block, "kernel": kernel, "penalty": 1e-2, "margin": 0.2, "steps": 22}
    for series, channel in np.ndindex(2, 2):
        expected = continue_by_loops(past[series, :, channel].numpy(), **options)
        np.testing.assert_allclose(forecast[series, :, channel].numpy(), expected, rtol=1e-8, atol=1e-8)


def test_a_short_context_has_a_shorter_window_and_block(generator):
    past = torch.randn(1, 14, 1, generator=generator, dtype=torch.float64)
    options = {"length": 4, "block": 4, "kernel": 25, "penalty": 1e-4, "margin": 0.2, "steps": 10}
    expected = continue_by_loops(past[0, :, 0].numpy(), **options)
    found = DLinear().forecast(past, prediction_length=10)[0, :, 0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_the_average_is_that_of_a_pool_with_its_ends_repeated(generator):
    values = torch.randn(1, 1, 20, generator=generator, dtype=torch.float64)
    padded = torch.nn.functional.pad(values, (3, 3), mode="replicate")
    expected = torch.nn.functional.avg_pool1d(padded, 7, stride=1)
    torch.testing.assert_close(values @ moving_average(20, 7).T, expected)


def test_waves_are_continued():
    steps = torch.arange(500, dtype=torch.float64)
    values = (10 + 3 * torch.sin(0.4 * steps) + torch.cos(1.3 * steps))[None, :, None]
    forecast = DLinear(penalty=1e-9).forecast(values[:, :400], prediction_length=100)
    torch.testing.assert_close(forecast, values[:, 400:], rtol=0, atol=1e-4)


def test_what_grows_is_held_near_the_range_of_the_context():
    past = torch.exp(0.03 * torch.arange(200, dtype=torch.float64))[None, :, None]
    forecast = DLinear(20, 10, 5, penalty=1e-9).forecast(past, prediction_length=500)
    assert forecast[0, -1, 0] == pytest.approx(float(past.max() + 0.2 * (past.max() - past.min())))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context_length": 0}, "must be at least 1 and the kernel odd, found 0, 32 and 25"),
        ({"kernel_size": 4}, "the kernel odd, found 96, 32 and 4"),
        ({"penalty": 0.0}, r"penalty must be above 0.*found 0\.0"),
        ({"margin": -1.0}, r"margin at least 0.*found 0\.0001 and -1\.0"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DLinear(**options)
