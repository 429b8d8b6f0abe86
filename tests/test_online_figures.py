import dataclasses

import numpy as np
import pytest

from hf_tsdyn import online_figures, online_heat_maps, online_tradeoffs
from hf_tsdyn.figures import save_figure
from hf_tsdyn.online_gallery import draw_pictures, pictures_of
from hf_tsdyn.online_results import NothingScoredError, put_entry
from hf_tsdyn.series_results import SeriesResults
from hf_tsdyn.series_scores import SeriesInterval, SeriesRow

DELAYED, IMMEDIATE = ("waves", 2, "delayed"), ("waves", 2, "immediate")
ERRORS = {"persistence": 0.2, "frozen": 0.25, "ogd": 0.4, "published": 0.3, "fixed": 0.32, "ultra": 0.1, "less": 0.15}
SIMPLE = [
    online_figures.method_bars_figure,
    online_figures.improvement_figure,
    online_figures.bug_fix_figure,
    online_figures.curves_figure,
    online_figures.step_errors_figure,
    online_tradeoffs.pareto_figure,
    online_tradeoffs.roadmap_figure,
    online_tradeoffs.radar_figure,
    online_tradeoffs.ranking_figure,
    online_heat_maps.trigger_figure,
    online_heat_maps.memory_figure,
]
HEADER = {
    "models": list(ERRORS),
    "labels": {"ogd": "OGD"},
    "claims": {"theirs": {"dataset": "waves", "horizon": 2, "mse": 0.01, "protocol": "immediate", "source": "paper"}},
    "protocol": {"confidence": 0.95},
    "methods": {
        "persistence": {"learner": "persistence", "learns": False},
        "frozen": {"learner": "frozen", "learns": False},
        **{name: {"learner": "gradient", "frozen": "frozen"} for name in list(ERRORS)[2:]},
    },
    "roles": {
        "reference": "ogd",
        "persistence": "persistence",
        "roadmap": ["published", "fixed", "ultra"],
        "bug_fix": ["published", "fixed"],
    },
    "leave_one_out": {"ultra": {"less": "the gate"}},
}


@pytest.fixture
def results():
    """A study of seven methods, two seeds, both protocols; at each, `less` is `ultra` without a part."""
    header, rows, intervals = {**HEADER}, [], []
    for dataset, horizon, protocol in (DELAYED, IMMEDIATE):
        place = {"dataset": dataset, "horizon": horizon, "protocol": protocol}
        for model, error in ERRORS.items():
            metrics = {"mse": error, "mae": error, "mape": 90 * error, "mse@1": error / 2, "mse@2": 1.5 * error}
            rows += [
                SeriesRow(model, dataset, protocol, horizon, seed, metric, value * (0.9 + 0.2 * seed))
                for seed in (0, 1)
                for metric, value in metrics.items()
            ]
            put_entry(header, "curves", model, {"step": [1, 50, 100], "mse": [9.0, error, error]}, **place)
            put_entry(header, "cpu_ms", model, 1 / error, **place)
        heat = {
            "triggers": [[0.0, 0.1], [0.2, 0.0], [0.0, 0.4]],
            "bin_edges": [0, 10, 20, 25],
            "slot_norms": [[0.1, 0.2, 0.3]] * 2,
        }
        put_entry(header, "heat", "ultra", heat, **place)
        differences = {("ultra", "ogd"): -0.3, ("less", "ultra"): 0.05}
        for (model, baseline), mean in differences.items():
            ends = (mean - 0.01, mean + 0.01)
            intervals.append(SeriesInterval(model, baseline, dataset, protocol, horizon, "mse", mean, *ends, 2))
    return SeriesResults(header, rows, intervals)


def texts_of(figure):
    figure.draw_without_rendering()
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    return texts + [label.get_text() for axes in figure.axes for label in axes.get_yticklabels()]


def without(results, *models, metrics=()):
    rows = [row for row in results.rows if row.model not in models and row.metric not in metrics]
    return dataclasses.replace(results, rows=rows)


@pytest.mark.parametrize("figure", SIMPLE, ids=lambda figure: figure.__name__)
def test_title_says_leaky_under_immediate_feedback_alone(results, figure):
    assert "leaky" in figure(results, *IMMEDIATE).get_suptitle()
    assert "leaky" not in figure(results, *DELAYED).get_suptitle()


@pytest.mark.parametrize("figure", SIMPLE, ids=lambda figure: figure.__name__)
def test_a_place_without_scores_is_an_error_that_names_it(results, figure):
    with pytest.raises(NothingScoredError, match=r"'elsewhere', 2 steps ahead, delayed, found none"):
        figure(results, "elsewhere", 2, "delayed")


