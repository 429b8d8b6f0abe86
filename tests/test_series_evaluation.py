import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from scipy.signal import lfilter

from hf_tsdyn.baselines import Persistence
from hf_tsdyn.data.series import SeriesDataset, SeriesOptions
from hf_tsdyn.data.windows import SequentialWindows
from hf_tsdyn.series_evaluation import (
    bootstrap_mean,
    default_block_length,
    load_errors,
    save_errors,
    score_windows,
)

OPTIONS = SeriesOptions(validation_share=0.25, test_share=0.25)


class LastValuePlus:
    """Persistence that is wrong by known amounts."""

    def __init__(self, *amounts):
        self.amounts = torch.tensor(amounts)
        self.batches = []

    def forecast(self, past_values, *, prediction_length, past_observed_mask=None):
        self.batches.append(len(past_values))
        last = past_values[:, -1:] + self.amounts
        return last.repeat(1, prediction_length, 1)


@pytest.fixture
def windows_of(tmp_path):
    """A function that returns all windows of a split of values (time, channels), of context 6 and horizon 3."""

    def windows(values, split="test"):
        frame = pd.DataFrame(values, columns=[f"c{n}" for n in range(values.shape[1])])
        frame.to_csv(tmp_path / "series.csv", index=False)
        data = SeriesDataset(tmp_path / "series.csv", split, context_length=6, options=OPTIONS)
        return SequentialWindows(data, context_length=6, prediction_length=3, stride=1)

    return windows


@pytest.mark.parametrize(("batch_size", "batches"), [(7, [7, 7, 4]), (17, [17, 1]), (18, [18])])
def test_known_errors_have_their_known_means(windows_of, batch_size, batches):
    windows = windows_of(np.full((80, 2), 5.0))
    forecaster = LastValuePlus(0.5, -3.0)
    errors = score_windows(forecaster, windows, scale=[0.25, 2.0], batch_size=batch_size, show_progress=False)
    assert errors.squared.shape == errors.absolute.shape == (20 - 3 + 1, 2)
    assert forecaster.batches == batches
    assert np.array_equal(errors.squared, np.tile([4.0, 2.25], (18, 1)))
    assert (errors.mse, errors.mae) == (3.125, 1.75)
    assert (errors.raw_mse, errors.raw_mae) == ((0.25 + 9) / 2, 1.75)
    assert [errors.mean(m) for m in ("mse/c0", "mae/c1", "raw_mse/c1", "raw_mae/c0")] == [4.0, 1.5, 9.0, 0.5]
    assert errors.channel_names == ("c0", "c1")
    assert errors.cpu_seconds >= 0


def test_errors_are_those_of_the_definition(windows_of):
    values = np.random.default_rng(0).normal(size=(80, 3)).cumsum(axis=0)
    scale = values[:40].std(axis=0)
    errors = score_windows(Persistence(), windows_of(values), scale=scale, show_progress=False)
    for window in range(18):
        target, last = values[60 + window : 63 + window], values[59 + window]
        scaled = (target - last) / scale
        assert errors.squared[window] == pytest.approx((scaled**2).mean(axis=0), rel=1e-4)
        assert errors.absolute[window] == pytest.approx(np.abs(scaled).mean(axis=0), rel=1e-4)
    assert errors.of_windows("mse") == pytest.approx(errors.squared.mean(axis=1))


def test_unseen_targets_are_left_out(windows_of):
    values = np.full((80, 2), 5.0)
    values[70:, 0] = np.nan
    values[79, 1] = 8.0
    errors = score_windows(LastValuePlus(0.0, 1.0), windows_of(values), scale=[1.0, 1.0], show_progress=False)
    assert np.isnan(errors.squared[:, 0]).tolist() == [False] * 10 + [True] * 8
    assert errors.squared[-1, 1] == pytest.approx((1 + 1 + 4) / 3)
    assert errors.of_windows("mse")[:10] == pytest.approx(0.5)
    assert errors.of_windows("mse")[10:17] == pytest.approx(1.0)
    assert errors.mse == pytest.approx((10 * 0.5 + 7 * 1.0 + 2.0) / 18)


def test_windows_with_nothing_seen_are_not_forecast(windows_of):
    values = np.full((80, 2), 5.0)
    values[60:70] = np.nan
    forecaster = LastValuePlus(1.0, 1.0)
    errors = score_windows(forecaster, windows_of(values), scale=[1.0, 1.0], show_progress=False)
    unseen = np.isnan(errors.squared[:, 0])
    assert np.flatnonzero(unseen).tolist() == list(range(11))  # 0 to 7 have no target, 6 to 10 no context
    assert forecaster.batches == [7]
    values[54:79] = np.nan  # the last step has a value, but no context
    with pytest.raises(ValueError, match="something seen in context and future, found none in 18"):
        score_windows(forecaster, windows_of(values), scale=[1.0, 1.0], show_progress=False)


def test_a_forecast_that_is_not_finite_names_its_windows(windows_of):
    values = np.full((80, 1), 5.0)
    values[65] = 9.0

    class Fragile(LastValuePlus):
        def forecast(self, past_values, **options):
            steps = super().forecast(past_values, **options)
            return torch.where(past_values[:, -1:] > 8, torch.inf, steps)

    with pytest.raises(ValueError, match=r"in windows \[6\] \(1 of the 4 of a batch\)"):
        score_windows(Fragile(0.0), windows_of(values), scale=[1.0], batch_size=4, show_progress=False)


