"""gluonts forecasts: shapes, levels, order and times; scores by its `evaluate_model` against sums by hand."""

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from hf_tsdyn.adapters import gluonts as adapter
from hf_tsdyn.adapters.gluonts import GluonTSPredictor, score_forecasters, trajectory_entries
from hf_tsdyn.adapters.series_forecasts import DECILES
from hf_tsdyn.baselines import ContextMean, Persistence
from hf_tsdyn.data import TrajectoryDataset
from hf_tsdyn.models import DystformerConfig, DystformerForPrediction

pytest.importorskip("gluonts")
pytestmark = pytest.mark.filterwarnings("ignore:Using `json`-module")

START = pd.Period("2024-02-28 22:00", freq="h")


def entry(target, item_id="a", start=START) -> dict:
    return {"item_id": item_id, "start": start, "target": np.asarray(target, np.float32)}


def walk(num_channels: int, num_steps: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num_channels, num_steps)).cumsum(axis=1).astype(np.float32)


def test_quantiles_of_several_channels_have_axes_of_time_and_channels(spreading):
    (forecast,) = GluonTSPredictor(spreading(), 5).predict([entry(walk(3, 20, 0))])
    last = walk(3, 20, 0)[:, -1]
    assert forecast.prediction_length == 5
    assert forecast.dim() == 3
    for level in (*DECILES, "mean"):
        offset = 0 if level == "mean" else (level - 0.5) * 10
        expected = last + np.arange(1, 6)[:, None] * offset
        assert forecast[str(level)].shape == (5, 3)
        np.testing.assert_allclose(forecast[str(level)], expected, rtol=1e-5, atol=1e-5)


def test_a_target_of_one_axis_has_forecasts_of_one_axis(spreading):
    (forecast,) = GluonTSPredictor(spreading(), 4, quantile_levels=(0.25, 0.5)).predict([entry(np.arange(7.0))])
    assert forecast.dim() == 1
    np.testing.assert_array_equal(forecast.mean, np.full(4, 6.0))
    np.testing.assert_array_equal(forecast.quantile(0.25), 6.0 - 2.5 * np.arange(1, 5))
    assert forecast.forecast_keys == ["mean", "0.25", "0.5"]


def test_forecasts_begin_where_the_entry_ends_and_keep_its_name(spreading):
    forecaster = spreading()
    (forecast,) = GluonTSPredictor(forecaster, 3, context_length=8).predict([entry(walk(2, 30, 0), "name")])
    assert forecaster.contexts[0].shape == (1, 8, 2)
    assert forecast.item_id == "name"
    assert forecast.start_date == pd.Period("2024-03-01 04:00", freq="h")
    assert forecast.freq == START.freq
    assert list(forecast.index) == [pd.Period(f"2024-03-01 {hour:02}:00", freq="h") for hour in (4, 5, 6)]


def test_the_context_is_what_the_model_uses_where_none_is_given(spreading):
    for longest, steps in ((6, 6), (None, 30), (50, 30)):
        forecaster = spreading(max_context_length=longest)
        list(GluonTSPredictor(forecaster, 3).predict([entry(walk(2, 30, 0))]))
        assert forecaster.contexts[0].shape == (1, steps, 2)


def test_entries_of_any_shape_keep_their_order_and_are_forecast_as_alone(spreading):
    entries = [entry(walk(1 + n % 3, 10 + n % 2, n), f"series {n}") for n in range(11)]
    together = list(GluonTSPredictor(spreading(), 2, batch_size=4).predict(entries))
    assert [forecast.item_id for forecast in together] == [f"series {n}" for n in range(11)]
    for forecast, each in zip(together, entries, strict=True):
        (alone,) = GluonTSPredictor(spreading(), 2).predict([each])
        np.testing.assert_array_equal(forecast.forecast_array, alone.forecast_array)


def test_entries_of_equal_shape_are_forecast_together_a_batch_at_a_time(spreading):
    taken = 0

    def endless() -> Iterator[dict]:
        nonlocal taken
        for taken in itertools.count(1):
            yield entry(walk(2, 10, taken))

    forecaster = spreading()
    forecasts = GluonTSPredictor(forecaster, 2, batch_size=4).predict(endless())
    assert taken == 0
    next(forecasts)
    assert taken == 4
    assert [len(context) for context in forecaster.contexts] == [4]


