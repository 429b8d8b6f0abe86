"""What is drawn of forecasts of series, read back from the figures' own objects."""

import numpy as np
import pytest

from hf_tsdyn.figures import save_figure
from hf_tsdyn.series_figures import (
    MOST_CHANNELS,
    channel_forecasts_figure,
    difference_figure,
    efficiency_figure,
    error_bars_figure,
)
from hf_tsdyn.series_results import SeriesResults
from hf_tsdyn.series_scores import SeriesRow

pytest.importorskip("matplotlib")

SIZES = {"net": 20_000, "line": 100, "last": 0, "large": 90_000}


@pytest.fixture
def results():
    """Four models at two horizons: two with three seeds each, and one without parameters that is far behind."""
    means = {"net": (0.30, 0.40), "line": (0.36, 0.42), "last": (2.0, 2.2), "large": (0.33, 0.41)}
    rows = [
        SeriesRow(model, "S", "test", horizon, seed, metric, mean + 0.01 * (seed or 0) + (metric == "mae"))
        for model, at in means.items()
        for horizon, mean in zip((96, 192), at, strict=True)
        for seed in ((0, 1, 2) if model in ("net", "large") else (None,))
        for metric in ("mse", "mae")
    ]
    claim = {"dataset": "S", "horizon": 96, "mse": 0.29, "num_parameters": 1000, "source": "a paper"}
    header = {
        "models": list(means),
        "labels": {"net": "the network"},
        "num_parameters": SIZES,
        "cpu_seconds": {},
        "claims": {"net": claim, "sizeless": claim | {"mse": 0.31, "num_parameters": None}},
    }
    return SeriesResults(header, rows, [])


@pytest.fixture
def window():
    """Context, truth and a forecast of five channels."""
    values = np.sin(0.3 * np.arange(60)[:, None] + np.arange(5))
    return values[:40], values[40:], values[40:] + 0.1


def points_of(axes):
    """(x, y) by label; error bars are containers, claims plain lines."""
    bars = {each.get_label(): each.lines[0] for each in axes.containers}
    lines = {line.get_label(): line for line in axes.get_lines() if "(claim)" in line.get_label()}
    return {label: tuple(np.asarray(line.get_xydata())[0]) for label, line in (bars | lines).items()}


def test_efficiency_has_a_point_a_model_that_has_parameters_and_hollow_claims(results):
    axes = efficiency_figure(results, dataset="S", horizon=96).axes[0]
    assert points_of(axes) == {
        "large": (90_000, pytest.approx(0.34)),
        "line": (100, pytest.approx(0.36)),
        "the network": (20_000, pytest.approx(0.31)),
        "net (claim)": (1000, 0.29),
    }
    assert axes.get_xscale() == "log"
    assert [line.get_markerfacecolor() for line in axes.get_lines() if "(claim)" in line.get_label()] == ["none"]


def test_the_line_joins_what_nothing_smaller_is_better_than(results):
    axes = efficiency_figure(results, dataset="S", horizon=96).axes[0]
    (frontier,) = [line for line in axes.get_lines() if line.get_drawstyle() == "steps-post"]
    np.testing.assert_allclose(np.asarray(frontier.get_xydata()), [[100, 0.36], [20_000, 0.31]])


def test_no_two_of_many_models_look_alike(results):
    models = [f"m{n}" for n in range(20)]
    rows = [SeriesRow(model, "S", "test", 96, None, "mse", 0.3 + 0.01 * n) for n, model in enumerate(models)]
    header = results.header | {"models": models, "num_parameters": {model: 10 + n for n, model in enumerate(models)}}
    axes = efficiency_figure(SeriesResults(header, rows, []), dataset="S", horizon=96).axes[0]
    lines = [each.lines[0] for each in axes.containers]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 20


def test_bars_show_mean_and_spread_over_seeds_and_cut_what_is_far_beyond(results):
    figure = error_bars_figure(results, dataset="S", horizons=[96, 192])
    assert [axes.get_title() for axes in figure.axes] == [
        "MSE, 96 steps", "MSE, 192 steps", "MAE, 96 steps", "MAE, 192 steps",
    ]  # fmt: skip
    axes = figure.axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["the network", "line", "last", "large", "net (claim)", "sizeless (claim)"]
    widths = [bar.get_width() for bar in axes.patches]
    median = np.median([0.31, 0.36, 2.0, 0.34, 0.29, 0.31])
    np.testing.assert_allclose(widths, [0.31, 0.36, 2 * median, 0.34, 0.29, 0.31])
    assert [text.get_text() for text in axes.texts] == ["0.310", "0.360", "2.000, cut", "0.340", "0.290", "0.310"]
    whisker = next(each for each in axes.containers if getattr(each, "errorbar", None)).errorbar.lines[2][0]
    np.testing.assert_allclose(whisker.get_segments()[0][:, 0], [0.30, 0.32])
    assert axes.get_xlim()[0] == 0


def test_one_horizon_has_its_two_errors_side_by_side(results):
    first, second = error_bars_figure(results, dataset="S", horizons=[96], models=["line"]).axes
    assert first.get_position().y0 == pytest.approx(second.get_position().y0)
    assert second.patches[0].get_width() == pytest.approx(1.36)


