import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from hf_tsdyn.data import SequentialWindows, SeriesDataset, SeriesOptions
from hf_tsdyn.evaluation import EvaluationProtocol
from training import train
from training.folds import FoldOptions, Folds
from training.run_config import DataConfig, load_run_config
from training.series_scoring import SeriesScorer

OPTIONS = SeriesOptions(validation_share=0.1, test_share=0.1)
FOLD = FoldOptions(num_folds=4, fold_length=50, index=1)
"""Of 640 training steps, those from 490 up to 540."""


@pytest.fixture
def counting(tmp_path):
    """A CSV file of two channels that count 800 steps, up and down."""
    frame = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=800, freq="h"), "up": range(800)})
    frame.assign(down=range(799, -1, -1)).to_csv(tmp_path / "counting.csv", index=False)
    return tmp_path / "counting.csv"


def open_part(path, split, *, context_length=8, fold=FOLD):
    return DataConfig(str(path), series=OPTIONS, fold=fold).open(split, context_length)


def test_a_fold_trains_before_its_origin_and_validates_behind_it(counting):
    train_part, validation = open_part(counting, "train"), open_part(counting, "validation")
    assert train_part.values(0)[0].astype(int).tolist() == list(range(490))
    assert validation.values(0)[0].astype(int).tolist() == list(range(482, 540))
    windows = SequentialWindows(validation, context_length=8, prediction_length=10, stride=1)
    firsts = [int(window["future_values"][0, 0]) for window in windows]
    assert firsts == list(range(490, 531))


def test_the_folds_end_where_the_training_split_ends(counting):
    last = [open_part(counting, "validation", fold=fold).values(0)[0, -1] for fold in Folds(4, 50)]
    assert last == [489, 539, 589, 639]


@pytest.mark.parametrize("split", ["test", "tset"])
def test_a_fold_has_no_other_split(counting, split):
    with pytest.raises(ValueError, match=rf"its splits \('train', 'validation'\), found '{split}'"):
        open_part(counting, split)


def test_a_series_too_short_for_the_folds_is_named(counting):
    with pytest.raises(ValueError, match=r"such as {'counting': 640}"):
        open_part(counting, "train", fold=FoldOptions(8, 100, 0))


def test_trajectories_have_no_folds(oscillators):
    with pytest.raises(ValueError, match=r"data\.fold must be of a series, found trajectories at .*; leave it out"):
        DataConfig(str(oscillators), fold=FOLD).open("train", 8)


@pytest.mark.parametrize(
    ("values", "message"),
    [((0, 5, 0), "found 0 and 5"), ((3, 0, 0), "found 3 and 0"), ((3, 5, 3), "found 3"), ((3, 5, -1), "found -1")],
)
def test_folds_that_there_are_not_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        FoldOptions(*values)


def test_every_fold_has_a_fingerprint_of_its_own(counting):
    whole = SeriesDataset(counting, "train", context_length=0, options=OPTIONS).fingerprint
    folds = [None, *Folds(4, 50), FoldOptions(5, 50, 1), FoldOptions(4, 49, 1)]
    found = [open_part(counting, "train", fold=fold).fingerprint for fold in folds]
    assert found[0] == whole
    assert len(set(found)) == len(folds)
    assert open_part(counting, "validation").fingerprint == found[2] == FOLD.fingerprint_of(whole)


def test_a_fold_survives_pickling(counting):
    part = open_part(counting, "validation")
    again = pickle.loads(pickle.dumps(part))
    assert again.fingerprint == part.fingerprint
    assert again.channel_names == part.channel_names == [("up", "down")]
    assert np.array_equal(again.values(0), part.values(0))


class Persistent:
    def forecast(self, past_values, *, prediction_length, past_observed_mask=None):
        return past_values[:, -1:].expand(-1, prediction_length, -1)


def test_folds_are_scored_in_units_of_the_whole_training_split(counting):
    data = DataConfig(str(counting), series=OPTIONS, fold=FOLD)
    scorer = SeriesScorer(data, EvaluationProtocol(context_length=8))
    errors = scorer.score(Persistent(), "validation", 2, show_progress=False)
    deviation = np.arange(640).std()
    assert errors.squared.shape == (49, 2)
    assert errors.channel_names == ("up", "down")
    assert errors.scale == pytest.approx([deviation] * 2, rel=1e-5)
    assert errors.mse == pytest.approx((1 + 4) / 2 / deviation**2, rel=1e-5)
    assert scorer.fingerprint == FOLD.fingerprint_of(scorer.series_fingerprint)
    assert scorer.facts({("fold-1", 2): errors})["fingerprint"] == scorer.series_fingerprint


@pytest.fixture
def run_arguments(counting, tmp_path):
    """A function that returns the command line of a closed form on a fold."""
    lengths = {"context_length": 8, "prediction_length": 2, "worker_context_length": 8, "controller_patch_length": 8}
    parts = {"controller": False, "num_worker_layers": 0, "trend_head": False, "channel_mixer": False}
    specialists = [{"kind": "periodic", "period": 4}]
    model = {"model_type": "dynonet", "num_channels": 2, "specialists": specialists, **lengths, **parts}
    data = {"path": str(counting), "series": {"validation_share": 0.1, "test_share": 0.1}}
    training = {"output_dir": str(tmp_path / "run"), "max_steps": 0, "use_cpu": True, "disable_tqdm": True}

    def arguments(fold):
        content = {"model": model, "data": data | {"fold": fold}, "training": training, "evaluation": {"name": "toy"}}
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
        return ["--config", str(tmp_path / "run.yaml")]

    return arguments


def test_a_run_of_one_fold_does_not_pass_for_that_of_another(run_arguments, capsys):
    fold = {"num_folds": 4, "fold_length": 50, "index": 1}
    train.main(run_arguments(fold))
    train.main(run_arguments(fold))
    assert "already holds this run" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"other settings of \['data\.fingerprint', 'data\.fold\.index'\]"):
        train.main(run_arguments(fold | {"index": 2}))
    with pytest.raises(SystemExit, match=r"other settings of \['data\.fingerprint', 'data\.fold\.fold_length', "):
        train.main(run_arguments(None))


def test_a_run_of_a_fold_knows_nothing_behind_its_origin(run_arguments):
    config, resolved = load_run_config(run_arguments({"num_folds": 4, "fold_length": 50, "index": 1}))
    assert config.data.fold == FOLD
    trainer: Any = train.prepare(config, resolved)
    assert trainer.train_dataset.trajectories.lengths.tolist() == [490]
    assert resolved["data"]["fingerprint"] == trainer.train_dataset.trajectories.fingerprint
    assert trainer.model.config.channel_loc[0] == pytest.approx(np.arange(490).mean())
