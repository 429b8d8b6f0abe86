import dataclasses
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForTimeSeriesPrediction

from data_generation.config_loading import load_config
from data_generation.generate import generate_dataset
from hf_tsdyn import ALRNNForPrediction, DystformerForMaskedModeling, ForecastPipeline
from hf_tsdyn.completion import evaluate_completion as score_completer
from hf_tsdyn.data.trajectories import TrajectoryDataset
from hf_tsdyn.evaluation import evaluate
from hf_tsdyn.metrics import prediction_error
from hf_tsdyn.reconstruction import LINEAR
from hf_tsdyn.results import EvaluationResults
from training import evaluate_checkpoint, evaluate_completion, evaluate_reconstruction, evaluate_series
from training.reconstruction_request import as_evaluated
from training.series_scoring import SeriesScorer
from training.ship_checkpoint import evaluation_command, read_results
from training.sweep_data import load_series, read_series

CARDS = Path(__file__).parents[1] / "model_cards"
FOLDERS = sorted(file.parent for file in CARDS.glob("*/config.json"))
FORECASTERS = [folder for folder in FOLDERS if evaluation_command(folder) is evaluate_checkpoint]
COMPLETERS = [folder for folder in FOLDERS if evaluation_command(folder) is evaluate_completion]
RECONSTRUCTIONS = [folder for folder in FOLDERS if evaluation_command(folder) is evaluate_reconstruction]
SERIES_FORECASTERS = [folder for folder in FOLDERS if evaluation_command(folder) is evaluate_series]
PROBED = sorted(file.parent for file in CARDS.glob("*/probe.safetensors"))
WITH_WEIGHTS = [folder for folder in RECONSTRUCTIONS if (folder / "model.safetensors").is_file()]
CONFIGS = Path(__file__).parents[1] / "data_generation" / "configs"
GENERATED = {"dc420710": "quickstart.yaml", "3efbf865": "three_channels.yaml"}
"""The settings of generated data that models were scored on, by the beginning of their fingerprint."""
ONE_SYSTEM = "Aizawa"
"""One that is held out in all of them; its rows are the same whatever others are generated."""
TABLES = Path(__file__).parents[1] / ".." / "shared" / "data" / "ett"
SERIES = Path(__file__).parents[1] / ".." / "shared" / "data" / "alrnn"


def named(folders):
    return pytest.mark.parametrize("folder", folders, ids=lambda folder: folder.name)


def differences(folder, metric, horizon):
    results = EvaluationResults.read(CARDS / "results" / f"{folder.name}.json")
    wanted = (folder.name, metric, horizon)
    return {row.baseline: row for row in results.differences if (row.model, row.metric, row.horizon) == wanted}


def true_series(request, results):
    """The test series of a shipped run, found by its fingerprint beside the checkout."""
    files = {hashlib.sha256(file.read_bytes()).hexdigest(): str(file) for file in SERIES.glob("*.npy")}
    if named := results.header["scored"].get("data"):
        if named not in files:
            pytest.skip("the series is not part of this project")
        return read_series(dataclasses.replace(request.data, path=files[named], test_path=None), option="data")[0]
    dataset = request.run_config["dataset"]
    wanted = {"path": "fingerprint"} | ({"test_path": "test_fingerprint"} if request.data.test_path else {})
    found = {name: files.get(dataset[fingerprint]) for name, fingerprint in wanted.items()}
    if None in found.values():
        pytest.skip("the series is not part of this project")
    return load_series(dataclasses.replace(request.data, **found)).test


def test_every_card_is_in_the_collection():
    linked = set(re.findall(r"\]\(([\w-]+)/README\.md\)", (CARDS / "README.md").read_text()))
    assert linked == {file.parent.name for file in CARDS.glob("*/README.md")}


def test_the_collection_names_what_is_shipped_and_what_has_no_weights():
    rows = [line for line in (CARDS / "README.md").read_text().splitlines() if line.startswith("| [")]
    named = {name: "without weights" in row for row in rows for name in re.findall(r"\]\(([\w-]+)/README\.md\)", row)}
    assert named == {folder.name: not (folder / "model.safetensors").is_file() for folder in FOLDERS}


