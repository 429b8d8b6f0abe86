"""Fixed points and cycles of an AL-RNN: exact, as its map is affine in every region.

In the region with active set s the only fixed point is `z* = (I - J_s)^-1 h`; along a sequence of regions the map is
affine too, and the point that returns after all of them is found in the same way (Brenner et al., NeurIPS 2024,
arXiv:2410.14240). What is found is real if its states do lie in those regions, else virtual: no state of the model,
but orbits in the region move as if it were there, until they leave. Everything is computed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby, islice, zip_longest
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .modeling_alrnn import ALRNNForPrediction
from .symbolic import PiecewiseLinearMap, SymbolicOrbit

NEUTRAL_TOLERANCE = 1e-6
"""Distance from the unit circle within which a direction counts as neutral: weights are float32."""

_ROUNDS = 5  # of following virtual cycles
_POWER = 5  # of hashes in the names of windows
_CLOSING_TOLERANCE = 1e-6  # of the largest coordinate


@dataclass(frozen=True, eq=False)
class FixedPoint:
    """The fixed point of a region's affine map.

    region: (relu units,), the active set. state: (units,), scaled. observed: (channels,), data units.
    is_real: whether the state lies in the region. eigenvalues: (units,), of the region's Jacobian, by falling modulus.
    """

    region: NDArray[np.bool_]
    state: NDArray[np.float64]
    observed: NDArray[np.float64]
    is_real: bool
    eigenvalues: NDArray[np.complex128]

    @property
    def kind(self) -> str:
        """What orbits do around it, see `stability_kind`."""
        return stability_kind(self.eigenvalues)


@dataclass(frozen=True, eq=False)
class Cycle:
    """States that return after k steps through a sequence of regions.

    symbols: (k,), regions as the orbit that was searched numbers them, -1 for one that it did not visit.
    states: (k, units), scaled; step i leads from state i to the next one by the map of region i.
    observed: (k, channels), data units. is_real: whether each state lies in its region.
    eigenvalues: (units,), of the Jacobian of k steps, by falling modulus; those many orders below the largest are
        rounding.
    """

    symbols: NDArray[np.int64]
    states: NDArray[np.float64]
    observed: NDArray[np.float64]
    is_real: bool
    eigenvalues: NDArray[np.complex128]

    @property
    def kind(self) -> str:
        """What orbits do around it, see `stability_kind`."""
        return stability_kind(self.eigenvalues)


def stability_kind(eigenvalues: ArrayLike) -> str:
    """Return what orbits of a map do around a point at which its Jacobian has these eigenvalues.

    "stable" if all moduli are below 1, "unstable" if all are above, "saddle" with both. A "focus" winds, a "node" does
    not: decided by the eigenvalues nearest to the unit circle on each side, which decide how orbits come in and leave;
    of a "saddle focus" those of at least one side are complex. With moduli of 1, within `NEUTRAL_TOLERANCE`, it is a
    "center" if those eigenvalues are complex and all others inside, "neutral" if some are real and all others inside,
    else "non-hyperbolic, unstable".
    """
    eigenvalues = np.asarray(eigenvalues)
    distances = np.abs(eigenvalues) - 1
    inside, outside = eigenvalues[distances < -NEUTRAL_TOLERANCE], eigenvalues[distances > NEUTRAL_TOLERANCE]
    neutral = eigenvalues[np.abs(distances) <= NEUTRAL_TOLERANCE]
    if len(neutral) and len(outside):
        return "non-hyperbolic, unstable"
    if len(neutral):
        return "center" if all(map(_winds, neutral)) else "neutral"
    leading = [max(inside, key=abs, default=0.0), min(outside, key=abs, default=0.0)]
    winds = any(map(_winds, leading))
    if len(inside) and len(outside):
        return "saddle focus" if winds else "saddle"
    return f"{'stable' if len(inside) else 'unstable'} {'focus' if winds else 'node'}"


def _winds(eigenvalue: complex) -> bool:
    return bool(abs(np.imag(eigenvalue)) > NEUTRAL_TOLERANCE * abs(eigenvalue))


class _Solution(NamedTuple):
    """States (k, units) that the maps of k regions lead round, and the product of those maps' Jacobians."""

    states: NDArray[np.float64]
    product: NDArray[np.float64]

    @property
    def eigenvalues(self) -> NDArray[np.complex128]:
        values = np.linalg.eigvals(self.product).astype(np.complex128)
        return values[np.argsort(-np.abs(values), kind="stable")]


