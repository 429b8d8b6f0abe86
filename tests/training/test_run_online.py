import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from hf_tsdyn.online.prequential import PrequentialRun, run_prequential
from hf_tsdyn.series_results import SeriesResults
from training import online_cells, run_online, train
from training.online_config import load_online_config

ERRORS = ("squared", "absolute", "channel_squared", "channel_absolute", "percentage")


def run(options):
    return run_online.run(load_online_config(options), show_progress=False)


def errors_of(folder, cell):
    """The arrays of errors of a cell's run, by name."""
    found = PrequentialRun.load(folder / "cells" / cell / "run.npz")
    return {name: getattr(found, name).tobytes() for name in ERRORS}


def test_a_study_pretrains_runs_and_tabulates_every_cell(online_study, tmp_path):
    results = run(online_study())
    assert results.scored_on("delayed") == results.scored_on("immediate") == [("day", 4)]
    runs = {
        name: PrequentialRun.load(tmp_path / "study" / "cells" / name / "delayed" / "day-4" / "seed-0" / "run.npz")
        for name in ("persistence", "frozen", "ogd")
    }
    assert {len(each) for each in runs.values()} == {37}  # 40 rows of the stretch, 4 steps ahead
    assert {each.first_step for each in runs.values()} == {120}
    for name, each in runs.items():
        assert results.mean_of(name, "mse", "day", 4, split="delayed").mean == pytest.approx(each.errors.mse, rel=1e-6)
    found = results.interval_of("ogd", "frozen", "mse", "day", 4, split="delayed")
    assert found.mean == pytest.approx(runs["ogd"].errors.mse - runs["frozen"].errors.mse, abs=1e-6)
    assert results.interval_of("ogd", "ogd-off", "mse", "day", 4, split="delayed")
    assert results.interval_of("ogd", "persistence", "mse", "day", 4, split="delayed")
    assert results.interval_of("ogd", "ridge", "mse", "day", 4, split="immediate") is None
    assert {row.seed for row in results.rows if row.model == "ridge"} == {None}
    assert results.header["methods"]["ogd"]["frozen"] == "frozen"
    assert "frozen" not in results.header["methods"]["frozen"]
    heat = results.header["heat"]["delayed"]["day-4"]
    assert set(heat) == {"ogd"}  # what has its memory switched off asks none
    assert np.shape(heat["ogd"]["triggers"]) == (1, 2)
    assert heat["ogd"]["bin_edges"] == [0, 37]
    assert results.header["seeds"]["delayed"]["day-4"]["ogd"] == {"expected": [0], "found": [0], "diverged": []}
    page = (tmp_path / "study" / "results.md").read_text()
    assert page.index("## Delayed feedback") < page.index("## Immediate feedback, leaky")
    assert "MSE, leaky" in page[page.index("## Immediate") :]
    assert SeriesResults.read(tmp_path / "study" / "results.json") == results


def test_a_network_is_what_the_command_of_a_run_makes_and_is_shared(
    online_study, network_file, day_file, tmp_path, assert_equal_weights
):
    run(online_study("--only", "frozen", "ogd-off", seeds=[1]))
    network = tmp_path / "study" / "pretrained" / "memory" / "day-4" / "seed-1"
    assert [file.parent for file in tmp_path.rglob("model.safetensors")] == [network]
    options = {"model.prediction_length": 4, "model.context_length": 24, "data.path": day_file, "data.seed": 1}
    options |= {"training.seed": 1, "training.output_dir": tmp_path / "alone", "data.series.columns": '["OT"]'}
    options |= {"data.series.validation_share": 0.2, "data.series.test_share": 0.25}
    texts = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    train.main(["--config", str(network_file), *texts])
    assert_equal_weights(network, tmp_path / "alone")


