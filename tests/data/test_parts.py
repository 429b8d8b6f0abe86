import pickle
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from hf_tsdyn.data import (
    ChannelBucketSampler,
    RandomWindows,
    SequentialWindows,
    SeriesDataset,
    SeriesOptions,
    SeriesPart,
    TrajectoryDataset,
    carve_end,
    carve_rows,
    identity,
)

WHOLE = SeriesOptions(validation_share=0.0, test_share=0.0)


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """Two series of two and three channels, 100 and 60 steps, that tell the step."""
    folder = tmp_path_factory.mktemp("series")
    for name, (length, channels) in {"a": (100, 2), "b": (60, 3)}.items():
        columns = {"date": pd.date_range("2024-01-01", periods=length, freq="h")}
        frame = pd.DataFrame(columns | {str(c) + "x": np.arange(length) + 1000 * c for c in range(channels)})
        frame.to_parquet(folder / f"{name}.parquet")
    return SeriesDataset(folder, "train", context_length=0, options=WHOLE)


@pytest.fixture(scope="module")
def trajectories(oscillators):
    return TrajectoryDataset(oscillators, "train")


def targets(part, context_length, row=0):
    """Return the steps that windows of `part` have as targets, of a series whose first channel tells the step."""
    own = SeriesPart(part, [(0, part.lengths[row])], rows=[row])
    windows = SequentialWindows(own, context_length=context_length, prediction_length=1, stride=1)
    return [int(window["future_values"][0, 0]) for window in windows]


def test_a_part_shows_its_steps_and_keeps_the_rest(series):
    part = SeriesPart(series, [(10, 30), (0, 5)], split="middle")
    np.testing.assert_array_equal(part.values(0), series.values(0)[:, 10:30])
    np.testing.assert_array_equal(part.values(1), series.values(1)[:, :5])
    np.testing.assert_array_equal(part.times(0), series.times(0)[10:30])
    assert (len(part), part.lengths.tolist(), part.num_channels.tolist()) == (2, [20, 5], [2, 3])
    assert (part.systems, part.split, part.path) == (["a", "b"], "middle", series.path)
    assert part.fingerprint == series.fingerprint
    first, second = part
    assert (first.item_id, first.system, first.split, first.dt) == ("a", "a", "middle", 3600)
    assert first.initial_condition.tolist() == [10, 1010]
    np.testing.assert_array_equal(second.values, part.values(1))


def test_a_part_copies_and_changes_nothing(series):
    part = SeriesPart(series, [(10, 30)], rows=[0])
    assert np.shares_memory(part.values(0), series.values(0))
    assert np.shares_memory(part[0].values, series.values(0))
    assert not part.values(0).flags.writeable
    assert not part.times(0).flags.writeable


def test_a_part_may_hold_some_rows_in_any_order(series):
    part = SeriesPart(series, [(1, 4), (2, 9)], rows=[1, 0])
    assert part.systems == ["b", "a"]
    np.testing.assert_array_equal(part.values(0), series.values(1)[:, 1:4])
    np.testing.assert_array_equal(part.values(1), series.values(0)[:, 2:9])


def test_parts_of_trajectories_keep_their_state_only_at_the_first_step(trajectories):
    part = SeriesPart(trajectories, [(0, 50), (20, 50)], rows=[2, 3])
    np.testing.assert_array_equal(part.values(1), trajectories.values(3)[:, 20:50])
    assert part[0].initial_condition.tolist() == trajectories[2].initial_condition.tolist()
    assert part[1].initial_condition.tolist() == part.values(1)[:, 0].tolist()
    assert part[1].period == trajectories[3].period
    assert part.times(0) is None


def test_a_part_of_a_part_is_one_of_the_whole(series):
    outer = SeriesPart(series, [(5, 55)], rows=[1], split="outer")
    inner = SeriesPart(outer, [(3, 9)])
    np.testing.assert_array_equal(inner.values(0), series.values(1)[:, 8:14])
    np.testing.assert_array_equal(inner.times(0), series.times(1)[8:14])
    assert (inner.split, inner.systems) == ("outer", ["b"])


@pytest.mark.parametrize("kind", ["series", "trajectories"])
def test_parts_pickle_without_values(kind, request):
    source = request.getfixturevalue(kind)
    part, _ = carve_end(source, 0.25, context_length=8)
    content = pickle.dumps(SeriesPart(part, part.ranges, split="again"))
    again = pickle.loads(content)
    assert len(content) < 3000
    assert (again.split, again.lengths.tolist()) == ("again", part.lengths.tolist())
    for row in range(len(part)):
        np.testing.assert_array_equal(again.values(row), part.values(row))


