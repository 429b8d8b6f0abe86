"""Lyapunov spectra of maps from their Jacobians along an orbit, and the dimension that follows from a spectrum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import get_lapack_funcs


class LyapunovSpectrum(NamedTuple):
    """Exponents from the largest down, (num_exponents,), and the standard error of each.

    An exponent is -infinity, with standard error 0, for a direction that the map annihilates.
    """

    exponents: NDArray[np.float64]
    standard_errors: NDArray[np.float64]


def lyapunov_spectrum(
    jacobians: Iterable[np.ndarray],
    *,
    dt: float = 1.0,
    transient: int = 500,
    num_exponents: int | None = None,
    num_blocks: int = 20,
) -> LyapunovSpectrum:
    """Return the Lyapunov exponents of an orbit, per unit of time, from the exact product of its Jacobians.

    The product is made orthogonal by QR at every step. Standard errors are those of the mean over `num_blocks`
    stretches of the orbit, and hold once a stretch is longer than the orbit's memory.

    Args:
        jacobians: chunks (steps, units, units) in order of time, of the derivatives of each state by the one before;
            one chunk is in memory at a time.
        dt: time of one step.
        transient: steps at the start in which directions align, not counted.
        num_exponents: how many, from the largest; all where None.
    Raises: ValueError on chunks of another shape, Jacobians that are not finite, or too few steps.
    Source: Benettin, Galgani, Giorgilli, Strelcyn, Meccanica 15, 9 (1980).
    """
    if not dt > 0 or transient < 0 or num_blocks < 2:
        raise ValueError(
            "dt must be positive, transient at least 0 and num_blocks at least 2, found "
            f"{dt!r}, {transient!r}, {num_blocks!r}; correct the one that is not."
        )
    frame = None
    chunks, done = [], 0
    for chunk in jacobians:
        chunk = _checked_chunk(chunk, None if frame is None else len(frame), done)
        if frame is None:
            frame = _random_frame(chunk.shape[-1], num_exponents)
        growth, frame = _growth(chunk, frame)
        chunks.append(growth)
        done += len(chunk)
    if done < transient + 2 * num_blocks:
        raise ValueError(
            f"an orbit must have at least {transient + 2 * num_blocks} steps, transient + 2 num_blocks, found {done}; "
            "give a longer orbit, or a shorter transient."
        )
    blocks = np.array_split(np.concatenate(chunks)[transient:] / dt, num_blocks)
    exponents = np.concatenate(blocks).mean(axis=0)
    means = np.stack([block.mean(axis=0) for block in blocks])
    finite = np.isfinite(exponents)
    errors = np.where(finite, means, 0.0).std(axis=0, ddof=1) / np.sqrt(num_blocks)
    order = np.argsort(-exponents, kind="stable")
    return LyapunovSpectrum(exponents[order], errors[order])


def _checked_chunk(chunk: ArrayLike, units: int | None, done: int) -> NDArray[np.float64]:
    """Return a chunk that continues an orbit of `units` units after `done` steps; ValueError if it does not."""
    matrices = np.asarray(chunk, dtype=np.float64)
    if matrices.ndim != 3 or matrices.shape[1] != matrices.shape[2] or units not in (None, matrices.shape[1]):
        wanted = "units, units" if units is None else f"{units}, {units}"
        raise ValueError(
            f"a chunk of jacobians must have shape (steps, {wanted}), found {matrices.shape}; give an iterable of "
            "chunks, [jacobians] for a single one."
        )
    finite = np.isfinite(matrices).all(axis=(1, 2))
    if not finite.all():
        raise ValueError(
            f"jacobians must be finite, found NaN or infinite entries at step {done + int(np.argmin(finite))}; take "
            "an orbit that stays bounded."
        )
    return matrices


def _random_frame(units: int, num_exponents: int | None) -> NDArray[np.float64]:
    """Return orthonormal columns in general position: those of the identity may be invariant, and never align."""
    count = units if num_exponents is None else num_exponents
    if not 1 <= count <= units:
        raise ValueError(f"num_exponents must be from 1 to {units}, found {num_exponents!r}; ask for no more.")
    return np.linalg.qr(np.random.default_rng(0).standard_normal((units, count)))[0]


def _growth(chunk: np.ndarray, frame: np.ndarray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Carry the frame through a chunk; return the log growth of each direction at each step, and the new frame."""
    # np.linalg.qr does the same; its checks alone take twice as long as both of these.
    factorise, orthogonal = get_lapack_funcs(("geqrf", "orgqr"), (frame,))
    count = frame.shape[1]
    diagonals = np.empty((len(chunk), count))
    for step, jacobian in enumerate(chunk):
        factors, reflections, *_ = factorise(jacobian @ frame, overwrite_a=True)
        diagonals[step] = factors.diagonal()
        frame = orthogonal(factors, reflections, overwrite_a=True)[0]
    with np.errstate(divide="ignore"):
        return np.log(np.abs(diagonals)), frame


def kaplan_yorke_dimension(exponents: ArrayLike) -> float:
    """Return the Kaplan-Yorke (Lyapunov) dimension of an attractor from its full spectrum, in any order.

    It is 0 where all exponents are negative, and the number of exponents where their sum is not.

    Raises: ValueError unless the spectrum is one row of numbers, of which -infinity may be one.
    Source: Kaplan, Yorke, Lecture Notes in Mathematics 730, 204 (1979).
    """
    spectrum = np.asarray(exponents, dtype=np.float64)
    if spectrum.ndim != 1 or spectrum.size == 0 or not (spectrum < np.inf).all():
        raise ValueError(
            f"exponents must be one row of numbers below infinity, found {exponents!r}; give the full spectrum of a "
            "bounded orbit."
        )
    spectrum = np.sort(spectrum)[::-1]
    sums = np.cumsum(spectrum)
    if sums[-1] >= 0:
        return float(len(spectrum))
    whole = int(np.argmax(sums < 0))
    return float(whole + (sums[whole - 1] if whole else 0.0) / -spectrum[whole])
