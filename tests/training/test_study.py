import re
import threading
from pathlib import Path

import pandas as pd
import pytest
import yaml

from hf_tsdyn.series_evaluation import load_errors
from hf_tsdyn.series_results import SeriesResults
from training import study, train
from training.model_config import build_model_config
from training.study_cells import run_cell
from training.study_config import build_cells, load_study_config
from training.sweep_folder import SweepFolder

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "training" / "configs").glob("*_study.yaml"))
PATCHES = {"model_type": "dystformer", "patch_length": 8, "d_model": 16, "num_hidden_layers": 1}
MODEL = PATCHES | {"context_length": 32, "num_attention_heads": 2, "ffn_dim": 16, "embedding": "linear"}


@pytest.fixture
def run_file(tmp_path):
    """The file of a run of two steps, which names no series."""
    training = {"max_steps": 2, "per_device_train_batch_size": 4, "save_strategy": "no", "use_cpu": True}
    content = {
        "model": MODEL,
        "data": {"path": "elsewhere.csv"},
        "training": {"output_dir": str(tmp_path / "unused"), **training},
        "evaluation": {"name": "toy", "protocol": {"context_length": 32}},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "run.yaml"


@pytest.fixture
def study_options(run_file, waves, tmp_path):
    """A function that writes a study of two rows and returns its command line."""

    def options(*more, **changes):
        content = {
            "name": "toy study",
            "datasets": {"waves": str(waves)},
            "settings": {"waves": [8]},
            "rows": {
                "wide": {"config": str(run_file), "label": "wide | one", "overrides": {"model": {"ffn_dim": 32}}},
                "narrow": {"config": str(run_file), "overrides": {"training.learning_rate": 1e-3}, "seeds": [0]},
            },
            "compare": [["wide", "narrow"]],
            "claims": {"Oracle": {"dataset": "waves", "horizon": 8, "mse": 0.001, "source": "a dream"}},
            "seeds": [0],
            "num_resamples": 50,
            "output_dir": str(tmp_path / "study"),
        }
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(content | changes, sort_keys=False))
        return ["--config", str(tmp_path / "study.yaml"), *more]

    return options


def run(options):
    return study.run(load_study_config(options), show_progress=False)


def test_a_study_trains_scores_and_tabulates_every_cell(study_options, tmp_path):
    results = run(study_options(seeds=[0, 1]))
    assert results.settings == [("waves", 8)]
    assert {row.split for row in results.rows} == {"validation"}
    errors = [
        load_errors(tmp_path / "study" / "cells" / cell / "validation_errors.npz")["context-32-horizon-8"]
        for cell in ("wide/waves-8/seed-0", "wide/waves-8/seed-1", "narrow/waves-8/seed-0")
    ]
    assert len(errors[0].squared) == 120 - 8 + 1
    wide = results.mean_of("wide", "mse", "waves", 8, split="validation")
    assert wide.num_seeds == 2
    assert wide.mean == pytest.approx((errors[0].mse + errors[1].mse) / 2, rel=1e-6)
    found = results.interval_of("wide", "narrow", "mse", "waves", 8, split="validation")
    assert found.mean == pytest.approx(wide.mean - errors[2].mse, abs=1e-7)
    assert found.low < found.mean < found.high
    page = (tmp_path / "study" / "results.md").read_text()
    assert results.table("waves", 8, split="validation") in page
    assert "a dream" not in page  # a claim is of the test windows
    assert SeriesResults.read(tmp_path / "study" / "results.json") == results


def test_a_cell_is_what_the_command_of_a_run_makes(study_options, waves, run_file, tmp_path, assert_equal_weights):
    run(study_options("--only", "wide", seeds=[1]))
    options = ["--model.prediction_length", "8", "--model.ffn_dim", "32", "--training.seed", "1", "--data.seed", "1"]
    train.main(["--config", str(run_file), "--data.path", str(waves), *options,
                "--training.output_dir", str(tmp_path / "alone")])  # fmt: skip
    assert_equal_weights(tmp_path / "alone", tmp_path / "study" / "cells" / "wide" / "waves-8" / "seed-1")


