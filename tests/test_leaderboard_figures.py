"""What is drawn, read back from the figures' own objects."""

import dataclasses

import numpy as np
import pytest

from hf_tsdyn.figures import save_figure
from hf_tsdyn.leaderboard import Board
from hf_tsdyn.leaderboard_figures import (
    NothingToDrawError,
    attractor_grid_figure,
    cost_figure,
    error_growth_figure,
    tail_figure,
)
from hf_tsdyn.leaderboard_gallery import draw_leaderboard, pictures_of
from hf_tsdyn.leaderboard_rank_figures import forest_figure, ranks_figure, wins_figure
from hf_tsdyn.results import STEP_METRIC, ResultRow, summarise
from hf_tsdyn.scoring import TRUTH

pytest.importorskip("matplotlib")

INFINITE = float("inf")
SYSTEMS = {f"S{place}": 1 + 0.1 * place for place in range(10)} | {"A->B": 0.5}
MODELS = {"best": 1.0, "near": 1.02, "far": 3.0}
STEPS = (1, 10, 100, 1000)
FIGURES = [error_growth_figure, tail_figure, cost_figure, ranks_figure, wins_figure, forest_figure]


def make_board(rows=None, **changes):
    """Three models on eleven systems of 100 steps a Lyapunov time; errors are those of MODELS times those of SYSTEMS.

    `near` is the better one on every other system.
    """
    if rows is None:
        rows = []
        for model, error in MODELS.items():
            for place, (system, size) in enumerate(SYSTEMS.items()):
                value = error * size * (0.97 if model == "near" and place % 2 else 1)
                metrics = {"smape": value, "state_space_divergence": value / 2, "state_space_divergence@tail": value}
                rows += [ResultRow(model, system, 1000, metric, found, 1, 0) for metric, found in metrics.items()]
                rows += [ResultRow(model, system, step, STEP_METRIC, value * step / 1000, 1, 0) for step in STEPS]
        rows += [ResultRow(TRUTH, name, 1000, "state_space_divergence@tail", 0.1, 1, 0) for name in SYSTEMS]
    summarised = [row for row in rows if row.metric != STEP_METRIC]
    summary, _ = summarise(summarised, baselines=(), seed=0, num_resamples=50, confidence=0.95)
    facts = {"steps_per_period": 50.0, "lyapunov_times_per_period": 0.5}
    board = Board(
        condition="clean 512",
        protocol={"rollout_tail": 500, "context_length": 512},
        fingerprint="abc",
        split="test",
        systems={name: facts | {"group": "skew_product" if "->" in name else "base"} for name in SYSTEMS},
        models={model: {} for model in MODELS},
        costs={model: {"cpu_seconds_per_forecast": 0.001 * 4**place} for place, model in enumerate(MODELS)},
        rows=rows,
        summary=summary,
        files={},
    )
    return dataclasses.replace(board, **changes)


@pytest.fixture
def board():
    return make_board()