def test_all_kinds_are_shipped():
    assert FORECASTERS
    assert COMPLETERS
    assert RECONSTRUCTIONS
    assert SERIES_FORECASTERS
    assert PROBED


def test_probes_lie_where_weights_are_but_for_those_that_hold_a_series():
    weights = {file.parent for file in CARDS.glob("*/model.safetensors")}
    kept = {
        folder for folder in SERIES_FORECASTERS if not evaluate_series.load_request([str(folder)]).evaluation.ship_probe
    }
    assert set(PROBED) == weights - kept


@named(PROBED)
def test_it_repeats_its_probe(folder):
    """Up to another processor's last bits, which chaos enlarges; a few per cent of noise on the weights show."""
    probe = load_file(folder / "probe.safetensors")
    if folder in COMPLETERS:
        model = DystformerForMaskedModeling.from_pretrained(folder)
        found, expected = model.complete(probe["past_values"], probe["mask"]), probe["completion"]
    else:
        model = AutoModelForTimeSeriesPrediction.from_pretrained(folder)
        expected = probe["forecast"]
        found = model.forecast(probe["past_values"], prediction_length=expected.shape[1])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3 * probe["past_values"].std().item())


@named(FORECASTERS)
def test_it_loads_by_path_and_forecasts(folder):
    pipeline = ForecastPipeline.from_pretrained(folder)
    channels = getattr(AutoConfig.from_pretrained(folder), "num_channels", 1)
    wave = np.sin(np.arange(520)[:, None] * 0.05 + np.arange(channels))
    forecast = pipeline.predict(wave[:500], prediction_length=20)
    assert np.abs(forecast - wave[500:]).mean() < 0.3


@named(COMPLETERS)
def test_it_loads_by_path_and_fills_gaps(folder):
    model = DystformerForMaskedModeling.from_pretrained(folder)
    wave = torch.sin(torch.arange(500) * 0.05).reshape(1, -1, 1)
    mask = torch.arange(500).reshape(1, -1, 1) % 100 < 20
    assert (model.complete(wave, mask) - wave).abs()[mask].mean() < 0.1


@named(RECONSTRUCTIONS)
def test_weights_lie_where_results_and_run_allow_it(folder):
    request = evaluate_reconstruction.load_request([str(folder)])
    results = EvaluationResults.read(CARDS / "results" / f"{folder.name}.json")
    assert as_evaluated(request, results).ship_weights == (folder in WITH_WEIGHTS)
    assert (folder / "probe.safetensors").is_file() == (folder in WITH_WEIGHTS)


@named(WITH_WEIGHTS)
def test_it_loads_by_path_and_its_forecast_stays_on_an_attractor(folder):
    model = ALRNNForPrediction.from_pretrained(folder)
    start = model.model.loc.expand(1, model.config.warmup_length, -1)
    forecast = model.forecast(start + 0.1 * model.model.scale, prediction_length=5000)
    later = (forecast[0, 1000:] - model.model.loc) / model.model.scale
    assert later.abs().max() < 10
    assert later.std(dim=0).min() > 0.1


@named(WITH_WEIGHTS)
def test_its_error_is_that_of_its_card_and_below_the_linear_models(folder):
    request = evaluate_reconstruction.load_request([str(folder)])
    results = EvaluationResults.read(CARDS / "results" / f"{folder.name}.json")
    steps = results.header["protocol"]["invariants"]["prediction_steps"]
    recorded = results.summary_of(folder.name, "prediction_error", steps).median
    assert recorded < results.summary_of(LINEAR, "prediction_error", steps).median
    truth, starts = true_series(request, results), results.header["protocol"]["prediction_starts"]
    model = ALRNNForPrediction.from_pretrained(folder)
    length = model.config.warmup_length
    series = truth[: None if starts is None else starts + length + steps - 1]
    found = prediction_error(model, series, num_steps=steps, context_length=length)[-1]
    assert found == pytest.approx(recorded, rel=1e-3)


@named(FOLDERS)
def test_its_card_is_what_its_records_and_results_render_to(folder):
    command = evaluation_command(folder)
    request = command.load_request([str(folder)])
    results = read_results(CARDS / "results" / f"{folder.name}.json")
    card = command.render_card(request, results, AutoConfig.from_pretrained(folder))
    assert card == (folder / "README.md").read_text()


