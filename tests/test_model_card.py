"""Cards are made from results alone, the same every time, with nothing left blank."""

import dataclasses
import re

import pytest
import yaml

import hf_tsdyn
from hf_tsdyn.model_card import ModelCardFacts, render_model_card
from hf_tsdyn.results import EvaluationResults, ResultRow, summarise

SYSTEMS = ("Chua", "Lorenz", "Thomas")
VALUES = {"tiny": (10.0, 20.0, 30.0), "mean": (60.0, 61.0, 65.0)}


@pytest.fixture
def results():
    metrics = ("smape", "normalised_mae", "vpt_periods@0.4", "vpt_lyapunov@0.4")
    rows = [
        ResultRow(model, system, 64, metric, value, 4, 0)
        for model, values in VALUES.items()
        for metric in metrics
        for system, value in zip(SYSTEMS, values, strict=True)
        if (metric, system) != ("vpt_lyapunov@0.4", "Thomas")
    ]
    header = {
        "models": list(VALUES),
        "baselines": ["mean"],
        "protocol": {"context_length": 512, "horizons": [64], "seed": 7, "confidence": 0.95},
        "dataset": {
            "fingerprint": "ab12",
            "split": "test",
            "num_systems": 3,
            "num_trajectories": 6,
            "num_windows": 12,
        },
        "systems": {},
        "cost": {m: {"cpu_seconds": 1.5, "wall_seconds": 1.0, "failed_windows": 0} for m in VALUES},
        "versions": {"python": "3.11", "torch": "2.13"},
        "hardware": {"cpu": "A Processor", "num_cores": 2, "accelerator": None},
        "git_revision": "c0ffee",
    }
    summary, differences = summarise(rows, baselines=["mean"], seed=0, num_resamples=200, confidence=0.95)
    return EvaluationResults(header, rows, summary, differences)


@pytest.fixture
def facts():
    return ModelCardFacts(
        model_id="acme/tiny",
        model="tiny",
        model_type="dystformer",
        summary="A small forecaster of chaotic systems.",
        num_parameters=1_234_567,
        context_length=512,
        prediction_length=128,
        channels="any number",
        training_data={"systems": "96 of dysts, skew products of them"},
        training={"steps": "1000"},
        limits=("Long forecasts drift to the mean.",),
        commands=("make quickstart",),
        evaluation_dataset="acme/attractors",
        figures=(("growth.png", "Error growth"),),
    )


def test_the_same_results_and_facts_give_the_same_card(results, facts, tmp_path):
    results.write(tmp_path / "results.json")
    card = render_model_card(results, facts)
    assert render_model_card(EvaluationResults.read(tmp_path / "results.json"), facts) == card


def test_front_matter_is_yaml_with_the_models_own_medians(results, facts):
    _, front_matter, body = render_model_card(results, facts).split("---\n", 2)
    data = yaml.safe_load(front_matter)
    assert data["license"] == "apache-2.0"
    assert data["library_name"] == "hf_tsdyn"
    assert data["pipeline_tag"] == "time-series-forecasting"
    assert "dystformer" in data["tags"]
    (entry,) = data["model-index"]
    assert entry["name"] == "acme/tiny"
    found = {m["type"]: m["value"] for result in entry["results"] for m in result["metrics"]}
    assert found == {
        "smape": 20.0,
        "normalised_mae": 20.0,
        "vpt_periods@0.4": 20.0,
        "vpt_lyapunov@0.4": 15.0,
    }
    assert body.startswith("\n# tiny\n")


def test_a_card_without_a_licence_claims_none(results, facts):
    card = render_model_card(results, dataclasses.replace(facts, license=None))
    assert "license" not in yaml.safe_load(card.split("---\n", 2)[1])
    assert "## Licence\n\nNo licence was chosen: until its owner names one" in card


def test_one_is_counted_in_the_singular(results, facts):
    assert "Split `test`: 3 systems, 6 trajectories, 12 windows;" in render_model_card(results, facts)
    results.header["dataset"] |= {"num_systems": 1, "num_trajectories": 1, "num_windows": 1}
    assert "Split `test`: 1 system, 1 trajectory, 1 window;" in render_model_card(results, facts)


@pytest.mark.parametrize(("period", "part"), [(20.0, "held-out systems"), (None, "held-out part")])
def test_numbers_of_series_without_periods_are_not_of_systems(results, facts, period, part):
    results.header["systems"] = {name: {"steps_per_period": period} for name in SYSTEMS}
    data = yaml.safe_load(render_model_card(results, facts).split("---\n", 2)[1])
    names = {result["dataset"]["name"] for result in data["model-index"][0]["results"]}
    assert names == {f"acme/attractors, {part}"}


