"""Every number, name and table of a published card is that of its results."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from training.publish import main, prepare

CARDS = Path(__file__).parents[2] / "model_cards"


def replace(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


@pytest.fixture
def series_checkpoint(tmp_path):
    """A copy of a shipped forecaster of a series, whose results are means over seeds of each split."""
    folder = shutil.copytree(CARDS / "fsnet-etth1", tmp_path / "fsnet-etth1")
    shutil.copyfile(CARDS / "results" / "fsnet-etth1.json", folder / "results.json")
    return folder


EDITS = {
    "table": ("| 19,500 | 1.21 |", "| 19,500 | 0.01 |", "tables of README.md must be .* found no row 'state-space"),
    "row left out": (re.compile(r"\| largest Lyapunov exponent \|.*\n"), "", "found no row 'largest Lyapunov"),
    "dataset": ("type: Rössler", "type: Chen", r"model-index of README.md must be .* of Chen \(Rössler\), test"),
    "dataset's name": ("name: Rössler", "name: Chen", r"model-index of README.md must be .* of Rössler \(Chen\), test"),
    "split": ("split: test", "split: train", r"model-index of README.md must be .* of Rössler \(Rössler\), train"),
    "task": ("type: time-series-forecasting", "type: nonsense", "model-index of README.md must be .* nonsense in one"),
    "metric's name": ("name: spectrum distance @ 9750", "name: 5", r"model-index of .* 0.01993 \(5\) of"),
    "dataset of no name": ("type: Rössler", "type: 5", "model-index of README.md must be .* of 5"),
    "null": ("value: 1.213", "value: null", "divergence.* must be that of results.json, found None in place of 1.213"),
    "list": ("value: 1.213", "value: [1]", r"must be that of results.json, found \[1\] in place of 1.213"),
    "word": ("value: 1.213", "value: abc", "must be that of results.json, found 'abc' in place of 1.213"),
    "not a number": ("value: 1.213", "value: .nan", "must be that of results.json, found nan in place of 1.213"),
    "other horizon": ("nats @ 19500", "nats @ 9750", "must be that of results.json, found 1.213 in place of 1.45"),
    "type": ("- type: spectrum_distance", "- type: [a]", "that of results.json, found a metric that is not there"),
    "value that is none": ("split: test", "split: {a: 1}", "must begin with metadata that the Hub reads"),
    "tags": ("tags:\n- hf_tsdyn\n- alrnn\n- time-series\n", "tags: hf_tsdyn alrnn time-series\nx:\n", "tags must name"),
    "too deep": ("license:", f"x: {'[' * 500}\nlicense:", "must begin with metadata that the Hub reads"),
    "byte-order mark": ("---\n", "\ufeff---\n", "found a byte-order mark before it"),
}


@pytest.mark.parametrize(("old", "new", "message"), EDITS.values(), ids=EDITS)
def test_an_edited_card_is_found(checkpoint, old, new, message, findings):
    file = checkpoint / "README.md"
    text = file.read_text()
    edited = old.sub(new, text, count=1) if isinstance(old, re.Pattern) else text.replace(old, new, 1)
    assert edited != text
    file.write_text(edited)
    assert re.search(message, "\n".join(findings(checkpoint, benchmark="acme/x")), re.DOTALL)


def test_prose_rows_and_the_width_of_a_table_may_be_edited(checkpoint, findings):
    file = checkpoint / "README.md"
    rows = re.sub(r"^\|(.*)\|$", lambda row: "|  " + row[1].replace("|", "  |") + " |", file.read_text(), flags=re.M)
    file.write_text(rows.replace("\n# ", "\nWritten by hand.\n\n# ", 1) + "\n| more | rows |\n|:--|--:|\n| 1 | 2 |\n")
    assert findings(checkpoint) == []


def test_a_card_of_a_series_has_the_numbers_of_its_split_and_horizon(series_checkpoint, findings):
    card = series_checkpoint / "README.md"
    text = card.read_text()
    assert findings(series_checkpoint) == []
    value = re.search(r"value: (\S+)\n      name: .* @ (\d+)$", text, re.MULTILINE)
    for old, new in {
        f"value: {value[1]}": f"value: {float(value[1]) * 1.01:.6g}",
        f"@ {value[2]}": "@ 5",
        "split: test": "split: validation",
    }.items():
        card.write_text(text.replace(old, new, 1))
        assert "on the card must be that of results.json" in findings(series_checkpoint)[0]


def test_numbers_of_a_split_are_compared_with_it_alone(series_checkpoint, findings):
    def keep_validation(results):
        results["rows"] = [row | {"split": "validation"} for row in results["rows"] if row["split"] == "test"]

    results = json.loads((series_checkpoint / "results.json").read_text())
    keep_validation(results)
    (series_checkpoint / "results.json").write_text(json.dumps(results))
    assert "found a metric that is not there" in findings(series_checkpoint)[0]


RESULTS = {
    "header": ('"header": {', '"header": 5, "other": {'),
    "models": ('"models": [', '"models": 5, "other": ['),
    "rows": ('"rows": [', '"rows": 5, "other": ['),
    "all": ("{", "[" * 100_000),
}


@pytest.mark.parametrize(("old", "new"), RESULTS.values(), ids=RESULTS)
def test_results_of_another_form_are_found(checkpoint, old, new, findings):
    replace(checkpoint / "results.json", old, new)
    assert "results.json must be a results file" in "\n".join(findings(checkpoint))


def test_a_runs_own_results_come_before_shipped_ones(checkpoint, findings):
    shipped = checkpoint.parent / "results" / f"{checkpoint.name}.json"
    shipped.parent.mkdir()
    shipped.write_text("{}")
    assert findings(checkpoint) == []
    (checkpoint / "results.json").rename(shipped)
    assert findings(checkpoint) == []


def test_the_folder_one_stands_in_is_published_as_by_its_name(monkeypatch, capsys):
    monkeypatch.chdir(CARDS / "alrnn-rossler")
    main([".", "--dry-run"])
    assert "results.json" in capsys.readouterr().out


def test_numbers_of_a_dataset_on_the_hub_go_to_its_leaderboard(checkpoint):
    replace(checkpoint / "README.md", "type: Rössler", "type: acme/rossler")
    entries = yaml.safe_load(prepare(checkpoint)[0].text(".eval_results/rossler.yaml"))
    assert {entry["dataset"]["id"] for entry in entries} == {"acme/rossler"}
