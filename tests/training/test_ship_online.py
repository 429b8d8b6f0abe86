from pathlib import Path

import pytest
import yaml

from hf_tsdyn.online_card import online_summary
from hf_tsdyn.online_results import is_online, put_entry
from hf_tsdyn.series_results import SeriesResults
from hf_tsdyn.series_scores import SeriesInterval, SeriesRow
from training import ship_checkpoint
from training.online_page import commands_of, render_online_page
from training.ship_checkpoint import read_results

ERRORS = {"persistence": 0.2, "ridge": 0.21, "frozen": 0.22, "learner": 0.15}
SHIPPED_RESULTS = Path(ship_checkpoint.ROOT / "model_cards" / "results").glob("*.json")
SHIPPED = [file for file in sorted(SHIPPED_RESULTS) if is_online(read_results(file))]


@pytest.fixture
def root(tmp_path):
    """A checkout with a README that has a place for the results of "online-toy"."""
    folder = tmp_path / "checkout"
    (folder / "model_cards").mkdir(parents=True)
    (folder / "training" / "configs").mkdir(parents=True)
    datasets = {"waves": "waves.csv", "jumps": "generated/jumps", "again": "generated/jumps"}
    (folder / "training" / "configs" / "online_toy.yaml").write_text(yaml.safe_dump({"datasets": datasets}))
    (folder / "data_generation" / "configs").mkdir(parents=True)
    (folder / "data_generation" / "configs" / "leaps.yaml").write_text("output: generated/jumps\n")
    (folder / "README.md").write_text("before\n<!-- results online-toy -->\nold\n<!-- end -->\nafter\n")
    return folder


@pytest.fixture
def study(tmp_path):
    """A function (name) that writes the results of an online study and returns its folder."""

    def make(name="online-toy"):
        header = {
            "name": name, "models": list(ERRORS), "labels": {}, "claims": {},
            "num_parameters": {}, "cpu_seconds": {}, "git_revision": None,
            "protocol": {"num_resamples": 10, "confidence": 0.95, "seed": 0},
            "methods": {model: {"learns": False} for model in ERRORS} | {"learner": {"frozen": "frozen"}},
            "roles": {"reference": "persistence", "persistence": "persistence", "ridge": "ridge"},
            "datasets": {"waves": {"fingerprint": "abc", "channel_names": ["x"], "num_train_steps": 100,
                                   "num_windows": {"delayed": {"4": 50}, "immediate": {"4": 50}}}},
            "versions": {}, "hardware": {"cpu": "a CPU", "num_cores": 2, "accelerator": None},
        }  # fmt: skip
        rows, intervals = [], []
        for protocol in ("delayed", "immediate"):
            for model, error in ERRORS.items():
                rows += [SeriesRow(model, "waves", protocol, 4, 0, metric, error) for metric in ("mse", "mae")]
                place = {"dataset": "waves", "horizon": 4, "protocol": protocol}
                put_entry(header, "curves", model, {"step": [1, 50], "mse": [error, error]}, **place)
            intervals += [
                SeriesInterval("learner", baseline, "waves", protocol, 4, "mse", -0.05, -0.06, -0.04, 1)
                for baseline in list(ERRORS)[:-1]
            ]
        folder = tmp_path / "runs" / name
        SeriesResults(header, rows, intervals).write(folder / "results.json")
        return folder

    return make


def test_results_figures_page_and_table_are_shipped(study, root):
    folder = study()
    target = ship_checkpoint.ship_study(folder, root=root).parent
    assert target == root / "model_cards" / "online-toy"
    shipped = root / "model_cards" / "results" / "online-toy.json"
    assert shipped.read_bytes() == (folder / "results.json").read_bytes()
    results = SeriesResults.read(shipped)
    summary = online_summary(results)
    start, end = "<!-- results online-toy -->", "<!-- end -->"
    assert (root / "README.md").read_text() == f"before\n{start}\n{summary}\n{end}\nafter\n"
    page = (target / "README.md").read_text()
    assert page == render_online_page(results, target, root=root)
    figures = {file.name for file in (target / "figures").iterdir()}
    kinds = ("bars", "curves", "improvement", "ranking")
    assert figures == {f"{kind}_waves-4_{end}.png" for kind in kinds for end in ("delayed", "leaky")}
    assert all(f"(figures/{name})" in page for name in figures)
    assert "\n".join(commands_of("online-toy", root=root)) in page


def test_commands_generate_what_is_generated_and_ask_for_the_files_of_the_rest(root):
    assert commands_of("online-toy", root=root) == [
        "python -m data_generation --config data_generation/configs/leaps.yaml",
        "python -m training.run_online --config training/configs/online_toy.yaml --datasets.waves PATH/TO/waves.csv "
        "--output_dir runs/online-toy",
        "python -m training.ship_checkpoint runs/online-toy",
    ]
    with pytest.raises(FileNotFoundError, match=r"must lie in training/configs/online_other\.yaml"):
        commands_of("online-other", root=root)


def test_a_study_that_no_other_page_shows_has_its_own(study, root):
    (root / "README.md").write_text("nothing")
    page = ship_checkpoint.ship_study(study(), root=root).parent / "README.md"
    assert page.is_file()
    assert (root / "README.md").read_text() == "nothing"


def test_shipping_again_gives_the_same_bytes_and_leaves_nothing_old(study, root):
    folder = study()
    target = ship_checkpoint.ship_study(folder, root=root).parent
    first = {file.relative_to(target): file.read_bytes() for file in target.rglob("*") if file.is_file()}
    (target / "figures" / "old.png").write_bytes(b"")
    ship_checkpoint.ship_study(folder, root=root)
    assert {file.relative_to(target): file.read_bytes() for file in target.rglob("*") if file.is_file()} == first
    assert [each.name for each in sorted((root / "model_cards").iterdir())] == ["online-toy", "results"]


def test_the_command_takes_an_online_study(study, monkeypatch, capsys):
    shipped = []
    monkeypatch.setattr(ship_checkpoint, "ship_study", lambda folder: shipped.append(folder) or folder)
    ship_checkpoint.main([str(study())])
    assert shipped == [study()]
    assert "shipped to" in capsys.readouterr().out


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_shipped_page_is_what_its_results_render_to(file):
    folder = file.parents[1] / file.stem
    assert (folder / "README.md").read_text() == render_online_page(
        SeriesResults.read(file), folder, root=ship_checkpoint.ROOT
    )
    assert (ship_checkpoint.ROOT / "training" / "configs" / f"{file.stem.replace('-', '_')}.yaml").is_file()