def test_every_fact_and_every_table_is_in_the_card(results, facts):
    card = render_model_card(results, facts)
    expected = [
        facts.summary,
        "1,234,567",
        "| systems | 96 of dysts, skew products of them |",
        results.summary_table(),
        "2 of 3 systems",
        "- Long forecasts drift to the mean.",
        "make quickstart",
        "![Error growth](growth.png)",
        "`ab12`",
        "`c0ffee`",
        "python 3.11, torch 2.13;",
        "A Processor (2 cores), 1.0 s",
    ]
    assert [text for text in expected if text not in card] == []
    difference = next(r for r in results.differences if (r.model, r.metric) == ("tiny", "smape"))
    assert f"| mean | {difference.median:.3g} [{difference.low:.3g}, {difference.high:.3g}] |" in card


def test_markdown_has_no_gaps_or_markup_left(results, facts):
    card = render_model_card(results, facts)
    assert not re.search(r"\n\n\n|\{\{|\{%|\bNone\b|\bnan\b| \n", card)


def test_code_in_the_card_uses_what_there_is(results, facts):
    (code,) = re.findall(r"```python\n(.*?)```", render_model_card(results, facts), re.DOTALL)
    compile(code, "card", "exec")
    (name,) = re.findall(r"from hf_tsdyn import (\w+)", code)
    assert hasattr(getattr(hf_tsdyn, name), "from_pretrained")
    assert len(code.strip().splitlines()) <= 10


def test_failed_windows_are_told(results, facts):
    assert "not finite" not in render_model_card(results, facts)
    results.header["cost"]["tiny"]["failed_windows"] = 3
    assert "counted as infinite errors: tiny 3." in render_model_card(results, facts)


def test_a_card_without_baselines_or_figures_has_no_empty_parts(results, facts):
    bare = dataclasses.replace(results, differences=[])
    card = render_model_card(bare, dataclasses.replace(facts, figures=()))
    assert "Paired by system" not in card
    assert not re.search(r"\n\n\n", card)


@pytest.fixture
def with_intervals(results):
    """The same with coverage, width and score for `tiny`, none for `mean`."""
    values = {
        "coverage@0.8": (0.7, 0.75, 0.8),
        "interval_width@0.8": (1.0, 2.0, 3.0),
        "normalised_crps": (0.1, 0.2, 0.3),
    }
    rows = results.rows + [
        ResultRow("tiny", system, 64, metric, value, 4, 0)
        for metric, found in values.items()
        for system, value in zip(SYSTEMS, found, strict=True)
    ]
    entry = {"horizon": 64, "levels": [0.1, 0.9], "share_below": [0.13, 0.9], "coverage": {"0.8": 0.7654}}
    protocol = results.header["protocol"] | {"quantile_levels": [0.1, 0.5, 0.9]}
    header = results.header | {"calibration": {"tiny": [entry]}, "protocol": protocol}
    summary, differences = summarise(rows, baselines=["mean"], seed=0, num_resamples=200, confidence=0.95)
    return EvaluationResults(header, rows, summary, differences)


def test_intervals_are_shown_of_models_that_have_them(with_intervals, results, facts):
    card = render_model_card(with_intervals, facts)
    assert "### Intervals\n" in card
    assert "(0.1, 0.5, 0.9)" in card
    assert "for `tiny`: 76.5 % @ 64." in card
    table = with_intervals.summary_table(("coverage@0.8", "interval_width@0.8", "normalised_crps"))
    assert table in card
    assert "| mean |" not in table
    data = yaml.safe_load(card.split("---\n", 2)[1])
    found = {m["type"]: m["value"] for result in data["model-index"][0]["results"] for m in result["metrics"]}
    assert found["coverage@0.8"] == 0.75
    assert not re.search(r"\n\n\n|\{\{|\{%|\bNone\b|\bnan\b| \n", card)
    assert "Intervals" not in render_model_card(results, facts)


def test_a_card_of_series_without_periods_has_no_valid_times(results, facts):
    rows = [row for row in results.rows if not row.metric.startswith("vpt")]
    summary = [row for row in results.summary if not row.metric.startswith("vpt")]
    card = render_model_card(dataclasses.replace(results, rows=rows, summary=summary), facts)
    assert "Time until the error" not in card
    assert not re.search(r"\n\n\n", card)


@pytest.mark.parametrize("template", ["{{ fatcs.summary }}", "{{ facts.sumary }}", "{{ dataset.fingerprnt }}"])
def test_a_misspelt_variable_is_an_error(template, results, facts, tmp_path):
    (tmp_path / "card.md").write_text(template)
    with pytest.raises(ValueError, match=r"card\.md must be given, found one that is not: .*(fatcs|sumary|fingerprnt)"):
        render_model_card(results, facts, template=tmp_path / "card.md")


def test_a_model_without_results_is_refused(results, facts):
    with pytest.raises(ValueError, match=r"'large', found \['tiny', 'mean'\]"):
        render_model_card(results, dataclasses.replace(facts, model="large"))
