import dataclasses
import itertools

import numpy as np
import pytest

from hf_tsdyn import leaderboard_page
from hf_tsdyn.evaluation import EvaluationProtocol
from hf_tsdyn.leaderboard import read_boards, reference_of
from hf_tsdyn.leaderboard_attractors import attractors_file, merge_attractors, read_attractors, write_attractors
from hf_tsdyn.leaderboard_criteria import (
    criteria,
    of_systems,
    overall_ranks,
    paired_tests_by_criterion,
    ranks_by_criterion,
)
from hf_tsdyn.leaderboard_page import leaderboard_summary, render_leaderboard
from hf_tsdyn.leaderboard_tables import (
    cost_table,
    difference_table,
    failures_note,
    leader_table,
    main_table,
    metric_tables,
    rank_table,
    short_table,
    wins_table,
)
from hf_tsdyn.results import EvaluationResults, ResultRow, summarise
from hf_tsdyn.scoring import TRUTH

ERRORS = {"good": 1.0, "fair": 2.0, "poor": 4.0}
SYSTEMS = {"Chua": "base", "Lorenz": "base", "Chua->Lorenz": "skew_product", "ecg": "series"}
FACTORS = {"Chua": 1.0, "Lorenz": 1.5, "Chua->Lorenz": 2.0, "ecg": 5.0}
INFINITE = float("inf")


def rows_of(model, error, horizons, systems, *, tail=True):
    """A model's errors, proportional to `error` on every system; of series up to 64 steps."""
    for system in systems:
        value = error * FACTORS[system]
        series = SYSTEMS[system] == "series"
        for horizon in horizons:
            if horizon == 64 or not series:
                yield ResultRow(model, system, horizon, "smape", 10 * value, 2, 0)
                yield ResultRow(model, system, horizon, "normalised_mae", value, 2, 0)
        if not series:
            yield ResultRow(model, system, horizons[-1], "vpt_lyapunov@0.4", 1 / value, 2, 0)
            yield ResultRow(model, system, horizons[-1], "coverage@0.8", 0.8, 2, 0)
            for metric in ("state_space_divergence", "spectrum_distance") if tail else ():
                yield ResultRow(model, system, horizons[-1], metric, value / 2, 2, 0)
                yield ResultRow(model, system, horizons[-1], f"{metric}@tail", value, 2, 0)


def truth_rows(horizon, systems):
    for system, metric in itertools.product(systems, ("state_space_divergence", "spectrum_distance")):
        if SYSTEMS[system] != "series":
            yield ResultRow(TRUTH, system, horizon, f"{metric}@tail", 0.125 * FACTORS[system], 2, 0)


def results_of(
    models=("good", "fair"), *, condition="clean", systems=tuple(SYSTEMS), scale=1.0, fingerprint="abc", facts=None,
    change=lambda row: row, **protocol
):  # fmt: skip
    """A results file of a benchmark: errors are those of ERRORS times `scale`."""
    options = {"context_length": 512, "look_back": 1024, "look_ahead": 1024, "rollout_tail": 512} | protocol
    asked = EvaluationProtocol(**{"horizons": (64, 128, 1024), "num_windows": 2, "num_resamples": 50} | options)
    tail = asked.rollout_tail is not None
    rows = [row for m in models for row in rows_of(m, scale * ERRORS[m], asked.horizons, systems, tail=tail)]
    rows = [change(row) for row in rows] + list(truth_rows(asked.horizons[-1], systems) if tail else ())
    generated = [row for row in rows if SYSTEMS[row.system] != "series"]
    summary, _ = summarise(generated or rows, baselines=(), seed=0, num_resamples=50, confidence=0.95)
    stated = {m: {"label": m.capitalize(), "kind": "baseline"} | (facts or {}).get(m, {}) for m in models}
    header = {
        "models": [*models, TRUTH], "baselines": [],
        "protocol": {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(asked).items()},
        "dataset": {"fingerprint": fingerprint, "split": "test", "num_windows": 2 * len(systems)},
        "systems": {name: {"num_windows": 2, "steps_per_period": 100.0, "lyapunov_times_per_period": 0.5,
                           "group": SYSTEMS[name]} for name in systems},
        "cost": {m: {"cpu_seconds": 0.4, "failed_windows": 0} for m in models} | {TRUTH: {"failed_windows": 0}},
        "versions": {"torch": "2"}, "hardware": {"cpu": "a CPU", "num_cores": 2, "accelerator": None},
        "git_revision": None,
        "benchmark": {"name": "toy", "condition": condition, "models": stated,
                      "series": {"ecg": "e1"} if "ecg" in systems else {}},
    }  # fmt: skip
    return EvaluationResults(header, rows, summary, [])


