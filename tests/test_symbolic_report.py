"""What a report says of maps whose regions, fixed points and exponents are known in closed form."""

import json

import numpy as np
import pytest
import torch

from hf_tsdyn.metrics import LyapunovSpectrum
from hf_tsdyn.models.alrnn import ALRNNConfig, ALRNNForPrediction
from hf_tsdyn.models.alrnn.fixed_points import Cycle
from hf_tsdyn.models.alrnn.symbolic import SymbolicOrbit
from hf_tsdyn.symbolic_analysis import SymbolicAnalysis, analyse_symbols
from hf_tsdyn.symbolic_report import (
    LISTED_CYCLES,
    LISTED_EXITS,
    LISTED_REGIONS,
    ROWS,
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
    assert "0 real and 0 virtual, in visited regions only." in text


def test_virtual_cycles_are_listed_where_none_is_real(analysis):
    virtual, real = (
        Cycle(np.zeros(k, dtype=int), np.zeros((k, 1)), np.zeros((k, 1)), k == 9, np.array([2.0 + 0j])) for k in (5, 9)
    )
    for cycles, listed in (([virtual], [5]), ([virtual, real], [9])):
        found = report_of(SymbolicAnalysis(analysis.orbit, [], cycles, analysis.lyapunov, 0.0, 1.0))["cycles"]
        assert [cycle["period_steps"] for cycle in found["shortest"]] == listed
        assert found["num_virtual"] == 1


def analysis_with(exponents, errors, orbit, dt=1.0):
    return SymbolicAnalysis(orbit, [], [], LyapunovSpectrum(np.array(exponents), np.array(errors)), 0.0, dt)


@pytest.mark.parametrize(
    ("exponents", "errors", "dimension", "words"),
    [
        ([-3.6e-17, -3.7e-17], [1e-18, 1e-18], 2, "not distinguishable from 0"),
        ([3e-4, -1.0], [2e-4, 0.01], 1, "not distinguishable from 0"),
        ([-3e-4, -1.0], [2e-4, 0.01], 1, "not distinguishable from 0"),
        ([0.5, 0.01, -1.0], [0.1, 0.02, 0.1], 2.5, "the model is chaotic"),
        ([0.5, -1.0], [0.3, 0.1], 1, "not distinguishable from 0"),
        ([-0.5, -1.0], [0.1, 0.1], 0, "errors shrink"),
    ],
)
def test_exponents_that_cannot_be_told_from_zero_count_as_zero(analysis, exponents, errors, dimension, words):
    found = report_of(analysis_with(exponents, errors, analysis.orbit))
    assert found["kaplan_yorke_dimension"] == pytest.approx(dimension)
    assert found["lyapunov"]["exponents"] == exponents
    text = render_symbolic_report(found)
    assert words in text
    assert ("is chaotic" in text) == (words == "the model is chaotic")


def test_a_rotation_is_not_called_chaotic():
    rotation = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    model = make_model([0.0, 0.0], rotation, [0.0, 0.0], num_channels=2, num_relu_units=0)
    found = symbolic_report(model, np.array([[LOC + 1, LOC]]), num_steps=1000)
    assert found["kaplan_yorke_dimension"] == 2
    assert found["lyapunov"]["sign_of_largest"] == 0


def test_the_entropy_of_switches_is_given_per_unit_of_time(report):
    # Two regions alternate in the switch graph of the tent map: no choice without stays.
    assert report["switch_entropy"] == pytest.approx(0, abs=1e-12)
    assert report["switches_per_time"] == pytest.approx(report["flips_per_step"][0] / 0.5)
    assert report["switch_entropy_per_time"] == pytest.approx(0, abs=1e-12)
    assert report["lyapunov"]["sum_of_positive"] == pytest.approx(np.log(SLOPE) / 0.5, rel=1e-6)
    choices = np.random.default_rng(0).integers(1, 3, 300)
    symbols = np.stack([np.zeros_like(choices), choices], axis=1).reshape(-1).repeat(5)
    orbit = SymbolicOrbit(np.zeros((3000, 2)), np.zeros((3000, 2)), np.eye(3, 2, dtype=bool), symbols)
    found = report_of(analysis_with([0.1], [0.01], orbit, dt=0.1))
    assert found["switch_entropy_per_time"] == pytest.approx(np.log(2) / 2 * 2, rel=1e-2)
    text = render_symbolic_report(found)
    assert "It is an upper bound" in text
    assert "0.347 nats per switch of region" in text


def wandering(num_steps):
    """An orbit that is in another region at every step."""
    regions = (np.arange(num_steps)[:, None] >> np.arange(14)) % 2 > 0
    states = np.random.default_rng(0).normal(size=(num_steps, 14))
    return SymbolicOrbit(states, states[:, :2], regions, np.arange(num_steps))


def test_very_many_regions_are_counted_and_few_of_them_listed():
    found = report_of(analysis_with([0.1], [0.01], wandering(10_000)))
    assert (found["num_regions"], len(found["regions"])) == (10_000, LISTED_REGIONS)
    assert found["topological_entropy"] is None
    assert found["switch_entropy_per_time"] is None
    text = render_symbolic_report(found)
    assert "The run visits 10,000, of which" in text
    assert f"{10_000 - ROWS:,} more are not listed." in text
    assert "regions: -. Most regions were left only once" in text


def test_of_many_exits_the_likeliest_are_listed():
    others = np.repeat(np.arange(1, 40), 3)
    symbols = np.stack([np.zeros_like(others), others], axis=1).reshape(-1)
    regions = (np.arange(40)[:, None] >> np.arange(6)) % 2 > 0
    orbit = SymbolicOrbit(np.zeros((len(symbols), 6)), np.zeros((len(symbols), 2)), regions, symbols)
    first = report_of(analysis_with([0.1], [0.01], orbit))["regions"][0]
    assert (first["num_exits"], len(first["exits"])) == (39, LISTED_EXITS)


def test_fixed_points_of_regions_that_the_run_missed_are_told_apart():
    # z' = |z| / 2 + 1 stays above 0, with 2 as its point of rest; below 0 the branch has a virtual one at 2 / 3.
    model = make_model([-0.5], [[1.0]], [1.0], num_channels=1, num_relu_units=1)
    found = symbolic_report(model, np.array([[LOC + 1]]), num_steps=1000)
    told = [(point["region"], point["is_real"], point["visited"]) for point in found["fixed_points"]]
    assert told == [("+", True, True), ("-", False, False)]
    assert found["num_regions_searched"] == 2
    text = render_symbolic_report(found)
    assert "1 real and 1 virtual, in all 2 regions." in text
    assert "| `-` | virtual, not visited |" in text


def test_numbers_above_999_have_commas(analysis):
    found = report_of(analysis_with([0.1], [0.01], analysis.orbit, dt=1500.0))
    found["fixed_points"] = [
        {"region": "+", "is_real": True, "visited": True, "kind": "saddle", "position": [12345.6], "largest_modulus": 2}
    ]
    text = render_symbolic_report(found)
    assert "steps of time 1,500." in text
    assert "| 12,346 | 2 |" in text


def test_a_comparison_that_cannot_be_is_explained(analysis):
    text = render_symbolic_report(report_of(analysis, note="longest stretch without gaps: 3 steps"))
    assert "## Against the data\n\nLeft out: longest stretch without gaps: 3 steps.\n" in text
