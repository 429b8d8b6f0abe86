"""How a driver acts on a response: the coupling of a skew product, its constants, and its draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from data_generation.config import SkewProductConfig
from data_generation.expressions import Expression, apply, constant

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Coupling:
    """One coupling, from which, with the names of its parents, the skew product can be built again.

    With the driver's flow f_d and the response's own flow f_r, the response moves as

        additive:          x_r' = rate (k_d P f_d + k_r f_r)
        tanh, sin, relu:   x_r' = rate (act(k_d M_d f_d) + k_r M_r f_r)

    f_d is the flow of what is observed of the driver, so that an angle or a clock that grows without bound acts
    through its bounded coordinates.

    Source: Panda (arXiv:2505.13755), where the rate is 1.
    """

    kind: Literal["additive", "tanh", "sin", "relu"]
    driver_strength: float
    """k_d, one over the root mean square of the driver's flow, times the strength asked for."""
    response_strength: float
    """k_r, one over the root mean square of the response's flow."""
    rate: float
    driver_indices: tuple[int | None, ...] | None = None
    """P: the component of the driver's flow that each state of the response feels, None for none."""
    driver_matrix: Matrix | None = None
    """M_d, (response dimension, driver dimension)"""
    response_matrix: Matrix | None = None
    """M_r, (response dimension, response dimension)"""
    stored_states: Literal["response", "both"] = "response"

    @classmethod
    def from_json(cls, settings: dict[str, Any]) -> Coupling:
        """Return the coupling that `as_json` described.

        Raises: ValueError when fields are missing or unknown."""
        try:
            return cls(**{name: _as_tuples(value) for name, value in settings.items()})
        except TypeError as error:
            raise ValueError(
                f"a coupling must have the fields that a pair search writes, found {settings!r} ({error}); "
                "copy it whole from a search or from the column `generation` of a row"
            ) from error

    def as_json(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return asdict(self)

    def constants(self) -> dict[str, Any]:
        """Return the constants that count as parameters of the skew product, by name."""
        constants: dict[str, Any] = {
            "driver_strength": self.driver_strength,
            "rate": self.rate,
            "response_strength": self.response_strength,
        }
        if self.driver_matrix is not None and self.response_matrix is not None:
            constants["driver_matrix"] = np.array(self.driver_matrix).tolist()
            constants["response_matrix"] = np.array(self.response_matrix).tolist()
        return constants

    def combine(
        self, driver_flow: Sequence[Expression], response_flow: Sequence[Expression], constants: dict[str, Any]
    ) -> list[Expression]:
        """Return the flow of the response, from nodes with the names of `constants`."""
        k_d, k_r, rate = (constants[name] for name in ("driver_strength", "response_strength", "rate"))
        if self.driver_indices is not None:
            forces = [constant(0.0) if index is None else k_d * driver_flow[index] for index in self.driver_indices]
            own = response_flow
        else:
            forces = [_activate(self.kind, k_d * total) for total in _apply(constants["driver_matrix"], driver_flow)]
            own = _apply(constants["response_matrix"], response_flow)
        return [rate * (force + k_r * flow) for force, flow in zip(forces, own, strict=True)]


def draw_coupling(
    config: SkewProductConfig,
    *,
    driver_dimension: int,
    response_dimension: int,
    driver_rms: float,
    response_rms: float,
    rng: np.random.Generator,
) -> Coupling:
    """Draw from `rng` the coupling of one pair.

    Args:
        driver_dimension: components of the driver's flow, one per observed channel.
        driver_rms, response_rms: root mean square of each flow on its own attractor."""
    kind = config.kinds[int(rng.integers(len(config.kinds)))]
    common: dict[str, Any] = {
        "kind": kind,
        "driver_strength": config.strength / driver_rms,
        "response_strength": 1.0 / response_rms,
        "rate": response_rms if config.clock == "own" else 1.0,
        "stored_states": config.stored_states,
    }
    if kind == "additive":
        padded = [
            index if index < driver_dimension else None for index in range(max(driver_dimension, response_dimension))
        ]
        indices = tuple(padded[index] for index in rng.permutation(len(padded))[:response_dimension])
        return Coupling(**common, driver_indices=indices)
    shapes = {"driver_matrix": driver_dimension, "response_matrix": response_dimension}
    matrices: dict[str, Any] = {
        name: _draw_matrix(config, response_dimension, columns, rng) for name, columns in shapes.items()
    }
    return Coupling(**common, **matrices)


def _draw_matrix(config: SkewProductConfig, rows: int, columns: int, rng: np.random.Generator) -> Matrix:
    """Return a Gaussian matrix over sqrt(rows + columns), or the identity and a Gaussian one of low rank."""
    if config.matrix == "gaussian":
        matrix = rng.standard_normal((rows, columns))
    else:
        left, right = rng.standard_normal((rows, config.rank)), rng.standard_normal((config.rank, columns))
        matrix = np.eye(rows, columns) * np.sqrt(rows + columns) + left @ right / np.sqrt(config.rank)
    return _as_tuples((matrix / np.sqrt(rows + columns)).tolist())


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list | tuple) else value


def _apply(matrix: np.ndarray, flow: Sequence[Expression]) -> list[Expression]:
    """Return matrix @ flow."""
    totals = []
    for row in matrix:
        total = constant(0.0)
        for weight, component in zip(row, flow, strict=True):
            total = total + weight * component
        totals.append(total)
    return totals


def _activate(kind: str, value: Expression) -> Expression:
    return apply("maximum", value, 0.0) if kind == "relu" else apply(kind, value)