def test_a_study_goes_on_where_it_stopped(study_options, tmp_path):
    first = run(study_options("--only", "wide"))
    assert first.header["models"] == ["wide"]
    weights = tmp_path / "study" / "cells" / "wide" / "waves-8" / "seed-0" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    results = run(study_options())
    assert weights.stat().st_mtime_ns == written
    assert results.header["models"] == ["wide", "narrow"]
    assert [row for row in results.rows if row.model == "wide"] == first.rows
    assert results.header["cpu_seconds"]["wide"] == first.header["cpu_seconds"]["wide"] > 0


def test_only_the_final_scoring_notices_the_test_split(study_options, waves, tmp_path):
    """What is poisoned is finite, so that it can be read; the scores would show it."""
    clean = run(study_options("--only", "narrow"))
    frame = pd.read_csv(waves)
    frame.loc[680:, ["u", "v"]] = 1e6
    frame.to_csv(waves, index=False)
    elsewhere = {"output_dir": str(tmp_path / "poisoned")}
    poisoned = run(study_options("--only", "narrow", **elsewhere))
    assert poisoned.rows == clean.rows
    assert not list(tmp_path.rglob("test_errors.npz"))
    final = run(study_options("--only", "narrow", "--final", **elsewhere))
    assert final.mean_of("narrow", "mse", "waves", 8).mean > 1e6
    assert [row for row in final.rows if row.split == "validation"] == clean.rows
    page = (tmp_path / "poisoned" / "results.md").read_text()
    assert (
        page.index("## Test windows") < page.index("| Oracle (claim: a dream) |") < page.index("## Validation windows")
    )


def test_scores_of_test_windows_stay_in_the_tables(study_options, tmp_path):
    final = run(study_options("--only", "narrow", "--final"))
    again = run(study_options())
    assert again.mean_of("narrow", "mse", "waves", 8) == final.mean_of("narrow", "mse", "waves", 8)
    assert again.mean_of("wide", "mse", "waves", 8) is None
    assert not (tmp_path / "study" / "cells" / "wide" / "waves-8" / "seed-0" / "test_errors.npz").exists()
    assert "## Test windows" in (tmp_path / "study" / "results.md").read_text()


def test_claims_are_named_by_their_kind(study_options, tmp_path, capsys):
    claim = {"dataset": "waves", "horizon": 8, "mse": 0.001}
    claims = {"Oracle": claim | {"source": "a dream"}, "Twin": claim | {"source": "its code", "kind": "rerun"}}
    run(study_options("--only", "narrow", "--final", claims=claims))
    page = (tmp_path / "study" / "results.md").read_text()
    assert "| Oracle (claim: a dream) |" in page
    assert "| Twin (rerun: its code) |" in page
    assert "A claim was published elsewhere" in page
    assert "A rerun is what its authors' own code gave" in page
    with pytest.raises(SystemExit):
        load_study_config(study_options(claims={"Twin": claims["Twin"] | {"kind": "guess"}}))
    assert "guess" in capsys.readouterr().err


def test_a_row_sets_no_fold_of_its_own(study_options, run_file):
    fold = {"data.fold": {"num_folds": 3, "fold_length": 40, "index": 0}}
    rows = {"folded": {"config": str(run_file), "overrides": fold}}
    with pytest.raises(ValueError, match=r"cell folded/waves-8/seed-0: data.fold must be what the study's folds say"):
        run(study_options(rows=rows, compare=[]))


def test_a_series_that_changed_is_refused(study_options, waves):
    run(study_options("--only", "narrow"))
    lines = waves.read_text().splitlines()
    waves.write_text("\n".join(lines[:-100]))
    with pytest.raises(ValueError, match=r"cell narrow/waves-8/seed-0: .* other settings of \['data.fingerprint'\]"):
        run(study_options("--only", "narrow"))


def test_a_cell_that_fails_is_named_and_the_others_are_done(study_options, run_file, tmp_path):
    rows = {
        "wild": {"config": str(run_file), "seeds": [0], "overrides": {"training.learning_rate": 1e30}},
        "narrow": {"config": str(run_file), "seeds": [0]},
    }
    with pytest.raises(ValueError, match=r"1 of 2 cells failed:\ncell wild/waves-8/seed-0: the loss must stay finite"):
        run(study_options(rows=rows, compare=[]))
    assert SeriesResults.read(tmp_path / "study" / "results.json").header["models"] == ["narrow"]


