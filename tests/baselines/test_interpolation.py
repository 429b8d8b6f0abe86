"""Completing baselines against closed forms: curves that they must reproduce, and what every completer promises."""

import numpy as np
import pytest
import scipy.interpolate
import torch

from hf_tsdyn.baselines import (
    COMPLETION_BASELINES,
    CubicSpline,
    GaussianProcess,
    HermiteInterpolation,
    LinearInterpolation,
    MeanFill,
)
from hf_tsdyn.completion import Completer

TIME = torch.arange(60, dtype=torch.float64)


@pytest.fixture(params=COMPLETION_BASELINES.values(), ids=COMPLETION_BASELINES)
def baseline(request):
    return request.param()


@pytest.fixture
def values(generator):
    return torch.randn(3, 60, 2, generator=generator).cumsum(dim=1)


@pytest.fixture
def mask(generator):
    """About half hidden, both ends of one channel among it."""
    hidden = torch.rand(3, 60, 2, generator=generator) < 0.5
    hidden[0, :5, 0] = hidden[0, -7:, 0] = True
    return hidden


def gap(start, end):
    """Hide the steps from `start` to `end` of one series of one channel."""
    hidden = torch.zeros(1, len(TIME), 1, dtype=torch.bool)
    hidden[:, start:end] = True
    return hidden


def series(curve):
    return curve[None, :, None]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_seen_values_are_kept_to_the_bit_and_hidden_ones_filled(baseline, values, mask, dtype):
    given = values.to(dtype)
    before = given.clone()
    filled = baseline.complete(given, mask)
    assert isinstance(baseline, Completer)
    assert (filled.shape, filled.dtype) == (given.shape, dtype)
    assert filled.isfinite().all()
    assert torch.equal(filled[~mask], given[~mask])
    assert torch.equal(given, before)


def test_what_stands_at_hidden_places_does_not_matter(baseline, values, mask):
    filled = baseline.complete(values, mask)
    assert torch.equal(filled, baseline.complete(values.masked_fill(mask, torch.nan)))
    assert torch.equal(filled, baseline.complete(values.masked_fill(mask, torch.inf), mask))


