"""Ridge against the normal equations written out, and its limits."""

import numpy as np
import pytest
import torch

from hf_tsdyn.baselines.lag_design import WINDOWS_AT_ONCE, LagDesign
from hf_tsdyn.baselines.ridge import Ridge, choose_penalty
from hf_tsdyn.forecasting import Forecaster


def waves(num_steps: int, *, channels: int = 2, seed: int = 0) -> torch.Tensor:
    """Noisy oscillations far from zero, (1, time, channels) float64."""
    rng = np.random.default_rng(seed)
    phases = rng.uniform(0, 6, channels)
    values = np.sin(0.3 * np.arange(num_steps)[:, None] + phases) + 0.3 * rng.normal(size=(num_steps, channels))
    return torch.from_numpy(50 + 7 * values)[None]


def ridge_by_loops(values, design, penalty, windows, *, features=None, statistics=None):
    """Weights (G, D, O) from windows named by (series, first step), one input at a time; values (series, time, C)."""
    flat = values.reshape(-1, values.shape[-1])
    loc, scale = statistics or (flat.mean(0), flat.std(0))
    z = (values - loc) / scale
    length, horizon = design.context_length, design.prediction_length
    groups = [list(range(design.num_channels))] if design.joint else [[c] for c in range(design.num_channels)]
    weights = []
    for group in groups:
        inputs, outputs = [], []
        for series, first in windows:
            past, future = z[series, first : first + length], z[series, first + length : first + length + horizon]
            row = list((past[:, group] if design.joint else past[:, group[0]]).reshape(-1))
            if features is not None:
                row += list(features[series, first : first + length].reshape(-1))
            inputs.append([*row, 1.0])
            base = past[-1, group] if design.anchor == "last" else 0.0
            outputs.append((future[:, group] - base).reshape(-1))
        x, y = np.array(inputs), np.array(outputs)
        diagonal = np.diag([penalty] * (x.shape[1] - 1) + [0.0])
        weights.append(np.linalg.solve(x.T @ x + diagonal, x.T @ y))
    return np.stack(weights)


@pytest.mark.parametrize("anchor", ["none", "last"])
@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("num_time_features", [0, 3])
def test_weights_solve_the_normal_equations_of_all_windows_of_all_series(anchor, joint, num_time_features):
    values = torch.cat([waves(80), waves(80, seed=1)])
    features = torch.randn(2, 80, 3, generator=torch.Generator().manual_seed(0)) if num_time_features else None
    design = LagDesign(5, 3, 2, num_time_features, joint=joint, anchor=anchor)
    ridge = Ridge.fit(values, design, penalty=2.5, past_time_features=features)
    windows = [(series, first) for series in range(2) for first in range(80 - 8 + 1)]
    known = None if features is None else features.double().numpy()
    expected = ridge_by_loops(values.numpy(), design, 2.5, windows, features=known)
    np.testing.assert_allclose(ridge.weights.numpy(), expected, rtol=0, atol=1e-10)