def test_what_was_not_scored_is_refused(results):
    with pytest.raises(
        ValueError, match=r"on 'T', test, 96 steps ahead, found none; scored were \[\('S', 'test', 96\)"
    ):
        efficiency_figure(results, dataset="T", horizon=96)
    with pytest.raises(ValueError, match="validation"):
        error_bars_figure(SeriesResults(results.header | {"claims": {}}, results.rows, []), dataset="S", horizons=[96],
                          split="validation")  # fmt: skip


@pytest.mark.parametrize("dated", [False, True])
def test_every_channel_has_a_panel_with_context_truth_and_forecasts(window, dated):
    past, future, forecast = window
    times = np.datetime64("2017-01-01T00", "s") + np.arange(60) * np.timedelta64(3600, "s") if dated else None
    figure = channel_forecasts_figure(past, future, {"net": forecast}, channel_names="ABCDE", times=times)
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == list("ABCDE")
    for channel, axes in enumerate(panels):
        lines = {line.get_label(): np.asarray(line.get_ydata()) for line in axes.get_lines()}
        np.testing.assert_array_equal(lines["context"], past[:, channel])
        np.testing.assert_array_equal(lines["truth"], np.append(past[-1, channel], future[:, channel]))
        np.testing.assert_array_equal(lines["net"], forecast[:, channel])
    shown = panels[0].get_lines()[2].get_xdata()
    assert shown[0] == (times[40] if dated else 1)
    assert panels[-1].get_xlabel() == ("" if dated else "steps ahead")
    (legend,) = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    assert [text.get_text() for text in legend.get_texts()] == ["context", "truth", "net"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"forecasts": {}}, "1 to 4 forecasts"),
        ({"forecasts": {"net": np.zeros((20, 4))}}, r"'net': \(20, 4\)"),
        ({"channel_names": "AB"}, "the 2 channels"),
        ({"times": np.arange(20)}, "all 60 steps, found 20"),
    ],
)
def test_what_does_not_belong_together_is_refused(window, change, message):
    past, future, forecast = window
    arguments = {"forecasts": {"net": forecast}, "channel_names": "ABCDE"} | change
    with pytest.raises(ValueError, match=message):
        channel_forecasts_figure(past, future, arguments.pop("forecasts"), **arguments)


def test_differences_are_smoothed_over_time_and_averaged_by_hour():
    times = np.datetime64("2017-10-24T00", "s") + np.arange(240) * np.timedelta64(3600, "s")
    hours = np.arange(240) % 24
    over_time, over_day = difference_figure(hours - 11.5, times, smoothing=24, title="net less line").axes
    np.testing.assert_allclose(np.asarray(over_time.get_lines()[0].get_ydata()), np.zeros(217), atol=1e-12)
    assert over_time.get_lines()[0].get_xdata()[0] == times[11]
    np.testing.assert_allclose(
        np.asarray(over_day.get_lines()[0].get_xydata()).T, [np.arange(24) + 0.5, np.arange(24) - 11.5]
    )
    assert over_time.get_ylabel() == "net less line"
    for wrong in (0, 241):
        with pytest.raises(ValueError, match=f"and {wrong}; give"):
            difference_figure(hours - 11.5, times, smoothing=wrong, title="")


def test_equal_figures_are_equal_bytes(results, tmp_path):
    for name in "ab":
        save_figure(efficiency_figure(results, dataset="S", horizon=96), tmp_path / f"{name}1.png", dpi=40)
        save_figure(error_bars_figure(results, dataset="S", horizons=[96]), tmp_path / f"{name}2.png", dpi=40)
    for number in "12":
        assert (tmp_path / f"a{number}.png").read_bytes() == (tmp_path / f"b{number}.png").read_bytes()


def test_of_many_channels_the_first_are_drawn_and_the_title_says_so():
    values = np.zeros((30, 40))
    names = [f"c{n}" for n in range(40)]
    figure = channel_forecasts_figure(values[:20], values[20:], {"net": values[20:]}, channel_names=names)
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == names[:MOST_CHANNELS]
    assert figure.get_suptitle() == f"the first {MOST_CHANNELS} of 40 channels"
    few = channel_forecasts_figure(values[:20, :2], values[20:, :2], {"net": values[20:, :2]}, channel_names=names[:2])
    assert few.get_suptitle() == ""


def test_gaps_take_no_part_in_differences():
    times = np.datetime64("2017-10-24T00", "s") + np.arange(96) * np.timedelta64(3600, "s")
    difference = np.where(np.arange(96) < 48, 1.0, 3.0)
    difference[40:50] = np.nan
    over_time, over_day = difference_figure(difference, times, smoothing=4, title="").axes
    smoothed = np.asarray(over_time.get_lines()[0].get_ydata())
    assert np.flatnonzero(np.isnan(smoothed)).tolist() == list(range(40, 47))  # those of nothing but the gap
    np.testing.assert_allclose(smoothed[:40], 1.0)
    np.testing.assert_allclose(smoothed[47:], 3.0)
    hours = np.asarray(over_day.get_lines()[0].get_ydata())
    np.testing.assert_allclose(hours[[1, 2, 16]], [5 / 3, 2, 7 / 3])
    with pytest.raises(ValueError, match="with 0 seen"):
        difference_figure(difference * np.nan, times, smoothing=4, title="")
