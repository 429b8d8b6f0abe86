from typing import Any

import pytest
import torch

from hf_tsdyn.models.dynonet import DynoNetConfig, DynoNetForPrediction
from hf_tsdyn.models.dynonet.controller import TRAINING_SIGNALS
from hf_tsdyn.models.dynonet.decomposition import split_window

SIZES = {
    "num_channels": 3,
    "context_length": 24,
    "prediction_length": 6,
    "controller_hidden_size": 10,
    "worker_hidden_size": 4,
    "worker_context_length": 12,
    "trend_window": 5,
}


def build(*, scatter: float = 0.2, **fields: Any) -> Any:
    """A model away from its start, where many of its maps are zero."""
    torch.manual_seed(0)
    model = DynoNetForPrediction(DynoNetConfig(**SIZES | fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += scatter * torch.randn_like(parameter)
    return model


@pytest.fixture
def past(generator):
    return torch.randn(5, 24, 3, generator=generator).cumsum(dim=1)


@pytest.mark.parametrize("fields", [{}, {"controller": False}, {"controller_scope": "channel"}])
def test_signals_start_at_their_first_values_and_stay_in_range(past, fields):
    start = build(scatter=0.0, **fields).signals(past)
    moved = build(scatter=3.0, **fields).signals(past)
    for name, (low, high, first) in TRAINING_SIGNALS.items():
        torch.testing.assert_close(start[name], torch.full((5, 3), first))
        assert moved[name].shape == (5, 3)
        assert moved[name].min() >= low
        assert moved[name].max() <= high
    assert (start["input_noise"] == 0).all()
    assert (start["film"][:, 0] == 1).all()
    assert (start["film"][:, 1] == 0).all()
    assert (moved["film"][:, 0] - 1).abs().max() <= 0.1 + 1e-6


def test_without_a_controller_signals_are_constants(past):
    with_one, without = (build(controller=controller).signals(past) for controller in (True, False))
    for name, signal in with_one.items():
        windows = 1 if name == "film" else 0
        windows = 2 if name == "film" else windows
        assert signal.std(dim=windows).max() > 0
        assert without[name].std(dim=windows).max() < 1e-6


def test_gates_that_follow_the_controller_are_those_of_the_window_read_so_far(past):
    model = build(gating="time_varying")
    reader, gate = model.model.controller.reader, model.model.controller.gate
    scaled = model.model.scale_window(past, None)[0]
    gates = model.signals(past)["gate_masks"]
    assert gates.shape == (5, 3, 12, 4)
    for step in range(12):
        state = reader(scaled[:, : 24 - 12 + step + 1])[:, -1]
        torch.testing.assert_close(gates[:, :, step], gate(state).unflatten(1, (3, 4)).sigmoid())


@pytest.mark.parametrize(("controller_patch", "worker_patch"), [(8, 4), (4, 1), (24, 12), (5, 3)])
def test_gates_of_patches_have_read_no_later_than_their_step(past, controller_patch, worker_patch):
    model = build(gating="time_varying", controller_patch_length=controller_patch, worker_patch_length=worker_patch)
    steps = 12 // worker_patch
    gates = model.signals(past)["gate_masks"]
    assert gates.shape == (5, 3, steps, 4)
    reader = model.model.controller.reader
    states = reader(model.model.scale_window(past, None)[0])
    constant = model.model.controller.gate(states).sigmoid().unflatten(2, (3, 4)).transpose(1, 2)
    for step in range(steps):
        end = 24 - 12 + (step + 1) * worker_patch
        first = 24 % controller_patch
        ends = first + controller_patch * torch.arange(1, states.shape[1] + 1)
        read = max(int((ends <= end).sum()) - 1, 0)
        torch.testing.assert_close(gates[:, :, step], constant[:, :, read])


@pytest.mark.parametrize("patch", [1, 4])
def test_workers_know_their_own_channel_alone_but_for_controller_and_mixer(past, patch):
    model = build(controller=False, channel_mixer=False, worker_patch_length=patch)
    other = past.clone()
    other[..., 1] += torch.randn(5, 24)
    difference = (model(other).prediction_outputs - model(past).prediction_outputs).abs().amax(dim=(0, 1))
    assert difference[1] > 0.01
    assert difference[[0, 2]].max() < 1e-6


def test_the_controller_tells_all_workers_of_every_channel(past):
    model = build(channel_mixer=False)
    other = past.clone()
    other[..., 1] += torch.randn(5, 24)
    difference = (model(other).prediction_outputs - model(past).prediction_outputs).abs().amax(dim=(0, 1))
    assert difference.min() > 1e-4


def test_patches_read_all_of_the_latest_steps(past):
    model = build(controller_patch_length=5, worker_patch_length=4)
    for step in (3, 4, 23):  # the first 4 steps fill no patch
        moved = past.clone()
        moved[:, step] += 1
        scaled = [model.model.scale_window(each, None)[0] for each in (past, past)]
        scaled[1] = scaled[1].clone()
        scaled[1][:, step] += 1
        states = [model.model.controller.reader(each) for each in scaled]
        assert (states[0].shape[1], torch.equal(*states)) == (4, step < 4)


def test_film_reaches_as_far_as_it_is_let(past):
    film = build(scatter=30.0, film_range=0.7).signals(past)["film"]
    assert (film[:, 0] - 1).abs().max().item() == pytest.approx(0.7, abs=1e-3)
    assert film[:, 1].abs().max().item() == pytest.approx(0.7, abs=1e-3)


@pytest.mark.parametrize("gating", ["constant", "time_varying"])
def test_a_controller_of_channels_says_of_each_what_it_would_say_of_it_alone(past, gating):
    model = build(controller_scope="channel", gating=gating, num_worker_layers=2)
    signals = model.signals(past)
    assert signals["context"].shape == (5, 3, 4)
    for channel in range(3):
        others = torch.randn(5, 24, 3)
        others[..., channel] = past[..., channel]
        for name, signal in model.signals(others).items():
            axis = 3 if name == "film" else 1
            expected = signals[name].select(axis, channel)
            torch.testing.assert_close(signal.select(axis, channel), expected, atol=1e-5, rtol=1e-4)
    order = [2, 0, 1]
    model.model.norm_weight.data.fill_(1.3)
    model.model.norm_bias.data.fill_(0.2)
    signals = model.signals(past)
    for name, signal in model.signals(past[..., order]).items():
        expected = signals[name].index_select(3 if name == "film" else 1, torch.tensor(order))
        torch.testing.assert_close(signal, expected, atol=1e-5, rtol=1e-4)


def test_a_short_context_is_one_with_an_unseen_beginning(past):
    model = build()
    unseen = torch.cat([torch.full((5, 10, 3), torch.nan), past[:, 10:]], dim=1)
    short = model.forecast(past[:, 10:], prediction_length=6)
    torch.testing.assert_close(short, model.forecast(unseen, prediction_length=6))
    longer = torch.cat([torch.randn(5, 7, 3), past], dim=1)
    assert torch.equal(model.forecast(longer, prediction_length=9), model.forecast(past, prediction_length=9))


def test_trend_and_residual_come_from_an_average_over_edges_held():
    values = torch.arange(6.0) ** 2
    padded = [0, 0, 0, 1, 4, 9, 16, 25, 25, 25]
    average = torch.tensor([sum(padded[step : step + 5]) / 5 for step in range(6)])
    trend_map = torch.randn(2, 6)
    trend, residual = split_window(values.reshape(1, 6, 1), 5, residual_length=4, trend_map=trend_map)
    torch.testing.assert_close(trend.flatten(), trend_map @ average)
    torch.testing.assert_close(residual.flatten(), (values - average)[2:])


def test_dropout_and_noise_act_in_training_alone_and_at_the_rates_of_their_signals(past):
    model = build()
    signals = {name: value.detach() for name, value in model.signals(past).items()}
    quiet = signals | {name: torch.zeros(5, 3) for name in ("dropout_rate", "input_noise")}
    expected = model(past).prediction_outputs
    model.train()
    model.model.mixer[2].p = 0.0
    torch.testing.assert_close(model(past, signals=quiet).prediction_outputs, expected)
    for name, channel in (("dropout_rate", 0), ("input_noise", 2)):
        loud = torch.zeros(5, 3)
        loud[:, channel] = 0.5
        model.model.mixer[3].weight.data.zero_()  # keep the channels apart
        changed = model(past, signals=quiet | {name: loud}).prediction_outputs
        still = model(past, signals=quiet).prediction_outputs
        moved = (changed - still).abs().amax(dim=(0, 1)) > 1e-4
        assert moved.tolist() == [each == channel for each in range(3)]


def test_published_noise_shifts_the_whole_window(past):
    model = build(input_noise="shift", channel_mixer=False).train()
    signals = model.signals(past) | {"dropout_rate": torch.zeros(5, 3), "input_noise": torch.full((5, 3), 0.3)}
    once, again = (model(past, signals=signals).prediction_outputs for _ in range(2))
    assert torch.equal(once, again)
    model.config.input_noise = "gaussian"
    assert not torch.equal(model(past, signals=signals).prediction_outputs, once)


def test_relaxed_dropout_keeps_the_mean_and_carries_a_derivative(past):
    model = build().train()
    rate = torch.full((5, 3), 0.3, requires_grad=True)
    signals = {name: value.detach() for name, value in model.signals(past).items()} | {"dropout_rate": rate}
    for relaxed in (True, False):
        loss = model(past, future_values=torch.zeros(5, 6, 3), signals=signals, relaxed=relaxed).loss
        (gradient,) = torch.autograd.grad(loss, rate, allow_unused=True)
        assert (gradient is not None and gradient.abs().max() > 0) == relaxed


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.3, 0.5, 0.69])
def test_dropout_keeps_the_mean_whatever_the_rate(rate):
    workers = build().train().model.workers
    for relaxed in (True, False):
        dropped = workers._dropout(torch.ones(3, 5, 20_000, 4), torch.full((5, 3), rate), relaxed=relaxed)
        assert dropped.mean().item() == pytest.approx(1.0, abs=0.005)


