import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from hf_tsdyn.metrics.invariants import InvariantOptions, state_space_divergence
from hf_tsdyn.models.alrnn import ALRNNForPrediction
from hf_tsdyn.models.alrnn.fitting import FitOptions, FitStatus
from training import sweep, sweep_chunks
from training.probe import verify_reload
from training.sweep_data import SweepData
from training.sweep_folder import Member, SweepFolder
from training.sweep_table import choose_best

SETTINGS = {
    "name": "toy",
    "model": {"hidden_size": 6, "prediction_length": 10, "forcing_interval": 5},
    "grid": {"model.num_relu_units": [1, 2]},
    "num_seeds": 3,
    "fit": {"num_epochs": 3, "batches_per_epoch": 4, "batch_size": 4, "evaluation_interval": 1, "discard": 10},
    "evaluation": {
        "discard": 20,
        "invariants": {"num_bins": 5, "spectrum_smoothing": 2.0, "prediction_steps": 5},
    },
    "jobs": 1,
}
CELLS = ("num_relu_units=1", "num_relu_units=2")


@pytest.fixture
def tones(tmp_path):
    """An NPY file of 600 steps of three noisy tones."""
    steps = 0.3 * np.arange(600)
    clean = np.stack([np.sin(steps), np.cos(steps), np.sin(0.37 * steps)], axis=1)
    np.save(tmp_path / "tones.npy", clean + 0.05 * np.random.default_rng(0).normal(size=clean.shape))
    return tmp_path / "tones.npy"


@pytest.fixture
def options(tones, tmp_path):
    """Command-line options of a sweep of two cells with three seeds each."""
    data = {"path": str(tones), "test_share": 0.2, "validation_smoothing": 1.0}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(SETTINGS | {"data": data}))

    def build(*more, output="sweep"):
        return ["--config", str(tmp_path / "sweep.yaml"), "--output_dir", str(tmp_path / output), *more]

    return build


