from hf_tsdyn.online_card import render_online_card
from hf_tsdyn.online_results import put_entry
from hf_tsdyn.online_tables import baseline_table, online_table
from hf_tsdyn.online_verdict import verdict_of
from hf_tsdyn.series_results import SeriesResults
from hf_tsdyn.series_scores import SeriesInterval, SeriesRow

BASELINES = {"persistence": 0.2, "ridge": 0.22, "frozen": 0.25}
ERRORS = BASELINES | {"mixer": 0.15, "slow": 0.18}
DELAYED = ("waves", 4, "delayed")
COMMANDS = ("python -m training.run_online",)


def study(*intervals, seeds=(0, 1, 2), **header):
    """The results of a study of baselines and learners at one place; errors of seeds grow by a tenth."""
    learner = {"learner": "gradient", "frozen": "frozen"}
    header = {
        "name": "toy-study", "models": list(ERRORS), "labels": {"mixer": "the mixture"}, "claims": {},
        "protocol": {"num_resamples": 10, "confidence": 0.9, "seed": 0},
        "methods": {name: {"learns": False} if name in BASELINES else dict(learner) for name in ERRORS},
        "roles": {"persistence": "persistence", "ridge": "ridge"},
        "datasets": {"waves": {"fingerprint": "abc", "channel_names": ["x"], "num_train_steps": 1200,
                               "num_windows": {"delayed": {"4": 5000}}}},
        "versions": {}, "hardware": {"cpu": "a CPU", "num_cores": 2, "accelerator": None}, "git_revision": None,
    } | header  # fmt: skip
    rows = [
        SeriesRow(model, "waves", "delayed", 4, seed, "mse", error * (0.9 + 0.1 * place))
        for model, error in ERRORS.items()
        for place, seed in enumerate(seeds)
    ]
    return SeriesResults(header, rows, list(intervals))


def gains(model):
    return [SeriesInterval(model, name, "waves", "delayed", 4, "mse", -0.05, -0.06, -0.04, 3) for name in BASELINES]


def row_of(table, label):
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {label} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def put_everywhere(results, entry, **values):
    for model, value in values.items():
        put_entry(results.header, entry, model, value, dataset="waves", horizon=4, protocol="delayed")


def test_seeds_that_are_missing_or_diverged_are_told_in_tables_verdict_and_page():
    results = study(*gains("mixer"), seeds=(0,))
    whole = {"expected": [0], "found": [0], "diverged": []}
    lost = {"expected": [0, 1, 2], "found": [], "diverged": []}
    some = {"expected": [0, 1, 2], "found": [0], "diverged": [2]}
    put_everywhere(results, "seeds", mixer=some, slow=whole, unseen=lost)
    assert row_of(online_table(results, *DELAYED), "the mixture")[1] == "0.1350 (1 of 3 seeds, diverged: 2)"
    assert row_of(online_table(results, *DELAYED), "slow")[1] == "0.1620"
    assert "of a single seed, 1 of 3 seeds, diverged: 2)" in verdict_of(results, "waves", 4).text
    page = render_online_card(results, commands=COMMANDS)
    assert "delayed feedback: the mixture, 1 of 3 seeds, diverged: 2; unseen, 0 of 3 seeds." in page
    assert "## Gaps" not in render_online_card(study(), commands=COMMANDS)


def test_what_has_no_seeds_is_not_short_of_them():
    results = study(seeds=(None,))
    assert verdict_of(results, "waves", 4).learner == "mixer"
    assert "seed" not in verdict_of(results, "waves", 4).text
    assert "fewer than 3 seeds" not in render_online_card(results, commands=COMMANDS)
    assert "fewer than 3 seeds" in render_online_card(study(seeds=(0, 1)), commands=COMMANDS)


def test_page_says_what_the_validation_rows_were_used_for():
    results = study()
    results.header["methods"]["slow"]["validation_rows"] = ["run_in", "learning_rate"]
    results.header["methods"]["ridge"]["validation_rows"] = ["refit"]
    results.header["num_parameters"] = {"slow": 1234}
    put_everywhere(results, "learning_rates", slow={"0": 1e-5, "1": 0.0, "2": 3e-5})
    page = render_online_card(results, commands=COMMANDS)
    assert "- Learnt through the validation rows, with delay, before the stretch: slow." in page
    assert "- Fitted to the validation rows too, after the training rows: ridge." in page
    assert "- Learning rate chosen by a delayed replay of the validation rows, seed by seed: slow." in page
    assert "| slow | gradient | chosen: 1e-05, 0, 3e-05 at waves @ 4; 0 in 1 of 3 | 1,234 |" in page
    assert "Penalty" not in page


def test_a_regression_that_is_told_not_to_learn_is_no_learner():
    results = study(*gains("slow"))
    results.header["methods"]["slow"]["learns"] = False
    assert verdict_of(results, "waves", 4).learner != "slow"
    assert "| slow |" not in baseline_table(results, *DELAYED)


def test_a_chosen_learner_that_was_not_scored_is_said_to_be_missing():
    roles = {"persistence": "persistence", "ridge": "ridge", "chosen": "absent"}
    results = study(*gains("slow"), roles=roles)
    text = verdict_of(results, "waves", 4).text
    assert "the best learner (slow" in text
    assert "The learner that was chosen beforehand (absent) was not scored here: the best one was picked" in text
    page = render_online_card(results, commands=COMMANDS)
    assert "picked by its error on the stretch itself where absent, chosen beforehand, was not scored" in page
