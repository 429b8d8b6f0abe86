import pickle

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from hf_tsdyn.baselines import Persistence
from hf_tsdyn.data import (
    SequentialWindows,
    SeriesDataset,
    SeriesOptions,
    SeriesPart,
    TrajectoryDataset,
    carve_rows,
    cross_validate,
    rolling_origins,
)

WHOLE = SeriesOptions(validation_share=0.0, test_share=0.0)


def open_series(folder, values, name="series"):
    np.save(folder / f"{name}.npy", np.asarray(values, np.float32))
    return SeriesDataset(folder / f"{name}.npy", "train", context_length=0, options=WHOLE)


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """Two series of one channel, of 200 steps that count from 0."""
    return open_series(tmp_path_factory.mktemp("steps"), np.stack([np.arange(200)] * 2)[..., None])


class Recorder:
    """Forecasts the same number, and remembers the contexts it was given."""

    def __init__(self, number=0.0):
        self.number = number
        self.contexts = []
        self.masks = []

    def forecast(self, past_values, *, prediction_length, past_observed_mask=None):
        self.contexts.append(past_values)
        self.masks.append(past_observed_mask)
        return torch.full((past_values.shape[0], prediction_length, past_values.shape[2]), self.number)


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


@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_scores_are_means_over_every_window_step_and_row(tmp_path, batch_size):
    rng = np.random.default_rng(0)
    values = rng.standard_normal((2, 90, 3)).astype(np.float32)
    folds = rolling_origins(open_series(tmp_path, values), num_folds=2, fold_length=15, context_length=6)
    scores = cross_validate(lambda train: Persistence(), folds, prediction_length=4, batch_size=batch_size)
    for score, origin in zip(scores, (60, 75), strict=True):
        errors = np.stack(
            [
                values[row, start : start + 4] - values[row, start - 1]
                for row in range(2)
                for start in range(origin, origin + 15 - 4 + 1)
            ]
        ).astype(np.float64)
        assert score.num_windows == len(errors) == 24
        np.testing.assert_allclose(score.mse, (errors**2).mean(axis=(0, 1)), rtol=1e-6)
        np.testing.assert_allclose(score.mae, np.abs(errors).mean(axis=(0, 1)), rtol=1e-6)


def test_each_fold_is_fitted_to_its_own_training_part(steps):
    parts, forecasters = [], []

    def fit(train):
        parts.append(train)
        forecasters.append(Recorder(float(train.values(0).mean())))
        return forecasters[-1]

    folds = rolling_origins(steps, num_folds=3, fold_length=20, context_length=8, gap=10)
    scores = cross_validate(fit, folds, prediction_length=20)
    assert [steps_of(part)[-1] for part in parts] == [129, 149, 169]
    assert [int(forecaster.contexts[0][0, -1, 0]) for forecaster in forecasters] == [139, 159, 179]
    for score, origin, last in zip(scores, (140, 160, 180), (129, 149, 169), strict=True):
        np.testing.assert_allclose(score.mae, origin + 9.5 - last / 2)


def test_what_is_unseen_is_not_scored(tmp_path):
    values = np.zeros((40, 3), np.float32)
    values[30:35, 0] = np.nan
    values[38, 1] = np.nan
    values[30:, 2] = np.nan
    folds = rolling_origins(open_series(tmp_path, values), num_folds=1, fold_length=10, context_length=8)
    recorder = Recorder(2.0)
    (score,) = cross_validate(lambda train: recorder, folds, prediction_length=5)
    np.testing.assert_array_equal(score.mse, [4, 4, np.nan])
    np.testing.assert_array_equal(score.mae, [2, 2, np.nan])
    assert not recorder.masks[0][1:, -1, 0].all()


def test_a_forecast_that_is_lost_spoils_its_score(steps):
    folds = rolling_origins(steps, num_folds=1, fold_length=10, context_length=8)
    (score,) = cross_validate(lambda train: Recorder(float("nan")), folds, prediction_length=5)
    assert np.isnan(score.mse).all()


def test_forecasts_of_another_shape_are_refused(steps):
    class Short(Recorder):
        def forecast(self, past_values, *, prediction_length, past_observed_mask=None):
            return super().forecast(past_values, prediction_length=1)

    folds = rolling_origins(steps, num_folds=1, fold_length=10, context_length=8)
    with pytest.raises(ValueError, match=r"\(12, 5, 1\), found \(12, 1, 1\) from Short"):
        cross_validate(lambda train: Short(), folds, prediction_length=5)


def test_mixed_channel_counts_are_refused(oscillators):
    data, _ = carve_rows(TrajectoryDataset(oscillators, "train"), 0.2, seed=0)
    folds = rolling_origins(data, num_folds=1, fold_length=10, context_length=8)
    with pytest.raises(ValueError, match=r"scored by channel, found \[2, 3\]"):
        cross_validate(lambda train: Recorder(), folds, prediction_length=5)
