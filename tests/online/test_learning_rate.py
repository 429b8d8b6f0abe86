"""The choice of a learning rate on streams whose best rate is known."""

import numpy as np
import pytest
import torch

from hf_tsdyn.online.learner import OnlineLearner
from hf_tsdyn.online.learning_rate import choose_learning_rate
from hf_tsdyn.online.stream import Stream


class Level(OnlineLearner):
    """Forecast a level that moves towards each target by a share of the distance, the rate."""

    def __init__(self, rate: float, protocol="delayed"):
        super().__init__(context_length=4, prediction_length=1, num_channels=1, protocol=protocol)
        self.rate, self.level = rate, 0.0

    def _forecast(self, window):
        return torch.full((1, 1), self.level)

    def _learn(self, window, future_values, future_observed_mask):
        self.level += self.rate * (float(future_values) - self.level)


def stream_of(later: np.ndarray) -> Stream:
    """A stream around 0 that goes on with `later` from row 20 on."""
    return Stream(np.concatenate([np.tile([-1.0, 1.0], 10), later])[:, None])


def test_the_best_rate_is_that_of_the_smallest_error():
    stream = stream_of(np.full(60, 5.0))  # rate 1 is there after one step
    chosen = choose_learning_rate(Level, stream, start=20, stop=80, candidates=[1.9, 0.01, 1.0])
    assert chosen.rate == 1.0
    assert list(chosen.errors) == [0.0, 0.01, 1.0, 1.9]
    assert chosen.errors[0.0] == 25.0
    assert chosen.errors[1.0] == pytest.approx(25.0 / 60)


def test_where_learning_does_not_pay_it_is_zero():
    stream = stream_of(np.tile([-1.0, 1.0], 30))
    chosen = choose_learning_rate(Level, stream, start=20, stop=80, candidates=[0.1, 1.0])
    assert chosen.rate == 0.0
    assert chosen.errors[0.0] == 1.0


def test_of_equal_rates_the_lowest_is_taken():
    chosen = choose_learning_rate(Level, stream_of(np.zeros(60)), start=20, stop=80, candidates=[1.0, 0.5])
    assert set(chosen.errors.values()) == {0.0}
    assert chosen.rate == 0.0


def test_only_the_stretch_and_what_lies_before_it_decide():
    later = np.full(60, 5.0)
    changed = np.concatenate([later, np.tile([-50.0, 50.0], 20)])
    for values in (later, changed):
        chosen = choose_learning_rate(Level, stream_of(values), start=20, stop=80, candidates=[0.1, 1.0])
        assert chosen.rate == 1.0


def test_a_rate_that_diverges_has_an_infinite_error():
    stream = stream_of(np.full(60, 5.0))
    chosen = choose_learning_rate(Level, stream, start=20, stop=80, candidates=[5.0, 0.5])
    assert chosen.errors[5.0] == np.inf
    assert chosen.rate == 0.5


def test_negative_rates_and_the_leaky_protocol_are_refused():
    stream = stream_of(np.zeros(60))
    with pytest.raises(ValueError, match=r"at least 0, found -0\.1"):
        choose_learning_rate(Level, stream, start=20, stop=80, candidates=[-0.1])
    with pytest.raises(ValueError, match="the fastest learner wins"):
        choose_learning_rate(lambda rate: Level(rate, "immediate"), stream, start=20, stop=80, candidates=[0.1])
    with pytest.raises(ValueError, match="choose another stretch"):
        choose_learning_rate(Level, stream_of(np.full(60, np.nan)), start=20, stop=80, candidates=[0.1])
