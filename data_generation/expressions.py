"""Right-hand sides as small expression graphs: traced once from Python, then evaluated, compiled or differentiated.

A graph is made of immutable `Expression` nodes. Equal subexpressions are one and the same object, so sharing is
identity. Inner nodes are named after the numpy ufunc that evaluates them.
"""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

INPUTS = ("constant", "state", "parameter", "time")
UNARY = ("negative", "sin", "cos", "tanh", "exp", "log", "cosh", "sinh", "sqrt", "absolute", "sign")
BINARY = ("add", "subtract", "multiply", "divide", "power", "heaviside", "maximum", "minimum")
_LARGEST_UNROLLED_POWER = 64


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Expression:
    """A node of an expression graph; made by arithmetic on other nodes, never directly.

    `payload` is the value of a constant and the index of a state or parameter, None for inner nodes.
    """

    operation: str
    arguments: tuple[Expression, ...]
    payload: Any

    def __bool__(self) -> bool:
        raise TypeError(
            f"the right-hand side must not branch on values, found a branch on a {self.operation!r} node; "
            "write the choice with np.heaviside, np.sign, min or max"
        )

    def __reduce__(self):
        return _node, (self.operation, self.arguments, self.payload)

    def __add__(self, other):
        return _arithmetic("add", self, other)

    def __radd__(self, other):
        return _arithmetic("add", other, self)

    def __sub__(self, other):
        return _arithmetic("subtract", self, other)

    def __rsub__(self, other):
        return _arithmetic("subtract", other, self)

    def __mul__(self, other):
        return _arithmetic("multiply", self, other)

    def __rmul__(self, other):
        return _arithmetic("multiply", other, self)

    def __truediv__(self, other):
        return _arithmetic("divide", self, other)

    def __rtruediv__(self, other):
        return _arithmetic("divide", other, self)

    def __pow__(self, other):
        return _arithmetic("power", self, other)

    def __rpow__(self, other):
        return _arithmetic("power", other, self)

    def __neg__(self):
        return apply("negative", self)

    def __pos__(self):
        return self

    def __abs__(self):
        return apply("absolute", self)


_nodes: weakref.WeakValueDictionary[tuple, Expression] = weakref.WeakValueDictionary()


def _node(operation: str, arguments: tuple[Expression, ...] = (), payload: Any = None):
    return _nodes.setdefault((operation, arguments, payload), Expression(operation, arguments, payload))


def constant(value: float) -> Expression:
    """Return the node of a number."""
    return _node("constant", payload=float(value))


def as_expression(value: Any) -> Expression:
    """Return `value` itself if it is a node, the constant node of it if it is a real number."""
    if isinstance(value, Expression):
        return value
    if isinstance(value, int | float | np.integer | np.floating):
        return constant(float(value))
    raise TypeError(f"an expression holds real numbers and nodes, found {value!r}")


def _arithmetic(operation: str, left: Any, right: Any):
    if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
        return NotImplemented  # numpy then goes through the array element by element
    return apply(operation, left, right)


def apply(operation: str, *arguments: Any) -> Expression:
    """Return the node of one operation of `UNARY` or `BINARY`, with constants folded and integer powers unrolled."""
    nodes = tuple(as_expression(argument) for argument in arguments)
    values = [node.payload for node in nodes if node.operation == "constant"]
    if len(values) == len(nodes):
        return constant(getattr(np, operation)(*map(np.float64, values)))
    if len(nodes) == 2 and len(values) == 1:
        simpler = _simplify(operation, *nodes)
        if simpler is not None:
            return simpler
    return _node(operation, nodes)


def _simplify(operation: str, left: Expression, right: Expression) -> Expression | None:
    """Drop neutral elements and unroll integer powers; exactly one of the arguments is a constant."""
    first, second = (node.payload if node.operation == "constant" else None for node in (left, right))
    match operation, first, second:
        case ("add", 0.0, _) | ("multiply", 1.0, _):
            return right
        case ("add" | "subtract", _, 0.0) | ("multiply" | "divide" | "power", _, 1.0):
            return left
        case ("subtract", 0.0, _) | ("multiply", -1.0, _):
            return apply("negative", right)
        case ("multiply" | "divide", _, -1.0):
            return apply("negative", left)
        case ("multiply" | "divide", 0.0, _) | ("multiply", _, 0.0):
            return constant(0.0)
        case ("power", None, float(exponent)) if exponent.is_integer() and abs(exponent) <= _LARGEST_UNROLLED_POWER:
            return _unroll(left, int(exponent))
    return None


