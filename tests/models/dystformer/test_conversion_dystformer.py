import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_tsdyn import DystformerConfig, DystformerForMaskedModeling, DystformerForPrediction
from hf_tsdyn.models.dystformer.conversion_dystformer import convert_reference, main, to_reference

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


@pytest.mark.parametrize(
    "setting", [{"use_cls_token": True}, {"mode": "classify"}, {"mode": ["predict"]}, {"patch_stride": 8}]
)
def test_settings_without_counterpart_are_refused(fixtures, setting):
    folder = fixtures / "dystformer" / "dynamics_embedding"
    config = json.loads((folder / "case.json").read_text()) | setting
    with pytest.raises(ValueError, match=next(iter(setting))):
        convert_reference(load_file(folder / "reference_state.safetensors"), config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.update(extra=torch.zeros(1)), r"left over \['extra'\]"),
        (lambda state: state.pop("head.projection.weight"), r"must hold 'head\.projection\.weight'"),
        (lambda state: state.update({"head.projection.weight": torch.zeros(2, 2)}), "shapes of its configuration"),
        (lambda state: state["patch_indices.degree_2"].fill_(16), r"from 0 to 15, steps of a patch, found 16 to 16"),
        (lambda state: state["patch_indices.degree_3"].fill_(-1), r"found -1 to -1"),
    ],
)
def test_states_that_do_not_fit_are_named(fixtures, change, message):
    folder = fixtures / "dystformer" / "dynamics_embedding"
    config, state = json.loads((folder / "case.json").read_text()), load_file(folder / "reference_state.safetensors")
    change(state)
    with pytest.raises(ValueError, match=message):
        convert_reference(state, config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ffn_dim": 2**15}, "found weights of 1 values for a model of 8"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers .* at most 1024"),
        ({"d_model": "64"}, "'d_model' expected int, got str"),
        ({"norm_eps": float("nan")}, "norm_eps must be positive and finite, found nan"),
    ],
)
def test_a_configuration_beyond_the_weights_is_refused(fixtures, change, message):
    config = json.loads((fixtures / "dystformer" / "dynamics_embedding" / "case.json").read_text())
    with pytest.raises(ValueError, match=message):
        convert_reference({"x": torch.zeros(1)}, config | change)


@pytest.mark.parametrize("kind", ["another architecture's", "empty", "weights alone"])
def test_settings_that_are_missing_are_named(fixtures, tmp_path, monkeypatch, kind):
    source = shutil.copytree(fixtures / "dystformer" / "linear_embedding_max_pool", tmp_path / "source")
    if kind == "another architecture's":
        shutil.copy(fixtures / "fsnet" / "original_online" / "case.json", source)
    elif kind == "empty":
        (source / "case.json").write_text("{}")
    else:
        source /= "reference_state.safetensors"
    with pytest.raises(SystemExit, match=r"found no \['context_length', .*give the folder of a Panda checkpoint"):
        run_command(monkeypatch, source, tmp_path / "model")


def test_a_long_context_is_not_what_a_conversion_is_tried_on(fixtures, tmp_path, monkeypatch):
    source = shutil.copytree(fixtures / "dystformer" / "linear_embedding_max_pool", tmp_path / "source")
    config = json.loads((source / "case.json").read_text())
    (source / "case.json").write_text(json.dumps(config | {"context_length": 2**20}))
    seen = []
    forecast = DystformerForPrediction.forecast
    monkeypatch.setattr(
        DystformerForPrediction,
        "forecast",
        lambda model, values, **options: seen.append(values.shape[1]) or forecast(model, values, **options),
    )
    run_command(monkeypatch, source, tmp_path / "model")
    assert set(seen) == {32 * 16}


def test_a_model_that_the_reference_cannot_build_has_no_way_back(fixtures):
    config = DystformerConfig(
        d_model=32, num_attention_heads=2, num_hidden_layers=1, embedding="linear", forecast_origin="last"
    )
    with pytest.raises(ValueError, match=r"'forecast_origin': 'last'.*'forecast_origin': 'mean'.* no way back"):
        to_reference(DystformerForPrediction(config))