def test_bars_are_as_long_as_the_means_and_claims_show_where_they_belong(results):
    figure = online_figures.method_bars_figure(results, *DELAYED)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["persistence", "frozen", "OGD", "published", "fixed", "ultra"]
    assert [bar.get_width() for bar in figure.axes[0].patches] == pytest.approx(list(ERRORS.values())[:-1])
    assert [axes.get_title() for axes in figure.axes] == ["MSE", "MAE"]
    leaky = online_figures.method_bars_figure(results, *IMMEDIATE)
    assert "theirs (claim)" in texts_of(leaky)
    assert [axes.get_title() for axes in leaky.axes] == ["MSE", "MAE", "MAPE, %"]


def test_long_bars_are_cut_and_say_so(results):
    rows = [dataclasses.replace(row, value=50.0) if row.model == "ogd" else row for row in results.rows]
    figure = online_figures.method_bars_figure(dataclasses.replace(results, rows=rows), *DELAYED)
    assert "50.0, cut" in texts_of(figure)


def test_improvement_is_in_percent_of_the_reference(results):
    figure = online_figures.improvement_figure(results, *DELAYED)
    assert texts_of(figure)[:5] == ["+50.0 %", "+37.5 %", "+25.0 %", "+20.0 %", "+75.0 %"]
    (whisker,) = figure.axes[0].collections[0].get_segments()
    assert whisker[:, 0] == pytest.approx([72.5, 77.5])
    with pytest.raises(NothingScoredError, match="the reference 'ogd'"):
        online_figures.improvement_figure(without(results, "ogd"), *DELAYED)


def test_leaving_out_a_part_that_helps_adds_error(results):
    figure = online_figures.leave_one_out_figure(results, "ultra", *IMMEDIATE)
    assert figure.axes[0].patches[0].get_width() == pytest.approx(0.05)
    assert texts_of(figure) == ["+0.05", "without the gate"]
    assert "leaky" in figure.get_suptitle()
    for lost in ("less", "ultra"):
        with pytest.raises(NothingScoredError, match=r"among \['less'\] beside 'ultra'"):
            online_figures.leave_one_out_figure(without(results, lost), "ultra", *IMMEDIATE)


def test_the_road_shows_the_change_from_stop_to_stop(results):
    texts = texts_of(online_tradeoffs.roadmap_figure(results, *DELAYED))
    assert texts[:3] == ["0.3000", "0.3200\n(+6.7 %)", "0.1000\n(-68.8 %)"]
    texts = texts_of(online_tradeoffs.roadmap_figure(without(results, "fixed"), *DELAYED))
    assert texts[:2] == ["0.3000", "0.1000\n(-66.7 %)"]
    with pytest.raises(NothingScoredError, match="two of the role `roadmap`"):
        online_tradeoffs.roadmap_figure(without(results, "fixed", "ultra"), *DELAYED)


def test_the_frontier_joins_what_nothing_faster_is_better_than(results):
    axes = online_tradeoffs.pareto_figure(results, *DELAYED).axes[0]
    line = next(line for line in axes.get_lines() if line.get_drawstyle() == "steps-post")
    errors = [0.4, 0.32, 0.3, 0.25, 0.2, 0.1]  # here the slower a method, the better
    assert np.asarray(line.get_ydata()) == pytest.approx(errors)
    assert np.asarray(line.get_xdata()) == pytest.approx([1 / error for error in errors])


def test_radar_reaches_the_rim_where_a_method_is_the_best(results):
    figure = online_tradeoffs.radar_figure(results, *DELAYED)
    titles = {axes.get_title(): axes for axes in figure.axes}
    radii = {name: np.asarray(axes.patches[0].get_xy())[:, 1] for name, axes in titles.items()}
    assert radii["ultra"] == pytest.approx(1.0)
    assert radii["persistence"] == pytest.approx(0.5)
    with pytest.raises(NothingScoredError, match="three metrics"):
        online_tradeoffs.radar_figure(without(results, metrics=("mse@1", "mse@2")), *DELAYED)


def test_ranking_starts_with_the_lowest_error_and_has_a_column_for_each_metric(results):
    axes = online_tradeoffs.ranking_figure(without(results, "fixed"), *DELAYED).axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["ultra", "persistence", "frozen", "published", "OGD"]
    columns = [label.get_text() for label in axes.get_xticklabels()]
    assert columns == ["MSE", "MAE", "MSE @ 1", "MSE @ 2", "CPU ms\na step"]
    ranks = axes.images[0].get_array()
    assert np.asarray(ranks[:, 0]) == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert np.asarray(ranks[:, -1]) == pytest.approx([1, 0.75, 0.5, 0.25, 0])