def test_windows_of_parts_are_windows_of_the_source(series):
    part = SeriesPart(series, [(10, 40), (20, 60)])
    options = {"context_length": 6, "prediction_length": 2}
    windows = RandomWindows(part, **options, num_windows=64, seed=0, balance="systems")
    loader = DataLoader(windows, sampler=ChannelBucketSampler(windows, 8), batch_size=8, collate_fn=identity)
    again = pickle.loads(pickle.dumps(windows))
    assert torch.equal(again[1]["past_values"], windows[1]["past_values"])
    for batch in loader:
        steps = torch.cat([batch["past_values"], batch["future_values"]], dim=1)[..., 0]
        first, last = (10, 40) if batch["past_values"].shape[2] == 2 else (20, 60)
        assert steps.min() >= first
        assert steps.max() < last
    assert len(SequentialWindows(part, **options, stride=1)) == (30 - 7) + (40 - 7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([(0, 5)],), r"shape \(2, 2\), .*found \(1, 2\)"),
        (([(0, 5), (3, 3)],), "found steps 3 to 3 of 60 in row 1"),
        (([(-1, 5), (0, 3)],), "found steps -1 to 5 of 100 in row 0"),
        (([(0, 5), (0, 61)],), "found steps 0 to 61 of 60"),
        (([(0, 5)], [2]), r"one of the 2 rows of SeriesDataset.*found \[2\]"),
        (([(0, 5)], [-1]), r"from 0 on, found \[-1\]"),
        ((np.empty((0, 2)), []), r"at least one .*found \[\]"),
    ],
)
def test_parts_that_are_not_there_are_refused(series, arguments, message):
    ranges, *rows = arguments
    with pytest.raises(ValueError, match=message):
        SeriesPart(series, ranges, rows=rows[0] if rows else None)


@given(share=st.integers(5, 80), gap=st.integers(0, 9), context_length=st.integers(1, 60))
def test_the_end_has_the_last_targets_and_the_front_what_lies_before(series, share, gap, context_length):
    front, end = carve_end(series, share / 100, gap=gap, context_length=context_length)
    for row, length in enumerate((100, 60)):
        border = length - length * share // 100
        assert front.values(row)[0].tolist() == list(range(border - gap))
        first = max(border - context_length, 0)
        assert end.values(row)[0].tolist() == list(range(first, length))
        if context_length < length:
            assert targets(end, context_length, row) == list(range(first + context_length, length))
    assert (front.split, end.split) == ("train-front", "train-end")


def test_shares_count_as_decimals(series):
    """0.29 x 100 is 28.999999999999996 in floating point."""
    _, end = carve_end(series, 0.29, context_length=0)
    assert end.lengths.tolist() == [29, 17]


def test_an_end_that_leaves_nothing_is_refused(series):
    with pytest.raises(ValueError, match=r"last 0\.01, found 1 that leave one without, such as \{'b': 60\}"):
        carve_end(series, 0.01, context_length=4)
    with pytest.raises(ValueError, match=r"\{'b': 60\} with gap=48"):
        carve_end(series, 0.2, context_length=4, gap=48)
    for share in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="share must lie between 0 and 1"):
            carve_end(series, share, context_length=4)
    with pytest.raises(ValueError, match="at least 0, found -1 and 4"):
        carve_end(series, 0.2, context_length=4, gap=-1)


@given(share=st.integers(17, 99), seed=st.integers(0, 1000))
def test_carved_systems_and_the_others_are_all_there_are(trajectories, share, seed):
    rest, carved = carve_rows(trajectories, share / 100, seed=seed)
    assert len(set(carved.systems)) == 6 * share // 100
    assert sorted(rest.systems + carved.systems) == sorted(trajectories.systems)
    assert not set(rest.systems) & set(carved.systems)
    for row, source_row in enumerate(carved.rows):
        np.testing.assert_array_equal(carved.values(row), trajectories.values(source_row))


def test_a_larger_share_keeps_what_a_smaller_one_carves(trajectories):
    carved = [set(carve_rows(trajectories, share, seed=3)[1].systems) for share in (0.2, 0.4, 0.6, 0.9)]
    assert all(smaller < larger for smaller, larger in pairwise(carved))


def test_the_order_of_rows_carves_nothing_else(trajectories):
    backwards = SeriesPart(trajectories, [(0, 400)] * 6, rows=range(6)[::-1])
    carved, again = (carve_rows(source, 0.5, seed=3)[1].systems for source in (trajectories, backwards))
    assert again == carved[::-1]


def test_seeds_carve_other_systems(trajectories):
    assert len({tuple(carve_rows(trajectories, 0.5, seed=seed)[1].systems) for seed in range(20)}) > 5


def test_rows_of_one_system_stay_together(write_dataset, tmp_path):
    rows = [{"target": np.zeros((1, 20), np.float32), "system": name} for name in "ABAB"]
    source = TrajectoryDataset(write_dataset(tmp_path / "data", rows), "train")
    rest, carved = carve_rows(source, 0.5, seed=0)
    assert {tuple(rest.systems), tuple(carved.systems)} == {("A", "A"), ("B", "B")}


def test_a_share_without_a_system_is_refused(trajectories):
    with pytest.raises(ValueError, match=r"at least one of the 6 systems.*found 0\.1"):
        carve_rows(trajectories, 0.1, seed=0)
