"""What is drawn, read back from the figures' own objects."""

import subprocess
import sys

import numpy as np
import pytest

from hf_tsdyn.figures import (
    AttractorPanel,
    FanPanel,
    attractor_figure,
    calibration_figure,
    error_growth_figure,
    forecast_fan_figure,
    save_figure,
    system_error_figure,
)
from hf_tsdyn.results import EvaluationResults, ResultRow
from hf_tsdyn.scoring import STEP_METRIC

matplotlib = pytest.importorskip("matplotlib")

STEPS = (1, 4, 16, 64)
SYSTEMS = ("Aizawa", "Chua", "Lorenz", "Thomas")


@pytest.fixture
def results():
    """Two models on four systems of 32 steps a period; the error of `model` grows as s * sqrt(step) / 10."""
    rows = []
    for size, system in enumerate(SYSTEMS, start=1):
        rows.append(ResultRow("model", system, 64, "normalised_mae", 1.0 / size, 3, 0))
        rows.append(ResultRow("mean", system, 64, "normalised_mae", 0.8, 3, 0))
        for step in STEPS:
            rows.append(ResultRow("model", system, step, STEP_METRIC, size * step**0.5 / 10, 3, 0))
            rows.append(ResultRow("mean", system, step, STEP_METRIC, 0.8, 3, 0))
    header = {
        "models": ["model", "mean"],
        "baselines": ["mean"],
        "systems": {system: {"steps_per_period": 32.0} for system in SYSTEMS},
        "protocol": {"horizons": [64]},
        "calibration": {
            "model": [
                {"horizon": 16, "levels": [0.1, 0.5, 0.9], "share_below": [0.2, 0.5, 0.8], "coverage": {"0.8": 0.6}},
                {"horizon": 64, "levels": [0.1, 0.5, 0.9], "share_below": [0.3, 0.4, 0.7], "coverage": {"0.8": 0.4}},
            ]
        },
    }
    return EvaluationResults(header, rows, [], [])


@pytest.fixture
def panel():
    time = np.arange(90)[:, None] * 0.1 + np.array([0.0, 1.0, 2.0, 3.0])
    values = np.sin(time)
    return AttractorPanel("Lorenz", values[:50], values[50:], values[50:] + 0.1)


def bar_widths(axes):
    return [bar.get_width() for bar in axes.patches]


def test_error_growth_is_in_periods_with_quartiles_over_systems(results):
    axes = error_growth_figure(results).axes[0]
    line = next(line for line in axes.get_lines() if line.get_label() == "model")
    periods, errors = (np.asarray(values, dtype=float) for values in line.get_data())
    assert periods[0] == pytest.approx(1 / 32)
    assert periods[-1] == pytest.approx(2)
    # A power law is straight in both logarithms; the median size is between 2 and 3, on the logarithmic scale.
    np.testing.assert_allclose(errors, np.sqrt(6) * np.sqrt(32 * periods) / 10, rtol=1e-6)
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert "periods" in axes.get_xlabel()
    assert "std" in axes.get_ylabel()


def test_error_growth_ends_where_fewer_than_half_of_the_systems_reach(results):
    results.header["systems"]["Aizawa"]["steps_per_period"] = 3.2
    periods = error_growth_figure(results, models=["model"]).axes[0].get_lines()[0].get_xdata()
    assert np.max(np.asarray(periods)) <= 2 + 1e-9


def test_error_growth_is_in_steps_where_a_period_is_unknown(results):
    results.header["systems"]["Aizawa"]["steps_per_period"] = None
    axes = error_growth_figure(results).axes[0]
    steps = np.asarray(axes.get_lines()[0].get_xdata())
    assert (steps[0], steps[-1]) == pytest.approx((1, 64))
    assert axes.get_xlabel() == "time ahead (steps)"


def test_calibration_has_a_line_a_horizon_against_the_diagonal(results):
    axes = calibration_figure(results, model="model").axes[0]
    lines = {line.get_label(): np.asarray(line.get_xydata()) for line in axes.get_lines()}
    assert list(lines) == ["calibrated", "first 16 steps", "first 64 steps"]
    np.testing.assert_array_equal(lines["calibrated"], [[0, 0], [1, 1]])
    np.testing.assert_array_equal(lines["first 64 steps"], [[0.1, 0.3], [0.5, 0.4], [0.9, 0.7]])


@pytest.mark.parametrize("older", [False, True])
def test_calibration_without_a_distribution_is_refused(results, older):
    if older:
        del results.header["calibration"]
    with pytest.raises(ValueError, match="found 'mean' and those of " + (r"\[\]" if older else r"\['model'\]")):
        calibration_figure(results, model="mean")


def test_a_fan_shows_context_truth_median_and_the_band_between(panel):
    future = panel.future_values[:, 0]
    quantiles = future[:, None] + np.array([-0.5, 0.1, 0.5])
    fan = FanPanel("Lorenz", panel.past_values[:, 0], future, quantiles)
    figure = forecast_fan_figure([fan] * 4)
    assert [axes.get_title() for axes in figure.axes] == ["Lorenz"] * 4
    axes = figure.axes[0]
    lines = {line.get_label(): np.asarray(line.get_xydata()) for line in axes.get_lines()}
    assert list(lines) == ["context", "truth", "median"]
    np.testing.assert_array_equal(lines["context"][[0, -1], 0], [-49, 0])
    np.testing.assert_array_equal(lines["truth"], np.stack([np.arange(1, 41), future], axis=1))
    np.testing.assert_array_equal(lines["median"][:, 1], quantiles[:, 1])
    (band,) = axes.collections
    assert band.get_label() == "80 % interval"
    corners = {tuple(point) for point in np.asarray(band.get_paths()[0].vertices)}
    assert {(step, bound) for step, row in enumerate(quantiles, start=1) for bound in row[[0, 2]]} <= corners