def _unroll(base: Expression, exponent: int) -> Expression:
    if exponent < 0:
        return constant(1.0) / _unroll(base, -exponent)
    if exponent == 0:
        return constant(1.0)
    half = _unroll(base, exponent // 2) if exponent > 1 else constant(1.0)
    return half * half * base if exponent % 2 else half * half


@dataclass(frozen=True, eq=False)
class VectorField:
    """A map (state, time, parameters) -> outputs as an expression graph: a flow, or an observation of its state."""

    outputs: tuple[Expression, ...]
    num_states: int
    parameter_names: tuple[str, ...]

    @cached_property
    def nodes(self) -> tuple[Expression, ...]:
        """Every node once, arguments before the nodes that use them."""
        return topological_order(self.outputs)

    @property
    def num_operations(self) -> int:
        return sum(node.operation not in INPUTS for node in self.nodes)

    @property
    def depends_on_time(self) -> bool:
        """Whether time appears explicitly (forced systems of dysts carry their clock in the state instead)."""
        return any(node.operation == "time" for node in self.nodes)

    def __call__(self, states: np.ndarray, time: np.ndarray | float, parameters: np.ndarray) -> np.ndarray:
        """Evaluate with numpy.

        Args:
            states: (num_states, ...).
            time: broadcastable against one state.
            parameters: (num_parameters, ...), each broadcastable against one state.

        Returns:
            (num_outputs, ...).
        """
        with np.errstate(all="ignore"):  # outside its domain a right-hand side has no value, and says so as NaN
            return self._evaluate(states, time, parameters)

    def _evaluate(self, states: Any, time: Any, parameters: Any) -> np.ndarray:
        values: dict[Expression, Any] = {}
        inputs = {"state": states, "parameter": parameters}
        for node in self.nodes:
            if node.operation == "constant":
                values[node] = node.payload
            elif node.operation == "time":
                values[node] = time
            elif node.operation in inputs:
                values[node] = inputs[node.operation][node.payload]
            else:
                values[node] = getattr(np, node.operation)(*(values[argument] for argument in node.arguments))
        shape = np.broadcast_shapes(np.shape(states)[1:], np.shape(time), np.shape(parameters)[1:])
        return np.stack([np.broadcast_to(values[output], shape) for output in self.outputs]).astype(np.float64)


def topological_order(outputs: Iterable[Expression], known: Container[Expression] = ()) -> tuple[Expression, ...]:
    """Return every node that `outputs` need once, arguments first; those of `known` nodes are not needed."""
    order: dict[Expression, None] = {}
    pending = list(outputs)[::-1]
    while pending:
        node = pending[-1]
        arguments = () if node in known else node.arguments
        missing = [argument for argument in arguments if argument not in order]
        if missing:
            pending.extend(reversed(missing))
        else:
            order[pending.pop()] = None
    return tuple(order)


def flat_parameter_names(parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """Return one name per number, sorted by parameter: "beta", and "w[0,1]" for the entries of an array."""
    return tuple(
        name + (f"[{','.join(map(str, index))}]" if index else "")
        for name in sorted(parameters)
        for index in np.ndindex(np.shape(parameters[name]))
    )


def state_symbols(num_states: int) -> list[Expression]:
    """Return the nodes of the states, in order."""
    return [_node("state", payload=index) for index in range(num_states)]


def symbolic_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a node per parameter, an object array of nodes per array parameter, numbered as `flat_parameter_names`."""
    symbols: dict[str, Any] = {}
    count = 0
    for name in sorted(parameters):
        shape = np.shape(parameters[name])
        array = np.empty(shape, dtype=object)
        for index in np.ndindex(shape):
            array[index] = _node("parameter", payload=count)
            count += 1
        symbols[name] = array if shape else array[()]
    return symbols


def trace(function: Callable[..., Sequence[Any]], num_states: int, parameters: Mapping[str, Any]) -> VectorField:
    """Run `function(state, time, parameters)` once on symbols and return what it computed.

    Args:
        function: plain Python with numpy imported as `np`; it may use what `SYMBOLIC_NUMPY` offers and must
            not branch on values. `state` is an object array of `num_states` nodes, `parameters` a dict of nodes.
        parameters: their names and shapes; values are not used.

    Raises:
        TypeError: `function` branches on a value.
        AttributeError: it uses a numpy function that cannot be traced.
    """
    state = np.array(state_symbols(num_states), dtype=object)
    outputs = symbolic_function(function)(state, _node("time"), symbolic_parameters(parameters))
    return VectorField(tuple(as_expression(output) for output in outputs), num_states, flat_parameter_names(parameters))


def symbolic_function(function: Callable) -> Callable:
    """Return `function` (compiled by numba or not) with `np`, `min` and `max` replaced by their symbolic twins."""
    plain = getattr(function, "py_func", function)
    if not isinstance(plain, types.FunctionType):
        raise TypeError(f"only Python functions can be traced, found {function!r}")
    names = {**plain.__globals__, "np": SYMBOLIC_NUMPY, "min": _reduction("minimum"), "max": _reduction("maximum")}
    return types.FunctionType(plain.__code__, names, plain.__name__, plain.__defaults__, plain.__closure__)


def _elementwise(operation: str) -> Callable[..., Any]:
    num_arguments = 1 if operation in UNARY else 2
    return np.frompyfunc(lambda *arguments: apply(operation, *arguments), num_arguments, 1)


def _reduction(operation: str) -> Callable[..., Any]:
    """Return min or max over its arguments, or over an array along `axis`."""
    pairwise = _elementwise(operation)

    def reduce(first: Any, *others: Any, axis: int | None = None) -> Any:
        array = np.array([first, *others], dtype=object) if others else np.asarray(first, dtype=object)
        return pairwise.reduce(array.ravel() if axis is None else array, axis=axis or 0)

    return reduce


class _SymbolicNumpy(types.SimpleNamespace):
    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"a traced function may use np.{', np.'.join(sorted(vars(self)))}; found np.{name}")


SYMBOLIC_NUMPY = _SymbolicNumpy(
    pi=np.pi,
    min=_reduction("minimum"),
    max=_reduction("maximum"),
    abs=_elementwise("absolute"),
    **{name: _elementwise(name) for name in (*UNARY, *BINARY)},
    **{name: getattr(np, name) for name in ("arange", "array", "copy", "dot", "hstack", "matmul", "sum", "zeros_like")},
)
"""What a traced function finds under the name `np`."""
