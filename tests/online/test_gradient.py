"""Learning by gradients, against plain loops over PyTorch."""

import numpy as np
import pytest
import torch

from hf_tsdyn.models import DystformerConfig, DystformerForPrediction
from hf_tsdyn.online.gradient import FrozenLearner, GradientLearner, GradientOptions
from hf_tsdyn.online.replay import Reservoir


def _optimizer(model, options):
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=options.weight_decay, fused=True)


def _step(loss, optimizer):
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def _windows(stream, *, warm_up, stop):
    """Context and targets of every window that is learnt by the end of row `stop`, in order, gaps and all."""
    values = torch.from_numpy(stream)
    return [(values[None, end - 8 : end], values[None, end : end + 3]) for end in range(warm_up, stop - 2)]


def _assert_equal_models(first, second):
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


@pytest.mark.parametrize("updates", [1, 3])
def test_gradient_descent_is_the_plain_loop_to_the_bit(run_learner, tiny_model, stream, updates):
    options = GradientOptions(learning_rate=1e-2, updates_per_step=updates)
    learner, model = GradientLearner(tiny_model(), options), tiny_model()
    optimizer = _optimizer(model, options)
    forecasts = run_learner(learner, stream, warm_up=20)
    for past, future in _windows(stream, warm_up=20, stop=50):
        for _ in range(updates):
            _step(model(past, future_values=future).loss, optimizer)
    _assert_equal_models(learner.forecaster, model)
    with torch.no_grad():
        last = model(torch.from_numpy(stream[None, -8:])).prediction_outputs[0]
    assert torch.equal(forecasts[-1], last)
    assert learner.statistics()["num_updates"] == updates * len(_windows(stream, warm_up=20, stop=50))


def test_the_gradient_is_cut_to_its_largest_norm(run_learner, tiny_model, stream):
    options = GradientOptions(learning_rate=1e-2, max_grad_norm=1e-3)
    learner, model = GradientLearner(tiny_model(), options), tiny_model()
    optimizer = _optimizer(model, options)
    run_learner(learner, stream, warm_up=20)
    for past, future in _windows(stream, warm_up=20, stop=50):
        model(past, future_values=future).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        optimizer.step()
        optimizer.zero_grad()
    _assert_equal_models(learner.forecaster, model)


@pytest.mark.parametrize("rehearsal", ["er", "der++"])
def test_rehearsal_adds_the_losses_of_windows_drawn_from_the_reservoir(run_learner, tiny_model, stream, rehearsal):
    options = GradientOptions(
        learning_rate=1e-2, rehearsal=rehearsal, buffer_size=10, num_replayed=4, replay_weight=0.3, seed=5
    )
    learner, model = GradientLearner(tiny_model(), options), tiny_model()
    optimizer, with_outputs = _optimizer(model, options), rehearsal == "der++"
    sizes = {"context_length": 8, "prediction_length": 3, "num_channels": 2, "num_time_features": 0}
    reservoir = Reservoir(10, **sizes, with_outputs=with_outputs, seed=5)
    run_learner(learner, stream, warm_up=20)
    for past, future in _windows(stream, warm_up=20, stop=50):
        output = model(past, future_values=future)
        loss = output.loss
        if len(reservoir):
            drawn = reservoir.sample(4)
            loss = loss + 0.3 * model(drawn.past_values, future_values=drawn.future_values).loss
            if with_outputs:
                loss = loss + 0.3 * model(drawn.past_values, future_values=drawn.outputs).loss
        _step(loss, optimizer)
        outputs = output.prediction_outputs.detach()[0].masked_fill(future[0].isnan(), torch.nan)
        reservoir.add(past_values=past[0], future_values=future[0], outputs=outputs)
    for name, tensor in learner.forecaster.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=1e-4, atol=1e-5)
    own = {name.removeprefix("own.reservoir."): each for name, each in learner.state_dict().items()}
    torch.testing.assert_close(own["past_values"], reservoir.state()["past_values"], equal_nan=True)
    assert torch.equal(own["generator"], reservoir.state()["generator"])


