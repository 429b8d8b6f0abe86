import json
import shutil

import numpy as np
import pytest
import yaml
from transformers import AutoConfig

from hf_tsdyn.reconstruction_card import reconstruction_table
from hf_tsdyn.results import EvaluationResults
from training import evaluate_checkpoint, evaluate_reconstruction, sweep, train
from training.ship_checkpoint import evaluation_command, main, ship_checkpoint


@pytest.fixture
def root(tmp_path):
    """A checkout with a README that has a place for the results of "toy"."""
    folder = tmp_path / "checkout"
    (folder / "model_cards" / "results").mkdir(parents=True)
    (folder / "README.md").write_text("before\n<!-- results toy -->\n<!-- end -->\nafter\n")
    return folder


@pytest.fixture
def evaluated(run_options, start_options, tmp_path):
    """An evaluated run that began with another one, both in folders of this machine."""
    train.main(run_options(output="start"))
    train.main(start_options("--checkpoint", str(tmp_path / "start"), output="tuned"))
    evaluate_checkpoint.main([str(tmp_path / "tuned")])
    return tmp_path / "tuned"


@pytest.fixture
def reconstruction(tmp_path):
    """A function (options of its evaluation) that makes an evaluated reconstruction "toy" of a circle."""

    def make(**evaluation):
        angles = 0.1 * np.arange(1200)
        np.save(tmp_path / "circle.npy", np.stack([np.cos(angles), np.sin(angles)], axis=1))
        settings = {
            "name": "toy",
            "data": {"path": str(tmp_path / "circle.npy"), "test_share": 0.3},
            "model": {"hidden_size": 3, "num_relu_units": 1, "prediction_length": 10},
            "fit": {"num_epochs": 1, "batches_per_epoch": 2, "discard": 5},
            "evaluation": {"discard": 20, "symbolic_steps": 1000} | evaluation,
            "output_dir": str(tmp_path / "sweep"),
            "jobs": 1,
        }
        (tmp_path / "sweep.yaml").write_text(json.dumps(settings))
        sweep.main(["--config", str(tmp_path / "sweep.yaml")])
        best = tmp_path / "sweep" / "only" / "best"
        evaluate_reconstruction.main([str(best)])
        return best

    return make


def test_a_shipped_reconstruction_is_whole_and_its_card_renders_from_it(reconstruction, root, tmp_path):
    checkpoint = reconstruction()
    target = ship_checkpoint(checkpoint, root=root)
    assert evaluation_command(target) is evaluate_reconstruction
    assert {file.name for file in target.iterdir()} == {
        "README.md", "config.json", "figures", "model.safetensors", "probe.safetensors", "run_config.yaml",
        "training_summary.json",
    }  # fmt: skip
    for file in (target / "README.md", target / "run_config.yaml", target / "training_summary.json"):
        assert str(tmp_path) not in file.read_text()
    results = EvaluationResults.read(root / "model_cards" / "results" / "toy.json")
    assert reconstruction_table(results) in (root / "README.md").read_text()
    del results.header["evaluation"]
    results.write(checkpoint / "results.json")
    with pytest.raises(ValueError, match="must hold the settings of their evaluation"):
        ship_checkpoint(checkpoint, root=root)


def test_what_may_not_be_shipped_stays_behind(reconstruction, root):
    checkpoint = reconstruction(ship_weights=False)
    target = ship_checkpoint(checkpoint, root=root)
    assert not list(target.glob("*.safetensors"))
    shown = {file.stem for file in (target / "figures").iterdir()}
    assert shown <= {"symbols", "transitions", "history"}
    assert "the licence of the series is not stated" in (target / "README.md").read_text()
    (checkpoint / "figures" / "reconstruction.png").write_bytes(b"a picture of the series")
    with pytest.raises(ValueError, match=r"must not show its series, found \['reconstruction'\]"):
        ship_checkpoint(checkpoint, root=root)


