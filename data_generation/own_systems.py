"""Systems of your own: a function (x, t, parameters) that the pipeline finds by its import path.

The module holds the function and, under SYSTEMS, what the function does not say:

    import numpy as np

    def pendulum(x, t, parameters):
        return [x[1], -np.sin(x[0]) - parameters["friction"] * x[1] + parameters["force"] * np.cos(0.67 * t)]

    SYSTEMS = {
        "pendulum": {
            "parameters": {"friction": 0.5, "force": 1.15},
            "initial_condition": [0.1, 0.0],
            "period": 9.4,
            "unbounded": [0],  # optional: states that may grow without bound
            "observation": lambda x, t, parameters: [np.sin(x[0]), x[1]],  # optional: what is stored
            "split": "train",  # optional
        }
    }

Its name in a config is `package.module:pendulum`. The function runs once on symbols: plain arithmetic and `np`
functions, without branches on values; parameters are numbers or nested lists, seen as arrays.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from data_generation.config import SPLITS
from data_generation.expressions import VectorField, trace
from data_generation.integration import IntegrationStatus, integrate

REQUIRED, OPTIONAL = ("parameters", "initial_condition", "period"), ("unbounded", "observation", "split")


@dataclass(frozen=True, eq=False)
class OwnSystem:
    """A function and its description, checked."""

    path: str
    function: Callable[..., Sequence[Any]]
    parameters: dict[str, Any]
    initial_condition: np.ndarray
    period: float
    unbounded: tuple[int, ...]
    observation: Callable[..., Sequence[Any]] | None
    split: str

    @property
    def parameter_vector(self) -> np.ndarray:
        return np.hstack([[], *map(np.ravel, self.parameters.values())])


@dataclass(frozen=True, eq=False)
class TracedSystem:
    """What a function computes, and the spread of its attractor in a short run."""

    vector_field: VectorField
    observation: VectorField | None
    state_std: np.ndarray
    """(dimension,), 1 for unbounded states."""
    channel_std: np.ndarray
    """(channels,)"""


def is_import_path(name: str) -> bool:
    """Whether a name has the form `package.module:function`."""
    return ":" in name


@cache
def import_own_system(path: str) -> OwnSystem:
    """Import the system at `package.module:function`.

    Raises:
        ModuleNotFoundError: there is no such module.
        ValueError: the module lacks the function or its description, or the description breaks a rule."""
    module_name, _, name = path.partition(":")
    module = _import_module(module_name, path)
    function: Any = getattr(module, name, None)
    descriptions: Mapping[str, Any] = getattr(module, "SYSTEMS", {})
    _require(callable(function), path, f"be a function of {module_name}", function)
    _require(name in descriptions, path, f"have an entry in {module_name}.SYSTEMS", sorted(descriptions))
    settings: Mapping[str, Any] = descriptions[name]
    missing, unknown = set(REQUIRED) - settings.keys(), settings.keys() - {*REQUIRED, *OPTIONAL}
    _require(not missing, path, f"give {', '.join(REQUIRED)}", sorted(settings))
    _require(not unknown, path, f"give nothing beside {', '.join((*REQUIRED, *OPTIONAL))}", sorted(unknown))
    start = np.asarray(settings["initial_condition"], dtype=np.float64)
    _require(start.ndim == 1 and np.isfinite(start).all(), path, "start at one finite state", start)
    parameters = {key: np.asarray(value, np.float64).tolist() for key, value in sorted(settings["parameters"].items())}
    period, split = float(settings["period"]), settings.get("split", "train")
    _require(0 < period < np.inf, path, "have a positive period", period)
    _require(split in SPLITS, path, f"belong to one of {', '.join(SPLITS)}", split)
    unbounded = tuple(settings.get("unbounded", ()))
    _require(set(unbounded) <= set(range(len(start))), path, f"name states below {len(start)} as unbounded", unbounded)
    return OwnSystem(path, function, parameters, start, period, unbounded, settings.get("observation"), split)


def _import_module(name: str, path: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, and imports one that is not
        raise ModuleNotFoundError(
            f"{path!r} must name a module that can be imported from the current folder, found no {error.name!r} in "
            f"{os.getcwd()}; run the command where {error.name}.py lies, or put that folder on PYTHONPATH."
        ) from error


def trace_own_system(own: OwnSystem) -> TracedSystem:
    """Trace a function and run it for 30 periods, of which the last 20 are measured.

    Raises: ValueError when it cannot be traced, returns too few or too many numbers, or does not run so long."""
    dimension, vector = len(own.initial_condition), own.parameter_vector
    try:
        field = trace(own.function, dimension, own.parameters)
        observation = trace(own.observation, dimension, own.parameters) if own.observation else None
    except (TypeError, AttributeError) as error:
        raise ValueError(
            f"{own.path!r} must be arithmetic and np functions without branches on values, found: {error}; "
            "write choices with np.heaviside, np.sign, min or max"
        ) from error
    _require(len(field.outputs) == dimension, own.path, f"return {dimension} numbers", len(field.outputs))
    result = integrate(
        field, own.initial_condition, vector,
        dt=own.period / 50, num_points=1000, transient=10 * own.period, rtol=1e-7, atol=1e-9, unbounded=own.unbounded,
    )  # fmt: skip
    status = result.status[0]
    if status is not IntegrationStatus.COMPLETED:
        raise ValueError(
            f"{own.path!r} must run for 30 periods from its initial condition, found {status.name}: {status.message}"
        )
    states = result.states[0].T
    state_std = states.std(axis=1)
    state_std[list(own.unbounded)] = 1.0
    channel_std = state_std if observation is None else observation(states, 0.0, vector).std(axis=1)
    return TracedSystem(field, observation, state_std, channel_std)


def _require(holds: Any, path: str, rule: str, found: Any) -> None:
    if not holds:
        raise ValueError(f"{path!r} must {rule}, found {found!r}; see data_generation/own_systems.py for the form")