def test_partial_feedback_learns_at_each_step_the_targets_that_it_reveals(run_learner, tiny_model, stream):
    options = GradientOptions(learning_rate=1e-2, feedback="partial")
    learner, model = GradientLearner(tiny_model(), options), tiny_model()
    optimizer, values = _optimizer(model, options), torch.from_numpy(stream)
    run_learner(learner, stream, warm_up=20)
    for step in range(20, 50):
        if values[step].isnan().all():
            continue
        ends = range(max(20, step - 2), step + 1)
        past = torch.stack([values[end - 8 : end] for end in ends])
        future = torch.stack([values[end : end + 3] if end <= 47 else torch.zeros(3, 2) for end in ends])
        shown = torch.zeros_like(future, dtype=torch.bool)
        for row, end in enumerate(ends):
            shown[row, step - end] = True
        future[shown] = values[step].repeat(len(ends))
        _step(model(past, future_values=future, future_observed_mask=shown).loss, optimizer)
    _assert_equal_models(learner.forecaster, model)


def test_partial_feedback_starts_a_window_of_targets_earlier(run_learner, tiny_model, stream):
    complete = GradientLearner(tiny_model(), GradientOptions())
    partial = GradientLearner(tiny_model(), GradientOptions(feedback="partial", rehearsal="er"))
    for learner in (complete, partial):
        run_learner(learner, np.nan_to_num(stream), warm_up=20, stop=24)
    assert (complete.statistics()["num_updates"], partial.statistics()["num_updates"]) == (2, 4)
    # Only completed windows are remembered.
    assert partial.state_dict()["own.reservoir.num_added"] == 2


def test_only_the_chosen_parameters_learn(run_learner, tiny_model, stream):
    learner = GradientLearner(
        tiny_model(), GradientOptions(learning_rate=1e-2, trainable=("*head.bias", "model.norm_*"))
    )
    run_learner(learner, stream, warm_up=20)
    start = tiny_model().state_dict()
    moved = {name for name, each in learner.forecaster.state_dict().items() if not torch.equal(each, start[name])}
    assert moved == {"model.trend_head.bias", "model.norm_weight", "model.norm_bias"}


def test_a_pattern_that_fits_nothing_names_the_parts(tiny_model):
    with pytest.raises(ValueError, match=r"found 'head\.\*', which fits none; .* model\.trend_head\.weight"):
        GradientLearner(tiny_model(), GradientOptions(trainable=("model.norm_*", "head.*")))


def test_the_callers_model_stays_as_it_is(run_learner, tiny_model, stream):
    model = tiny_model().train()
    learner = GradientLearner(model, GradientOptions(learning_rate=1e-2, trainable=("model.norm_*",)))
    run_learner(learner, stream, warm_up=20)
    assert model.training
    assert not learner.forecaster.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    _assert_equal_models(model, tiny_model())


def test_a_rate_of_zero_leaves_the_parameters(run_learner, tiny_model, stream):
    learner = GradientLearner(tiny_model(), GradientOptions(learning_rate=0.0))
    frozen = FrozenLearner(tiny_model(), context_length=8, prediction_length=3, num_channels=2)
    torch.testing.assert_close(run_learner(learner, stream, warm_up=20), run_learner(frozen, stream, warm_up=20))
    _assert_equal_models(learner.forecaster, tiny_model())


def test_a_loss_beyond_the_range_of_numbers_is_not_learnt(run_learner, tiny_model, stream):
    learner, values = GradientLearner(tiny_model(), GradientOptions(rehearsal="er")), np.nan_to_num(stream)
    values[35] = 1e30
    run_learner(learner, values, warm_up=20, stop=50)
    # Row 35 is a target of three windows, and in the context of eight.
    assert learner.statistics()["num_rejected"] >= 3
    assert all(each.isfinite().all() for each in learner.forecaster.parameters())


def test_drift_of_the_revealed_loss_is_counted(run_learner, tiny_model):
    values = np.random.default_rng(0).normal(size=(250, 2)).astype(np.float32)
    values[150:] *= 10
    learner = GradientLearner(tiny_model(), GradientOptions())
    run_learner(learner, values, warm_up=20, stop=150)
    assert learner.statistics()["drift_alarms"] == 0
    for row in values[150:]:
        learner.learn_one(row)
    assert learner.statistics()["drift_alarms"] >= 1


