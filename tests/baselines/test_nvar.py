"""NVAR against polynomial maps, which it must recover, and its choices written out."""

import numpy as np
import pytest
import torch

from hf_tsdyn.baselines import NVAR
from hf_tsdyn.baselines.nvar import Order, fit

EXACT = {"strides": (1,), "penalties": (1e-16,)}


def henon(steps):
    """(1, steps, 2)"""
    path = [(0.1, 0.1)]
    for _ in range(steps + 50):
        x, y = path[-1]
        path.append((1 - 1.4 * x**2 + y, 0.3 * x))
    return torch.tensor(path[-steps:], dtype=torch.float64)[None]


def fit_by_loops(series, lags, penalty):
    """W (features, channels) of one series (time, channels), by the normal equations."""
    inputs, changes = [], []
    for now in range(lags[-1], len(series) - 1):
        inputs.append(read_by_loops(series[: now + 1], lags))
        changes.append(series[now + 1] - series[now])
    x, y = np.array(inputs), np.array(changes)
    diagonal = np.diag([0.0] + [penalty * len(x)] * (x.shape[1] - 1))
    return np.linalg.solve(x.T @ x + diagonal, x.T @ y)


def read_by_loops(past, lags):
    delays = np.concatenate([past[-1 - lag] for lag in lags])
    return np.array([1, *delays, *(delays[i] * delays[j] for i in range(len(delays)) for j in range(i, len(delays)))])


def roll_by_loops(past, weights, lags, steps, known, margin):
    path = list(past)
    room = margin * np.ptp(known, axis=0)
    for _ in range(steps):
        moved = path[-1] + read_by_loops(np.array(path), lags) @ weights
        path.append(np.clip(moved, known.min(axis=0) - room, known.max(axis=0) + room))
    return np.array(path[len(past) :])


def test_the_coefficients_of_the_henon_map_are_recovered():
    values = henon(300)
    loc, scale = values.mean(dim=1, keepdim=True), values.std(dim=1, keepdim=True)
    weights = fit((values - loc) / scale, Order((0,), True), 1e-16)[0]
    (a, b), (s, t) = loc[0, 0].tolist(), scale[0, 0].tolist()
    expected = torch.zeros(6, 2, dtype=torch.float64)  # 1, u, v, uu, uv, vv with x = a + s u, y = b + t v
    of_x = [(1 - 1.4 * a**2 + b - a) / s, -2.8 * a - 1, t / s, -1.4 * s]
    of_y = [(0.3 * a - b) / t, 0.3 * s / t, -1]
    expected[:4, 0], expected[:3, 1] = (torch.tensor(each, dtype=torch.float64) for each in (of_x, of_y))
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-12)


def test_quadratic_maps_are_continued_as_far_as_double_precision_goes():
    values = henon(330)
    forecast = NVAR(1, **EXACT).forecast(values[:, :300], prediction_length=30)
    torch.testing.assert_close(forecast, values[:, 300:], rtol=0, atol=1e-6)  # the exponent is 0.42 a step
    seen_x = NVAR(2, **EXACT).forecast(values[:, :300, :1], prediction_length=30)  # y is x of a step before
    torch.testing.assert_close(seen_x, values[:, 300:, :1], rtol=0, atol=1e-6)
    logistic = [0.3]
    for _ in range(230):
        logistic.append(3.9 * logistic[-1] * (1 - logistic[-1]))
    logistic = torch.tensor(logistic, dtype=torch.float64)[None, :, None]
    forecast = NVAR(1, **EXACT).forecast(logistic[:, :200], prediction_length=30)
    torch.testing.assert_close(forecast, logistic[:, 200:230], rtol=0, atol=1e-6)


def test_a_stride_reaches_farther_back():
    path = [0.1, 0.2, 0.3, 0.4]
    for _ in range(300):
        path.append(1 - 1.2 * path[-1] ** 2 + 0.2 * path[-4])
    values = torch.tensor(path, dtype=torch.float64)[None, :, None]
    forecast = NVAR(2, strides=(3,), penalties=(1e-16,)).forecast(values[:, :250], prediction_length=20)
    torch.testing.assert_close(forecast, values[:, 250:270], rtol=0, atol=1e-6)


