import json
import math
import os
import re
import shutil
import threading
import time
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
from training.sweep_config import load_sweep_config
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
    assert "failed 0" in captured.err


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
    guard = sweep_chunks.end_with_parent

    def killed_at_the_fifth(launcher):
        def check(epochs):
            counted.append(epochs)
            if len(counted) == 5:  # the second of three epochs of the second cell
                raise Killed
            guard(launcher)(epochs)

        return check

    monkeypatch.setattr(sweep_chunks, "end_with_parent", killed_at_the_fifth)
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


def test_a_sweep_killed_while_models_are_written_trains_no_epoch_again(options, tmp_path, monkeypatch):
    write, epochs = SweepFolder.write_member, []

    def die_at_the_second(self, cell, result, scores):
        if result.seed == 1:
            raise Killed
        write(self, cell, result, scores)

    with monkeypatch.context() as patch:
        patch.setattr(SweepFolder, "write_member", die_at_the_second)
        with pytest.raises(Killed):
            sweep.main(options())
    folder = tmp_path / "sweep"
    assert list(weights(folder)) == [f"{CELLS[0]}/seed-0/model.safetensors"]
    monkeypatch.setattr(sweep_chunks, "end_with_parent", lambda launcher: epochs.append)
    sweep.main(options())
    assert sum(epochs) == 3  # of the other cell
    sweep.main(options(output="whole"))
    assert weights(folder) == weights(tmp_path / "whole")


def test_a_chunk_that_another_process_has_trained_is_left_alone(options, tmp_path, monkeypatch):
    sweep.main(options())
    prepared = sweep.prepare(*load_sweep_config(options()))
    monkeypatch.setattr(sweep_chunks, "fit_ensemble", None)
    for chunk in prepared.chunks:
        assert sweep_chunks.train_chunk(chunk, prepared.series, prepared.config.evaluation, prepared.folder, 0) == 0


def test_a_chunk_that_another_process_trains_is_waited_for(options, tmp_path, monkeypatch):
    prepared = sweep.prepare(*load_sweep_config(options()))
    chunk, trained, fit = prepared.chunks[0], [], sweep_chunks.fit_ensemble

    def slow_fit(*arguments, **keywords):
        trained.append(keywords["seeds"])
        time.sleep(0.3)
        return fit(*arguments, **keywords)

    monkeypatch.setattr(sweep_chunks, "fit_ensemble", slow_fit)
    arguments = (chunk, prepared.series, prepared.config.evaluation, prepared.folder, os.getpid())
    threads = [threading.Thread(target=sweep_chunks.train_chunk, args=arguments) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert trained == [(0, 1, 2)]
    assert chunk.missing(prepared.folder) == ()


def test_progress_of_a_run_at_work_is_not_cleared_away(tmp_path):
    folder = SweepFolder(tmp_path)
    with folder.lock("chunk"):
        (folder.progress / "chunk.state").touch()
        folder.clear_progress()
        assert (folder.progress / "chunk.state").exists()
    folder.clear_progress()
    assert not folder.progress.exists()


def test_a_worker_ends_when_its_parent_is_gone(monkeypatch):
    parents = iter([10, 10, 1, 10, 1])
    monkeypatch.setattr(os, "getppid", lambda: next(parents))

    def leave(code):
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)
    check = sweep_chunks.end_with_parent(launcher=0)
    check(1)
    with pytest.raises(SystemExit):
        check(1)
    sweep_chunks.end_with_parent(launcher=os.getpid())(1)  # the sweep itself may outlive its shell


def test_damaged_files_are_named_and_written_again_once_deleted(options, tmp_path):
    sweep.main(options())
    folder = tmp_path / "sweep"
    before = weights(folder)
    chosen = next(row for row in results(folder)["rows"] if row["selected"])
    history = folder / chosen["cell"] / f"seed-{chosen['seed']}" / "history.json"
    for file in (folder / "results.json", history):
        file.write_bytes(file.read_bytes()[:-40])
        with pytest.raises(SystemExit, match=f"error: {re.escape(str(file))} must be .*.*delete that file"):
            sweep.main(options())
        file.unlink()
        sweep.main(options())
        assert file.is_file()
    best = folder / chosen["cell"] / "best" / "model.safetensors"
    best.unlink()
    sweep.main(options())
    assert weights(folder) == before
    best.unlink()
    model = history.with_name("model.safetensors")
    model.write_bytes(model.read_bytes()[:100])
    with pytest.raises(SystemExit, match=f"error: {re.escape(str(history.parent))} must hold a whole model"):
        sweep.main(options())
    shutil.rmtree(history.parent)
    sweep.main(options())
    assert weights(folder) == before


def test_a_finished_sweep_takes_up_what_may_be_shipped(options, tmp_path):
    sweep.main(options())
    sweep.main(options("--evaluation.ship_weights", "false"))
    for cell in CELLS:
        record = yaml.safe_load((tmp_path / "sweep" / cell / "best" / "run_config.yaml").read_text())
        assert record["evaluation"]["ship_weights"] is False


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_part_that_cannot_be_scored_on_is_named_before_training(options, tones, tmp_path, part, monkeypatch):
    values = np.load(tones)
    first = {"validation": 360, "test": 480}[part]
    values[first : first + 120, 1] = 0.5
    np.save(tones, values)
    monkeypatch.setattr(sweep, "train_missing", None)
    with pytest.raises(
        SystemExit, match=rf"error: the {part} part of the series cannot be scored on: .*channels \[1\]"
    ):
        sweep.main(options())
    assert not (tmp_path / "sweep").exists()


def test_a_finished_sweep_shows_the_same_infinity_again(options, tmp_path, monkeypatch, capsys):
    fit = sweep_chunks.fit_ensemble

    def lost(*arguments, **keywords):
        lost = {"status": FitStatus.DIVERGED, "model": None, "best_divergence": math.inf}
        return [replace(each, **lost if each.seed == 1 else {}) for each in fit(*arguments, **keywords)]

    monkeypatch.setattr(sweep_chunks, "fit_ensemble", lost)
    sweep.main(options())
    first = capsys.readouterr().out
    sweep.main(options())
    assert capsys.readouterr().out == first
    assert "| inf |" in first
    assert f"Diverged (2 of 6): {FitStatus.DIVERGED.value}" in first


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
    assert "failed 2" in captured.err
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
    assert sum(line.startswith("| ") for line in table) == 1 + 6
    assert sum(line.startswith("| **") for line in table) == 2
    assert any(f"test divergence {expected:.3g} (50 steps)" in line for line in table)


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
