"""What the conversion commands of all architectures do alike, tried on an AL-RNN."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_tsdyn.models.alrnn.conversion_alrnn import CONVERSION
from hf_tsdyn.models.conversion_command import (
    REPORT_FILE,
    from_reference,
    into_reference,
    write_target,
)
from hf_tsdyn.models.conversion_mapping import Pair, mapped_groups, reshaped, split_all, stacked
from hf_tsdyn.models.conversion_report import Check, largest_difference, relative_difference, same_state


def test_a_report_tells_what_was_mapped_left_out_and_checked(source, tmp_path, run_conversion):
    run_conversion(source, tmp_path / "model")
    text = (tmp_path / "model" / REPORT_FILE).read_text()
    assert str(tmp_path) not in text
    report = json.loads(text)
    assert (report["direction"], report["model"], report["num_parameters"]) == (
        "from the reference", "ALRNNForPrediction", 28,
    )  # fmt: skip
    assert (report["reference_dtypes"], report["model_dtypes"]) == (["float32"], ["float32"])
    assert report["mapped"][3] == {
        "reference": "B",
        "reference_shape": "(2, 4)",
        "num_reference": 1,
        "ours": "model.L",
        "our_shape": "(2, 2)",
        "num_ours": 1,
    }
    assert report["left_out"] == {"B, its first 2 columns": "what they start is overwritten by what was observed"}
    assert [check["difference"] for check in report["checks"][:2]] == [0.0, 0.0]
    run_conversion(tmp_path / "model", tmp_path / "back", "--inverse")
    assert json.loads((tmp_path / "back" / REPORT_FILE).read_text())["direction"] == "to the reference"
    assert sorted(file.name for file in (tmp_path / "back").iterdir()) == [
        "case.json", REPORT_FILE, "reference_state.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["a file", "a full folder"])
def test_a_target_that_is_there_is_left_alone(source, tmp_path, name, run_conversion):
    target = tmp_path / "target"
    kept = target if name == "a file" else target / "note.txt"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("mine")
    with pytest.raises(SystemExit, match="TARGET must be new or an empty folder"):
        run_conversion(source, target)
    assert kept.read_text() == "mine"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["source", "target"]


def test_an_empty_target_is_filled(source, tmp_path, run_conversion):
    (tmp_path / "target").mkdir()
    run_conversion(source, tmp_path / "target")
    assert (tmp_path / "target" / "config.json").is_file()
    assert (tmp_path / "target").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("difference", [1.1, float("nan")])
def test_a_failed_check_leaves_no_target(tmp_path, source, difference):
    def work(folder):
        report = from_reference(CONVERSION, source, folder, {}, {})
        report.checks.append(Check("the last", difference, 1.0))
        return report

    with pytest.raises(ValueError, match=r"checks that failed: \['the last'\]"):
        write_target(tmp_path / "target", work)
    assert [file.name for file in tmp_path.iterdir()] == ["source"]


def test_an_interrupted_write_leaves_no_target(tmp_path):
    def work(folder):
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_target(tmp_path / "target", work)
    assert not list(tmp_path.iterdir())


def test_tensors_of_equal_values_and_other_types_are_not_the_same():
    assert same_state({"x": torch.ones(2)}, {"x": torch.ones(2)}).passed
    assert not same_state({"x": torch.ones(2)}, {"x": torch.ones(2).double()}).passed


@pytest.mark.parametrize("name", ["A", "B"])
def test_a_reference_of_mixed_precision_keeps_every_bit(source, tmp_path, name, run_conversion):
    state = load_file(source / "reference_state.safetensors")
    state |= {name: state[name].double() / 3}
    save_file(state, source / "reference_state.safetensors")
    run_conversion(source, tmp_path / "model")
    run_conversion(tmp_path / "model", tmp_path / "back", "--inverse")
    back = load_file(tmp_path / "back" / "reference_state.safetensors")
    assert all(torch.equal(back[each], state[each].double()) for each in "AWh")
    assert torch.equal(back["B"][:, 2:], state["B"][:, 2:].double())


def test_a_way_back_that_changes_anything_is_found(source, tmp_path):
    folder = tmp_path / "model"
    from_reference(CONVERSION, source, folder, {}, {})
    wrong = type(CONVERSION)(**vars(CONVERSION) | {"convert": lambda *given: _shifted(CONVERSION.convert(*given))})
    failed = [check.name for check in into_reference(wrong, folder, tmp_path / "back").checks if not check.passed]
    assert failed == ["tensors, converted back", "converted back, run on a probe"]


def _shifted(model):
    with torch.no_grad():
        model.model.h += 1
    return model


def test_differences_are_the_largest_and_shapes_must_agree():
    found, expected = torch.tensor([1.0, 2.5]), torch.tensor([1.0, -2.0])
    assert largest_difference("x", found, expected, 0).difference == 4.5
    assert relative_difference("x", found, expected, 0).difference == 2.25
    assert relative_difference("x", found, torch.zeros(2), 0).difference == 2.5
    assert largest_difference("x", found, expected[:1], 1).passed is False


def test_groups_are_names_that_differ_in_numbers_alone():
    tensors = {f"b.{index}.w": torch.zeros(2) for index in range(4)} | {"b.4.w": torch.zeros(3)}
    ours = {"a.0.w": torch.zeros(2, 2), "a.1.w": torch.zeros(2, 2), "c": torch.zeros(3, 1)}
    pairs = [stacked("a.0.w", ["b.0.w", "b.1.w"]), stacked("a.1.w", ["b.2.w", "b.3.w"])]
    pairs.append(reshaped("c", "b.4.w", (3, 1), (3,)))
    rows = [tuple(row.values()) for row in mapped_groups(pairs, tensors, ours)]
    assert rows == [("b.*.w", "(2,)", 4, "a.*.w", "(2, 2)", 2), ("b.*.w", "(3,)", 1, "c", "(3, 1)", 1)]


def test_split_tensors_are_copies():
    model = torch.nn.Linear(2, 1)
    split = split_all([Pair("weight", ("w",))], model)["w"]
    split.zero_()
    assert model.weight.all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alrnn", "dynonet", "dystformer", "fsnet"])
def test_every_command_runs_as_a_module(name, fixtures, tmp_path, source):
    cases = {"dynonet": "three_channels_two_layers", "dystformer": "dynamics_embedding", "fsnet": "original_online"}
    folder = fixtures / name / cases[name] if name in cases else source
    module = [sys.executable, "-m", f"hf_tsdyn.models.{name}.conversion_{name}"]
    for arguments in ([folder, tmp_path / "model"], [tmp_path / "model", tmp_path / "back", "--inverse"]):
        subprocess.run([*module, *map(str, arguments)], capture_output=True, check=True)
    found, expected = (load_file(each / "reference_state.safetensors") for each in (tmp_path / "back", folder))
    assert found.keys() == expected.keys()
