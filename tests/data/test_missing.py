import numpy as np
import pytest
import torch

from hf_tsdyn.data import Augmentations, RandomWindows, TrajectoryDataset
from hf_tsdyn.data.draws import generator
from hf_tsdyn.data.missing import MissingChannels, MissingPoints, MissingSpans
from hf_tsdyn.data.transforms import WindowShape, context_statistics

CONTEXT_LENGTH, LENGTH = 40, 64
TRANSFORMS = {
    "missing_spans": MissingSpans(),
    "missing_points": MissingPoints(),
    "missing_channels": MissingChannels(),
}

every_transform = pytest.mark.parametrize("name", TRANSFORMS)


def hidden_by(transform, index, num_channels=3, context_length=CONTEXT_LENGTH):
    shape = WindowShape(num_channels, num_channels, context_length, context_length + 24, 0)
    return transform.draw(generator(7, index), shape)["hidden"]


@pytest.fixture
def store(tmp_path, write_dataset):
    """A function (name, values) that writes a dataset of one trajectory and opens it."""

    def write_and_open(name, values):
        return TrajectoryDataset(write_dataset(tmp_path / name, [{"target": values}]), "train")

    return write_and_open


def windows_of(trajectories, name, **options):
    return RandomWindows(
        trajectories,
        context_length=CONTEXT_LENGTH,
        prediction_length=LENGTH - CONTEXT_LENGTH,
        num_windows=100,
        seed=1,
        augmentations=Augmentations(rate=1.0, weights={name: 1.0}, **options) if name else None,
    )


@pytest.fixture
def walk():
    return np.cumsum(np.random.default_rng(0).standard_normal((3, 200), np.float32), axis=1)


@every_transform
def test_what_is_drawn_is_hidden_and_nothing_else(name):
    transform = TRANSFORMS[name]
    values = np.random.default_rng(0).standard_normal((3, LENGTH), np.float32)
    for index in range(100):
        hidden = hidden_by(transform, index)
        masked = transform.apply(values, {"hidden": hidden})
        np.testing.assert_array_equal(np.isnan(masked[:, :CONTEXT_LENGTH]), hidden)
        np.testing.assert_array_equal(masked[:, :CONTEXT_LENGTH][~hidden], values[:, :CONTEXT_LENGTH][~hidden])
        np.testing.assert_array_equal(masked[:, CONTEXT_LENGTH:], values[:, CONTEXT_LENGTH:])
        assert np.isfinite(values).all()
        assert np.isfinite(context_statistics(masked, CONTEXT_LENGTH)).all()


@every_transform
def test_draws_depend_on_seed_and_index_alone(name, store, walk):
    hidden = [hidden_by(TRANSFORMS[name], index) for index in (3, 3, 4, 5, 6)]
    np.testing.assert_array_equal(hidden[0], hidden[1])
    assert any((hidden[0] != other).any() for other in hidden[2:])
    windows = windows_of(store("walk", walk), name)
    torch.testing.assert_close(
        windows.__getitems__([8, 3])["past_values"][1], windows.__getitems__([3, 60])["past_values"][0], rtol=0, atol=0
    )


@every_transform
def test_a_hidden_value_changes_nothing_that_is_served(name, store, walk):
    """Where a window hides values, other values in the file give the same batch."""
    windows = windows_of(store("walk", walk), name)
    for index in range(20):
        row, start = (part.item() for part in windows.locate(np.array([index])))
        hidden = np.broadcast_to(hidden_by_index(windows, name, index), (3, CONTEXT_LENGTH))
        assert row == 0
        other = walk.copy()
        other[:, start : start + CONTEXT_LENGTH][hidden] = 1e6
        changed = windows_of(store(f"other-{index}", other), name)
        torch.testing.assert_close(changed.__getitems__([index]), windows.__getitems__([index]), rtol=0, atol=0)


def hidden_by_index(windows, name, index):
    shape = WindowShape(3, 3, CONTEXT_LENGTH, LENGTH, 200 - LENGTH)
    return getattr(windows.augmentations, name).draw(generator(windows.seed, index), shape)["hidden"]


