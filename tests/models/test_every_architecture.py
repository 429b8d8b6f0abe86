"""What every architecture promises, each tested by the same body."""

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForTimeSeriesPrediction

from hf_tsdyn.models import ARCHITECTURES


def architectures(condition):
    """Run a test on the architectures whose forecasting class meets the condition."""
    names = [name for name, head in ARCHITECTURES.items() if condition(head)]
    return pytest.mark.parametrize("model", names, indirect=True)


def knows_its_channels(head):
    return hasattr(head.config_class, "num_channels")


def test_a_name_is_one_string_everywhere(model):
    name = model.config.model_type
    assert type(model.config).__name__.lower() == f"{name}config"
    assert type(model).__module__ == f"hf_tsdyn.models.{name}.modeling_{name}"
    assert model.main_input_name == "past_values"
    assert model.accepts_loss_kwargs is False
    assert hasattr(model, model.base_model_prefix)
    assert ARCHITECTURES[name] is type(model)


def test_auto_classes_know_the_architecture(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is type(model.config)
    assert type(AutoModelForTimeSeriesPrediction.from_pretrained(tmp_path)) is type(model)
    backbone = AutoModel.from_pretrained(tmp_path)
    assert type(backbone) is type(getattr(model, model.base_model_prefix))


def test_output_shapes_and_units(model, windows, in_other_units):
    output = model(**windows)
    assert output.loss.shape == ()
    assert output.prediction_outputs.shape == windows["future_values"].shape
    assert output.loc.shape == output.scale.shape == (3, 1, 3)
    shifted = in_other_units(model, 1e3, 5e3)(1e3 * windows["past_values"] + 5e3)
    torch.testing.assert_close(
        (shifted.prediction_outputs - 5e3) / 1e3, output.prediction_outputs, atol=1e-3, rtol=1e-3
    )


@architectures(lambda head: not knows_its_channels(head))
@pytest.mark.parametrize(("batch", "channels"), [(1, 1), (2, 7), (5, 2)])
def test_any_batch_and_channel_number(model, generator, batch, channels):
    values = torch.randn(batch, model.config.context_length, channels, generator=generator)
    assert model.forecast(values, prediction_length=3).shape == (batch, 3, channels)


@architectures(knows_its_channels)
def test_other_channels_than_its_own_are_refused(model):
    for call in (model, lambda values: model.forecast(values, prediction_length=3)):
        with pytest.raises(ValueError, match=r"\(batch, time, 3\)"):
            call(torch.randn(2, model.config.context_length, 4))


def test_each_series_is_forecast_as_if_alone(model, windows):
    together = model(windows["past_values"]).prediction_outputs
    alone = torch.cat([model(row[None]).prediction_outputs for row in windows["past_values"]])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 8, 13, 24])
def test_exact_horizon_beyond_one_block(model, windows, steps):
    long = model.forecast(windows["past_values"], prediction_length=30)
    torch.testing.assert_close(model.forecast(windows["past_values"], prediction_length=steps), long[:, :steps])


def test_inputs_are_left_as_they_were(model, windows):
    before = copy.deepcopy(windows)
    model(**windows)
    model.forecast(windows["past_values"], prediction_length=10)
    assert all(torch.equal(windows[name], before[name]) for name in windows)


def test_gradients_reach_every_parameter(model, windows):
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():  # a layer that starts at zero hides those before it
        parameter.data += 0.01 * torch.randn(parameter.shape, generator=generator)
    model.train()
    model(**windows).loss.backward()
    stuck = {name for name, parameter in model.named_parameters() if not _has_gradient(parameter)}
    assert stuck == getattr(model, "without_gradient", set())


def _has_gradient(parameter):
    return not parameter.requires_grad or (parameter.grad is not None and parameter.grad.abs().sum() > 0)


@architectures(lambda head: head.supports_gradient_checkpointing)
def test_gradient_checkpointing_changes_no_gradient(model, windows):
    plain, checkpointed = model.train(), copy.deepcopy(model).train()
    checkpointed.activation_checkpointing_enable()
    for each in (plain, checkpointed):
        each(**windows).loss.backward()
    for (name, a), b in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, msg=name)


