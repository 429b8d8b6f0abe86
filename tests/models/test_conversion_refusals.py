"""What the conversion commands of all architectures refuse, in one line that says why; tried on an AL-RNN."""

import json
from logging import WARNING, Handler

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging


@pytest.fixture
def heard():
    """What transformers has logged by the end of the test, at its usual verbosity."""
    records, verbosity, handler = [], logging.get_verbosity(), Handler()
    handler.emit = records.append
    logging.set_verbosity(WARNING)
    logging.add_handler(handler)
    yield records
    logging.remove_handler(handler)
    logging.set_verbosity(verbosity)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.ckpt"])
def test_pickled_weights_are_refused_with_what_to_do(source, tmp_path, name, run_conversion):
    (source / "reference_state.safetensors").rename(source / name)
    for each in (source, source / name):
        with pytest.raises(SystemExit, match=rf"found {name}, which may run code and is not opened; .*save_file"):
            run_conversion(each, tmp_path / "model")


@pytest.mark.parametrize(
    ("missing", "names"),
    [
        ("case.json", "case.json or config.json"),
        ("reference_state.safetensors", "reference_state.safetensors or model.safetensors"),
    ],
)
def test_what_a_source_lacks_is_named(source, tmp_path, missing, names, run_conversion):
    (source / missing).unlink()
    with pytest.raises(SystemExit, match=f"SOURCE must hold {names}, found neither in"):
        run_conversion(source, tmp_path / "model")


def test_damaged_weights_are_refused(source, tmp_path, run_conversion):
    file = source / "reference_state.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(SystemExit, match=r"reference_state\.safetensors must be a whole safetensors file"):
        run_conversion(source, tmp_path / "model")


@pytest.mark.parametrize("name", ["case.json", "config.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1, 2]", "must hold a JSON object, found a list"),
        (b"{bad", "must be JSON, found a file that is none"),
        (b"[" * 100_000, "must be JSON, found a file that is none"),
        (b"\xff\xfe", "must be JSON, found a file that is none"),
    ],
)
def test_settings_that_are_no_json_object_are_refused(source, tmp_path, name, content, message, run_conversion):
    inverse = ["--inverse"] if name == "config.json" else []
    (source / name).write_bytes(content)
    with pytest.raises(SystemExit, match=f"^error: {name} {message}.*get it anew") as refused:
        run_conversion(source, tmp_path / "model", *inverse)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_relu_units": "5"}, "types that a model's are, found: Field 'num_relu_units' expected int, got str"),
        ({"forcing_interval": None}, "Field 'forcing_interval' expected int, got NoneType"),
        ({"num_relu_units": -3}, "error: num_relu_units must be from 0 to hidden_size, found -3"),
        ({"channel_loc": 5}, "Field 'channel_loc' with value 5"),
    ],
)
def test_settings_of_a_wrong_type_or_range_are_refused_in_one_line(source, tmp_path, change, message, run_conversion):
    (source / "case.json").write_text(json.dumps({"num_relu_units": 1} | change))
    with pytest.raises(SystemExit, match=message) as refused:
        run_conversion(source, tmp_path / "model")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float8_e5m2, torch.complex64])
def test_weights_that_are_no_floating_point_numbers_are_refused(source, tmp_path, dtype, run_conversion):
    state = load_file(source / "reference_state.safetensors")
    save_file({name: each.to(dtype) for name, each in state.items()}, source / "reference_state.safetensors")
    with pytest.raises(SystemExit, match=rf"numbers of 16 bits or more, found model\.A of {dtype}"):
        run_conversion(source, tmp_path / "model")


def test_a_record_of_something_else_is_refused(source, tmp_path, run_conversion):
    for name in ("inputs", "outputs"):
        save_file({"x": torch.zeros(2)}, source / f"{name}.safetensors")
    with pytest.raises(SystemExit, match=r"must be a record of SOURCE, found KeyError: .*; remove them"):
        run_conversion(source, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("kept", "more", "message"),
    [
        (["model.h"], {}, r"found missing_keys \['model\.A', 'model\.L', 'model\.W'\]"),
        (["model.A", "model.L", "model.W", "model.h"], {"x": torch.zeros(1)}, r"found unexpected_keys \['x'\]"),
        (["model.A", "model.L", "model.W"], {"model.h": torch.zeros(5)}, r"found mismatched_keys .*'model\.h'"),
    ],
)
def test_a_model_without_all_of_its_weights_or_with_others_has_no_way_back(
    source, tmp_path, heard, kept, more, message, run_conversion
):
    run_conversion(source, tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    state = load_file(file)
    save_file({name: state[name] for name in kept} | more, file, metadata={"format": "pt"})
    with pytest.raises(SystemExit, match=f"a model's folder must hold exactly its weights, {message}"):
        run_conversion(tmp_path / "model", tmp_path / "back", "--inverse")
    assert not (tmp_path / "back").exists()
    assert heard == []
    assert logging.get_verbosity() == WARNING


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": "4"}, "Field 'hidden_size' expected int, got str"),
        ({"id2label": 5}, "'int' object has no attribute 'items'"),
        ({"model_type": "dynonet"}, "model_type of config.json must be 'alrnn', found 'dynonet'"),
    ],
)
def test_a_model_with_a_damaged_configuration_has_no_way_back(source, tmp_path, change, message, run_conversion):
    run_conversion(source, tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(SystemExit, match=message) as refused:
        run_conversion(tmp_path / "model", tmp_path / "back", "--inverse")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("path", ["nowhere", "deep/er/nowhere"])
def test_a_mistyped_model_is_said_to_be_no_folder(tmp_path, path, run_conversion):
    with pytest.raises(SystemExit, match=f"found no folder '{path}'; check the path"):
        run_conversion(path, tmp_path / "back", "--inverse")


def test_a_reference_is_no_model_of_ours(source, tmp_path, run_conversion):
    with pytest.raises(SystemExit, match=r"a file config\.json must be there, found none in"):
        run_conversion(source, tmp_path / "back", "--inverse")
