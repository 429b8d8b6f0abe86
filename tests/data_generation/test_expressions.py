"""Tracing gives the equations that dysts holds, as small shared graphs."""

import pickle
import warnings

import numpy as np
import pytest

from data_generation.expressions import topological_order, trace
from data_generation.systems import load_system, system_names

flows = pytest.importorskip("dysts.flows")


def perturbed(system, flow, generator):
    """Move a dysts flow to random parameters; return them flattened."""
    vector = system.parameter_vector * (1 + 0.1 * generator.standard_normal(system.parameter_vector.shape))
    start = 0
    for name in sorted(flow.params):
        size = np.size(flow.params[name])
        flow.params[name] = vector[start : start + size].reshape(np.shape(flow.params[name]))[()]
        start += size
    flow.__dict__.update(flow.params)
    flow.param_list = [flow.params[name] for name in sorted(flow.params)]
    return vector


@pytest.mark.parametrize("name", system_names())
def test_traced_flow_equals_dysts_at_random_points_and_parameters(name):
    generator = np.random.default_rng(7)
    system, flow = load_system(name), getattr(flows, name)()
    parameters = perturbed(system, flow, generator)
    for _ in range(3):
        state = system.initial_condition + 0.3 * system.state_std * generator.standard_normal(system.dimension)
        time = generator.uniform(0, system.period)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # dysts warns of slow numba calls and of roots of negative numbers
            expected = np.asarray(flow.rhs(state, time), dtype=float)
            found = system.vector_field(state, time, parameters)
        np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13 * np.nanmax(np.abs(expected)))


@pytest.mark.parametrize("name", [name for name in system_names() if load_system(name).observation])
def test_traced_observation_equals_dysts(name):
    generator = np.random.default_rng(8)
    system, flow = load_system(name), getattr(flows, name)()
    parameters = perturbed(system, flow, generator)
    states = generator.uniform(0.5, 2.0, (system.dimension, 50))
    assert system.observation is not None
    with np.errstate(all="ignore"):
        expected = np.array(flow._postprocessing(*states), dtype=float)
        found = system.observation(states, 0.0, parameters)
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13)


def test_only_torus_depends_on_time_explicitly():
    assert [name for name in system_names() if load_system(name).vector_field.depends_on_time] == ["Torus"]


def test_equal_subexpressions_are_one_node():
    field = trace(lambda x, t, p: [np.sin(x[0] * x[1]) + 1, np.sin(x[0] * x[1]) * p["a"]], 2, {"a": 0.0})
    assert [node.operation for node in field.nodes].count("sin") == 1
    assert field.num_operations == 4


def test_integer_powers_become_products():
    field = trace(lambda x, t, p: [x[0] ** 5, x[0] ** -2, x[0] ** 0, x[0] ** 1.0], 1, {})
    assert {node.operation for node in field.nodes} == {"state", "constant", "multiply", "divide"}
    np.testing.assert_allclose(field(np.array([1.7]), 0.0, np.empty(0)), [1.7**5, 1.7**-2, 1, 1.7], rtol=1e-15)


def test_powers_with_symbolic_exponents_stay_powers():
    field = trace(lambda x, t, p: [x[0] ** p["n"], 2.0 ** x[0], x[0] ** 0.5], 1, {"n": 2})
    np.testing.assert_allclose(field(np.array([1.7]), 0.0, np.array([2.5])), [1.7**2.5, 2**1.7, 1.7**0.5])


def test_neutral_elements_and_constants_are_folded():
    field = trace(lambda x, t, p: [0 + x[0] * 1 - 0, 0 * x[0], x[0] / 1, np.cos(np.pi) + np.sqrt(4.0)], 1, {})
    assert [node.operation for node in field.outputs] == ["state", "constant", "state", "constant"]
    np.testing.assert_array_equal(field(np.array([3.0]), 0.0, np.empty(0)), [3, 0, 3, 1])


def test_array_parameters_reductions_and_slices_are_traced():
    def function(x, t, p):
        derivative = np.zeros_like(x)
        derivative[:2] = np.matmul(p["w"], x)[:2]
        derivative[2] = max(0, np.min(p["w"] * x)) + np.dot(x, x) + np.sum(np.heaviside(x, 0.5)) + min(x[0], x[1])
        return derivative

    generator = np.random.default_rng(0)
    weights, state = generator.standard_normal((3, 3)), generator.standard_normal(3)
    field = trace(function, 3, {"w": weights, "a": 1.0})
    assert field.parameter_names[:3] == ("a", "w[0,0]", "w[0,1]")
    found = field(state, 0.0, np.concatenate([[1.0], weights.ravel()]))
    product = weights @ state
    last = max(0, (weights * state).min()) + state @ state + np.heaviside(state, 0.5).sum() + min(state[:2])
    np.testing.assert_allclose(found, [*product[:2], last], rtol=1e-13)


def test_evaluation_broadcasts_over_batches():
    field = trace(lambda x, t, p: [x[0] * p["a"] + t, 1.0], 1, {"a": 0.0})
    states, times, parameters = np.arange(6.0).reshape(1, 2, 3), np.array([10.0, 20.0, 30.0]), np.array([2.0])
    found = field(states, times, parameters)
    np.testing.assert_array_equal(found, np.stack([2 * states[0] + times, np.ones((2, 3))]))


def test_branch_on_a_value_raises_type_error():
    with pytest.raises(TypeError, match=r"must not branch on values, found a branch on a 'state' node"):
        trace(lambda x, t, p: [1.0 if x[0] else 2.0], 1, {})


def test_unknown_numpy_function_raises_attribute_error_naming_it():
    with pytest.raises(AttributeError, match=r"found np\.arctan2"):
        trace(lambda x, t, p: [np.arctan2(x[0], 1.0)], 1, {})


def test_output_that_is_no_number_raises_type_error():
    with pytest.raises(TypeError, match="found 'north'"):
        trace(lambda x, t, p: ["north"], 1, {})


def test_pickled_graph_comes_back_as_the_same_nodes():
    field = load_system("Lorenz").vector_field
    assert pickle.loads(pickle.dumps(field)).outputs == field.outputs


def test_topological_order_puts_arguments_first_and_stops_at_known_nodes():
    field = load_system("DoublePendulum").vector_field
    seen = set()
    for node in field.nodes:
        assert seen.issuperset(node.arguments)
        seen.add(node)
    outputs = field.outputs
    assert topological_order(outputs, known=set(outputs)) == tuple(dict.fromkeys(outputs))
