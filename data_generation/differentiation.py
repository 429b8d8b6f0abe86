"""Derivatives of vector fields as expression graphs, and the fields that carry perturbations along a trajectory.

A small perturbation u changes with J u, J the Jacobian. Where the right-hand side may jump, J misses what the jump does
to a perturbation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from data_generation.expressions import INPUTS, Expression, VectorField, apply, constant, state_symbols

_ZERO = constant(0.0)


def jacobian(vector_field: VectorField) -> VectorField:
    """Return the field of all first derivatives by the state.

    At kinks the derivative of |x| is 0 and that of max and min the mean of both sides; steps (sign, heaviside)
    have derivative 0 everywhere.

    Returns:
        A field with num_outputs * num_states outputs: number i * num_states + j is d output_i / d state_j.
    """
    symbols = state_symbols(vector_field.num_states)
    columns = [_derivatives(vector_field, {symbol: constant(1.0)}) for symbol in symbols]
    entries = tuple(column[row] for row in range(len(vector_field.outputs)) for column in columns)
    return VectorField(entries, vector_field.num_states, vector_field.parameter_names)


def may_jump(vector_field: VectorField) -> bool:
    """Return whether a step function (sign, heaviside) appears in the field."""
    return any(node.operation in ("sign", "heaviside") for node in vector_field.nodes)


@cache
def tangent_field(vector_field: VectorField, num_tangents: int, perturbed: tuple[int, ...]) -> VectorField:
    """Return x' = f(x) with perturbations u_i of the `perturbed` states: u_i' = J(x) u_i, in their rows.

    Where the field `may_jump`, u_i' = f(x + u_i) - f(x), so that the length of u_i counts: small against the state, and
    large against the tolerance of the integration.

    Returns:
        A field of num_states + num_tangents * len(perturbed) states: x, then u_1, then u_2, ...
    """
    dimension, width = vector_field.num_states, len(perturbed)
    symbols = state_symbols(dimension + num_tangents * width)
    push = _differences if may_jump(vector_field) else _derivatives
    outputs = list(vector_field.outputs)
    for start in range(dimension, len(symbols), width):
        direction = symbols[start : start + width]
        pushed = push(vector_field, {symbols[index]: u for index, u in zip(perturbed, direction, strict=True)})
        outputs += [pushed[index] for index in perturbed]
    return VectorField(tuple(outputs), len(outputs), vector_field.parameter_names)


@cache
def growth_field(vector_field: VectorField, perturbed: tuple[int, ...]) -> VectorField:
    """Return x' = f(x) with the direction u and the logarithmic growth l of one perturbation of constant length.

    With J the block of the Jacobian that belongs to the `perturbed` states, and g = u.Ju / u.u:
    u' = J u - g u and l' = g, which holds the length of u whatever the sign of g. Jumps are left out.

    Returns:
        A field of num_states + len(perturbed) + 1 states: x, u, l.
    """
    dimension = vector_field.num_states
    symbols = state_symbols(dimension + len(perturbed))
    direction = symbols[dimension:]
    pushed = _derivatives(vector_field, {symbols[index]: u for index, u in zip(perturbed, direction, strict=True)})
    block = [pushed[index] for index in perturbed]
    growth = _dot(direction, block) / _dot(direction, direction)
    turning = [change - growth * u for change, u in zip(block, direction, strict=True)]
    outputs = (*vector_field.outputs, *turning, growth)
    return VectorField(outputs, len(outputs), vector_field.parameter_names)


def _differences(vector_field: VectorField, tangents: Mapping[Expression, Expression]) -> list[Expression]:
    """Return f(x + u) - f(x), u what `tangents` gives some of the states."""
    values = {symbol: symbol + tangent for symbol, tangent in tangents.items()}
    for node in vector_field.nodes:
        if node not in values:
            arguments = [values[argument] for argument in node.arguments]
            values[node] = node if node.operation in INPUTS else apply(node.operation, *arguments)
    return [values[output] - output for output in vector_field.outputs]


def _dot(left: Sequence[Expression], right: Sequence[Expression]) -> Expression:
    total = _ZERO
    for a, b in zip(left, right, strict=True):
        total = total + a * b
    return total


def _derivatives(vector_field: VectorField, tangents: Mapping[Expression, Expression]) -> list[Expression]:
    """Return the derivative of every output along the direction that `tangents` gives some of the states."""
    found = dict(tangents)
    for node in vector_field.nodes:
        if any(argument in found for argument in node.arguments):
            tangent = _chain(node, [found.get(argument, _ZERO) for argument in node.arguments])
            if tangent is not _ZERO:
                found[node] = tangent
    return [found.get(output, _ZERO) for output in vector_field.outputs]


def _chain(node: Expression, tangents: list[Expression]) -> Expression:
    """Return the derivative of one operation from those of its arguments."""
    if len(tangents) == 1:
        return tangents[0] * _slope(node) if node.operation != "negative" else -tangents[0]
    (a, b), (da, db) = node.arguments, tangents
    match node.operation:
        case "add":
            return da + db
        case "subtract":
            return da - db
        case "multiply":
            return da * b + a * db
        case "divide":
            return (da - node * db) / b
        case "power":
            by_base = _ZERO if da is _ZERO else da * b * a ** (b - 1.0)
            return by_base if db is _ZERO else by_base + db * node * apply("log", a)
        case "maximum":
            return db + (da - db) * apply("heaviside", a - b, 0.5)
        case "minimum":
            return db + (da - db) * apply("heaviside", b - a, 0.5)
        case "heaviside":
            return _ZERO
    raise AssertionError(f"no derivative of {node.operation!r}")


def _slope(node: Expression) -> Expression:
    """Return the derivative of an operation of one argument."""
    (a,) = node.arguments
    match node.operation:
        case "sin":
            return apply("cos", a)
        case "cos":
            return -apply("sin", a)
        case "tanh":
            return 1.0 - node * node
        case "exp":
            return node
        case "log":
            return 1.0 / a
        case "cosh":
            return apply("sinh", a)
        case "sinh":
            return apply("cosh", a)
        case "sqrt":
            return 0.5 / node
        case "absolute":
            return apply("sign", a)
        case "sign":
            return _ZERO
    raise AssertionError(f"no derivative of {node.operation!r}")
