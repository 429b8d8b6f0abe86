import numpy as np
import pytest
import torch
from scipy.interpolate import CubicHermiteSpline

from hf_tsdyn.interpolation import fill_hermite, fill_linear


def column(values):
    return torch.as_tensor(values, dtype=torch.float64).reshape(1, -1, 1)


@pytest.mark.parametrize("fill", [fill_linear, fill_hermite])
def test_seen_values_stay_ends_are_held_and_unseen_channels_are_zero(fill, generator):
    values = torch.randn(3, 40, 4, generator=generator)
    mask = torch.rand(values.shape, generator=generator) > 0.5
    mask[:, :3, 0], mask[:, -5:, 1], mask[1, :, 2] = False, False, False
    poisoned = values.masked_fill(~mask, float("nan"))
    filled = fill(poisoned, mask)
    assert torch.equal(filled[mask], values[mask])
    assert filled.isfinite().all()
    assert (filled[1, :, 2] == 0).all()
    for series in range(3):
        first, last = int(mask[series, :, 0].int().argmax()), 39 - int(mask[series, :, 1].flip(0).int().argmax())
        assert (filled[series, :first, 0] == values[series, first, 0]).all()
        assert (filled[series, last:, 1] == values[series, last, 1]).all()


def test_straight_lines_are_filled_exactly(generator):
    line = column(torch.linspace(3, -2, 50))
    mask = torch.rand(line.shape, generator=generator) > 0.6
    mask[:, [0, -1]] = True
    for fill in (fill_linear, fill_hermite):
        torch.testing.assert_close(fill(line, mask), line)


def test_linear_filling_is_numpys(generator):
    values = torch.randn(60, generator=generator, dtype=torch.float64)
    mask = torch.rand(60, generator=generator) > 0.6
    expected = np.interp(np.arange(60), np.flatnonzero(mask), values[mask])
    np.testing.assert_allclose(fill_linear(column(values), mask.reshape(1, -1, 1))[0, :, 0], expected)


def test_hermite_filling_is_the_cubic_through_values_and_slopes():
    time = np.arange(40.0)
    values = np.sin(0.2 * time)
    seen = np.r_[0:12, 26:40]
    mask = torch.zeros(1, 40, 1, dtype=torch.bool)
    mask[0, seen] = True
    slopes = [
        1.5 * values[11] - 2 * values[10] + 0.5 * values[9],
        -1.5 * values[26] + 2 * values[27] - 0.5 * values[28],
    ]
    expected = CubicHermiteSpline([11, 26], values[[11, 26]], slopes)(time[12:26])
    found = fill_hermite(column(values), mask)[0, 12:26, 0]
    np.testing.assert_allclose(found, np.clip(expected, values[seen].min(), values[seen].max()), atol=1e-12)


def test_hermite_filling_follows_a_wave_through_a_gap_better_than_a_line():
    wave = column(np.sin(2 * np.pi * np.arange(200) / 100))
    mask = torch.ones_like(wave, dtype=torch.bool)
    mask[:, 60:92] = False
    errors = [(fill(wave, mask) - wave).abs().max().item() for fill in (fill_linear, fill_hermite)]
    assert errors[1] < 0.1 * errors[0]


def test_hermite_filling_stays_within_what_is_seen(generator):
    values = torch.randn(2, 100, 3, generator=generator)
    mask = torch.rand(values.shape, generator=generator) > 0.7
    filled = fill_hermite(values, mask)
    for series in range(2):
        for channel in range(3):
            seen = values[series, mask[series, :, channel], channel]
            assert filled[series, :, channel].max() <= seen.max()
            assert filled[series, :, channel].min() >= seen.min()


def test_single_seen_values_and_single_steps_are_no_exception():
    mask = torch.zeros(1, 5, 1, dtype=torch.bool)
    mask[0, 2] = True
    for fill in (fill_linear, fill_hermite):
        assert fill(column([0, 0, 7, 0, 0]), mask).flatten().tolist() == [7] * 5
        assert fill(column([3]), torch.ones(1, 1, 1, dtype=torch.bool)).item() == 3