def test_a_memory_moves_by_revealed_windows_alone(run_learner, tiny_fsnet, stream):
    options = GradientOptions(learning_rate=1e-2, rehearsal="er", replay_weight=0.0)
    learner, model = GradientLearner(tiny_fsnet(), options), tiny_fsnet()
    run_learner(learner, stream, warm_up=20)
    optimizer = _optimizer(model, options)
    for past, future in _windows(stream, warm_up=20, stop=50):
        with model.learning():
            loss = model(past, future_values=future).loss
        loss.backward()
        optimizer.step()
        model.after_optimizer_step(online=True)
        optimizer.zero_grad()
    _assert_equal_models(learner.forecaster, model)
    start = tiny_fsnet().state_dict()
    assert any("memory" in name and not torch.equal(each, start[name]) for name, each in model.state_dict().items())


def test_triggers_of_a_memory_are_counted(run_learner, tiny_fsnet, stream):
    learner = GradientLearner(tiny_fsnet(), GradientOptions())
    run_learner(learner, stream, warm_up=20)
    statistics = learner.statistics()
    assert learner.num_triggers.shape == (6,)
    assert 0.5 < statistics["trigger_rate"] <= 1
    assert statistics["trigger_rate"] == pytest.approx(
        float(learner.num_triggers.sum()) / 6 / statistics["num_updates"]
    )
    assert "trigger_rate" not in GradientLearner(tiny_fsnet(memory="none"), GradientOptions()).statistics()


def test_time_features_reach_the_model(tiny_fsnet, stream):
    values, hours = np.nan_to_num(stream), np.sin(np.arange(50, dtype=np.float32))[:, None]
    model = tiny_fsnet(num_time_features=1)
    found = []
    for features in (hours, hours * 0):
        for options in ({}, {"feedback": "partial"}, {"rehearsal": "der++"}):
            learner = GradientLearner(model, GradientOptions(**options))
            learner.warm_up(values[:20], features[:20])
            for step in range(20, 30):
                learner.learn_one(values[step], features[step])
            found.append(learner.forecast())
    assert not any(torch.equal(found[index], found[index + 3]) for index in range(3))


def test_a_forecaster_of_any_number_of_channels_is_told_the_number(run_learner, stream):
    sizes = {"d_model": 20, "num_attention_heads": 2, "ffn_dim": 8, "num_poly_feats": 1, "num_rff": 2}
    config = DystformerConfig(context_length=32, prediction_length=8, num_hidden_layers=1, **sizes)
    model = DystformerForPrediction(config)
    with pytest.raises(ValueError, match="num_channels must be the forecaster's, any number, found None"):
        GradientLearner(model)
    learner = GradientLearner(model, num_channels=2)
    assert run_learner(learner, stream, warm_up=35, stop=50).isfinite().all()
    assert learner.statistics()["num_updates"] == 8


def test_another_number_of_channels_is_refused(tiny_model):
    with pytest.raises(ValueError, match="num_channels must be the forecaster's, 2, found 3"):
        GradientLearner(tiny_model(), num_channels=3)


def test_partial_feedback_is_refused_where_everything_is_revealed(tiny_model):
    with pytest.raises(ValueError, match='found "partial"'):
        GradientLearner(tiny_model(), GradientOptions(feedback="partial"), "immediate")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": -1.0}, "learning_rate must be finite and at least 0, found -1.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be finite"),
        ({"rehearsal": "der"}, "rehearsal must be one of .* found 'der'"),
        ({"feedback": "half"}, "feedback must be one of .* found 'half'"),
        ({"num_replayed": 0}, "num_replayed must be at least 1, found 0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be above 0, found 0.0"),
        ({"trainable": "head.*"}, "trainable must hold patterns, found 'head"),
        ({"trainable": ()}, "trainable must hold patterns"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GradientOptions(**options)