@pytest.mark.parametrize("method", ["ogd", "ridge", "mixture"])
def test_a_cell_that_was_stopped_in_its_middle_goes_on_to_the_same_bytes(method, online_study, tmp_path, monkeypatch):
    methods = yaml.safe_load(Path(online_study()[1]).read_text())["methods"]
    recursive = {"kind": "recursive_least_squares", "options": {"penalty": 1.0, "forgetting": 0.99}}
    correction = {"kind": "recursive_correction", "options": {"penalty": 1.0}}
    methods |= {"recursive": {"learner": recursive}, "corrected": {"learner": correction, "start": "memory"}}
    methods["mixture"] = {"learner": {"kind": "mixture", "members": ["recursive", "corrected", "ogd", "persistence"]}}
    changes = {"methods": methods | {method: methods[method] | {"protocols": ["delayed"]}}, "checkpoint_every": 10}
    calls = []

    def stopping(*arguments, **options):
        calls.append(options["start"])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return run_prequential(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(online_cells, "run_prequential", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(online_study("--only", method, **changes))
    cell = f"{method}/delayed/day-4/seed-0"
    folder = tmp_path / "study" / "cells" / cell
    assert len(list(folder.glob("parts/*"))) == 3
    saved = [file.parent.name for file in folder.glob("parts/*/learner")]
    assert saved == ([] if method == "ridge" else ["000000150"])
    results = run(online_study("--only", method, **changes))
    assert calls == [120, 130, 140, 150]
    assert not (folder / "parts").exists()
    run(online_study("--only", method, **changes | {"checkpoint_every": 1000}, output_dir=str(tmp_path / "whole")))
    assert errors_of(tmp_path / "study", cell) == errors_of(tmp_path / "whole", cell)
    if method == "ogd":
        heat = results.header["heat"]["delayed"]["day-4"]["ogd"]
        assert np.shape(heat["triggers"]) == (4, 2)
        assert heat["bin_edges"] == [0, 10, 20, 30, 37]


@pytest.mark.slow  # two processes of their own
def test_a_killed_study_goes_on_to_the_same_bytes(online_study, tmp_path):
    options = {"checkpoint_every": 10, "settings": {"day": [2]}, "seeds": [0]}
    run(online_study("--only", "ogd", **options))
    command = [sys.executable, "-m", "training.run_online"]
    arguments = online_study("--only", "ogd", **options, output_dir=str(tmp_path / "killed"))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, *arguments], env=environment, stdout=subprocess.DEVNULL)
    parts = tmp_path / "killed" / "cells" / "ogd" / "delayed" / "day-2" / "seed-0" / "parts"
    deadline = time.monotonic() + 60
    while not list(parts.glob("*/part.json")) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "results.json").exists()
    assert list(parts.glob("*/part.json"))
    subprocess.run([*command, *arguments], env=environment, check=True, capture_output=True)
    for protocol in ("delayed", "immediate"):
        cell = f"ogd/{protocol}/day-2/seed-0"
        assert errors_of(tmp_path / "killed", cell) == errors_of(tmp_path / "study", cell)


@pytest.mark.slow  # workers are fresh processes
def test_workers_change_no_number(online_study, tmp_path):
    one = run(online_study())
    two = run(online_study("--jobs", "2", output_dir=str(tmp_path / "two")))
    assert two.rows == one.rows
    assert two.intervals == one.intervals
    assert two.header["curves"] == one.header["curves"]
    assert two.header["heat"] == one.header["heat"]


def test_a_study_goes_on_where_it_stopped(online_study, tmp_path):
    first = run(online_study("--only", "persistence"))
    file = tmp_path / "study" / "cells/persistence/delayed/day-4/seed-0/run.npz"
    written = file.stat().st_mtime_ns
    results = run(online_study("--only", "ridge"))
    assert file.stat().st_mtime_ns == written
    assert results.header["models"] == ["persistence", "ridge"]
    assert [row for row in results.rows if row.model == "persistence"] == first.rows


