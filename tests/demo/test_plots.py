from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from hf_tsdyn.baselines import ContextMean
from hf_tsdyn.demo.forecasts import THRESHOLD, study_forecast
from hf_tsdyn.demo.plots import channel_figure, error_figure, graph_figure, phase_figure, region_figure, run_figure
from hf_tsdyn.demo.systems import Trajectory
from hf_tsdyn.figures import CONTEXT_COLOUR, FORECAST_COLOUR, TRUTH_COLOUR

FIGURES = (phase_figure, channel_figure, error_figure, run_figure)
UNIT = 0.01 * 0.9056
"""Lyapunov times in a step of Lorenz-63."""


@pytest.fixture(scope="module")
def study(lorenz, oracle):
    known = oracle(lorenz.values, error=1e-3, growth=1.04)
    return study_forecast(lorenz, known, model="oracle", context_length=400, horizon=200, origin=700)


def lines(axes):
    """Of axes, the lines by their colours and labels."""
    return {(to_hex(line.get_color()), line.get_label()): line for line in axes.get_lines()}


def test_channels_are_drawn_over_time_from_the_context_on(study):
    stacked = channel_figure(study).axes
    assert [axes.get_ylabel() for axes in stacked] == ["x", "y", "z"]
    ahead = UNIT * np.arange(1, 201)
    for channel, axes in enumerate(stacked):
        found = lines(axes)
        context, truth, forecast = (
            found[colour.lower(), label]
            for colour, label in ((CONTEXT_COLOUR, "context"), (TRUTH_COLOUR, "truth"), (FORECAST_COLOUR, "forecast"))
        )
        np.testing.assert_allclose(context.get_xdata(), UNIT * np.arange(-99, 1))
        np.testing.assert_array_equal(context.get_ydata(), study.past_values[-100:, channel])
        np.testing.assert_allclose(truth.get_xdata(), ahead)
        np.testing.assert_array_equal(truth.get_ydata(), study.future_values[:, channel])
        np.testing.assert_allclose(forecast.get_xdata(), ahead)
        drawn = forecast.get_ydata()
        inside = np.isfinite(drawn)
        assert inside[:100].all()
        np.testing.assert_array_equal(drawn[inside], study.forecast[inside, channel])
    assert stacked[-1].get_xlabel() == "time ahead, Lyapunov times"
    time = study.valid.steps[0] * UNIT
    (marked,) = [line for line in stacked[0].get_lines() if line.get_label().startswith("valid")]
    assert marked.get_label() == f"valid for {time:.3g} Lyapunov times"
    np.testing.assert_allclose(marked.get_xdata(), time)


def test_a_forecast_far_outside_the_truth_does_not_hide_it(study):
    far = study.forecast.copy()
    far[50:, 0] = 1e6
    axes = channel_figure(replace(study, forecast=far)).axes[0]
    drawn = lines(axes)[FORECAST_COLOUR.lower(), "forecast"].get_ydata()
    assert np.isnan(drawn[50:]).all()
    assert np.isfinite(drawn[:50]).all()
    assert axes.get_ylim()[1] < 10


@pytest.mark.parametrize("steps", [200, 120])
def test_a_band_is_drawn_as_far_as_it_goes(study, steps):
    low = study.future_values[:steps] - 0.2
    banded = replace(study, band=np.stack([low, low + 0.4], axis=2))
    axes = channel_figure(banded).axes[1]
    (left, bottom), (right, top) = axes.collections[0].get_datalim(axes.transData).get_points()
    assert (left, right) == pytest.approx((UNIT, steps * UNIT))
    assert (bottom, top) == pytest.approx((low[:, 1].min(), low[:, 1].max() + 0.4))


def test_the_error_is_drawn_on_a_logarithmic_axis_beside_its_threshold(study):
    axes = error_figure(study).axes[0]
    assert axes.get_yscale() == "log"
    error, *others = axes.get_lines()
    growth, threshold, marked = (
        next(line for line in others if line.get_label().startswith(label)) for label in ("first", "threshold", "valid")
    )
    np.testing.assert_allclose(error.get_xdata(), UNIT * np.arange(1, 201))
    np.testing.assert_allclose(error.get_ydata(), study.error)
    assert threshold.get_label() == f"threshold {THRESHOLD:g}"
    np.testing.assert_allclose(threshold.get_ydata(), THRESHOLD)
    np.testing.assert_allclose(marked.get_xdata(), study.valid.steps[0] * UNIT)
    (start, first), (end, last) = np.asarray(growth.get_xydata())
    assert (start, first) == pytest.approx((UNIT, study.error[0]))
    assert np.log(last / first) == pytest.approx(end - start)
    assert end == pytest.approx(200 * UNIT)