def test_a_few_steps_of_training_lower_the_loss(model, windows):
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = model(**windows).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_reload_is_bit_equal(model, windows, tmp_path):
    model.save_pretrained(tmp_path)
    reloaded = type(model).from_pretrained(tmp_path)
    state = model.state_dict()
    assert state.keys() == reloaded.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in reloaded.state_dict().items())
    forecasts = [each.forecast(windows["past_values"], prediction_length=20) for each in (model, reloaded)]
    assert torch.equal(*forecasts)
    assert {file.suffix for file in tmp_path.iterdir()} == {".json", ".safetensors"}


def test_a_model_built_on_the_meta_device_takes_the_weights(model, windows):
    with torch.device("meta"):
        empty = type(model)(copy.deepcopy(model.config))
    empty.load_state_dict(model.state_dict(), assign=True)
    empty.eval()
    assert torch.equal(
        empty.forecast(windows["past_values"], prediction_length=9),
        model.forecast(windows["past_values"], prediction_length=9),
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close_and_keeps_large_offsets(model, windows, in_other_units, dtype):
    past, model = windows["past_values"] + 1e5, in_other_units(model, 1, 1e5)
    full = model.forecast(past, prediction_length=8)
    half = copy.deepcopy(model).to(dtype).forecast(past, prediction_length=8)
    assert half.dtype == torch.float32
    spread = windows["past_values"].std()
    assert (half - full).abs().max() < 0.1 * spread


def test_missing_values_hide_what_stands_there(model, windows):
    past = windows["past_values"].clone()
    mask = torch.rand(past.shape, generator=torch.Generator().manual_seed(1)) > 0.3
    hidden = past.masked_fill(~mask, float("nan"))
    poisoned = past.masked_fill(~mask, 1e6)
    outputs = [model(hidden), model(poisoned, past_observed_mask=mask)]
    assert torch.equal(outputs[0].prediction_outputs, outputs[1].prediction_outputs)
    assert outputs[0].prediction_outputs.isfinite().all()
    assert not torch.allclose(outputs[0].prediction_outputs, model(past).prediction_outputs)


def test_unseen_targets_do_not_count(model, windows):
    future = windows["future_values"].clone()
    future[:, 3:] = float("nan")
    part = model(windows["past_values"], future_values=future).loss
    cut = model(windows["past_values"], future_values=windows["future_values"][:, :3]).loss
    torch.testing.assert_close(part, cut)


def test_one_seed_gives_one_model_and_one_forecast(model, windows):
    twins = []
    for _ in range(2):
        torch.manual_seed(7)
        twins.append(type(model)(copy.deepcopy(model.config)).eval())
    forecasts = [twin.forecast(windows["past_values"], prediction_length=9) for twin in twins]
    assert torch.equal(*forecasts)


@architectures(lambda head: head._supports_sdpa)
def test_attention_implementations_agree(model, windows):
    results = {}
    for name in ("eager", "sdpa"):
        each = copy.deepcopy(model)
        each.set_attn_implementation(name)
        results[name] = each(**windows)
    torch.testing.assert_close(results["eager"].prediction_outputs, results["sdpa"].prediction_outputs)


def test_hidden_states_come_on_request(model, windows):
    output = model(**windows, output_hidden_states=True)
    assert len(output.hidden_states) == model.config.num_hidden_layers + 1
    assert model(**windows).hidden_states is None


def test_a_context_too_short_is_refused(model):
    shortest = model.min_context_length
    channels = getattr(model.config, "num_channels", 2)
    model.forecast(torch.randn(1, shortest, channels), prediction_length=1)
    if shortest > 1:
        with pytest.raises(ValueError, match=f"at least {shortest} steps"):
            model.forecast(torch.randn(1, shortest - 1, channels), prediction_length=1)


def test_torch_compile_agrees(model, windows):
    compiled = torch.compile(model, backend="aot_eager", fullgraph=False)
    torch.testing.assert_close(compiled(**windows).loss, model(**windows).loss)
