"""What is drawn of a controller, read back from the figures' own objects."""

import numpy as np
import pytest
import torch

from hf_tsdyn.dynonet_figures import (
    SIGNAL_LABELS,
    SMALLEST_RANGE,
    ControlTrack,
    control_figure,
    specialist_names,
    track_controller,
    training_signals_figure,
)
from hf_tsdyn.models.dynonet import DynoNetConfig, DynoNetForPrediction
from hf_tsdyn.series_figures import MOST_CHANNELS

pytest.importorskip("matplotlib")

SMALL = {"num_channels": 2, "context_length": 12, "prediction_length": 4, "worker_context_length": 8,
         "controller_hidden_size": 4, "worker_hidden_size": 3}  # fmt: skip


@pytest.fixture
def make():
    """A function (fields of the configuration) that makes a small model with random weights."""

    def build(**fields):
        torch.manual_seed(0)
        return DynoNetForPrediction(DynoNetConfig(**(SMALL | fields)))

    return build


@pytest.fixture
def values():
    return np.random.default_rng(0).normal(size=(40, 2))


@pytest.fixture
def history():
    """Three logged steps of two signals, and of one that is not drawn."""
    mean, std = [[1.0, 2.0], [1.5, 2.5], [2.0, 3.0]], [[0.1, 0.2]] * 3
    entry = {"mean": mean, "std": std}
    return {
        "steps": [0, 10, 20],
        "signals": {"dropout_rate": entry, "lr_scale": entry, "context": {"mean": [], "std": []}},
    }


@pytest.mark.parametrize("gating", ["constant", "time_varying"])
def test_the_track_is_the_controllers_word_on_each_window(make, values, gating):
    model = make(gating=gating)
    track = track_controller(model, values, stride=5, batch_size=4)
    assert track.ends.tolist() == [12, 17, 22, 27, 32, 37]
    (panel,) = track.panels.values()
    for row, end in zip(panel, track.ends, strict=True):
        past = torch.from_numpy(values[end - 12 : end]).float()[None]
        gates = model.signals(past)["gate_masks"][0].detach()
        np.testing.assert_allclose(row, gates.flatten(1).mean(dim=1), rtol=1e-5)


@pytest.mark.parametrize("count", [2, 3])
def test_of_two_specialists_one_weight_says_all(make, values, count):
    model = make(num_worker_layers=0, specialists=[{"kind": "periodic", "period": 3}] * count)
    panels = track_controller(model, values, stride=20).panels
    mixture = model.signals(torch.from_numpy(values[:12]).float()[None])["mixture"][0].detach()
    assert len(panels) == {2: 1, 3: 3}[count]
    for place, panel in enumerate(panels.values()):
        np.testing.assert_allclose(panel[0], mixture[:, place], rtol=1e-5)
    if count == 2:
        assert list(panels) == ["weight of periodic 1, the rest is that of periodic 2"]


def test_what_says_nothing_over_time_is_refused(make, values):
    with pytest.raises(ValueError, match="found one without"):
        track_controller(make(controller=False), values)
    assert track_controller(make(gating="none"), values).panels == {}
    for wrong in (values[:11], values[:, :1], values[0]):
        with pytest.raises(ValueError, match=r"\(time, 2\) with at least 12 steps"):
            track_controller(make(), wrong)


def test_specialists_of_one_kind_are_numbered():
    kinds = [{"kind": "low_rank", "rank": 2}, {"kind": "phase"}, {"kind": "low_rank", "rank": 4}]
    assert specialist_names(kinds) == ["low rank 1", "phase", "low rank 2"]
    assert specialist_names(None) == []


