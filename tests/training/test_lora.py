import json
import re
import sys

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from hf_tsdyn import DystformerConfig, DystformerForPrediction
from training.lora import LoraOptions, add_adapter, merge_adapter
from training.train import main


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = DystformerConfig(
        context_length=32, prediction_length=8, patch_length=8, d_model=16, num_hidden_layers=2, num_attention_heads=2,
        ffn_dim=24, embedding="linear",
    )  # fmt: skip
    return DystformerForPrediction(config)


@pytest.fixture
def lora_options(run_options, start_options, tmp_path):
    """Options of a run that adapts a checkpoint, which is trained first."""

    def options(*more, output="adapted"):
        main(run_options(output="start"))
        start = ("--checkpoint", str(tmp_path / "start"), "--lora.rank", "4", "--lora.dropout", "0.1")
        return start_options(*start, "--training.learning_rate", "1e-2", *more, output=output)

    return options


def trainable(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_every_linear_map_of_the_layers_is_adapted_and_the_head_trained(model, generator):
    past_values = torch.randn(2, 32, 3, generator=generator)
    before = model.forecast(past_values, prediction_length=20)
    maps = [f"{kind}_attention.{name}_proj" for kind in ("temporal", "channel") for name in ("q", "k", "v", "out")]
    maps += ["feed_forward.0", "feed_forward.3"]
    adapted = add_adapter(model, LoraOptions(rank=3))
    prefix = "base_model.model."
    assert trainable(adapted) == {
        f"{prefix}model.layers.{layer}.{name}.lora_{side}.default.weight"
        for layer in range(2) for name in maps for side in "AB"
    } | {f"{prefix}head.modules_to_save.default.projection.weight"}  # fmt: skip
    assert torch.equal(model.forecast(past_values, prediction_length=20), before)


def test_named_maps_alone_are_adapted(model):
    adapted = add_adapter(model, LoraOptions(target_modules=("q_proj", "feed_forward.3"), train_head=False))
    found = {name.split(".lora_")[0].split(".layers.")[1] for name in trainable(adapted)}
    parts = ("temporal_attention.q_proj", "channel_attention.q_proj", "feed_forward.3")
    assert found == {f"{layer}.{part}" for layer in range(2) for part in parts}


def test_a_name_of_no_linear_map_is_refused(model):
    with pytest.raises(ValueError, match=r"must end names of linear maps, found \['proj'\]"):
        add_adapter(model, LoraOptions(target_modules=("q_proj", "proj")))


def test_the_merged_model_forecasts_as_the_adapted_one(model, generator):
    adapted = add_adapter(model, LoraOptions(alpha=24))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if name in trainable(adapted):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    past_values = torch.randn(4, 32, 3, generator=generator)
    before = model.forecast(past_values, prediction_length=8)
    merged = merge_adapter(adapted)
    assert type(merged) is DystformerForPrediction
    assert all(parameter.requires_grad for parameter in merged.parameters())
    torch.testing.assert_close(merged.forecast(past_values, prediction_length=8), before, rtol=1e-5, atol=1e-5)


# peft asks transformers for a property under its old name.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_a_run_leaves_the_merged_model_and_the_adapter(lora_options, tmp_path):
    main(lora_options())
    adapted = tmp_path / "adapted"
    assert not (adapted / "adapter_config.json").exists()
    assert not (adapted / "adapter" / "README.md").exists()
    before, after = load_file(tmp_path / "start" / "model.safetensors"), load_file(adapted / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    layers = {
        name for name in after if ".layers." in name and name.endswith(("_proj.weight", "ward.0.weight", "3.weight"))
    }
    assert changed == layers | {"head.projection.weight"}
    summary = json.loads((adapted / "training_summary.json").read_text())
    assert summary["num_parameters"] == sum(value.numel() for value in after.values())
    adapter = load_file(adapted / "adapter" / "adapter_model.safetensors")
    assert summary["num_trainable_parameters"] == sum(value.numel() for value in adapter.values())
    start = DystformerForPrediction.from_pretrained(tmp_path / "start")
    unmerged = PeftModel.from_pretrained(start, adapted / "adapter").get_base_model()
    probe = load_file(adapted / "probe.safetensors")
    forecast = unmerged.forecast(probe["past_values"], prediction_length=40)
    torch.testing.assert_close(forecast, probe["forecast"], rtol=1e-5, atol=1e-5)


def test_a_stopped_run_resumes_to_the_same_weights(lora_options, stop_halfway, assert_equal_weights, tmp_path):
    main(lora_options(output="whole"))
    main(lora_options(output="stopped"))
    stop_halfway(tmp_path / "stopped")
    main(lora_options(output="stopped"))
    assert_equal_weights(tmp_path / "whole", tmp_path / "stopped")


def test_without_peft_the_way_to_install_it_is_named(lora_options, monkeypatch, capsys):
    options = lora_options()
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(SystemExit):
        main(options)
    assert "pip install 'hf_tsdyn[lora]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lora.rank", "0", "--checkpoint", "acme/toy"], "rank of at least 1"),
        (["--lora.dropout", "1.0", "--checkpoint", "acme/toy"], r"dropout in \[0, 1\), found .*dropout=1\.0"),
        (["--lora.rank", "4"], "lora must have a checkpoint to adapt, found none"),
    ],
)
def test_impossible_options_are_refused(start_options, capsys, options, message):
    with pytest.raises(SystemExit):
        main(start_options(*options))
    error = capsys.readouterr().err
    assert re.search(message, error), error


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_weights_of_an_uninterrupted_one(
    lora_options, train_with_a_kill, assert_equal_weights, tmp_path
):
    more = ("--training.max_steps", "120")
    main(lora_options(*more, output="whole"))
    train_with_a_kill(lora_options(*more, output="killed"), tmp_path / "killed")
    assert_equal_weights(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
def test_two_processes_train_one_adapter(lora_options, train_in_two_processes, tmp_path):
    train_in_two_processes(lora_options(), port=29541)
    summary = json.loads((tmp_path / "adapted" / "training_summary.json").read_text())
    assert summary["windows_seen"] == 8 * 2 * 2
    assert DystformerForPrediction.from_pretrained(tmp_path / "adapted").num_parameters() == summary["num_parameters"]
