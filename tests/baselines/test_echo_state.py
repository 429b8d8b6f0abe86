"""Echo-state networks against the recurrence written out, and what their seed promises."""

import numpy as np
import pytest
import torch

from hf_tsdyn.baselines import EchoState
from hf_tsdyn.baselines.echo_state import GROUP


def continue_by_loops(series, network, options, steps):
    """(time, channels) -> (steps, channels), one unit's equation after another."""
    loc, scale = series.mean(axis=0), series.std(axis=0)
    z = (series - loc) / scale
    recurrent, inputs, bias = (each.numpy().T for each in network)

    def advance(state, now):
        return (1 - options.leak) * state + options.leak * np.tanh(recurrent @ state + inputs @ now + bias)

    states = [advance(np.zeros(len(bias)), z[0])]
    for now in z[1:]:
        states.append(advance(states[-1], now))
    first = min(options.washout, len(z) // 4)
    rows = [np.concatenate([[1], z[t], states[t]]) for t in range(first, len(z) - 1)]
    x, y = np.array(rows), np.diff(z[first:], axis=0)
    diagonal = np.diag([0.0] + [options.penalty * len(x)] * (x.shape[1] - 1))
    weights = np.linalg.solve(x.T @ x + diagonal, x.T @ y)
    room = options.margin * np.ptp(z, axis=0)
    now, state, path = z[-1], states[-1], []
    for _ in range(steps):
        now = now + np.concatenate([[1], now, state]) @ weights
        now = np.clip(now, z.min(axis=0) - room, z.max(axis=0) + room)
        state = advance(state, now)
        path.append(now)
    return np.array(path) * scale + loc


@pytest.mark.parametrize("options", [{"washout": 10}, {"washout": 60, "leak": 1.0, "margin": 0.0, "penalty": 1.0}])
def test_it_is_the_recurrence_written_out(options, generator):
    past = torch.randn(3, 90, 2, generator=generator, dtype=torch.float64).cumsum(dim=1)
    network = EchoState(15, **options)
    forecast = network.forecast(past, prediction_length=20)
    for series, found in zip(past.numpy(), forecast.numpy(), strict=True):
        expected = continue_by_loops(series, network.network(2), network, 20)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("radius", [0.3, 1.4])
def test_the_spectral_radius_is_exact(radius):
    matrix = EchoState(40, spectral_radius=radius).network(3).recurrent.numpy()
    assert np.abs(np.linalg.eigvals(matrix)).max() == pytest.approx(radius, rel=1e-12)


def test_a_rotation_is_continued():
    angles = 0.2 * torch.arange(300, dtype=torch.float64)
    values = torch.stack([angles.cos(), angles.sin()], dim=1)[None]
    forecast = EchoState(30, penalty=1e-12).forecast(values[:, :250], prediction_length=50)
    torch.testing.assert_close(forecast, values[:, 250:], rtol=0, atol=1e-5)


def test_lorenz_is_forecast_for_a_lyapunov_time(lorenz):
    forecast = EchoState().forecast(lorenz[:, :1500], prediction_length=55)
    error = (forecast - lorenz[:, 1500:1555]).norm(dim=2) / lorenz.std(dim=1).norm()
    assert error.max() < 0.1


def test_the_network_is_its_seed_whatever_the_channels(lorenz):
    first, again, other = (EchoState(30, seed=seed).network(3) for seed in (5, 5, 6))
    fewer = EchoState(30, seed=5).network(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert torch.equal(first.recurrent, fewer.recurrent)
    assert torch.equal(first.bias, fewer.bias)
    assert torch.equal(first.inputs[:2], fewer.inputs)
    assert first.inputs.abs().max() <= 0.5


def test_series_beyond_a_group_are_forecast_as_they_are_alone(lorenz):
    past = lorenz[0].unfold(0, 120, 40)[: GROUP + 3].mT
    network = EchoState(50)
    batch = network.forecast(past, prediction_length=200)
    for place in (0, GROUP - 1, GROUP, GROUP + 2):
        assert torch.equal(batch[place], network.forecast(past[place : place + 1], prediction_length=200)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_units": 0}, "num_units must be at least 1, washout and seed at least 0, found 0, 50 and 0"),
        ({"seed": -1}, "seed at least 0, found 300, 50 and -1"),
        ({"leak": 1.1}, r"leak at most 1.*found .*leak=1\.1"),
        ({"spectral_radius": 0.0}, r"must be above 0.*found .*spectral_radius=0\.0"),
        ({"penalty": float("inf")}, "all finite, found .*penalty=inf"),
        ({"bias_scaling": -0.5}, r"at least 0.*found .*bias_scaling=-0\.5"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EchoState(**options)
