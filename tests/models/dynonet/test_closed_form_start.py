"""The closed-form start of a whole model: which windows it is fitted to, and in which units."""

import numpy as np
import pytest
import torch

from hf_tsdyn.models.dynonet import DynoNetConfig, DynoNetForPrediction

CONTEXT, HORIZON = 10, 4


def build(specialists, **fields):
    torch.manual_seed(0)
    config = {
        "num_channels": 2,
        "context_length": CONTEXT,
        "prediction_length": HORIZON,
        "num_worker_layers": 0,
        "trend_head": False,
        "channel_mixer": False,
        "specialists": specialists,
    }
    return DynoNetForPrediction(DynoNetConfig(**config | fields)).double().eval()


FULL_RANK = [{"kind": "low_rank", "rank": HORIZON, "ridge": 0.0, "pooling": None}]


@pytest.fixture
def series(generator):
    steps = torch.randn(2, 300, generator=generator, dtype=torch.float64)
    return (100 + 7 * steps.cumsum(dim=1) * torch.tensor([[1.0], [5.0]])).numpy()


def windows_of(series):
    cut = np.lib.stride_tricks.sliding_window_view(series, CONTEXT + HORIZON, axis=1)
    return cut.transpose(1, 2, 0)[~np.isnan(cut).any(axis=(0, 2))]


def least_squares(series, scale):
    """The forecast of every window by one map of departures from its mean, all channels and windows alike."""
    windows = windows_of(series) / scale
    past = windows[:, :CONTEXT]
    spread = np.sqrt(past.var(axis=1, keepdims=True) + 1e-5)
    z = (windows - past.mean(axis=1, keepdims=True)) / spread
    inputs, targets = (each.transpose(0, 2, 1).reshape(-1, each.shape[1]) for each in (z[:, :CONTEXT], z[:, CONTEXT:]))
    solution = np.linalg.lstsq(inputs, targets, rcond=None)[0]
    forecast = np.einsum("blc,lh->bhc", z[:, :CONTEXT], solution)
    return (forecast * spread + past.mean(axis=1, keepdims=True)) * scale


@pytest.mark.parametrize("affine", [(1.0, 0.0), (2.0, 0.7)])
def test_it_is_the_least_squares_solution_of_all_windows_without_gaps(series, affine):
    series[0, 100:103] = np.nan
    series[1, 200] = np.nan
    model = build(FULL_RANK)
    model.set_scaler([90.0, 110.0], [30.0, 170.0])
    model.model.norm_weight.data.fill_(affine[0])
    model.model.norm_bias.data.fill_(affine[1])
    model.fit_specialists([series[:, :150], series[:, 150:]], batch_size=17)
    whole = np.concatenate([series[:, :150], np.full((2, 1), np.nan), series[:, 150:]], axis=1)
    past = torch.from_numpy(windows_of(whole)[:, :CONTEXT].copy())
    expected = least_squares(whole, np.array([30.0, 170.0]))
    np.testing.assert_allclose(model(past).prediction_outputs.detach().numpy(), expected, rtol=1e-6)


def test_a_series_too_short_is_left_out_and_none_long_enough_is_named(series):
    alone, beside = build(FULL_RANK), build(FULL_RANK)
    alone.fit_specialists([series])
    beside.fit_specialists([series[:, :9], series])
    for one, other in zip(alone.parameters(), beside.parameters(), strict=True):
        assert torch.equal(one, other)
    series[:, ::CONTEXT] = np.nan
    with pytest.raises(ValueError, match="at least one window of context_length"):
        alone.fit_specialists([series, series[:, :5]])


def test_windows_at_rest_that_wake_up_do_not_rule_the_fit(generator):
    time = torch.arange(600)
    waves = torch.stack([(time * 0.7).sin(), (time * 0.5).cos()]).numpy().astype(np.float64)
    resting = waves.copy()
    resting[:, 300:310] = resting[:, 300:301] + 1e-4 * torch.randn(2, 10, generator=generator).numpy()
    errors = []
    for series in (waves, resting):
        model = build(FULL_RANK, scaling_epsilon=1e-6, relative_scaling_epsilon=True)
        model.fit_specialists([series])
        windows = torch.from_numpy(windows_of(waves[:, :250]).copy())
        found = model(windows[:, :CONTEXT]).prediction_outputs
        errors.append((found - windows[:, CONTEXT:]).square().mean().item())
    assert errors[0] < 1e-10
    assert errors[1] < 0.05


@pytest.mark.parametrize("kind", [{"kind": "low_rank", "rank": 2, "period": 5}, {"kind": "periodic", "period": 5}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flat_series_leave_the_level(kind, dtype):
    model = build([kind]).to(dtype)
    model.fit_specialists([np.full((2, 60), 3.0), np.full((2, 40), 1000.0)])
    past = torch.full((1, CONTEXT, 2), 5.0)
    torch.testing.assert_close(model.forecast(past, prediction_length=HORIZON), torch.full((1, HORIZON, 2), 5.0))


def test_weights_of_the_mixture_are_those_of_the_configuration(series):
    kinds = [{"kind": "periodic", "period": 5}, *FULL_RANK]
    windows = torch.from_numpy(windows_of(series)[:7, :CONTEXT].copy())
    forecasts = []
    for fields in (
        {"specialists": kinds[:1]},
        {"specialists": kinds[1:]},
        {"specialists": kinds, "mixture": [0.3, 0.7]},
    ):
        model = build(**fields)
        model.fit_specialists([series])
        forecasts.append(model(windows).prediction_outputs)
    torch.testing.assert_close(forecasts[2], 0.3 * forecasts[0] + 0.7 * forecasts[1])


def test_workers_beside_specialists_start_with_nothing_to_say(series):
    windows = torch.from_numpy(windows_of(series)[:7, :CONTEXT].copy())
    sizes = {"num_worker_layers": 1, "worker_context_length": 6, "controller_hidden_size": 5}
    with_workers, without = build(FULL_RANK, **sizes), build(FULL_RANK)
    for model in (with_workers, without):
        model.fit_specialists([series])
    torch.testing.assert_close(with_workers(windows).prediction_outputs, without(windows).prediction_outputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "nope"}, "must be one of"),
        ({"kind": ["periodic"]}, "must be one of"),
        ({"kind": "low_rank", "rank": "2"}, "rank of a specialist must be a whole number, found '2'"),
        ({"kind": "low_rank", "rank": 2.0}, "whole number"),
        ({"kind": "low_rank", "rank": True}, "whole number"),
        ({"kind": "low_rank", "rank": 99}, r"must lie in \[1, 8\], found 99"),
        ({"kind": "low_rank", "ridge": float("nan")}, "ridge of a specialist must be finite"),
        ({"kind": "low_rank", "period_ridge": -1.0}, "period_ridge of a specialist"),
        ({"kind": "periodic", "period": None}, "whole number, found None"),
    ],
)
def test_options_that_are_none_are_refused_with_the_configuration(options, message):
    with pytest.raises(Exception, match=message):
        build([options])