@pytest.mark.parametrize("where", ["evaluation", "sweep"])
def test_what_was_forbidden_after_training_stays_behind(reconstruction, root, tmp_path, where):
    checkpoint, forbidden = reconstruction(), ["--evaluation.ship_weights", "false"]
    if where == "sweep":
        sweep.main(["--config", str(tmp_path / "sweep.yaml"), *forbidden])
        with pytest.raises(ValueError, match="must not show its series"):
            ship_checkpoint(checkpoint, root=root)
        evaluate_reconstruction.main([str(checkpoint)])
    else:
        evaluate_reconstruction.main([str(checkpoint), *forbidden])
    target = ship_checkpoint(checkpoint, root=root)
    assert not list(target.glob("*.safetensors"))
    assert "the licence of the series is not stated" in (target / "README.md").read_text()


def test_a_reconstruction_ships_as_it_was_evaluated(reconstruction, root, tmp_path):
    checkpoint = reconstruction(model_id=str(tmp_path / "sweep" / "only" / "best"))
    evaluate_reconstruction.main([str(checkpoint), "--evaluation.name", "other", "--dt", "0.25"])
    target = ship_checkpoint(checkpoint, root=root)
    assert target.name == "other"
    card, results = (target / "README.md").read_text(), root / "model_cards" / "results" / "other.json"
    assert "a step being 0.25 of it" in card
    assert 'from_pretrained("model_cards/other")' in card
    for file in (*target.glob("*.*"), results):
        assert str(tmp_path).encode() not in file.read_bytes()
    request = evaluate_reconstruction.load_request([str(target)])
    config = AutoConfig.from_pretrained(target)
    assert evaluate_reconstruction.render_card(request, EvaluationResults.read(results), config) == card


def test_an_alrnn_of_the_trainer_ships_as_a_forecaster(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "alrnn"}')
    (tmp_path / "run_config.yaml").write_text("task: forecast\ntraining: {}\n")
    assert evaluation_command(tmp_path) is evaluate_checkpoint


def test_a_shipped_run_is_whole_and_names_no_folder_of_the_machine(evaluated, root, tmp_path):
    target = ship_checkpoint(evaluated, root=root)
    assert target == root / "model_cards" / "toy"
    for file in (target / "README.md", target / "run_config.yaml"):
        assert str(tmp_path) not in file.read_text()
    settings = yaml.safe_load((target / "run_config.yaml").read_text())
    assert (settings["data"]["path"], settings["checkpoint"]) == ("DATA", "start")
    assert "| toy |" in (root / "README.md").read_text()
    assert (root / "model_cards" / "results" / "toy.json").is_file()
    assert ship_checkpoint(evaluated, root=root) == target
    assert not list((root / "model_cards").glob(".*"))


def test_shipping_from_where_it_goes_loses_nothing(evaluated, root):
    target = ship_checkpoint(evaluated, root=root)
    shutil.copy(evaluated / "results.json", target)
    with pytest.raises(ValueError, match="must be a run's own folder"):
        ship_checkpoint(target, root=root)
    assert (target / "model.safetensors").is_file()


def test_a_readme_without_a_place_stays_as_it_is(evaluated, root):
    (root / "README.md").write_text("nothing")
    assert (ship_checkpoint(evaluated, root=root) / "README.md").is_file()
    assert (root / "README.md").read_text() == "nothing"


def test_a_name_that_is_no_folder_is_refused(evaluated, root):
    settings = yaml.safe_load((evaluated / "run_config.yaml").read_text())
    for name in ("../x", "results", "", ".hidden"):
        settings["evaluation"]["name"] = name
        (evaluated / "run_config.yaml").write_text(yaml.safe_dump(settings))
        with pytest.raises(ValueError, match="must be the name of a folder"):
            ship_checkpoint(evaluated, root=root)


def test_the_command_says_what_is_missing(run_options, tmp_path):
    train.main(run_options())
    with pytest.raises(SystemExit, match="must hold an evaluated run"):
        main([str(tmp_path / "run")])