def weights(folder):
    """Bytes of every model of a sweep by its path, those of the best among them."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("model.safetensors")}


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_a_sweep_leaves_every_model_and_the_best_of_each_cell(options, tmp_path, capsys):
    sweep.main(options())
    folder = tmp_path / "sweep"
    models = {f"{cell}/{part}/model.safetensors" for cell in CELLS for part in ("seed-0", "seed-1", "seed-2", "best")}
    assert weights(folder).keys() == models
    assert not list(folder.rglob(".*"))
    content = results(folder)
    assert [(row["cell"], row["seed"]) for row in content["rows"]] == [(c, s) for c in CELLS for s in range(3)]
    for cell in CELLS:
        rows = [row for row in content["rows"] if row["cell"] == cell]
        chosen = min(rows, key=lambda row: row["validation_divergence"])
        assert [row["seed"] for row in rows if row["selected"]] == [chosen["seed"]]
        best, source = folder / cell / "best", folder / cell / f"seed-{chosen['seed']}"
        assert (best / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
        summary = json.loads((best / "training_summary.json").read_text())
        assert (summary["seed"], summary["best_epoch"]) == (chosen["seed"], chosen["best_epoch"])
        assert summary["best_validation_divergence"] == chosen["validation_divergence"]
        assert "bit-equal" in verify_reload(ALRNNForPrediction.from_pretrained(best), best, summary)
    captured = capsys.readouterr()
    assert (folder / "results.md").read_text() in captured.out
    assert "6/6" in captured.err
    assert "exploded 0" in captured.err


def test_the_record_of_a_checkpoint_says_how_to_make_it_again(options, tones, tmp_path):
    sweep.main(options())
    best = tmp_path / "sweep" / CELLS[1] / "best"
    record = yaml.safe_load((best / "run_config.yaml").read_text())
    assert record["cell"] == CELLS[1]
    assert record["model"] == SETTINGS["model"] | {"model_type": "alrnn", "num_channels": 3, "num_relu_units": 2}
    assert SETTINGS["fit"].items() <= record["fit"].items() <= vars(FitOptions(**SETTINGS["fit"])).items()
    assert SweepData(**record["data"]) == SweepData(path=str(tones), test_share=0.2, validation_smoothing=1.0)
    assert record["dataset"]["fingerprint"] == results(tmp_path / "sweep")["header"]["dataset_fingerprint"]
    probe = load_file(best / "probe.safetensors")
    torch.testing.assert_close(probe["past_values"], torch.from_numpy(np.load(tones)[None, :1]).float())
    assert probe["forecast"].shape == (1, 25, 3)


def test_the_division_of_the_work_changes_no_bit(options, tmp_path):
    sweep.main(options("--ensemble_size", "1", output="one"))
    sweep.main(options("--ensemble_size", "4", "--jobs", "2", "--backend", "threading", output="two"))
    for shard in ("1/2", "0/2"):
        sweep.main(options("--ensemble_size", "2", "--shard", shard, output="shards"))
    expected = weights(tmp_path / "one")
    assert len(expected) == 8
    assert weights(tmp_path / "two") == weights(tmp_path / "shards") == expected


@pytest.mark.slow
def test_worker_processes_change_no_bit(options, tmp_path):
    sweep.main(options("--ensemble_size", "1", output="one"))
    sweep.main(options("--ensemble_size", "4", "--jobs", "2", output="two"))
    assert weights(tmp_path / "two") == weights(tmp_path / "one")


def test_a_share_says_what_others_have_left_to_do(options, tmp_path, capsys):
    sweep.main(options("--shard", "0/2"))
    assert "share 0/2 is done; 1 chunks of other shares are not" in capsys.readouterr().out
    assert len(weights(tmp_path / "sweep")) == 3
    assert not (tmp_path / "sweep" / "results.json").exists()


class Killed(BaseException):
    """As sudden as a signal."""


def test_a_killed_sweep_goes_on_where_it_stopped(options, tmp_path, monkeypatch):
    sweep.main(options(output="whole"))
    counted = []
    add = sweep_chunks.EpochCounter.add

    def add_until_killed(self, epochs):
        counted.append(epochs)
        if len(counted) == 5:  # the second of three epochs of the second cell
            raise Killed
        add(self, epochs)

    monkeypatch.setattr(sweep_chunks.EpochCounter, "add", add_until_killed)
    with pytest.raises(Killed):
        sweep.main(options())
    folder = tmp_path / "sweep"
    assert weights(folder).keys() == {f"{CELLS[0]}/seed-{seed}/model.safetensors" for seed in range(3)}
    sweep.main(options())
    assert len(counted) == 6, "epochs that were done were trained again"
    assert weights(folder) == weights(tmp_path / "whole")
    one, other = (results(tmp_path / name) for name in ("sweep", "whole"))
    seconds = {"cpu_seconds": 0}
    assert [row | seconds for row in one["rows"]] == [row | seconds for row in other["rows"]]
    assert not (folder / ".progress").exists()


def test_a_model_is_written_whole_or_not_at_all(options, tmp_path, monkeypatch):
    def die(self):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Member, "to_json", die)
        with pytest.raises(Killed):
            sweep.main(options())
    folder = tmp_path / "sweep"
    assert weights(folder) == {}
    sweep.main(options())
    assert len(weights(folder)) == 8
    assert not list(folder.rglob(".*"))


def test_a_finished_sweep_is_shown_and_not_trained_again(options, tmp_path, monkeypatch, capsys):
    sweep.main(options())
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "sweep").rglob("*")}
    monkeypatch.setattr(sweep, "train_missing", None)
    capsys.readouterr()
    sweep.main(options())
    assert (tmp_path / "sweep" / "results.md").read_text() in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "sweep").rglob("*")} == before


def test_a_folder_belongs_to_one_sweep_of_one_series(options, tones, tmp_path):
    sweep.main(options("--shard", "0/2"))
    with pytest.raises(SystemExit, match=r"other settings of \['fit\.learning_rate', 'num_seeds'\]"):
        sweep.main(options("--fit.learning_rate", "2e-3", "--num_seeds", "4"))
    np.save(tones, np.load(tones) + 1)
    with pytest.raises(SystemExit, match=r"other settings of \['dataset\.fingerprint'\]"):
        sweep.main(options())


def test_cells_whose_seeds_all_exploded_are_named_after_the_table(options, tmp_path, capsys):
    more = ["--grid", "{fit.learning_rate: [1e-3, 1e30]}", "--num_seeds", "2"]
    with pytest.raises(SystemExit, match=r"found none of 2 in \['learning_rate=1e\+30'\]"):
        sweep.main(options(*more))
    folder = tmp_path / "sweep"
    rows = results(folder)["rows"]
    assert [row["status"] for row in rows] == ["completed"] * 2 + ["exploded"] * 2
    assert [row["scores"] == {} for row in rows] == [False, False, True, True]
    assert sorted(path.parent.name for path in folder.glob("*/best")) == ["learning_rate=0.001"]
    captured = capsys.readouterr()
    assert "Exploded (2 of 4): the loss left the range of numbers" in captured.out
    assert "exploded 2" in captured.err
    with pytest.raises(SystemExit, match="found none of 2"):
        sweep.main(options(*more))


def test_the_floor_is_what_half_of_the_truth_scores_against_the_other(options, tones, tmp_path):
    sweep.main(options())
    content = results(tmp_path / "sweep")
    truth = np.load(tones)[480:][20:]
    expected = state_space_divergence(truth[:50], truth[50:], InvariantOptions(num_bins=5))
    assert content["floor"]["state_space_divergence"] == {"value": pytest.approx(expected), "steps": 50}
    assert content["floor"]["validation_divergence"]["steps"] == 60
    table = (tmp_path / "sweep" / "results.md").read_text().splitlines()
    assert sum(line.startswith("| ") for line in table) == 1 + 6 + 1
    assert sum(line.startswith("| **") for line in table) == 2
    floor = next(line for line in table if line.startswith("| truth"))
    assert f"{expected:.3g}" in floor


def test_without_test_data_there_are_no_test_scores(options, tmp_path):
    sweep.main(options("--data.test_share", "0"))
    content = results(tmp_path / "sweep")
    assert all(row["scores"] == {} for row in content["rows"])
    assert content["floor"].keys() == {"validation_divergence"}
    assert "no test series" in (tmp_path / "sweep" / "results.md").read_text()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model.hidden_size", "2"], "hidden_size must be at least num_channels"),
        (["--model.prediction_length", "400"], "training part of the series must have at least 401 steps, found 360"),
        (["--model.warmup_length", "130"], "validation part of the series must have at least 131 steps, found 120"),
        (["--evaluation.discard", "119"], "after the first 119, found 120"),
        (["--evaluation.invariants.prediction_steps", "130"], "test part .* at least 131 steps, found 120"),
        (["--data.path", "nowhere.npy"], r"found nothing at 'nowhere\.npy'"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(options, tmp_path, more, message):
    with pytest.raises(SystemExit, match=f"(?s)error: .*{message}"):
        sweep.main(options(*more))
    assert not (tmp_path / "sweep").exists()


MEMBER = Member(0, FitStatus.COMPLETED, 5, 2.0, 1.0, {"state_space_divergence": 1.0}, [{"epoch": 5.0, "loss": 0.1}])


def test_the_best_is_the_least_divergent_on_validation_data_whatever_it_scores_on_test_data():
    better = replace(MEMBER, seed=1, best_divergence=1.0, scores={"state_space_divergence": 9.0})
    exploded = replace(MEMBER, seed=2, best_divergence=0.1, status=FitStatus.EXPLODED)
    assert choose_best([MEMBER, better, exploded]) is better
    assert choose_best([exploded]) is None


def test_records_keep_numbers_that_json_does_not_know(tmp_path):
    member = replace(MEMBER, best_divergence=math.inf, history=[{"epoch": 5.0, "loss": math.inf}])
    content = member.to_json()
    assert b'"Infinity"' in content
    assert Member.from_json(content) == member
    lost = replace(MEMBER, history=[{"loss": math.nan}]).to_json()
    assert math.isnan(Member.from_json(lost).history[0]["loss"])


def test_a_folder_that_another_run_wrote_first_is_kept(tmp_path):
    folder = SweepFolder(tmp_path)
    for content in ("first", "second"):
        with folder.complete_folder(tmp_path / "cell" / "best") as scratch:
            (scratch / "file").write_text(content)
    assert (tmp_path / "cell" / "best" / "file").read_text() == "first"
    assert list(folder.progress.iterdir()) == []
