import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from hf_tsdyn import DystformerForMaskedModeling, ForecastPipeline
from hf_tsdyn.results import EvaluationResults
from training import evaluate_checkpoint, evaluate_completion
from training.ship_checkpoint import evaluation_command

CARDS = Path(__file__).parents[1] / "model_cards"
FOLDERS = sorted(file.parent for file in CARDS.glob("*/config.json"))
FORECASTERS = [folder for folder in FOLDERS if evaluation_command(folder) is evaluate_checkpoint]
COMPLETERS = [folder for folder in FOLDERS if evaluation_command(folder) is evaluate_completion]


def named(folders):
    return pytest.mark.parametrize("folder", folders, ids=lambda folder: folder.name)


def differences(folder, metric, horizon):
    results = EvaluationResults.read(CARDS / "results" / f"{folder.name}.json")
    wanted = (folder.name, metric, horizon)
    return {row.baseline: row for row in results.differences if (row.model, row.metric, row.horizon) == wanted}


def test_both_kinds_are_shipped():
    assert FORECASTERS
    assert COMPLETERS


@named(FORECASTERS)
def test_it_loads_by_path_and_forecasts(folder):
    pipeline = ForecastPipeline.from_pretrained(folder)
    wave = np.sin(np.arange(500) * 0.05)
    forecast = pipeline.predict(wave, prediction_length=20)
    assert np.abs(forecast - np.sin(np.arange(500, 520) * 0.05)).mean() < 0.3


@named(COMPLETERS)
def test_it_loads_by_path_and_fills_gaps(folder):
    model = DystformerForMaskedModeling.from_pretrained(folder)
    wave = torch.sin(torch.arange(500) * 0.05).reshape(1, -1, 1)
    mask = torch.arange(500).reshape(1, -1, 1) % 100 < 20
    assert (model.complete(wave, mask) - wave).abs()[mask].mean() < 0.1


@named(FOLDERS)
def test_its_card_is_what_its_records_and_results_render_to(folder):
    command = evaluation_command(folder)
    request = command.load_request([str(folder)])
    results = EvaluationResults.read(CARDS / "results" / f"{request.evaluation.name}.json")
    card = command.render_card(request, results, AutoConfig.from_pretrained(folder))
    assert card == (folder / "README.md").read_text()


@named(FORECASTERS)
def test_its_results_hold_a_better_error_than_persistence_and_mean(folder):
    for baseline in ("persistence", "mean"):
        assert differences(folder, "normalised_mae", 64)[baseline].high < 0


@named(FORECASTERS)
def test_its_intervals_hold_three_quarters_to_six_sevenths_of_the_targets(folder):
    results = EvaluationResults.read(CARDS / "results" / f"{folder.name}.json")
    (at_64,) = [row for row in results.header["calibration"][folder.name] if row["horizon"] == 64]
    assert 0.75 <= at_64["coverage"]["0.8"] <= 0.85


@named(COMPLETERS)
def test_its_results_hold_a_better_error_than_lines_and_splines(folder):
    for kind in ("patches", "channel_consistent", "span"):
        for baseline in ("linear", "spline"):
            assert differences(folder, f"completion_mae@{kind}", 256)[baseline].high < 0


@named(FOLDERS)
def test_no_record_names_a_folder_of_the_machine_it_was_made_on(folder):
    for file in [*folder.glob("*.md"), *folder.glob("*.json"), *folder.glob("*.yaml")]:
        absolute = re.findall(r"(?:^|[\s\"'(=])((?:/|~/)[\w.-]+/[^\s\"')]*)", file.read_text())
        assert not absolute, file
