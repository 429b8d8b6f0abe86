"""What every learner sees and learns, against plain slices of the stream."""

import numpy as np
import pytest
import torch

from hf_tsdyn.online.learner import LEARNERS, OnlineLearner


class Recorder(OnlineLearner):
    """Forecast zeros, and note everything that is to be learnt."""

    def __init__(self, **settings):
        super().__init__(**{"context_length": 5, "prediction_length": 3, "num_channels": 2} | settings)
        self.learnt = []

    def _forecast(self, window):
        self.seen = tuple(None if each is None else each.clone() for each in window)
        return torch.zeros(self.prediction_length, self.num_channels)

    def _learn(self, window, future_values, future_observed_mask):
        past, features, mask = (None if each is None else each[0].clone().numpy() for each in window)
        self.learnt.append((past, features, mask, future_values.clone().numpy(), future_observed_mask.clone().numpy()))


def _padded(rows: np.ndarray, end: int, length: int, empty: float) -> np.ndarray:
    """The `length` rows up to `end`, `empty` before the first."""
    padding = np.full((length, rows.shape[1]), empty, rows.dtype)
    return np.concatenate([padding, rows[:end]])[-length:]


@pytest.mark.parametrize("warm_up", [0, 1, 4, 20])
def test_windows_are_learnt_once_their_last_target_is_observed(stream, warm_up):
    learner = Recorder(num_time_features=1)
    features = np.arange(50, dtype=np.float32)[:, None]
    learner.warm_up(stream[:warm_up], features[:warm_up])
    assert not learner.learnt
    for step in range(warm_up, 50):
        learner.learn_one(stream[step], features[step])
        first_end = max(warm_up, 1)
        assert len(learner.learnt) == max(0, step + 1 - 3 - first_end + 1)
    for number, (past, time_features, mask, future, future_mask) in enumerate(learner.learnt):
        end = max(warm_up, 1) + number
        np.testing.assert_array_equal(past, _padded(stream, end, 5, np.nan))
        np.testing.assert_array_equal(time_features, _padded(features, end, 5, 0.0))
        np.testing.assert_array_equal(mask, ~np.isnan(past))
        np.testing.assert_array_equal(future, stream[end : end + 3])
        np.testing.assert_array_equal(future_mask, ~np.isnan(future))
    assert learner.statistics() == {"num_observed": 50.0}


def test_a_warm_up_in_the_midst_of_a_stream_is_not_learnt_either(stream):
    learner = Recorder()
    for row in stream[:20]:
        learner.learn_one(row)
    before = len(learner.learnt)
    learner.warm_up(stream[20:22])
    for row in stream[22:25]:
        learner.learn_one(row)
    assert len(learner.learnt) == before + 1
    np.testing.assert_array_equal(learner.learnt[-1][3], stream[22:25])


def test_a_forecast_sees_the_latest_steps(stream):
    learner = Recorder()
    learner.warm_up(stream[:17])
    learner.forecast()
    np.testing.assert_array_equal(learner.seen[0][0].numpy(), stream[12:17])
    assert learner.seen[1] is None


def test_revealed_targets_are_learnt_at_once_with_the_immediate_protocol(stream):
    learner = Recorder(protocol="immediate")
    learner.warm_up(stream[:10])
    for step in range(10, 20):
        learner.learn_revealed(stream[step : step + 3])
        np.testing.assert_array_equal(learner.learnt[-1][0], stream[step - 5 : step])
        np.testing.assert_array_equal(learner.learnt[-1][3], stream[step : step + 3])
        learner.learn_one(stream[step])
    assert len(learner.learnt) == 10


def test_revealed_targets_are_refused_by_the_delayed_protocol(stream):
    with pytest.raises(ValueError, match="found 'delayed'; use learn_one"):
        Recorder().learn_revealed(stream[:3])


def test_windows_without_anything_seen_are_not_learnt():
    learner = Recorder(num_channels=1)
    values = np.ones((40, 1))
    values[10:18] = np.nan
    for row in values:
        learner.learn_one(row)
    ends = [end for end in range(1, 38) if not (np.isnan(values[max(0, end - 5) : end]).all())]
    ends = [end for end in ends if not np.isnan(values[end : end + 3]).all()]
    assert len(learner.learnt) == len(ends) < 37