@pytest.fixture
def boards_of(tmp_path):
    """A function (results...) that writes them as files one.json, two.json, ... and reads the boards."""

    def read(*found):
        for name, results in zip(("one", "two", "three", "four"), found, strict=False):
            results.write(tmp_path / f"{name}.json")
        return read_boards(tmp_path)

    return read


@pytest.fixture
def board(boards_of):
    (board,) = boards_of(results_of())
    return board


def cells_of(table, label):
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {label} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def titles_of(table):
    return [cell.strip() for cell in table.splitlines()[0].strip("|").split("|")]


def test_any_file_of_a_benchmark_joins_and_others_are_passed_over(boards_of, tmp_path):
    (tmp_path / "study.json").write_text('{"format": "series", "header": {}}')
    other = results_of(("poor",))
    plain = {key: value for key, value in other.header.items() if key != "benchmark"}
    EvaluationResults(plain, other.rows, other.summary, []).write(tmp_path / "card.json")
    (alone,) = boards_of(results_of())
    assert list(alone.models) == ["good", "fair"]
    (joined,) = boards_of(results_of(), results_of(("poor",)))
    assert list(overall_ranks(joined)) == ["good", "fair", "poor"]
    assert list(joined.files) == ["one.json", "two.json"]


def test_no_results_of_a_benchmark_are_an_error_that_says_what_to_run(tmp_path):
    (tmp_path / "study.json").write_text('{"format": "series", "header": {}}')
    with pytest.raises(FileNotFoundError, match=r"found none among the 1 JSON files of .*; run training\.benchmark"):
        read_boards(tmp_path)
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(ValueError, match=r"study\.json must be a results file, found no JSON"):
        read_boards(tmp_path)


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (results_of(("poor",), fingerprint="xyz"), r"dataset\.fingerprint \('abc', 'xyz'\)"),
        (results_of(("poor",), num_windows=3), r"protocol\.num_windows \(2, 3\)"),
        (results_of(("poor",), systems=("Chua", "ecg")), r"systems\.Chua->Lorenz \(2, None\); systems\.Lorenz"),
    ],
    ids=["data", "protocol", "systems"],
)
def test_files_of_one_condition_that_do_not_agree_are_refused(boards_of, other, found):
    with pytest.raises(ValueError, match=r"condition 'clean' .* found one\.json and two\.json to differ in .*" + found):
        boards_of(results_of(), other)


def test_files_need_not_have_the_same_series_but_those_of_one_name_must_be_the_same(boards_of):
    few = results_of(("poor",), systems=("Chua", "Lorenz", "Chua->Lorenz"))
    (board,) = boards_of(few, results_of())
    assert list(board.series.systems) == ["ecg"]
    other = results_of(("poor",))
    other.header["benchmark"]["series"]["ecg"] = "e2"
    with pytest.raises(ValueError, match="to differ in 1 places: series ecg"):
        boards_of(results_of(), other)


def test_a_model_may_come_twice_if_its_rows_are_the_same(boards_of):
    (board,) = boards_of(results_of(("good", "fair")), results_of(("fair", "poor")))
    assert list(board.models) == ["good", "fair", "poor"]
    assert len(board.rows_at(criteria(board)[0])) == 9
    different = results_of(("fair",), change=lambda row: dataclasses.replace(row, value=row.value + 1))
    with pytest.raises(ValueError, match=r"others of 'fair' on 'Chua' in one\.json and two\.json; remove one"):
        boards_of(results_of(), different)


