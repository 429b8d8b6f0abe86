"""Exponents of accepted trajectories: stored, trusted or not, and used to reject."""

import dataclasses
import json

import numpy as np
import pytest

from data_generation.candidates import Candidates, _with_exponents, generate_candidates
from data_generation.config import GenerationConfig, IntegrationConfig, LyapunovConfig, ValidityConfig
from data_generation.exponents import Exponent
from data_generation.integration import IntegrationStatus
from data_generation.plan import PlanItem
from data_generation.systems import load_system

CONFIG = GenerationConfig(
    output="unused",
    integration=IntegrationConfig(num_points=512, num_periods=10),
    validity=ValidityConfig(checks=[]),
    lyapunov=LyapunovConfig(num_periods=300),
)


def generate(system, config=CONFIG, indices=(0, 1, 2)):
    return generate_candidates(config, [PlanItem(system, index, 0) for index in indices])


def test_rows_carry_the_exponent_of_their_own_parameters():
    rows = generate("Lorenz").rows
    exponents = [json.loads(row["checks"])["lyapunov_exponent"] for row in rows]
    assert exponents[0] == pytest.approx(0.906, rel=0.05)
    assert len(set(exponents)) == len(rows) > 1
    for row, exponent in zip(rows, exponents, strict=True):
        assert row["lyapunov_time"] == (pytest.approx(1 / exponent) if exponent * row["period"] > 0.1 else None)


def test_a_row_has_the_same_exponent_whatever_its_neighbours():
    together = {row["item_id"]: row["checks"] for row in generate("Lorenz").rows}
    alone = generate("Lorenz", indices=(2,)).rows
    assert all(together[row["item_id"]] == row["checks"] for row in alone)
    assert alone


def test_regular_motion_gets_no_lyapunov_time_and_is_rejected_when_asked():
    kept = generate("Torus", indices=(0,))
    assert [row["lyapunov_time"] for row in kept.rows] == [None]
    strict = dataclasses.replace(CONFIG, lyapunov=LyapunovConfig(reject_regular=True))
    refused = generate("Torus", strict, indices=(0,))
    assert not refused.rows
    assert [entry["reason"] for entry in refused.rejected] == ["small_exponent"]
    assert len(generate("Lorenz", strict, indices=(0,)).rows) == 1


def test_without_measurement_only_the_defaults_have_a_lyapunov_time():
    config = dataclasses.replace(CONFIG, lyapunov=LyapunovConfig(num_periods=0))
    rows = generate("Lorenz", config).rows
    assert [row["lyapunov_time"] is not None for row in rows] == [row["item_id"] == "Lorenz-p000-i00" for row in rows]


def test_an_unknown_exponent_is_neither_trusted_nor_a_reason_to_reject():
    unknown = Exponent(np.nan, np.nan, IntegrationStatus.DIVERGED)
    assert unknown.lyapunov_time(LyapunovConfig(), 1.0) is None
    assert not unknown.is_regular(LyapunovConfig(), 1.0)
    assert unknown.statistics() == {"lyapunov_status": "diverged"}


def test_rejecting_without_an_exponent_is_refused():
    with pytest.raises(ValueError, match="need an exponent"):
        LyapunovConfig(num_periods=0, reject_regular=True)


def lorenz_candidates(config, rho):
    """The unperturbed Lorenz system and, as a row beside it, one with another rho."""
    system = load_system("Lorenz")
    vector = system.parameter_vector.copy()
    vector[system.parameter_names.index("rho")] = rho
    row = {"item_id": "Lorenz-p001-i00", "initial_condition": np.array([1.0, 2.0, 20.0]), "checks": "{}"}
    return _with_exponents(Candidates([row], []), config, system, {row["item_id"]: vector})


@pytest.mark.parametrize(("rho", "bifurcated"), [(32.0, False), (15.0, True), (160.0, True)])
def test_a_change_from_chaos_to_rest_or_a_cycle_is_a_bifurcation(rho, bifurcated):
    kept = lorenz_candidates(CONFIG, rho)
    assert json.loads(kept.rows[0]["checks"])["bifurcated"] is bifurcated
    strict = dataclasses.replace(CONFIG, lyapunov=LyapunovConfig(num_periods=300, reject_bifurcated=True))
    outcome = lorenz_candidates(strict, rho)
    assert [entry["reason"] for entry in outcome.rejected] == ["bifurcated"] * bifurcated
    assert len(outcome.rows) == 1 - bifurcated
