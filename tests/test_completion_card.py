"""Cards of completion results: everything in them, nothing left blank, code that fits the package."""

import re

import pytest
import yaml

import hf_tsdyn
from hf_tsdyn.completion import metric_of
from hf_tsdyn.completion_card import CompletionCardFacts, difference_table, error_table, render_completion_card
from hf_tsdyn.model_card import ModelCardFacts
from hf_tsdyn.results import EvaluationResults, ResultRow, summarise

KINDS = ["patches", "span"]


@pytest.fixture
def results():
    values = {"tiny": (0.1, 0.2, 0.3), "spline": (0.6, 0.61, 0.65)}
    rows = [
        ResultRow(model, system, 256, metric_of(kind), value, 4, 0)
        for model, errors in values.items()
        for kind in KINDS
        for system, value in zip(("Chua", "Lorenz", "Thomas"), errors, strict=True)
    ]
    header = {
        "models": ["tiny", "spline"],
        "baselines": ["spline"],
        "protocol": {
            "context_length": 256, "patch_length": 16, "mask_share": 0.5, "mask_kinds": KINDS, "seed": 7,
            "confidence": 0.95,
        },
        "dataset": {"fingerprint": "ab12", "split": "test", "num_systems": 3, "num_trajectories": 6, "num_windows": 12},
        "systems": {},
        "cost": {m: {"cpu_seconds": 1.5, "wall_seconds": 1.0, "failed_windows": 0} for m in values},
        "versions": {"python": "3.11", "torch": "2.13"},
        "hardware": {"cpu": "A Processor", "num_cores": 2, "accelerator": None},
        "git_revision": None,
    }  # fmt: skip
    summary, differences = summarise(rows, baselines=["spline"], seed=0, num_resamples=100, confidence=0.95)
    return EvaluationResults(header, rows, summary, differences)


@pytest.fixture
def facts():
    card = ModelCardFacts(
        model_id="acme/tiny",
        model="tiny",
        model_type="dystformer",
        summary="It fills gaps.",
        num_parameters=1_234_567,
        context_length=256,
        prediction_length=64,
        channels="any number",
        training_data={"systems": "95 of dysts"},
        training={"hidden": "50% of the patches"},
        limits=("One filling, no distribution.",),
        commands=("python -m training.evaluate_completion MODEL",),
        evaluation_dataset="acme/attractors",
        figures=(("figures/completion.png", "Fillings"),),
    )
    return CompletionCardFacts(card, "DystformerForMaskedModeling", "DystformerForPrediction")


def test_every_fact_and_every_table_is_in_the_card(results, facts, tmp_path):
    results.write(tmp_path / "results.json")
    card = render_completion_card(EvaluationResults.read(tmp_path / "results.json"), facts)
    assert card == render_completion_card(results, facts)
    expected = [
        "It fills gaps.",
        "1,234,567",
        "| systems | 95 of dysts |",
        "| hidden | 50% of the patches |",
        error_table(results),
        difference_table(results, "tiny"),
        "12 windows of 256 steps, of which 50 % are hidden, in patches of 16",
        "- One filling, no distribution.",
        "![Fillings](figures/completion.png)",
        "`ab12`",
        "not recorded (installed package)",
    ]
    assert [text for text in expected if text not in card] == []
    assert not re.search(r"\n\n\n|\{\{|\{%|\bNone\b|(?<!torch\.)\bnan\b| \n", card)


def test_tables_hold_the_medians_and_paired_differences(results):
    lines = error_table(results).splitlines()
    assert lines[0] == "| completer | patches of each channel | one span of all channels |"
    assert lines[2].startswith("| tiny | 0.2 [")
    assert difference_table(results, "tiny").splitlines()[2].startswith("| spline | -0.41 [")
    assert difference_table(EvaluationResults(results.header, results.rows, results.summary, []), "tiny") == ""


def test_front_matter_is_yaml_with_the_models_own_medians(results, facts):
    data = yaml.safe_load(render_completion_card(results, facts).split("---\n")[1])
    assert data["library_name"] == "hf_tsdyn"
    (entry,) = data["model-index"]
    found = {m["type"]: m["value"] for result in entry["results"] for m in result["metrics"]}
    assert found == {metric_of(kind): 0.2 for kind in KINDS}


def test_code_in_the_card_names_classes_that_load(results, facts):
    (code,) = re.findall(r"```python\n(.*?)```", render_completion_card(results, facts), re.DOTALL)
    compile(code, "card", "exec")
    (name,) = re.findall(r"from hf_tsdyn import (\w+)", code)
    assert hasattr(getattr(hf_tsdyn, name), "from_pretrained")


def test_failed_windows_are_told(results, facts):
    assert "not finite" not in render_completion_card(results, facts)
    results.header["cost"]["tiny"]["failed_windows"] = 3
    assert "counted as infinite errors: tiny 3." in render_completion_card(results, facts)


def test_a_model_without_results_is_refused(results, facts):
    results.header["models"] = ["large"]
    with pytest.raises(ValueError, match=r"'tiny', found \['large'\]"):
        render_completion_card(results, facts)