def test_dropout_that_starts_at_zero_is_none(past):
    model = build(scatter=0.0, worker_dropout=0.0, mixer_dropout=0.0)
    assert model.signals(past)["dropout_rate"].max() < 1e-12
    expected = model(past).prediction_outputs
    assert torch.equal(model.train()(past).prediction_outputs, expected)


@pytest.mark.parametrize("relative", [False, True])
def test_a_channel_that_is_constant_or_unseen_does_not_count_in_its_own_scale(past, relative):
    model = build(normalize_loss=True, relative_scaling_epsilon=relative)
    future = past[:, -6:] + 1.0
    expected = model(past[1:], future_values=future[1:]).loss
    past, future = past.clone(), future.clone()
    past[0, :, 0], past[0, :, 1], past[0, 3:, 2] = 4.0, torch.nan, torch.nan
    past[0, :3, 2] = 1.0
    output = model(past, future_values=future)
    assert model.channel_losses(output, past, future).counted[0].tolist() == [0, 0, 0]
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, under forward derivatives
def test_forward_derivatives_are_those_of_differences(past):
    model = build().double()
    past = past.double()
    direction = torch.randn(past.shape, dtype=past.dtype, generator=torch.Generator().manual_seed(1))
    _, found = torch.func.jvp(lambda x: model(x).prediction_outputs, (past,), (direction,))
    step = 1e-6
    ahead, behind = (model(past + sign * step * direction).prediction_outputs for sign in (1, -1))
    torch.testing.assert_close(found, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-6)


