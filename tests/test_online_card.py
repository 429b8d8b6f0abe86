import re

import pytest

from hf_tsdyn.online_card import online_summary, render_online_card
from hf_tsdyn.online_results import entries_at, is_online, put_entry
from hf_tsdyn.online_tables import baseline_table, leave_one_out_table, memory_table, online_table, pairs_table
from hf_tsdyn.online_verdict import verdict_of
from hf_tsdyn.series_results import SeriesResults
from hf_tsdyn.series_scores import SeriesInterval, SeriesRow

BASELINES = ("persistence", "ridge", "frozen")
LEARNERS = ("mixer", "slow")
ERRORS = {"persistence": 0.2, "ridge": 0.22, "frozen": 0.25, "mixer": 0.15, "slow": 0.18, "off": 0.19, "less": 0.16}
DELAYED, IMMEDIATE = ("waves", 4, "delayed"), ("waves", 4, "immediate")
COMMANDS = ("python -m training.run_online",)


def difference(model, baseline, mean, *, width=0.01, protocol="delayed"):
    return SeriesInterval(model, baseline, "waves", protocol, 4, "mse", mean, mean - width, mean + width, 3)


def study(*intervals, protocols=("delayed", "immediate"), errors=ERRORS, seeds=(0, 1, 2), **header):
    """The results of a study of baselines and learners at one place; errors of seeds are 0.9, 1, 1.1 times the mean."""
    learner = {"learner": "gradient", "frozen": "frozen"}
    methods = {name: {"learner": name, "learns": False} for name in BASELINES} | {
        "mixer": learner | {"learning_rate": 3e-05}
    }
    methods |= {"slow": learner | {"memory_off": "off"}, "off": dict(learner), "less": dict(learner)}
    header = {
        "name": "toy-study",
        "models": list(errors),
        "labels": {"mixer": "the mixture"},
        "claims": {},
        "protocol": {"num_resamples": 10, "confidence": 0.9, "seed": 0},
        "methods": {name: methods.get(name, learner) for name in errors},
        "roles": {"reference": "slow", "persistence": "persistence", "ridge": "ridge"},
        "leave_one_out": {"mixer": {"less": "its gate"}},
        "compare": [["mixer", "slow"]],
        "datasets": {"waves": {"fingerprint": "abc", "channel_names": ["x", "y"], "num_train_steps": 1200,
                               "num_windows": {name: {"4": 5000} for name in protocols}}},
        "versions": {"torch": "2"}, "hardware": {"cpu": "a CPU", "num_cores": 2, "accelerator": None},
        "git_revision": None,
    } | header  # fmt: skip
    rows = [
        SeriesRow(model, "waves", protocol, 4, seed, metric, factor * error * (0.9 + 0.1 * place))
        for protocol in protocols
        for model, error in errors.items()
        for place, seed in enumerate((None,) if model in ("persistence", "ridge") else seeds)
        for metric, factor in {"mse": 1.0, "mae": 2.0, "mape": 50.0}.items()
    ]
    return SeriesResults(header, rows, list(intervals))


def gains(model, mean=-0.05):
    return [difference(model, baseline, mean) for baseline in BASELINES]


def row_of(table, label):
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {label} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_only_results_with_methods_are_of_an_online_study():
    assert is_online(study())
    assert not is_online(SeriesResults({"models": []}, [], []))


def test_entries_of_the_header_are_found_where_they_were_put():
    header = {}
    put_entry(header, "cpu_ms", "slow", 1.5, dataset="waves", horizon=4, protocol="delayed")
    assert entries_at(header, "cpu_ms", *DELAYED) == {"slow": 1.5}
    assert entries_at(header, "cpu_ms", *IMMEDIATE) == {}
    with pytest.raises(ValueError, match="found 'cpu_seconds' under 'delayed'"):
        put_entry(header, "cpu_seconds", "slow", 1.5, dataset="waves", horizon=4, protocol="delayed")
    with pytest.raises(ValueError, match="under 'leaky'"):
        entries_at(header, "cpu_ms", "waves", 4, "leaky")