def run_command(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["conversion", *map(str, arguments)])
    main()


@pytest.fixture
def stripped(fixtures, tmp_path):
    """A published checkpoint: the reference's usual file names, no index tuples; and those by degree."""
    source, folder = fixtures / "dystformer" / "dynamics_embedding", tmp_path / "published"
    folder.mkdir()
    state = load_file(source / "reference_state.safetensors")
    tuples = {name.split(".")[1]: state.pop(name) for name in list(state) if name.startswith("patch_indices.")}
    (folder / "config.json").write_text((source / "case.json").read_text())
    save_file(state, folder / "model.safetensors")
    for name in ("inputs", "outputs"):
        shutil.copy(source / f"{name}.safetensors", folder)
    return folder, tuples


def write_tuples(tuples, file):
    if file.suffix == ".npz":
        np.savez(file, **{name: value.numpy() for name, value in tuples.items()})
    elif file.suffix == ".json":
        file.write_text(json.dumps({name: value.tolist() for name, value in tuples.items()}))
    else:
        save_file({f"patch_indices.{name}": value for name, value in tuples.items()}, file)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.json", b"[1, 2]", r"t\.json must hold a JSON object, found a list"),
        ("t.json", b'{"degree_2": "x"}', r"degree_2 of t\.json must be a list of lists of whole numbers"),
        ("t.json", b'{"degree_2": [["a"]]}', "list of lists of whole numbers"),
        ("t.json", b'{"degree_2": [[1, 2], [3]]}', "equally long"),
        ("t.json", b'{"degree_2": null}', "list of lists of whole numbers"),
        ("t.json", b'{"degree_2": [[0.5, 1%s]]}' % (b"0" * 400), "list of lists of whole numbers"),
        ("t.json", b'{"degree_2": [[99999999999999999999]]}', "list of lists of whole numbers"),
        ("t.json", b"[" * 100_000, "must be JSON"),
        ("t.npz", b"not a zip file", r"t\.npz must be whole.*numpy\.savez\(FILE, degree_2"),
        ("t.npz", None, r"found pickled objects; write it anew"),
        ("t.bin", b"x", "which may run code and is not opened"),
    ],
)
def test_damaged_index_tuples_are_refused_in_one_line(stripped, tmp_path, monkeypatch, name, content, message):
    file = tmp_path / name
    if content is None:
        np.savez(file, degree_2=np.array([{}], dtype=object))
    else:
        file.write_bytes(content)
    with pytest.raises(SystemExit, match=message) as refused:
        run_command(monkeypatch, stripped[0], tmp_path / "model", "--index-tuples", file)
    assert "\n" not in str(refused.value)
    assert "allow_pickle" not in str(refused.value)