@pytest.fixture(scope="module")
def one_held_out_system(tmp_path_factory):
    """A function that returns the test split of ONE_SYSTEM as a results file's data have it."""
    datasets = {}

    def generate(results):
        settings = GENERATED[results.header["dataset"]["fingerprint"][:8]]
        if settings not in datasets:
            folder = tmp_path_factory.mktemp("generated") / "data"
            options = ["--config", str(CONFIGS / settings), "--systems", f'["{ONE_SYSTEM}"]', "--output", str(folder)]
            generate_dataset(load_config(options))
            datasets[settings] = TrajectoryDataset(folder, "test")
        return datasets[settings]

    return generate


@pytest.mark.slow
@named(FORECASTERS + COMPLETERS)
def test_its_error_on_a_system_generated_anew_is_that_of_its_results(folder, one_held_out_system):
    """Up to the last bits of another processor's integration, which chaos enlarges."""
    results = EvaluationResults.read(CARDS / "results" / f"{folder.name}.json")
    data = one_held_out_system(results)
    if folder in COMPLETERS:
        model = DystformerForMaskedModeling.from_pretrained(folder)
        protocol = evaluate_completion.load_request([str(folder)]).evaluation.protocol
        found = score_completer({folder.name: model}, data, protocol, show_progress=False)
    else:
        model = AutoModelForTimeSeriesPrediction.from_pretrained(folder)
        protocol = evaluate_checkpoint.load_request([str(folder)]).evaluation.protocol
        found = evaluate({folder.name: model}, data, protocol, show_progress=False)
    metrics = ("normalised_mae", "smape", "completion_mae@patches", "completion_mae@span")
    recorded = {
        (row.metric, row.horizon): row
        for row in results.rows
        if (row.model, row.system) == (folder.name, ONE_SYSTEM) and row.metric in metrics
    }
    again = {(row.metric, row.horizon): row for row in found.rows}
    assert recorded
    for key, row in recorded.items():
        assert again[key].num_windows == row.num_windows
        assert again[key].value == pytest.approx(row.value, rel=0.02)


@named(SERIES_FORECASTERS)
def test_it_loads_by_path_and_forecasts_its_channels(folder):
    model = AutoModelForTimeSeriesPrediction.from_pretrained(folder)
    past_values = torch.randn(1, model.config.context_length, model.config.num_channels)
    forecast = model.forecast(past_values, prediction_length=model.config.prediction_length)
    assert forecast.shape == (1, model.config.prediction_length, model.config.num_channels)
    assert forecast.isfinite().all()


@named(SERIES_FORECASTERS)
def test_its_error_on_its_series_is_that_of_its_card(folder):
    request = evaluate_series.load_request([str(folder)])
    results = read_results(CARDS / "results" / f"{folder.name}.json")
    dataset, horizon = request.evaluation.dataset_name, AutoConfig.from_pretrained(folder).prediction_length
    file = TABLES / f"{dataset}.csv"
    if not file.is_file():
        pytest.skip("the series is not part of this project")
    scorer = SeriesScorer(dataclasses.replace(request.data, path=str(file)), request.evaluation.protocol)
    model = AutoModelForTimeSeriesPrediction.from_pretrained(folder)
    errors = scorer.score(model, "test", horizon, show_progress=False)
    for metric in ("mse", "mae", "raw_mse"):
        recorded = results.mean_of(folder.name, metric, dataset, horizon).mean
        assert errors.mean(metric) == pytest.approx(recorded, rel=1e-4)


@named(FORECASTERS)
def test_its_results_hold_a_better_error_than_persistence_and_mean(folder):
    for baseline in ("persistence", "mean"):
        assert differences(folder, "normalised_mae", 64)[baseline].high < 0


@named(FORECASTERS)
def test_its_intervals_hold_three_quarters_to_six_sevenths_of_the_targets(folder):
    results = EvaluationResults.read(CARDS / "results" / f"{folder.name}.json")
    if folder.name not in results.header["calibration"]:
        pytest.skip("it forecasts points")
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