def test_table_shows_means_skill_difference_time_and_triggers():
    results = study(difference("slow", "frozen", -0.07, width=0.02))
    for entry, value in {"cpu_ms": 7.246, "trigger_rates": 0.0004}.items():
        put_entry(results.header, entry, "slow", value, dataset="waves", horizon=4, protocol="delayed")
    table = online_table(results, *DELAYED)
    expected = ["slow", "0.1800 ± 0.0180 (3)", "0.3600 ± 0.0360 (3)", "+0.000", "-0.0700 [-0.0900, -0.0500]", "better",
                "7.25", "0.0400"]  # fmt: skip
    assert row_of(table, "slow") == expected
    assert row_of(table, "the mixture")[3:] == ["+0.167", "-", "-", "-", "-"]
    assert row_of(table, "persistence")[:2] == ["persistence", "0.1800"]
    shown = [line.split(" | ")[0] for line in table.splitlines()[2:]]
    assert shown == ["| persistence", "| ridge", "| frozen", "| the mixture", "| slow", "| off"]
    assert "leaky" not in table


def test_skill_is_1_for_no_error_and_below_0_for_more_than_that_of_persistence():
    table = online_table(study(errors=ERRORS | {"mixer": 0.0, "slow": 0.36}), *DELAYED)
    assert row_of(table, "the mixture")[3] == "+1.000"
    assert row_of(table, "slow")[3] == "-1.000"


def test_leaky_table_says_so_and_ends_with_the_claims_of_its_protocol():
    claim = {"dataset": "waves", "horizon": 4, "mse": 0.09, "mae": None, "mape": 12.3, "source": "paper"}
    claims = {"fast": claim | {"protocol": "immediate"}, "sound": claim | {"protocol": "delayed"}}
    results = study(claims=claims)
    table = online_table(results, *IMMEDIATE)
    assert "MSE, leaky | MAE, leaky | MAPE, %, leaky | skill, leaky" in table.splitlines()[0]
    cells = ["fast (claim: paper)", "0.0900", "-", "12.3", "+0.500", "-", "-", "-", "-"]
    assert row_of(table, "fast (claim: paper)") == cells
    assert "sound" not in table
    assert "sound (claim: paper)" in online_table(results, *DELAYED)


def test_rows_that_are_missing_leave_the_rest():
    rest = {name: error for name, error in ERRORS.items() if name not in ("persistence", "frozen", "off")}
    table = online_table(study(errors=rest, seeds=(0,)), *DELAYED)
    assert row_of(table, "slow") == ["slow", "0.1620", "0.3240", "-", "-", "-", "-", "-"]
    with pytest.raises(ValueError, match=r"a table needs .* 9 steps ahead, delayed, found none; scored were"):
        online_table(study(), "waves", 9, "delayed")


def test_parts_memory_and_pairs_have_tables_where_they_were_scored():
    differences = {("less", "mixer"): 0.02, ("slow", "off"): -0.001, ("mixer", "slow"): -0.03}
    results = study(*(difference(*pair, mean) for pair, mean in differences.items()))
    assert row_of(leave_one_out_table(results, "mixer", *DELAYED), "its gate")[2:] == [
        "+0.0200 [+0.0100, +0.0300]",
        "worse",
    ]
    assert row_of(memory_table(results, *DELAYED), "slow")[2:] == [
        "0.1900 ± 0.0190 (3)",
        "-0.0010 [-0.0110, +0.0090]",
        "undecided",
    ]
    assert row_of(pairs_table(results, *DELAYED), "the mixture")[1] == "slow"
    bare = study(errors={"persistence": 0.2, "slow": 0.1})
    assert leave_one_out_table(bare, "mixer", *DELAYED) == memory_table(bare, *DELAYED) == ""
    assert pairs_table(bare, *DELAYED) == baseline_table(bare, *DELAYED) == ""
    assert "leaky" in memory_table(results, *IMMEDIATE)


def test_learners_are_set_beside_all_that_never_learns():
    table = baseline_table(study(*gains("slow"), difference("frozen", "persistence", 0.1)), *DELAYED)
    assert row_of(table, "slow")[1:] == ["-0.0500 [-0.0600, -0.0400], better"] * 3
    assert "| frozen |" not in table


def test_verdict_is_a_gain_where_all_three_intervals_exclude_zero():
    verdict = verdict_of(study(*gains("mixer"), *gains("slow", 0.02)), "waves", 4)
    assert verdict.is_gain
    assert verdict.learner == "mixer"
    wanted = (
        r"waves, 4 steps ahead, delayed feedback: the best learner \(the mixture, MSE 0\.1500 ± 0\.0150 over 3 seeds\) "
        r"beats its own frozen network, persistence and frozen ridge; .* exclude zero: .*In 3 of 3 seeds .*1 beats all"
    )
    assert re.fullmatch(wanted + r" three\.", verdict.text)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("change", ["undecided", "worse", "missing"])
