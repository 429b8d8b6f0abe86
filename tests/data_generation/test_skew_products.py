"""Skew products: right equations, both parents' coordinates, rows that reproduce, one kernel a pair."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from data_generation.candidates import generate_candidates
from data_generation.config import (
    CandidatesConfig,
    GenerationConfig,
    IntegrationConfig,
    PerturbationConfig,
    SkewProductConfig,
    SplitsConfig,
)
from data_generation.integration import IntegrationStatus, integrate
from data_generation.kernels import load_kernel
from data_generation.plan import PlanItem, plan_items
from data_generation.skew_products import (
    driver_rms,
    load_item_system,
    load_row_system,
    observed_flow,
    response_rms,
)
from data_generation.systems import flatten_parameters, load_system, observe, split_of, unflatten_parameters

PAIR = "Halvorsen->Lorenz"
ACTIVATED = SkewProductConfig(kinds=["tanh"], matrix="low_rank", stored_states="both")


def config_for(**settings) -> GenerationConfig:
    return GenerationConfig(
        output="unused",
        systems=["Lorenz"],
        integration=IntegrationConfig(num_points=256, num_periods=8, transient_periods=2),
        skew_products=SkewProductConfig(**settings),
    )


def test_the_joint_flow_is_the_driver_and_the_coupled_response():
    system = load_item_system(config_for(clock="unit"), PAIR)
    driver, response = load_system("Halvorsen"), load_system("Lorenz")
    state = np.array([1.0, -2.0, 0.5, 3.0, 4.0, 20.0])
    f_d = driver.vector_field(state[:3], 0.0, driver.parameter_vector)
    f_r = response.vector_field(state[3:], 0.0, response.parameter_vector)
    assert system.coupling is not None
    assert system.coupling.driver_indices is not None
    force = f_d[list(system.coupling.driver_indices)] / driver_rms("Halvorsen")
    expected = np.concatenate([f_d, force + f_r / response_rms("Lorenz")])
    np.testing.assert_allclose(system.vector_field(state, 0.0, system.parameter_vector), expected, rtol=1e-13)


def test_an_integration_agrees_with_scipy():
    system = load_item_system(config_for(), PAIR)
    span = 0.5 * system.period
    result = integrate(
        system.vector_field, system.initial_condition, system.parameter_vector, dt=span / 20, num_points=21
    )
    assert result.status == [IntegrationStatus.COMPLETED]
    solution = solve_ivp(
        lambda time, state: system.vector_field(state, time, system.parameter_vector),
        (0, span), system.initial_condition, method="DOP853", rtol=1e-10, atol=1e-12,
    )  # fmt: skip
    np.testing.assert_allclose(result.states[0, -1], solution.y[:, -1], rtol=1e-6)


def test_parameters_of_both_parents_are_named_and_used():
    system = load_item_system(config_for(), PAIR)
    assert {"driver.a", "response.sigma", "coupling.driver_strength"} <= system.parameters.keys()
    assert unflatten_parameters(system, system.parameter_vector) == system.parameters
    changed = system.parameters | {"coupling.driver_strength": 0.0}
    state = np.linspace(1, 6, 6)
    flow = system.vector_field(state, 0.0, flatten_parameters(system, changed))
    lorenz = load_system("Lorenz")
    np.testing.assert_allclose(flow[3:], lorenz.vector_field(state[3:], 0.0, lorenz.parameter_vector), rtol=1e-13)


def test_an_angle_drives_through_its_bounded_coordinates():
    system = load_system("DoublePendulum")
    parameters, state, step = system.parameter_vector, np.array([0.3, 2.0, 1.0, -1.0]), 1e-6
    flow = system.vector_field(state, 0.0, parameters)
    ahead, behind = (observe(system, (state + sign * step * flow)[None], parameters)[0] for sign in (1, -1))
    np.testing.assert_allclose(
        observed_flow(system)(state, 0.0, parameters), (ahead - behind) / (2 * step), rtol=1e-7, atol=1e-8
    )


@pytest.mark.parametrize("stored_states", ["response", "both"])
def test_angles_of_both_parents_are_stored_as_bounded_channels(stored_states: str):
    system = load_item_system(config_for(stored_states=stored_states), "DoublePendulum->Duffing")
    assert system.unbounded == (0, 1, 6)
    states = np.linspace(-20, 20, 7 * 5).reshape(5, 7)
    seen = observe(system, states, system.parameter_vector)
    duffing = load_system("Duffing")
    own = observe(duffing, states[:, 4:], duffing.parameter_vector)
    np.testing.assert_allclose(seen[:, -3:], own, atol=1e-12)
    assert seen.shape[1] == len(system.channel_std) == (7 if stored_states == "both" else 3)
    if stored_states == "both":
        np.testing.assert_allclose(seen[:, :2], np.sin(states[:, :2]), atol=1e-12)


def test_the_response_alone_is_stored_where_nothing_is_observed_through_a_map():
    system = load_item_system(config_for(), PAIR)
    states = np.arange(12.0).reshape(2, 6)
    np.testing.assert_array_equal(observe(system, states, system.parameter_vector), states[:, 3:])
    both = load_item_system(config_for(stored_states="both"), PAIR)
    assert observe(both, states, both.parameter_vector) is states


def test_the_driver_is_unaware_of_the_response():
    system = load_item_system(config_for(), PAIR)
    halvorsen = load_system("Halvorsen")
    settings = {"dt": halvorsen.period / 50, "num_points": 50}
    joint = integrate(system.vector_field, system.initial_condition, system.parameter_vector, **settings)
    alone = integrate(halvorsen.vector_field, halvorsen.initial_condition, halvorsen.parameter_vector, **settings)
    np.testing.assert_allclose(joint.states[0, :, :3], alone.states[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("settings", [SkewProductConfig(), ACTIVATED], ids=["additive", "activated"])
def test_a_row_is_reproduced_by_its_own_columns(settings: SkewProductConfig):
    config = replace(config_for(), skew_products=settings, perturbation=PerturbationConfig(parameter_scale=0.05))
    rows = generate_candidates(config, [PlanItem("Torus->SprottC", p, 0) for p in range(4)]).rows
    assert len(rows) >= 2
    for row in rows:
        generation = json.loads(row["generation"])
        system = load_row_system(row["system"], generation)
        parameters = flatten_parameters(system, json.loads(row["parameters"]))
        result = integrate(
            system.vector_field, row["initial_condition"], parameters,
            dt=row["dt"], num_points=generation["num_points"], rtol=generation["rtol"], atol=generation["atol"],
            unbounded=system.unbounded,
        )  # fmt: skip
        expected = observe(system, result.states[0], parameters).T.astype(np.float32)
        np.testing.assert_array_equal(row["target"], expected)
        assert row["split"] == split_of(row["system"])


def test_all_perturbations_of_a_pair_share_one_kernel():
    config = config_for()
    one, other = (load_item_system(config, PAIR) for _ in range(2))
    assert one is other
    assert load_kernel(one.vector_field) is load_kernel(other.vector_field)


def test_the_coupling_depends_on_seed_and_pair_alone():
    config = config_for(kinds=["tanh"])
    again = replace(config, systems=["Chen"], splits=SplitsConfig(train=CandidatesConfig(num_pairs=3)))
    coupling = load_item_system(config, PAIR).coupling
    assert load_item_system(again, PAIR).coupling == coupling
    assert load_item_system(replace(config, seed=1), PAIR).coupling != coupling
    assert load_item_system(config, "Lorenz->Halvorsen").coupling != coupling


def test_pairs_do_not_depend_on_their_neighbours():
    config = replace(config_for(), splits=SplitsConfig(train=CandidatesConfig(2, systems=["Torus->SprottC"])))
    items = plan_items(config, "train")
    together = {row["item_id"]: row["target"] for row in generate_candidates(config, items).rows}
    assert together
    for item in items:
        for row in generate_candidates(config, [item]).rows:
            np.testing.assert_array_equal(row["target"], together[item.item_id])


def test_a_name_without_a_coupling_is_no_system():
    with pytest.raises(ValueError, match=r"found its name alone, 'Halvorsen->Lorenz'; use load_item_system"):
        load_system(PAIR)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"kinds": []}, "kinds must name at least one coupling"),
        ({"rank": 0}, "rank must be at least 1, found 0"),
        ({"strength": -1.0}, "strength must be positive and finite, found -1.0"),
        ({"max_period_ratio": 0.5}, "max_period_ratio must be at least 1, found 0.5"),
        ({"parents": ["Chen", "Chen"]}, r"parents must name each system once, found \['Chen'\]"),
    ],
)
def test_wrong_settings_are_refused(setting: dict, message: str):
    with pytest.raises(ValueError, match=message):
        SkewProductConfig(**setting)