def texts_of(figure):
    figure.draw_without_rendering()
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def y_labels(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def test_error_growth_is_in_lyapunov_times_with_a_panel_a_model_and_the_others_behind(board):
    figure = error_growth_figure(board)
    assert [axes.get_title() for axes in figure.axes] == ["best", "near", "far"]
    for axes, error in zip(figure.axes, MODELS.values(), strict=True):
        *others, own = axes.get_lines()
        assert len(others) == 3
        times, errors = (np.asarray(values, dtype=float) for values in own.get_data())
        assert (times[0], times[-1]) == pytest.approx((0.01, 10))
        assert errors[-1] == pytest.approx(error * np.median(list(SYSTEMS.values())), rel=0.05)
        assert errors[0] == pytest.approx(errors[-1] / 1000)
    assert figure.get_supxlabel() == "time ahead (Lyapunov times), 11 systems"


@pytest.mark.parametrize(
    ("facts", "label", "last"),
    [
        ({"steps_per_period": 50.0, "lyapunov_times_per_period": None}, "time ahead (periods), 11 systems", 20),
        ({"steps_per_period": None, "lyapunov_times_per_period": None}, "time ahead (steps), 11 systems", 1000),
    ],
)
def test_error_growth_falls_back_on_periods_and_steps(board, facts, label, last):
    figure = error_growth_figure(dataclasses.replace(board, systems=dict.fromkeys(SYSTEMS, facts)))
    assert figure.get_supxlabel() == label
    assert np.max(figure.axes[0].get_lines()[-1].get_xdata()) == pytest.approx(last)


def test_systems_without_a_lyapunov_time_are_not_drawn_beside_those_with_one(board):
    unknown = {"steps_per_period": 50.0, "lyapunov_times_per_period": None}
    figure = error_growth_figure(dataclasses.replace(board, systems=dict(board.systems) | {"S0": unknown}))
    assert figure.get_supxlabel() == "time ahead (Lyapunov times), 10 systems"


def test_tails_stand_beside_whole_rollouts_and_their_floors(board):
    (axes,) = tail_figure(board).axes
    marks = {line.get_label(): np.asarray(line.get_xdata(), dtype=float) for line in axes.get_lines()}
    assert list(marks) == ["whole rollout", "steps from 500 on", "floor, steps from 500 on"]
    medians = [board.cell(model, board.column("", "state_space_divergence@tail")).median for model in MODELS]
    assert marks["steps from 500 on"] == pytest.approx(medians)
    assert marks["whole rollout"] == pytest.approx(np.array(medians) / 2)
    assert marks["floor, steps from 500 on"] == pytest.approx(0.1)
    assert y_labels(axes) == list(MODELS)


def test_infinite_medians_are_drawn_at_the_edge(board):
    def failed_row(row):
        fails = row.model == "far" and row.metric.startswith("state")
        return dataclasses.replace(row, value=INFINITE) if fails else row

    failed = make_board([failed_row(row) for row in board.rows])
    axes = tail_figure(failed).axes[0]
    edge = axes.get_xlim()[1]
    marks = next(line for line in axes.get_lines() if line.get_label() == "whole rollout")
    assert np.asarray(marks.get_xdata())[-1] == pytest.approx(edge)
    for figure in (cost_figure(failed), forest_figure(failed)):
        figure.draw_without_rendering()


def test_costs_join_what_nothing_faster_is_better_than(board):
    slow_and_bad = cost_figure(board).axes[0]
    line = next(line for line in slow_and_bad.get_lines() if line.get_drawstyle() == "steps-post")
    assert np.asarray(line.get_xdata()) == pytest.approx([1.0])  # the best model is the fastest
    costs = {model: {"cpu_seconds_per_forecast": 0.001 / MODELS[model]} for model in MODELS}
    figure = cost_figure(dataclasses.replace(board, costs=costs))
    line = next(line for line in figure.axes[0].get_lines() if line.get_drawstyle() == "steps-post")
    assert np.asarray(line.get_xdata()) == pytest.approx([1 / 3, 1 / 1.02, 1])
    assert texts_of(figure) == ["1", "2", "3"] * 2
    assert [axes.get_ylabel() for axes in figure.axes] == ["sMAPE @ 1000", "divergence, steps from 500 to 1000"]


def test_ranks_are_sorted_and_a_bar_joins_models_that_no_test_tells_apart(board):
    axes = ranks_figure(board).axes[0]
    assert y_labels(axes) == list(MODELS)
    ranks, bar = axes.get_lines()
    assert np.asarray(ranks.get_xdata()) == pytest.approx([16 / 11, 17 / 11, 3])  # near wins five times, best six
    assert np.asarray(bar.get_ydata()) == pytest.approx([-0.3, 1.3])
    assert np.unique(bar.get_xdata()) == pytest.approx([1.02])


def test_a_stretch_within_a_longer_one_has_no_bar_of_its_own(board):
    equal = make_board([dataclasses.replace(row, value=1.0) for row in board.rows])
    _, *bars = ranks_figure(equal).axes[0].get_lines()
    assert [np.asarray(bar.get_ydata()).tolist() for bar in bars] == [[-0.3, 2.3]]


def test_wins_are_percentages_of_systems(board):
    figure = wins_figure(board)
    shares = np.asarray(figure.axes[0].images[0].get_array())
    assert np.isnan(np.diag(shares)).all()
    assert shares[0, 1:] == pytest.approx([100 * 6 / 11, 100])
    assert shares[1, 0] == pytest.approx(100 * 5 / 11)
    assert figure.axes[0].get_title() == "sMAPE @ 1000, 11 systems"
    assert texts_of(figure)[:2] == ["55", "100"]


def test_a_forest_has_a_line_a_system_below_its_group_and_floors(board):
    figure = forest_figure(board)
    assert y_labels(figure.axes[0]) == [*(f"S{place}" for place in range(10)), "A->B"]
    points = {each.get_label(): np.asarray(each.get_offsets()) for each in figure.axes[1].collections}
    assert list(points) == [*MODELS, TRUTH]
    assert points["far"][:, 0] == pytest.approx([3 * size for size in SYSTEMS.values()])
    assert points[TRUTH][:, 0] == pytest.approx([0.1] * 11)
    assert texts_of(figure) == ["Base systems", ""]  # no room beside a single system


def test_a_forest_leaves_out_systems_that_have_no_value(board):
    lost = make_board([row for row in board.rows if row.system != "S3"])
    assert "S3" not in y_labels(forest_figure(lost).axes[0])


def test_attractors_are_drawn_on_the_axes_of_their_truth(board):
    rng = np.random.default_rng(0)
    truth = rng.uniform(-1, 1, (50, 3))
    attractors = {"S0": {"truth": truth, "near": 9 * truth}, "A->B": {"truth": truth[:, :2], "far": truth[:, :2]}}
    figure = attractor_grid_figure(board, attractors)
    assert [axes.get_title() for axes in figure.axes[:3]] == ["truth", "near", "far"]
    assert len(figure.axes) == 6
    assert figure.axes[1].get_xlim() == figure.axes[0].get_xlim()
    assert figure.axes[0].get_xlim()[1] < 1.2
    assert [len(axes.get_lines()) for axes in figure.axes] == [1, 1, 0, 1, 0, 1]
    figure.draw_without_rendering()
    with pytest.raises(NothingToDrawError, match=r"rollouts beside its results, found none .* 'clean 512'"):
        attractor_grid_figure(board, {"S0": {"truth": truth, "another": truth}})


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.__name__)
def test_a_board_with_nothing_to_draw_is_an_error_that_names_it(board, figure):
    rows = [row for row in board.rows if row.metric == "smape" and row.model == "near"]
    empty = make_board([dataclasses.replace(row, metric="coverage@0.8") for row in rows], models={"near": {}}, costs={})
    with pytest.raises(NothingToDrawError, match=r"found none under the condition 'clean 512' .* \['coverage@0.8'\]"):
        figure(dataclasses.replace(empty, costs={"near": {}}))