def test_the_first_steps_of_a_stretch_do_not_set_the_scale_of_its_curves(results):
    axes = online_figures.curves_figure(results, *DELAYED).axes[0]
    assert axes.get_ylim()[1] < 0.5
    assert [line.get_label() for line in axes.get_lines()][:2] == ["persistence", "frozen"]


def test_lines_are_of_the_roles_and_the_best(results):
    names = [f"other{number}" for number in range(20)]
    rows = [SeriesRow(name, "waves", "delayed", 2, 0, "mse", 0.5 + 0.01 * number) for number, name in enumerate(names)]
    header = results.header | {"models": [*names, *ERRORS]}
    shown = online_figures.drawn_lines(SeriesResults(header, rows + results.rows, []), *DELAYED)
    assert shown == ["other0", "persistence", "frozen", "ogd", "published", "fixed", "ultra"]


def test_error_by_step_leaves_out_methods_without(results):
    rows = [row for row in results.rows if not (row.model == "ogd" and "@" in row.metric)]
    axes = online_figures.step_errors_figure(dataclasses.replace(results, rows=rows), *DELAYED).axes[0]
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in axes.get_lines()}
    assert list(lines) == ["persistence", "frozen", "published", "fixed", "ultra"]
    assert lines["ultra"] == pytest.approx([0.05, 0.15])


def test_error_by_step_joins_the_steps_that_are_known(results):
    known = [SeriesRow("ogd", "waves", "delayed", 6, 0, f"mse@{step}", 0.1 * step) for step in (1, 3, 6)]
    rows = [*known, SeriesRow("ogd", "waves", "delayed", 6, 0, "mse", 0.3)]
    axes = online_figures.step_errors_figure(dataclasses.replace(results, rows=rows), "waves", 6, "delayed").axes[0]
    assert np.asarray(axes.get_lines()[0].get_xdata()).tolist() == [1, 3, 6]


def test_seeds_are_drawn_beside_the_means_of_the_memories(results):
    axes = online_figures.bug_fix_figure(results, *DELAYED).axes[0]
    dots = [np.asarray(line.get_xdata()) for line in axes.get_lines() if line.get_marker() == "o"]
    assert dots[0] == pytest.approx([0.27, 0.33])
    with pytest.raises(NothingScoredError, match="two of the role `bug_fix`"):
        online_figures.bug_fix_figure(without(results, "fixed"), *DELAYED)


def test_heat_maps_have_layers_down_and_time_or_slots_across(results):
    (mesh,) = online_heat_maps.trigger_figure(results, *DELAYED).axes[0].collections
    assert np.asarray(mesh.get_array()) == pytest.approx(np.array([[0, 20, 0], [10, 0, 40]]))
    corners = np.asarray(mesh.get_coordinates())
    assert corners[0, :, 0].tolist() == [0, 10, 20, 25]
    assert corners[:, 0, 1].tolist() == [-0.5, 0.5, 1.5]
    panels = [axes for axes in online_heat_maps.memory_figure(results, *DELAYED).axes if axes.get_xlabel() == "slot"]
    assert np.asarray(panels[0].images[0].get_array()).shape == (2, 3)
    assert len(panels) == 1


def test_a_model_without_slots_has_no_panel(results):
    results.header["heat"]["delayed"]["waves-2"]["fixed"] = {"triggers": [[0.0]], "bin_edges": [0, 5]}
    assert len(online_heat_maps.trigger_figure(results, *DELAYED).axes) == 3
    assert list(online_heat_maps.with_maps(results, *DELAYED, "slot_norms")) == ["ultra"]


def test_equal_results_give_equal_bytes(results, tmp_path):
    for name in ("one", "two"):
        save_figure(online_tradeoffs.pareto_figure(results, *DELAYED), tmp_path / f"{name}.png", dpi=50)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_the_gallery_draws_what_there_is(results, tmp_path):
    poor = {key: value for key, value in results.header.items() if key not in ("heat", "curves", "cpu_ms")}
    poor |= {"roles": {}, "leave_one_out": {}}
    rows = [row for row in results.rows if row.split == "delayed" and row.metric == "mse"]
    poor_results = SeriesResults(poor, rows, [])
    draw_pictures(poor_results, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "bars_waves-2_delayed.png",
        "ranking_waves-2_delayed.png",
    ]
    files = {picture.file: picture.caption for picture in pictures_of(results)}
    assert len(files) == 2 * (len(SIMPLE) + 1)
    assert all(("leaky" in file) == ("leaky" in caption) for file, caption in files.items())
    assert "leave_one_out_ultra_waves-2_leaky.png" in files
    assert files["bug_fix_waves-2_delayed.png"].startswith("published; fixed: diamonds")
    assert files["roadmap_waves-2_leaky.png"].startswith("The road published → fixed → ultra: diamonds")