def test_a_cell_of_other_settings_is_not_taken_for_this_one(online_study, day_file):
    options = {"kind": "ridge", "options": {"penalty": 1.0}}
    methods = {"ridge": {"learner": options, "seeds": [0], "protocols": ["delayed"]}}
    run(online_study(methods=methods, roles={}))
    methods["ridge"]["learner"]["options"]["penalty"] = 2.0
    with pytest.raises(ValueError, match=r"seed-0 must .*'methods\.ridge\.learner\.options\.penalty'"):
        run(online_study(methods=methods, roles={}))
    methods["ridge"]["learner"]["options"]["penalty"] = 1.0
    frame = pd.read_csv(day_file)
    frame.loc[150, "OT"] = 99.0
    frame.to_csv(day_file, index=False)
    with pytest.raises(ValueError, match="stream"):
        run(online_study(methods=methods, roles={}))


@pytest.mark.parametrize("kind", ["gradient", "feature_adaptation"])
def test_a_chosen_rate_sees_the_rows_before_the_stretch_alone(kind, online_study, day_file, tmp_path):
    learner = {"kind": kind, "options": {"learning_rate": "chosen"}}
    methods = {"chosen": {"start": "memory", "learner": learner, "protocols": ["delayed"]}}
    options = {"methods": methods, "roles": {}, "candidates": [1e-1]}
    results = run(online_study(**options))
    folder = tmp_path / "study" / "cells" / "chosen" / "delayed" / "day-4" / "seed-0"
    record = json.loads((folder / "cell.json").read_text())["learning_rates"]["chosen"]
    assert set(record["errors"]) == {"0.0", "0.1"}
    assert record["errors"][str(record["rate"])] == min(record["errors"].values())
    assert results.header["methods"]["chosen"]["validation_rows"] == ["learning_rate"]
    assert results.header["learning_rates"]["delayed"]["day-4"] == {"chosen": {"0": record["rate"]}}
    frame = pd.read_csv(day_file)
    frame.loc[120:, "OT"] = 1e4
    frame.to_csv(day_file, index=False)
    again = tmp_path / "again"
    run(online_study(**options, output_dir=str(again)))
    assert json.loads((again / folder.relative_to(tmp_path / "study") / "cell.json").read_text())["learning_rates"] == {
        "chosen": record
    }


def test_a_row_of_a_generated_dataset_is_a_stream(online_study, write_dataset, tmp_path):
    rng = np.random.default_rng(0)
    waves = np.sin(0.3 * np.arange(300) + rng.uniform(0, 6, (2, 3, 1))).astype(np.float32)
    rows = [{"target": target, "split": "test", "item_id": name} for target, name in zip(waves, "ab", strict=True)]
    folder = write_dataset(tmp_path / "generated", rows)
    stream = {"context_length": 24, "row": "b", "overrides": {"model.num_channels": 3}}
    options = {"datasets": {"waves": str(folder)}, "streams": {"waves": stream}, "settings": {"waves": [4]}}
    results = run(online_study("--only", "frozen", "persistence", **options))
    assert results.header["datasets"]["waves"]["channel_names"] == ["0", "1", "2"]
    exported = np.load(tmp_path / "study" / "streams" / "waves.npy")
    np.testing.assert_array_equal(exported, waves[1].T)
    options["streams"] = {"waves": stream | {"row": "c"}}
    with pytest.raises(ValueError, match=r"streams\.waves\.row must be one of the 2 rows"):
        run(online_study("--only", "persistence", **options))


def test_copying_what_is_revealed_is_run_under_the_immediate_protocol(online_study):
    methods = {"copy": {"learner": {"kind": "copy_last"}, "protocols": ["immediate"], "seeds": [0]}}
    results = run(online_study(methods=methods, roles={}))
    assert results.scored_on("delayed") == []
    assert results.mean_of("copy", "mse", "day", 4, split="immediate").mean < 0.1


