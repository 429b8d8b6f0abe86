"""Reference states become models with the reference's equations, and come back."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_tsdyn import ALRNNForPrediction
from hf_tsdyn.models.alrnn.conversion_alrnn import convert_reference, main, reference_settings, to_reference

RECORDED = Path(__file__).resolve().parents[4] / "shared" / "parity" / "alrnn" / "lorenz63_m20_p2"
UNITS, CHANNELS, RELU_UNITS = 7, 2, 3
CONFIG = {"hidden_size": UNITS, "num_relu_units": RELU_UNITS, "num_channels": CHANNELS, "forcing_interval": 5}


@pytest.fixture
def state(generator):
    def normal(*shape):
        return 0.3 * torch.randn(*shape, generator=generator)

    return {"A": normal(UNITS), "W": normal(UNITS, UNITS), "h": normal(UNITS), "B": normal(CHANNELS, UNITS)}


def test_a_forecast_follows_the_equations_of_the_reference(state, generator):
    model = convert_reference(state, CONFIG | {"state_space_divergence": 1.0})
    observed = torch.randn(3, CHANNELS, generator=generator)
    z = observed @ state["B"]
    z[:, :CHANNELS] = observed
    expected = []
    for _ in range(10):
        rectified = torch.cat([z[:, :-RELU_UNITS], z[:, -RELU_UNITS:].relu()], dim=1)
        z = state["A"] * z + rectified @ state["W"].T + state["h"]
        expected.append(z[:, :CHANNELS])
    forecast = model.forecast(observed[:, None], prediction_length=10)
    torch.testing.assert_close(forecast, torch.stack(expected, dim=1), rtol=1e-5, atol=1e-6)
    assert model.config.forcing_interval == 5
    assert not model.training


def test_conversion_has_an_inverse_but_for_the_columns_that_do_not_matter(state):
    back = to_reference(convert_reference(state, CONFIG))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in ("A", "W", "h"))
    assert torch.equal(back["B"][:, CHANNELS:], state["B"][:, CHANNELS:])
    assert (back["B"][:, :CHANNELS] == 0).all()
    again = convert_reference(back, CONFIG).state_dict()
    assert all(torch.equal(again[name], value) for name, value in convert_reference(state, CONFIG).state_dict().items())


def test_a_model_without_hidden_units_converts(state):
    part = {"A": state["A"][:2], "W": state["W"][:2, :2], "h": state["h"][:2], "B": state["B"][:, :2]}
    model = convert_reference(part, {"num_relu_units": 0})
    assert model.model.L.shape == (0, 2)
    assert to_reference(model)["B"].shape == (2, 2)


def test_a_double_precision_state_stays_one(state):
    state = {name: value.double() / 3 for name, value in state.items()}
    model = convert_reference(state, CONFIG)
    assert model.dtype == torch.float64
    assert torch.equal(to_reference(model)["W"], state["W"])


def test_the_scaling_of_a_model_goes_into_the_settings_and_comes_back(state):
    model = convert_reference(state, CONFIG)
    assert reference_settings(model) == CONFIG
    model.set_scaler([1.0, 0.0], [1.0, 2.0])
    settings = reference_settings(model)
    assert settings == CONFIG | {"channel_loc": [1.0, 0.0], "channel_scale": [1.0, 2.0]}
    assert convert_reference(to_reference(model), settings).config.channel_scale == [1.0, 2.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"B": None}, r"missing \['B'\] and left over \[\]"),
        ({"C": torch.ones(2)}, r"missing \[\] and left over \['C'\]"),
        ({"h": torch.ones(UNITS + 1)}, r"found B \(2, 7\) and \{'h': \(8,\)\}"),
        ({"W": torch.ones(UNITS, CHANNELS)}, r"\{'W': \(7, 2\)\}"),
        ({"B": torch.ones(UNITS)}, r"found B \(7,\)"),
    ],
)
def test_states_that_are_not_of_one_model_are_named(state, change, message):
    changed = {name: value for name, value in (state | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        convert_reference(changed, CONFIG)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 8}, "hidden_size must be 7, as in the weights, found 8"),
        ({"num_channels": 3}, "num_channels must be 2, as in the weights, found 3"),
        ({"num_relu_units": None}, "must have num_relu_units"),
    ],
)
def test_configurations_that_do_not_fit_the_weights_are_named(state, change, message):
    config = {name: value for name, value in (CONFIG | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        convert_reference(state, config)


def command(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["conversion_alrnn", *map(str, arguments)])
    main()


def test_command_converts_a_folder_there_and_back(state, tmp_path, monkeypatch, capsys):
    (tmp_path / "case.json").write_text(json.dumps(CONFIG | {"channel_loc": [3.0, 4.0], "channel_scale": [0.5, 2.0]}))
    save_file(state, tmp_path / "reference_state.safetensors")
    command(monkeypatch, tmp_path, tmp_path / "model")
    said = capsys.readouterr().out
    assert "4 tensors mapped (float32 there, float32 here), ALRNNForPrediction of 73 parameters" in said
    assert "passed: 20 steps of the equations, relative: largest difference" in said
    assert "left out: B, its first 2 columns" in said
    model = ALRNNForPrediction.from_pretrained(tmp_path / "model")
    assert torch.equal(model.model.W, state["W"])
    assert torch.equal(model.model.L, state["B"][:, CHANNELS:].T)
    command(monkeypatch, tmp_path / "model", tmp_path / "reference", "--inverse")
    assert "passed: 20 steps of the equations" in capsys.readouterr().out
    back = load_file(tmp_path / "reference" / "reference_state.safetensors")
    assert torch.equal(back["W"], state["W"])
    assert json.loads((tmp_path / "reference" / "case.json").read_text())["channel_loc"] == [3.0, 4.0]


def test_command_converts_a_file_with_what_it_does_not_tell(state, tmp_path, monkeypatch):
    save_file(state, tmp_path / "weights.safetensors")
    options = ("--num-relu-units", 4, "--forcing-interval", 9)
    command(monkeypatch, tmp_path / "weights.safetensors", tmp_path / "model", *options)
    config = ALRNNForPrediction.from_pretrained(tmp_path / "model").config
    assert (config.num_relu_units, config.forcing_interval) == (4, 9)
    with pytest.raises(SystemExit, match="must have num_relu_units"):
        command(monkeypatch, tmp_path / "weights.safetensors", tmp_path / "other")
    with pytest.raises(SystemExit):
        command(monkeypatch, tmp_path / "model", tmp_path / "other", "--inverse", *options)


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the reference's recorded weights are not part of this project")
def test_command_holds_a_recorded_model_against_its_record(tmp_path, monkeypatch, capsys):
    command(monkeypatch, RECORDED, tmp_path / "model")
    said = capsys.readouterr().out
    for name in ("recorded runs of 50 steps", "recorded loss", "one step from each recorded state"):
        assert f"passed: {name}, relative: largest difference" in said
    wrong = shutil.copytree(RECORDED, tmp_path / "wrong")
    outputs = load_file(wrong / "outputs.safetensors")
    save_file(outputs | {"forced_loss": outputs["forced_loss"] + 0.01}, wrong / "outputs.safetensors")
    with pytest.raises(SystemExit, match=r"checks that failed: \['recorded loss, relative'\]"):
        command(monkeypatch, wrong, tmp_path / "other")