@every_transform
def test_batches_keep_the_future_of_every_channel_that_has_a_past(name, store, walk):
    trajectories = store("walk", walk)
    batch = windows_of(trajectories, name).__getitems__(range(100))
    plain = windows_of(trajectories, None).__getitems__(range(100))
    seen = batch["past_observed_mask"].any(dim=1, keepdim=True)
    assert seen.any(dim=2).all()
    torch.testing.assert_close(batch["future_values"], plain["future_values"] * seen, rtol=0, atol=0)
    np.testing.assert_array_equal(batch["future_observed_mask"], seen.expand_as(batch["future_values"]))
    kept = batch["past_observed_mask"]
    torch.testing.assert_close(batch["past_values"], plain["past_values"] * kept, rtol=0, atol=0)
    assert not kept.all()
    assert bool(seen.all()) is (name != "missing_channels")


@every_transform
def test_a_window_that_would_lose_everything_stays(name):
    transform = TRANSFORMS[name]
    values = np.full((3, LENGTH), np.nan, np.float32)
    values[:, CONTEXT_LENGTH:] = 1
    for index in range(200):
        hidden = hidden_by(transform, index)
        place = tuple(np.argwhere(hidden)[0]) if hidden.any() else (0, 0)
        values[place] = 5
        np.testing.assert_array_equal(transform.apply(values, {"hidden": hidden}), values)
        values[place] = np.nan


def test_spans_hide_a_bounded_share():
    shares = [hidden_by(MissingSpans(), index).mean(axis=1).max() for index in range(200)]
    assert 0.15 < max(shares) <= 0.25


def test_points_hide_steps_values_or_all_but_every_kth():
    patterns = {"steps": [], "values": [], "stride": []}
    for index in range(1500):
        hidden = hidden_by(MissingPoints(max_share=0.6, max_stride=3), index, context_length=300)
        alike = (hidden == hidden[0]).all()
        kept = np.flatnonzero(~hidden[0])
        regular = alike and len(kept) <= 150 and len(set(np.diff(kept))) == 1
        patterns["stride" if regular else "steps" if alike else "values"].append(hidden)
    counts = {name: len(part) for name, part in patterns.items()}
    # windows of which no value is hidden are alike too: at most a few
    np.testing.assert_allclose(list(counts.values()), 500, atol=5 * np.sqrt(1500 * 2 / 9))
    for name in ("steps", "values"):
        shares = np.array([hidden.mean() for hidden in patterns[name]])
        assert shares.mean() == pytest.approx(0.3, abs=5 * 0.6 / np.sqrt(12 * 500))
        assert 0.5 < shares.max() < 0.6 + 5 * np.sqrt(0.24 / 300)
    strides = [int(np.diff(np.flatnonzero(~hidden[0]))[0]) for hidden in patterns["stride"]]
    phases = {int(np.flatnonzero(~hidden[0])[0]) for hidden in patterns["stride"]}
    assert set(strides) == {2, 3}
    assert phases == {0, 1, 2}


def test_values_go_missing_independently_of_each_other():
    hidden = [hidden_by(MissingPoints(), index, context_length=400) for index in range(200)]
    single = [part for part in hidden if not (part == part[0]).all() and part.mean() > 0.2]
    correlations = [np.corrcoef(part[0, 1:], part[1, :-1])[0, 1] for part in single]
    assert len(single) > 20
    assert np.mean(correlations) == pytest.approx(0, abs=5 / np.sqrt(400 * len(single)))


@pytest.mark.parametrize(
    ("num_channels", "max_share", "expected"),
    [(1, 1.0, {0}), (2, 0.5, {1}), (3, 0.5, {1}), (3, 0.3, {0}), (6, 0.5, {1, 2, 3}), (4, 1.0, {1, 2, 3})],
)
def test_channels_go_missing_whole_and_never_all(num_channels, max_share, expected):
    counts, hit = set(), np.zeros(num_channels, int)
    for index in range(300):
        hidden = hidden_by(MissingChannels(max_share=max_share), index, num_channels)
        assert (hidden == hidden[:, :1]).all()
        counts.add(int(hidden[:, 0].sum()))
        hit += hidden[:, 0]
    assert counts == expected
    assert hit.max() - hit.min() <= 5 * np.sqrt(300)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (MissingSpans, {"max_share": 1.5}, "MissingSpans.max_share must be at most 1, found 1.5"),
        (MissingPoints, {"max_share": 0.0}, "MissingPoints.max_share must be positive"),
        (MissingPoints, {"max_stride": 1}, "max_stride must be at least 2, found 1"),
        (MissingChannels, {"max_share": -0.5}, "found -0.5"),
    ],
)
def test_wrong_options_are_named(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
