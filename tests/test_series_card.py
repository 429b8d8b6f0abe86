"""What the card of a forecaster of a series says."""

import re

import pytest
import yaml

from hf_tsdyn.model_card import ModelCardFacts
from hf_tsdyn.series_card import SeriesCardFacts, render_series_card, results_table
from hf_tsdyn.series_results import SeriesResults
from hf_tsdyn.series_scores import SeriesInterval, SeriesRow

FACTS = SeriesCardFacts(
    ModelCardFacts(
        model_id="acme/net",
        model="net",
        model_type="dynonet",
        summary="It forecasts a wave.",
        num_parameters=12_345,
        context_length=64,
        prediction_length=8,
        channels="2",
        training_data={"series": "waves"},
        training={"steps": "as many as it took"},
        limits=("One series.",),
        commands=("python -m training.evaluate_series MODEL",),
        evaluation_dataset="waves",
        figures=(("figures/forecasts.png", "Forecasts"),),
    ),
    "DynoNetForPrediction",
    data_note="The series is its owner's.",
)


def make_results(horizons=(8,), models=("net", "start"), seeds=(0,)):
    """The mean squared error of each model is 0.1 more than that of the one before it."""
    rows = [
        SeriesRow(
            model, "waves", split, horizon, seed, metric, 0.5 + 0.1 * place + 0.01 * seed + (split == "validation")
        )
        for place, model in enumerate(models)
        for split in ("validation", "test")
        for horizon in horizons
        for seed in seeds
        for metric in ("mse", "mae", "mse/u", "mse/v", "raw_mae/u", "raw_mae/v")
    ]
    intervals = [
        SeriesInterval(models[0], models[1], "waves", "test", horizon, "mse", -0.1, -0.2, -0.05, len(seeds))
        for horizon in horizons
    ]
    counts = {split: {str(horizon): 1000 + horizon for horizon in horizons} for split in ("validation", "test")}
    header = {
        "models": list(models),
        "labels": {"start": "its start"},
        "num_parameters": {"net": 12_345},
        "cpu_seconds": {"net": 7.5},
        "claims": {},
        "protocol": {"confidence": 0.9},
        "datasets": {"waves": {"fingerprint": "ab12", "channel_names": ["u", "v"], "num_windows": counts}},
        "versions": {"python": "3.11"},
        "hardware": {"cpu": "a processor", "num_cores": 2, "accelerator": None},
        "git_revision": "cd34",
    }
    return SeriesResults(header, rows, intervals)


def test_every_fact_and_every_table_is_in_the_card(tmp_path):
    results = make_results()
    results.write(tmp_path / "results.json")
    card = render_series_card(SeriesResults.read(tmp_path / "results.json"), FACTS)
    assert card == render_series_card(results, FACTS)
    expected = [
        "It forecasts a wave.",
        "| parameters | 12,345 |",
        "| channels | 2: u, v |",
        "| series | waves |",
        "| steps | as many as it took |",
        "waves, 8 steps ahead, 1,008 windows:",
        results.table("waves", 8),
        "| net | waves @ 8 | MSE | 0.5 | 0.5 |",
        "| its start | waves @ 8 | MAE, data units | 0.6 | 0.6 |",
        "with 90 % intervals",
        results.differences_table(),
        "![Forecasts](figures/forecasts.png)",
        "- One series.",
        "waves: fingerprint `ab12`; code revision `cd34`; python 3.11; evaluated on a processor (2 cores).",
        "apache-2.0, of the weights and this card. The series is its owner's.",
    ]
    assert [text for text in expected if text not in card] == []
    assert "What each part is worth" not in card
    assert not re.search(r"\n\n\n|\{\{|\{%|\bNone\b|\bnan\b| \n", card)


def test_the_front_matter_holds_the_models_own_errors_on_test_windows():
    head = yaml.safe_load(render_series_card(make_results(horizons=(8, 16)), FACTS).split("---")[1])
    assert (head["pipeline_tag"], head["library_name"], head["license"]) == (
        "time-series-forecasting", "hf_tsdyn", "apache-2.0",
    )  # fmt: skip
    assert head["metrics"] == ["mse", "mae"]
    (entry,) = head["model-index"]
    metrics = [(each["name"], each["value"]) for result in entry["results"] for each in result["metrics"]]
    assert metrics == [("MSE @ 8", 0.5), ("MAE @ 8", 0.5), ("MSE @ 16", 0.5), ("MAE @ 16", 0.5)]
    assert {result["dataset"]["split"] for result in entry["results"]} == {"test"}


@pytest.mark.parametrize("horizons", [(8,), (8, 16)])
def test_a_study_adds_its_table_of_the_models_own_place_and_an_overview_of_more(horizons):
    study = make_results(horizons=horizons, models=("full", "no_gates"), seeds=(0, 1, 2))
    card = render_series_card(make_results(), FACTS, study=study)
    assert study.table("waves", 8) in card
    assert "0.5100 ± 0.0100 (3)" in card
    assert study.differences_table() in card
    assert (study.overview() in card) == (len(horizons) > 1)
    assert not re.search(r"\n\n\n|\{\{|\{%|\bNone\b|\bnan\b| \n", card)


def test_results_of_another_model_or_without_test_windows_are_refused():
    results = make_results(models=("other", "start"))
    with pytest.raises(ValueError, match=r"'net' on test windows, found \['other', 'start'\]"):
        render_series_card(results, FACTS)
    untested = SeriesResults(results.header, [row for row in make_results().rows if row.split != "test"], [])
    with pytest.raises(ValueError, match="on test windows"):
        render_series_card(untested, FACTS)


def test_the_first_place_has_a_full_table_and_all_others_an_overview():
    one, several = make_results(), make_results(horizons=(8, 16, 32))
    assert results_table(one) == one.table("waves", 8)
    text = results_table(several)
    assert text.startswith(
        f"waves, 8 steps ahead, mean ± standard deviation over (n) seeds:\n\n{several.table('waves', 8)}\n\n"
    )
    assert text.endswith(several.overview(settings=[("waves", 16), ("waves", 32)]))
    assert "| model | waves @ 16 | waves @ 32 |" in text
    validation = SeriesResults(one.header, [row for row in one.rows if row.split == "validation"], [])
    with pytest.raises(ValueError, match=r"found \['validation'\] alone"):
        results_table(validation)


def test_what_claims_are_is_said_below_them():
    study = make_results()
    claim = {"dataset": "waves", "horizon": 8, "mse": 0.3, "source": "a paper"}
    study.header["claims"] = {"Oracle": claim}
    assert results_table(study).endswith("\n\nA claim was published elsewhere and not measured here.")
    assert study.claims_note in render_series_card(make_results(), FACTS, study=study)
    study.header["claims"] = {"Oracle": claim | {"kind": "rerun", "source": "its code"}}
    text = results_table(study)
    assert "| Oracle (rerun: its code) | 0.3 | - | - | - |" in text
    assert "published elsewhere" not in text
    assert "A rerun is what its authors' own code gave when we ran it" in text
    assert not re.search(r"\n\n\n", render_series_card(make_results(), FACTS, study=study))