def fixed_points(model: ALRNNForPrediction, regions: ArrayLike) -> list[FixedPoint]:
    """Return the fixed point of each region's map, in order; a region in which `I - J` is singular has none.

    Args:
        regions: (regions, relu units), active sets: `SymbolicOrbit.regions`, or any others.
    """
    maps = PiecewiseLinearMap.of(model)
    found = []
    for region in np.asarray(regions, dtype=bool):
        solution = _solve(maps, region[None])
        if solution is not None:
            state = solution.states[0]
            is_real = bool((maps.regions(state) == region).all())
            found.append(FixedPoint(region, state, maps.read_out(state), is_real, solution.eigenvalues))
    return found


def find_cycles(
    model: ALRNNForPrediction,
    orbit: SymbolicOrbit,
    *,
    max_length: int,
    max_candidates: int = 300,
) -> list[Cycle]:
    """Search for cycles of 2 to `max_length` steps, real and virtual; `fixed_points` are those of one.

    A candidate is a sequence of symbols that the orbit went through and then came back to its first symbol. Those of
    every length are taken, each once whatever the state it starts from, and `max_candidates` of them are solved, first
    those at which the orbit returned nearest to where it had been: all where regions are few and cycles short. Every
    doubling of the length (2, 3 to 4, 5 to 8, ...) has the same share, what one does not need goes to the others.
    A virtual cycle is then followed to the sequence of regions that its states lie in, and so on for a few rounds,
    until that is a real cycle or known already (the idea of SCYFI: Eisenmann et al., NeurIPS 2023,
    arXiv:2310.17561): this finds cycles that the orbit did not come near. The search is not exhaustive; a cycle that
    amplifies rounding to something visible within one turn is left out.

    Expect few or none in the map of a flow sampled finely: the periods of a flow are no whole numbers of steps, so
    that what is a cycle of the flow is a closed curve of the map, on which no state returns exactly unless the map
    locks to a whole number of steps. There, following finds most of what is found.

    Returns: the cycles of all candidates and real ones reached from them, the real ones first, then by length.
    Raises: ValueError on `max_length` below 2 or `max_candidates` below 1.
    """
    if max_length < 2 or max_candidates < 1:
        raise ValueError(
            f"max_length must be at least 2 and max_candidates at least 1, found {max_length} and {max_candidates}; "
            "raise them, or call fixed_points for cycles of one step."
        )
    maps, cycles, known = PiecewiseLinearMap.of(model), [], set()
    symbol_of = {region.tobytes(): symbol for symbol, region in enumerate(orbit.regions)}
    sequences = [orbit.regions[symbols] for symbols in _candidates(orbit, max_length, max_candidates)]
    for is_candidate in (True, *[False] * _ROUNDS):
        followed = []
        for regions, solution in _solve_new(maps, sequences, known):
            visited = maps.regions(solution.states)
            is_real = bool((visited == regions).all())
            if is_candidate or is_real:
                symbols = np.array([symbol_of.get(region.tobytes(), -1) for region in regions])
                observed = maps.read_out(solution.states)
                cycles.append(Cycle(symbols, solution.states, observed, is_real, solution.eigenvalues))
            if not is_real:
                followed.append(visited)
        sequences = followed
    return sorted(cycles, key=lambda cycle: (not cycle.is_real, len(cycle.symbols)))


def _solve_new(
    maps: PiecewiseLinearMap, sequences: list[NDArray[np.bool_]], known: set[bytes]
) -> Iterator[tuple[NDArray[np.bool_], _Solution]]:
    """Solve what is neither a repeat nor in `known`, where all sequences (k, relu units) go; leave out what fails."""
    for regions in sequences:
        key = _turned(regions)
        solution = None if key in known or _repeats(regions) else _solve(maps, regions)
        known.add(key)
        if solution is not None:
            yield regions, solution


def _solve(maps: PiecewiseLinearMap, regions: NDArray[np.bool_]) -> _Solution | None:
    """The cycle through regions (k, relu units); None if there is none, or more than one, or rounding decides."""
    jacobians, identity = maps.jacobian(regions), np.eye(len(maps.A))
    product, offset = identity, np.zeros(len(maps.A))
    with np.errstate(over="ignore", invalid="ignore"):
        for jacobian in jacobians:
            product, offset = jacobian @ product, jacobian @ offset + maps.h
    if not np.isfinite(np.vstack([product, offset])).all() or np.linalg.matrix_rank(identity - product) < len(identity):
        return None
    states = np.empty((len(jacobians) + 1, len(identity)))
    states[0] = np.linalg.solve(identity - product, offset)
    for step, jacobian in enumerate(jacobians):
        states[step + 1] = jacobian @ states[step] + maps.h
    if not np.allclose(states[-1], states[0], rtol=0, atol=_CLOSING_TOLERANCE * np.abs(states).max()):
        return None
    return _Solution(states[:-1], product)