def test_refused_settings_name_the_cell_before_anything_is_trained(study_options, run_file, tmp_path):
    rows = {"wrong": {"config": str(run_file), "overrides": {"model.d_modle": 8}}}
    with pytest.raises(ValueError, match=r"cell wrong/waves-8/seed-0: .*did you mean d_model"):
        run(study_options(rows=rows, compare=[]))
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"tides": [8]}}, "some of the datasets"),
        ({"settings": {"waves": []}}, "some of the datasets"),
        ({"seeds": [1, 1]}, "different numbers"),
        ({"compare": [["wide", "best"]]}, r"found \['best'\]"),
        ({"rows": {}}, "must name a model"),
        ({"rows": {"a/b": {"config": "x.yaml"}}, "compare": []}, "found 'a/b'"),
        ({"rows": {"a": {"config": "x.yaml", "overrides_at": {"waves-9": {}}}}, "compare": []}, "found .'waves-9'"),
        ({"rows": {"a": {"config": "x.yaml", "colour": 1}}, "compare": []}, "colour"),
        ({"claims": {"Oracle": {"dataset": "waves", "horizon": 8, "mse": 0.1}}}, "source"),
        ({"sedes": [1]}, "sedes"),
        ({"folds": {"num_folds": 0, "fold_length": 9}}, "found 0 and 9"),
    ],
)
def test_bad_settings_end_with_what_was_found(study_options, capsys, changes, message):
    with pytest.raises(SystemExit):
        load_study_config(study_options(**changes))
    error = capsys.readouterr().err
    assert re.search(message, error), error


def test_overrides_of_one_setting_come_last(study_options, run_file):
    row = {
        "config": str(run_file),
        "overrides": {"model.ffn_dim": 32},
        "overrides_at": {"waves-16": {"model.ffn_dim": 64}},
    }
    rows = {"wide": row | {"settings": {"waves": [8, 16]}, "seeds": [3]}}
    cells = build_cells(load_study_config(study_options(rows=rows, compare=[])))
    assert [cell.name for cell in cells] == ["wide/waves-8/seed-3", "wide/waves-16/seed-3"]
    runs = [cell.resolve()[0] for cell in cells]
    assert [each.model["ffn_dim"] for each in runs] == [32, 64]
    assert [each.model["prediction_length"] for each in runs] == [8, 16]
    assert [each.evaluation.protocol.horizons for each in runs] == [(8,), (16,)]
    assert {each.training.seed for each in runs} == {each.data.seed for each in runs} == {3}


@pytest.mark.slow  # workers are fresh processes
def test_workers_change_no_number(study_options, tmp_path):
    one = run(study_options())
    two = run(study_options("--jobs", "2", output_dir=str(tmp_path / "two")))
    assert two.rows == one.rows
    assert two.intervals == one.intervals


def test_a_cell_that_another_process_is_at_work_on_is_waited_for(study_options, tmp_path):
    config = load_study_config(study_options())
    cell = build_cells(config)[-1]
    outcome = []
    worker = threading.Thread(target=lambda: outcome.append(run_cell(cell, tmp_path / "study", final=False)))
    with SweepFolder(tmp_path / "study").lock("narrow,waves-8,seed-0"):
        worker.start()
        worker.join(0.5)
        assert worker.is_alive()
        assert not cell.folder.exists()
    worker.join(60)
    assert outcome == [None]
    assert (cell.folder / "validation_errors.npz").is_file()


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.name)
def test_every_committed_study_resolves(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_study_config(["--config", str(file)])
    assert not config.final
    cells = build_cells(config)
    assert len({cell.folder for cell in cells}) == len(cells)
    for cell in {(cell.row, cell.dataset, cell.horizon): cell for cell in cells}.values():
        run, _ = cell.resolve()
        model = build_model_config(run.model, run.task)
        assert model.prediction_length == cell.horizon
        assert run.evaluation.protocol.horizons == (cell.horizon,)