def test_a_series_is_filled_alike_alone_and_in_a_batch(baseline, values, mask):
    alone = torch.cat([baseline.complete(values[i : i + 1], mask[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(alone, baseline.complete(values, mask), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("scale", "shift"), [(1e6, 0.0), (1e-6, 0.0), (-3.0, 50.0)])
def test_filling_follows_units(baseline, values, mask, scale, shift):
    values = values.double()
    expected = baseline.complete(values, mask) * scale + shift
    found = baseline.complete(values * scale + shift, mask)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * abs(scale))


def test_a_channel_with_nothing_seen_becomes_zero_and_one_value_is_held(baseline):
    values = torch.full((1, 20, 2), torch.nan)
    values[0, 7, 1] = 3.0
    filled = baseline.complete(values)
    assert (filled[0, :, 0] == 0).all()
    assert (filled[0, :, 1] == 3).all()


def test_lines_are_exact_for_a_line():
    values, mask = series(2 * TIME - 5), gap(20, 40)
    for baseline in (LinearInterpolation(), HermiteInterpolation(), CubicSpline()):
        torch.testing.assert_close(baseline.complete(values, mask), values)


def test_a_spline_is_exact_for_a_cubic_across_several_gaps():
    values = series(1e-4 * (TIME - 25) ** 3 - 0.01 * TIME**2 + TIME)
    mask = gap(10, 25) | gap(30, 31) | gap(40, 55)
    torch.testing.assert_close(CubicSpline().complete(values, mask), values, rtol=1e-9, atol=1e-9)


def test_a_spline_holds_its_ends(values):
    mask = gap(0, 8) | gap(50, 60)
    values = values[:1, :, :1]
    filled = CubicSpline().complete(values, mask)
    assert (filled[0, :8] == values[0, 8]).all()
    assert (filled[0, 50:] == values[0, 49]).all()


def test_a_spline_is_scipys_between_its_ends(values, mask):
    filled = CubicSpline().complete(values.double(), mask)[1, :, 0].numpy()
    steps = np.flatnonzero(~mask[1, :, 0].numpy())
    expected = scipy.interpolate.CubicSpline(steps, values[1, steps, 0].double().numpy())
    inside = np.arange(steps[0], steps[-1] + 1)
    np.testing.assert_allclose(filled[inside], expected(inside), rtol=1e-9)


def test_the_mean_is_that_of_seen_values():
    values = series(TIME.clone())
    filled = MeanFill().complete(values, gap(10, 60))
    assert (filled[0, 10:] == 4.5).all()


def test_a_gaussian_process_with_one_candidate_is_kriging_written_out(values):
    values, mask = values[:1, :, :1].double(), gap(20, 33)
    scale, shape, noise = 6.0, 2.0, 1e-3
    filled = GaussianProcess((scale,), (shape,), (noise,)).complete(values, mask)
    steps = np.flatnonzero(~mask.flatten().numpy())
    seen = values.flatten().numpy()[steps]

    def covariance(i, j):
        return (1 + (i - j) ** 2 / (2 * shape * scale**2)) ** -shape

    k = np.array([[covariance(i, j) + noise * (i == j) for j in steps] for i in steps])
    weights = np.linalg.inv(k) @ (seen - seen.mean())
    expected = [seen.mean() + sum(covariance(t, j) * w for j, w in zip(steps, weights, strict=True)) for t in range(60)]
    np.testing.assert_allclose(filled.flatten()[20:33], expected[20:33], rtol=1e-7)


def test_a_gaussian_process_chooses_the_candidate_of_largest_likelihood(values):
    """Against the density of the seen values, its variance maximised on a grid."""
    values, mask = values[:1, :, :1].double(), gap(20, 33)
    scales = (2.0, 6.0, 18.0)
    steps = np.flatnonzero(~mask.flatten().numpy())
    seen = values.flatten().numpy()[steps]

    def likelihood(scale):
        k = (1 + np.subtract.outer(steps, steps) ** 2 / (4 * scale**2)) ** -2.0 + 1e-3 * np.eye(len(steps))
        variances = np.geomspace(1e-3, 1e6, 2000)
        square = (seen - seen.mean()) @ np.linalg.inv(k) @ (seen - seen.mean())
        log_determinants = len(steps) * np.log(variances) + np.linalg.slogdet(k)[1]
        return (-0.5 * square / variances - 0.5 * log_determinants).max()

    best = max(scales, key=likelihood)
    chosen = GaussianProcess(scales, (2.0,), (1e-3,)).complete(values, mask)
    fillings = {scale: GaussianProcess((scale,), (2.0,), (1e-3,)).complete(values, mask) for scale in scales}
    assert torch.equal(chosen, fillings[best])
    assert not any(torch.equal(chosen, fillings[scale]) for scale in scales if scale != best)


def test_a_gaussian_process_beats_the_spline_on_a_smooth_wave():
    values, mask = series(torch.sin(0.3 * TIME) + 0.5 * torch.sin(0.17 * TIME)), gap(15, 33)
    errors = {
        type(b).__name__: (b.complete(values, mask) - values).abs().max() for b in (GaussianProcess(), CubicSpline())
    }
    assert errors["GaussianProcess"] < errors["CubicSpline"] / 3


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda v, m: (v.long(), m), TypeError, r"floating-point tensor, found torch\.int64"),
        (lambda v, m: (v[0], m[0]), ValueError, r"found \(60, 2\)"),
        (lambda v, m: (v, m[:, :30]), ValueError, r"\(3, 60, 2\), found \(3, 30, 2\)"),
        (lambda v, m: (v.masked_fill(~m, torch.inf), m), ValueError, "found infinite ones"),
    ],
)
def test_bad_arguments_are_refused(baseline, values, mask, change, error, message):
    with pytest.raises(error, match=message):
        baseline.complete(*change(values, mask))


@pytest.mark.parametrize("candidates", [{"length_scales": ()}, {"noises": (0.0,)}, {"shapes": (-1.0,)}])
def test_impossible_candidates_are_refused(candidates):
    with pytest.raises(ValueError, match="positive numbers alone"):
        GaussianProcess(**candidates)
