"""Bundles of small perturbations carried along trajectories by the variational equations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from data_generation.differentiation import may_jump, tangent_field
from data_generation.dormand_prince import NUM_STAGES
from data_generation.expressions import VectorField
from data_generation.integration import IntegrationStatus, integrate


class TangentBundle:
    """States on their way, each with orthonormal perturbations; one row per trajectory.

    Perturbations are made orthogonal by QR before they align: each trajectory has its own interval between two
    decompositions, and one over which growth differs by more than half of the digits of `rtol`, or by a factor of ten
    where the field may jump, is done again, shorter.
    """

    def __init__(
        self,
        vector_field: VectorField,
        initial_conditions: ArrayLike,
        parameters: ArrayLike,
        tangents: np.ndarray,
        *,
        perturbed: tuple[int, ...],
        period: np.ndarray,
        start_time: np.ndarray,
        rtol: float,
        atol: float,
    ) -> None:
        self.dimension = vector_field.num_states
        self.field = tangent_field(vector_field, tangents.shape[1], perturbed)
        states, vectors = (np.atleast_2d(np.asarray(rows, np.float64)) for rows in (initial_conditions, parameters))
        sizes = (len(states), len(vectors), period.size, start_time.size)
        count = next((size for size in sizes if size != 1), 1)
        self.states = _rows("initial_conditions", states, (count, self.dimension))
        self.parameters = _rows("parameters", vectors, (count, len(vector_field.parameter_names)))
        self.time = _rows("start_time", start_time, (count,))
        self.interval = _rows("period", period, (count,)) / 8
        self.tangents = _rows("tangents", tangents, (count, *tangents.shape))
        self.tolerances = {"rtol": rtol, "atol": atol}
        self.lengths = np.ones((count, 1, 1))
        self.largest_spread = -np.log(rtol) / 2
        if may_jump(vector_field):
            self.lengths[:, 0, 0] = 100 * (atol + rtol * np.linalg.norm(self.states, axis=1))
            self.largest_spread = np.log(10.0)
        self.num_steps = np.zeros(count)
        self.status = [IntegrationStatus.COMPLETED] * count

    def run(
        self,
        transient: np.ndarray,
        block: np.ndarray,
        *,
        num_blocks: int,
        max_steps: int,
        max_abs: float,
        unbounded: Sequence[int],
    ) -> np.ndarray:
        """Return (num_trajectories, num_blocks, num_tangents) logarithmic growth in each block after the transient.

        Rows whose `status` is not COMPLETED mean nothing.
        """
        budget = {"max_steps": max_steps, "max_abs": max_abs, "unbounded": unbounded}
        self._advance(transient, **budget)
        return np.stack([self._advance(block, **budget) for _ in range(num_blocks)], axis=1)

    def _advance(self, duration: np.ndarray, *, max_steps: int, **budget: Any) -> np.ndarray:
        """Move every trajectory on by `duration`; return (num_trajectories, num_tangents) logarithmic growth."""
        growth = np.zeros((len(self.states), self.tangents.shape[2]))
        left = _rows("duration", duration, (len(growth),))
        while rows := [n for n, one in enumerate(self.status) if one is IntegrationStatus.COMPLETED and left[n] > 0]:
            span = np.minimum(self.interval[rows], left[rows])
            states, tangents, completed = self._carry(rows, span, max_steps=max_steps, **budget)
            rows, span = np.array(rows)[completed], span[completed]
            directions, triangles = np.linalg.qr(tangents[completed])
            with np.errstate(divide="ignore"):
                gains = np.log(np.abs(np.diagonal(triangles, axis1=1, axis2=2)))
            spread = gains.max(axis=1, initial=0.0) - gains.min(axis=1, initial=0.0)
            with np.errstate(divide="ignore"):
                wished = span / spread * self.largest_spread / 2
            kept = spread <= self.largest_spread
            self.interval[rows] = np.clip(wished, 0.1 * self.interval[rows], 2.0 * self.interval[rows])
            rows, span = rows[kept], span[kept]
            self.states[rows], self.tangents[rows] = states[completed][kept], directions[kept]
            self.time[rows] += span
            left[rows] -= span
            growth[rows] += gains[kept]
        return growth

    def _carry(
        self, rows: list[int], span: np.ndarray, *, max_steps: int, unbounded: Sequence[int], **budget: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return states, tangents and whether they were reached after `span`; note failures in `status`."""
        columns = np.swapaxes(self.tangents[rows] * self.lengths[rows], 1, 2)
        result = integrate(
            self.field,
            np.hstack([self.states[rows], columns.reshape(len(rows), -1)]),
            self.parameters[rows],
            start_time=self.time[rows],
            transient=span,
            dt=span,
            num_points=1,
            max_steps=max_steps,
            unbounded=(*unbounded, *range(self.dimension, self.field.num_states)),
            **self.tolerances,
            **budget,
        )
        self.num_steps[rows] += result.num_evaluations / NUM_STAGES
        for row, status in zip(rows, result.status, strict=True):
            exhausted = status is IntegrationStatus.COMPLETED and self.num_steps[row] > max_steps
            self.status[row] = IntegrationStatus.TOO_MANY_STEPS if exhausted else status
        completed = np.array([self.status[row] is IntegrationStatus.COMPLETED for row in rows])
        reached = result.states[:, 0]
        columns = reached[:, self.dimension :].reshape(columns.shape)
        return reached[:, : self.dimension], np.swapaxes(columns, 1, 2) / self.lengths[rows], completed


def _rows(name: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return `values` repeated to `shape`, owned."""
    try:
        return np.array(np.broadcast_to(values, shape))
    except ValueError as error:
        raise ValueError(
            f"{name} must fit shape {shape} (one row per trajectory, or one for all), found {values.shape}"
        ) from error
