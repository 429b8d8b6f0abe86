import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from hf_tsdyn import DystformerForMaskedModeling, DystformerForPrediction
from hf_tsdyn.models.dystformer.conversion_dystformer import convert_reference, to_reference

CASES = ("dynamics_embedding", "linear_embedding_max_pool", "no_channel_attention")


@pytest.fixture(params=CASES)
def case(request, fixtures):
    folder = fixtures / "dystformer" / request.param
    tensors = {name: load_file(folder / f"{name}.safetensors") for name in ("reference_state", "inputs", "outputs")}
    return json.loads((folder / "case.json").read_text()), tensors


def relative_error(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


def test_outputs_equal_the_recorded_reference(case):
    config, tensors = case
    model, expected = convert_reference(tensors["reference_state"], config), tensors["outputs"]
    with torch.no_grad():
        output = model(**tensors["inputs"])
        hidden = model.model(tensors["inputs"]["past_values"]).last_hidden_state
    assert relative_error(hidden, expected["last_hidden_state"]) < 1e-5
    z = (output.prediction_outputs - output.loc) / output.scale
    assert relative_error(z, (expected["prediction_outputs"] - expected["loc"]) / expected["scale"]) < 1e-5
    assert relative_error(output.loc, expected["loc"]) < 1e-6
    assert relative_error(output.scale, expected["scale"]) < 1e-6
    assert output.loss.item() == pytest.approx(expected["loss"].item(), rel=1e-5)


def test_parameters_and_random_features_number_as_in_the_reference(case):
    config, tensors = case
    model = convert_reference(tensors["reference_state"], config)
    features = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    assert model.num_parameters() + sum(buffer.numel() for buffer in features) == config["num_parameters"]


def test_conversion_has_an_inverse(case):
    config, tensors = case
    state = tensors["reference_state"]
    back = to_reference(convert_reference(state, config))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], value) for name, value in state.items())


def test_missing_index_tuples_are_named(fixtures):
    folder = fixtures / "dystformer" / "dynamics_embedding"
    config, state = json.loads((folder / "case.json").read_text()), load_file(folder / "reference_state.safetensors")
    del state["patch_indices.degree_2"]
    with pytest.raises(ValueError, match="index tuples of the dynamics embedding are not in published"):
        convert_reference(state, config)


def test_masked_completion_equals_the_recorded_reference(fixtures):
    folder = fixtures / "dystformer" / "masked_completion"
    config, state = json.loads((folder / "case.json").read_text()), load_file(folder / "reference_state.safetensors")
    inputs, expected = load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors")
    model = convert_reference(state, config)
    assert isinstance(model, DystformerForMaskedModeling)
    assert model.num_parameters() == config["num_parameters"]
    with torch.no_grad():
        output = model(inputs["past_values"], mask=expected["mask"])
    z = (output.prediction_outputs - output.loc) / output.scale
    patches = z.transpose(1, 2).unflatten(2, (-1, 16))
    assert relative_error(patches, expected["prediction_output"]) < 1e-5
    scaled = ((inputs["past_values"] - output.loc) / output.scale).transpose(1, 2).unflatten(2, (-1, 16))
    masked = expected["mask"].bool()[..., None]
    assert relative_error(scaled.masked_fill(masked, 0), expected["patch_input"].masked_fill(masked, 0)) < 1e-5
    assert output.loss.item() == pytest.approx(expected["loss"].item(), rel=1e-5)
    back = to_reference(model)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], value) for name, value in state.items())


@pytest.mark.parametrize("setting", [{"use_cls_token": True}, {"mode": "classify"}, {"patch_stride": 8}])
def test_settings_without_counterpart_are_refused(fixtures, setting):
    folder = fixtures / "dystformer" / "dynamics_embedding"
    config = json.loads((folder / "case.json").read_text()) | setting
    with pytest.raises(ValueError, match=next(iter(setting))):
        convert_reference(load_file(folder / "reference_state.safetensors"), config)


@pytest.mark.parametrize("case", ["no_channel_attention", "masked_completion"])
def test_command_converts_and_the_result_loads(fixtures, tmp_path, case):
    source = fixtures / "dystformer" / case
    command = [sys.executable, "-m", "hf_tsdyn.models.dystformer.conversion_dystformer", str(source), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "bit-equal" in done.stdout
    model_class = DystformerForMaskedModeling if case == "masked_completion" else DystformerForPrediction
    assert model_class.__name__ in done.stdout
    assert model_class.from_pretrained(tmp_path).config.channel_attention is (case == "masked_completion")


def test_command_names_what_a_source_lacks(tmp_path):
    command = [sys.executable, "-m", "hf_tsdyn.models.dystformer.conversion_dystformer", str(tmp_path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "must hold case.json or config.json" in done.stderr