def test_a_fan_of_other_levels_is_refused(panel):
    fan = FanPanel("Lorenz", panel.past_values[:, 0], panel.future_values[:, 0], np.zeros((40, 2)))
    with pytest.raises(ValueError, match=r"'Lorenz': \(40, 2\)"):
        forecast_fan_figure([fan])


def test_failed_forecasts_are_drawn_and_not_left_out(results):
    failing = [ResultRow("model", s, step, STEP_METRIC, np.inf, 3, 0) for s in SYSTEMS[:3] for step in STEPS] + [
        r for r in results.rows if r.system == "Thomas" or r.model == "mean" or r.metric != STEP_METRIC
    ]
    figure = error_growth_figure(EvaluationResults(results.header, failing, [], []))
    assert np.asarray(figure.axes[0].get_lines()[0].get_ydata()).min() == pytest.approx(1e3)


def test_bars_are_sorted_by_the_models_error_with_baselines_beside(results):
    axes = system_error_figure(results, model="model", horizon=64).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(reversed(SYSTEMS))
    assert bar_widths(axes) == pytest.approx([1 / 4, 1 / 3, 1 / 2, 1])
    marks = np.asarray(axes.collections[0].get_offsets())
    np.testing.assert_allclose(marks[:, 0], 0.8)
    assert "64 steps" in axes.get_xlabel()


def test_an_infinite_bar_reaches_past_every_other(results):
    rows = [ResultRow("model", "Lorenz", 64, "normalised_mae", np.inf, 3, 0)]
    rows += [r for r in results.rows if (r.model, r.system, r.metric) != ("model", "Lorenz", "normalised_mae")]
    axes = system_error_figure(EvaluationResults(results.header, rows, [], []), model="model", horizon=64).axes[0]
    widths = bar_widths(axes)
    assert max(widths[:-1]) < widths[-1] < np.inf


@pytest.mark.parametrize(("channels", "name"), [(2, "rectilinear"), (3, "3d"), (4, "3d")])
def test_attractors_are_drawn_in_as_many_dimensions_as_there_are(panel, channels, name):
    cut = AttractorPanel("Lorenz", *(v[:, :channels] for v in (panel.past_values, panel.future_values, panel.forecast)))
    figure = attractor_figure([cut] * 4, num_columns=3)
    assert [axes.name for axes in figure.axes] == [name] * 4
    assert [line.get_label() for line in figure.axes[0].get_lines()] == ["context", "truth", "forecast"]
    assert figure.axes[0].get_title() == "Lorenz"


def test_truth_and_forecast_leave_the_context_together(panel):
    flat = AttractorPanel("a", panel.past_values[:, :2], panel.future_values[:, :2], panel.forecast[:, :2])
    context, truth, forecast = (np.asarray(line.get_xydata()) for line in attractor_figure([flat]).axes[0].get_lines())
    np.testing.assert_array_equal(truth[0], context[-1])
    np.testing.assert_array_equal(forecast[0], context[-1])
    np.testing.assert_array_equal(truth[1:], flat.future_values)


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_saved_figures_are_whole_and_equal_every_time(results, tmp_path, suffix):
    for name in ("a", "b"):
        save_figure(system_error_figure(results, model="model", horizon=64), tmp_path / f"{name}.{suffix}", dpi=50)
    first, second = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in ("a", "b"))
    assert first == second
    assert len(first) > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a.{suffix}", f"b.{suffix}"]


def test_an_unknown_format_is_refused(results, tmp_path):
    with pytest.raises(ValueError, match=r"found '.*figure.bmp'"):
        save_figure(system_error_figure(results, model="model", horizon=64), tmp_path / "figure.bmp")


def test_global_settings_are_left_alone(results, panel, tmp_path):
    before = dict(matplotlib.rcParams)
    save_figure(error_growth_figure(results), tmp_path / "a.svg")
    attractor_figure([panel])
    assert dict(matplotlib.rcParams) == before


def test_absent_rows_are_refused(results, panel):
    with pytest.raises(ValueError, match="'other', found none"):
        error_growth_figure(results, models=["other"])
    with pytest.raises(ValueError, match="at horizon 65, found none"):
        system_error_figure(results, model="model", horizon=65)
    with pytest.raises(ValueError, match=r"2 or more channels, found \{\}"):
        attractor_figure([])
    single = AttractorPanel("a", panel.past_values[:, :1], panel.future_values[:, :1], panel.forecast[:, :1])
    with pytest.raises(ValueError, match=r"'a': \(40, 1\)"):
        attractor_figure([single])


def test_matplotlib_is_asked_for_by_its_install_line_and_only_when_drawing():
    code = """
import sys
sys.modules["matplotlib"] = None
import numpy as np
from hf_tsdyn.figures import AttractorPanel, attractor_figure
values = np.zeros((5, 3))
try:
    attractor_figure([AttractorPanel("a", values, values, values)])
except ImportError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'hf_tsdyn[plot]'" in run.stdout
