"""Skew products: one chaotic system drives another, and the two together are a system like any other."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from data_generation.config import GenerationConfig
from data_generation.couplings import Coupling, draw_coupling
from data_generation.differentiation import jacobian
from data_generation.expressions import Expression, VectorField, apply, constant, flat_parameter_names, trace
from data_generation.integration import IntegrationStatus, integrate
from data_generation.plan import item_generator, system_words
from data_generation.systems import System, load_system, parents_of

# Of the reference run from which the size of a flow is taken.
REFERENCE_PERIODS, REFERENCE_TRANSIENT, REFERENCE_POINTS = 20, 10, 1000


def load_item_system(config: GenerationConfig, name: str) -> System:
    """Return the system of a plan item: one that can be loaded by name, or a skew product with its drawn coupling.

    The coupling depends on the seed, the settings of couplings and the names of the pair, on nothing else."""
    parents = parents_of(name)
    return build_skew_product(*parents, draw_pair_coupling(config, *parents)) if parents else load_system(name)


def load_row_system(name: str, generation: dict[str, Any]) -> System:
    """Return the system of a dataset row, from its columns `system` and `generation` (parsed from JSON)."""
    parents = parents_of(name)
    return build_skew_product(*parents, Coupling.from_json(generation["coupling"])) if parents else load_system(name)


def draw_pair_coupling(config: GenerationConfig, driver: str, response: str) -> Coupling:
    """Return the coupling of a pair: the one its settings give, else a draw from the spawn key that is its name."""
    name = f"{driver}->{response}"
    if name in config.skew_products.couplings:
        return Coupling.from_json(config.skew_products.couplings[name])
    rng = item_generator(config.seed, system_words(name))
    return draw_coupling(config.skew_products, **coupling_settings(driver, response), rng=rng)


def coupling_settings(driver: str, response: str) -> dict[str, Any]:
    """Return what `draw_coupling` must know of a pair: dimensions and sizes of the two flows."""
    return {
        "driver_dimension": len(observed_flow(load_system(driver)).outputs),
        "response_dimension": load_system(response).dimension,
        "driver_rms": driver_rms(driver),
        "response_rms": response_rms(response),
    }


@cache
def build_skew_product(driver_name: str, response_name: str, coupling: Coupling) -> System:
    """Return the skew product of two systems as one system over the joint state, the driver's states first.

    Its parameters are those of its parents and the constants of the coupling, so that one compiled kernel serves
    all perturbations: `driver.sigma`, `response.a`, `coupling.driver_strength`."""
    driver, response = load_system(driver_name), load_system(response_name)
    parameters = dict(
        sorted(
            (f"{part}.{name}", value)
            for part, values in (
                ("coupling", coupling.constants()),
                ("driver", driver.parameters),
                ("response", response.parameters),
            )
            for name, value in values.items()
        )
    )
    stored = (driver, response) if coupling.stored_states == "both" else (response,)
    dimension = driver.dimension + response.dimension
    system = System(
        name=f"{driver_name}->{response_name}",
        dimension=dimension,
        parameters=parameters,
        parameter_vector=_joined(*(np.ravel(value) for value in parameters.values())),
        parameter_names=flat_parameter_names(parameters),
        initial_condition=_joined(driver.initial_condition, response.initial_condition),
        state_std=_joined(driver.state_std, response.state_std),
        channel_std=_joined(*(system.channel_std for system in stored)),
        period=max(driver.period, response.period),
        lyapunov_time=None,
        vector_field=_fuse(driver, response, coupling, parameters),
        observation=_observe_stored(driver, response, coupling, parameters),
        unbounded=(*driver.unbounded, *(driver.dimension + index for index in response.unbounded)),
        coupling=coupling,
    )
    return system


def driver_rms(name: str) -> float:
    """Return the root mean square, over time and components, of what a system's flow adds to its observation."""
    return _reference_rms(name)[0]


def response_rms(name: str) -> float:
    """Return the root mean square, over time and states, of a system's flow."""
    return _reference_rms(name)[1]


