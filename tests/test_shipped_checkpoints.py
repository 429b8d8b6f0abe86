import re
from pathlib import Path

import numpy as np
import pytest

from hf_tsdyn import ForecastPipeline
from hf_tsdyn.model_card import render_model_card
from hf_tsdyn.results import EvaluationResults
from training.evaluate_checkpoint import card_facts, load_request

CARDS = Path(__file__).parents[1] / "model_cards"
FOLDERS = sorted(file.parent for file in CARDS.glob("*/config.json"))


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request):
    return request.param


def test_some_checkpoint_is_shipped():
    assert FOLDERS


def test_it_loads_by_path_and_forecasts(folder):
    pipeline = ForecastPipeline.from_pretrained(folder)
    wave = np.sin(np.arange(500) * 0.05)
    forecast = pipeline.predict(wave, prediction_length=20)
    assert np.abs(forecast - np.sin(np.arange(500, 520) * 0.05)).mean() < 0.3


def test_its_card_is_what_its_records_and_results_render_to(folder):
    request = load_request([str(folder)])
    results = EvaluationResults.read(CARDS / "results" / f"{request.evaluation.name}.json")
    model = ForecastPipeline.from_pretrained(folder).forecaster
    assert render_model_card(results, card_facts(request, model)) == (folder / "README.md").read_text()


def test_its_results_hold_a_better_error_than_persistence_and_mean(folder):
    results = EvaluationResults.read(CARDS / "results" / f"{folder.name}.json")
    differences = {
        row.baseline: row
        for row in results.differences
        if (row.model, row.metric, row.horizon) == (folder.name, "normalised_mae", 64)
    }
    for baseline in ("persistence", "mean"):
        assert differences[baseline].high < 0


def test_no_record_names_a_folder_of_the_machine_it_was_made_on(folder):
    for file in [*folder.glob("*.md"), *folder.glob("*.json"), *folder.glob("*.yaml")]:
        absolute = re.findall(r"(?:^|[\s\"'(=])((?:/|~/)[\w.-]+/[^\s\"')]*)", file.read_text())
        assert not absolute, file
