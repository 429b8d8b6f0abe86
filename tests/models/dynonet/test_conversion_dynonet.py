import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_tsdyn.models.dynonet import DynoNetConfig, DynoNetForPrediction
from hf_tsdyn.models.dynonet.conversion_dynonet import (
    convert_reference,
    largest_differences,
    main,
    reference_settings,
    to_reference,
)

SHARED = Path(__file__).resolve().parents[3] / ".." / "shared" / "parity" / "dynonet"
CASES = ("short_worker_context", "three_channels_two_layers", "etth1_h96")


@pytest.fixture(params=CASES)
def case(request, fixtures):
    """Folder of one recorded case; the largest lies beside the checkout or not at all."""
    folder = fixtures / "dynonet" / request.param
    folder = folder if folder.is_dir() else SHARED / request.param
    if not folder.is_dir():
        pytest.skip("this record of the reference is not part of the project")
    return folder


@pytest.fixture
def small(fixtures):
    return fixtures / "dynonet" / "three_channels_two_layers"


def read(folder):
    return load_file(folder / "reference_state.safetensors"), json.loads((folder / "case.json").read_text())


def test_predictions_and_every_signal_are_the_references(case):
    model = convert_reference(*read(case))
    outputs = load_file(case / "outputs.safetensors")
    differences = largest_differences(model, load_file(case / "inputs.safetensors"), outputs)
    assert differences.keys() == outputs.keys()
    assert max(differences.values()) <= 1e-5


def test_the_published_network_has_the_published_size(case):
    state, config = read(case)
    unused = state["worker_net.workers.0.pos_embedding"].shape[1] - config["worker_context_length"]
    rows = config["num_channels"] * config["worker_hidden_size"] * unused
    assert convert_reference(state, config).num_parameters() == config["num_parameters"] - rows


def test_a_worker_that_is_never_frozen_stays_so(small):
    model = convert_reference(*read(small))
    assert (model.model.controller.training_signals["freeze_prob"].bias == -torch.inf).all()


def _flat_tables(state):
    return {name: value.flatten() for name, value in state.items() if name.endswith("pos_embedding")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state, _: state.pop("revin.affine_bias"), "must hold 'revin.affine_bias'"),
        (lambda state, _: state.update(extra=torch.zeros(1)), "left over"),
        (lambda _, config: config.pop("num_channels"), "found no"),
        (lambda _, config: config.update(prediction_length=25), "shapes of its configuration"),
        (lambda state, _: state.update(_flat_tables(state)), "shapes of its configuration"),
        (lambda _, config: config.update(num_channels=10**6), "model of 8.*; check that they belong together"),
        (lambda _, config: config.update(worker_hidden_size="8"), "'worker_hidden_size' expected int, got str"),
    ],
)
def test_what_does_not_fit_is_named(small, change, message):
    state, config = read(small)
    change(state, config)
    with pytest.raises(ValueError, match=message):
        convert_reference(state, config)


def test_conversion_has_an_inverse_but_for_the_positions_that_are_never_read(case):
    state, config = read(case)
    model = convert_reference(state, config)
    back = to_reference(model)
    assert back.keys() == state.keys()
    length = config["worker_context_length"]
    for name, value in back.items():
        if name.endswith("pos_embedding"):
            assert value.shape == state[name].shape
            assert torch.equal(value[:, :length], state[name][:, :length])
            assert not value[:, length:].any()
        else:
            assert torch.equal(value, state[name])
    again = convert_reference(back, reference_settings(model)).state_dict()
    assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())


def test_a_network_that_the_reference_does_not_have_has_no_way_back():
    model = DynoNetForPrediction(DynoNetConfig(gating="time_varying", trend_window=5))
    with pytest.raises(ValueError, match="'gating': 'time_varying', 'trend_window': 5"):
        to_reference(model)


def run_command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["conversion", *map(str, arguments)])
    main()


def test_the_command_writes_a_checkpoint_and_checks_it(small, tmp_path, monkeypatch, capsys):
    run_command(monkeypatch, small, tmp_path / "model")
    assert "passed: recorded prediction_outputs, relative: largest difference" in capsys.readouterr().out
    past_values = load_file(small / "inputs.safetensors")["past_values"]
    forecast = DynoNetForPrediction.from_pretrained(tmp_path / "model").forecast(past_values, prediction_length=24)
    expected = load_file(small / "outputs.safetensors")["prediction_outputs"]
    assert (forecast - expected).abs().max() <= 1e-5 * expected.abs().max()
    run_command(monkeypatch, tmp_path / "model", tmp_path / "reference", "--inverse")
    assert "passed: converted back, run on a probe: bit-equal" in capsys.readouterr().out


def test_the_command_leaves_nothing_behind_where_the_record_is_another(small, tmp_path, monkeypatch):
    source = shutil.copytree(small, tmp_path / "source")
    outputs = load_file(source / "outputs.safetensors")
    save_file(outputs | {"lr_scale": outputs["lr_scale"] + 1e-3}, source / "outputs.safetensors")
    with pytest.raises(SystemExit, match=r"checks that failed: \['recorded lr_scale, relative'\]"):
        run_command(monkeypatch, source, tmp_path / "model")
    assert [file.name for file in tmp_path.iterdir()] == ["source"]