def test_the_growth_of_the_error_ends_at_the_attractor_and_needs_a_known_time(study, waves):
    slow = replace(study.trajectory, lyapunov_time=study.trajectory.lyapunov_time / 20)
    growth = error_figure(replace(study, trajectory=slow)).axes[0].get_lines()
    (drawn,) = [line for line in growth if "e^t" in line.get_label()]
    assert drawn.get_ydata()[1] == pytest.approx(1)
    unknown = study_forecast(waves, ContextMean(), model="mean", context_length=64, horizon=64)
    assert not [line for line in error_figure(unknown).axes[0].get_lines() if "e^t" in line.get_label()]


def test_an_exact_forecast_is_drawn_at_what_32_bits_resolve(study):
    exact = replace(study, error=np.zeros(200))
    np.testing.assert_allclose(error_figure(exact).axes[0].get_lines()[0].get_ydata(), 1e-7)


def test_phase_space_shows_context_truth_and_forecast(study):
    (axes,) = phase_figure(study).axes
    context, truth, forecast = (np.stack(line.get_data_3d(), axis=1) for line in axes.get_lines())
    np.testing.assert_array_equal(context, study.past_values)
    np.testing.assert_array_equal(truth[1:], study.future_values)
    inside = np.isfinite(forecast[1:]).all(axis=1)
    assert inside[:100].all()
    np.testing.assert_array_equal(forecast[1:][inside], study.forecast[inside])
    assert [axes.get_xlabel(), axes.get_ylabel(), axes.get_zlabel()] == ["x", "y", "z"]


def test_the_attractors_are_those_that_are_compared(study):
    near = replace(study, run=study.attractor[::-1])
    truth, free = run_figure(near).axes
    for axes, values, colour in ((truth, study.attractor, TRUTH_COLOUR), (free, near.run, FORECAST_COLOUR)):
        (line,) = axes.get_lines()
        np.testing.assert_array_equal(np.stack(line.get_data_3d(), axis=1), values)
        assert to_hex(line.get_color()) == colour.lower()


def test_without_a_lyapunov_time_axes_are_in_steps(waves):
    study = study_forecast(waves, ContextMean(), model="mean", context_length=64, horizon=64)
    axes = channel_figure(study).axes[-1]
    assert axes.get_xlabel() == "time ahead, steps"
    assert axes.get_ylabel() == "channel 1"
    assert lines(axes)[TRUTH_COLOUR.lower(), "truth"].get_xdata()[-1] == 64
    (marked,) = [line for line in axes.get_lines() if line.get_label().startswith("valid")]
    assert marked.get_label() == f"valid for {study.valid.steps[0]} steps"


@pytest.mark.parametrize("channels", [1, 2, 3, 6])
def test_figures_are_drawn_for_any_number_of_channels_and_any_name(channels, tmp_path):
    values = np.sin(np.arange(400)[:, None] * 0.1 + np.arange(channels)).astype(np.float32)
    values[70:75] = np.nan
    series = Trajectory("mine", values, ("$\\frac$", "a^{", "<b>", "d", "e", "f")[:channels])
    study = study_forecast(series, ContextMean(), model="mean", context_length=128, horizon=128)
    for figure in FIGURES:
        figure(study).savefig(tmp_path / "figure.png", dpi=20)
    assert len(channel_figure(study).axes) == min(channels, 4)


def test_a_channel_that_the_context_lacks_and_a_horizon_without_truth_are_drawn(waves, tmp_path):
    values = waves.values.copy()
    values[:128, 1] = values[128:192] = np.nan
    study = study_forecast(Trajectory("mine", values), ContextMean(), model="mean", context_length=128, horizon=64)
    study = replace(study, band=np.stack([study.forecast - 1, study.forecast + 1], axis=2))
    for figure in FIGURES:
        figure(study).savefig(tmp_path / "figure.png", dpi=30)


def test_a_slow_channel_is_drawn_against_itself_even_over_a_short_horizon():
    slow = Trajectory("mine", np.sin(np.arange(1100)[:, None] * 0.004).astype(np.float32))
    study = study_forecast(slow, ContextMean(), model="mean", context_length=1024, horizon=32)
    axes = phase_figure(study).axes[0]
    assert min(len(line.get_xdata()) for line in axes.get_lines()) >= 2
    assert axes.get_ylabel().startswith("channel 0, ")
    assert axes.get_ylabel().endswith(" later")


def test_symbols_are_drawn_for_an_alrnn_alone(waves, turning):
    named = replace(waves, channel_names=("u", "v"))
    study = study_forecast(named, turning, model="turning", context_length=64, horizon=64)
    assert graph_figure(study).axes
    assert region_figure(study).axes[0].get_xlabel() == "u"
    other = study_forecast(waves, ContextMean(), model="mean", context_length=64, horizon=64)
    assert (graph_figure(other), region_figure(other)) == (None, None)
    with torch.no_grad():
        turning.model.W.mul_(40)
    diverging = study_forecast(waves, turning, model="turning", context_length=64, horizon=256)
    assert [figure(diverging).axes != [] for figure in FIGURES] == [True] * 4