def test_a_header_that_names_other_models_than_the_rows_is_refused(boards_of):
    results = results_of()
    del results.header["benchmark"]["models"]["fair"]
    with pytest.raises(ValueError, match=r"models that one\.json has rows of, found \['fair'\]"):
        boards_of(results)


def test_series_stand_aside(board):
    assert list(board.systems) == ["Chua", "Lorenz", "Chua->Lorenz"]
    assert list(board.values("good", board.column("", "smape", 64))) == ["Chua", "Lorenz", "Chua->Lorenz"]
    aside = of_systems(board.series, ["ecg"])
    assert cells_of(main_table(aside), "Good")[2:4] == ["**50**", "**5**"]


def test_a_benchmark_of_series_alone_is_ranked_on_them(boards_of):
    (board,) = boards_of(results_of(systems=("ecg",)))
    assert board.series is None
    assert list(overall_ranks(board)) == ["good", "fair"]


def test_the_order_is_the_mean_over_criteria_of_average_ranks(boards_of):
    def swap(row):  # `fair` is the better one in the long run, on one system also in the short
        best = row.model == "fair" and (row.metric.endswith("@tail") or row.system == "Chua")
        return dataclasses.replace(row, value=row.value / 8) if best else row

    (board,) = boards_of(results_of(change=swap))
    assert [(column.metric, column.horizon) for column in criteria(board)] == [
        ("smape", 128),
        ("vpt_lyapunov@0.4", 1024),
        ("state_space_divergence@tail", 1024),
        ("spectrum_distance@tail", 1024),
    ]
    ranks = [{"good": 4 / 3, "fair": 5 / 3}, {"good": 1, "fair": 2}, {"good": 2, "fair": 1}, {"good": 2, "fair": 1}]
    for found, wanted in zip(ranks_by_criterion(board).values(), ranks, strict=True):
        assert found == pytest.approx(wanted)
    assert list(overall_ranks(board).items()) == [
        ("fair", pytest.approx((5 / 3 + 4) / 4)),
        ("good", pytest.approx((4 / 3 + 5) / 4)),
    ]
    assert cells_of(rank_table(board), "Fair") == ["Fair", "1.42", "1.67", "2.00", "1.00", "1.00"]


def test_without_a_tail_the_whole_rollout_is_the_criterion_and_without_both_the_forecast_alone(boards_of):
    results = results_of(rollout_tail=None)
    (board,) = boards_of(results)
    assert [column.metric for column in criteria(board)] == ["smape", "vpt_lyapunov@0.4"]
    tails = [row for row in results_of().rows if row.metric.endswith("@tail") and row.model != TRUTH]
    whole = [dataclasses.replace(row, metric=row.metric.removesuffix("@tail")) for row in tails]
    summary, _ = summarise(whole, baselines=(), seed=0, num_resamples=50, confidence=0.95)
    (board,) = boards_of(EvaluationResults(results.header, results.rows + whole, results.summary + summary, []))
    assert [column.title for column in criteria(board)][2:] == ["divergence @ 1024", "spectrum distance @ 1024"]


def test_a_model_without_a_criterion_is_the_last_of_it(boards_of):
    results = results_of(("good", "fair", "poor"))
    lacking = [row for row in results.rows if not (row.model == "good" and row.metric == "smape")]
    (board,) = boards_of(dataclasses.replace(results, rows=lacking))
    assert next(iter(ranks_by_criterion(board).values())) == {"good": 3.0, "fair": 1.0, "poor": 2.0}


