import json
from functools import partial

import pytest
from transformers import AutoConfig

from hf_tsdyn.series_card import results_table
from hf_tsdyn.series_results import SeriesResults
from hf_tsdyn.series_scores import SeriesRow
from training import evaluate_series, series_facts, ship_checkpoint, train

MODEL = {
    "model_type": "dynonet",
    "num_channels": 2,
    "context_length": 48,
    "prediction_length": 8,
    "controller_hidden_size": 4,
    "controller_patch_length": 8,
    "worker_hidden_size": 2,
    "worker_context_length": 16,
    "worker_patch_length": 8,
    "specialists": [{"kind": "periodic", "period": 8}],
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A checkout with a README that has a place for the results of "toy", and a page with one for the study "parts"."""
    folder = tmp_path / "checkout"
    (folder / "model_cards" / "results").mkdir(parents=True)
    (folder / "model_cards" / "parts").mkdir()
    for page, name in {"README.md": "toy", "model_cards/parts/README.md": "parts"}.items():
        (folder / page).write_text(f"before\n<!-- results {name} -->\n<!-- end -->\nafter\n")
    monkeypatch.setattr(series_facts, "RESULTS_FOLDER", folder / "model_cards" / "results")
    return folder


@pytest.fixture
def evaluated(waves, tmp_path):
    """A function (options) that trains and evaluates a tiny DynoNet on waves and returns its folder."""

    def make(*options):
        training = {"max_steps": 2, "per_device_train_batch_size": 4, "save_strategy": "no", "use_cpu": True,
                    "disable_tqdm": True, "output_dir": str(tmp_path / "run")}  # fmt: skip
        protocol = {"context_length": 48, "horizons": [8], "num_resamples": 20}
        evaluation = {"name": "toy", "dataset_name": "waves", "protocol": protocol, "baselines": ["persistence"]}
        content = {"model": MODEL, "data": {"path": str(waves)}, "training": training, "evaluation": evaluation,
                   "bilevel": {"mode": "lookahead"}}  # fmt: skip
        (tmp_path / "run.yaml").write_text(json.dumps(content))
        train.main(["--config", str(tmp_path / "run.yaml"), *options])
        evaluate_series.main([str(tmp_path / "run")])
        return tmp_path / "run"

    return make


@pytest.fixture
def study(tmp_path):
    """A function (split) that writes the results of a study of two models at two horizons and returns its folder."""

    def make(split="test"):
        rows = [
            SeriesRow(model, "waves", split, horizon, seed, metric, 0.1 * horizon + 0.01 * seed)
            for model in ("full", "less")
            for horizon in (8, 16)
            for seed in (0, 1)
            for metric in ("mse", "mae")
        ]
        header = {"name": "parts", "models": ["full", "less"], "labels": {}, "cpu_seconds": {}, "claims": {}}
        results = SeriesResults(header | {"num_parameters": {"full": 10, "less": 5}}, rows, [])
        results.write(tmp_path / "study" / "results.json")
        return tmp_path / "study"

    return make


def test_a_shipped_run_is_whole_and_its_card_renders_from_it(evaluated, root, tmp_path):
    target = ship_checkpoint.ship_checkpoint(evaluated(), root=root)
    assert target == root / "model_cards" / "toy"
    assert {file.name for file in target.iterdir()} == {
        "README.md", "config.json", "figures", "model.safetensors", "probe.safetensors", "run_config.yaml",
        "training_summary.json",
    }  # fmt: skip
    assert ship_checkpoint.evaluation_command(target) is evaluate_series
    for file in (target / "README.md", target / "run_config.yaml", target / "training_summary.json"):
        assert str(tmp_path) not in file.read_text()
    results = ship_checkpoint.read_results(root / "model_cards" / "results" / "toy.json")
    assert isinstance(results, SeriesResults)
    assert results_table(results) in (root / "README.md").read_text()
    request = evaluate_series.load_request([str(target)])
    card = evaluate_series.render_card(request, results, AutoConfig.from_pretrained(target))
    assert card == (target / "README.md").read_text()
    shown = {file.stem for file in (target / "figures").iterdir()}
    assert shown == {"errors", "forecasts", "control", "signals"}
    assert [name for name in shown if f"(figures/{name}.png)" not in card] == []


def test_a_probe_that_may_not_be_shipped_stays_behind(evaluated, root):
    checkpoint = evaluated("--evaluation.ship_probe", "false")
    target = ship_checkpoint.ship_checkpoint(checkpoint, root=root)
    assert (checkpoint / "probe.safetensors").is_file()
    assert (target / "model.safetensors").is_file()
    assert not (target / "probe.safetensors").exists()


def test_a_run_shows_its_study_which_is_shipped_first(evaluated, study, root):
    checkpoint = evaluated("--evaluation.study", "parts")
    with pytest.raises(ValueError, match="must be shipped first, found no results of 'parts'"):
        ship_checkpoint.ship_checkpoint(checkpoint, root=root)
    ship_checkpoint.ship_study(study(), root=root)
    target = ship_checkpoint.ship_checkpoint(checkpoint, root=root)
    study_results = ship_checkpoint.read_results(root / "model_cards" / "results" / "parts.json")
    assert study_results.table("waves", 8) in (target / "README.md").read_text()


def test_a_study_ships_its_results_their_table_and_figures(study, root, monkeypatch, capsys):
    monkeypatch.setattr(ship_checkpoint, "ship_study", partial(ship_checkpoint.ship_study, root=root))
    ship_checkpoint.main([str(study())])
    folder = root / "model_cards" / "parts"
    assert f"shipped to {folder / 'figures'}" in capsys.readouterr().out
    assert {file.name for file in (folder / "figures").iterdir()} == {
        "efficiency.png",
        "errors.png",
        "errors_waves.png",
    }
    results = SeriesResults.read(root / "model_cards" / "results" / "parts.json")
    assert results_table(results) in (folder / "README.md").read_text()


def test_a_study_without_a_page_is_refused_before_anything_is_written(study, root):
    (root / "model_cards" / "parts" / "README.md").unlink()
    with pytest.raises(ValueError, match=r"'<!-- results parts -->' .*add them to model_cards/parts/README.md"):
        ship_checkpoint.ship_study(study(), root=root)
    assert [*(root / "model_cards").rglob("*.*")] == []


def test_a_study_that_has_not_seen_the_test_windows_is_not_shipped(study, root):
    with pytest.raises(ValueError, match="must hold errors of test windows"):
        ship_checkpoint.ship_study(study("validation"), root=root)
    assert not (root / "model_cards" / "parts" / "figures").exists()
