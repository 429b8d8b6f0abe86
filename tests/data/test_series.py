import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_tsdyn.baselines import Persistence
from hf_tsdyn.data import (
    ChannelBucketSampler,
    RandomWindows,
    SequentialWindows,
    SeriesDataset,
    SeriesOptions,
)
from hf_tsdyn.data.held_out_windows import draw_held_out_windows
from hf_tsdyn.data.series import SPLITS
from hf_tsdyn.evaluation import EvaluationProtocol, evaluate

WHOLE = SeriesOptions(validation_share=0.0, test_share=0.0)


def numbered(channels=2, length=100, first=0):
    """Return (time, channels) values that tell step and channel: step + 1000 channel."""
    return (first + np.arange(length)[:, None] + 1000 * np.arange(channels)).astype(np.float32)


@pytest.fixture
def csv(tmp_path):
    """A function (text, name) that writes a CSV file."""

    def write(text, name="series.csv"):
        file = tmp_path / name
        file.write_text(text)
        return file

    return write


@pytest.fixture
def npy(tmp_path):
    """A function (array, name) that writes an NPY file."""

    def write(array, name="series.npy"):
        file = tmp_path / name
        np.save(file, array)
        return file

    return write


def open_train(path, **options):
    return SeriesDataset(path, "train", context_length=0, options=SeriesOptions(**(vars(WHOLE) | options)))


def test_a_csv_comes_back_with_its_gaps(csv):
    data = open_train(csv("a,b\n1,2.5\n,3\n-4,NaN\n"))
    expected = np.array([[1, np.nan, -4], [2.5, 3, np.nan]], np.float32)
    np.testing.assert_array_equal(data.values(0), expected)
    assert data.values(0).dtype == np.float32
    assert not data.values(0).flags.writeable
    assert data.channel_names == [("a", "b")]
    assert (data.num_channels.tolist(), data.lengths.tolist(), len(data)) == ([2], [3], 1)


def test_columns_select_and_order_channels(csv, npy):
    table = open_train(csv("a,note,b,c\n1,x,2,3\n4,y,5,6\n"), columns=("c", "a"))
    np.testing.assert_array_equal(table.values(0), [[3, 6], [1, 4]])
    array = open_train(npy(numbered(3, 5)), columns=("2", "0"))
    np.testing.assert_array_equal(array.values(0), numbered(3, 5).T[[2, 0]])
    assert (table.channel_names, array.channel_names) == ([("c", "a")], [("2", "0")])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_files_of_every_shape_come_back(npy, dtype, order):
    one, two = numbered(2, 6), numbered(2, 6, first=50)
    both = open_train(npy(np.asarray(np.stack([one, two]), dtype, order), "both.npy"))
    assert [trajectory.item_id for trajectory in both] == ["both-0", "both-1"]
    assert both.systems == ["both", "both"]
    for values, expected in zip(both, (one, two), strict=True):
        np.testing.assert_array_equal(values.values, expected.T)
    single = open_train(npy(np.asarray(one, dtype, order), "single.npy"))
    np.testing.assert_array_equal(single.values(0), one.T)
    line = open_train(npy(np.asarray(one[:, 0], dtype), "line.npy"))
    np.testing.assert_array_equal(line.values(0), one[:, :1].T)
    assert [data.values(0).dtype for data in (both, single, line)] == [np.float32] * 3


def test_float32_npy_files_are_mapped_not_loaded(npy):
    values = open_train(npy(numbered())).values(0)
    bases = []
    while values is not None:
        bases.append(type(values).__name__)
        values = getattr(values, "base", None)
    assert bases[-1] == "mmap"


def test_trajectory_carries_what_is_known(csv):
    trajectory = open_train(csv("a,b\n1,2\n3,4\n", "reactor.csv"))[0]
    assert (trajectory.item_id, trajectory.system, trajectory.split) == ("reactor", "reactor", "train")
    assert (trajectory.dt, trajectory.lyapunov_time, trajectory.parameters) == (1.0, None, {})
    assert np.isnan(trajectory.period)
    np.testing.assert_array_equal(trajectory.initial_condition, [1, 2])


def test_a_folder_holds_a_row_per_file(csv, npy, tmp_path):
    csv("a,b,c\n1,2,3\n4,5,6\n", "b.csv")
    npy(numbered(2, 9), "a.npy")
    csv("no series", "notes.txt")
    data = open_train(tmp_path)
    assert data.systems == ["a", "b"]
    assert (data.num_channels.tolist(), data.lengths.tolist()) == ([2, 3], [9, 2])
    np.testing.assert_array_equal(data.values(1), [[1, 4], [2, 5], [3, 6]])


