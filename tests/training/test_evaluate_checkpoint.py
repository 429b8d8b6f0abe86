import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from hf_tsdyn import DystformerForPrediction
from hf_tsdyn.results import EvaluationResults
from training import evaluate_checkpoint, train

CONFIGS = Path(train.__file__).parent / "configs"


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


def test_without_matplotlib_everything_but_figures_is_written(trained, without_matplotlib, capsys):
    evaluate_checkpoint.main([str(trained)])
    captured = capsys.readouterr()
    assert "pip install 'hf_tsdyn[plot]'" in captured.err
    assert "figures    none: no matplotlib here" in captured.out
    assert "![" not in (trained / "README.md").read_text()
    assert (trained / "results.json").is_file()


def test_the_card_of_ones_own_series_claims_nothing_of_systems_or_licences(run_options, waves, tmp_path, capsys):
    """With the settings of the guide, but for the model: what it starts from is shipped elsewhere."""
    guide = yaml.safe_load((CONFIGS / "finetune_series.yaml").read_text())["evaluation"]
    assert "model_id" not in guide
    options = ["--data.path", str(waves), "--evaluation.license", guide["license"]]
    train.main(run_options(*options, "--evaluation.dataset_name", guide["dataset_name"]))
    (tmp_path / "run" / "figures").mkdir()
    (tmp_path / "run" / "figures" / "systems.png").write_bytes(b"of an earlier evaluation")
    evaluate_checkpoint.main([str(tmp_path / "run")])
    card = ModelCard.load(tmp_path / "run" / "README.md")
    assert f'ForecastPipeline.from_pretrained("{tmp_path / "run"}")' in card.text
    assert card.data.license is None
    assert card.data.tags == ["hf_tsdyn", "dystformer", "time-series"]
    assert {result.dataset_name for result in card.data.eval_results} == {"a series of one's own, held-out part"}
    assert "Split `test`: 1 system, 1 trajectory, " in card.text
    assert "No licence was chosen: " in card.text
    assert "median over 1 system: " in capsys.readouterr().out
    assert "systems.png" not in card.text
    assert sorted(file.name for file in (tmp_path / "run" / "figures").iterdir()) == [
        "attractors.png",
        "error_growth.png",
    ]


@pytest.mark.parametrize("name", ["alrnn_series", "dynonet_series", "finetune_series"])
def test_guides_to_ones_own_series_leave_its_licence_and_its_place_open(name):
    evaluation = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["evaluation"]
    assert evaluation["license"] == ""
    assert "model_id" not in evaluation


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
