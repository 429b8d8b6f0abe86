"""What a report says of maps whose regions, fixed points and exponents are known in closed form."""

import json

import numpy as np
import pytest
import torch

from hf_tsdyn.metrics import LyapunovSpectrum
from hf_tsdyn.models.alrnn import ALRNNConfig, ALRNNForPrediction
from hf_tsdyn.models.alrnn.fixed_points import Cycle
from hf_tsdyn.models.alrnn.symbolic import SymbolicOrbit
from hf_tsdyn.symbolic_report import (
    LISTED_CYCLES,
    ROWS,
    STAGES,
    SymbolicAnalysis,
    analyse_symbols,
    render_symbolic_report,
    report_of,
    symbolic_report,
)

SLOPE = 1.9
LOC, SCALE = 5.0, 2.0


def make_model(A, W, h, *, num_channels, num_relu_units):
    """An AL-RNN with these weights; the first channels are scaled by LOC and SCALE."""
    config = ALRNNConfig(num_channels=num_channels, hidden_size=len(A), num_relu_units=num_relu_units)
    model = ALRNNForPrediction(config).eval()
    model.set_scaler([LOC] * num_channels, [SCALE] * num_channels)
    with torch.no_grad():
        for name, value in {"A": A, "W": W, "h": h}.items():
            getattr(model.model, name).copy_(torch.tensor(value))
    return model


@pytest.fixture(scope="module")
def tent():
    """z' = 1 - SLOPE |z|: chaotic, two regions, exponent log SLOPE, fixed points 1 / (1 + SLOPE), 1 / (1 - SLOPE)."""
    return make_model([SLOPE], [[-2 * SLOPE]], [1.0], num_channels=1, num_relu_units=1)


@pytest.fixture(scope="module")
def analysis(tent):
    return analyse_symbols(tent, np.array([[LOC + 0.3]]), dt=0.5, num_steps=3000)


@pytest.fixture(scope="module")
def report(analysis):
    return report_of(analysis)


def test_regions_of_the_tent_map_are_its_two_branches(report, analysis):
    assert (report["num_steps"], report["num_relu_units"], report["num_regions"]) == (3000, 1, 2)
    assert report["num_regions_above_1_percent"] == 2
    assert {region["code"] for region in report["regions"]} == {"+", "-"}
    shares = {region["code"]: region["share"] for region in report["regions"]}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["+"] == pytest.approx((analysis.orbit.states[:, 0] > 0).mean())
    first, second = report["regions"]
    assert first["exits"] == {second["code"]: 1.0}
    visits = {region["code"]: region["mean_dwell_steps"] for region in report["regions"]}
    # Stays and switches account for the time: each switch ends one stay, in either region in turn.
    assert 2 / sum(visits.values()) == pytest.approx(report["flips_per_step"][0], rel=0.01)
    # Both symbols follow both: two continuations a step.
    assert report["topological_entropy"] == pytest.approx(np.log(2))


def test_fixed_points_of_the_tent_map_are_in_data_units(report):
    found = {point["region"]: point for point in report["fixed_points"]}
    assert found["+"]["position"] == pytest.approx([LOC + SCALE / (1 + SLOPE)])
    assert found["-"]["position"] == pytest.approx([LOC + SCALE / (1 - SLOPE)])
    assert all(point["is_real"] and "unstable" in point["kind"] for point in found.values())
    assert [point["largest_modulus"] for point in found.values()] == pytest.approx([SLOPE, SLOPE])


def test_the_exponent_of_the_tent_map_is_the_logarithm_of_its_slope_per_unit_of_time(report):
    spectrum = report["lyapunov"]
    wanted = np.log(SLOPE) / 0.5
    assert spectrum["exponents"] == pytest.approx([wanted], rel=1e-6)
    assert spectrum["sum"] == pytest.approx(wanted, rel=1e-6)
    assert spectrum["mean_log_determinant"] == pytest.approx(wanted, rel=1e-6)
    assert report["kaplan_yorke_dimension"] == 1


def test_the_shortest_cycle_of_the_tent_map_alternates_between_its_branches(report):
    cycles = report["cycles"]
    shortest = cycles["shortest"][0]
    assert (shortest["period_steps"], shortest["period"], shortest["is_real"]) == (2, 1.0, True)
    assert shortest["largest_modulus"] == pytest.approx(SLOPE**2)
    assert sorted(shortest["visits"]) == [("+", 1), ("-", 1)]
    assert cycles["num_real"] >= len(cycles["shortest"]) == LISTED_CYCLES
    periods = [cycle["period_steps"] for cycle in cycles["shortest"]]
    assert periods == sorted(periods)


def test_a_model_without_rectified_units_has_one_region_and_a_point_of_rest():
    angle, shrink = 0.3, 0.99
    turn = shrink * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    model = make_model([0.0, 0.0], turn, [0.1, 0.0], num_channels=2, num_relu_units=0)
    found = symbolic_report(model, np.array([[LOC + 1, LOC]]), num_steps=1000)
    assert found["num_regions"] == 1
    assert found["regions"][0]["name"] == "linear"
    assert found["regions"][0]["exits"] == {}
    assert found["regions"][0]["mean_dwell_steps"] is None
    assert [point["kind"] for point in found["fixed_points"]] == ["stable focus"]
    assert found["lyapunov"]["exponents"] == pytest.approx([np.log(shrink)] * 2, abs=1e-6)
    assert found["kaplan_yorke_dimension"] == 0
    text = render_symbolic_report(found)
    assert "0 rectified units and so at most 1 region," in text
    assert "visits 1, of which 1 holds more" in text