def test_main_table_shows_medians_intervals_ranks_costs_and_floors(boards_of):
    facts = {"fair": {"num_parameters": 12345, "cost": {"cpu_seconds_per_forecast": 0.5}}}
    (board,) = boards_of(results_of(facts=facts))
    table = main_table(board)
    assert titles_of(table) == [
        "model", "overall rank", "sMAPE @ 128", "MAE / std @ 1024", "valid time, Lyapunov times",
        "divergence @ 1024, nats", "divergence, steps from 512 to 1024", "spectrum distance, steps from 512 to 1024",
        "CPU ms a forecast", "parameters",
    ]  # fmt: skip
    good = cells_of(table, "Good")
    assert good[:5] == ["Good", "1.00", "**15** [10, 20]", "**1.5** [1, 2]", "**0.667** [0.5, 1]"]
    assert good[-2:] == ["50", "-"]  # 0.4 s for 8 windows
    fair = cells_of(table, "Fair")
    assert fair[1:5] == ["2.00", "30 [20, 40]", "3 [2, 4]", "0.333 [0.25, 0.5]"]
    assert fair[-2:] == ["500", "12,345"]
    floors = cells_of(table, f"*{TRUTH}*")
    assert floors[1:] == ["-"] * 5 + ["0.188 [0.125, 0.25]"] * 2 + ["-", "-"]


def test_a_column_that_some_systems_lack_says_so(boards_of):
    def lose(row):
        lost = row.system == "Chua" and row.metric.startswith("vpt")
        return dataclasses.replace(row, metric="vpt_saturated@0.4") if lost else row

    (board,) = boards_of(results_of(change=lose))
    assert titles_of(main_table(board))[4] == "valid time, Lyapunov times (2 of 3 systems)"


def test_equal_labels_are_told_apart(boards_of):
    (board,) = boards_of(results_of(facts={"fair": {"label": "Good"}}))
    assert [board.label(model) for model in board.models] == ["Good (good)", "Good (fair)"]


def test_failures_are_infinite_and_counted_with_what_was_said(boards_of):
    def fail(row):
        failed = row.model == "good" and row.metric == "state_space_divergence@tail"
        return dataclasses.replace(row, value=INFINITE) if failed else row

    results = results_of(change=fail, facts={"good": {"errors": {"Lorenz": ["ValueError: too wild"]}}})
    results.header["cost"]["good"]["failed_windows"] = 3
    (board,) = boards_of(results)
    assert "Good 3 of 8 (on Lorenz: ValueError: too wild)" in failures_note(board)
    assert cells_of(main_table(board), "Good")[6] == "inf [inf, inf]"
    assert ranks_by_criterion(board)[criteria(board)[2]] == {"good": 2.0, "fair": 1.0}
    (sound,) = boards_of(results_of())
    assert failures_note(sound) == "No forecast failed."


def test_wins_are_marked_where_the_tests_say_so(boards_of):
    (board,) = boards_of(results_of(("good", "fair", "poor")))
    tests = paired_tests_by_criterion(board)
    column = criteria(board)[0]
    table = wins_table(board, column, tests[column])
    assert [cell.strip() for cell in table.splitlines()[3].strip("|").split("|")] == ["2", "Fair", "0", "", "100"]
    sure = [test._replace(adjusted=0.01) for test in tests[column] if {test.model, test.other} == {"good", "fair"}]
    marked = wins_table(board, column, sure)
    assert [cell.strip() for cell in marked.splitlines()[2].strip("|").split("|")][2:] == ["", "100\\*", "100"]
    assert cells_of(leader_table(board, tests), "Fair") == ["Fair", *["+1.00, p 0.750"] * 4]  # 2 / 2^3, of three pairs


def test_a_condition_is_read_against_the_clean_one_or_the_shorter_context_of_the_same_origins(boards_of):
    noisy = {"condition": "noisy", "noise": 0.1, "horizons": (64, 128), "rollout_tail": None}
    longer = {"condition": "long", "context_length": 1024}
    boards = boards_of(results_of(**noisy), results_of(**longer), results_of(), results_of(condition="odd", seed=1))
    assert [board.condition for board in boards] == ["clean", "odd", "long", "noisy"]
    references = [reference_of(board, boards) for board in boards]
    assert [each and each.condition for each in references] == [None, None, "clean", "clean"]


