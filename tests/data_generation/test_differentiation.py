"""Symbolic derivatives against complex steps, closed forms and the Jacobians that dysts holds."""

import warnings

import numpy as np
import pytest

from data_generation.differentiation import growth_field, jacobian, may_jump, tangent_field
from data_generation.expressions import INPUTS, VectorField, trace
from data_generation.systems import load_system, system_names

flows = pytest.importorskip("dysts.flows")

BY_REAL_PART = {
    "absolute": lambda a: a if a.real > 0 else -a,
    "sign": lambda a: np.sign(a.real),
    "heaviside": lambda a, b: np.heaviside(a.real, b.real),
    "maximum": lambda a, b: a if a.real >= b.real else b,
    "minimum": lambda a, b: a if a.real <= b.real else b,
}
HAND_WRITTEN = [name for name in system_names() if "_jac" in vars(getattr(flows, name))]
WITH_JUMPS_IN_PAIRS = trace(
    lambda x, t, p: [np.abs(x[0]), np.sign(x[0]), np.heaviside(x[0], 0.5), max(x[0], x[1]), min(x[0], x[1])], 2, {}
)


def evaluate(field: VectorField, states, time, parameters):
    """The outputs at one complex state; what branches does so on real parts."""
    inputs = {"state": states, "parameter": parameters}
    values = {}
    for node in field.nodes:
        if node.operation in INPUTS:
            given = inputs.get(node.operation)
            values[node] = given[node.payload] if given is not None else time if node.payload is None else node.payload
        else:
            function = BY_REAL_PART.get(node.operation, getattr(np, node.operation))
            values[node] = function(*(np.complex128(values[argument]) for argument in node.arguments))
    return np.array([values[output] for output in field.outputs], dtype=complex)


def complex_step_jacobian(field, state, time, parameters):
    steps = state[:, None] + 1e-30j * np.eye(len(state))
    return np.stack([evaluate(field, column, time, parameters).imag / 1e-30 for column in steps.T], axis=1)


def on_the_attractor(system, seed):
    generator = np.random.default_rng(seed)
    state = system.initial_condition + 0.1 * system.state_std * generator.standard_normal(system.dimension)
    return state, generator.uniform(0, system.period)


def symbolic(field, state, time, parameters):
    return jacobian(field)(state, time, parameters).reshape(len(field.outputs), field.num_states)


@pytest.mark.parametrize("name", system_names())
def test_jacobian_equals_complex_steps(name):
    system = load_system(name)
    state, time = on_the_attractor(system, 5)
    with np.errstate(all="ignore"):
        expected = complex_step_jacobian(system.vector_field, state, time, system.parameter_vector)
        found = symbolic(system.vector_field, state, time, system.parameter_vector)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13 * np.abs(expected).max())


@pytest.mark.parametrize("name", HAND_WRITTEN)
def test_jacobian_equals_the_one_of_dysts(name):
    system, flow = load_system(name), getattr(flows, name)()
    state, time = on_the_attractor(system, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numba warns that it cannot compile some of them
        expected = np.array(flow.jac(state, time), dtype=float)
    found = symbolic(system.vector_field, state, time, system.parameter_vector)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12 * np.abs(expected).max())


def test_every_operation_has_the_derivative_of_the_closed_form():
    def function(x, t, p):
        a, b = x
        smooth = [np.sin(a), np.cos(a), np.tanh(a), np.exp(a), np.log(a), np.cosh(a), np.sinh(a), np.sqrt(a)]
        return [*smooth, -a, a / b, a**b, 2.0**a, a ** p["n"], a**-3, a * t - b, np.array([a, b]) @ x]

    field = trace(function, 2, {"n": 2.5})
    state, parameters = np.array([0.7, 1.9]), np.array([2.5])
    found = symbolic(field, state, 0.3, parameters)
    np.testing.assert_allclose(found, complex_step_jacobian(field, state, 0.3, parameters), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ([2.0, -1.0], [[1, 0], [0, 0], [0, 0], [1, 0], [0, 1]]),
        ([-2.0, 1.0], [[-1, 0], [0, 0], [0, 0], [0, 1], [1, 0]]),
        ([0.0, 0.0], [[0, 0], [0, 0], [0, 0], [0.5, 0.5], [0.5, 0.5]]),
    ],
)
def test_kinks_have_the_mean_of_both_sides_and_steps_have_none(state, expected):
    found = symbolic(WITH_JUMPS_IN_PAIRS, np.array(state), 0.0, np.empty(0))
    np.testing.assert_array_equal(found, expected)


def test_tangents_move_with_the_jacobian():
    system = load_system("DoublePendulum")
    state, time = on_the_attractor(system, 7)
    tangents = np.random.default_rng(0).standard_normal((3, system.dimension))
    field = tangent_field(system.vector_field, 3, (0, 1, 2, 3))
    found = field(np.concatenate([state, tangents.ravel()]), time, system.parameter_vector)
    matrix = symbolic(system.vector_field, state, time, system.parameter_vector)
    flow = system.vector_field(state, time, system.parameter_vector)
    np.testing.assert_allclose(found, np.concatenate([flow, (tangents @ matrix.T).ravel()]), rtol=1e-12)


def test_growth_field_keeps_the_length_of_the_perturbation_and_counts_its_growth():
    system = load_system("HyperRossler")
    state, time = on_the_attractor(system, 8)
    perturbed, direction = (3, 1), np.array([0.5, -2.0])
    field = growth_field(system.vector_field, perturbed)
    found = field(np.concatenate([state, direction, [9.0]]), time, system.parameter_vector)
    block = symbolic(system.vector_field, state, time, system.parameter_vector)[np.ix_(perturbed, perturbed)]
    growth = direction @ block @ direction / (direction @ direction)
    np.testing.assert_allclose(found[4:6], block @ direction - growth * direction, rtol=1e-13)
    np.testing.assert_allclose(found[4:6] @ direction, 0.0, atol=1e-13)
    np.testing.assert_allclose(found[6], growth, rtol=1e-13)


def test_field_that_may_jump_compares_two_points():
    system = load_system("SprottMore")
    state, time = on_the_attractor(system, 9)
    separation = np.array([0.3, -0.1, -2 * state[2]])
    field, parameters = system.vector_field, system.parameter_vector
    difference = field(state + separation, time, parameters) - field(state, time, parameters)
    found = tangent_field(field, 1, (0, 1, 2))(np.concatenate([state, separation]), time, parameters)
    np.testing.assert_allclose(found[3:], difference, rtol=1e-13)
    assert may_jump(field)
    assert not may_jump(load_system("Chua").vector_field)


def test_derivatives_share_what_the_flow_computes():
    field = trace(lambda x, t, p: [np.exp(np.sin(x[0])) * x[1], x[0]], 2, {})
    operations = [node.operation for node in tangent_field(field, 2, (0, 1)).nodes]
    assert [operations.count(name) for name in ("exp", "sin", "cos")] == [1, 1, 1]
