import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_tsdyn.models.fsnet import FSNetForPrediction
from hf_tsdyn.models.fsnet.conversion_fsnet import convert_reference, main, replay

LAYER = "encoder.feature_extractor.net.0.conv1"


@pytest.fixture
def folder(fixtures):
    """Folder of the recorded case."""
    return fixtures / "fsnet" / "original_online"


def read(folder):
    return load_file(folder / "reference_state.safetensors"), json.loads((folder / "case.json").read_text())


def test_settings_are_taken_over(folder):
    config = convert_reference(*read(folder)).config
    assert (config.num_channels, config.num_time_features, config.context_length, config.prediction_length) == (
        1, 7, 48, 12,
    )  # fmt: skip
    assert (config.hidden_size, config.num_hidden_layers, config.representation_size) == (8, 3, 16)
    assert (config.memory, config.trigger_threshold, config.slow_decay, config.fast_decay) == (
        "published", -0.75, 0.9, 0.3,
    )  # fmt: skip


def test_every_weight_arrives_where_it_belongs(folder):
    state, config = read(folder)
    model = convert_reference(state, config)
    assert not model.training
    assert model.num_parameters() == sum(value.numel() for name, value in state.items() if not name.endswith(".W"))
    for number, name in enumerate(config["layer_order"][:-2]):
        layer, bank = f"encoder.{name}", model.banks[0]
        assert torch.equal(bank.weight[number], state[f"{layer}.conv.weight"])
        assert torch.equal(bank.bias[number], state[f"{layer}.bias"].flatten())
        assert torch.equal(bank.calibration.memory.slots[number], state[f"{layer}.W"])
        heads = bank.calibration.heads.weight[number].split([3, 1, 1])
        for found, kind in zip(heads, "wbf", strict=True):
            assert torch.equal(found, state[f"{layer}.calib_{kind}.weight"])


def test_state_begins_where_the_references_does(folder):
    model = convert_reference(*read(folder))
    assert not any(value.any() for name, value in model.named_buffers() if not name.endswith(("slots", "threshold")))
    assert all((each.threshold == -0.75).all() for each in model.averages)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state, _: state.pop(f"{LAYER}.W"), rf"must hold '{LAYER}\.W', found none"),
        (lambda state, _: state.pop("regressor.bias"), r"must hold 'regressor\.bias', found none"),
        (lambda state, _: state.update(extra=torch.zeros(1)), r"left over \['extra'\]"),
        (lambda _, config: config.pop("hidden"), r"found no \['hidden'\]"),
        (lambda _, config: config.update(horizon=13), r"found {'head\.weight': \(12, 16\), 'head\.bias': \(12,\)}"),
        (lambda _, config: config.update(depth=2), r"must hold 'encoder\.feature_extractor\.net\.2\.projector"),
        (lambda _, config: config.update(depth=4), r"must hold 'encoder\.feature_extractor\.net\.4"),
    ],
)
def test_what_does_not_fit_is_named(folder, change, message):
    state, config = read(folder)
    change(state, config)
    with pytest.raises(ValueError, match=message):
        convert_reference(state, config)


def test_the_state_that_is_given_stays_as_it_was(folder):
    state, config = read(folder)
    before = {name: value.clone() for name, value in state.items()}
    inputs = load_file(folder / "inputs.safetensors")
    replay(convert_reference(state, config), {name: each[:3] for name, each in inputs.items()}, learning_rate=1e-2)
    assert state.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in state.items())


def run_command(monkeypatch, source, target):
    monkeypatch.setattr(sys, "argv", ["conversion", str(source), str(target)])
    main()


def test_the_command_writes_a_checkpoint_and_repeats_the_record(folder, tmp_path, monkeypatch, capsys):
    run_command(monkeypatch, folder, tmp_path)
    said = capsys.readouterr().out
    assert "reloaded, 60 online steps: largest difference" in said
    assert "same triggers: True" in said
    found = FSNetForPrediction.from_pretrained(tmp_path).state_dict()
    expected = convert_reference(*read(folder)).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.fixture
def copied(folder, tmp_path):
    """The recorded case where it may be changed; its first steps only."""
    target = shutil.copytree(folder, tmp_path / "case")
    for name in ("inputs", "outputs"):
        values = load_file(target / f"{name}.safetensors")
        kept = {"inputs": ("inputs", "targets"), "outputs": ("predictions", "triggers_after_step")}[name]
        save_file({each: values[each][:12].clone() for each in kept}, target / f"{name}.safetensors")
    return target


@pytest.mark.parametrize("wrong", ["predictions", "triggers_after_step"])
def test_the_command_fails_where_the_record_is_another(copied, tmp_path, monkeypatch, capsys, wrong):
    outputs = load_file(copied / "outputs.safetensors")
    outputs[wrong][5] = outputs[wrong][5] + 1
    save_file(outputs, copied / "outputs.safetensors")
    with pytest.raises(SystemExit) as stopped:
        run_command(monkeypatch, copied, tmp_path / "model")
    assert stopped.value.code == 1
    assert f"same triggers: {wrong == 'predictions'}" in capsys.readouterr().out


def test_without_a_record_the_command_converts_alone(copied, tmp_path, monkeypatch, capsys):
    (copied / "outputs.safetensors").unlink()
    run_command(monkeypatch, copied, tmp_path / "model")
    assert "reloaded" not in capsys.readouterr().out
    assert FSNetForPrediction.from_pretrained(tmp_path / "model").config.hidden_size == 8


@pytest.mark.parametrize("missing", ["case.json", "reference_state.safetensors"])
def test_the_command_names_a_missing_file(copied, tmp_path, monkeypatch, capsys, missing):
    (copied / missing).unlink()
    with pytest.raises(SystemExit):
        run_command(monkeypatch, copied, tmp_path / "model")
    assert f"SOURCE must hold {missing}, found none" in capsys.readouterr().err