def test_changes_are_paired_by_system_and_more_valid_time_is_better(boards_of):
    clean, noisy = boards_of(results_of(), results_of(("fair", "good"), condition="noisy", noise=0.1, scale=3.0))
    table = difference_table(noisy, clean)
    assert cells_of(table, "Good")[1:4] == [
        "+30 [20, 40], worse",
        "+3 [2, 4], worse",
        "-0.444 [-0.667, -0.333], worse",
    ]
    assert cells_of(difference_table(clean, noisy), "Good")[3] == "+0.444 [0.333, 0.667], better"


def test_a_system_that_one_condition_lacks_is_the_worst_change_there_is(boards_of):
    def lose(row):
        lost = row.system == "Chua" and row.metric == "vpt_lyapunov@0.4"
        return dataclasses.replace(row, metric="vpt_saturated@0.4") if lost else row

    clean, noisy = boards_of(results_of(), results_of(condition="noisy", noise=0.1, scale=3.0, change=lose))
    assert cells_of(difference_table(noisy, clean), "Good")[3] == "-0.444 [-inf, -0.333], worse"


def test_changes_leave_out_horizons_that_one_condition_lacks(boards_of):
    noisy = results_of(condition="noisy", noise=0.1, horizons=(64, 128), rollout_tail=None)
    clean, disturbed = boards_of(results_of(), noisy)
    assert titles_of(difference_table(disturbed, clean)) == ["model", "sMAPE @ 128", "MAE / std @ 128"]


def test_metric_tables_have_every_metric_and_horizon_of_the_summary(board):
    tables = metric_tables(board)
    shown = "\n".join(tables.values())
    assert list(tables) == [
        "sMAPE (0-100)", "MAE / context std", "Valid prediction times", "Distributions", "Attractors"
    ]  # fmt: skip
    assert titles_of(tables["sMAPE (0-100)"])[1:] == [f"sMAPE (0-100) @ {each}" for each in (64, 128, 1024)]
    count = len({(row.metric, row.horizon) for row in board.summary})
    assert sum(len(titles_of(table)) - 1 for table in tables.values()) == count
    assert shown.count("| Good |") == len(tables)


def test_costs_say_what_a_model_was_trained_on_and_what_else_was_measured(boards_of):
    training = {"dataset_fingerprint": "0123456789abcdef", "cpu_seconds": 3600.4, "windows_seen": 1e6}
    facts = {"good": {"training": training, "cost": {"peak_memory_bytes": 2.5e6, "wall_seconds_per_forecast": 0.002}}}
    (board,) = boards_of(results_of(facts=facts))
    table = cost_table(board)
    assert titles_of(table)[-1] == "peak memory, MB"
    good = ["Good", "baseline", "-", "0123456789ab", "1,000,000", "3,600", "50", "2", "-", "0", "2.5"]
    assert cells_of(table, "Good") == good
    assert cells_of(table, "Fair")[3:6] == ["-", "-", "-"]


def test_the_page_has_every_condition_group_and_file_and_equal_results_give_equal_text(boards_of):
    noisy = results_of(condition="noisy", noise=0.1, scale=3.0)
    boards = boards_of(results_of(), results_of(("poor",)), noisy)
    page = render_leaderboard(boards, figures={"clean": [("figures/growth.png", "How errors grow")]})
    for text in (
        "## clean", "## noisy", "### Base systems (2), clean", "### Skew products (1), clean", "### Series (1), noisy",
        "### Against clean", "white noise of 0.1 standard deviations", "![How errors grow](figures/growth.png)",
        "`three.json`", "No forecast failed.", "Poor", "count alike",
    ):  # fmt: skip
        assert text in page, text
    assert "Wins, noisy" not in page
    assert render_leaderboard(boards, figures={"clean": [("figures/growth.png", "How errors grow")]}) == page


