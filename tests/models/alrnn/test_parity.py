"""Equality with what the reference implementation recorded: outputs, loss, regions."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hf_tsdyn.models.alrnn.conversion_alrnn import convert_reference
from hf_tsdyn.models.alrnn.recurrence import forced_run, free_run
from hf_tsdyn.models.alrnn.symbolic import orbit_of_states

RECORDED = Path(__file__).resolve().parents[4] / "shared" / "parity" / "alrnn"
CASES = ("lorenz63_m20_p2", "lorenz63_m30_p10")

pytestmark = pytest.mark.skipif(
    not RECORDED.is_dir(), reason="the reference's recorded weights are not part of this project"
)


@pytest.fixture(params=CASES, scope="module")
def case(request):
    """The converted model, its configuration, and the recorded inputs and outputs."""
    folder = RECORDED / request.param
    config = json.loads((folder / "case.json").read_text())
    state, inputs, outputs = (
        load_file(folder / f"{name}.safetensors") for name in ("reference_state", "inputs", "outputs")
    )
    return convert_reference(state, config), config, inputs, outputs


def assert_equal(found, expected):
    torch.testing.assert_close(found.detach(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["loop", "cpu", None])
def test_the_first_fifty_steps_of_free_runs_equal_the_recorded_ones(case, backend):
    model, config, inputs, outputs = case
    start = model.initial_state(inputs["initial_observations"][:, None])
    A, W, h, _ = (each.detach() for each in model.model.stacked)
    states = free_run(A, W, h, start[None], 50, num_relu_units=config["num_relu_units"], backend=backend)[0]
    assert_equal(states, outputs["free_run_latents"][:, :50])


def test_forecasts_equal_the_recorded_runs(case):
    model, config, inputs, outputs = case
    forecast = model.forecast(inputs["initial_observations"][:, None], prediction_length=50)
    assert_equal(forecast, outputs["free_run_latents"][:, :50, : config["num_channels"]])


@pytest.mark.parametrize("backend", ["loop", "cpu", None])
def test_the_forced_pass_equals_the_recorded_one(case, backend):
    model, config, inputs, outputs = case
    forcing = inputs["forced_inputs"]
    steps = torch.arange(forcing.shape[1])
    weight = ((steps > 0) & (steps % config["forcing_interval"] == 0)).float()[:, None]
    A, W, h, _ = model.model.stacked
    start = model.initial_state(forcing[:, :1])[None]
    options = {"num_relu_units": config["num_relu_units"], "backend": backend}
    run = forced_run(A, W, h, start, forcing[None], weight, **options)
    assert_equal(run.states[0], outputs["forced_latents"])
    loss = (run.observed[0] - inputs["forced_targets"]).square().mean()
    assert loss.item() == pytest.approx(outputs["forced_loss"].item(), rel=1e-5)


def test_the_loss_of_a_forward_pass_equals_the_recorded_one(case):
    model, _, inputs, outputs = case
    loss = model(inputs["forced_inputs"][:, :1], future_values=inputs["forced_targets"]).loss
    assert loss.item() == pytest.approx(outputs["forced_loss"].item(), rel=1e-5)


def test_one_step_from_each_recorded_state_is_the_next_one(case):
    model, _, _, outputs = case
    orbit = outputs["orbit_latents"]
    assert_equal(model.free_run(orbit[:-1], 1)[:, 0], orbit[1:])


def test_regions_and_their_counts_equal_the_recorded_ones(case):
    model, config, _, outputs = case
    orbit = orbit_of_states(model, outputs["orbit_latents"])
    codes, counts = outputs["subregions_by_frequency"].tolist(), outputs["subregion_counts"].tolist()
    assert len(orbit.regions) == config["num_subregions"]
    assert orbit.counts.tolist() == counts
    # Equal counts may stand in another order.
    assert sorted(zip(orbit.counts, orbit.regions.astype(int).tolist(), strict=True)) == sorted(
        zip(counts, codes, strict=True)
    )


def test_the_transition_matrix_of_the_reference_follows_from_the_symbols(case):
    """There each visit counts as two symbols, the last visit is dropped, and pairs are shares of all pairs."""
    model, _, _, outputs = case
    orbit = orbit_of_states(model, outputs["orbit_latents"])
    rank = {tuple(code): symbol for symbol, code in enumerate(outputs["subregions_by_frequency"].bool().tolist())}
    symbols = np.array([rank[tuple(region)] for region in orbit.regions.tolist()])[orbit.symbols]
    visits = symbols[np.flatnonzero(np.diff(symbols))]
    written = np.repeat(visits, 2)
    pairs = np.zeros((len(rank), len(rank)))
    np.add.at(pairs, (written[:-1], written[1:]), 1)
    np.testing.assert_allclose(pairs / pairs.sum(), outputs["transition_matrix"].numpy(), atol=1e-12)
