"""Steps that are left out move nothing, and what does not learn stays as it is."""

from typing import Any

import numpy as np
import pytest
import torch

from hf_tsdyn.online import load_learner
from hf_tsdyn.online.gradient import FrozenLearner, GradientLearner, GradientOptions

LENGTHS = {"context_length": 8, "prediction_length": 3, "num_channels": 2}


def _copies(model):
    return {name: each.clone() for name, each in model.state_dict().items()}


def _moved(model, before):
    return {name for name, each in model.state_dict().items() if not torch.equal(each, before[name])}


@pytest.mark.parametrize("limit", [None, 0.1])
def test_a_finite_value_too_large_to_square_leaves_adamw_able_to_learn(run_learner, tiny_model, stream, limit):
    values = np.nan_to_num(stream)
    learner = GradientLearner(tiny_model(), GradientOptions(learning_rate=1e-2, max_grad_norm=limit))
    run_learner(learner, values, warm_up=20, stop=30)
    before = _copies(learner.forecaster)
    for row in ([3e19, 0.0], *values[31:33]):  # whose windows have it as a target
        learner.learn_one(row)
    assert learner.statistics()["num_rejected"] == 3
    assert _moved(learner.forecaster, before) == set()
    moments = [each for name, each in learner.state_dict().items() if "exp_avg_sq" in name]
    assert max(each.max() for each in moments) < 1e6
    for row in values[34:]:
        learner.learn_one(row)
    weight = "model.trend_head.weight"
    assert weight in _moved(learner.forecaster, before)
    assert (learner.forecaster.state_dict()[weight] - before[weight]).abs().max() > 1e-3


@pytest.mark.parametrize("size", [1e30, 1e17])  # the loss, or the gradient alone, is out of range
@pytest.mark.parametrize("rehearsal", ["none", "er"])
def test_a_step_that_is_left_out_moves_no_state(run_learner, tiny_fsnet, stream, size, rehearsal):
    values = np.nan_to_num(stream)
    learner = GradientLearner(tiny_fsnet(), GradientOptions(learning_rate=1e-2, rehearsal=rehearsal))
    run_learner(learner, values, warm_up=20, stop=32)
    assert learner.num_triggers.sum() > 0
    before, updates = _copies(learner.forecaster), learner.statistics()["num_updates"]
    drift = learner.drift.state().clone()
    window = learner._window(3)
    learner._learn(window._replace(past_values=window.past_values + size), torch.full((3, 2), -size), None)
    assert learner.statistics()["num_rejected"] == 1
    assert learner.statistics()["num_updates"] == updates
    assert _moved(learner.forecaster, before) == set()
    assert torch.equal(learner.drift.state(), drift)
    assert all(each.grad is None for each in learner.forecaster.parameters())


@pytest.mark.parametrize("feedback", ["complete", "partial"])
def test_a_rate_of_zero_is_the_frozen_network(run_learner, tiny_fsnet, stream, feedback):
    learner = GradientLearner(tiny_fsnet(), GradientOptions(learning_rate=0.0, rehearsal="er", feedback=feedback))
    before = _copies(learner.forecaster)
    frozen = FrozenLearner(tiny_fsnet(), **LENGTHS)
    found, expected = (run_learner(each, stream, warm_up=20) for each in (learner, frozen))
    torch.testing.assert_close(found, expected)
    assert _moved(learner.forecaster, before) == set()
    assert learner.statistics()["num_updates"] == 0
    assert learner.state_dict()["own.reservoir.num_added"] == 0


def test_weights_that_do_not_learn_are_averaged_all_the_same(run_learner, tiny_fsnet, stream):
    options = GradientOptions(learning_rate=1e-2, trainable=("*.calibration.*",))
    learner = GradientLearner(tiny_fsnet(memory="none"), options)
    before = _copies(learner.forecaster)
    run_learner(learner, stream, warm_up=20)
    moved = _moved(learner.forecaster, before)
    assert {name for name in moved if name.endswith("averages.slow")}
    weights = {name for name, _ in learner.forecaster.named_parameters()}
    assert moved & weights == {name for name in weights if ".calibration." in name}
    assert all(each.grad is None for each in learner.forecaster.parameters())


def test_what_the_caller_froze_stays_frozen_unless_a_pattern_fits_it(run_learner, tiny_fsnet, stream, tmp_path):
    model = tiny_fsnet(memory="none")
    for bank in model.banks:
        bank.weight.requires_grad_(False)
    learner = GradientLearner(model, GradientOptions(learning_rate=1e-2, trainable=("*.calibration.*", "head.*")))
    learner.save(tmp_path / "learner")
    resumed = load_learner(tmp_path / "learner")
    for each in (learner, resumed):
        run_learner(each, stream, warm_up=20)
        forecaster: Any = each.forecaster
        assert not any(averages.num_steps for averages in forecaster.averages)
    untouched: Any = GradientLearner(model).forecaster
    assert all(bank.weight.requires_grad for bank in untouched.banks)


@pytest.mark.parametrize("rehearsal", ["er", "der++"])
def test_partial_feedback_remembers_windows_whose_last_row_is_unseen(run_learner, tiny_model, stream, rehearsal):
    values = np.nan_to_num(stream)
    values[[24, 25, 26]] = np.nan
    learner = GradientLearner(tiny_model(), GradientOptions(feedback="partial", rehearsal=rehearsal))
    run_learner(learner, values, warm_up=20, stop=28)
    state = learner.state_dict()
    # Of the targets of windows that end in rows 22 to 27 those of 24 to 26 are unseen.
    expected = [values[last - 2 : last + 1] for last in range(22, 28) if last != 26]
    np.testing.assert_array_equal(state["own.reservoir.future_values"], np.stack(expected))
    if rehearsal == "der++":
        np.testing.assert_array_equal(state["own.reservoir.outputs"].isnan(), np.isnan(expected))


def test_a_state_is_loaded_into_a_copy_of_the_callers_network(tiny_model, build_learner):
    model, other = tiny_model(), tiny_model()
    torch.nn.init.zeros_(other.get_parameter("model.trend_head.bias"))
    before = _copies(model)
    learner = FrozenLearner(model, **LENGTHS)
    learner.load_state_dict(FrozenLearner(other, **LENGTHS).state_dict())
    assert _moved(model, before) == set()
    assert not learner.forecaster.get_parameter("model.trend_head.bias").any()
