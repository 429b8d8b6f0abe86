"""Recursive least squares against the sums of all windows, solved anew."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

from hf_tsdyn.baselines.lag_design import LagDesign
from hf_tsdyn.baselines.ridge import Ridge
from hf_tsdyn.online.recursive_least_squares import RecursiveLeastSquares
from hf_tsdyn.online.saving import load_learner

NUM_TRAIN = 60
DESIGN = LagDesign(5, 3, 2)
JOINT = LagDesign(5, 3, 2, 1, joint=True, anchor="none")


def series(num_steps: int, *, num_gaps: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Values (time, 2), a few unseen after the training rows, and a time feature (time, 1), float32."""
    rng = np.random.default_rng(0)
    values = np.sin(0.3 * np.arange(num_steps)[:, None] + [0, 1]) + 0.3 * rng.normal(size=(num_steps, 2))
    rows = rng.integers(NUM_TRAIN, num_steps, num_gaps)
    values[rows, rng.integers(0, 2, num_gaps)] = np.nan
    return (20 + 5 * values).astype(np.float32), rng.normal(size=(num_steps, 1)).astype(np.float32)


def start(values: np.ndarray, features: np.ndarray, design: LagDesign, **options: Any) -> RecursiveLeastSquares:
    """A learner of the training rows, warmed up to their end."""
    known = torch.from_numpy(features[None, :NUM_TRAIN]) if design.num_time_features else None
    past = torch.from_numpy(values[None, :NUM_TRAIN])
    learner = RecursiveLeastSquares.fit(past, design, past_time_features=known, **options)
    first = NUM_TRAIN - design.context_length
    learner.warm_up(values[first:NUM_TRAIN], features[first:NUM_TRAIN] if design.num_time_features else None)
    return learner


def observe(learner: RecursiveLeastSquares, values: np.ndarray, features: np.ndarray, rows: Iterable[int]) -> None:
    for row in rows:
        learner.learn_one(values[row], features[row] if learner.num_time_features else None)


def fill(lags: np.ndarray) -> np.ndarray:
    seen = np.flatnonzero(~np.isnan(lags))
    return np.interp(np.arange(len(lags)), seen, lags[seen])


def sums(learner, values, features, num_steps, *, penalty=1.0, forgetting=1.0):
    """The weights (G, D, O) of the weighted sums over windows of training and stream, solved at the end."""
    design, ridge = learner.ridge.design, learner.ridge
    length, horizon = design.context_length, design.prediction_length
    z = (values.astype(np.float64) - ridge.loc.numpy()) / ridge.scale.numpy()
    train = range(NUM_TRAIN - length - horizon + 1)
    online = range(NUM_TRAIN - length, num_steps - length - horizon + 1)
    found = []
    for group in [[0, 1]] if design.joint else [[0], [1]]:
        size, turn = design.num_inputs, 0
        gram, moment = penalty * np.diag([1.0] * (size - 1) + [0.0]), np.zeros((size, design.num_outputs))
        for first in [*train, *online]:
            past, future = z[first : first + length], z[first + length : first + length + horizon, group]
            if np.isnan(future).any():
                continue
            past = np.stack([fill(past[:, channel]) for channel in group], axis=1)
            known = features[first : first + length].ravel() if design.num_time_features else []
            x = np.concatenate([past.ravel(), known, [1.0]])
            y = (future - past[-1] if design.anchor == "last" else future).ravel()
            if first >= online[0]:
                gram, moment = forgetting * gram, forgetting * moment
                gram[turn, turn] += penalty * (1 - forgetting ** (size - 1))
                turn = (turn + 1) % (size - 1)
            gram, moment = gram + np.outer(x, x), moment + np.outer(x, y)
        found.append(np.linalg.solve(gram, moment))
    return np.stack(found)


@pytest.mark.parametrize("design", [DESIGN, JOINT], ids=["channels", "joint"])
@pytest.mark.parametrize("num_gaps", [0, 6])
def test_without_forgetting_it_is_the_ridge_of_all_revealed_windows(design, num_gaps):
    values, features = series(160, num_gaps=num_gaps)
    learner = start(values, features, design, penalty=1.0)
    observe(learner, values, features, range(NUM_TRAIN, 160))
    assert_allclose(learner.ridge.weights.numpy(), sums(learner, values, features, 160), rtol=0, atol=1e-8)
    updates = learner.statistics()["num_updates"]
    most = design.num_groups * (100 - design.prediction_length + 1)
    assert updates == most if num_gaps == 0 else 0 < updates < most


