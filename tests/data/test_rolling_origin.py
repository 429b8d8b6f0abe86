import pickle

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hf_tsdyn.baselines import Persistence
from hf_tsdyn.channel_scaling import channel_statistics
from hf_tsdyn.data import (
    SequentialWindows,
    SeriesDataset,
    SeriesOptions,
    SeriesPart,
    TrajectoryDataset,
    rolling_origins,
)
from hf_tsdyn.series_evaluation import score_windows

WHOLE = SeriesOptions(validation_share=0.0, test_share=0.0)


def open_series(folder, values, name="series"):
    np.save(folder / f"{name}.npy", np.asarray(values, np.float32))
    return SeriesDataset(folder / f"{name}.npy", "train", context_length=0, options=WHOLE)


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """Two series of one channel, of 200 steps that count from 0."""
    return open_series(tmp_path_factory.mktemp("steps"), np.stack([np.arange(200)] * 2)[..., None])


def steps_of(part, row=0):
    return part.values(row)[0].astype(int).tolist()


def targets_of(fold, prediction_length, row=0):
    part = SeriesPart(fold.validation, [(0, fold.validation.lengths[row])], rows=[row])
    windows = SequentialWindows(part, context_length=fold.context_length, prediction_length=prediction_length, stride=1)
    return sorted({int(step) for window in windows for step in window["future_values"][:, 0]})


def test_folds_follow_one_another_to_the_end(steps):
    folds = rolling_origins(steps, num_folds=3, fold_length=20, context_length=8)
    assert [fold.origin.tolist() for fold in folds] == [[140, 140], [160, 160], [180, 180]]
    for fold, origin in zip(folds, (140, 160, 180), strict=True):
        assert steps_of(fold.train) == list(range(origin))
        assert steps_of(fold.validation) == list(range(origin - 8, origin + 20))
        assert targets_of(fold, 4) == list(range(origin, origin + 20))
    assert [fold.train.split for fold in folds] == [f"train-fold{number}-train" for number in range(3)]
    assert folds[0].validation.split == "train-fold0-validation"


def test_a_sliding_training_part_keeps_its_length(steps):
    folds = rolling_origins(steps, num_folds=3, fold_length=20, context_length=8, gap=5, expanding=False)
    assert [steps_of(fold.train)[::134] for fold in folds] == [[0, 134], [20, 154], [40, 174]]
    assert [fold.train.lengths.tolist() for fold in folds] == [[135, 135]] * 3
    assert [steps_of(fold.validation)[0] for fold in folds] == [132, 152, 172]


@given(
    num_folds=st.integers(1, 6),
    fold_length=st.integers(1, 30),
    context_length=st.integers(1, 40),
    gap=st.integers(0, 20),
    expanding=st.booleans(),
    horizon=st.integers(1, 30),
)
def test_no_training_step_is_a_target_and_every_fold_step_is(
    steps, num_folds, fold_length, context_length, gap, expanding, horizon
):
    assume(200 - num_folds * fold_length - gap > context_length)
    assume(horizon <= fold_length)
    folds = rolling_origins(
        steps,
        num_folds=num_folds,
        fold_length=fold_length,
        context_length=context_length,
        gap=gap,
        expanding=expanding,
    )
    seen = []
    for fold in folds:
        targets = targets_of(fold, horizon, row=1)
        trained = steps_of(fold.train, row=1)
        assert max(trained) == targets[0] - gap - 1
        assert not set(trained) & set(targets)
        assert targets == list(range(fold.origin[1], fold.origin[1] + fold_length))
        seen += targets
    assert seen == list(range(200 - num_folds * fold_length, 200))


def test_rows_of_other_lengths_have_origins_of_their_own(write_dataset, tmp_path):
    rows = [
        {"target": np.arange(length, dtype=np.float32)[None], "system": "AB"[n]} for n, length in enumerate((50, 80))
    ]
    data = TrajectoryDataset(write_dataset(tmp_path / "data", rows), "train")
    first, second = rolling_origins(data, num_folds=2, fold_length=10, context_length=5)
    assert (first.origin.tolist(), second.origin.tolist()) == ([30, 60], [40, 70])
    assert (steps_of(second.train, 1)[-1], steps_of(second.validation, 1)[0]) == (69, 65)


def test_nothing_outside_the_split_is_touched(tmp_path):
    """Folds of the training split are the same whatever comes after it."""
    values = np.random.default_rng(0).standard_normal((300, 2)).astype(np.float32)
    found = []
    for number, poison in enumerate((None, np.nan, 1e9)):
        series = values.copy()
        if poison is not None:
            series[180:] = poison
        np.save(tmp_path / f"{number}.npy", series)
        options = SeriesOptions(validation_share=0.2, test_share=0.2)
        data = SeriesDataset(tmp_path / f"{number}.npy", "train", context_length=16, options=options)
        folds = rolling_origins(data, num_folds=2, fold_length=30, context_length=16)
        found.append([part.values(0).tobytes() for fold in folds for part in (fold.train, fold.validation)])
    assert found[0] == found[1] == found[2]


def test_folds_pickle(steps):
    fold = rolling_origins(steps, num_folds=2, fold_length=20, context_length=8)[1]
    content = pickle.dumps(fold)
    again = pickle.loads(content)
    assert len(content) < 4000
    np.testing.assert_array_equal(again.validation.values(1), fold.validation.values(1))
    np.testing.assert_array_equal(again.origin, fold.origin)


def test_rows_too_short_are_named(steps):
    with pytest.raises(
        ValueError, match=r"9 steps to train on, 2 of gap and 10 folds of 19, 201 steps.*'series-0': 200"
    ):
        rolling_origins(steps, num_folds=10, fold_length=19, context_length=8, gap=2)
    rolling_origins(steps, num_folds=10, fold_length=19, context_length=8, min_train_length=8, gap=2)
    with pytest.raises(ValueError, match=r"100 steps to train on"):
        rolling_origins(steps, num_folds=2, fold_length=51, context_length=8, min_train_length=100)


@pytest.mark.parametrize(
    "wrong", [{"num_folds": 0}, {"fold_length": 0}, {"gap": -1}, {"context_length": -1}, {"min_train_length": 0}]
)
def test_wrong_numbers_are_named(steps, wrong):
    with pytest.raises(ValueError, match=rf"found .*{next(iter(wrong.values()))}.*raise them"):
        rolling_origins(steps, **({"num_folds": 2, "fold_length": 10, "context_length": 4} | wrong))


def test_any_forecaster_is_scored_on_every_window_of_a_fold(tmp_path):
    series = np.random.default_rng(0).standard_normal((120, 2)).cumsum(axis=0).astype(np.float32)
    folds = rolling_origins(open_series(tmp_path, series), num_folds=2, fold_length=20, context_length=6)
    for fold, origin in zip(folds, (80, 100), strict=True):
        windows = SequentialWindows(fold.validation, context_length=6, prediction_length=4, stride=1)
        errors = score_windows(Persistence(), windows, scale=[1.0, 2.0], show_progress=False)
        expected = [series[start : start + 4] - series[start - 1] for start in range(origin, origin + 17)]
        np.testing.assert_allclose(errors.squared, np.square(expected).mean(axis=1) / [1, 4], rtol=1e-5)


def test_what_is_fitted_to_a_fold_knows_nothing_behind_its_origin(steps):
    for fold in rolling_origins(steps, num_folds=3, fold_length=20, context_length=8):
        loc, _ = channel_statistics((fold.train.values(row) for row in range(len(fold.train))), 1)
        assert loc == pytest.approx((fold.origin[0] - 1) / 2)
