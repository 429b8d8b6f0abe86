from functools import partial
from typing import Any

import pytest
import torch

from hf_tsdyn.models.fsnet import FSNetConfig, FSNetForPrediction
from hf_tsdyn.models.fsnet.memory import likeness, likeness_gradient
from hf_tsdyn.models.fsnet.presets import PRESETS

SIZES = {
    "num_channels": 2,
    "context_length": 12,
    "prediction_length": 4,
    "hidden_size": 4,
    "num_hidden_layers": 3,
    "representation_size": 8,
    "controller_size": 5,
    "num_memory_slots": 6,
}
MEMORIES = ("published", "fixed", "advanced", "ultra")


def build(preset: str = "published", *, scatter: float = 0.2, **fields: Any) -> Any:
    """A model in eval mode, away from its start."""
    torch.manual_seed(0)
    model = FSNetForPrediction(FSNetConfig.from_preset(preset, **SIZES | fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += scatter * torch.randn_like(parameter)
    return model


def learn(model, num_steps=4, *, seed=1, online=True):
    """Let a model learn windows of noise whose targets turn around."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(num_steps):
        past = torch.randn(1, 12, 2, generator=generator)
        future = torch.randn(1, 4, 2, generator=generator) + 3 * (-1) ** (step // 2)
        with model.learning():
            loss = model(past, future_values=future).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.after_optimizer_step(online=online)
    return model


def ask_memory(model, asked=True):
    """Let the next learning forward ask the memory of every layer, or of none."""
    for each in model.averages:
        each.trigger.fill_(asked)
    return model


def buffers(model):
    return {name: value.clone() for name, value in model.named_buffers()}


def changed(model, before):
    """Last words of the names of the buffers that are not as before."""
    return {name.rsplit(".", 1)[1] for name, value in model.named_buffers() if not torch.equal(value, before[name])}


@pytest.fixture
def past(generator):
    return torch.randn(3, 12, 2, generator=generator).cumsum(dim=1)


@pytest.mark.parametrize(
    ("preset", "parameters", "slots"),
    [("tcn", 641_548, 0), ("nomem", 1_019_266, 0), ("published", 1_019_266, 282_624), ("fixed", 1_019_266, 282_624)],
)
def test_the_published_sizes(preset, parameters, slots):
    config = FSNetConfig.from_preset(preset, num_time_features=7)
    with torch.device("meta"):
        model = FSNetForPrediction(config)
    assert model.num_parameters() == parameters
    assert sum(value.numel() for name, value in model.named_buffers() if name.endswith("slots")) == slots


@pytest.mark.parametrize("preset", PRESETS)
def test_only_learning_forwards_move_the_state(preset, past):
    model = ask_memory(learn(build(preset)))
    before = buffers(model)
    model(past, future_values=past[:, :4]).loss.backward()
    model.forecast(past, prediction_length=9)
    assert changed(model, before) == set()
    with model.learning():
        model(past)
    expected = {"query", "slots", "trigger"} if preset in MEMORIES else set()
    assert changed(model, before) == expected
    before = buffers(model)
    model(past)
    assert changed(model, before) == set()
    model.train()(past)
    assert changed(model, before) == ({"query"} if preset in MEMORIES else set())


@pytest.mark.parametrize("online", [False, True])
def test_only_optimizer_steps_move_averages_and_only_online_ones_set_triggers(online, past):
    model = ask_memory(learn(build(trigger_threshold=1.0)), False)
    before = buffers(model)
    model.after_optimizer_step(online=online)
    assert changed(model, before) == {"slow", "fast", "num_steps"} | ({"trigger"} if online else set())
    assert all(bool(each.trigger.all()) == online for each in model.averages)


def test_without_gradients_averages_stay(past):
    model = build()
    for bank in model.banks:
        bank.weight.requires_grad_(False)
    before = buffers(model)
    model(past, future_values=past[:, :4]).loss.backward()
    model.after_optimizer_step(online=True)
    assert changed(model, before) == set()


def test_the_first_learning_forward_begins_the_average_of_queries_at_zero(past):
    model = learn(build(), 1)
    calibrations = [bank.calibration for bank in model.banks]
    assert all(bool(each.has_query) and not each.query.any() for each in calibrations)
    learn(model, 1)
    assert all(each.query.any() for each in calibrations)


def test_learning_drops_nothing_out_as_training_does(past):
    model = learn(build("advanced", head_dropout=0.5, controller_dropout=0.5, trigger_threshold=-1.0))
    expected = model(past).prediction_outputs
    with model.learning():
        assert torch.equal(model(past).prediction_outputs, expected)
    torch.manual_seed(0)
    drawn = [model.train()(past).prediction_outputs for _ in range(2)]
    assert not torch.equal(*drawn)
    backbone = [model.model(past).last_hidden_state for _ in range(2)]
    assert not torch.equal(*backbone)  # of the controllers


def test_learning_ends_with_its_context_even_by_an_error(past):
    model = learn(build())
    with pytest.raises(ValueError, match="batch, time, 2"), model.learning():
        model(past[..., :1])
    before = buffers(model)
    model(past)
    assert changed(model, before) == set()
    with model.learning(), model.learning():
        pass
    with model.learning():
        with model.learning():
            pass
        model(past)
    assert changed(model, before) == {"query"}


def test_a_new_model_starts_as_the_equations_say():
    model = build("ultra", scatter=0.0, adaptive_trigger=False)
    for bank in model.banks:
        calibration, memory = bank.calibration, bank.calibration.memory
        assert not bank.bias.any()
        assert (calibration.controller.gate.bias == -1).all()
        assert not calibration.fusion_weight.any()
        share = calibration.fusion_bias.sigmoid()  # of a layer's own calibration
        torch.testing.assert_close(share, torch.full_like(share, 0.75))
        assert not memory.temperature_weight.any()  # halfway between 0.3 and 0.7
        assert not memory.temperature_bias.any()
        assert (calibration.averages.threshold == -0.75).all()
        assert not any(
            value.any() for name, value in calibration.named_buffers() if not name.endswith(("slots", "threshold"))
        )


@pytest.mark.parametrize("preset", MEMORIES)
@pytest.mark.parametrize("normalization", ["memory", "slot"])
def test_the_norm_of_the_memory_stays_bounded(preset, normalization):
    model = build(preset, slot_normalization=normalization, trigger_threshold=1.0, memory_write="query")
    for calibration in (bank.calibration for bank in model.banks):
        calibration.heads.bias.data.mul_(50)  # queries that are far longer than slots
    dims = (1, 2) if normalization == "memory" else 1
    start = [bank.calibration.memory.slots.clone() for bank in model.banks]
    for each in start:
        norms = torch.linalg.vector_norm(each, dim=dims)
        torch.testing.assert_close(norms, torch.ones_like(norms))
    learn(model, 6)
    for bank, before in zip(model.banks, start, strict=True):
        slots = bank.calibration.memory.slots
        assert not torch.equal(slots, before)
        assert torch.linalg.vector_norm(slots, dim=dims).max() <= 1 + 1e-5


def test_the_penalty_on_likeness_has_its_gradient_and_drives_slots_apart(generator):
    slots = (1 + torch.randn(3, 7, 5, generator=generator)).double().requires_grad_()
    expected = torch.autograd.grad(likeness(slots).sum(), slots)[0]
    found = likeness_gradient(slots.detach())
    torch.testing.assert_close(found, expected)
    assert (likeness(slots.detach() - 0.1 * found) < likeness(slots)).all()
    same = torch.ones(1, 7, 5, dtype=torch.float64)
    torch.testing.assert_close(likeness(same), torch.ones(1, dtype=torch.float64))
    torch.testing.assert_close(likeness(torch.eye(4)[None]), torch.zeros(1))


@pytest.mark.parametrize("preset", ["nomem", "published", "advanced", "ultra"])
def test_a_start_at_the_identity_is_the_plain_network(preset, past):
    model = build(preset, scatter=0.0, identity_start=True)
    for bank in model.banks:
        for scales in bank.calibration(learning=False):
            torch.testing.assert_close(scales, torch.ones_like(scales))
    plain = build("tcn", scatter=0.0)
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if "calibration" not in name})
    torch.testing.assert_close(plain(past).prediction_outputs, model(past).prediction_outputs)
    usual = build(preset, scatter=0.0)
    assert (usual(past).prediction_outputs - model(past).prediction_outputs).abs().max() > 1e-3


@pytest.mark.parametrize("preset", MEMORIES)
def test_memory_can_be_switched_off_at_load(preset, past, tmp_path):
    model = learn(build(preset, trigger_threshold=1.0))
    model.save_pretrained(tmp_path)
    found = FSNetForPrediction.from_pretrained(tmp_path, memory="none")
    names = {name for name, _ in found.named_buffers()} | {name for name, _ in found.named_parameters()}
    assert not any("memory" in name or "query" in name or "fusion" in name for name in names)
    ask_memory(model, False)
    assert torch.equal(found(past).prediction_outputs, model(past).prediction_outputs)
    learn(found, 2)


def test_time_features_count_and_are_needed(generator, past):
    model = build(num_time_features=3)
    features = torch.randn(3, 12, 3, generator=generator)
    found = model.forecast(past, prediction_length=4, past_time_features=features)
    assert torch.equal(found, model(past, past_time_features=features).prediction_outputs)
    assert not torch.equal(found, model.forecast(past, prediction_length=4, past_time_features=features + 1))
    for wrong in (None, features[..., :2], features[:, :11], features[:2]):
        for call in (model, partial(model.forecast, prediction_length=4)):
            with pytest.raises(ValueError, match=r"past_time_features must have shape \(3, 12, 3\)"):
                call(past, past_time_features=wrong)
    with pytest.raises(ValueError, match=r"at most 4 for a model with time features, found 5"):
        model.forecast(past, prediction_length=5, past_time_features=features)
    with pytest.raises(ValueError, match=r"past_time_features must have shape \(3, 12, 0\)"):
        build()(past, past_time_features=features)


def test_of_long_contexts_the_end_counts_with_its_time_features(generator):
    model = build(num_time_features=3)
    values, features = torch.randn(2, 20, 2, generator=generator), torch.randn(2, 20, 3, generator=generator)
    whole = model.forecast(values, prediction_length=3, past_time_features=features)
    end = model.forecast(values[:, 8:], prediction_length=3, past_time_features=features[:, 8:])
    assert torch.equal(whole, end)


def test_before_short_contexts_the_first_step_stands(generator):
    model = build(num_time_features=3)
    values, features = torch.randn(2, 5, 2, generator=generator), torch.randn(2, 5, 3, generator=generator)
    found = model(values, past_time_features=features).prediction_outputs
    padded = [torch.cat([each[:, :1].expand(-1, 7, -1), each], dim=1) for each in (values, features)]
    torch.testing.assert_close(found, model(padded[0], past_time_features=padded[1]).prediction_outputs)


def test_forecasts_of_changes_shift_with_the_series(past):
    for anchor in ("none", "last"):
        model = build(anchor=anchor, channel_loc=[1.0, -2.0], channel_scale=[2.0, 0.5])
        difference = model(past + 8.0).prediction_outputs - model(past).prediction_outputs
        assert ((difference - 8.0).abs().max() < 1e-4) == (anchor == "last")
    found = model(past)
    torch.testing.assert_close(found.loc, past[:, -1:])
    head = model.head
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    torch.testing.assert_close(model(past).prediction_outputs, past[:, -1:].expand(-1, 4, -1))


@pytest.mark.parametrize("anchor", ["none", "last"])
def test_the_loss_is_the_squared_error_in_the_series_scale(anchor, past, generator):
    model = build(anchor=anchor, channel_loc=[1.0, -2.0], channel_scale=[2.0, 0.5])
    future, seen = torch.randn(3, 4, 2, generator=generator), torch.rand(3, 4, 2, generator=generator) > 0.4
    found = model(past, future_values=future, future_observed_mask=seen)
    errors = (found.prediction_outputs - future) / torch.tensor([2.0, 0.5])
    torch.testing.assert_close(found.loss, errors[seen].square().mean())


@pytest.mark.parametrize("preset", ["tcn", "ultra"])
def test_outputs_of_blocks_are_given_at_the_steps_that_count(preset, past):
    model = learn(build(preset))
    found, usual = model(past, output_hidden_states=True), model(past)
    assert [tuple(each.shape) for each in found.hidden_states] == [(3, n, 4) for n in (12, 12, 6, 3)]
    assert usual.hidden_states is None
    torch.testing.assert_close(found.prediction_outputs, usual.prediction_outputs)
    torch.testing.assert_close(found.hidden_states[0], model.model.input_projection(past))


@pytest.mark.parametrize("preset", ["tcn", "published", "ultra"])
def test_gradients_of_forecasts_are_those_of_finite_differences(preset, past):
    model, past = ask_memory(learn(build(preset))).double(), past.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: model(values).prediction_outputs, past, fast_mode=True)