def test_missing_values_are_unseen_and_never_zero(spreading):
    target = np.array([[1.0, 2.0, np.nan], [np.nan, np.nan, 5.0], [np.nan] * 3])
    forecaster = spreading()
    (forecast,) = GluonTSPredictor(forecaster, 2).predict([entry(target)])
    np.testing.assert_array_equal(forecaster.contexts[0][0].numpy(), target.T)
    np.testing.assert_array_equal(forecast.mean, [[2.0, 5.0, 0.0]] * 2)


def test_an_entry_with_nothing_seen_in_its_context_is_named(spreading):
    blank = walk(2, 9, 0)
    blank[:, 5:] = np.nan
    predictor = GluonTSPredictor(spreading(), 2, context_length=4)
    with pytest.raises(ValueError, match=r"4 steps of its context, found none in \['empty'\]"):
        list(predictor.predict([entry(walk(2, 9, 1)), entry(blank, "empty")]))


def test_a_point_forecast_stands_at_every_level_and_says_so(spreading):
    (forecast,) = GluonTSPredictor(Persistence(), 3).predict([entry(walk(2, 9, 0))])
    for level in (0.1, 0.33, 0.5, 0.97, "mean"):
        np.testing.assert_allclose(forecast[level], [walk(2, 9, 0)[:, -1]] * 3, rtol=1e-6)
    assert "none" in forecast.info["distribution"]
    (forecast,) = GluonTSPredictor(spreading(), 3).predict([entry(walk(2, 9, 0))])
    assert forecast.info is None
    (forecast,) = GluonTSPredictor(spreading(), 3, output="points").predict([entry(walk(2, 9, 0))])
    np.testing.assert_array_equal(forecast.quantile(0.1), forecast.mean)
    assert "none" in forecast.info["distribution"]


def test_quantiles_can_be_insisted_on():
    with pytest.raises(NotImplementedError, match="needs a forecaster with a distribution, found Persistence"):
        list(GluonTSPredictor(Persistence(), 3, output="quantiles").predict([entry(walk(2, 9, 0))]))


def test_samples_are_paths_with_axes_of_time_and_channels(spreading):
    forecaster = spreading()
    predictor = GluonTSPredictor(forecaster, 5, output="samples", num_samples=4, context_length=8)
    entries = [entry(walk(3, 20, 0), "several"), entry(walk(1, 25, 1)[0], "one")]
    several, one = predictor.predict(entries)
    assert (several.item_id, several.start_date) == ("several", START + 20)
    assert (one.item_id, one.start_date) == ("one", START + 25)
    assert several.samples.shape == (4, 5, 3)
    assert one.samples.shape == (4, 5)
    for number in range(4):
        rise = number * np.arange(1, 6)
        np.testing.assert_allclose(several.samples[number], walk(3, 20, 0)[:, -1] + rise[:, None], rtol=1e-5)
        np.testing.assert_allclose(one.samples[number], walk(1, 25, 1)[0, -1] + rise, rtol=1e-5)
    (few,) = predictor.predict(entries[:1], num_samples=2)
    assert few.num_samples == 2


def test_samples_of_a_model_have_its_quantiles_and_repeat():
    torch.manual_seed(0)
    sizes = {"d_model": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16, "patch_length": 4}
    config = DystformerConfig(
        context_length=16, prediction_length=8, num_poly_feats=4, num_rff=4, distribution="quantiles", **sizes
    )
    model = DystformerForPrediction(config)
    forecasts = [
        next(GluonTSPredictor(model, 12, output=output, num_samples=2000).predict([entry(walk(2, 30, 0))]))
        for output in ("samples", "samples", "quantiles")
    ]
    np.testing.assert_array_equal(forecasts[0].samples, forecasts[1].samples)
    spread = forecasts[2].quantile(0.9) - forecasts[2].quantile(0.1)
    for level in (0.1, 0.5, 0.9):
        off = np.abs(forecasts[0].quantile(level) - forecasts[2].quantile(level)) / spread
        assert off.max() < 0.05