def test_a_network_of_other_settings_is_refused_and_leaves_the_rest(online_study, network_file, tmp_path):
    only = ("--only", "frozen", "persistence")
    run(online_study(*only))
    network = yaml.safe_load(network_file.read_text())
    for changed in ({"max_steps": 3}, {"max_steps": 2, "learning_rate": 0.1}):
        network["training"] |= changed
        network_file.write_text(yaml.safe_dump(network))
        with pytest.raises(ValueError, match=rf"pretrained/memory/day-4/seed-0.*'training\.{list(changed)[-1]}'"):
            run(online_study(*only))
        results = SeriesResults.read(tmp_path / "study" / "results.json")
        assert results.header["models"] == ["persistence"]
        assert results.header["seeds"]["delayed"]["day-4"]["frozen"] == {"expected": [0], "found": [], "diverged": []}


def test_a_network_of_another_split_is_refused(online_study):
    methods = {"frozen": {"start": "memory", "learner": {"kind": "frozen"}}}
    run(online_study(methods=methods, roles={}))
    series = {"columns": ["OT"], "validation_share": 0.1, "test_share": 0.25}
    streams = {"day": {"context_length": 24, "series": series}}
    with pytest.raises(ValueError, match=r"'data\.fingerprint', 'data\.series\.validation_share'"):
        run(online_study(methods=methods, roles={}, streams=streams))


def test_a_run_that_diverged_is_counted_and_in_no_error(online_study, tmp_path):
    run(online_study("--only", "persistence", "ridge"))
    file = tmp_path / "study" / "cells" / "ridge" / "delayed" / "day-4" / "seed-0" / "run.npz"
    found = PrequentialRun.load(file)
    found.squared[5] = np.inf
    found.save(file)
    results = run(online_study("--only", "persistence"))
    assert results.mean_of("ridge", "mse", "day", 4, split="delayed") is None
    assert results.mean_of("ridge", "mse", "day", 4, split="immediate") is not None
    assert results.header["seeds"]["delayed"]["day-4"]["ridge"] == {"expected": [0], "found": [], "diverged": [0]}


GRADIENT = {"start": "memory", "learner": {"kind": "gradient", "options": {"learning_rate": 0.001}}}
LATER = {
    "no such option": ({"learner": {"kind": "gradient", "options": {"rate": 1}}}, "method ogd: .*rate"),
    "a bad option": ({"learner": {"kind": "gradient", "options": {"rehearsal": "all"}}}, "method ogd: .*all"),
    "no such field": ({"model": {"memorie": "none"}}, "memorie.*memory"),
    "a bad mixture": (
        {"start": None, "learner": {"kind": "mixture", "members": ["naive"], "options": {"forgetting": 2}}},
        "method ogd: forgetting must be above 0",
    ),
    "a bad field": ({"model": {"num_retrieved": 99}}, "num_retrieved must be at most"),
}


@pytest.mark.parametrize("case", LATER)
def test_nothing_heavy_starts_before_learners_and_networks_are_checked(case, online_study, tmp_path):
    changed, message = LATER[case]
    methods = {"ogd": GRADIENT | changed, "naive": {"learner": {"kind": "persistence"}}}
    with pytest.raises(ValueError, match=message):
        run(online_study(methods=methods, roles={}))
    assert not (tmp_path / "study").exists()


def test_a_series_that_is_not_there_is_named_before_anything_heavy_starts(online_study, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"give --datasets\.day"):
        run(online_study(datasets={"day": str(tmp_path / "nothing.csv")}))
    assert not (tmp_path / "study").exists()


def test_a_mixed_up_network_fails_alone(online_study, network_file, tmp_path):
    """Cells without it are run, and in the tables."""
    network = yaml.safe_load(network_file.read_text())
    network["training"]["learning_rate"] = 1e30
    network_file.write_text(yaml.safe_dump(network))
    with pytest.raises(ValueError, match=r"cell pretrained/memory/day-4/seed-0: the loss must stay finite") as raised:
        run(online_study("--only", "persistence", "ogd"))
    assert "2 cells wait for a network" in str(raised.value)
    results = SeriesResults.read(tmp_path / "study" / "results.json")
    assert results.header["models"] == ["persistence"]