def test_the_gallery_draws_all_of_the_first_condition_and_less_of_the_others(board, tmp_path):
    other = dataclasses.replace(board, condition="long")
    noisy = dataclasses.replace(board, condition="noisy", protocol={"noise": 0.1})
    attractors = {"long": {"S0": {"truth": np.random.default_rng(0).normal(size=(30, 3)), "far": np.zeros((9, 3))}}}
    pictures = pictures_of([board, other, noisy], attractors)
    assert {condition: [picture.file for picture in found] for condition, found in pictures.items()} == {
        "clean 512": [f"{kind}_clean-512.png" for kind in ("growth", "tail", "cost", "ranks", "wins", "forest")],
        "long": [f"{kind}_long.png" for kind in ("growth", "tail", "ranks", "attractors")],
        "noisy": [],
    }
    assert all("(long)" in picture.caption for picture in pictures["long"])
    poor = make_board([row for row in board.rows if row.metric == "smape"])
    draw_leaderboard([poor], {}, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        f"{kind}_clean-512.png" for kind in ("cost", "forest", "ranks", "wins")
    ]


def test_equal_boards_give_equal_bytes(board, tmp_path):
    for name in ("one", "two"):
        save_figure(cost_figure(board), tmp_path / f"{name}.png", dpi=40)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
