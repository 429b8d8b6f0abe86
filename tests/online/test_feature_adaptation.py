"""Promises of the adapter of features: a frozen network that learns, late, where its hidden state should have been."""

import math

import numpy as np
import pytest
import torch

from hf_tsdyn.baselines import Persistence
from hf_tsdyn.online.feature_adaptation import FeatureAdaptation, FeatureAdaptationOptions
from hf_tsdyn.online.frozen import FrozenLearner

LENGTHS = {"num_channels": 2, "context_length": 8, "prediction_length": 3}


@pytest.fixture
def network(tiny_fsnet):
    """A small plain network, 2 channels, context 8, prediction 3, with a hidden state of 8 numbers."""
    return tiny_fsnet(adaptive=False, memory="none", anchor="last")


def _adapted(network, protocol="delayed", **options):
    return FeatureAdaptation(network, FeatureAdaptationOptions(**{"learning_rate": 1e-2, **options}), protocol)


def _own(learner, name):
    return learner.state_dict()[f"own.{name}"]


def test_it_begins_as_the_frozen_network(network, run_learner, stream):
    frozen = run_learner(FrozenLearner(network, **LENGTHS), stream, warm_up=20)
    adapted = run_learner(_adapted(network), stream, warm_up=20)
    # The first window is revealed 3 steps after the first forecast.
    assert torch.equal(adapted[:3], frozen[:3])
    assert not torch.equal(adapted[3], frozen[3])
    idle = _adapted(network, learning_rate=0.0)
    assert torch.equal(run_learner(idle, stream, warm_up=20), frozen)
    assert idle.statistics()["num_updates"] == 0


def test_the_head_forecasts_from_the_hidden_state_what_the_network_does(network, stream):
    found = network(torch.from_numpy(stream[None, :8]))
    forecast = network.forecast_from_hidden(found.last_hidden_state, found.loc, found.scale)
    assert torch.equal(forecast, found.prediction_outputs)


