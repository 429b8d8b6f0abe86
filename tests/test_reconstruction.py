"""Scores of free runs against closed forms: rotations, a map that jumps between two regions, persistence of a wave."""

import numpy as np
import pytest
import torch

from hf_tsdyn.linear_model import fit_linear_model
from hf_tsdyn.metrics.invariants import InvariantOptions, spectrum_distance, state_space_divergence
from hf_tsdyn.models.alrnn import ALRNNConfig, ALRNNForPrediction
from hf_tsdyn.reconstruction import (
    FLOOR,
    PERSISTENCE,
    TRUTH,
    ReconstructionProtocol,
    evaluate_reconstruction,
    free_orbit,
    reconstruction_scores,
)
from hf_tsdyn.results import EvaluationResults

ANGLE = 0.1
PROTOCOL = ReconstructionProtocol(discard=50, invariants=InvariantOptions(num_bins=8, prediction_steps=5))


def rotation(num_steps, phase=0.0):
    """A circle around (2, -1), one turn in 63 steps."""
    angles = phase + ANGLE * np.arange(num_steps)
    return np.stack([2 + 3 * np.cos(angles), -1 + 3 * np.sin(angles)], axis=1)


def model_of(A, W, h, *, num_channels, num_relu_units, **fields):
    """An AL-RNN with these parameters; hidden units start as the sum of the channels."""
    config = ALRNNConfig(num_channels=num_channels, hidden_size=len(A), num_relu_units=num_relu_units, **fields)
    model = ALRNNForPrediction(config).eval()
    with torch.no_grad():
        for name, value in {"A": A, "W": W, "h": h}.items():
            getattr(model.model, name).copy_(torch.tensor(value))
        model.model.L.fill_(1.0)
    return model


def alternating():
    """x' = -x with a rectified unit that is x one step later: two regions in turn."""
    return model_of([-1.0, 0.0], [[0.0, 0.0], [1.0, 0.0]], [0.0, 0.0], num_channels=1, num_relu_units=1)


def exploding():
    return model_of([2.0, 2.0], [[0.0, 0.0], [0.0, 0.0]], [0.0, 0.0], num_channels=2, num_relu_units=0)


def cells(results):
    return {(row.model, row.metric, row.horizon): row.median for row in results.summary}


def test_the_linear_fit_of_a_linear_system_is_that_system():
    orbit = free_orbit(fit_linear_model(rotation(500)), rotation(1050, phase=1.0), PROTOCOL)
    np.testing.assert_allclose(orbit, rotation(1051, phase=1.0)[51:], atol=2e-3)  # the first step is the start


def test_scores_of_a_perfect_model_are_those_of_the_truth_against_itself():
    scores = reconstruction_scores(fit_linear_model(rotation(500)), rotation(1050), PROTOCOL)
    assert scores["state_space_divergence"] < 0.02
    assert scores["spectrum_distance"] < 1e-3
    assert scores["prediction_error"] < 1e-8
    assert (scores["num_regions"], scores["num_regions_above_1_percent"]) == (1, 1)


def test_regions_are_those_that_the_run_visits():
    truth = np.cos(np.pi * np.arange(300))[:, None]
    assert reconstruction_scores(alternating(), truth, PROTOCOL)["num_regions"] == 2
    noise = np.random.default_rng(0).normal(size=(300, 1))
    drawn_in = model_of([0.5, 0.0], [[0.0, 0.0], [1.0, 0.0]], [-1.0, 0.0], num_channels=1, num_relu_units=1)
    assert reconstruction_scores(drawn_in, noise, PROTOCOL)["num_regions"] == 1
    start = ReconstructionProtocol(discard=0, invariants=PROTOCOL.invariants)
    scores = reconstruction_scores(drawn_in, np.concatenate([[[30.0]], noise]), start)
    assert (scores["num_regions"], scores["num_regions_above_1_percent"]) == (2, 2)
    scores = reconstruction_scores(drawn_in, np.concatenate([[[1.5]], noise]), start)
    assert (scores["num_regions"], scores["num_regions_above_1_percent"]) == (2, 1)


def test_a_run_that_leaves_the_range_of_numbers_has_the_worst_scores():
    scores = reconstruction_scores(exploding(), rotation(1050), PROTOCOL)
    assert scores["state_space_divergence"] == np.inf
    assert scores["spectrum_distance"] == 1
    results = evaluate_reconstruction(
        {"exploding": exploding()}, rotation(1050), system="circle", protocol=PROTOCOL, show_progress=False
    )
    assert results.header["symbolic"] == {}
    assert results.header["cost"]["exploding"]["failed_windows"] == 1
    assert cells(results)["exploding", "state_space_divergence", 1000] == np.inf


def test_the_warm_up_is_the_start_of_the_truth():
    model = fit_linear_model(rotation(500))
    model.config.warmup_length = 7
    truth, protocol = rotation(60, phase=2.0), ReconstructionProtocol(discard=0)
    np.testing.assert_allclose(free_orbit(model, truth, protocol)[:53], truth[7:], atol=1e-3)