@pytest.mark.parametrize("dated", [False, True])
def test_a_heat_map_has_channels_down_and_time_across(dated):
    panel = np.arange(12).reshape(6, 2) / 10
    times = np.datetime64("2017-01-01T00", "s") + np.arange(40) * np.timedelta64(3600, "s") if dated else None
    track = ControlTrack(np.arange(12, 41, 5), {"gate": panel, "weight": np.full((6, 2), 0.5)})
    figure = control_figure(track, channel_names="AB", times=times)
    gate, weight = (axes for axes in figure.axes if axes.get_title())
    assert [label.get_text() for label in gate.get_yticklabels()] == ["A", "B"]
    assert gate.get_ylim()[0] > gate.get_ylim()[1]  # the first channel is above
    np.testing.assert_array_equal(np.asarray(gate.collections[0].get_array()), panel.T)
    assert gate.collections[0].get_clim() == pytest.approx((0, 1.1))
    assert weight.collections[0].get_clim() == pytest.approx((0.5 - SMALLEST_RANGE / 2, 0.5 + SMALLEST_RANGE / 2))
    assert weight.get_xlabel() == ("end of the window" if dated else "last step of the window")
    with pytest.raises(ValueError, match="found 3 and"):
        control_figure(track, channel_names="ABC", times=times)


def test_each_signal_has_a_panel_with_a_line_and_a_band_a_channel(history):
    figure = training_signals_figure(history, channel_names=["A", "B"])
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == [SIGNAL_LABELS["lr_scale"], SIGNAL_LABELS["dropout_rate"]]
    lines = {line.get_label(): np.asarray(line.get_xydata()) for line in panels[0].get_lines()}
    np.testing.assert_array_equal(lines["B"], [[0, 2.0], [10, 2.5], [20, 3.0]])
    corners = {tuple(np.round(point, 9)) for point in np.asarray(panels[0].collections[1].get_paths()[0].vertices)}
    assert {(10.0, 2.3), (10.0, 2.7)} <= corners
    assert [axes.get_xlabel() for axes in panels] == ["step", "step"]


def test_ten_channels_look_different(history):
    moments = {"mean": [[0.0] * 10] * 3, "std": [[0.0] * 10] * 3}
    axes = training_signals_figure(
        {"steps": [0, 1, 2], "signals": {"grad_clip": moments}}, channel_names="ABCDEFGHIJ"
    ).axes
    assert len({(line.get_color(), line.get_linestyle()) for line in axes[0].get_lines()}) == 10


def test_nothing_logged_or_other_channels_are_refused(history):
    with pytest.raises(ValueError, match=r"channels \['A'\], found"):
        training_signals_figure(history, channel_names=["A"])
    with pytest.raises(ValueError, match=r"found \{\}"):
        training_signals_figure({"steps": [], "signals": {}}, channel_names=["A"])


def test_windows_without_a_value_have_no_track(make, values):
    gap = np.where((np.arange(40) < 10) | (np.arange(40) >= 30), values.T, np.nan).T
    model = make(gating="constant")
    track = track_controller(model, gap, stride=5, batch_size=2)
    (panel,) = track.panels.values()
    assert np.isnan(panel).all(axis=1).tolist() == [False, False, True, True, False, False]
    assert np.isnan(panel).any(axis=1).tolist() == [False, False, True, True, False, False]
    past = torch.from_numpy(gap[20:32]).float()[None]
    np.testing.assert_allclose(
        panel[4], model.signals(past)["gate_masks"][0].flatten(1).mean(dim=1).detach(), rtol=1e-5
    )
    axes = control_figure(track, channel_names="AB").axes[0]
    assert np.isfinite(axes.collections[0].get_clim()).all()
    with pytest.raises(ValueError, match="found nothing in 40 steps"):
        track_controller(model, gap * np.nan)


def test_of_many_channels_the_first_are_drawn_and_the_title_says_so():
    names = [f"c{n}" for n in range(40)]
    track = ControlTrack(np.arange(12, 41, 5), {"gate": np.zeros((6, 40))})
    control = control_figure(track, channel_names=names)
    assert len(control.axes[0].get_yticklabels()) == MOST_CHANNELS
    assert np.asarray(control.axes[0].collections[0].get_array()).shape == (MOST_CHANNELS, 6)
    moments = {"mean": [[0.0] * 40] * 3, "std": [[0.0] * 40] * 3}
    signals = training_signals_figure({"steps": [0, 1, 2], "signals": {"grad_clip": moments}}, channel_names=names)
    assert [line.get_label() for line in signals.axes[0].get_lines()] == names[:MOST_CHANNELS]
    assert control.get_suptitle() == signals.get_suptitle() == f"the first {MOST_CHANNELS} of 40 channels"