def test_files_with_their_columns_in_another_order_are_refused(csv, tmp_path):
    csv("a,b\n1,2\n3,4\n", "one.csv")
    csv("b,a\n20,10\n40,30\n", "two.csv")
    with pytest.raises(ValueError, match=r"\['a', 'b'\] in .*one\.csv and \['b', 'a'\] in .*two\.csv; give .* columns"):
        open_train(tmp_path)
    data = open_train(tmp_path, columns=("b", "a"))
    np.testing.assert_array_equal(data.values(0)[:, 0], [2, 1])
    np.testing.assert_array_equal(data.values(1)[:, 0], [20, 10])


@given(
    num_steps=st.integers(1, 5000),
    shares=st.tuples(st.integers(0, 49), st.integers(0, 49)),
)
def test_parts_lie_in_order_and_leave_nothing_out(num_steps, shares):
    validation, test = shares
    options = SeriesOptions(validation_share=validation / 100, test_share=test / 100)
    parts = [options.part(split, num_steps) for split in SPLITS]
    assert parts[0][0] == 0
    assert [end for _, end in parts] == [first for first, _ in parts[1:]] + [num_steps]
    sizes = [end - first for first, end in parts]
    assert sizes[1:] == [num_steps * validation // 100, num_steps * test // 100]
    assert sizes[0] > 0


def test_borders_count_decimal_shares():
    """0.29 x 100 is 28.999999999999996 in floating point."""
    assert SeriesOptions(test_share=0.29).part("test", 100) == (71, 100)
    assert SeriesOptions(test_share=float(Fraction(1, 3))).part("test", 9) == (7, 9)


@pytest.mark.parametrize("context_length", [1, 7, 20])
def test_targets_lie_in_their_split_and_reach_all_of_it(npy, context_length):
    file = npy(numbered(1, 100))
    options = SeriesOptions(validation_share=0.2, test_share=0.1)
    targets = {}
    for split in SPLITS:
        data = SeriesDataset(file, split, context_length=context_length, options=options)
        windows = SequentialWindows(data, context_length=context_length, prediction_length=2, stride=1)
        batch = windows.__getitems__(range(len(windows)))
        steps = torch.cat([batch["past_values"], batch["future_values"]], dim=1)
        assert (steps.diff(dim=1) == 1).all()
        targets[split] = sorted(set(batch["future_values"].flatten().tolist()))
    assert targets["train"] == list(range(context_length, 70))
    assert targets["validation"] == list(range(70, 90))
    assert targets["test"] == list(range(90, 100))


def test_a_context_longer_than_the_past_begins_with_the_series(npy):
    data = SeriesDataset(npy(numbered(1, 20)), "validation", context_length=18, options=SeriesOptions())
    np.testing.assert_array_equal(data.values(0), [np.arange(17)])


def test_windows_too_long_for_a_split_name_file_and_remedy(npy):
    data = SeriesDataset(npy(numbered(1, 100), "reactor.npy"), "test", context_length=10, options=SeriesOptions())
    with pytest.raises(ValueError, match=r"26 steps.*reactor\.npy', 'test'.*'reactor': 25.*larger share"):
        RandomWindows(data, context_length=10, prediction_length=16, num_windows=8, seed=0)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_split_without_a_step_names_its_share(npy, split):
    with pytest.raises(ValueError, match=rf"the {split} split must hold.*none of the 100.*raise its share"):
        SeriesDataset(npy(numbered()), split, context_length=4, options=WHOLE)


def test_random_windows_are_balanced_over_mixed_files(npy, tmp_path):
    rng = np.random.default_rng(0)
    for name, channels in {"a": 1, "b": 2, "c": 2}.items():
        npy(rng.standard_normal((60, channels), np.float32), f"{name}.npy")
    data = SeriesDataset(tmp_path, "train", context_length=8)
    windows = RandomWindows(data, context_length=8, prediction_length=4, num_windows=96, seed=0, balance="systems")
    indices = np.array(list(ChannelBucketSampler(windows, 8))).reshape(-1, 8)
    channels = [windows.__getitems__(batch.tolist())["past_values"].shape[2] for batch in indices]
    assert set(channels) == {1, 2}
    np.testing.assert_array_equal(windows.row_weights, [1 / 3] * 3)


def test_held_out_windows_and_evaluation_take_series(npy):
    """Valid prediction times have no unit without a period: they have no rows."""
    time = np.arange(400)[:, None]
    data = SeriesDataset(npy(np.sin(0.2 * time + [0, 1])), "test", context_length=16)
    (window,) = draw_held_out_windows(data, length=24, num_windows=1, seed=0)
    assert window.values.shape == (24, 2)
    protocol = EvaluationProtocol(context_length=16, horizons=(4, 8), num_windows=3, num_resamples=50)
    results = evaluate({"last": Persistence()}, data, protocol, show_progress=False)
    metrics = {row.metric for row in results.rows}
    assert {"smape", "normalised_mae", "mase"} < metrics
    assert not any(metric.startswith(("vpt_periods", "vpt_lyapunov")) for metric in metrics)
    assert all(np.isfinite(row.value) for row in results.rows)


def test_pickle_holds_no_data(csv):
    file = csv("a,b\n" + "1,2\n" * 5000)
    data = SeriesDataset(file, "validation", context_length=3, options=SeriesOptions(columns=("b",)))
    content = pickle.dumps(data)
    assert len(content) < 1000
    again = pickle.loads(content)
    np.testing.assert_array_equal(again.values(0), data.values(0))
    assert (again.channel_names, again.fingerprint) == ([("b",)], data.fingerprint)


def test_pickle_refuses_other_data(csv):
    content = pickle.dumps(open_train(csv("a\n1\n2\n")))
    csv("a\n1\n3\n")
    with pytest.raises(ValueError, match=r"series\.csv must hold the values.*fingerprint"):
        pickle.loads(content)


def test_fingerprint_tells_content_and_options_apart(csv, tmp_path):
    file = csv("a,b\n" + "1,2\n" * 20)
    splits = {SeriesDataset(file, split, context_length=length).fingerprint for split in SPLITS for length in (0, 3)}
    others = {open_train(file, columns=("a",)).fingerprint, open_train(file, test_share=0.2).fingerprint}
    renamed = tmp_path / "renamed.csv"
    renamed.write_bytes(file.read_bytes())
    assert splits == {SeriesDataset(renamed, "train", context_length=0).fingerprint}
    csv("a,b\n" + "1,3\n" * 20)
    assert len(splits | others | {SeriesDataset(file, "train", context_length=0).fingerprint}) == 4


@pytest.mark.parametrize(
    ("options", "fingerprint"),
    [
        ({}, "9f8539c310c671b715b11313b15f78baac11366b5440def35c2f1aab36685975"),
        ({"columns": ("b",)}, "5801abcb4745150bd77a8515b3a173c031080e74c8018be18179f55de9079fa4"),
        (
            {"time_column": "a", "test_share": 0.25},
            "5d277760b1502ecbafc64a5f58759bf68803cd29a7bf71143d89595901e7a8fa",
        ),
    ],
)
def test_fingerprints_stay_what_results_have_recorded(csv, options, fingerprint):
    file = csv("a,b\n" + "".join(f"{n},{n * n % 7}\n" for n in range(20)))
    assert SeriesDataset(file, "train", context_length=0, options=SeriesOptions(**options)).fingerprint == fingerprint


def test_nothing_to_read_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "absent.csv"):
        with pytest.raises(
            FileNotFoundError, match=r"ends in \.csv, .* or \.feather, or a folder of such files, found none"
        ):
            open_train(path)


def test_files_of_one_name_are_refused(csv, npy, tmp_path):
    csv("a\n1\n2\n", "same.csv")
    npy(numbered(), "same.npy")
    with pytest.raises(ValueError, match=r"found 'same' twice; rename .*same\.npy"):
        open_train(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_share": -0.1}, r"found \(0.15, -0.1\)"),
        ({"validation_share": 0.5, "test_share": 0.5}, "together below 1"),
        ({"test_share": float("nan")}, "nan"),
        ({"columns": ()}, "at least one channel"),
        ({"columns": ("a", "b", "a")}, "none twice"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SeriesOptions(**options)


@pytest.mark.parametrize(("split", "context_length"), [("valid", 4), ("test", -1)])
def test_wrong_splits_are_named(npy, split, context_length):
    with pytest.raises(ValueError, match=f"found '{split}' and {context_length}"):
        SeriesDataset(npy(numbered()), split, context_length=context_length)