def test_verdict_is_no_gain_if_one_comparison_fails(baseline, change):
    rest = [row for row in gains("mixer") if row.baseline != baseline]
    found = {"undecided": [difference("mixer", baseline, -0.005)], "worse": [difference("mixer", baseline, 0.05)]}
    verdict = verdict_of(study(*rest, *found.get(change, [])), "waves", 4)
    assert not verdict.is_gain
    assert "no measurable gain: the best learner (the mixture" in verdict.text
    assert "beats" not in verdict.text.replace("0 beat all", "")
    assert ("not compared" if change == "missing" else change) in verdict.text


def test_a_learner_that_beats_all_three_is_preferred_to_one_of_lower_error():
    verdict = verdict_of(study(*gains("slow")), "waves", 4)
    assert verdict.is_gain
    assert verdict.learner == "slow"
    assert "Of 3 learners, 1 beats all three." in verdict.text


def test_the_learner_that_was_chosen_beforehand_is_judged_whatever_others_do():
    roles = {"persistence": "persistence", "ridge": "ridge", "chosen": "mixer"}
    verdict = verdict_of(study(*gains("slow"), roles=roles), "waves", 4)
    assert not verdict.is_gain
    assert "no measurable gain: the learner that was chosen beforehand (the mixture" in verdict.text


def test_verdict_without_learners_or_seeds_says_so():
    alone = verdict_of(study(errors={"persistence": 0.2}), "waves", 4)
    assert alone.learner is None
    assert "no measurable gain, as no learner was scored" in alone.text
    assert "of a single seed" in verdict_of(study(*gains("mixer"), seeds=(0,)), "waves", 4).text


def test_leaky_errors_never_enter_the_verdict():
    leaky = [difference("mixer", baseline, -0.1, protocol="immediate") for baseline in BASELINES]
    assert not verdict_of(study(*leaky), "waves", 4).is_gain


def test_page_holds_verdict_tables_limits_and_commands():
    results = study(*gains("mixer"))
    page = render_online_card(results, commands=COMMANDS, figures=[("figures/bars.png", "Bars")])
    assert verdict_of(results, "waves", 4).text in page
    for place in (DELAYED, IMMEDIATE):
        assert online_table(results, *place) in page
    assert "## Immediate feedback, leaky" in page
    assert "90 % intervals" in page
    assert "![Bars](figures/bars.png)" in page
    assert COMMANDS[0] in page
    assert "| waves | 4 | x, y | 1,200 | 5,000 |" in page
    assert "| the mixture | gradient | 3e-05 | frozen |" in page
    assert "picked by its error on the stretch itself" in page
    assert "fewer than 3 seeds" not in page
    assert "\n\n\n" not in page


def test_page_states_limits_that_the_study_has():
    roles = {"persistence": "persistence", "ridge": "ridge", "chosen": "mixer"}
    page = render_online_card(study(protocols=("delayed",), seeds=(0, 1), roles=roles), commands=COMMANDS)
    assert "picked by its error" not in page
    assert "fewer than 3 seeds, of which no spread can be told: the mixture, slow, off." in page
    assert "## Figures" not in page
    assert "MAPE" not in page
    assert "no measurable gain" in page


def test_page_ends_its_limits_with_the_remarks_of_the_study():
    page = render_online_card(study(remarks=["Rows were looked at."]), commands=COMMANDS)
    assert "- Rows were looked at.\n" in page.split("## Limits")[1].split("## How")[0]


def test_page_of_leaky_errors_alone_makes_no_claim():
    page = render_online_card(study(protocols=("immediate",)), commands=COMMANDS)
    assert "nothing can be said of learning online" in page
    assert "## Delayed feedback" not in page


def test_summary_is_the_verdict_under_delayed_feedback():
    results = study(*gains("mixer"))
    assert online_summary(results) == f"**{verdict_of(results, 'waves', 4).text}**"
    with pytest.raises(ValueError, match=r"under one of \('delayed',\), found \['immediate'\]"):
        online_summary(study(protocols=("immediate",)))


def test_methods_lie_below_the_titles_of_their_groups():
    table = online_table(study(groups={"ours": ["mixer", "slow"], "empty": []}), *DELAYED)
    shown = [line.split(" | ")[0] for line in table.splitlines()[2:]]
    assert shown == [
        "| **ours**",
        "| the mixture",
        "| slow",
        "| **others**",
        *(f"| {name}" for name in BASELINES),
        "| off",
    ]


def test_results_of_another_kind_are_refused():
    results = study(protocols=("test",))
    for render in (online_summary, lambda each: render_online_card(each, commands=COMMANDS)):
        with pytest.raises(ValueError, match=r"found \['test'\]; run training.run_online"):
            render(results)
