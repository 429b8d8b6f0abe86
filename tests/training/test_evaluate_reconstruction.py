import json
import re
import shlex
import shutil

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from hf_tsdyn import ALRNNConfig, ALRNNForPrediction
from hf_tsdyn.reconstruction import FLOOR, LINEAR, PERSISTENCE, TRUTH
from hf_tsdyn.reconstruction_card import reconstruction_table
from hf_tsdyn.results import EvaluationResults
from training import evaluate_reconstruction, sweep
from training.reconstruction_facts import reconstruction_card_facts
from training.sweep_config import load_sweep_config

SETTINGS = {
    "model": {"hidden_size": 4, "num_relu_units": 1, "prediction_length": 20, "forcing_interval": 4},
    "fit": {"num_epochs": 4, "batches_per_epoch": 4, "evaluation_interval": 2, "learning_rate": 0.005, "discard": 20},
    "evaluation": {
        "discard": 20, "symbolic_steps": 1000, "invariants": {"num_bins": 6, "prediction_steps": 4},
        "system": "a circle", "dt": 0.1, "known": {"lyapunov_max": 0.0},
    },
}  # fmt: skip


def circle(num_steps, phase):
    angles = phase + 0.1 * np.arange(num_steps)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of a sweep of two models, and the series it was made from."""
    folder = tmp_path_factory.mktemp("sweep")
    np.save(folder / "train.npy", circle(1000, 0.0))
    np.save(folder / "test.npy", circle(420, 2.0))
    data = {"path": str(folder / "train.npy"), "test_path": str(folder / "test.npy")}
    settings = SETTINGS | {"name": "round", "data": data, "num_seeds": 2, "output_dir": str(folder / "runs"), "jobs": 1}
    (folder / "sweep.yaml").write_text(json.dumps(settings))  # JSON is YAML
    sweep.main(["--config", str(folder / "sweep.yaml")])
    return folder


@pytest.fixture(scope="module")
def evaluated(runs):
    """The checkpoint of that sweep, evaluated."""
    evaluate_reconstruction.main([str(runs / "runs" / "only" / "best")])
    return runs / "runs" / "only" / "best"


@pytest.fixture
def best(runs, tmp_path):
    """A copy of the checkpoint."""
    return shutil.copytree(runs / "runs" / "only" / "best", tmp_path / "best")


def change_settings(checkpoint, **changes):
    run = yaml.safe_load((checkpoint / "run_config.yaml").read_text())
    run["evaluation"] |= changes
    (checkpoint / "run_config.yaml").write_text(yaml.safe_dump(run))


def test_evaluation_writes_results_figures_and_a_card_that_says_the_same(evaluated):
    results = EvaluationResults.read(evaluated / "results.json")
    assert results.header["models"] == ["round", LINEAR, PERSISTENCE, FLOOR, TRUTH]
    assert list(results.header["symbolic"]) == ["round"]
    protocol = results.header["protocol"]
    assert (protocol["num_steps"], protocol["dt"], protocol["symbolic_steps"]) == (400, 0.1, 1000)
    assert results.summary_of(LINEAR, "prediction_error", 4).median < 1e-6
    card = (evaluated / "README.md").read_text()
    assert reconstruction_table(results) in card
    assert "Symbolic analysis" in card
    assert "of seed" in card
    figures = re.findall(r"\]\((figures/.*?)\)", card)
    names = ("reconstruction", "spectra", "symbols", "transitions", "history")
    assert figures == [f"figures/{name}.png" for name in names]
    assert all((evaluated / name).read_bytes().startswith(b"\x89PNG") for name in figures)


def test_the_card_renders_from_its_records_alone(evaluated, tmp_path):
    copy = shutil.copytree(evaluated, tmp_path / "copy")
    (copy / "model.safetensors").unlink()
    request = evaluate_reconstruction.load_request([str(copy)])
    results = EvaluationResults.read(copy / "results.json")
    card = evaluate_reconstruction.render_card(request, results, AutoConfig.from_pretrained(copy))
    here = (evaluated / "README.md").read_text()
    assert f'from_pretrained("{evaluated}")' in here
    assert card == here.replace(str(evaluated), "model_cards/round")


def test_the_cards_command_is_the_same_sweep(evaluated, runs):
    (command,) = re.findall(r"^python -m training.sweep (.*)$", (evaluated / "README.md").read_text(), re.MULTILINE)
    config, _ = load_sweep_config(shlex.split(command))
    expected, _ = load_sweep_config(["--config", str(runs / "sweep.yaml")])
    assert config.fit == expected.fit
    assert config.all_seeds == expected.all_seeds
    assert (config.data.path, config.data.test_path) == ("DATA", "TEST_DATA")
    assert config.data.validation_share == expected.data.validation_share
    assert expected.model.items() <= config.model.items()
    assert config.evaluation.protocol == expected.evaluation.protocol
    assert (config.evaluation.system, config.evaluation.known) == ("a circle", {"lyapunov_max": 0.0})


def test_options_override_the_runs_settings(best, runs):
    np.save(runs / "other.npy", circle(500, 1.0))
    options = ["--data", str(runs / "other.npy"), "--dt", "0.5", "--evaluation.num_steps", "300"]
    second = ["--second_data", str(runs / "test.npy"), "--evaluation.name", "other"]
    evaluate_reconstruction.main([str(best), *options, *second])
    results = EvaluationResults.read(best / "results.json")
    assert results.header["models"][0] == "other"
    assert (results.header["protocol"]["num_steps"], results.header["protocol"]["dt"]) == (300, 0.5)
    floors = {row.horizon for row in results.summary if row.model == FLOOR}
    assert floors == {150, 300}
    card = (best / "README.md").read_text()
    assert "at full length another series against it" in card
    assert "a step being 0.5 of it" in card
    assert f"| test | a series named for the evaluation, fingerprint `{results.header['scored']['data']}`" in card
    assert f"SECOND_DATA: that of fingerprint {results.header['scored']['second_data']}" in card
    assert "RUNS/only/best --data OTHER_TEST_DATA --second_data SECOND_DATA" in card
    (sweep_command,) = re.findall(r"^python -m training.sweep (.*)$", card, re.MULTILINE)
    config, _ = load_sweep_config(shlex.split(sweep_command))
    assert (config.name, config.evaluation.dt, config.evaluation.num_steps) == ("other", 0.5, 300)
    request = evaluate_reconstruction.load_request([str(best)])
    again = evaluate_reconstruction.render_card(request, results, AutoConfig.from_pretrained(best))
    assert again == card.replace(str(best), "model_cards/other")
    assert "history.png" not in card  # the other seeds lie beside the run, not beside this copy


def test_without_matplotlib_everything_but_figures_is_written(best, without_matplotlib, capsys):
    evaluate_reconstruction.main([str(best)])
    captured = capsys.readouterr()
    assert "pip install 'hf_tsdyn[plot]'" in captured.err
    assert "figures    none: no matplotlib here" in captured.out
    assert "![" not in (best / "README.md").read_text()
    assert (best / "results.json").is_file()


def test_a_second_series_that_is_no_floor_is_refused(best, runs, tmp_path):
    np.save(tmp_path / "short.npy", circle(300, 1.0))
    np.save(tmp_path / "wide.npy", np.hstack([circle(420, 1.0)] * 2))
    for second in (tmp_path / "short.npy", tmp_path / "wide.npy", runs / "test.npy"):
        with pytest.raises(SystemExit, match="second true series must have at least the 400 steps"):
            evaluate_reconstruction.main([str(best), "--second_data", str(second)])


def test_training_data_are_no_test_data(best, runs, tmp_path):
    np.save(tmp_path / "start.npy", circle(1000, 0.0)[:800].astype(np.float64))
    for seen in (runs / "train.npy", tmp_path / "start.npy"):
        with pytest.raises(SystemExit, match="error: --data must name a series that the run was not trained on"):
            evaluate_reconstruction.main([str(best), "--data", str(seen)])


def test_a_named_series_is_scored_on_when_the_runs_own_has_moved(best, runs, tmp_path, capsys):
    run = yaml.safe_load((best / "run_config.yaml").read_text())
    run["data"] |= {"path": "moved.npy", "columns": ["1", "0"]}
    (best / "run_config.yaml").write_text(yaml.safe_dump(run))
    with pytest.raises(
        SystemExit, match=r"found nothing at 'moved.npy'; restore it, or name a true series with --data"
    ):
        evaluate_reconstruction.main([str(best)])
    np.save(tmp_path / "wide.npy", np.column_stack([circle(420, 1.0), np.arange(420)]))
    evaluate_reconstruction.main([str(best), "--data", str(tmp_path / "wide.npy")])
    assert "without the linear baseline" in capsys.readouterr().out
    results = EvaluationResults.read(best / "results.json")
    assert results.header["models"] == ["round", PERSISTENCE, FLOOR, TRUTH]
    assert "no `linear` model, as the training series was not at hand" in (best / "README.md").read_text()
    np.save(tmp_path / "two.npy", np.stack([circle(420, 1.0)] * 2))
    with pytest.raises(SystemExit, match=r"--data must leave no doubt which of the 2 series .* name a path that holds"):
        evaluate_reconstruction.main([str(best), "--data", str(tmp_path / "two.npy")])


def test_with_another_test_series_the_runs_own_need_not_be_there(best, runs, tmp_path):
    run = yaml.safe_load((best / "run_config.yaml").read_text())
    run["data"]["test_path"] = "moved.npy"
    (best / "run_config.yaml").write_text(yaml.safe_dump(run))
    np.save(tmp_path / "other.npy", circle(420, 1.0))
    evaluate_reconstruction.main([str(best), "--data", str(tmp_path / "other.npy")])
    assert LINEAR in EvaluationResults.read(best / "results.json").header["models"]


def test_what_the_run_forbids_to_ship_no_option_allows(best, capsys):
    change_settings(best, ship_weights=False)
    with pytest.raises(SystemExit):
        evaluate_reconstruction.main([str(best), "--evaluation.ship_weights", "true"])
    assert "--evaluation.ship_weights must be false for a run" in capsys.readouterr().err


def test_damaged_files_are_named(best):
    for name, message in {
        "model.safetensors": "must hold a whole model",
        "training_summary.json": "whole JSON",
    }.items():
        (best / name).write_bytes((best / name).read_bytes()[:50])
        with pytest.raises(SystemExit, match=rf"error: {re.escape(str(best))}.*{message}.*delete that f"):
            evaluate_reconstruction.main([str(best)])


def test_a_card_says_which_of_several_series_was_trained_on(best):
    run = yaml.safe_load((best / "run_config.yaml").read_text())
    run["data"]["item"] = 3
    (best / "run_config.yaml").write_text(yaml.safe_dump(run))
    (best / "results.json").unlink(missing_ok=True)
    request = evaluate_reconstruction.load_request([str(best)])
    facts = reconstruction_card_facts(
        request.run_config, request.summary, config=AutoConfig.from_pretrained(best), evaluation=request.evaluation,
        scored={}, figures=(),
    )  # fmt: skip
    assert facts.card.training_data["item"] == "series 3 of its file"
    assert facts.card.model_id == "model_cards/round"


def test_without_a_licence_for_weights_neither_they_nor_the_series_are_shown(best):
    change_settings(best, ship_weights=False)
    evaluate_reconstruction.main([str(best)])
    card = (best / "README.md").read_text()
    assert "the licence of the series is not stated" in card
    assert "```python" not in card
    assert sorted(file.name for file in (best / "figures").iterdir()) == ["symbols.png", "transitions.png"]


def test_no_licence_is_claimed_where_none_was_chosen(best):
    evaluate_reconstruction.main([str(best), "--evaluation.license", ""])
    card = (best / "README.md").read_text()
    assert "license:" not in card.split("\n---\n")[0]
    assert card.rstrip().endswith("all rights are reserved.")
    assert '"license": ""' in card
    evaluate_reconstruction.main([str(best), "--evaluation.license", "mit"])
    card = (best / "README.md").read_text()
    assert "license: mit" in card.split("\n---\n")[0]
    assert card.rstrip().endswith("\nmit")


def test_a_checkpoint_that_forecasts_otherwise_than_in_training_is_refused(best):
    probe = load_file(best / "probe.safetensors")
    probe["forecast"][0, 3, 0] += 1e-3
    save_file(probe, best / "probe.safetensors")
    with pytest.raises(SystemExit, match=r"bit-equal, found differences up to 0\.001"):
        evaluate_reconstruction.main([str(best)])


def test_series_that_changed_since_training_are_refused(best, tmp_path):
    np.save(tmp_path / "other.npy", circle(420, 1.0))
    run = yaml.safe_load((best / "run_config.yaml").read_text())
    run["data"]["test_path"] = str(tmp_path / "other.npy")
    (best / "run_config.yaml").write_text(yaml.safe_dump(run))
    with pytest.raises(SystemExit, match="must be scored on the series that it was made for, found test_fingerprint"):
        evaluate_reconstruction.main([str(best)])


def test_a_cell_of_a_grid_is_named_after_its_values(best):
    run = yaml.safe_load((best / "run_config.yaml").read_text())
    (best / "run_config.yaml").write_text(yaml.safe_dump(run | {"cell": "num_relu_units=1,learning_rate=0.005"}))
    request = evaluate_reconstruction.load_request([str(best)])
    assert request.evaluation.name == "round-num_relu_units-1-learning_rate-0.005"


def test_a_checkpoint_of_another_origin_is_scored_without_a_card(tmp_path, runs, capsys):
    ALRNNForPrediction(ALRNNConfig(num_channels=2, hidden_size=4)).save_pretrained(tmp_path / "plain")
    with pytest.raises(SystemExit):
        evaluate_reconstruction.main([str(tmp_path / "plain")])
    assert "--data must name" in capsys.readouterr().err
    options = ["--evaluation.symbolic_steps", "1000", "--evaluation.discard", "20"]
    evaluate_reconstruction.main([str(tmp_path / "plain"), "--data", str(runs / "test.npy"), *options])
    assert "no record of its training" in capsys.readouterr().out
    results = EvaluationResults.read(tmp_path / "plain" / "results.json")
    assert results.header["models"] == ["plain", PERSISTENCE, FLOOR, TRUTH]
    assert not (tmp_path / "plain" / "README.md").exists()


def test_a_run_without_a_test_series_needs_one_named(best):
    run = yaml.safe_load((best / "run_config.yaml").read_text())
    run["data"]["test_path"], run["dataset"]["test_fingerprint"] = None, None
    (best / "run_config.yaml").write_text(yaml.safe_dump(run))
    with pytest.raises(SystemExit, match="must have a test series"):
        evaluate_reconstruction.main([str(best)])


def test_other_models_empty_folders_and_impossible_options_are_refused(tmp_path, best, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "dystformer"}')
    wrong = {
        "found 'dystformer'": [str(tmp_path / "other")],
        "with config.json": [str(tmp_path)],
        "found 0.0; give the sampling interval": [str(best), "--evaluation.dt", "0.0"],
        "found {'num_steps': 1}": [str(best), "--evaluation.num_steps", "1"],
    }
    for message, options in wrong.items():
        with pytest.raises(SystemExit):
            evaluate_reconstruction.main(options)
        assert message in capsys.readouterr().err