def test_wrong_scales_and_shapes_are_refused(windows_of):
    windows = windows_of(np.full((80, 2), 5.0))
    for scale in ([1.0], [1.0, 0.0], [1.0, np.nan]):
        with pytest.raises(ValueError, match="a positive number for each channel"):
            score_windows(Persistence(), windows, scale=scale, show_progress=False)

    class Short(LastValuePlus):
        def forecast(self, past_values, **options):
            return super().forecast(past_values, **options)[:, :2]

    with pytest.raises(ValueError, match=r"the shape \(18, 3, 2\), found \(18, 2, 2\)"):
        score_windows(Short(0.0, 0.0), windows, scale=[1.0, 1.0], show_progress=False)
    errors = score_windows(Persistence(), windows, scale=[1.0, 1.0], show_progress=False)
    with pytest.raises(ValueError, match="found 'mse/OT'"):
        errors.mean("mse/OT")


def test_errors_come_back_from_their_file(windows_of, tmp_path):
    values = np.random.default_rng(0).normal(size=(80, 2))
    errors = score_windows(Persistence(), windows_of(values), scale=[1.0, 2.0], show_progress=False)
    save_errors({"test-3": errors}, tmp_path / "errors.npz")
    content = (tmp_path / "errors.npz").read_bytes()
    found = load_errors(tmp_path / "errors.npz")["test-3"]
    assert found.squared.dtype == np.float32
    assert np.array_equal(found.absolute, errors.absolute.astype(np.float32))
    assert found.channel_names == ("c0", "c1")
    assert found.raw_mse == pytest.approx(errors.raw_mse)
    save_errors({"test-3": errors}, tmp_path / "errors.npz")
    assert (tmp_path / "errors.npz").read_bytes() == content
    (tmp_path / "errors.npz").write_bytes(content[:100])
    with pytest.raises(ValueError, match="whole file of window errors"):
        load_errors(tmp_path / "errors.npz")


def test_intervals_of_dependent_values_hold_the_truth():
    """Overlapping windows: running means of 24 steps of an autoregression, whose mean is 0."""
    rng = np.random.default_rng(0)
    held = {"blocks": 0, "single values": 0}
    for trial in range(200):
        steps = lfilter([1.0], [1.0, -0.7], rng.normal(size=800))
        values = np.convolve(steps, np.full(24, 1 / 24), mode="valid")[100:]
        for name, length in {"blocks": 48, "single values": 1}.items():
            found = bootstrap_mean(values, block_length=length, num_resamples=400, seed=trial)
            held[name] += found.low <= 0 <= found.high
    assert 182 <= held["blocks"] <= 198
    assert held["single values"] < 120


def test_independent_values_have_the_interval_of_the_normal_law():
    values = np.random.default_rng(0).normal(2.0, 3.0, size=2000)
    found = bootstrap_mean(values, block_length=1, num_resamples=5000, confidence=0.9)
    half_width = 1.645 * values.std() / np.sqrt(2000)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half_width, abs=0.05 * half_width)
    assert found.high == pytest.approx(values.mean() + half_width, abs=0.05 * half_width)
    assert found == bootstrap_mean(values, block_length=1, num_resamples=5000, confidence=0.9)


def test_blocks_are_taken_round_the_end():
    """Two blocks of values of which every rotation has the same mean: no resample differs by more than blocks do."""
    values = np.tile([0.0, 1.0, 2.0], 8)
    found = bootstrap_mean(values, block_length=6)
    assert (found.mean, found.low, found.high) == pytest.approx((1.0, 1.0, 1.0))


@pytest.mark.parametrize(("values", "length"), [([1.0, np.nan, 2.0], 1), ([1.0, 2.0, 3.0], 2), ([1.0], 1), ([], 1)])
def test_too_few_values_have_no_interval(values, length):
    with pytest.raises(ValueError, match="hold two blocks"):
        bootstrap_mean(values, block_length=length)


def test_blocks_are_twice_the_horizon_within_bounds():
    lengths = [default_block_length(*each) for each in ((96, 2785), (24, 2785), (336, 2545), (720, 2161), (8, 10))]
    assert lengths == [192, 168, 672, 720, 3]


def test_the_last_block_is_as_short_as_the_windows_are_many():
    """Resamples by the letter: blocks laid end to end, and cut where they are as long as the series."""
    values = np.random.default_rng(1).normal(size=11) + np.arange(11)
    starts = np.random.default_rng(3).integers(11, size=(500, 3))
    means = []
    for row in starts:
        places = np.concatenate([np.arange(start, start + 4) % 11 for start in row])[:11]
        means.append(values[places].mean())
    found = bootstrap_mean(values, block_length=4, num_resamples=500, confidence=0.8, seed=3)
    count = 11 / 4
    widening = np.sqrt(count / (count - 1)) * stats.t.ppf(0.9, count - 1) / stats.norm.ppf(0.9)
    expected = values.mean() + widening * (np.quantile(means, [0.1, 0.9]) - values.mean())
    assert found == pytest.approx((values.mean(), *expected), rel=1e-12)


def test_series_of_other_channels_are_not_scored_together(tmp_path):
    for names in ("uv", "uw"):
        pd.DataFrame(np.zeros((80, 2)), columns=list(names)).to_csv(tmp_path / f"{names}.csv", index=False)
    data = SeriesDataset(tmp_path, "test", context_length=6, options=OPTIONS)
    windows = SequentialWindows(data, context_length=6, prediction_length=3, stride=1)
    with pytest.raises(ValueError, match=r"same channels, found \[\['u', 'v'\], \['u', 'w'\]\]"):
        score_windows(Persistence(), windows, scale=[1.0, 1.0], show_progress=False)