def test_lorenz_is_forecast_for_several_lyapunov_times(lorenz):
    steps = int(3 / 0.906 / 0.02)
    forecast = NVAR().forecast(lorenz[:, :2000], prediction_length=steps)
    error = (forecast - lorenz[:, 2000 : 2000 + steps]).norm(dim=2) / lorenz.std(dim=1).norm()
    assert error.max() < 0.4


def test_weights_and_path_are_the_regression_written_out(generator):
    past = torch.randn(2, 60, 2, generator=generator, dtype=torch.float64)
    forecast = NVAR(2, strides=(4,), penalties=(1e-2,), margin=0.1).forecast(past, prediction_length=25)
    for series, found in zip(past.numpy(), forecast.numpy(), strict=True):
        loc, scale = series.mean(axis=0), series.std(axis=0)
        z = (series - loc) / scale
        expected = roll_by_loops(z, fit_by_loops(z, (0, 4), 1e-2), (0, 4), 25, z, 0.1)
        np.testing.assert_allclose(found, expected * scale + loc, rtol=1e-7, atol=1e-9)


def test_the_pair_with_the_least_error_on_the_last_quarter_is_chosen(generator):
    noise = torch.randn(3, 80, 1, generator=generator, dtype=torch.float64)
    past = torch.cat([noise.cumsum(dim=1)[:2], noise[2:], henon(80)[:, :, :1]])
    strides, penalties = (1, 3), (1e-4, 10.0)
    options = {"check_length": 12, "num_checks": 3}
    forecast = NVAR(2, strides, penalties, **options).forecast(past, prediction_length=9)
    chosen = []
    for series, found in zip(past, forecast, strict=True):
        z = ((series - series.mean(dim=0)) / series.std(dim=0, correction=0)).numpy()
        errors = {}
        for stride, penalty in [(s, p) for s in strides for p in penalties]:
            weights = fit_by_loops(z[:60], (0, stride), penalty)
            paths = [roll_by_loops(z[:o], weights, (0, stride), 12, z[:60], 0.2) - z[o : o + 12] for o in (60, 64, 68)]
            errors[stride, penalty] = np.abs(paths).mean()
        chosen.append(min(errors, key=errors.get))
        single = NVAR(2, chosen[-1][:1], chosen[-1][1:])
        assert torch.equal(found, single.forecast(series[None], prediction_length=9)[0])
    assert len(set(chosen)) > 1


def test_what_diverges_is_held_near_the_range_of_the_context():
    past = torch.exp(0.03 * torch.arange(200, dtype=torch.float64))[None, :, None]
    forecast = NVAR(margin=0.5).forecast(past, prediction_length=300)
    assert forecast[0, -1, 0] == pytest.approx(float(past.max() + 0.5 * (past.max() - past.min())))
    assert torch.equal(forecast[0, -10:], forecast[0, -1:].expand(10, 1))


@pytest.mark.parametrize(
    ("time", "order"),
    [
        (40, Order((0, 2), True)),  # 15 features
        (18, Order((0, 2), True)),
        (17, Order((0,), True)),
        (7, Order((0,), True)),  # 6
        (6, Order((0,), False)),  # 3, as the 5 of two delays do not fit into 6 - 2 - 1 steps
        (2, Order((0,), False)),
    ],
)
def test_short_contexts_have_smaller_orders(time, order):
    assert NVAR(2).order(time, 2, 2) == order


def test_a_group_of_candidates_may_be_a_list():
    assert NVAR(strides=[1, 2], penalties=[0.1]) == NVAR(strides=(1, 2), penalties=(0.1,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_delays": 0}, "must be at least 1, found 0, "),
        ({"strides": ()}, r"must be at least 1, found .*\(\)"),
        ({"strides": (1, 0)}, r"must be at least 1, found .*\(1, 0\)"),
        ({"penalties": (0.0,)}, r"penalties must hold finite numbers above 0 .* found \(0\.0,\)"),
        ({"penalties": ()}, r"penalties must hold finite numbers above 0 .* found \(\)"),
        ({"margin": float("inf")}, "margin be finite and at least 0, found .* inf"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NVAR(**options)