def test_the_network_and_the_global_generator_are_left_alone(network, run_learner, stream):
    before, generator = {name: each.clone() for name, each in network.state_dict().items()}, torch.get_rng_state()
    run_learner(_adapted(network), stream, warm_up=20)
    assert all(torch.equal(each, before[name]) for name, each in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_network_in_train_mode_neither_drops_out_nor_moves_its_memory(tiny_fsnet, run_learner, stream):
    runs = []
    for mode in (False, True):
        network = tiny_fsnet(head_dropout=0.5, controller_dropout=0.5).train(mode)
        before = {name: each.clone() for name, each in network.state_dict().items()}
        runs.append(run_learner(_adapted(network), stream, warm_up=20))
        assert network.training == mode
        assert all(torch.equal(each, before[name]) for name, each in network.state_dict().items())
    assert torch.equal(*runs)


def _slow_correction(learner, hidden, signal):
    """What the learner's adapter adds to hidden states, (windows, 8) as all three are."""
    first, last = ([_own(learner, f"adapter.{layer}.{name}") for name in ("weight", "bias")] for layer in (0, 2))
    inner = torch.nn.functional.linear(torch.cat([hidden, signal], dim=1), *first)
    return torch.nn.functional.linear(torch.nn.functional.gelu(inner), *last)


def test_the_forecast_is_made_from_the_hidden_state_moved_by_what_the_latest_signal_says(network, run_learner, stream):
    learner = _adapted(network)
    forecast = run_learner(learner, stream, warm_up=20, stop=40)[-1]
    found = network.model(torch.from_numpy(stream[None, 32:40]))
    correction = _slow_correction(learner, found.last_hidden_state, _own(learner, "signals")[-1:])
    assert correction.abs().max() > 0.1
    expected = network.forecast_from_hidden(found.last_hidden_state + correction, found.loc, found.scale)
    torch.testing.assert_close(forecast, expected[0].detach())


def _slow_signal(network, stream, ends):
    """The mean over windows, by the rows that their contexts end before, of the loss's gradient in the hidden state."""
    gradients = []
    for end in ends:
        with torch.no_grad():
            found = network.model(torch.from_numpy(stream[None, end - 8 : end]))
        hidden = found.last_hidden_state.requires_grad_()
        targets = torch.from_numpy(stream[None, end : end + 3])
        errors = (network.forecast_from_hidden(hidden, found.loc, found.scale) - targets) / found.scale
        gradients += torch.autograd.grad(errors[~targets.isnan()].square().mean(), hidden)
    column = network.head.weight.norm(dim=0).square().mean().sqrt()
    return torch.cat(gradients).mean(dim=0) * (6 / 2) / column


def test_the_signal_is_the_mean_gradient_over_the_latest_revealed_windows(network, run_learner, stream):
    stream = stream.copy()
    stream[[29, 32], 0] = np.nan
    learner = _adapted(network, num_windows=4)
    run_learner(learner, stream, warm_up=20, stop=22)
    assert not _own(learner, "signals").any()
    learner.learn_one(stream[22])
    torch.testing.assert_close(_own(learner, "signals")[-1], _slow_signal(network, stream, [20]).detach())
    for row in stream[23:34]:
        learner.learn_one(row)
    expected = _slow_signal(network, stream, [28, 29, 30, 31]).detach()
    torch.testing.assert_close(_own(learner, "signals")[-1], expected)


@pytest.mark.parametrize(("protocol", "delay"), [("delayed", 3), ("immediate", 0)])
def test_each_window_is_learnt_from_the_signal_that_was_known_when_it_was_forecast(network, stream, protocol, delay):
    learner = _adapted(network, protocol)
    learner.warm_up(stream[:20])
    known = [_own(learner, "signals")[-1]]
    for step in range(20, 40):
        if protocol == "immediate":
            learner.learn_revealed(stream[step : step + 3])
            assert torch.equal(_own(learner, "revealed.signal")[-1], known[-1])
        learner.learn_one(stream[step])
        known.append(_own(learner, "signals")[-1])
        if delay and len(known) > delay:
            assert torch.equal(_own(learner, "revealed.signal")[-1], known[-1 - delay])
    assert len({tuple(each.tolist()) for each in known}) > 15


def test_the_first_step_moves_the_correction_against_the_signal(network, run_learner, stream):
    learner = _adapted(network)
    run_learner(learner, stream, warm_up=20, stop=23)
    signal = _own(learner, "signals")[-1]
    # AdamW's first step is as long as the learning rate, whatever the gradient's length.
    torch.testing.assert_close(_own(learner, "adapter.2.bias"), -1e-2 * signal.sign(), atol=1e-5, rtol=0)
    assert learner.statistics()["num_updates"] == 1


def test_an_update_follows_the_mean_loss_of_all_remembered_windows(network, run_learner, stream):
    """A second step, of which the older window's share is told from a learner that forgets it."""
    forgetful, learner = (_adapted(network, num_windows=count) for count in (1, 3))
    for each in (forgetful, learner):
        run_learner(each, stream, warm_up=20, stop=23)
    assert torch.equal(_own(forgetful, "adapter.2.bias"), _own(learner, "adapter.2.bias"))
    moment = _own(learner, "optimizer.3.exp_avg")
    learner.learn_one(stream[23])
    followed = (_own(learner, "optimizer.3.exp_avg") - 0.9 * moment) / 0.1
    hidden, signal, targets = (_own(learner, f"revealed.{name}") for name in ("hidden", "signal", "targets"))
    correction = _slow_correction(forgetful, hidden, signal).requires_grad_()
    assert targets[0].isnan().all()
    assert not targets[1:].isnan().any()
    loss = (network.head(hidden + correction) - targets)[1:].square().mean()
    torch.testing.assert_close(followed, torch.autograd.grad(loss, correction)[0].sum(dim=0), atol=1e-6, rtol=1e-4)


def test_a_constant_bias_of_the_hidden_state_is_learnt(tiny_fsnet):
    """The stream is the network's own one-step forecasts from a hidden state that is off by a constant, with noise."""
    network = tiny_fsnet(adaptive=False, memory="none", prediction_length=1)
    bias = torch.linspace(-1.0, 1.0, 8)
    rng = np.random.default_rng(0)
    learner = _adapted(network, learning_rate=3e-3)
    rows = rng.normal(size=(8, 2)).astype(np.float32)
    learner.warm_up(rows)
    errors = []
    for _ in range(400):
        with torch.no_grad():
            found = network.model(torch.from_numpy(rows[None, -8:]))
            frozen, wanted = (
                network.forecast_from_hidden(found.last_hidden_state + shift, found.loc, found.scale)[0, 0]
                for shift in (0.0, bias)
            )
        errors.append([float((each - wanted).square().mean()) for each in (learner.forecast()[0], frozen)])
        latest = wanted.numpy() + 0.3 * rng.normal(size=2).astype(np.float32)
        learner.learn_one(latest)
        rows = np.concatenate([rows, latest[None]])
    adapted, frozen = np.mean(errors[200:], axis=0)
    assert frozen > 0.1
    assert adapted < 0.1 * frozen


def test_what_leaves_the_range_of_numbers_is_left_out(network, run_learner, stream):
    learner = _adapted(network)
    run_learner(learner, stream, warm_up=20, stop=30)
    before = learner.state_dict()
    learner.learn_one([3e38, np.nan])
    after = learner.state_dict()
    assert (learner.statistics()["num_updates"], learner.statistics()["num_rejected"]) == (8, 1)
    for name, tensor in before.items():
        if name.startswith(("own.adapter", "own.optimizer", "own.revealed")):
            assert torch.equal(tensor.nan_to_num(7.0), after[name].nan_to_num(7.0)), name
    for row in stream[31:43]:
        learner.learn_one(row)
    assert learner.forecast().isfinite().all()
    assert learner.statistics()["num_updates"] > 8


def test_only_the_seed_tells_two_adapters_apart(network, run_learner, stream):
    first, again, other = (run_learner(_adapted(network, seed=seed), stream, warm_up=20) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("kind", ["model without a linear head", "baseline"])
def test_a_forecaster_without_a_head_on_hidden_states_is_refused(kind, tiny_model):
    forecaster = Persistence() if kind == "baseline" else tiny_model()
    with pytest.raises(TypeError, match=f"linear head on its last hidden state.*{type(forecaster).__name__}"):
        FeatureAdaptation(forecaster)


@pytest.mark.parametrize(
    ("name", "value"),
    [("learning_rate", -1.0), ("weight_decay", math.nan), ("adapter_size", 0), ("num_windows", 0)],
)
def test_options_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        FeatureAdaptationOptions(**{name: value})
