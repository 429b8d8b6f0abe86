"""The systems: the 129 ordinary differential equations of dysts and the user's own, with their splits."""

from __future__ import annotations

import difflib
import inspect
import types
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from data_generation.couplings import Coupling
from data_generation.expressions import (
    VectorField,
    flat_parameter_names,
    symbolic_function,
    trace,
)
from data_generation.own_systems import OwnSystem, import_own_system, is_import_path, trace_own_system

# Relatives stand together, so that the well-known series stay unseen in training.
TEST_SYSTEMS = (
    "Lorenz", "HyperLorenz", "LorenzBounded", "LorenzCoupled", "LorenzStenflo", "Lorenz84", "Lorenz96",
    "RayleighBenard", "Chua", "MultiChua", "SprottM", "Rossler", "HyperRossler", "Halvorsen", "Thomas",
    "ThomasLabyrinth", "DoublePendulum", "HindmarshRose", "Aizawa", "RabinovichFabrikant", "ShimizuMorioka",
    "Rucklidge", "NewtonLiepnik",
)  # fmt: skip
VALIDATION_SYSTEMS = (
    "Arneodo", "Chen", "Dadras", "Finance", "GenesioTesi", "NuclearQuadrupole", "SprottA", "SprottK", "Bouali",
    "DequanLi",
)  # fmt: skip
NOT_CLEARLY_CHAOTIC = (
    "Bouali2", "CaTwoPlusQuasiperiodic", "CircadianRhythm", "ForcedVanDerPol", "KawczynskiStrizhak",
    "NoseHoover", "StickSlipOscillator", "Torus", "Tsucs2",
)  # fmt: skip
"""Exponent x period below 0.02 by the variational equation at default parameters, whatever dysts states."""


@dataclass(frozen=True, eq=False)
class System:
    """One dynamical system at its default parameters."""

    name: str
    dimension: int
    parameters: dict[str, Any]
    """Defaults by name: numbers, nested lists for arrays."""
    parameter_vector: np.ndarray
    """(num_parameters,) the defaults, flattened in the order of `parameter_names`."""
    parameter_names: tuple[str, ...]
    initial_condition: np.ndarray
    """(dimension,)"""
    state_std: np.ndarray
    """(dimension,) standard deviation over the attractor, of the observed channel where the state is unbounded."""
    channel_std: np.ndarray
    """(channels,) standard deviation of what is observed."""
    period: float
    """Dominant period in the system's own time."""
    lyapunov_time: float | None
    """One over the largest exponent where dysts' estimate can be trusted, else None."""
    vector_field: VectorField
    observation: VectorField | None
    """Map from the state to bounded channels (cosines of angles, ...); None where the state itself is observed."""
    unbounded: tuple[int, ...]
    """States that may grow without bound: angles and clocks."""
    coupling: Coupling | None = None
    """Of a skew product."""


def system_names() -> tuple[str, ...]:
    """Return the names of all systems, sorted."""
    return tuple(sorted(_catalogue()))


def parents_of(name: str) -> tuple[str, str] | None:
    """Return driver and response of a skew product `Driver->Response`, None for any other name.

    Raises: ValueError if the name has another number of arrows or an empty side."""
    if "->" not in name:
        return None
    parents = name.split("->")
    if len(parents) != 2 or not all(parents):
        raise ValueError(f"a skew product must be named 'Driver->Response', found {name!r}; chains are not offered")
    return parents[0], parents[1]


def split_of(name: str) -> str:
    """Return the split a system belongs to: "train", "validation" or "test".

    A skew product is held out if either parent is, with the test split before validation. A system of the user's
    own belongs where its description says, else to "train"."""
    splits = {_split_of_one(part) for part in parents_of(name) or (name,)}
    return next(split for split in ("test", "validation", "train") if split in splits)


def _split_of_one(name: str) -> str:
    if is_import_path(name):
        return import_own_system(name).split
    _check_name(name)
    return "test" if name in TEST_SYSTEMS else "validation" if name in VALIDATION_SYSTEMS else "train"


@cache
def load_system(name: str) -> System:
    """Return a system by its dysts name, or by the import path of a function of one's own.

    Raises:
        ValueError: the name is unknown, or that of a skew product, which needs a coupling: see `skew_products`.
        ModuleNotFoundError: dysts or the function's module is not installed.
    """
    if parents_of(name):
        raise ValueError(
            f"a skew product is built with its coupling, found its name alone, {name!r}; use load_item_system or "
            "load_row_system of data_generation.skew_products"
        )
    if is_import_path(name):
        return _build_own_system(import_own_system(name))
    _check_name(name)
    flow = _catalogue()[name]()
    parameters = {key: np.asarray(flow.params[key], dtype=np.float64).tolist() for key in sorted(flow.params)}
    dimension = int(flow.dimension)
    unbounded = tuple(int(index) for index in flow.unbounded_indices)
    return System(
        name=name,
        dimension=dimension,
        parameters=parameters,
        parameter_vector=_frozen(np.hstack([[], *map(np.ravel, parameters.values())])),
        parameter_names=flat_parameter_names(parameters),
        initial_condition=_frozen(flow.ic),
        state_std=_frozen(_spread(flow.std)),
        channel_std=_frozen(_spread(flow.std)),
        period=float(flow.period),
        lyapunov_time=_lyapunov_time(flow),
        vector_field=_trace_flow(flow, dimension, parameters),
        observation=_trace_observation(flow, dimension, parameters),
        unbounded=unbounded,
    )


