"""What is drawn of symbols, read back from the figures' own objects."""

import numpy as np
import pytest

from hf_tsdyn.figures import CONTEXT_COLOUR, save_figure
from hf_tsdyn.models.alrnn.fixed_points import FixedPoint
from hf_tsdyn.models.alrnn.symbolic import SymbolicOrbit
from hf_tsdyn.symbolic_figures import (
    DRAWN_FIXED_POINTS,
    GRAPH_REGIONS,
    REGION_COLOURS,
    region_name,
    symbol_figure,
    transition_figure,
)

to_hex = pytest.importorskip("matplotlib.colors").to_hex
FancyArrowPatch = pytest.importorskip("matplotlib.patches").FancyArrowPatch

REGIONS = np.array([[True, True], [False, True], [True, False]])


def make_orbit(symbols, regions, num_channels=3):
    """An orbit on a circle through the given symbols."""
    angles = 0.1 * np.arange(len(symbols))[:, None] + np.arange(num_channels)
    return SymbolicOrbit(np.sin(angles), np.sin(angles), regions, np.asarray(symbols))


@pytest.fixture
def orbit():
    """Region 0 leads to 1 twice and to 2 once, both lead back; shares 0.5, 0.3, 0.2."""
    return make_orbit([0, 0, 1, 1, 0, 0, 1, 0, 2, 2], REGIONS)


def many(num_regions):
    """An orbit through all of many regions in turn, the first of them more often."""
    regions = np.array([[bool(number >> bit & 1) for bit in range(6)] for number in range(num_regions)])
    return make_orbit([*([0] * 5), *range(1, num_regions), 0], regions)


def point(region, place, *, is_real):
    place = np.array(place, dtype=float)
    return FixedPoint(np.array(region), place, place, is_real, np.array([0.5, 0.5, 0.5], dtype=complex))


def texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def subplots(figure):
    return [axes for part in figure.subfigs for axes in part.axes]


@pytest.mark.parametrize(("channels", "name", "panels"), [(1, "rectilinear", 1), (2, "rectilinear", 2), (5, "3d", 3)])
def test_each_step_has_the_colour_of_the_region_that_it_leaves(channels, name, panels):
    orbit = make_orbit([0, 0, 1, 1, 0, 0, 1, 0, 2, 2] * 3, REGIONS, channels)
    figure = symbol_figure(orbit, series_steps=20)
    attractor, *series = subplots(figure)
    assert attractor.name == name
    assert len(series) == panels
    wanted = [REGION_COLOURS[symbol] for symbol in orbit.symbols]
    for channel, axes in enumerate(series):
        (line,) = axes.collections
        assert [to_hex(colour).upper() for colour in line.get_colors()] == [c.upper() for c in wanted[:19]]
        drawn = np.stack([piece[0] for piece in line.get_segments()])
        np.testing.assert_allclose(drawn[:, 1], orbit.observed[:19, channel])


def test_the_legend_has_codes_and_shares_of_time(orbit):
    assert texts(symbol_figure(orbit)) == ["++  50.0 %", "-+  30.0 %", "+-  20.0 %"]


def test_beyond_eight_regions_the_others_share_a_grey():
    orbit = many(11)
    figure = symbol_figure(orbit)
    assert texts(figure)[-1] == "3 others  18.8 %"
    colours = [to_hex(c).upper() for c in subplots(figure)[1].collections[0].get_colors()]
    assert colours.count(CONTEXT_COLOUR.upper()) == 3


def test_real_fixed_points_are_filled_and_virtual_ones_hollow(orbit):
    points = [
        point([False, True], orbit.observed[2], is_real=True),
        point([True, False], orbit.observed[4], is_real=False),
        point([True, True], [9.0, 0.0, 0.0], is_real=True),
    ]
    figure = symbol_figure(orbit, points)
    axes = subplots(figure)[0]
    marks = {mark.get_label(): mark for mark in axes.collections if "fixed" in mark.get_label()}
    real, virtual = marks["real fixed point"], marks["virtual fixed point"]
    assert to_hex(real.get_facecolor()[0]).upper() == REGION_COLOURS[1]
    assert to_hex(virtual.get_facecolor()[0]) == "#ffffff"
    assert to_hex(virtual.get_edgecolor()[0]).upper() == REGION_COLOURS[2]
    assert "2 of 3 fixed points drawn" in axes.get_title()
    assert texts(figure)[-2:] == ["real fixed point", "virtual fixed point"]


def test_virtual_fixed_points_of_grey_regions_are_left_out_and_real_ones_are_not():
    orbit = many(11)
    points = [point(orbit.regions[10], orbit.observed[3], is_real=is_real) for is_real in (True, False)]
    assert "1 of 2 fixed points drawn" in subplots(symbol_figure(orbit, points))[0].get_title()


def test_fixed_points_of_regions_not_visited_are_diamonds(orbit):
    points = [point([False, False], orbit.observed[k], is_real=is_real) for k, is_real in ((3, True), (4, False))]
    figure = symbol_figure(orbit, points)
    (mark,) = [mark for mark in subplots(figure)[0].collections if "fixed" in mark.get_label()]
    assert mark.get_label() == "real fixed point, region not visited"
    assert to_hex(mark.get_facecolor()[0]).upper() == CONTEXT_COLOUR.upper()
    assert texts(figure)[-1] == "real fixed point, region not visited"