@cache
def observed_flow(system: System) -> VectorField:
    """Return the rate of change of a system's observed channels as a field over its state: the chain rule."""
    if system.observation is None:
        return system.vector_field
    flow = system.vector_field.outputs
    derivatives = jacobian(system.observation).outputs
    outputs = []
    for start in range(0, len(derivatives), len(flow)):
        total = constant(0.0)
        for derivative, component in zip(derivatives[start : start + len(flow)], flow, strict=True):
            total = total + derivative * component
        outputs.append(total)
    return VectorField(tuple(outputs), system.dimension, system.parameter_names)


def embed(
    field: VectorField, states: Any, time: Expression, parameters: dict[str, Any], prefix: str
) -> list[Expression]:
    """Return the outputs of a field as nodes of another graph.

    Args:
        states: nodes that take the place of the field's states.
        parameters: nodes of the other graph by name; those named `prefix` and the field's own name are taken."""
    mine = {name.removeprefix(prefix): nodes for name, nodes in parameters.items() if name.startswith(prefix)}
    numbers = [node for name in sorted(mine) for node in np.ravel(mine[name])]
    places: dict[Expression, Expression] = {}
    for node in field.nodes:
        match node.operation:
            case "state":
                places[node] = states[node.payload]
            case "parameter":
                places[node] = numbers[node.payload]
            case "time":
                places[node] = time
            case "constant":
                places[node] = node
            case operation:
                places[node] = apply(operation, *(places[argument] for argument in node.arguments))
    return [places[output] for output in field.outputs]


def _fuse(driver: System, response: System, coupling: Coupling, parameters: dict[str, Any]) -> VectorField:
    def right_hand_side(state: np.ndarray, time: Expression, symbols: dict[str, Any]) -> list[Expression]:
        x_d, x_r = state[: driver.dimension], state[driver.dimension :]
        constants = {name.removeprefix("coupling."): node for name, node in symbols.items()}
        force = embed(observed_flow(driver), x_d, time, symbols, "driver.")
        own = embed(response.vector_field, x_r, time, symbols, "response.")
        own_driver = embed(driver.vector_field, x_d, time, symbols, "driver.")
        return [*own_driver, *coupling.combine(force, own, constants)]

    return trace(right_hand_side, driver.dimension + response.dimension, parameters)


def _observe_stored(driver: System, response: System, coupling: Coupling, parameters: dict[str, Any]) -> Any:
    if coupling.stored_states == "both" and driver.observation is None and response.observation is None:
        return None

    def observation(state: np.ndarray, time: Expression, symbols: dict[str, Any]) -> list[Expression]:
        parts = [("driver.", driver, state[: driver.dimension]), ("response.", response, state[driver.dimension :])]
        channels = []
        for prefix, system, states in parts if coupling.stored_states == "both" else parts[1:]:
            own = system.observation
            channels += list(states) if own is None else embed(own, states, time, symbols, prefix)
        return channels

    return trace(observation, driver.dimension + response.dimension, parameters)


@cache
def _reference_rms(name: str) -> tuple[float, float]:
    system = load_system(name)
    result = integrate(
        system.vector_field,
        system.initial_condition,
        system.parameter_vector,
        dt=system.period * REFERENCE_PERIODS / REFERENCE_POINTS,
        num_points=REFERENCE_POINTS,
        transient=system.period * REFERENCE_TRANSIENT,
        rtol=1e-7,
        atol=1e-9,
        unbounded=system.unbounded,
    )
    if result.status != [IntegrationStatus.COMPLETED]:
        raise ValueError(
            f"a parent of a skew product must run at its default parameters, found {name!r} with "
            f"{result.status[0].name}: {result.status[0].message}."
        )
    times = system.period * (REFERENCE_TRANSIENT + REFERENCE_PERIODS / REFERENCE_POINTS * np.arange(REFERENCE_POINTS))
    fields = (observed_flow(system), system.vector_field)
    flows = [field(result.states[0].T, times, system.parameter_vector[:, None]) for field in fields]
    driver, response = (float(np.sqrt(np.mean(flow**2))) for flow in flows)
    return driver, response


def _joined(*parts: np.ndarray) -> np.ndarray:
    vector = np.concatenate([np.asarray(part, np.float64) for part in parts])
    vector.setflags(write=False)
    return vector
