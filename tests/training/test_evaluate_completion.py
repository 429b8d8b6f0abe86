import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_tsdyn.baselines import COMPLETION_BASELINES
from hf_tsdyn.completion import MASKS, metric_of
from hf_tsdyn.completion_card import difference_table, error_table
from hf_tsdyn.models import ARCHITECTURES, MASKED_MODELING
from hf_tsdyn.provenance import hardware_class, package_versions
from hf_tsdyn.results import EvaluationResults
from training import evaluate_completion

FIELDS = {"context_length": 64, "patch_length": 16, "d_model": 32, "num_hidden_layers": 1, "embedding": "linear"}


def save_model(folder, classes=MASKED_MODELING):
    """Save a small model with random weights."""
    torch.manual_seed(0)
    model_class = classes["dystformer"]
    model = model_class(model_class.config_class(**FIELDS, num_attention_heads=2, ffn_dim=32, prediction_length=16))
    model.save_pretrained(folder)
    return model.eval()


@pytest.fixture
def trained(tmp_path, oscillators):
    """A folder as a run of masked modelling leaves it."""
    folder = tmp_path / "run"
    model = save_model(folder)
    values = torch.linspace(0, 20, 64)[None, :, None].sin()
    mask = torch.zeros_like(values, dtype=torch.bool)
    mask[:, 20:40] = True
    completion = model.complete(values, mask)
    save_file({"past_values": values, "mask": mask, "completion": completion}, folder / "probe.safetensors")
    run = {
        "task": "masked_modeling",
        "data": {"path": str(oscillators)},
        "training": {
            "per_device_train_batch_size": 4, "learning_rate": 1e-3, "lr_scheduler_type": "cosine", "max_steps": 2,
        },
        "evaluation": {
            "name": "toy", "dataset_name": "oscillations", "split": "test",
            "protocol": {"context_length": 64, "horizons": [8], "num_windows": 2, "seed": 3},
        },
    }  # fmt: skip
    (folder / "run_config.yaml").write_text(json.dumps(run))  # JSON is YAML
    summary = {
        "model_type": "dystformer", "num_parameters": 1234, "num_trainable_parameters": 1234, "steps": 2,
        "best_step": None, "dataset_fingerprint": "ab12", "steps_per_period": 20.0, "train_systems": list("ABCDEF"),
        "validation_systems": ["G", "H"], "hardware": hardware_class(torch.device("cpu")),
        "versions": package_versions(),
    }  # fmt: skip
    (folder / "training_summary.json").write_text(json.dumps(summary))
    return folder


def test_without_matplotlib_everything_but_figures_is_written(trained, without_matplotlib, capsys):
    evaluate_completion.main([str(trained)])
    captured = capsys.readouterr()
    assert "pip install 'hf_tsdyn[plot]'" in captured.err
    assert "figures    none: no matplotlib here" in captured.out
    assert "![" not in (trained / "README.md").read_text()


def test_a_licence_that_was_not_chosen_is_on_no_card(trained):
    run = json.loads((trained / "run_config.yaml").read_text())
    run["evaluation"]["license"] = ""
    (trained / "run_config.yaml").write_text(json.dumps(run))
    evaluate_completion.main([str(trained)])
    card = (trained / "README.md").read_text()
    assert "apache" not in card
    assert "No licence was chosen" in card
    assert f'from_pretrained("{trained}")' in card


def test_evaluation_writes_results_figures_and_a_card_that_says_the_same(trained, capsys):
    evaluate_completion.main([str(trained), "--evaluation.protocol.mask_share", "0.25"])
    printed = capsys.readouterr().out
    results = EvaluationResults.read(trained / "results.json")
    assert results.header["models"] == ["toy", *COMPLETION_BASELINES]
    protocol = results.header["protocol"]
    wanted = {"context_length": 64, "patch_length": 16, "mask_share": 0.25, "num_windows": 2, "seed": 3}
    assert {name: protocol[name] for name in wanted} == wanted
    assert {row.metric for row in results.summary} == {metric_of(kind) for kind in MASKS}
    card = (trained / "README.md").read_text()
    assert error_table(results) in card
    assert error_table(results) in printed
    assert difference_table(results, "toy") in card
    assert "bit-equal" in printed
    assert "oscillations" in card
    figures = re.findall(r"\]\((figures/.*?)\)", card)
    assert len(figures) == 2
    assert all((trained / name).read_bytes().startswith(b"\x89PNG") for name in figures)


def test_a_checkpoint_that_completes_otherwise_than_in_training_is_refused(trained):
    probe = load_file(trained / "probe.safetensors")
    probe["completion"][0, 30, 0] += 1e-3
    save_file(probe, trained / "probe.safetensors")
    with pytest.raises(SystemExit, match=r"bit-equal, found differences up to 0\.001"):
        evaluate_completion.main([str(trained)])


def test_a_series_of_ones_own_is_scored_without_a_card(tmp_path, capsys):
    save_model(tmp_path / "plain")
    values = np.sin(0.3 * np.arange(600)[:, None] + np.arange(3)).astype(np.float32)
    values[580:583, 1] = np.nan
    np.save(tmp_path / "waves.npy", values)
    options = ["--data", str(tmp_path / "waves.npy"), "--series.test_share", "0.2", "--evaluation.baselines", "[mean]"]
    evaluate_completion.main([str(tmp_path / "plain"), *options])
    assert "no record of its training" in capsys.readouterr().out
    results = EvaluationResults.read(tmp_path / "plain" / "results.json")
    assert results.header["models"] == ["plain", "mean"]
    assert results.header["dataset"]["num_systems"] == 1
    assert not (tmp_path / "plain" / "README.md").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--evaluation.baselines", "[oracle]"], r"found \['oracle'\]"),
        (["--evaluation.protocol.mask_kinds", "[holes]"], "holes"),
        (["--evaluation.protocol.patch_length", "15"], "64 steps, patches of 15"),
        (["--evaluation.protocol.horizons", "[8]"], "horizons"),
    ],
)
def test_impossible_options_are_refused(trained, options, message, capsys):
    with pytest.raises(SystemExit):
        evaluate_completion.main([str(trained), *options])
    assert re.search(message, capsys.readouterr().err)


def test_other_models_and_empty_folders_are_refused(tmp_path, oscillators, capsys):
    save_model(tmp_path / "forecaster", ARCHITECTURES)
    for folder, message in {"forecaster": "found ['DystformerForPrediction']", "": "with config.json"}.items():
        with pytest.raises(SystemExit):
            evaluate_completion.main([str(tmp_path / folder), "--data", str(oscillators)])
        assert message in capsys.readouterr().err


def test_a_checkpoint_of_another_origin_needs_its_data_named(tmp_path, capsys):
    save_model(tmp_path / "plain")
    with pytest.raises(SystemExit):
        evaluate_completion.main([str(tmp_path / "plain")])
    assert "--data must name" in capsys.readouterr().err