def test_of_many_fixed_points_twelve_are_drawn_real_ones_first(orbit):
    points = [point([True, True], orbit.observed[k % 10], is_real=k > 15) for k in range(20)]
    axes = subplots(symbol_figure(orbit, points))[0]
    assert f"{DRAWN_FIXED_POINTS} of 20 fixed points drawn" in axes.get_title()
    labels = [mark.get_label() for mark in axes.collections if "fixed" in mark.get_label()]
    assert labels == ["real fixed point"] * 4 + ["virtual fixed point"] * 8


def test_regions_that_are_too_many_are_not_told_apart():
    regions = (np.arange(1200)[:, None] >> np.arange(11)) % 2 > 0
    orbit = make_orbit(np.arange(1200), regions)
    figure = symbol_figure(orbit)
    assert texts(figure) == ["1,200 regions, the 8 most visited only 0.7 % of the time"]
    assert {to_hex(c).upper() for c in subplots(figure)[1].collections[0].get_colors()} == {CONTEXT_COLOUR.upper()}
    figure = transition_figure(orbit)
    assert figure.axes == []
    (sentence,) = [text.get_text() for text in figure.texts]
    assert sentence == "1,200 regions, the 12 most visited of them only 1.0 % of the time: too many for a graph"


def test_a_single_channel_of_a_map_is_drawn_as_points():
    values = np.array([0.3])
    while len(values) < 500:
        values = np.append(values, 1 - 1.9 * abs(values[-1]))
    orbit = SymbolicOrbit(values[:, None], values[:, None], np.array([[True], [False]]), (values <= 0).astype(int))
    axes = subplots(symbol_figure(orbit))[0]
    (dots,) = axes.collections
    np.testing.assert_allclose(np.asarray(dots.get_offsets()), np.stack([values[:-1], values[1:]], axis=1))
    assert axes.get_ylabel() == "channel 0, 1 step later"


def test_the_heat_map_holds_probabilities_of_a_change_and_bars_the_time_spent(orbit):
    heat, bars, graph = transition_figure(orbit).axes
    image = np.asarray(heat.get_images()[0].get_array())
    np.testing.assert_allclose(image, [[0, 2 / 3, 1 / 3], [1, 0, 0], [0, 0, 0]])
    assert [label.get_text() for label in heat.get_yticklabels()] == ["++", "-+", "+-"]
    assert sorted(text.get_text() for text in heat.texts) == ["100", "33", "67"]
    assert [bar.get_width() for bar in bars.patches] == pytest.approx([50, 30, 20])
    assert heat.get_ylim() == bars.get_ylim()
    widths = sorted(patch.get_linewidth() for patch in graph.patches if isinstance(patch, FancyArrowPatch))
    assert len(widths) == 3
    assert widths[0] < widths[1] < widths[2]
    sizes = graph.collections[0].get_sizes()
    assert sizes[0] > sizes[1] > sizes[2]
    assert [text.get_text() for text in graph.texts] == ["++", "-+", "+-"]


@pytest.mark.parametrize("num_regions", [1, 2, GRAPH_REGIONS])
def test_graphs_of_few_regions_show_all_on_a_circle(num_regions):
    _, _, graph = transition_figure(many(num_regions)).axes
    places = np.asarray(graph.collections[0].get_offsets())
    assert len(places) == num_regions
    np.testing.assert_allclose(np.hypot(*places.T), 1)
    distances = np.linalg.norm(places[:, None] - places, axis=2) + 9 * np.eye(num_regions)
    assert distances.min() > 0.5


def test_beyond_twelve_regions_the_most_visited_are_drawn_and_the_title_says_so():
    orbit = many(15)
    figure = transition_figure(orbit)
    assert "the 12 most visited of 15 regions, 85.0 % of the time" in figure.get_suptitle()
    heat, _, graph = figure.axes
    image = np.asarray(heat.get_images()[0].get_array())
    assert image.shape == (12, 13)
    np.testing.assert_allclose(image.sum(axis=1), 1)
    assert heat.get_xticklabels()[-1].get_text() == "others"
    assert image[11, 12] == 1  # region 11 leads to region 12
    assert len(graph.texts) == 12


def test_regions_that_follow_each_other_are_neighbours_on_the_circle():
    regions = np.array([[bool(number >> bit & 1) for bit in range(2)] for number in range(4)])
    _, _, graph = transition_figure(make_orbit([0, 2, 1, 3] * 4 + [0, 0, 0], regions)).axes
    angles = np.arctan2(*np.asarray(graph.collections[0].get_offsets()).T)
    np.testing.assert_allclose(np.diff(angles[[0, 2, 1, 3]]) % (2 * np.pi), np.pi / 2)


def test_long_codes_are_replaced_by_ranks_and_none_by_a_word():
    orbit = make_orbit([0, 1], np.array([[True] * 13, [False] * 13]))
    assert region_name(orbit, 1) == "#2"
    assert region_name(make_orbit([0, 1], np.ones((1500, 13), dtype=bool)), 1233) == "#1,234"
    assert region_name(make_orbit([0, 0], np.zeros((1, 0), dtype=bool)), 0) == "linear"


def test_equal_figures_are_equal_bytes(orbit, tmp_path):
    points = [point([True, True], orbit.observed[3], is_real=True)]
    for name in "ab":
        save_figure(symbol_figure(orbit, points), tmp_path / f"{name}1.png", dpi=40)
        save_figure(transition_figure(orbit), tmp_path / f"{name}2.png", dpi=40)
    for number in "12":
        assert (tmp_path / f"a{number}.png").read_bytes() == (tmp_path / f"b{number}.png").read_bytes()