def test_the_summary_has_the_first_models_of_the_first_condition(boards_of, monkeypatch):
    boards = boards_of(results_of(condition="noisy", noise=0.1), results_of(("good", "poor")))
    board, labels = boards[0], [boards[0].label(model) for model in overall_ranks(boards[0])]
    monkeypatch.setattr(leaderboard_page, "NUM_IN_SUMMARY", 1)
    text = leaderboard_summary(boards, page="cards/README.md")
    assert text.startswith("`clean`: 2 base systems, 1 skew products; 6 windows with contexts of 512 steps")
    table = short_table(board, 1)
    assert table in text
    assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == [f"| {label}" for label in labels[:1]]
    assert titles_of(table)[2:] == [title for title in titles_of(main_table(board)) if title in titles_of(table)[2:]]
    assert "the first 1 of 2 models:" in text
    assert f"Then, in this order: {', '.join(labels[1:])}." in text
    assert "(cards/README.md)" in text


def test_a_single_model_has_a_page(boards_of):
    boards = boards_of(results_of(("good",)))
    page = render_leaderboard(boards)
    assert "Good" in page
    assert "Paired tests, clean" not in page


def test_ranks_of_a_group_are_those_within_it(boards_of):
    def change(row):
        return dataclasses.replace(row, value=0.0) if (row.model, row.system) == ("fair", "Chua") else row

    (board,) = boards_of(results_of(change=change))
    skew = of_systems(board, ["Chua->Lorenz"])
    assert overall_ranks(skew) == {"good": 1.0, "fair": 2.0}
    assert overall_ranks(board)["good"] > 1
    assert skew.cell("good", criteria(skew)[0]).num_systems == 1


def test_rollouts_come_back_by_system_and_model_and_equal_ones_give_equal_bytes(tmp_path):
    rng = np.random.default_rng(0)
    series = {
        "A->B": {"truth": rng.normal(size=(9, 3)), "good": rng.normal(size=(7, 3))},
        "C": {"truth": np.ones((4, 1))},
    }
    for name in ("one", "two"):
        write_attractors(series, attractors_file(tmp_path / f"{name}.json"))
    assert (tmp_path / "one.attractors.npz").read_bytes() == (tmp_path / "two.attractors.npz").read_bytes()
    found = read_attractors(tmp_path / "one.attractors.npz")
    assert {system: list(each) for system, each in found.items()} == {"A->B": ["truth", "good"], "C": ["truth"]}
    np.testing.assert_allclose(found["A->B"]["good"], series["A->B"]["good"], rtol=1e-6)
    np.savez(tmp_path / "other.npz", values=np.ones(3))
    with pytest.raises(ValueError, match=r"must hold an array `names`, found \['values'\]"):
        read_attractors(tmp_path / "other.npz")


def test_rollouts_without_their_truth_or_of_other_channels_are_refused(tmp_path):
    for series in (
        {"good": np.ones((4, 2))},
        {"truth": np.ones((4, 2)), "good": np.ones((4, 3))},
        {"truth": np.ones(4)},
    ):
        with pytest.raises(ValueError, match=r"'truth' among them, found .* of 'Chua'"):
            write_attractors({"Chua": series}, tmp_path / "file.npz")


def test_rollouts_of_several_files_are_merged_if_their_truth_is_the_same(tmp_path):
    truth = np.arange(6.0).reshape(3, 2)
    write_attractors({"Chua": {"truth": truth, "good": truth + 1}}, tmp_path / "one.attractors.npz")
    write_attractors({"Chua": {"truth": truth, "poor": truth + 2}}, tmp_path / "two.attractors.npz")
    files = dict.fromkeys(("one.json", "two.json", "without.json"))
    assert set(merge_attractors(tmp_path, files)["Chua"]) == {"truth", "good", "poor"}
    write_attractors({"Chua": {"truth": truth + 1, "poor": truth}}, tmp_path / "two.attractors.npz")
    with pytest.raises(ValueError, match=r"found another of 'Chua' in two\.attractors\.npz"):
        merge_attractors(tmp_path, files)
