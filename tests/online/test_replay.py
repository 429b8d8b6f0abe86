"""The two memories, against a list that forgets nothing and the probabilities of a fair sample."""

import numpy as np
import pytest
import torch

from hf_tsdyn.online.replay import Reservoir, Ring

SIZES = {"context_length": 2, "prediction_length": 1, "num_channels": 1, "num_time_features": 0}


def _reservoir(size: int, *, seed: int = 0, **settings) -> Reservoir:
    return Reservoir(size, **SIZES | {"with_outputs": False, "seed": seed} | settings)


def _add(reservoir: Reservoir, number: int) -> None:
    reservoir.add(past_values=torch.full((2, 1), float(number)), future_values=torch.full((1, 1), -float(number)))


def _held(reservoir: Reservoir) -> list[int]:
    return reservoir.state()["past_values"][:, 0, 0].int().tolist()


def test_a_ring_holds_the_latest_rows_in_order():
    ring, rows = Ring(5, 2, empty=-1.0), [np.full(2, -1.0)] * 5
    for number in range(23):
        rows.append(np.array([number, 2.0 * number]))
        ring.append(rows[-1])
        np.testing.assert_array_equal(ring.rows, rows[-5:])
        np.testing.assert_array_equal(ring.latest(2), rows[-2:])
        np.testing.assert_array_equal(ring.latest(3, 2), rows[-5:-2])


def test_a_reservoir_is_a_uniform_sample_of_all_that_was_added():
    size, added, repetitions = 10, 60, 1200
    counts = np.zeros(added)
    for seed in range(repetitions):
        reservoir = _reservoir(size, seed=seed)
        for number in range(added):
            _add(reservoir, number)
        held = _held(reservoir)
        assert len(set(held)) == size
        counts[held] += 1
    share = size / added
    deviations = (counts - repetitions * share) / np.sqrt(repetitions * share * (1 - share))
    assert np.abs(deviations).max() < 4.5
    # With `size` held of `added` the squares sum to added - 1 in the mean, with variance about 2 (added - 1).
    assert abs((deviations**2).sum() - (added - 1)) < 5 * np.sqrt(2 * (added - 1))


def test_a_reservoir_that_is_not_full_holds_everything():
    reservoir = _reservoir(10)
    for number in range(7):
        _add(reservoir, number)
    assert _held(reservoir) == list(range(7))
    assert len(reservoir) == 7
    assert sorted(reservoir.sample(20).past_values[:, 0, 0].tolist()) == list(range(7))


def test_draws_are_different_windows_with_their_own_targets():
    reservoir = _reservoir(20)
    for number in range(20):
        _add(reservoir, number)
    counts = np.zeros(20)
    for _ in range(1000):
        drawn = reservoir.sample(5)
        numbers = drawn.past_values[:, 0, 0].int().tolist()
        assert len(set(numbers)) == 5
        assert torch.equal(drawn.future_values[:, 0, 0], -drawn.past_values[:, 0, 0])
        counts[numbers] += 1
    assert np.abs(counts - 250).max() < 5 * np.sqrt(1000 * 0.25 * 0.75)


def test_what_was_added_is_copied():
    reservoir, window = _reservoir(3), torch.zeros(2, 1)
    reservoir.add(past_values=window, future_values=torch.zeros(1, 1))
    window += 1
    assert reservoir.sample(1).past_values.sum() == 0


def test_stored_outputs_come_as_a_second_set_of_targets():
    reservoir = _reservoir(4, with_outputs=True, num_time_features=1)
    for number in range(4):
        values = {"past_values": torch.full((2, 1), 1.0 * number), "past_time_features": torch.full((2, 1), 0.5)}
        reservoir.add(
            **values, future_values=torch.full((1, 1), 2.0 * number), outputs=torch.full((1, 1), 3.0 * number)
        )
    tensors = reservoir.sample(4).tensors()
    past, future = tensors["past_values"][:, 0, 0], tensors["future_values"][:, 0, 0]
    assert torch.equal(future, torch.cat([2 * past[:4], 3 * past[:4]]))
    assert torch.equal(past[:4], past[4:])
    assert tensors["past_time_features"].shape == (8, 2, 1)


@pytest.mark.parametrize("added", [3, 50])
def test_a_reservoir_goes_on_to_the_bit(added):
    first, second = _reservoir(6), _reservoir(6, seed=1)
    for number in range(added):
        _add(first, number)
    second.load_state(first.state())
    for number in range(added, added + 40):
        for each in (first, second):
            _add(each, number)
        assert torch.equal(first.sample(4).past_values, second.sample(4).past_values)
    assert _held(first) == _held(second)


def test_the_state_of_another_reservoir_is_refused():
    other = _reservoir(6, context_length=3)
    other.add(past_values=torch.zeros(3, 1), future_values=torch.zeros(1, 1))
    with pytest.raises(ValueError, match=r"past_values of a reservoir must have shape \(1, 2, 1\), found \(1, 3, 1\)"):
        _reservoir(6).load_state(other.state())
    with pytest.raises(ValueError, match="outputs of a reservoir must have shape"):
        _reservoir(6, context_length=3, with_outputs=True).load_state(other.state())
