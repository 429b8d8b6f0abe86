"""What copying the leak gives, worked out by hand."""

import numpy as np
import pytest
import torch

from hf_tsdyn.online.copy_last_revealed import CopyLastRevealed
from hf_tsdyn.online.prequential import run_prequential
from hf_tsdyn.online.saving import load_learner
from hf_tsdyn.online.stream import Stream


def learner(prediction_length: int = 3) -> CopyLastRevealed:
    return CopyLastRevealed(context_length=2, prediction_length=prediction_length, num_channels=1)


def run(copying: CopyLastRevealed, values: list[float], rows: range) -> None:
    column = np.array(values)[:, None]
    for row in rows:
        copying.learn_revealed(column[row : row + copying.prediction_length])
        copying.learn_one(column[row])


def test_it_forecasts_what_was_revealed_one_step_further():
    copying = learner()
    copying.warm_up([[7.0], [8.0]])
    assert copying.forecast().flatten().tolist() == [8.0, 8.0, 8.0]
    run(copying, [1.0, 2.0, 3.0], range(1))
    assert copying.forecast().flatten().tolist() == [2.0, 3.0, 3.0]


def test_unseen_targets_are_interpolated():
    copying = learner(4)
    copying.warm_up([[7.0], [8.0]])
    run(copying, [1.0, np.nan, 3.0, np.nan], range(1))
    assert copying.forecast().flatten().tolist() == [2.0, 3.0, 3.0, 3.0]


def test_what_has_come_to_pass_is_not_repeated():
    copying = learner()
    copying.warm_up([[7.0], [8.0]])
    copying.learn_revealed(np.array([[1.0], [2.0], [3.0]]))
    for value in (1.0, 2.0, 3.0, 4.0, 5.0):
        copying.learn_one([value])
    assert copying.forecast().flatten().tolist() == [5.0, 5.0, 5.0]


@pytest.mark.parametrize("horizon", [1, 4])
def test_its_error_is_that_of_persistence_one_step_ahead_at_the_last_step_alone(horizon):
    values = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    copying = CopyLastRevealed(context_length=5, prediction_length=horizon, num_channels=2)
    found = run_prequential(copying, Stream(values), start=20, stop=60, loc=[0, 0], scale=[1, 1], show_progress=False)
    known = found.squared[1:]
    assert not known[:, :-1].any()
    last = np.square(values[20 + horizon :] - values[19 + horizon : -1]).mean(axis=1)
    np.testing.assert_allclose(known[:, -1], last, rtol=1e-6)


def test_it_goes_on_from_disk_to_the_bit(tmp_path):
    values = np.random.default_rng(0).normal(size=30).tolist()
    copying = learner()
    copying.warm_up([[7.0], [8.0]])
    run(copying, values, range(10))
    copying.save(tmp_path / "learner")
    found = load_learner(tmp_path / "learner")
    assert torch.equal(found.forecast(), copying.forecast())
    for each in (copying, found):
        run(each, values, range(10, 15))
    assert torch.equal(found.forecast(), copying.forecast())
