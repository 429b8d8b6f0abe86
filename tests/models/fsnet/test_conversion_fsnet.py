import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_tsdyn.models.fsnet import FSNetConfig, FSNetForPrediction
from hf_tsdyn.models.fsnet.conversion_fsnet import (
    convert_reference,
    main,
    reference_settings,
    replay,
    to_reference,
)

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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": 600, "out": 600}, "found weights of 1 values for a model of 9"),
        ({"hidden": 2**20, "out": 2**20, "kernel_size": 2**20 + 1}, "must be at most 1048576|model of|can be built"),
        ({"depth": 10**9}, "num_hidden_layers .* at most 1024"),
        ({"C": 10**9, "input_dims": 10**9}, "num_channels .* at most 1048576"),
        ({"L": 2**14 + 1}, "L must be at most 16384 steps"),
        ({"memory_slots": 2**10}, "must hold 'encoder.input_fc.weight'"),
    ],
)
def test_a_configuration_beyond_the_weights_is_refused_before_anything_is_built(folder, monkeypatch, change, message):
    built = []
    inside = FSNetForPrediction.__init__

    def watched(model, config):
        inside(model, config)
        built.append(next(model.parameters()).device.type)

    monkeypatch.setattr(FSNetForPrediction, "__init__", watched)
    with pytest.raises(ValueError, match=message):
        convert_reference({"x": torch.zeros(1)}, read(folder)[1] | change)
    assert set(built) <= {"meta"}


@pytest.mark.parametrize(
    "change", [{"input_dims": "8"}, {"input_dims": None}, {"C": 1.0}, {"tau": "0.75"}, {"tau": None}]
)
def test_settings_that_are_no_numbers_are_named(folder, change):
    state, config = read(folder)
    with pytest.raises(ValueError, match=f"whole numbers, and tau a number, found .*{next(iter(change))}"):
        convert_reference(state, config | change)


def test_the_state_that_is_given_stays_as_it_was(folder):
    state, config = read(folder)
    before = {name: value.clone() for name, value in state.items()}
    inputs = load_file(folder / "inputs.safetensors")
    replay(convert_reference(state, config), {name: each[:3] for name, each in inputs.items()}, learning_rate=1e-2)
    assert state.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in state.items())


def test_conversion_has_an_inverse(folder):
    state, config = read(folder)
    model = convert_reference(state, config)
    back = to_reference(model)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], value) for name, value in state.items())
    settings = reference_settings(model)
    assert settings == {name: config[name] for name in settings}


def test_one_value_a_step_and_one_channel_convert():
    config = FSNetConfig(
        num_channels=1, prediction_length=1, context_length=8, hidden_size=2, num_hidden_layers=0, representation_size=4
    )
    model = FSNetForPrediction(config)
    again = convert_reference(to_reference(model), reference_settings(model))
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())


def test_a_network_that_the_reference_does_not_have_has_no_way_back():
    with pytest.raises(
        ValueError, match=r"found {'memory': 'fixed'}, of which the reference has {'memory': 'published'}"
    ):
        to_reference(FSNetForPrediction(FSNetConfig.from_preset("fixed", num_hidden_layers=1)))


def run_command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["conversion", *map(str, arguments)])
    main()


def test_the_command_writes_a_checkpoint_and_repeats_the_record(folder, tmp_path, monkeypatch, capsys):
    run_command(monkeypatch, folder, tmp_path)
    said = capsys.readouterr().out
    assert "passed: forecasts of 60 online steps: largest difference" in said
    assert "passed: triggers of those steps that differ: bit-equal" in said
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
def test_the_command_fails_where_the_record_is_another(copied, tmp_path, monkeypatch, wrong):
    outputs = load_file(copied / "outputs.safetensors")
    outputs[wrong][5] = outputs[wrong][5] + 1
    save_file(outputs, copied / "outputs.safetensors")
    failed = {"predictions": "forecasts of 12 online", "triggers_after_step": "triggers of those"}[wrong]
    with pytest.raises(SystemExit, match=rf"checks that failed: \['{failed}[^']*'\]"):
        run_command(monkeypatch, copied, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_without_a_record_the_command_converts_alone(copied, tmp_path, monkeypatch, capsys):
    (copied / "outputs.safetensors").unlink()
    run_command(monkeypatch, copied, tmp_path / "model")
    assert "no inputs.safetensors and outputs.safetensors in SOURCE: not compared" in capsys.readouterr().out
    assert FSNetForPrediction.from_pretrained(tmp_path / "model").config.hidden_size == 8


def test_a_network_that_has_learned_goes_back_without_its_online_state(copied, tmp_path, monkeypatch, capsys):
    model = convert_reference(*read(copied))
    replay(model, load_file(copied / "inputs.safetensors"), learning_rate=1e-3)
    model.save_pretrained(tmp_path / "learned")
    run_command(monkeypatch, tmp_path / "learned", tmp_path / "reference", "--inverse")
    said = capsys.readouterr().out
    assert "left out: averages of gradients, triggers and queries: the reference keeps them beside its state" in said
    back = load_file(tmp_path / "reference" / "reference_state.safetensors")
    assert torch.equal(back["regressor.weight"], model.head.weight)
