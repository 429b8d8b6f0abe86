import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from transformers import AutoModelForTimeSeriesPrediction

from hf_tsdyn.data import SeriesDataset
from hf_tsdyn.series_results import SeriesResults
from hf_tsdyn.series_scores import SeriesRow, signed
from training import study
from training.fold_tables import fold_table, mean_over_folds
from training.ship_checkpoint import ship_study
from training.study_config import build_cells, load_study_config

FOLDS = {"num_folds": 3, "fold_length": 40}
CLOSED_FORM = {"controller": False, "num_worker_layers": 0, "trend_head": False, "channel_mixer": False}
LENGTHS = {"worker_context_length": 32, "controller_patch_length": 8}


@pytest.fixture
def fold_options(waves, tmp_path):
    """A function that writes a study of two closed forms on three folds and returns its command line."""
    model = {"model_type": "dynonet", "num_channels": 2, "context_length": 32, **CLOSED_FORM, **LENGTHS}
    run_file = {
        "model": model | {"specialists": [{"kind": "low_rank", "rank": 4}]},
        "data": {"path": "elsewhere.csv"},
        "training": {"max_steps": 0, "use_cpu": True, "output_dir": str(tmp_path / "unused")},
        "evaluation": {"name": "toy", "protocol": {"context_length": 32}},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run_file))
    row = {"config": str(tmp_path / "run.yaml")}
    periodic = {"model.specialists": [{"kind": "periodic", "period": 8}]}

    def options(*more, **changes):
        content = {
            "name": "toy study",
            "datasets": {"waves": str(waves)},
            "settings": {"waves": [8]},
            "rows": {"linear": row | {"label": "low rank"}, "periodic": row | {"overrides": periodic}},
            "compare": [["linear", "periodic"]],
            "seeds": [0],
            "folds": FOLDS,
            "num_resamples": 50,
            "output_dir": str(tmp_path / "study"),
        }
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(content | changes, sort_keys=False))
        return ["--config", str(tmp_path / "study.yaml"), *more]

    return options


def run(options):
    return study.run(load_study_config(options), show_progress=False)


def test_a_study_with_folds_trains_and_scores_each_cell_on_every_fold(fold_options, waves, tmp_path):
    """Of 560 training steps the folds are the last 120."""
    results = run(fold_options())
    assert list(dict.fromkeys(row.split for row in results.rows)) == ["fold-0", "fold-1", "fold-2"]
    assert results.header["protocol"]["folds"] == FOLDS
    assert results.header["datasets"]["waves"]["num_windows"] == {f"fold-{index}": {"8": 33} for index in range(3)}
    assert results.header["datasets"]["waves"]["num_train_steps"] == 560
    series = SeriesDataset(waves, "train", context_length=0)
    assert results.header["datasets"]["waves"]["fingerprint"] == series.fingerprint
    folder = tmp_path / "study" / "cells" / "linear" / "waves-8" / "fold-1" / "seed-0"
    model = AutoModelForTimeSeriesPrediction.from_pretrained(folder)
    values = series.values(0)
    assert model.config.channel_loc == pytest.approx(values[:, :480].mean(axis=1), abs=1e-6)
    past = np.stack([values[:, first - 32 : first].T for first in range(480, 513)])
    future = np.stack([values[:, first : first + 8].T for first in range(480, 513)])
    errors = (model.forecast(torch.from_numpy(past), prediction_length=8).numpy() - future) / values.std(axis=1)
    found = results.mean_of("linear", "mse", "waves", 8, split="fold-1")
    assert found.mean == pytest.approx(np.square(errors).mean(), rel=1e-4)


def test_tables_of_folds_show_their_mean_each_of_them_and_the_differences(fold_options, tmp_path):
    results = run(fold_options())
    page = (tmp_path / "study" / "results.md").read_text()
    each = [results.mean_of("linear", "mse", "waves", 8, split=f"fold-{index}").mean for index in range(3)]
    mean = mean_over_folds(results, "linear", "mse", "waves", 8, num_folds=3)
    assert mean == (pytest.approx(sum(each) / 3), 0.0, 1)
    assert f"| low rank | {mean.mean:.4f} | {each[0]:.4f} | {each[1]:.4f} | {each[2]:.4f} |" in page
    differences = [
        results.interval_of("linear", "periodic", "mse", "waves", 8, split=f"fold-{index}") for index in range(3)
    ]
    shown = " | ".join(row.text for row in differences)
    assert f"| {signed(sum(row.mean for row in differences) / 3)[0]} | {shown} |" in page
    assert "33 windows a fold" in page


def test_a_mean_over_folds_is_of_the_seeds_that_have_all_of_them():
    values = {0: [1.0, 2.0], 1: [3.0, 6.0], 2: [100.0]}
    rows = [
        SeriesRow("a", "waves", f"fold-{index}", 8, seed, "mse", value)
        for seed, each in values.items()
        for index, value in enumerate(each)
    ]
    results = SeriesResults({}, rows, [])
    assert mean_over_folds(results, "a", "mse", "waves", 8, num_folds=2) == pytest.approx((3.0, 4.5**0.5, 2))
    assert mean_over_folds(results, "a", "mse", "waves", 8, num_folds=3) is None


def test_a_study_with_folds_reads_the_training_split_alone(fold_options, waves, tmp_path):
    clean = run(fold_options("--only", "linear"))
    frame = pd.read_csv(waves)
    frame.loc[560:, ["u", "v"]] = 1e6
    frame.to_csv(waves, index=False)
    poisoned = run(fold_options("--only", "linear", output_dir=str(tmp_path / "poisoned")))
    assert poisoned.rows == clean.rows


def test_a_study_with_folds_has_no_final_scores(fold_options, capsys):
    with pytest.raises(SystemExit):
        load_study_config(fold_options("--final"))
    assert "never reads the test split" in capsys.readouterr().err


def test_folds_of_another_cut_are_refused(fold_options):
    run(fold_options())
    with pytest.raises(ValueError, match=r"cell linear/waves-8/fold-0/seed-0: .*'data.fold.fold_length'"):
        run(fold_options(folds=FOLDS | {"fold_length": 30}))
    changed = load_study_config(fold_options(folds=FOLDS | {"fold_length": 30}))
    with pytest.raises(ValueError, match="cell linear/waves-8/fold-0/seed-0 must be of the same waves"):
        study.collect_results(changed, build_cells(changed))


def test_a_study_with_folds_is_shipped_as_a_table(fold_options, tmp_path):
    results = run(fold_options(name="toy"))
    root = tmp_path / "root"
    root.mkdir()
    (root / "README.md").write_text("<!-- results toy -->\n<!-- end -->\n")
    assert ship_study(tmp_path / "study", root=root) == root / "model_cards" / "results" / "toy.json"
    shipped = SeriesResults.read(root / "model_cards" / "results" / "toy.json")
    assert fold_table(shipped) == fold_table(results)
    assert f"-->\n{fold_table(results)}\n<!--" in (root / "README.md").read_text()
    assert "| low rank |" in fold_table(results)