@pytest.mark.parametrize("design", [DESIGN, JOINT], ids=["channels", "joint"])
@pytest.mark.parametrize("forgetting", [0.99, 0.9])
def test_with_forgetting_it_solves_the_weighted_sums(design, forgetting):
    values, features = series(160, num_gaps=6)
    learner = start(values, features, design, penalty=0.5, forgetting=forgetting)
    observe(learner, values, features, range(NUM_TRAIN, 160))
    expected = sums(learner, values, features, 160, penalty=0.5, forgetting=forgetting)
    assert_allclose(learner.ridge.weights.numpy(), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("design", [DESIGN, JOINT], ids=["channels", "joint"])
def test_until_a_target_is_complete_it_is_the_frozen_ridge(design):
    values, features = series(80)
    learner = start(values, features, design, penalty=2.0, forgetting=0.9)
    known = torch.from_numpy(features[None]) if design.num_time_features else None
    train = None if known is None else known[:, :NUM_TRAIN]
    ridge = Ridge.fit(torch.from_numpy(values[None, :NUM_TRAIN]), design, penalty=2.0, past_time_features=train)

    def frozen(stop: int) -> Tensor:
        part = slice(stop - 5, stop)
        features = None if known is None else known[:, part]
        past = torch.from_numpy(values[None, part])
        return ridge.forecast(past, prediction_length=3, past_time_features=features)[0]

    for row in range(NUM_TRAIN, NUM_TRAIN + 3):
        assert torch.equal(learner.forecast(), frozen(row))
        observe(learner, values, features, [row])
    assert not torch.equal(learner.forecast(), frozen(NUM_TRAIN + 3))


def test_it_follows_a_change_of_the_system_only_if_it_forgets():
    rng = np.random.default_rng(0)
    values = np.zeros((1500, 1))
    for row in range(1, len(values)):
        values[row] = (0.9 if row < 500 else -0.9) * values[row - 1] + rng.normal()
    errors = {}
    for forgetting in (1.0, 0.97):
        train = torch.from_numpy(values[None, :500])
        learner = RecursiveLeastSquares.fit(train, LagDesign(2, 1, 1), penalty=1.0, forgetting=forgetting)
        learner.warm_up(values[498:500])
        squares = []
        for row in range(500, 1500):
            squares.append((learner.forecast().numpy() - values[row]) ** 2)
            learner.learn_one(values[row])
        errors[forgetting] = np.mean(squares[100:])
    assert errors[0.97] < 1.15  # the noise alone is 1
    assert errors[1.0] > 1.3


@pytest.mark.parametrize("forgetting", [1.0, 0.9])
def test_an_endless_stream_without_news_leaves_the_learner_sound(forgetting):
    values, features = series(200)
    learner = start(values, features, DESIGN, penalty=0.1, forgetting=forgetting)
    observe(learner, values, features, range(NUM_TRAIN, 100))
    still = np.repeat(values[100:101], 3000, axis=0)
    observe(learner, still, features, range(3000))
    inverse = learner.state_dict()["own.inverse"]
    assert torch.equal(inverse, inverse.mT)
    eigenvalues = torch.linalg.eigvalsh(inverse)
    assert eigenvalues.min() > 0
    # The penalised weights' part of the Gram matrix is at least f^n p, n = 5.
    assert torch.linalg.eigvalsh(inverse[:, :-1, :-1]).max() < 1.001 / (0.1 * forgetting**5)
    torch.testing.assert_close(learner.forecast(), torch.from_numpy(still[:3]), rtol=1e-2, atol=0)
    errors = []
    for row in range(101, 198):
        errors.append(learner.forecast().numpy() - values[row : row + 3])
        observe(learner, values, features, [row])
    assert np.square(errors[10:]).mean() < values.var()


def test_it_goes_on_from_disk_to_the_bit(tmp_path):
    values, features = series(140, num_gaps=4)
    learner = start(values, features, JOINT, penalty=1.0, forgetting=0.95)
    observe(learner, values, features, range(NUM_TRAIN, 100))
    learner.save(tmp_path / "learner")
    found = load_learner(tmp_path / "learner")
    assert isinstance(found, RecursiveLeastSquares)
    for each in (learner, found):
        observe(each, values, features, range(100, 140))
    assert torch.equal(found.forecast(), learner.forecast())
    for name, tensor in learner.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor, rtol=0, atol=0, equal_nan=True)
    assert found.statistics() == learner.statistics()


def test_it_leaves_the_ridge_that_it_was_given_alone():
    values, features = series(100)
    ridge = Ridge.fit(torch.from_numpy(values[None, :NUM_TRAIN]), DESIGN, penalty=1.0)
    before = ridge.weights.clone()
    learner = RecursiveLeastSquares(ridge, torch.eye(6).double().repeat(2, 1, 1), penalty=1.0)
    learner.warm_up(values[:NUM_TRAIN])
    observe(learner, values, features, range(NUM_TRAIN, 100))
    assert torch.equal(ridge.weights, before)
    assert not torch.equal(learner.ridge.weights, before)


@pytest.mark.parametrize("forgetting", [0.0, 1.1])
def test_a_forgetting_factor_that_is_none_is_refused(forgetting):
    values, _ = series(100)
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        RecursiveLeastSquares.fit(torch.from_numpy(values[None]), DESIGN, penalty=1.0, forgetting=forgetting)