def test_directions_that_vanish_are_none_and_not_an_infinity():
    model = make_model([0.0, 0.0], [[0.5, 0.0], [0.0, 0.0]], [0.1, 0.0], num_channels=1, num_relu_units=0)
    found = symbolic_report(model, np.array([[LOC]]), num_steps=1000)
    assert found["lyapunov"]["exponents"] == [pytest.approx(np.log(0.5)), None]
    assert found["lyapunov"]["sum"] is None
    assert found["lyapunov"]["mean_log_determinant"] is None
    assert "Sum of all exponents -, mean" in render_symbolic_report(json.loads(json.dumps(found, allow_nan=False)))


def test_the_run_is_compared_over_equal_lengths_beside_the_floor(analysis):
    truth = np.concatenate([analysis.orbit.observed[:1200], analysis.orbit.observed[600:1600]])
    comparison = report_of(analysis, truth=truth)["comparison"]
    assert comparison["num_steps"] == 1100
    assert comparison["state_space_divergence"] == pytest.approx(0, abs=1e-9)
    assert comparison["spectrum_distance"] == pytest.approx(0, abs=1e-9)
    assert comparison["state_space_divergence_floor"] > 0
    assert comparison["spectrum_distance_floor"] > 0
    with pytest.raises(ValueError, match="channels"):
        report_of(analysis, truth=np.hstack([truth, truth]))


def test_a_report_renders_the_same_after_a_round_trip_through_json(analysis):
    found = report_of(analysis, truth=analysis.orbit.observed)
    text = render_symbolic_report(found, figures={"figures/a.png": "A picture"})
    assert (
        render_symbolic_report(json.loads(json.dumps(found, allow_nan=False)), figures={"figures/a.png": "A picture"})
        == text
    )
    for heading in (
        "# Symbolic analysis",
        "## Fixed points",
        "## Cycles",
        "## Lyapunov exponents",
        "## Against the data",
    ):
        assert f"{heading}\n" in text
    assert "3,000 steps of time 0.5" in text
    assert "at most 2 regions" in text
    assert "Virtual: the fixed point lies outside its own region" in text
    assert "T = 1,500 steps" in text
    assert text.endswith("![A picture](figures/a.png)\n")
    assert "\n\n\n" not in text


def test_long_tables_are_cut_and_say_so():
    """Thirteen regions in turn, with a cycle through all of them and one that leaves them."""
    regions = np.eye(13, dtype=bool)
    symbols = np.arange(39) % 13
    orbit = SymbolicOrbit(np.zeros((39, 13)), np.zeros((39, 2)), regions, symbols)
    cycles = [
        Cycle(np.array(visited), np.zeros((k, 13)), np.zeros((k, 2)), real, np.full(13, 0.5 + 0j))
        for visited, k, real in (([2, 0, 0, 2], 4, True), ([-1, 1, 1], 3, True))
    ]
    spectrum = LyapunovSpectrum(np.array([-1.0]), np.array([0.0]))
    found = report_of(SymbolicAnalysis(orbit, [], cycles, spectrum, -1.0, 1.0))
    assert [cycle["visits"] for cycle in found["cycles"]["shortest"]] == [
        [("other", 1), ("#2", 2)],
        [("#1", 2), ("#3", 2)],
    ]
    text = render_symbolic_report(found)
    assert f"{13 - ROWS} more are not listed." in text
    assert "at most 8,192 regions" in text
    assert "0 real and 0 virtual, in 13 regions." in text


def test_virtual_cycles_are_listed_where_none_is_real(analysis):
    virtual, real = (
        Cycle(np.zeros(k, dtype=int), np.zeros((k, 1)), np.zeros((k, 1)), k == 9, np.array([2.0 + 0j])) for k in (5, 9)
    )
    for cycles, listed in (([virtual], [5]), ([virtual, real], [9])):
        found = report_of(SymbolicAnalysis(analysis.orbit, [], cycles, analysis.lyapunov, 0.0, 1.0))["cycles"]
        assert [cycle["period_steps"] for cycle in found["shortest"]] == listed
        assert found["num_virtual"] == 1


def test_stages_are_told_in_turn(tent):
    told = []
    analyse_symbols(tent, np.array([[LOC + 0.3]]), num_steps=600, progress=told.append)
    assert tuple(told) == STAGES


@pytest.mark.parametrize("dt", [0.0, -1.0, np.nan])
def test_impossible_intervals_are_refused(tent, dt):
    with pytest.raises(ValueError, match="dt must be above 0"):
        symbolic_report(tent, np.array([[LOC]]), dt=dt)


def test_a_model_that_runs_away_is_refused():
    model = make_model([2.0], [[0.0]], [0.0], num_channels=1, num_relu_units=0)
    with pytest.raises(ValueError, match="the model diverges"):
        symbolic_report(model, np.array([[LOC + 1]]), num_steps=1000)