def test_index_tuples_that_unpack_to_too_much_are_refused(stripped, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_tsdyn.models.dystformer.index_tuples._MAX_BYTES", 10_000)
    np.savez_compressed(tmp_path / "t.npz", degree_2=np.zeros((5000, 2)))
    with pytest.raises(SystemExit, match="bytes where 10000 are the most"):
        run_command(monkeypatch, stripped[0], tmp_path / "model", "--index-tuples", tmp_path / "t.npz")


def test_index_tuples_of_any_whole_type_do(stripped, tmp_path, monkeypatch):
    folder, tuples = stripped
    np.savez(tmp_path / "t.npz", **{name: value.numpy().astype(np.uint16) for name, value in tuples.items()})
    run_command(monkeypatch, folder, tmp_path / "model", "--index-tuples", tmp_path / "t.npz")
    embedding = DystformerForPrediction.from_pretrained(tmp_path / "model").model.embedding
    assert torch.equal(embedding.indices_degree_3, tuples["degree_3"])


def test_a_mistyped_file_of_index_tuples_is_said_to_be_none(stripped, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="--index-tuples must be a file, found none at"):
        run_command(monkeypatch, stripped[0], tmp_path / "model", "--index-tuples", tmp_path / "t.npz")


@pytest.mark.parametrize("suffix", [".npz", ".json", ".safetensors"])
def test_a_published_checkpoint_converts_with_its_index_tuples(stripped, tmp_path, monkeypatch, capsys, suffix):
    folder, tuples = stripped
    write_tuples(tuples, tmp_path / f"tuples{suffix}")
    run_command(monkeypatch, folder, tmp_path / "model", "--index-tuples", tmp_path / f"tuples{suffix}")
    assert "passed: recorded scaled forecasts" in capsys.readouterr().out
    embedding = DystformerForPrediction.from_pretrained(tmp_path / "model").model.embedding
    assert torch.equal(embedding.indices_degree_3, tuples["degree_3"])


def test_a_published_checkpoint_without_its_index_tuples_is_refused(stripped, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"not in published reference files.*--index-tuples FILE"):
        run_command(monkeypatch, stripped[0], tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_other_index_tuples_are_not_the_references(stripped, tmp_path, monkeypatch):
    folder, tuples = stripped
    write_tuples(tuples | {"degree_2": tuples["degree_2"].flip(0)}, tmp_path / "tuples.json")
    with pytest.raises(SystemExit, match=r"checks that failed: .*'recorded scaled forecasts, relative'"):
        run_command(monkeypatch, folder, tmp_path / "model", "--index-tuples", tmp_path / "tuples.json")
    assert not (tmp_path / "model").exists()


def test_index_tuples_that_a_source_holds_are_not_given_twice(stripped, fixtures, tmp_path, monkeypatch):
    write_tuples(stripped[1], tmp_path / "tuples.json")
    source = fixtures / "dystformer" / "dynamics_embedding"
    with pytest.raises(SystemExit, match=r"found patch_indices\.degree_2 in both"):
        run_command(monkeypatch, source, tmp_path / "model", "--index-tuples", tmp_path / "tuples.json")


@pytest.mark.parametrize(
    ("tuples", "message"),
    [
        ({}, "found none"),
        ({"second": [[0, 1]]}, r"found \['second'\]"),
        ({"degree_2": [[0.5, 1.0]] * 8, "degree_3": [[0, 0, 0]] * 8}, "found torch.float32"),
        ({"degree_2": [[0, 1]]}, r"found no \['patch_indices.degree_3'\]"),
        ({"degree_2": [[0, 1]], "degree_3": [[0, 0, 0]] * 8}, "shapes of its configuration"),
    ],
)
def test_files_that_hold_no_index_tuples_are_refused(stripped, tmp_path, monkeypatch, tuples, message):
    (tmp_path / "tuples.json").write_text(json.dumps(tuples))
    with pytest.raises(SystemExit, match=message):
        run_command(monkeypatch, stripped[0], tmp_path / "model", "--index-tuples", tmp_path / "tuples.json")


@pytest.mark.parametrize("case", ["no_channel_attention", "masked_completion"])
def test_command_converts_there_and_back(fixtures, tmp_path, monkeypatch, capsys, case):
    source = fixtures / "dystformer" / case
    run_command(monkeypatch, source, tmp_path / "model")
    model_class = DystformerForMaskedModeling if case == "masked_completion" else DystformerForPrediction
    assert f"{model_class.__name__} of " in capsys.readouterr().out
    assert model_class.from_pretrained(tmp_path / "model").config.channel_attention is (case == "masked_completion")
    run_command(monkeypatch, tmp_path / "model", tmp_path / "reference", "--inverse")
    found, expected = (load_file(each / "reference_state.safetensors") for each in (tmp_path / "reference", source))
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    settings, original = (json.loads((each / "case.json").read_text()) for each in (tmp_path / "reference", source))
    assert settings == {name: original[name] for name in settings}