def _candidates(orbit: SymbolicOrbit, max_length: int, max_candidates: int) -> list[NDArray[np.int64]]:
    """Distinct cyclic sequences of 2 to `max_length` symbols that the orbit closed, doublings of the length in turn."""
    keys = _CyclicKeys.of(orbit.symbols)
    lengths = range(2, min(max_length, len(orbit.symbols) - 1) + 1)
    doublings = groupby(lengths, key=lambda length: (length - 1).bit_length())
    returns = [_nearest_returns(orbit, keys, list(group), max_candidates) for _, group in doublings]
    turns = chain.from_iterable(zip_longest(*returns))
    return list(islice((symbols for symbols in turns if symbols is not None), max_candidates))


def _nearest_returns(
    orbit: SymbolicOrbit, keys: _CyclicKeys, lengths: Iterable[int], most: int
) -> Iterator[NDArray[np.int64]]:
    """Yield distinct cyclic sequences of these lengths by the distance of the return, `most` of each length at most."""
    found = []
    for length in lengths:
        starts = np.flatnonzero(orbit.symbols[length:] == orbit.symbols[:-length])
        gaps = np.linalg.norm(orbit.states[starts + length] - orbit.states[starts], axis=1)
        order = np.argsort(gaps, kind="stable")
        _, first = np.unique(keys.of_windows(length)[starts[order]], return_index=True)
        nearest = order[np.sort(first)[:most]]
        found += zip(gaps[nearest].tolist(), starts[nearest].tolist(), [length] * len(nearest), strict=True)
    for _, start, length in sorted(found):
        symbols = orbit.symbols[start : start + length]
        if not _repeats(symbols):
            yield symbols


class _CyclicKeys(NamedTuple):
    """Names of windows of a sequence, 64 bits, the same for windows that are rotations of each other.

    With H(t) the hash of the first t symbols to base B, the window from s of length k, turned by t, has the hash
    `B^t (H(s + k) - H(s)) + (1 - B^k) H(s + t)`, modulo 2^64. Its name is the sum over t of the fifth powers of these,
    which running sums of B^((5 - j) t) H(t)^j give for all windows of one length at once. Sums of squares would be
    equal for a window and its mirror image, sums of cubes for a few binary ones of 12 symbols.
    """

    powers: NDArray[np.uint64]  # B^t
    inverse_powers: NDArray[np.uint64]
    hashes: NDArray[np.uint64]  # H(t)
    sums: list[NDArray[np.uint64]]  # of the terms of each j over all earlier t

    @classmethod
    def of(cls, symbols: NDArray[np.int64]) -> _CyclicKeys:
        base, steps = 0x9E3779B97F4A7C15, len(symbols)
        powers, inverse_powers = (
            np.multiply.accumulate(np.array([1, *[factor] * steps], dtype=np.uint64))
            for factor in (base, pow(base, -1, 2**64))
        )
        values = np.random.default_rng(0).integers(2**64, size=symbols.max() + 1, dtype=np.uint64)[symbols]
        hashes = powers * _running_sum(values * inverse_powers[1:])
        terms = (powers ** np.uint64(_POWER - j) * hashes ** np.uint64(j) for j in range(_POWER + 1))
        return cls(powers, inverse_powers, hashes, [_running_sum(term) for term in terms])

    def of_windows(self, length: int) -> NDArray[np.uint64]:
        """Return the names of all windows of this length, by their starts."""
        num_windows = len(self.hashes) - length
        start = (self.hashes[length:] - self.hashes[:-length]) * self.inverse_powers[:num_windows]
        turn = np.uint64(1) - self.powers[length : length + 1]
        names = np.zeros(num_windows, dtype=np.uint64)
        for j, sums in enumerate(self.sums):
            weight = np.uint64(math.comb(_POWER, j)) * start ** np.uint64(_POWER - j) * turn ** np.uint64(j)
            names += weight * (sums[length : length + num_windows] - sums[:num_windows])
        return names


def _running_sum(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return np.concatenate([np.zeros(1, np.uint64), np.cumsum(values, dtype=np.uint64)])


def _turned(regions: NDArray[np.bool_]) -> bytes:
    """A name of a cyclic sequence of regions (k, relu units), the same for all of its rotations."""
    length, width = regions.shape
    twice = regions.tobytes() * 2
    return min(twice[turn * width : (turn + length) * width] for turn in range(length))


def _repeats(sequence: NDArray) -> bool:
    """Whether a sequence, along the first axis, is a shorter one several times over."""
    length = len(sequence)
    periods = (period for period in range(1, length // 2 + 1) if length % period == 0)
    return any((sequence[period:] == sequence[:-period]).all() for period in periods)
