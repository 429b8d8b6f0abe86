"""The validator: a dataset as written passes, and every kind of damage is found by the check it belongs to."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from data_generation.config_loading import load_config
from data_generation.generate import generate_dataset
from data_generation.validate import main, report, validate_dataset

SETTINGS = {
    "systems": ["Lorenz", "Chen", "SprottB"],
    "splits": {name: {"num_parameter_sets": 2} for name in ("train", "validation", "test")},
    "integration": {"num_points": 256, "num_periods": 10, "transient_periods": 5},
    "jobs": 1,
}
TRAIN = "data/train-00000.arrow"


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    (folder / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))
    generate_dataset(load_config(["--config", str(folder / "settings.yaml"), "--output", str(folder / "data")]))
    return folder / "data"


@pytest.fixture
def dataset(generated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(generated, tmp_path / "copy"))


def num_rows_of(folder: Path) -> int:
    return json.loads((folder / "manifest.json").read_text())["counts"]["accepted"]


def failures_of(folder: Path) -> dict[str, list[str]]:
    return {finding.name: finding.failures for finding in validate_dataset(folder) if finding.failures}


def rewrite(folder: Path, change: Callable[[list[dict[str, Any]]], object], *, file: str = TRAIN) -> None:
    """Change the rows of a file, and record its new size and hash as a forger would."""
    with pa.ipc.open_stream((folder / file).read_bytes()) as reader:
        table = reader.read_all()
    rows = table.to_pylist()
    change(rows)
    with pa.ipc.new_stream(str(folder / file), table.schema) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=table.schema))
    record(folder, file, num_rows=len(rows))


def record(folder: Path, file: str, **fields: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = next(entry for entry in manifest["shards"] if entry["file"] == file)
    content = (folder / file).read_bytes()
    entry |= {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), **fields}
    hashes = "".join(entry["sha256"] for entry in manifest["shards"])
    manifest["fingerprint"] = hashlib.sha256(hashes.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_dataset_as_written_passes_and_stays_as_it_is(generated: Path, capsys: pytest.CaptureFixture[str]):
    before = {file: file.read_bytes() for file in generated.rglob("*") if file.is_file()}
    with pytest.raises(SystemExit) as raised:
        main([str(generated), "--rows", "100"])
    assert raised.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok"] * 5
    assert lines[-1].split()[2:] == [str(num_rows_of(generated)), "rows", "integrated", "again"]
    assert before == {file: file.read_bytes() for file in generated.rglob("*") if file.is_file()}


def test_a_changed_bit_is_found(dataset: Path, capsys: pytest.CaptureFixture[str]):
    content = bytearray((dataset / TRAIN).read_bytes())
    content[-100] ^= 1
    (dataset / TRAIN).write_bytes(content)
    assert failures_of(dataset)["hashes"] == [f"{TRAIN} has other bytes than recorded"]
    with pytest.raises(SystemExit) as raised:
        main([str(dataset)])
    assert raised.value.code == 1
    assert "FAILED  hashes" in capsys.readouterr().out


def test_lost_cut_and_foreign_files_are_found(dataset: Path):
    (dataset / TRAIN).unlink()
    cut = dataset / "data" / "test-00000.arrow"
    cut.write_bytes(cut.read_bytes()[:100])
    (dataset / "data" / "train-00009.arrow").touch()
    failures = failures_of(dataset)
    assert {failure.split()[0] for failure in failures["hashes"]} == {
        TRAIN,
        "data/test-00000.arrow",
        "data/train-00009.arrow",
    }
    assert len(failures["schema"]) == 2
    assert len(failures["counts"]) == 1


def test_other_columns_are_found(dataset: Path):
    table = pa.table({"item_id": ["a", "b"]})
    with pa.ipc.new_stream(str(dataset / TRAIN), table.schema) as writer:
        writer.write_table(table)
    record(dataset, TRAIN, num_rows=2)
    assert failures_of(dataset)["schema"][0].startswith(f"{TRAIN} has the columns ['item_id']")


def test_wrong_counts_and_repeated_rows_are_found(dataset: Path):
    num_rows = num_rows_of(dataset)
    rewrite(dataset, lambda rows: rows.append(rows[0]))
    record(dataset, TRAIN, num_rows=77)
    counts = failures_of(dataset)["counts"]
    assert any(failure.endswith("rows, recorded are 77") for failure in counts)
    assert f"the dataset holds {num_rows + 1} rows, recorded are {num_rows}" in counts
    assert any(failure.endswith("is there more than once") for failure in counts)


@pytest.mark.parametrize(
    ("system", "leaked"),
    [("Lorenz", "Lorenz"), ("SprottB->Lorenz", "Lorenz"), ("Chen->SprottB", "Chen"), ("Chen->Lorenz", "Chen, Lorenz")],
)
def test_a_held_out_parent_in_train_is_found(dataset: Path, system: str, leaked: str):
    rewrite(dataset, lambda rows: rows[0].update(system=system))
    failures = failures_of(dataset)["held out"]
    assert f"in train comes from {leaked}, which is held out" in failures[0]


def test_a_test_system_in_validation_and_a_system_in_two_splits_are_found(dataset: Path):
    rewrite(dataset, lambda rows: rows[0].update(system="Lorenz"), file="data/validation-00000.arrow")
    failures = failures_of(dataset)["held out"]
    assert "in validation comes from Lorenz" in failures[0]
    assert failures[1] == "Lorenz is in ['test', 'validation']"


def test_a_row_in_the_file_of_another_split_is_found(dataset: Path):
    rewrite(dataset, lambda rows: rows[0].update(split="test"))
    assert "says 'test' in a file of 'train'" in failures_of(dataset)["counts"][0]


def flip_bit(row: dict[str, Any]) -> None:
    values = np.array(row["target"], dtype=np.float32)
    values.view(np.uint32)[0, 40] ^= 1
    row["target"] = values.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (flip_bit, "other bits in 1 of 256 points, the first at 40"),
        (lambda row: row.update(dt=2 * row["dt"]), "other values in ['dt']"),
        (lambda row: row["initial_condition"].__setitem__(0, 0.5), "other values in ['initial_condition']"),
        (lambda row: row.update(item_id="SprottB-p777-i00"), "not in the plan"),
        (lambda row: row["target"].pop(), "made again (3, 256)"),
    ],
    ids=["one bit", "dt", "initial condition", "unplanned", "shape"],
)  # fmt: skip
def test_a_row_that_its_settings_do_not_give_is_found(dataset: Path, change: Callable[[dict], object], message: str):
    rewrite(dataset, lambda rows: change(rows[0]))
    failures = failures_of(dataset)
    assert set(failures) == {"reproduction"}
    assert message in failures["reproduction"][0]
    assert "type of processor" in failures["reproduction"][1]


def test_other_versions_are_named_beside_other_bits(dataset: Path):
    rewrite(dataset, lambda rows: rows[0].update(dt=1.0))
    manifest = json.loads((dataset / "manifest.json").read_text())
    manifest["versions"]["dysts"] = "0.1"
    (dataset / "manifest.json").write_text(json.dumps(manifest))
    assert "made with {'dysts': '0.1'" in failures_of(dataset)["reproduction"][-1]


def test_settings_of_another_version_are_named(dataset: Path):
    manifest = json.loads((dataset / "manifest.json").read_text())
    manifest["config"]["unheard_of"] = 1
    (dataset / "manifest.json").write_text(json.dumps(manifest))
    failures = failures_of(dataset)
    assert set(failures) == {"reproduction"}
    assert "settings must be those of this version" in failures["reproduction"][0]


def test_a_long_list_of_failures_is_cut(dataset: Path):
    rewrite(dataset, lambda rows: rows.extend(rows[0] | {"system": "Lorenz", "item_id": f"L{n}"} for n in range(9)))
    text = report(validate_dataset(dataset, num_rows=0))
    assert text.count("which is held out") == 5
    assert "and 5 more" in text


@pytest.mark.parametrize("rows", [[], ["--rows", "0"]])
def test_a_folder_without_a_manifest_is_an_error(tmp_path: Path, rows: list[str]):
    with pytest.raises(SystemExit, match=r"error: a finished dataset folder must hold manifest\.json"):
        main([str(tmp_path), *rows])