def unflatten_parameters(system: System, vector: np.ndarray) -> dict[str, Any]:
    """Return parameters by name, arrays as nested lists, from (num_parameters,) numbers."""
    vector = np.asarray(vector, dtype=np.float64)
    if vector.shape != system.parameter_vector.shape:
        raise ValueError(
            f"{system.name} has {len(system.parameter_vector)} parameters, found shape {vector.shape!r}; "
            "pass one number per entry of parameter_names"
        )
    parameters, start = {}, 0
    for name, default in system.parameters.items():
        size = np.size(default)
        parameters[name] = vector[start : start + size].reshape(np.shape(default)).tolist()
        start += size
    return parameters


def flatten_parameters(system: System, parameters: dict[str, Any]) -> np.ndarray:
    """Return the (num_parameters,) vector of parameters given by name, e.g. those of a dataset row."""
    if parameters.keys() != system.parameters.keys():
        raise ValueError(
            f"{system.name} has the parameters {sorted(system.parameters)}, found {sorted(parameters)}; give each once"
        )
    return np.hstack([[], *(np.ravel(parameters[name]) for name in system.parameters)])


def observe(system: System, states: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """Map raw states to the channels a data set stores.

    Args:
        states: (..., time, dimension).
        parameters: (num_parameters,) those the states were made with.

    Returns:
        (..., time, channels); `states` itself where the system has no observation map.
    """
    if system.observation is None:
        return states
    return np.moveaxis(system.observation(np.moveaxis(states, -1, 0), 0.0, parameters), 0, -1)


@cache
def _catalogue() -> dict[str, type]:
    try:
        from dysts import flows
        from dysts.systems import get_attractor_list
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the systems come from dysts, which is not installed; run: pip install 'hf_tsdyn[data]'"
        ) from error
    return {name: getattr(flows, name) for name in get_attractor_list("continuous_no_delay")}


def _check_name(name: str) -> None:
    if name not in _catalogue():
        close = difflib.get_close_matches(name, _catalogue(), n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}?" if close else "system_names() lists them"
        raise ValueError(
            f"a system must be one of the {len(_catalogue())} known ones, or module:function of yours, found {name!r}; "
            f"{hint}"
        )


def _frozen(values: Any) -> np.ndarray:
    array = np.array(values, dtype=np.float64)
    array.setflags(write=False)
    return array


def _spread(std: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(std) & (np.asarray(std) > 0), std, 1.0)


def _build_own_system(own: OwnSystem) -> System:
    traced = trace_own_system(own)
    return System(
        name=own.path,
        dimension=len(own.initial_condition),
        parameters=own.parameters,
        parameter_vector=_frozen(own.parameter_vector),
        parameter_names=traced.vector_field.parameter_names,
        initial_condition=_frozen(own.initial_condition),
        state_std=_frozen(_spread(traced.state_std)),
        channel_std=_frozen(_spread(traced.channel_std)),
        period=own.period,
        lyapunov_time=None,
        vector_field=traced.vector_field,
        observation=traced.observation,
        unbounded=own.unbounded,
    )


def _lyapunov_time(flow: Any) -> float | None:
    """Return the Lyapunov time where dysts' exponent can be trusted.

    Against the variational equation dysts' exponents are off by a third in the median. One is used only if the
    system is clearly chaotic (exponent x period above 0.02, not in `NOT_CLEARLY_CHAOTIC`) and dysts' two own
    estimates agree within a quarter of their mean.
    """
    exponent = flow.maximum_lyapunov_estimated
    spectrum = flow.lyapunov_spectrum_estimated
    if flow.name in NOT_CLEARLY_CHAOTIC or not spectrum or exponent * flow.period <= 0.02:
        return None
    if abs(exponent - spectrum[0]) > 0.25 * (exponent + spectrum[0]) / 2:
        return None
    return 1.0 / exponent


class _SymbolicFlow:
    """Stands in for `self` in a dysts class: parameters are symbols, methods run on symbols."""

    def __init__(self, flow_class: type, parameters: dict[str, Any]) -> None:
        self._flow_class = flow_class
        self.param_list = [parameters[name] for name in sorted(parameters)]
        self.__dict__.update(parameters)

    def __getattr__(self, name: str) -> Any:
        attribute = inspect.getattr_static(self._flow_class, name)
        function = attribute
        while isinstance(function, staticmethod):  # dysts wraps one of them twice
            function = function.__func__
        function = symbolic_function(function)
        return function if isinstance(attribute, staticmethod) else types.MethodType(function, self)


def _trace_flow(flow: Any, dimension: int, parameters: dict[str, Any]) -> VectorField:
    def right_hand_side(state: np.ndarray, time: Any, symbols: dict[str, Any]) -> Sequence[Any]:
        return _SymbolicFlow(type(flow), symbols).rhs(state, time)

    return trace(right_hand_side, dimension, parameters)


def _trace_observation(flow: Any, dimension: int, parameters: dict[str, Any]) -> VectorField | None:
    if not hasattr(flow, "_postprocessing"):
        return None

    def observation(state: np.ndarray, time: Any, symbols: dict[str, Any]) -> Sequence[Any]:
        return _SymbolicFlow(type(flow), symbols)._postprocessing(*state)

    return trace(observation, dimension, parameters)
