"""Cards of reconstructions: everything in them, nothing left blank, code that runs."""

import json
import re

import numpy as np
import pytest
import yaml

from hf_tsdyn.linear_model import fit_linear_model
from hf_tsdyn.model_card import ModelCardFacts
from hf_tsdyn.models.alrnn import ALRNNConfig
from hf_tsdyn.reconstruction import (
    FLOOR,
    LINEAR,
    PERSISTENCE,
    ReconstructionProtocol,
    evaluate_reconstruction,
)
from hf_tsdyn.reconstruction_card import ReconstructionCardFacts, reconstruction_table, render_reconstruction_card
from hf_tsdyn.results import EvaluationResults

CHANNELS = ALRNNConfig(num_channels=2, hidden_size=2, num_relu_units=0, warmup_length=3)


def waves(num_steps):
    steps = 0.1 * np.arange(num_steps)
    return np.stack([np.cos(steps), np.sin(steps)], axis=1)


@pytest.fixture(scope="module")
def scored():
    model = fit_linear_model(waves(400))
    return evaluate_reconstruction(
        {"tiny": model, LINEAR: model},
        waves(300),
        system="a circle",
        protocol=ReconstructionProtocol(discard=20, symbolic_steps=1000),
        dt=0.1,
        baselines=[LINEAR],
        known={"lyapunov_max": 0.25},
        fingerprint="ab12",
        show_progress=False,
    )


@pytest.fixture
def results(scored, tmp_path):
    """A copy, as a file holds it."""
    scored.write(tmp_path / "results.json")
    return EvaluationResults.read(tmp_path / "results.json")


def facts_of(model_id="acme/tiny", **changes):
    card = ModelCardFacts(
        model_id=model_id,
        model="tiny",
        model_type="alrnn",
        summary="It turns in circles.",
        num_parameters=1_234_567,
        context_length=1,
        prediction_length=20,
        channels="2",
        training_data={"series": "the first 80%"},
        training={"epochs": "as many as it took"},
        limits=("One system.",),
        commands=("python -m training.evaluate_reconstruction MODEL",),
        evaluation_dataset="circles",
        figures=(("figures/symbols.png", "Symbols"),),
    )
    return ReconstructionCardFacts(card, CHANNELS, "a circle", **changes)


def test_every_fact_and_every_table_is_in_the_card(results, scored):
    card = render_reconstruction_card(results, facts_of())
    assert card == render_reconstruction_card(scored, facts_of())
    expected = [
        "It turns in circles.",
        "1,234,567",
        "| series | the first 80% |",
        "| epochs | as many as it took |",
        reconstruction_table(results),
        "One free run of 280 steps, started from the first 3 steps of the test series",
        "the first 20 steps of both left out",
        "a step being 0.1 of it",
        "the second half of the test series against the first)",
        "`linear`: the linear system",
        "### Fixed points",
        "- One system.",
        "![Symbols](figures/symbols.png)",
        "Test series of 300 steps, fingerprint `ab12`",
    ]
    assert [text for text in expected if text not in card] == []
    assert not re.search(r"\n\n\n|\{\{|\{%|\bNone\b|\bnan\b| \n", card)


def test_the_table_has_the_floor_beside_every_value_and_each_number_of_steps(results):
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in reconstruction_table(results).splitlines()]
    assert lines[0] == ["", "steps", "tiny", LINEAR, PERSISTENCE, FLOOR, "truth", "published"]
    rows = {(line[0], line[1]): dict(zip(lines[0], line, strict=True)) for line in lines[2:]}
    for steps in ("280", "140"):
        found = results.summary_of("tiny", "state_space_divergence", int(steps)).median
        assert rows["state-space divergence, nats", steps]["tiny"] == f"{found:.3g}"
    assert rows["state-space divergence, nats", "280"][FLOOR] == "-"
    floor = results.summary_of(FLOOR, "state_space_divergence", 140).median
    assert rows["state-space divergence, nats", "140"][FLOOR] == f"{floor:.3g}"
    assert rows["largest Lyapunov exponent", "1,000"]["published"] == "0.25"
    assert rows["n-step error / variance", "20"]["published"] == "-"


def test_without_published_values_there_is_no_such_column(results):
    results.header["known"] = {}
    assert "published" not in reconstruction_table(results)


def test_front_matter_is_yaml_with_the_models_own_scores(results):
    data = yaml.safe_load(render_reconstruction_card(results, facts_of()).split("---\n")[1])
    assert data["pipeline_tag"] == "time-series-forecasting"
    (entry,) = data["model-index"]
    found = [m for result in entry["results"] for m in result["metrics"] if m["type"] == "state_space_divergence"]
    expected = results.summary_of("tiny", "state_space_divergence", 280).median
    assert found[0] == {
        "type": "state_space_divergence",
        "value": float(f"{expected:.4g}"),
        "name": "state-space divergence, nats @ 280",
    }


def test_code_in_the_card_runs(results, tmp_path):
    model = fit_linear_model(waves(400))
    model.config.warmup_length = 3
    model.save_pretrained(tmp_path / "model")
    card = render_reconstruction_card(results, facts_of(model_id=str(tmp_path / "model")))
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names = {}
    exec(code, names)
    assert names["forecast"].shape == (1, 1000, 2)
    assert names["orbit"].occupancy.sum() == 1


def test_a_card_without_weights_says_how_to_train_them(results):
    card = render_reconstruction_card(results, facts_of(ships_weights=False))
    assert "```python" not in card
    assert 'commands under "How to reproduce" train the model' in card
    assert card.rstrip().endswith("that of the series is not stated")


def test_a_run_without_symbols_says_so(results):
    results.header["symbolic"] = {}
    results.header["cost"]["tiny"]["failed_windows"] = 1
    card = render_reconstruction_card(results, facts_of())
    assert "Free runs that left the range of numbers: tiny." in card
    assert "there are no symbols to analyse" in card
    assert "Symbolic analysis" not in card
    assert not re.search(r"\n\n\n", card)


def test_results_of_another_model_are_refused(results):
    results.header["cost"] = {"large": results.header["cost"]["tiny"]}
    results.header["models"] = ["large"]
    with pytest.raises(ValueError, match=r"'tiny', found \['large'\]"):
        render_reconstruction_card(results, facts_of())


def test_the_divergence_is_told_with_its_bins(results):
    card = render_reconstruction_card(results, facts_of())
    assert (
        "Divergence: 30 bins a channel over the range of the test series, and one more for all that is outside" in card
    )
    assert "counts smoothed over the bins that either series visits" in card


def test_a_missing_linear_baseline_is_told(results):
    assert "not at hand" not in render_reconstruction_card(results, facts_of())
    results.header["baselines"].remove(LINEAR)
    card = render_reconstruction_card(results, facts_of())
    assert "no `linear` model, as the training series was not at hand" in card


def test_a_floor_at_full_length_is_told(results):
    row = results.summary_of(FLOOR, "state_space_divergence", 140)
    longer = json.loads(json.dumps(vars(row) | {"horizon": 280}))
    results.summary.append(type(row)(**longer))
    assert "and at full length another series against it" in render_reconstruction_card(results, facts_of())
