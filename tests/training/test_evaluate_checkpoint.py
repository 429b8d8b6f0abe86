import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_tsdyn import DystformerForPrediction
from hf_tsdyn.results import EvaluationResults
from training import evaluate_checkpoint, train


@pytest.fixture
def trained(run_options, tmp_path):
    train.main(run_options())
    return tmp_path / "run"


def test_evaluation_writes_results_figures_and_a_card_that_says_the_same(trained, capsys):
    evaluate_checkpoint.main([str(trained), "--evaluation.protocol.num_windows", "2"])
    printed = capsys.readouterr().out
    results = EvaluationResults.read(trained / "results.json")
    assert results.header["models"] == ["toy", "persistence", "mean", "parroting"]
    assert results.header["protocol"]["num_windows"] == 2
    assert results.header["dataset"]["num_systems"] == 3
    card = (trained / "README.md").read_text()
    assert results.summary_table() in card
    assert "bit-equal" in printed
    for name in re.findall(r"\]\((figures/.*?)\)", card):
        assert (trained / name).read_bytes().startswith(b"\x89PNG")
    assert len(re.findall(r"\]\(figures/", card)) == 3


def test_a_checkpoint_that_forecasts_otherwise_than_in_training_is_refused(trained):
    probe = load_file(trained / "probe.safetensors")
    probe["forecast"][0, 0, 0] += 1e-3
    save_file(probe, trained / "probe.safetensors")
    with pytest.raises(SystemExit, match=r"bit-equal, found differences up to 0\.001"):
        evaluate_checkpoint.main([str(trained)])


def test_on_another_machine_the_difference_is_told(trained, capsys):
    probe = load_file(trained / "probe.safetensors")
    probe["forecast"][0, 0, 0] += 1e-3
    save_file(probe, trained / "probe.safetensors")
    summary = json.loads((trained / "training_summary.json").read_text())
    summary["hardware"]["cpu"] = "another processor"
    (trained / "training_summary.json").write_text(json.dumps(summary))
    evaluate_checkpoint.main([str(trained)])
    assert "differ by up to 0.001" in capsys.readouterr().out


def test_a_checkpoint_of_another_origin_is_scored_without_a_card(trained, oscillators, tmp_path, capsys):
    DystformerForPrediction.from_pretrained(trained).save_pretrained(tmp_path / "plain")
    options = ["--evaluation.protocol.context_length", "64", "--evaluation.protocol.horizons", "[8]"]
    evaluate_checkpoint.main([*options, "--data", str(oscillators), str(tmp_path / "plain")])
    assert "no record of its training" in capsys.readouterr().out
    assert EvaluationResults.read(tmp_path / "plain" / "results.json").header["models"][0] == "plain"
    assert not (tmp_path / "plain" / "README.md").exists()


def test_a_folder_without_a_finished_run_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        evaluate_checkpoint.main([str(tmp_path)])
    assert "must be a folder with config.json" in capsys.readouterr().err


def test_an_unknown_baseline_is_refused(trained, capsys):
    with pytest.raises(SystemExit):
        evaluate_checkpoint.main([str(trained), "--evaluation.baselines", "[oracle]"])
    assert "found ['oracle']" in capsys.readouterr().err
    assert torch.is_tensor(load_file(trained / "probe.safetensors")["forecast"])


def test_another_checkpoint_is_scored_beside(trained, tmp_path):
    DystformerForPrediction.from_pretrained(trained).save_pretrained(tmp_path / "twin")
    beside = json.dumps({"twin": str(tmp_path / "twin")})
    evaluate_checkpoint.main([str(trained), "--evaluation.protocol.num_windows", "2", "--beside", beside])
    results = EvaluationResults.read(trained / "results.json")
    assert results.header["models"][:2] == ["toy", "twin"]
    to_twin = [row for row in results.differences if (row.model, row.baseline) == ("toy", "twin")]
    assert to_twin
    assert all(row.median == 0 for row in to_twin)
    assert "| twin |" in (trained / "README.md").read_text()


@pytest.mark.parametrize("beside", [{"mean": "run"}, {"twin": "nowhere"}])
def test_a_name_that_is_taken_or_a_folder_that_is_none_is_refused_beside(trained, beside, monkeypatch, capsys):
    monkeypatch.chdir(trained.parent)
    with pytest.raises(SystemExit):
        evaluate_checkpoint.main([str(trained), "--beside", json.dumps(beside)])
    assert "--beside must name other checkpoints" in capsys.readouterr().err