def test_a_controller_that_would_drive_nothing_reads_nothing():
    for fields in ({}, {"specialists": [{"kind": "periodic", "period": 4}]}):
        model = build(num_worker_layers=0, **fields)
        assert model.model.controller.reader is None
        assert not list(model.model.controller.parameters())


@pytest.mark.parametrize("normalize", [False, True])
def test_channel_losses_average_to_the_loss(past, normalize):
    model = build(normalize_loss=normalize)
    model.set_scaler([1.0, 2.0, 3.0], [2.0, 0.5, 4.0])
    future = past[:, -6:] + 0.3
    output = model(past, future_values=future)
    losses, counted = model.channel_losses(output, past, future)
    assert losses.shape == (5, 3)
    assert (counted == 6).all()
    torch.testing.assert_close(losses.mean(), output.loss)
    if not normalize:
        error = (output.prediction_outputs - future) / torch.tensor([2.0, 0.5, 4.0])
        torch.testing.assert_close(losses, error.square().mean(dim=1))


def test_signals_come_on_request(past):
    model = build()
    assert model(past).signals is None
    found = model(past, output_signals=True).signals
    assert found.keys() == model.signals(past).keys()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"worker_context_length": 25}, "at most context_length"),
        ({"worker_patch_length": 5}, "divide worker_context_length"),
        ({"trend_window": 4}, "odd and positive"),
        ({"num_worker_layers": 0, "trend_head": False}, "workers, a trend head or specialists"),
        ({"worker_dropout": 0.7}, "must lie in"),
        ({"mixture": [1.0]}, "each of the 0 specialists"),
        ({"channel_scale": [1.0, 0.0, 1.0]}, "above 0"),
        ({"num_channels": 0}, "at least 1"),
    ],
)
def test_fields_that_do_not_fit_are_named(fields, message):
    with pytest.raises(Exception, match=message):
        DynoNetConfig(**SIZES | fields)
