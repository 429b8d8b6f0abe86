import shutil

import pytest
import yaml

from training import evaluate_checkpoint, train
from training.ship_checkpoint import main, ship_checkpoint


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


def test_a_readme_without_a_place_stops_it_before_anything_is_written(evaluated, root):
    (root / "README.md").write_text("nothing")
    with pytest.raises(ValueError, match="must hold the lines"):
        ship_checkpoint(evaluated, root=root)
    assert not (root / "model_cards" / "toy").exists()


@pytest.mark.parametrize("name", ["../x", "results", "", ".hidden"])
def test_a_name_that_is_no_folder_is_refused(evaluated, root, name):
    settings = yaml.safe_load((evaluated / "run_config.yaml").read_text())
    settings["evaluation"]["name"] = name
    (evaluated / "run_config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ValueError, match="must be the name of a folder"):
        ship_checkpoint(evaluated, root=root)


def test_the_command_says_what_is_missing(run_options, tmp_path):
    train.main(run_options())
    with pytest.raises(SystemExit, match="must hold an evaluated run"):
        main([str(tmp_path / "run")])