def test_forecasters_without_paths_are_told_apart():
    with pytest.raises(NotImplementedError, match="must have forecast_samples, found Persistence"):
        list(GluonTSPredictor(Persistence(), 3, output="samples").predict([entry(walk(2, 9, 0))]))


def test_the_number_of_paths_reaches_the_forecaster(spreading):
    forecaster = spreading()
    predictor = GluonTSPredictor(forecaster, 3, num_samples=7)
    list(predictor.predict([entry(walk(2, 9, 0))]))
    list(predictor.predict([entry(walk(2, 9, 0))], num_samples=5))
    assert forecaster.num_samples == [7, 5]


def test_entries_are_left_as_they_are(spreading):
    target = walk(2, 9, 0)
    target[0, 3] = np.nan
    target.setflags(write=False)
    given = entry(target)
    before = dict(given)
    list(GluonTSPredictor(spreading(), 3, context_length=5).predict([given]))
    assert given.keys() == before.keys()
    assert all(given[name] is before[name] for name in given)


def test_impossible_options_are_refused(spreading):
    for wrong in ({"output": "paths"}, {"context_length": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be .*found {next(iter(wrong.values()))!r}"):
            GluonTSPredictor(spreading(), 3, **wrong)
    for levels in ((0.5, 0.1), (0.5, 0.5), (1e-5, 0.5), (), (0.0,)):
        with pytest.raises(ValueError, match="quantile_levels must"):
            GluonTSPredictor(spreading(), 3, quantile_levels=levels)
    with pytest.raises(ValueError, match="prediction_length must be an integer of at least 1, found 0"):
        GluonTSPredictor(spreading(), 0)


def test_entries_that_are_none_are_named(spreading):
    predictor = GluonTSPredictor(spreading(), 3)
    with pytest.raises(TypeError, match=r"pandas.Period, found Timestamp.* in 'dated'"):
        list(predictor.predict([entry(walk(2, 9, 0), "dated", start=pd.Timestamp("2024-01-01"))]))
    for shape in ((2, 0), (1, 2, 3), ()):
        with pytest.raises(ValueError, match=r"found \(.*\) in 'odd'"):
            list(predictor.predict([entry(np.zeros(shape), "odd")]))


def test_without_gluonts_the_extra_is_named(monkeypatch, spreading):
    monkeypatch.setitem(sys.modules, "gluonts", None)
    with pytest.raises(ImportError, match=r"pip install 'hf_tsdyn\[eval\]'"):
        GluonTSPredictor(spreading(), 3)
    with pytest.raises(ImportError, match=r"pip install 'hf_tsdyn\[eval\]'"):
        score_forecasters({}, None)


def windows_of(entries, *, length, num_windows):
    from gluonts.dataset.split import split

    _, template = split(entries, offset=-length * num_windows)
    return template.generate_instances(length, windows=num_windows)


def scores_by_hand(targets, forecast, *, length, num_windows):
    """GIFT-Eval's scores of point forecasts `forecast(context (channels, time)) -> (channels,)`, value by value."""
    errors, labels, scaled, shares = [], [], [], []
    for target in targets:
        for window in range(num_windows):
            origin = target.shape[1] - (num_windows - window) * length
            context, label = target[:, :origin].astype(float), target[:, origin : origin + length].astype(float)
            error = np.abs(label - forecast(context)[:, None])
            scale = np.nanmean(np.abs(np.diff(context, axis=1)), axis=1, keepdims=True)
            seen = ~np.isnan(label)
            errors.append(error[seen])
            labels.append(np.abs(label)[seen])
            scaled.append((error / scale)[seen])
            shares.append((2 * error / (np.abs(label) + np.abs(forecast(context)[:, None])))[seen])
    errors, labels, scaled, shares = map(np.concatenate, (errors, labels, scaled, shares))
    # Every level has the same forecast f: the pinball losses 2 |y - f| |1(y <= f) - q| of q and 1 - q add up.
    squared = (errors**2).mean()
    return [squared, squared, errors.mean(), scaled.mean(), shares.mean(), errors.sum() / labels.sum()]


@pytest.mark.parametrize("num_channels", [(2, 2, 2), (3, 1, 2)])
def test_scores_of_persistence_and_mean_are_those_computed_by_hand(num_channels):
    targets = [walk(channels, 40 + 3 * n, n) for n, channels in enumerate(num_channels)]
    targets[0][1, -4] = targets[1][0, 5] = np.nan
    entries = [entry(target, f"series {n}") for n, target in enumerate(targets)]
    found = score_forecasters(
        {"last": Persistence(), "mean": ContextMean()}, windows_of(entries, length=6, num_windows=3), batch_size=2
    )
    assert list(found.columns) == [
        "MSE[mean]", "MSE[0.5]", "MAE[0.5]", "MASE[0.5]", "sMAPE[0.5]", "mean_weighted_sum_quantile_loss"
    ]  # fmt: skip

    def last(context: np.ndarray) -> np.ndarray:
        return np.array([channel[~np.isnan(channel)][-1] for channel in context])

    expected = scores_by_hand(targets, last, length=6, num_windows=3)
    np.testing.assert_allclose(found.loc["last"], expected, rtol=1e-5)
    expected = scores_by_hand(targets, lambda context: np.nanmean(context, axis=1), length=6, num_windows=3)
    np.testing.assert_allclose(found.loc["mean"], expected, rtol=1e-5)


def test_the_weighted_loss_is_that_of_the_quantiles(spreading):
    target = walk(2, 30, 0)
    test_data = windows_of([entry(target)], length=5, num_windows=1)
    found = score_forecasters({"it": spreading()}, test_data, quantile_levels=(0.2, 0.5, 0.9))
    label, last = target[:, -5:].astype(float), target[:, -6:-5].astype(float)
    losses = []
    for level in (0.2, 0.5, 0.9):
        excess = label - (last + np.arange(1, 6) * (level - 0.5) * 10)
        losses.append(2 * np.maximum(level * excess, (level - 1) * excess).sum() / np.abs(label).sum())
    assert found.loc["it", "mean_weighted_sum_quantile_loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_one_channel_without_its_axis_scores_like_one_with_it():
    with_axis = windows_of([entry(walk(1, 30, 0))], length=5, num_windows=2)
    without = windows_of([entry(walk(1, 30, 0)[0])], length=5, num_windows=2)
    found = [score_forecasters({"it": Persistence()}, data) for data in (with_axis, without)]
    pd.testing.assert_frame_equal(*found)


def test_generated_data_read_by_gluonts_and_by_us_score_alike(oscillators: Path):
    from gluonts.dataset.common import FileDataset

    ours = trajectory_entries(TrajectoryDataset(oscillators, "test"))
    theirs = FileDataset(oscillators / "data" / "test-00000.arrow", freq="s", one_dim_target=False)
    for mine, each in zip(ours, theirs, strict=True):
        assert (mine["item_id"], mine["start"]) == (each["item_id"], each["start"])
        np.testing.assert_array_equal(mine["target"], each["target"])
    scores = [
        score_forecasters({"last": Persistence()}, windows_of(entries, length=16, num_windows=2))
        for entries in (ours, theirs)
    ]
    pd.testing.assert_frame_equal(*scores)
    whole = FileDataset(oscillators / "data", freq="s", one_dim_target=False)
    assert len(list(GluonTSPredictor(Persistence(), 4).predict(whole))) == 11


def test_the_command_prints_the_table(oscillators: Path, monkeypatch, capsys):
    options = "persistence mean --prediction_length 16 --num_windows 2 --context_length 50"
    monkeypatch.setattr(sys, "argv", ["gluonts", str(oscillators), *options.split()])
    adapter.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "6 windows of 3 trajectories, 16 steps each"
    assert [line.split()[0] for line in lines[2:]] == ["persistence", "mean"]
    targets = [each.values[:, -82:] for each in TrajectoryDataset(oscillators, "test")]

    # Each window has the 50 steps before it, and no more, to see and to scale its errors by.
    cut = [target[:, first : first + 66] for target in targets for first in (0, 16)]
    for line, forecast in zip(lines[2:], (lambda past: past[:, -1], lambda past: past.mean(axis=1)), strict=True):
        expected = scores_by_hand(cut, forecast, length=16, num_windows=1)
        assert [float(score) for score in line.split()[1:]] == pytest.approx(expected, rel=1e-3)
