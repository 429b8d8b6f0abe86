"""Invariants of the dynamics against closed forms, and against what the reference implementation recorded."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from hf_tsdyn.baselines import Persistence
from hf_tsdyn.metrics import (
    InvariantOptions,
    binned_divergence,
    mixture_divergence,
    prediction_error,
    spectrum_distance,
    state_space_divergence,
    truth_floor,
)

SHARED = Path(__file__).resolve().parents[2].parent / "shared"


def noise(steps, channels, seed=0):
    return np.random.default_rng(seed).normal(size=(steps, channels))


def waves(steps, *cycles):
    """(steps, len(cycles)), one sine a channel with that many cycles."""
    return np.sin(2 * np.pi * np.arange(steps)[:, None] * np.array(cycles) / steps)


def test_binned_divergence_is_that_of_counts_by_hand():
    truth = np.array([0.0, 0.1, 0.6, 1.0])[:, None]  # halves of [0, 1]: 2 and 2
    generated = np.array([0.2, 0.3, 0.4, 0.9])[:, None]  # 3 and 1
    found = binned_divergence(truth, generated, num_bins=2, smoothing=0.5, margin=0)
    p, q = np.array([2.5, 2.5]) / 5, np.array([3.5, 1.5]) / 5
    assert found == pytest.approx(np.sum(p * np.log(p / q)))


def test_bins_that_only_one_series_visits_are_smoothed():
    truth = np.array([[0.0, 0.0], [0.1, 0.9], [1.0, 1.0]])  # bins 00, 01, 11
    generated = np.array([[0.9, 0.1], [0.2, 0.2]])  # bins 10, 00
    found = binned_divergence(truth, generated, num_bins=2, smoothing=0.1, margin=0)
    p, q = np.array([1.1, 1.1, 1.1, 0.1]) / 3.4, np.array([1.1, 0.1, 0.1, 1.1]) / 2.4
    assert found == pytest.approx(np.sum(p * np.log(p / q)))


def test_points_outside_the_box_are_one_bin_more():
    truth = np.linspace(0, 1, 100)[:, None]
    generated = np.concatenate([truth, [[-9.0]] * 60, [[7.0]] * 40])
    found = binned_divergence(truth, generated, num_bins=10)
    assert found == pytest.approx(np.log(2), rel=1e-5)


def test_the_box_is_the_range_widened_by_the_margin():
    truth = waves(1000, 3)
    edge = 1 + 0.1 * truth.std()
    inside, outside = (np.concatenate([truth, [[sign * edge]]]) for sign in (1 - 1e-9, 1 + 1e-9))
    # In the box the last point joins a bin that the truth visits, outside it has a bin of its own.
    assert binned_divergence(truth, inside, num_bins=2) < 1e-6
    assert binned_divergence(truth, outside, num_bins=2) == pytest.approx(np.log(1001 / 1000), rel=0.01)


def test_binned_divergence_of_two_shifted_uniform_distributions():
    truth, generated = np.linspace(0, 1, 100_001)[:, None], np.linspace(0.5, 1.5, 100_001)[:, None]
    found = binned_divergence(truth, generated, num_bins=2, margin=0)
    # p = (1/2, 1/2, 0), q = (0, 1/2, 1/2), with the smoothing in place of 0.
    smooth = 1e-5 / 100_001
    expected = 0.5 * np.log(0.5 / smooth) + smooth * np.log(smooth / 0.5)
    assert found == pytest.approx(expected, rel=1e-4)


def test_binned_divergence_of_a_series_from_itself_is_zero_in_ten_channels():
    truth = noise(500, 10)
    assert binned_divergence(truth, truth) == 0
    assert binned_divergence(truth, truth[::-1]) == 0
    assert binned_divergence(truth, np.roll(truth, 1, axis=1)) == pytest.approx(-np.log(1e-5), rel=0.1)


def test_units_do_not_count_in_the_binned_divergence():
    truth, generated = noise(5000, 3), noise(5000, 3, seed=1)
    expected = binned_divergence(truth, generated)
    scale, offset = np.array([1e-6, 1.0, 1e6]), np.array([1e-3, -5.0, 1e6])
    found = binned_divergence(truth * scale + offset, generated * scale + offset)
    assert found == pytest.approx(expected, rel=1e-6)


def test_bins_that_cannot_be_numbered_are_refused():
    with pytest.raises(ValueError, match=r"below 2 \*\* 63, found 30 \*\* 13"):
        binned_divergence(noise(10, 13), noise(10, 13))


def test_bins_of_two_hundred_thousand_points_take_less_than_fifty_milliseconds():
    truth, generated = noise(100_000, 3), noise(100_000, 3, seed=1)
    binned_divergence(truth, generated)
    start = time.process_time()
    binned_divergence(truth, generated)
    assert time.process_time() - start < 0.05


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_mixture_divergence_of_single_gaussians_is_half_the_squared_distance_over_the_variance(offset):
    centre = np.arange(12.0)[None] + offset
    truth, generated = np.repeat(centre, 2, axis=0), np.repeat(centre + 0.5, 5, axis=0)
    found = mixture_divergence(truth, generated, variance=0.3, num_samples=40_000, rng=np.random.default_rng(0))
    expected = 12 * 0.5**2 / (2 * 0.3)  # the standard error of the mean is sqrt(2 expected / samples)
    assert found == pytest.approx(expected, abs=4 * np.sqrt(2 * expected / 40_000))


def test_mixture_divergence_is_that_of_the_densities_written_out():
    truth, generated = noise(40, 2), noise(30, 2, seed=1)
    rng = np.random.default_rng(0)
    found = mixture_divergence(truth, generated, variance=0.5, num_samples=60, rng=np.random.default_rng(0))
    samples = truth[rng.integers(40, size=60)] + np.sqrt(0.5) * rng.standard_normal((60, 2))

    def density(centres):
        squares = ((samples[:, None] - centres) ** 2).sum(axis=-1)
        return np.exp(-squares / (2 * 0.5)).mean(axis=1)

    assert found == pytest.approx(np.mean(np.log(density(truth) / density(generated))), rel=1e-9)


def test_mixture_divergence_of_a_series_from_itself_is_zero():
    truth = noise(300, 20)
    assert mixture_divergence(truth, truth[::-1], variance=1.0, rng=np.random.default_rng(0)) == pytest.approx(0)


def test_mixtures_take_at_most_ten_thousand_points_evenly():
    truth, generated = noise(25_000, 2), noise(25_000, 2, seed=1) + 1
    values = [
        mixture_divergence(first, second, variance=0.3, rng=np.random.default_rng(0))
        for first, second in [(truth, generated), (truth[:10_000], generated[:10_000])]
    ]
    assert values[0] == pytest.approx(values[1], rel=0.1)
    assert values[0] != values[1]


def test_what_is_too_far_away_to_have_a_density_is_infinitely_far():
    truth = noise(50, 11)
    assert mixture_divergence(truth, truth + 1e200, variance=1.0, rng=np.random.default_rng(0)) == np.inf


def test_state_space_divergence_is_binned_up_to_ten_channels():
    truth, generated = noise(800, 10), noise(800, 10, seed=1)
    expected = binned_divergence(truth, generated, num_bins=7)
    assert state_space_divergence(truth, generated, InvariantOptions(num_bins=7)) == expected


def test_state_space_divergence_beyond_is_of_mixtures_in_units_of_the_truth():
    truth, generated = 1e-3 * noise(800, 11) + 5, 1e-3 * noise(800, 11, seed=1) + 5.0005
    loc, scale = truth.mean(axis=0), truth.std(axis=0)
    expected = mixture_divergence(
        (truth - loc) / scale, (generated - loc) / scale, variance=0.3, rng=np.random.default_rng(0)
    )
    found = state_space_divergence(truth, generated, InvariantOptions(mixture_variance=0.3))
    assert found == pytest.approx(expected)
    assert found > 0.3


@pytest.mark.parametrize("channels", [3, 12])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_run_that_is_not_finite_is_infinitely_far(channels, value):
    generated = noise(100, channels)
    generated[-1, 1] = value
    assert state_space_divergence(noise(100, channels), generated) == np.inf
    assert spectrum_distance(noise(100, channels), generated) == 1


@pytest.mark.parametrize("channels", [3, 12])
@pytest.mark.parametrize("score", [state_space_divergence, spectrum_distance])
def test_what_cannot_be_compared_is_named(channels, score):
    truth, generated = noise(100, channels), noise(100, channels)
    with pytest.raises(ValueError, match=rf"truth's {channels} channels, found shape \(100, 1\)"):
        score(truth, generated[:, :1])
    with pytest.raises(ValueError, match=rf"at least 2 steps, found \(1, {channels}\)"):
        score(truth[:1], generated)
    with pytest.raises(ValueError, match=r"constant channels \[2\]"):
        score(np.where(np.arange(channels) == 2, 1.0, truth), generated)
    truth[5, 1] = np.nan
    with pytest.raises(ValueError, match=r"truth must be finite, found NaN or infinity in channels \[1\]"):
        score(truth, generated)


def test_equal_spectra_are_at_zero_whatever_offset_scale_and_phase():
    truth = waves(4000, 50, 300)
    generated = np.array([1e-5, -1e5]) * np.roll(truth, 7, axis=0) + np.array([1e-3, 1e6])
    assert spectrum_distance(truth, truth) == 0
    assert spectrum_distance(truth, generated) == pytest.approx(0, abs=1e-6)


def test_sines_of_different_frequency_are_at_one():
    assert spectrum_distance(waves(4000, 50), waves(4000, 500)) == pytest.approx(1, abs=1e-9)


def test_two_gaussian_peaks_overlap_as_gaussians_do():
    # Peaks of standard deviation s, d bins apart: sum sqrt(p q) = exp(-d^2 / (8 s^2)).
    found = spectrum_distance(waves(40_000, 500), waves(40_000, 530), smoothing=20.0)
    assert found == pytest.approx(np.sqrt(1 - np.exp(-(30**2) / (8 * 20**2))), rel=3e-3)


def test_spectrum_distance_is_the_mean_over_channels_and_constants_count_one():
    truth = waves(4000, 50, 50, 50, 50)
    generated = waves(4000, 50, 500, 50, 50)
    generated[:, 2] = 0.1
    assert spectrum_distance(truth, generated) == pytest.approx(0.5, abs=1e-9)


def test_spectra_are_those_of_the_common_length():
    truth, generated = noise(4000, 2), noise(3000, 2, seed=1)
    expected = spectrum_distance(truth[:3000], generated)
    assert spectrum_distance(truth, generated) == expected
    assert spectrum_distance(generated, truth) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("context_length", [1, 7])
def test_persistence_on_a_ramp_errs_by_the_square_of_the_step(context_length):
    ramp = np.arange(400.0)[:, None] * np.array([1.0, -1000.0])
    found = prediction_error(Persistence(), ramp, num_steps=5, context_length=context_length)
    np.testing.assert_allclose(found, np.arange(1, 6) ** 2 / np.arange(400.0).var(), rtol=1e-6)


def test_every_start_is_forecast_once_in_bounded_batches():
    class Recorder:
        batches = []

        def forecast(self, past_values, *, prediction_length, past_observed_mask=None):
            self.batches.append(past_values)
            return past_values[:, -1:].expand(-1, prediction_length, -1)

    series = noise(30_000, 2)
    prediction_error(Recorder(), series, num_steps=20, context_length=3)
    assert len(Recorder.batches) > 3
    assert max(batch.numel() for batch in Recorder.batches) <= 2**18
    starts = np.lib.stride_tricks.sliding_window_view(series[:-20], 3, axis=0).swapaxes(1, 2)
    np.testing.assert_array_equal(torch.cat(Recorder.batches).numpy(), starts.astype(np.float32))


def test_forecasts_that_are_not_finite_make_their_step_infinite():
    class Failing:
        def forecast(self, past_values, *, prediction_length, past_observed_mask=None):
            forecast = past_values[:, -1:].repeat(1, prediction_length, 1)
            forecast[3, 1:] = torch.nan
            return forecast

    found = prediction_error(Failing(), noise(100, 2), num_steps=3)
    assert np.isfinite(found).tolist() == [True, False, False]
    assert np.isposinf(found[1:]).all()


def test_a_series_without_a_window_is_named():
    with pytest.raises(ValueError, match=r"at least 25 steps, found \(24, 2\)"):
        prediction_error(Persistence(), noise(24, 2), context_length=5)


def test_the_floor_compares_the_halves():
    truth = noise(2001, 2)
    floor = truth_floor(truth, state_space_divergence)
    assert floor == (state_space_divergence(truth[:1000], truth[1000:2000]), 1000)
    assert truth_floor(noise(200_000, 1), state_space_divergence).value < floor.value / 10


@pytest.mark.parametrize("field", ["num_bins", "mixture_variance", "spectrum_smoothing", "prediction_steps"])
def test_options_must_be_positive(field):
    with pytest.raises(ValueError, match=f"{field} must be positive, found 0"):
        InvariantOptions(**{field: 0})


def reference_divergence(truth, generated):
    """The binned divergence by the reference's conventions: 30 bins, the lowest dropped, smoothed over the grid."""
    low, high = truth.min(axis=0), truth.max(axis=0)
    shares = []
    for series in (truth, generated):
        index = np.trunc(30 * (series - low) / (high - low)).astype(int)
        index = index[((index > 0) & (index < 30)).all(axis=1)]
        counts = np.bincount(np.ravel_multi_index(index.T, (30, 30, 30)), minlength=30**3)
        shares.append((counts + 1e-5) / (len(index) + 1e-5 * 30**3))
    p, q = shares
    return np.sum(p * np.log(p / q))


@pytest.mark.parametrize("case", ["lorenz63_m20_p2", "lorenz63_m30_p10"])
def test_recorded_orbits_of_the_reference_have_its_scores(case):
    folder, series = SHARED / "parity" / "alrnn" / case, SHARED / "data" / "alrnn" / "lorenz63_test.npy"
    if not folder.is_dir() or not series.is_file():
        pytest.skip("the reference's recorded weights are not part of this project")
    recorded = json.loads((folder / "case.json").read_text())
    orbit = load_file(folder / "outputs.safetensors")["orbit_latents"][:, :3].astype(np.float64)
    truth = np.load(series)[500:]
    assert reference_divergence(truth, orbit) == pytest.approx(recorded["state_space_divergence"], rel=1e-3)
    found = spectrum_distance(truth[:10_000], orbit, smoothing=recorded["hellinger_smoothing"])
    assert found == pytest.approx(recorded["hellinger_distance"], rel=1e-3)
    # Our bins are a little wider and keep the lowest ones: another value of the same size.
    assert state_space_divergence(truth, orbit) == pytest.approx(recorded["state_space_divergence"], rel=0.05)
