"""The catalogue of systems: complete, consistent, split by fixed lists."""

import json

import numpy as np
import pytest

from data_generation.integration import IntegrationStatus, integrate
from data_generation.systems import (
    NOT_CLEARLY_CHAOTIC,
    TEST_SYSTEMS,
    VALIDATION_SYSTEMS,
    flatten_parameters,
    load_system,
    observe,
    parents_of,
    split_of,
    system_names,
    unflatten_parameters,
)


def test_catalogue_holds_the_129_systems_in_order():
    names = system_names()
    assert len(names) == len(set(names)) == 129
    assert list(names) == sorted(names)


def test_held_out_lists_are_disjoint_and_known():
    assert (len(set(TEST_SYSTEMS)), len(set(VALIDATION_SYSTEMS))) == (23, 10)
    assert not set(TEST_SYSTEMS) & set(VALIDATION_SYSTEMS)
    assert set(TEST_SYSTEMS) | set(VALIDATION_SYSTEMS) | set(NOT_CLEARLY_CHAOTIC) <= set(system_names())


def test_every_system_has_the_split_of_its_list():
    splits = [split_of(name) for name in system_names()]
    assert {split: splits.count(split) for split in splits} == {"train": 96, "validation": 10, "test": 23}
    assert (split_of("Lorenz"), split_of("SprottA"), split_of("SprottB")) == ("test", "validation", "train")


@pytest.mark.parametrize("function", [load_system, split_of])
def test_unknown_name_raises_value_error_with_close_matches(function):
    with pytest.raises(ValueError, match=r"found 'Lorentz'; did you mean .*Lorenz"):
        function("Lorentz")


@pytest.mark.parametrize("name", system_names())
def test_system_is_consistent(name):
    system = load_system(name)
    assert system.initial_condition.shape == system.state_std.shape == (system.dimension,)
    assert len(system.vector_field.outputs) == system.dimension == system.vector_field.num_states
    assert len(system.parameter_vector) == len(system.parameter_names)
    assert system.vector_field.parameter_names == system.parameter_names
    assert json.loads(json.dumps(system.parameters)) == system.parameters
    assert np.isfinite(system.initial_condition).all()
    assert np.isfinite(system.parameter_vector).all()
    assert np.all(np.isfinite(system.state_std) & (system.state_std > 0))
    assert 0 < system.period < np.inf
    assert system.lyapunov_time is None or system.lyapunov_time < 50 * system.period
    assert (system.observation is not None) == bool(system.unbounded)


def test_defaults_cannot_be_changed_by_accident():
    system = load_system("Lorenz")
    assert system is load_system("Lorenz")
    with pytest.raises(ValueError, match="read-only"):
        system.parameter_vector[0] = 1.0


def test_parameters_are_flattened_in_the_order_of_their_names():
    system = load_system("BeerRNN")
    assert system.parameter_names[:4] == ("tau[0]", "tau[1]", "tau[2]", "theta[0]")
    values = dict(zip(system.parameter_names, system.parameter_vector, strict=True))
    assert values["w[1,2]"] == system.parameters["w"][1][2]


@pytest.mark.parametrize("name", ["Lorenz", "BeerRNN", "MacArthur", "SprottA"])
def test_unflatten_gives_the_parameters_back(name):
    system = load_system(name)
    assert unflatten_parameters(system, system.parameter_vector) == system.parameters


def test_unflatten_rejects_the_wrong_number_of_parameters():
    with pytest.raises(ValueError, match=r"Lorenz has 3 parameters, found shape \(2,\)"):
        unflatten_parameters(load_system("Lorenz"), np.zeros(2))


def test_lyapunov_time_is_given_only_where_the_estimates_agree():
    known = {name: load_system(name).lyapunov_time for name in system_names()}
    assert known["Lorenz"] == pytest.approx(1 / 0.8917, rel=1e-3)
    assert known["Rossler"] is None  # dysts' two estimates differ by a factor of two
    assert all(known[name] is None for name in NOT_CLEARLY_CHAOTIC)
    assert sum(time is not None for time in known.values()) == 59


def test_observation_of_angles_is_bounded_and_keeps_leading_shape():
    system = load_system("DoublePendulum")
    result = integrate(
        system.vector_field, system.initial_condition * np.array([[1.0], [1.1]]), system.parameter_vector,
        dt=system.period / 20, num_points=100, unbounded=system.unbounded,
    )  # fmt: skip
    assert result.status == [IntegrationStatus.COMPLETED] * 2
    channels = observe(system, result.states, system.parameter_vector)
    assert channels.shape == (2, 100, 4)
    np.testing.assert_allclose(channels[..., :2], np.sin(result.states[..., :2]), atol=1e-15)
    np.testing.assert_array_equal(channels[..., 2:], result.states[..., 2:])


def test_observation_without_a_map_is_the_state():
    states = np.ones((5, 3))
    assert observe(load_system("Lorenz"), states, load_system("Lorenz").parameter_vector) is states


def test_channels_have_a_spread_each():
    for name in ("Lorenz", "DoublePendulum"):
        np.testing.assert_array_equal(load_system(name).channel_std, load_system(name).state_std)


@pytest.mark.parametrize("name", ["Lorenz", "BeerRNN"])
def test_flatten_takes_parameters_by_name_in_any_order(name):
    system = load_system(name)
    shuffled = dict(reversed(system.parameters.items()))
    np.testing.assert_array_equal(flatten_parameters(system, shuffled), system.parameter_vector)
    with pytest.raises(ValueError, match=rf"{name} has the parameters .*found \['strange'\]"):
        flatten_parameters(system, {"strange": 1.0})


def test_a_skew_product_is_held_out_when_either_parent_is():
    assert split_of("SprottB->SprottC") == "train"
    assert split_of("SprottB->Chen") == split_of("Chen->SprottB") == "validation"
    assert split_of("Chen->Lorenz") == split_of("Lorenz->SprottB") == "test"
    assert parents_of("Chen->Lorenz") == ("Chen", "Lorenz")
    assert parents_of("Lorenz") is None


@pytest.mark.parametrize("name", ["SprottB->SprottC->SprottD", "->SprottB", "SprottB->", "SprottB->Sprot"])
def test_a_malformed_pair_is_refused(name):
    with pytest.raises(ValueError, match="found"):
        split_of(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", system_names())
def test_every_system_runs_forty_periods_at_its_defaults(name):
    system = load_system(name)
    result = integrate(
        system.vector_field, system.initial_condition, system.parameter_vector,
        dt=40 * system.period / 4096, num_points=4096, unbounded=system.unbounded,
    )  # fmt: skip
    assert result.status == [IntegrationStatus.COMPLETED]
    assert np.isfinite(result.states).all()