def test_few_starts_give_the_error_of_the_first_ones():
    truth = rotation(400) + np.random.default_rng(0).normal(size=(400, 2)) * np.linspace(0, 1, 400)[:, None]
    model = fit_linear_model(rotation(500))
    few = ReconstructionProtocol(discard=50, prediction_starts=20, invariants=PROTOCOL.invariants)
    cut = reconstruction_scores(model, truth[: 20 + PROTOCOL.invariants.prediction_steps], ReconstructionProtocol(
        discard=0, invariants=PROTOCOL.invariants
    ))  # fmt: skip
    assert reconstruction_scores(model, truth, few)["prediction_error"] == cut["prediction_error"]
    assert reconstruction_scores(model, truth, PROTOCOL)["prediction_error"] > 10 * cut["prediction_error"]


@pytest.fixture(scope="module")
def results():
    """The circle by its linear model, and a decaying spiral as its baseline."""
    truth, other = rotation(1051), rotation(1051, phase=0.03)
    spiral = fit_linear_model(rotation(500) * np.exp(-0.01 * np.arange(500))[:, None])
    return evaluate_reconstruction(
        {"circle": fit_linear_model(rotation(500)), "spiral": spiral},
        truth,
        system="circle",
        protocol=PROTOCOL,
        dt=0.1,
        baselines=["spiral"],
        second_truth=other,
        known={"lyapunov_max": 0.0},
        show_progress=False,
    )


def test_like_is_compared_with_like(results):
    found = cells(results)
    truth, other = rotation(1051)[50:], rotation(1051, phase=0.03)[50:]
    options = PROTOCOL.invariants
    for steps, pair in {500: (truth[:500], truth[500:1000]), 1001: (truth, other)}.items():
        assert found[FLOOR, "state_space_divergence", steps] == state_space_divergence(*pair, options)
        smoothing = options.spectrum_smoothing
        assert found[FLOOR, "spectrum_distance", steps] == spectrum_distance(*pair, smoothing=smoothing)
        for model in ("circle", "spiral"):
            assert (model, "state_space_divergence", steps) in found
    assert found["circle", "state_space_divergence", 500] < found["spiral", "state_space_divergence", 500]


def test_a_second_truth_must_be_another_one_as_long():
    truth, wide = rotation(400), np.hstack([rotation(400), rotation(400, phase=1.0)])
    models = {"circle": fit_linear_model(rotation(100))}
    for second in (rotation(399, phase=1.0), wide, truth, np.concatenate([truth, truth])):
        with pytest.raises(ValueError, match=r"second true series .* 350 steps .* 2 channels and other values, found"):
            evaluate_reconstruction(
                models, truth, system="", protocol=PROTOCOL, second_truth=second, show_progress=False
            )


def test_persistence_has_the_error_of_a_wave_against_itself_later(results):
    error = cells(results)[PERSISTENCE, "prediction_error", 5]
    assert error == pytest.approx(2 * (1 - np.cos(5 * ANGLE)), rel=0.01)


def test_the_models_exponents_and_dimensions_are_rows(results):
    found = cells(results)
    assert found["circle", "lyapunov_max", 20_000] == pytest.approx(0.0, abs=1e-3)
    assert ("spiral", "lyapunov_max", 20_000) not in found
    assert list(results.header["symbolic"]) == ["circle"]


def test_the_header_holds_what_a_card_needs(results, tmp_path):
    results.write(tmp_path / "results.json")
    header = EvaluationResults.read(tmp_path / "results.json").header
    assert header["models"] == ["circle", "spiral", PERSISTENCE, FLOOR, TRUTH]
    assert header["baselines"] == ["spiral", PERSISTENCE]
    assert header["protocol"]["num_steps"] == 1001
    assert header["protocol"]["dt"] == 0.1
    assert header["known"] == {"lyapunov_max": 0.0}
    assert header["dataset"]["num_steps"] == 1051
    assert header["systems"] == {"circle": {"num_channels": 2}}
    assert header["symbolic"] == results.header["symbolic"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"discard": -1}, r"found \{'discard': -1\}"),
        ({"num_steps": 1}, r"found \{'num_steps': 1\}"),
        ({"prediction_starts": 0}, r"found \{'prediction_starts': 0\}"),
    ],
)
def test_impossible_protocols_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ReconstructionProtocol(**change)


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (rotation(400)[:, :1], "the model's 2 channels, found 1"),
        (rotation(400)[:51], "2 steps after the first 50, found 51"),
        (rotation(400)[:, 0], r"shape \(400,\)"),
        (np.where(np.arange(400)[:, None] == 5, np.nan, rotation(400)), "2 values that are not"),
    ],
)
def test_truths_that_do_not_fit_are_refused(truth, message):
    with pytest.raises(ValueError, match=message):
        free_orbit(fit_linear_model(rotation(100)), truth, PROTOCOL)


def test_names_of_pseudo_models_and_unknown_baselines_are_refused():
    model = fit_linear_model(rotation(100))
    for models, baselines in (({TRUTH: model}, []), ({"a": model}, ["b"]), ({}, [])):
        with pytest.raises(ValueError, match="models must be at least one"):
            evaluate_reconstruction(models, rotation(400), system="", protocol=PROTOCOL, baselines=baselines)


def test_a_series_without_a_linear_fit_is_refused():
    with pytest.raises(ValueError, match=r"at least channels \+ 2 steps"):
        fit_linear_model(rotation(3))
