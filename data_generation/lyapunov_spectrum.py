"""Lyapunov spectra: several perturbations carried along by the variational equations, kept apart by QR."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from data_generation.expressions import VectorField
from data_generation.lyapunov import LyapunovResult, Timing, check, summarise
from data_generation.tangents import TangentBundle


def lyapunov_spectrum(
    vector_field: VectorField,
    initial_conditions: ArrayLike,
    parameters: ArrayLike,
    *,
    period: ArrayLike,
    rng: np.random.Generator,
    num_exponents: int | None = None,
    num_periods: float = 100.0,
    transient_periods: float = 20.0,
    num_blocks: int = 20,
    start_time: ArrayLike = 0.0,
    rtol: float = 1e-8,
    atol: float = 1e-10,
    max_steps: int = 500_000,
    max_abs: float = 1e4,
    unbounded: Sequence[int] = (),
) -> LyapunovResult:
    """Return the exponents of each trajectory, from the largest down.

    The perturbations are made orthogonal before they align: each trajectory has its own interval between two QR
    decompositions, and one over which growth differs by more than half of the digits of `rtol`, or by a factor of ten
    where the field may jump, is done again, shorter.

    Args:
        num_exponents: how many, from the largest; all where None.
        max_steps: of the whole trajectory, repeated intervals included.

    The rest as in `largest_lyapunov_exponents`.

    Source:
        G. Benettin, L. Galgani, A. Giorgilli, J.-M. Strelcyn, Meccanica 15, 9 (1980).
    """
    dimension = vector_field.num_states
    num_tangents = dimension if num_exponents is None else num_exponents
    check("num_exponents", num_exponents, 1 <= num_tangents <= dimension, f"be from 1 to {dimension}")
    timing = Timing(
        period=period,
        num_periods=num_periods,
        transient_periods=transient_periods,
        num_blocks=num_blocks,
        start_time=start_time,
    )
    tangents = np.linalg.qr(rng.standard_normal((dimension, num_tangents)))[0]
    bundle = TangentBundle(
        vector_field,
        initial_conditions,
        parameters,
        tangents,
        perturbed=tuple(range(dimension)),
        period=timing.period,
        start_time=timing.start_time,
        rtol=rtol,
        atol=atol,
    )
    budget = {"max_steps": max_steps, "max_abs": max_abs, "unbounded": unbounded}
    growth = bundle.run(timing.transient, timing.block, num_blocks=num_blocks, **budget)
    return summarise(growth, bundle.status, duration=timing.block)
