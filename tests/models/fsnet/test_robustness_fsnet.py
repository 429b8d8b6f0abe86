"""What the family withstands: mixed precision, gradients that are no numbers, fields changed at load, bad contexts."""

from typing import Any

import pytest
import torch

from hf_tsdyn.models.fsnet import FSNetConfig, FSNetForPrediction, averages
from hf_tsdyn.models.fsnet.presets import PRESETS

SIZES = {
    "num_channels": 2,
    "context_length": 12,
    "prediction_length": 4,
    "hidden_size": 4,
    "num_hidden_layers": 3,
    "representation_size": 8,
    "controller_size": 5,
    "num_memory_slots": 8,
}
MEMORIES = [name for name, fields in PRESETS.items() if fields["memory"] != "none"]


def build(preset: str = "published", **fields: Any) -> Any:
    """A model in eval mode."""
    torch.manual_seed(0)
    return FSNetForPrediction(FSNetConfig.from_preset(preset, **SIZES | fields)).eval()


def backward(model: Any, seed: int = 0) -> torch.Tensor:
    """Leave gradients of a learning forward, and return its loss."""
    generator = torch.Generator().manual_seed(seed)
    past, future = torch.randn(2, 16, 2, generator=generator).split([12, 4], dim=1)
    with model.learning():
        loss = model(past, future_values=future).loss
    model.zero_grad()
    loss.backward()
    return loss.detach()


def buffers(module: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.named_buffers()}


def moved(module: Any, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in module.named_buffers() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("preset", PRESETS)
def test_mixed_precision_learns_and_asks_memory_in_the_states_own(preset):
    model, precise = build(preset, trigger_threshold=1.0), build(preset, trigger_threshold=1.0)
    for seed in range(4):
        expected = backward(precise, seed)
        with torch.autocast("cpu", torch.bfloat16):
            found = backward(model, seed)
        torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.02)
        for each in (model, precise):
            each.after_optimizer_step(online=True)
    for each in model.averages:
        each.trigger.fill_(True)
    before = buffers(model)
    with torch.autocast("cpu", torch.bfloat16):
        backward(model)
    asked = {name.rsplit(".", 1)[1] for name in moved(model, before)}
    assert asked == ({"query", "slots", "trigger"} if preset in MEMORIES else set())
    assert all(value.isfinite().all() for value in model.buffers())
    assert {value.dtype for name, value in model.named_buffers() if name.endswith(("slow", "slots"))} <= {torch.float32}


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("preset", ["nomem", "ultra"])
def test_a_gradient_that_is_no_number_moves_no_average_of_its_bank(preset, bad, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(averages, "is_compiled_for", lambda values: False)
    model = build(preset)
    for seed in range(2):
        backward(model, seed)
        model.after_optimizer_step(online=True)
    model.banks[0].weight.grad[1, 2, 0, 1] = bad
    kept, others = ([buffers(each) for each in group] for group in (model.averages[:1], model.averages[1:]))
    model.after_optimizer_step(online=True)
    assert moved(model.averages[0], kept[0]) == set()
    for each, before in zip(model.averages[1:], others, strict=True):
        assert {"slow", "fast", "num_steps"} <= moved(each, before)
    backward(model)
    model.after_optimizer_step(online=True)
    assert {"slow", "fast", "num_steps"} <= moved(model.averages[0], kept[0])
    assert all(value.isfinite().all() for value in model.buffers())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_in_half_precision_a_fibre_of_zeros_stays_one(dtype):
    model = build("ultra")
    backward(model)
    model.banks[0].weight.grad[:, 1] = 0
    found = model.averages[0].to(dtype)
    found.update(model.banks[0].weight.grad.to(dtype), online=True)
    assert not found.slow[:, 1].any()
    assert found.slow[:, 0].any()
    assert found.slow.isfinite().all()


@pytest.mark.parametrize("adaptive", [False, True])
def test_another_threshold_at_load_counts_unless_each_layer_has_its_own(adaptive, tmp_path):
    build(adaptive_trigger=adaptive, trigger_threshold=-0.9).save_pretrained(tmp_path)
    model = FSNetForPrediction.from_pretrained(tmp_path, trigger_threshold=1.0)
    for seed in range(2):
        backward(model, seed)
        model.after_optimizer_step(online=True)
    assert all(bool(each.trigger.any()) != adaptive for each in model.averages)


@pytest.mark.parametrize(("saved", "asked"), [("memory", "slot"), ("slot", "memory")])
def test_another_norm_of_the_memory_at_load_is_the_one_it_has(saved, asked, tmp_path):
    model = build("fixed", slot_normalization=saved)
    for bank in model.banks:
        bank.calibration.memory.slots.mul_(0.9)  # as written ones are shorter
    model.save_pretrained(tmp_path)
    same, other = (FSNetForPrediction.from_pretrained(tmp_path, slot_normalization=each) for each in (saved, asked))
    for bank, kept, changed in zip(model.banks, same.banks, other.banks, strict=True):
        assert torch.equal(bank.calibration.memory.slots, kept.calibration.memory.slots)
        norms = torch.linalg.vector_norm(changed.calibration.memory.slots, dim=1 if asked == "slot" else (1, 2))
        torch.testing.assert_close(norms, torch.ones_like(norms))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("asked", [False, True])
def test_what_a_learning_forward_moves_is_known_before(preset, asked):
    model = build(preset)
    backward(model)  # begins the averages of queries
    for each in model.averages:
        each.trigger.fill_(asked)
    before, kept = buffers(model), [(each, each.clone()) for each in model.moved_by_learning]
    backward(model)
    assert bool(moved(model, before)) == (preset in MEMORIES)
    for buffer, value in kept:
        buffer.copy_(value)
    assert moved(model, before) == set()
    num_slots = sum(buffer.dim() == 3 for buffer, _ in kept)
    assert num_slots == (3 if asked and preset in MEMORIES else 0)


def test_contexts_that_cannot_be_read_are_refused():
    model, past = build(num_time_features=1), torch.randn(2, 16, 2)
    features = torch.zeros(2, 16, 1)
    features[1, 3] = torch.nan
    with pytest.raises(ValueError, match="past_time_features must be finite, found 1 numbers"):
        model.forecast(past, prediction_length=2, past_time_features=features)
    past[0, 5] = torch.inf
    with pytest.raises(ValueError, match="seen past_values must be finite"):
        model.forecast(past, prediction_length=2, past_time_features=features)
    past[0, 4:] = torch.nan
    for each in (model, build()):
        known = {"past_time_features": features * 0} if each is model else {}
        with pytest.raises(ValueError, match=r"last 12 steps of past_values .* found none at batch index \[0\]"):
            each.forecast(past, prediction_length=2, **known)


def test_a_model_without_data_says_what_no_loss_reaches_at_its_beginning():
    with torch.device("meta"):
        model = FSNetForPrediction(FSNetConfig.from_preset("ultra", **SIZES))
    assert model.without_gradient == build("ultra").without_gradient != set()