def test_windows_are_summed_alike_in_one_piece_and_in_several():
    values = waves(2 * WINDOWS_AT_ONCE + 100, channels=1)
    design = LagDesign(4, 2, 1)
    windows = [(0, first) for first in range(values.shape[1] - 6 + 1)]
    expected = ridge_by_loops(values.numpy(), design, 1.0, windows)
    np.testing.assert_allclose(Ridge.fit(values, design, penalty=1.0).weights.numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("joint", [False, True])
def test_forecast_is_the_regression_written_out(joint):
    values = waves(120)
    design = LagDesign(6, 4, 2, joint=joint, anchor="last")
    ridge = Ridge.fit(values[:, :100], design, penalty=0.1)
    past = values[0, 90:96].numpy()
    z = (past - ridge.loc.numpy()) / ridge.scale.numpy()
    expected = np.zeros((4, 2))
    for step in range(4):
        for channel in range(2):
            group, output = (0, 2 * step + channel) if joint else (channel, step)
            weights = ridge.weights[group, :, output].numpy()
            lags = z.reshape(-1) if joint else z[:, channel]
            expected[step, channel] = lags @ weights[:-1] + weights[-1] + z[-1, channel]
    expected = expected * ridge.scale.numpy() + ridge.loc.numpy()
    forecast = ridge.forecast(torch.from_numpy(past)[None], prediction_length=4)
    np.testing.assert_allclose(forecast[0].numpy(), expected, rtol=1e-12)
    assert isinstance(ridge, Forecaster)


def test_a_linear_recursion_is_continued_exactly():
    steps = torch.arange(200.0, dtype=torch.float64)
    values = (10 + 3 * torch.sin(0.4 * steps) + torch.cos(1.3 * steps))[None, :, None]
    ridge = Ridge.fit(values[:, :150], LagDesign(6, 5, 1), penalty=1e-9)
    forecast = ridge.forecast(values[:, :150], prediction_length=30)
    torch.testing.assert_close(forecast, values[:, 150:180], rtol=0, atol=1e-4)


def test_beyond_its_block_a_forecast_feeds_itself():
    values = waves(100)
    ridge = Ridge.fit(values, LagDesign(6, 4, 2), penalty=1.0)
    first = ridge.forecast(values, prediction_length=4)
    second = ridge.forecast(torch.cat([values, first], dim=1), prediction_length=4)
    found = ridge.forecast(values, prediction_length=7)
    torch.testing.assert_close(found, torch.cat([first, second], dim=1)[:, :7])


@pytest.mark.parametrize("anchor", ["none", "last"])
def test_a_huge_penalty_leaves_the_anchor(anchor):
    values = waves(100)
    ridge = Ridge.fit(values, LagDesign(6, 4, 2, anchor=anchor), penalty=1e12)
    forecast = ridge.forecast(values, prediction_length=4)
    target = values.unfold(1, 10, 1)[0].mT  # (windows, 10, 2)
    base = values[:, -1:] if anchor == "last" else values.mean(dim=1, keepdim=True)
    left = target[:, 6:] - (target[:, 5:6] if anchor == "last" else base)
    torch.testing.assert_close(forecast, base + left.mean(dim=0), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("factor", "shift"), [(1e4, 0.0), (-1e-3, 0.0), (3.0, 200.0)])
def test_forecast_follows_the_units_of_the_data(factor, shift):
    values = waves(120)
    design = LagDesign(6, 4, 2, joint=True)
    forecast = Ridge.fit(values, design, penalty=1.0).forecast(values, prediction_length=6)
    other = Ridge.fit(factor * values + shift, design, penalty=1.0)
    found = other.forecast(factor * values + shift, prediction_length=6)
    torch.testing.assert_close(found, factor * forecast + shift, rtol=1e-7, atol=0)


def test_time_features_can_say_what_the_values_do_not():
    rng = np.random.default_rng(0)
    known = torch.from_numpy(rng.normal(size=(1, 400, 1)))
    values = torch.roll(known, 3, dims=1)  # what is known of a step is the value three steps later
    ridge = Ridge.fit(values[:, :300], LagDesign(4, 2, 1, 1), penalty=1e-6, past_time_features=known[:, :300])
    forecast = ridge.forecast(values[:, :350], prediction_length=2, past_time_features=known[:, :350])
    torch.testing.assert_close(forecast, values[:, 350:352], rtol=0, atol=1e-4)


def test_unseen_targets_are_not_learnt_and_gaps_of_a_context_are_interpolated():
    values = waves(90)
    gappy = values.clone()
    gappy[0, 40, 0] = torch.nan
    design = LagDesign(5, 3, 2)
    ridge = Ridge.fit(gappy, design, penalty=1.0)
    filled = gappy.clone()
    filled[0, 40, 0] = (values[0, 39, 0] + values[0, 41, 0]) / 2
    # Where the gap ends a context it is held, where it begins one the next value is.
    held = {35 + 1: values[0, 39, 0], 40: values[0, 41, 0]}
    inside = [first for first in range(90 - 8 + 1) if not 33 <= first <= 35 and first not in held]
    statistics = (ridge.loc.numpy(), ridge.scale.numpy())
    series = [filled.numpy()[0]]
    for value in held.values():
        other = filled.clone()
        other[0, 40, 0] = value
        series.append(other.numpy()[0])
    windows = [(0, first) for first in inside] + [(number + 1, first) for number, first in enumerate(held)]
    expected = ridge_by_loops(np.stack(series), design, 1.0, windows, statistics=statistics)
    np.testing.assert_allclose(ridge.weights[0].numpy(), expected[0], rtol=0, atol=1e-10)
    everywhere = [(0, first) for first in range(90 - 8 + 1)]
    expected = ridge_by_loops(values.numpy(), design, 1.0, everywhere, statistics=statistics)
    np.testing.assert_allclose(ridge.weights[1].numpy(), expected[1], rtol=0, atol=1e-10)


def test_forecast_takes_nan_masks_short_contexts_and_any_precision():
    values = waves(100)
    ridge = Ridge.fit(values, LagDesign(6, 4, 2), penalty=1.0)
    past = values[:, -6:].float()
    past[0, 2, 1] = torch.nan
    mask = ~past.isnan()
    before = past.clone()
    forecast = ridge.forecast(past, prediction_length=5)
    assert forecast.dtype == torch.float32
    torch.testing.assert_close(past, before, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(ridge.forecast(past.nan_to_num(9.0), prediction_length=5, past_observed_mask=mask), forecast)
    longer = torch.cat([torch.full((1, 30, 2), 1e3), past], dim=1)
    assert torch.equal(ridge.forecast(longer, prediction_length=5), forecast)
    short = ridge.forecast(past[:, -2:], prediction_length=5)
    held = torch.cat([past[:, -2:-1].expand(-1, 4, -1), past[:, -2:]], dim=1)
    assert torch.equal(short, ridge.forecast(held, prediction_length=5))


def test_the_chosen_penalty_has_the_smallest_error_on_later_windows():
    values = waves(160, channels=2)
    values[0, 120, 1] = torch.nan
    design = LagDesign(20, 4, 2)  # nearly as many lags as windows to train on
    chosen = choose_penalty(values, design, num_train_steps=50, candidates=[1e-2, 1.0, 1e2, 1e4])
    for penalty, error in chosen.errors.items():
        ridge = Ridge.fit(values[:, :50], design, penalty=penalty)
        errors = []
        for first in range(50, 160 - 4 + 1):
            forecast = ridge.forecast(values[:, first - 20 : first], prediction_length=4)
            errors.append(((forecast - values[:, first : first + 4]) / ridge.scale).square().flatten())
        assert error == pytest.approx(float(torch.cat(errors).nanmean()), rel=1e-9)
    assert chosen.penalty == min(chosen.errors, key=chosen.errors.__getitem__)
    assert chosen.penalty not in (1e-2, 1e4)


def test_what_does_not_fit_is_refused():
    values, features = waves(60), torch.zeros(1, 60, 3)
    with pytest.raises(ValueError, match=r'anchor "none" or "last", found .*first'):
        LagDesign(5, 3, 2, anchor="first")
    with pytest.raises(ValueError, match=r"penalty must be above 0 and finite, found 0"):
        Ridge.fit(values, LagDesign(5, 3, 2), penalty=0)
    with pytest.raises(ValueError, match=r"the shape \(1, 60, 3\), as num_time_features says, found None"):
        Ridge.fit(values, LagDesign(5, 3, 2, 3), penalty=1.0)
    with pytest.raises(ValueError, match=r"50 \+ 20 steps with all targets seen, found \[0, 0\]"):
        Ridge.fit(values, LagDesign(50, 20, 2), penalty=1.0)
    with pytest.raises(ValueError, match=r"shape \(series, time, channels\), found \(60, 2\)"):
        Ridge.fit(values[0], LagDesign(5, 3, 2), penalty=1.0)
    with pytest.raises(ValueError, match="hold the targets of a window, found none in series of 60 steps"):
        choose_penalty(values, LagDesign(5, 3, 2), num_train_steps=58)
    ridge = Ridge.fit(values, LagDesign(5, 3, 2, 3), penalty=1.0, past_time_features=features)
    with pytest.raises(ValueError, match="at most 3 steps to forecast, found 2 and 4"):
        ridge.forecast(values, prediction_length=4, past_time_features=features)
    with pytest.raises(NotImplementedError, match="Ridge"):
        ridge.forecast_quantiles(values, prediction_length=2, quantile_levels=[0.5])
