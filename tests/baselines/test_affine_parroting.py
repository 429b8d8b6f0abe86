"""Affine parroting against the search written out, and over long rollouts."""

import numpy as np
import pytest
import torch

from hf_tsdyn.baselines import AffineParroting


def follow_by_loops(series, *, factor, length, min_lag, margin, steps):
    """(time, channels) -> (steps, channels), one candidate at a time, in z-scores."""
    loc, scale = series.mean(axis=0), series.std(axis=0)
    context = (series - loc) / scale
    path = list(context)
    time = len(context)
    room = margin * np.ptp(context, axis=0)
    for _ in range(steps):
        now = len(path) - 1
        best, nearest = None, np.inf
        for k in range(length - 1, time - 1):
            if now - k < min_lag:
                continue
            distance = sum(((path[now - back] - context[k - back]) ** 2).sum() for back in range(length))
            if distance <= nearest:
                best, nearest = k, distance
        moved = context[best + 1] + factor * (path[now] - context[best])
        path.append(np.clip(moved, context.min(axis=0) - room, context.max(axis=0) + room))
    return np.array(path[time:]) * scale + loc


@pytest.mark.parametrize("factor", [0.0, 0.7, 1.0])
@pytest.mark.parametrize(("time", "length", "min_lag"), [(50, 5, 5), (40, 1, 1), (33, 3, 20)])
def test_it_is_the_search_written_out(factor, time, length, min_lag, generator):
    past = torch.randn(3, time, 2, generator=generator, dtype=torch.float64).cumsum(dim=1) * torch.tensor([1.0, 1e3])
    forecast = AffineParroting(factor, length, min_lag, 0.05).forecast(past, prediction_length=60)
    options = {"factor": factor, "length": length, "min_lag": min_lag, "margin": 0.05, "steps": 60}
    for series, found in zip(past.numpy(), forecast.numpy(), strict=True):
        np.testing.assert_allclose(found, follow_by_loops(series, **options), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("time", [2, 3, 9, 14])
def test_a_short_context_has_a_shorter_motif(time, generator):
    past = torch.randn(1, time, 2, generator=generator, dtype=torch.float64)
    found = AffineParroting().forecast(past, prediction_length=9)[0].numpy()
    length = min(5, time // 2)
    options = {"factor": 0.999, "length": length, "min_lag": min(10, time - length), "margin": 0.1, "steps": 9}
    np.testing.assert_allclose(found, follow_by_loops(past[0].numpy(), **options), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("period", [10, 23, 61])
def test_a_periodic_signal_is_continued_exactly(period, generator):
    signal = torch.randn(4, period, 2, generator=generator, dtype=torch.float64).repeat(1, 330 // period + 1, 1)
    forecast = AffineParroting().forecast(signal[:, :130], prediction_length=200)
    torch.testing.assert_close(forecast, signal[:, 130:330], rtol=0, atol=1e-12)


def distances(path, context):
    """To the nearest step of the context, (steps,); products would round."""
    return torch.cdist(path, context, compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1)


def test_without_a_factor_every_step_is_one_of_the_context(lorenz):
    forecast = AffineParroting(0.0).forecast(lorenz[:, :300], prediction_length=200)
    assert distances(forecast[0], lorenz[0, :300]).max() < 1e-12


@pytest.mark.parametrize(("factor", "repeats"), [(0.999, False), (0.9, True)])
def test_a_long_path_stays_on_the_attractor_and_near_1_does_not_soon_repeat_itself(factor, repeats, lorenz):
    context = lorenz[:, :2048]
    spread = context[0].std(dim=0)
    path = AffineParroting(factor).forecast(context, prediction_length=3584)[0] / spread
    assert distances(path, context[0] / spread).max() < 0.5
    assert (path[-1024:].std(dim=0) - 1).abs().max() < 0.1
    # The last 11 turns or so against those up to 27 turns before.
    returns = [(path[-400 - lag : -lag] - path[-400:]).square().mean().sqrt() for lag in range(20, 1000)]
    assert min(returns) < 1e-9 if repeats else min(returns) > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedding_length": 0}, "embedding_length and min_lag must be at least 1, found 0 and 10"),
        ({"min_lag": 0}, "embedding_length and min_lag must be at least 1, found 5 and 0"),
        ({"factor": 1.01}, r"factor must be from 0 to 1 .*found 1\.01"),
        ({"margin": -0.1}, r"margin finite and at least 0, found 0\.999 and -0\.1"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AffineParroting(**options)
