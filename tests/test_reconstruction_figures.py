"""What is drawn of a reconstruction and its training, read back from the figures' own objects."""

import numpy as np
import pytest

from hf_tsdyn.figures import FORECAST_COLOUR, save_figure
from hf_tsdyn.metrics.invariants import smoothed_spectrum
from hf_tsdyn.reconstruction_figures import embedding_delay, history_figure, reconstruction_figure, spectrum_figure

pytest.importorskip("matplotlib")


@pytest.fixture
def waves():
    """Three sines of 20, 50 and 100 steps a period, 1000 steps."""
    return np.sin(2 * np.pi * np.arange(1000)[:, None] / np.array([20.0, 50.0, 100.0]))


@pytest.fixture
def histories():
    """Three models at four epochs; the divergence of the last is infinite at first."""
    rows = [
        [{"epoch": e, "loss": 1 / e, "state_space_divergence": 5.0 * k / e, "spectrum_distance": 0.1 * k}
         for e in (10, 20, 30, 40)]
        for k in (1, 2, 3)
    ]  # fmt: skip
    rows[2][0]["state_space_divergence"] = np.inf
    return rows


@pytest.mark.parametrize(("channels", "name"), [(1, "rectilinear"), (2, "rectilinear"), (3, "3d"), (4, "3d")])
def test_truth_and_free_run_stand_side_by_side_on_the_same_axes(waves, channels, name):
    truth = np.concatenate([waves, waves[:, :1]], axis=1)[:, :channels]
    figure = reconstruction_figure(truth, 1.5 * truth[:700])
    assert [axes.name for axes in figure.axes] == [name, name]
    assert [axes.get_title() for axes in figure.axes] == ["truth, T = 700 steps", "free run, T = 700 steps"]
    first, second = figure.axes
    assert (first.get_xlim(), first.get_ylim()) == (second.get_xlim(), second.get_ylim())


def test_at_most_the_asked_number_of_steps_is_drawn(waves):
    first, second = (
        axes.get_lines()[0] for axes in reconstruction_figure(waves[:, :2], waves[:, 1:], num_steps=60).axes
    )
    np.testing.assert_array_equal(np.asarray(first.get_xydata()), waves[:60, :2])
    np.testing.assert_array_equal(np.asarray(second.get_xydata()), waves[:60, 1:])


def test_a_single_channel_is_drawn_against_itself_where_its_autocorrelation_falls_to_1_over_e(waves):
    slow = waves[:, 2:]
    delay = embedding_delay(slow)
    assert abs(np.cos(2 * np.pi * delay / 100) - 1 / np.e) < 0.06
    axes = reconstruction_figure(slow, slow).axes[0]
    np.testing.assert_array_equal(np.asarray(axes.get_lines()[0].get_xydata())[:, 1], slow[delay:, 0])
    assert f"{delay} steps later" in axes.get_ylabel()
    assert embedding_delay(waves) == 0


def test_a_map_of_a_single_channel_is_drawn_as_points(waves):
    noise = np.random.default_rng(0).normal(size=(500, 1))
    axes = reconstruction_figure(noise, noise).axes[0]
    (dots,) = axes.get_lines()
    assert (dots.get_linestyle(), dots.get_marker()) == ("None", ".")
    assert axes.get_ylabel() == "channel 0, 1 step later"
    assert reconstruction_figure(waves, waves).axes[0].get_lines()[0].get_linestyle() == "-"


def test_a_constant_run_has_no_spectrum(waves):
    truth, generated = spectrum_figure(waves, np.ones_like(waves)).axes[0].get_lines()
    assert np.isfinite(truth.get_ydata()).all()
    assert np.isnan(generated.get_ydata()).all()


def test_a_run_that_left_the_range_of_numbers_is_drawn_as_far_as_it_is_finite(waves, tmp_path):
    lost = waves.copy()
    lost[300:] = np.inf
    figure = reconstruction_figure(waves, lost)
    save_figure(figure, tmp_path / "a.png", dpi=40)
    save_figure(spectrum_figure(waves, lost), tmp_path / "b.png", dpi=40)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_spectra_peak_at_the_frequency_of_each_channel(waves):
    figure = spectrum_figure(waves, 3 * waves + 1, smoothing=1.0, dt=0.1)
    for axes, period in zip(figure.axes, (20, 50, 100), strict=True):
        truth, generated = (np.asarray(line.get_xydata()) for line in axes.get_lines())
        assert truth[np.argmax(truth[:, 1]), 0] == pytest.approx(10 / period)
        channel = waves[:, (20, 50, 100).index(period)]
        np.testing.assert_allclose(truth[:, 1], smoothed_spectrum(channel, 1.0)[1:])
        np.testing.assert_allclose(generated, truth, atol=1e-12)  # offset and scale are not part of a spectrum
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert "per unit of time" in figure.axes[0].get_xlabel()
    assert "T = 1,000 steps" in figure.legends[0].get_title().get_text()


def test_gaps_and_other_channels_are_refused(waves):
    with pytest.raises(ValueError, match=r"found \(1000, 3\) and \(1000, 2\)"):
        reconstruction_figure(waves, waves[:, :2])
    gappy = waves.copy()
    gappy[5, 0] = np.nan
    with pytest.raises(ValueError, match="found 1 unseen"):
        spectrum_figure(gappy, waves)


def test_the_chosen_model_is_in_front_with_its_best_epoch_marked(histories):
    figure = history_figure(histories, chosen=1, best_epoch=30)
    assert [axes.get_title() for axes in figure.axes] == [
        "training loss",
        "state-space divergence",
        "spectrum distance",
    ]
    for axes, value in zip(figure.axes, (1 / 30, 1 / 3, 0.2), strict=True):
        assert axes.get_yscale() == "log"
        curves = [line for line in axes.get_lines() if line.get_label() in ("chosen", "other seeds")]
        assert [line.get_label() for line in curves] == ["other seeds", "other seeds", "chosen"]
        assert curves[-1].get_color() == FORECAST_COLOUR
        np.testing.assert_allclose(np.asarray(axes.collections[0].get_offsets()), [[30, value]])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(labels) == ["best: epoch 30", "chosen", "other seeds"]


def test_a_run_that_diverged_is_a_cross_at_the_edge(histories):
    axes = history_figure(histories, chosen=0).axes[1]
    crosses = [line for line in axes.get_lines() if line.get_marker() == "x" and len(line.get_xdata())]
    assert [np.asarray(line.get_xdata()).tolist() for line in crosses] == [[10.0]]


def test_only_what_was_recorded_is_drawn(histories):
    losses = [[{"epoch": entry["epoch"], "loss": entry["loss"]} for entry in histories[0]]]
    assert [axes.get_title() for axes in history_figure(losses).axes] == ["training loss"]
    for wrong, chosen in (([], 0), ([[]], 0), (losses, 1)):
        with pytest.raises(ValueError, match=f"found .* and {chosen}"):
            history_figure(wrong, chosen=chosen)


def test_equal_figures_are_equal_bytes(waves, histories, tmp_path):
    for name in "ab":
        save_figure(reconstruction_figure(waves, waves), tmp_path / f"{name}1.png", dpi=40)
        save_figure(history_figure(histories), tmp_path / f"{name}2.png", dpi=40)
    for number in "12":
        assert (tmp_path / f"a{number}.png").read_bytes() == (tmp_path / f"b{number}.png").read_bytes()