def test_forecasting_from_nothing_seen_is_an_error():
    learner = Recorder()
    with pytest.raises(ValueError, match="found none after 0 observed steps"):
        learner.forecast()
    learner.warm_up(np.full((9, 2), np.nan))
    with pytest.raises(ValueError, match="found none after 9 observed steps"):
        learner.forecast()


def test_what_the_caller_gave_may_change_afterwards(stream):
    learner = Recorder()
    row = stream[0].copy()
    learner.learn_one(row)
    row[:] = 7
    learner.forecast()
    np.testing.assert_array_equal(learner.seen[0][0, -1].numpy(), stream[0])


def test_members_see_what_their_holder_sees(stream):
    class Holder(Recorder):
        def __init__(self, **settings):
            super().__init__(**settings)
            self.members = [Recorder(protocol=self.protocol), Recorder(protocol=self.protocol, num_time_features=1)]

    for protocol in ("delayed", "immediate"):
        holder = Holder(protocol=protocol, num_time_features=1)
        holder.warm_up(stream[:6], stream[:6, :1].astype(bool))
        for step in range(6, 30):
            if protocol == "immediate":
                holder.learn_revealed(stream[step : step + 3])
            holder.learn_one(stream[step], [step])
        for member in holder.members:
            assert len(member.learnt) == len(holder.learnt) > 0
            for ours, theirs in zip(holder.learnt, member.learnt, strict=True):
                np.testing.assert_array_equal(ours[0], theirs[0])
                np.testing.assert_array_equal(ours[3], theirs[3])


def test_state_goes_on_to_the_bit_wherever_the_ring_stands(stream):
    first, second = Recorder(num_time_features=1), Recorder(num_time_features=1)
    for step in range(29):
        first.learn_one(stream[step], [step])
    second.load_state_dict(first.state_dict())
    first.learnt.clear()
    for step in range(29, 50):
        first.learn_one(stream[step], [step])
        second.learn_one(stream[step], [step])
    assert len(first.learnt) == 21
    for ours, theirs in zip(first.learnt, second.learnt, strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(mine, other)


def test_the_state_of_another_learner_is_refused(stream):
    learner = Recorder()
    with pytest.raises(ValueError, match=r"must have shape \(8, 2\), found \(9, 2\)"):
        learner.load_state_dict(Recorder(context_length=6).state_dict())
    with pytest.raises(ValueError, match="must have no state of its own, found \\['weights'\\]"):
        learner.load_state_dict(learner.state_dict() | {"own.weights": torch.zeros(1)})


@pytest.mark.parametrize(
    ("values", "features", "message"),
    [
        (np.zeros(3), [0.0], r"values must have shape \(2\), found \(3,\)"),
        (np.zeros((1, 2)), [0.0], r"values must have shape \(2\), found \(1, 2\)"),
        ([np.inf, 0], [0.0], "values must be finite or NaN"),
        (np.zeros(2), None, "found none; build the learner"),
        (np.zeros(2), [np.nan], "time_features must be known at every step"),
        (np.zeros(2), [0.0, 1.0], r"time_features must have shape \(1\), found \(2,\)"),
    ],
)
def test_a_step_of_another_form_is_refused(values, features, message):
    learner = Recorder(num_time_features=1)
    with pytest.raises(ValueError, match=message):
        learner.learn_one(values, features)
    assert learner.num_observed == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"context_length": 0}, "context_length must be at least 1, found 0"),
        ({"num_time_features": -1}, "num_time_features must be at least 0, found -1"),
        ({"protocol": "leaky"}, "protocol must be .* found 'leaky'"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Recorder(**settings)


def test_learners_are_known_by_their_kind():
    class Kind(Recorder, kind="kind_of_a_test"):
        pass

    try:
        assert LEARNERS["kind_of_a_test"] is Kind
        assert Recorder.kind is None
    finally:
        del LEARNERS["kind_of_a_test"]
