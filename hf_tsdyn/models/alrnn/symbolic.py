"""An AL-RNN as what it is, a piecewise linear map: its regions, and an orbit read as a sequence of them.

With state z, step t is `z' = J_s z + h`, `J_s = diag(A) + W diag(1, s)`, where s says which of the last P units are
above 0 in z. States with the same s form a region, in which the map is affine; numbering the regions turns an orbit
into symbols (Brenner et al., NeurIPS 2024, arXiv:2410.14240). Everything here is computed in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from torch import Tensor

from ...metrics.lyapunov_spectrum import LyapunovSpectrum, lyapunov_spectrum
from .graph_entropy import graph_entropy
from .modeling_alrnn import ALRNNForPrediction

MAX_DENSE_REGIONS = 4096
"""Regions up to which matrices from each to each are made: they grow with the square."""
SHARE_LEFT_ONCE = 0.5
"""Of the regions; where more are left only once, an orbit says too little of what follows what."""

_JACOBIANS_AT_ONCE = 1000


class PiecewiseLinearMap(NamedTuple):
    """The step of one AL-RNN in numbers, float64, and the scaling of its series."""

    A: NDArray[np.float64]  # (units,)
    W: NDArray[np.float64]  # (units, units)
    h: NDArray[np.float64]  # (units,)
    num_relu_units: int
    loc: NDArray[np.float64]  # (channels,)
    scale: NDArray[np.float64]  # (channels,)

    @classmethod
    def of(cls, model: ALRNNForPrediction) -> PiecewiseLinearMap:
        """Return the map of a model."""
        inner = model.model
        A, W, h, loc, scale = (_array(each) for each in (inner.A, inner.W, inner.h, inner.loc, inner.scale))
        return cls(A, W, h, model.config.num_relu_units, loc, scale)

    def regions(self, states: ArrayLike) -> NDArray[np.bool_]:
        """Return the active sets, (..., relu units), of states (..., units); a unit at 0 is not active."""
        states = np.asarray(states)
        return states[..., states.shape[-1] - self.num_relu_units :] > 0

    def jacobian(self, region: ArrayLike) -> NDArray[np.float64]:
        """Return `diag(A) + W diag(1, s)`, (..., units, units), for active sets (..., relu units)."""
        region = np.asarray(region, dtype=bool)
        if region.shape[-1:] != (self.num_relu_units,):
            raise ValueError(
                f"a region must say of each of the {self.num_relu_units} rectified units whether it is active, found "
                f"shape {region.shape}; take regions of the same model."
            )
        gates = np.ones((*region.shape[:-1], len(self.A)))
        gates[..., len(self.A) - self.num_relu_units :] = region
        return np.diag(self.A) + self.W * gates[..., None, :]

    def read_out(self, states: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the channels, (..., channels) in data units, of states (..., units)."""
        return states[..., : len(self.loc)] * self.scale + self.loc


@dataclass(frozen=True, eq=False)
class SymbolicOrbit:
    """An orbit and the region that each of its states lies in, numbered by falling occupancy, ties by code.

    states: (time, units), scaled. observed: (time, channels), data units.
    regions: (regions, relu units), the active set behind each symbol. symbols: (time,), rows of `regions`; the
        symbol of a state is that of the region whose map makes the next state.
    """

    states: NDArray[np.float64]
    observed: NDArray[np.float64]
    regions: NDArray[np.bool_]
    symbols: NDArray[np.int64]

    @property
    def counts(self) -> NDArray[np.int64]:
        """(regions,) states in each region."""
        return np.bincount(self.symbols, minlength=len(self.regions))

    @property
    def occupancy(self) -> NDArray[np.float64]:
        """(regions,) share of the states in each region."""
        return self.counts / len(self.symbols)

    @cached_property
    def transitions(self) -> csr_array:
        """(from, to) steps from each region to each, sparse."""
        size = len(self.regions)
        pairs, counts = np.unique(self.symbols[:-1] * size + self.symbols[1:], return_counts=True)
        return csr_array((counts, np.divmod(pairs, size)), shape=(size, size))

    @cached_property
    def switches(self) -> csr_array:
        """(from, to) steps from each region to each other one, sparse."""
        pairs = self.transitions.tocoo()
        changed = pairs.row != pairs.col
        places = pairs.row[changed], pairs.col[changed]
        return csr_array((pairs.data[changed], places), shape=pairs.shape)

    @property
    def transition_counts(self) -> NDArray[np.int64]:
        """(from, to) steps from each region to each.

        Raises: ValueError above `MAX_DENSE_REGIONS` regions; `transitions` holds the same without the zeros.
        """
        if len(self.regions) > MAX_DENSE_REGIONS:
            raise ValueError(
                f"matrices from each region to each need at most {MAX_DENSE_REGIONS:,} regions, found "
                f"{len(self.regions):,}; take the sparse `transitions` or `switches`, or `exits` of the most visited."
            )
        return self.transitions.toarray()

    @property
    def transition_matrix(self) -> NDArray[np.float64]:
        """(from, to) probability of the next symbol given this one.

        Rows sum to 1, but for a region that only the last state lies in: what follows it was not seen, its row is 0.
        Raises: as `transition_counts`.
        """
        return _conditional(self.transition_counts)

    @property
    def switch_matrix(self) -> NDArray[np.float64]:
        """(from, to) probability of the next symbol given this one and that the symbol changes: edges of a graph.

        The diagonal is 0. Rows sum to 1, but for a region that was never left: its row is 0.
        Raises: as `transition_counts`.
        """
        counts = self.transition_counts
        np.fill_diagonal(counts, 0)
        return _conditional(counts)

    def exits(self, num_regions: int) -> NDArray[np.float64]:
        """Return the first rows of `switch_matrix`, (num_regions, regions), however many regions there are."""
        return _conditional(self.switches[:num_regions].toarray())

    @property
    def switch_rate(self) -> float:
        """Share of the steps at which the symbol changes."""
        return float(np.mean(np.diff(self.symbols) != 0))

    @property
    def dwell_times(self) -> list[NDArray[np.int64]]:
        """For each region the steps of its visits in order, but for the orbit's first and last visit, which are cut."""
        starts = np.flatnonzero(np.diff(self.symbols)) + 1
        lengths, symbols = np.diff(starts), self.symbols[starts[:-1]]
        visits = np.bincount(symbols, minlength=len(self.regions))
        return np.split(lengths[np.argsort(symbols, kind="stable")], np.cumsum(visits)[:-1])

    @property
    def flips(self) -> NDArray[np.float64]:
        """(relu units,) how often each unit changes between active and not, per step."""
        active = self.regions[self.symbols]
        return np.mean(active[1:] != active[:-1], axis=0)

    @cached_property
    def topological_entropy(self) -> float | None:
        """Logarithm of the spectral radius of the graph of the steps between regions that were seen, nats per step.

        The growth rate of the number of symbol sequences that the graph allows. It bounds the entropy of what was seen
        from above, as not every path of the graph need be an orbit, and loosely where sampling is fine: of a flow a
        graph also counts all ways to stay a step more or less. It is none of the system's constants, as it depends on
        the regions' borders. 0 where no region lies on two loops; None where more than `SHARE_LEFT_ONCE` of several
        regions were left once at most.
        """
        return self._entropy(self.transitions)

    @cached_property
    def switch_entropy(self) -> float | None:
        """The same of the graph of the changes of region, nats per change; times `switch_rate` it is nats per step.

        It does not count how long an orbit stays, and so hardly depends on the sampling interval.
        """
        return self._entropy(self.switches)

    def _entropy(self, graph: csr_array) -> float | None:
        times_left = self.switches.sum(axis=1)
        if len(times_left) > 1 and np.mean(times_left <= 1) > SHARE_LEFT_ONCE:
            return None
        return graph_entropy(graph)

    def label(self, region: int) -> str:
        """Return the active set of a symbol, "+" for an active unit and "-" for another, in order of the units."""
        return region_code(self.regions[region])


def region_code(active: ArrayLike) -> str:
    """Return an active set, (relu units,), as signs: "+" for an active unit and "-" for another."""
    return "".join("+" if each else "-" for each in np.asarray(active))


def orbit_of_states(model: ALRNNForPrediction, states: ArrayLike) -> SymbolicOrbit:
    """Read states (time, units), scaled, in order of time, as symbols.

    Raises: ValueError if there are fewer than two states or one is not finite.
    """
    maps = PiecewiseLinearMap.of(model)
    states = np.asarray(states, dtype=np.float64)
    if states.ndim != 2 or len(states) < 2 or states.shape[1] != len(maps.A):
        raise ValueError(
            f"an orbit must be (time, {len(maps.A)}) with at least 2 states, found {states.shape}; take the states of "
            "one series, all units of them."
        )
    finite = np.isfinite(states).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"an orbit must be finite, found {np.argmin(finite)} finite states and then one that is not: the model "
            "diverges from this start; start elsewhere, run fewer steps or train it better."
        )
    regions, symbols, counts = np.unique(maps.regions(states), axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    rank = np.argsort(order)
    return SymbolicOrbit(states, maps.read_out(states), regions[order], rank[symbols.reshape(-1)])


def symbolic_orbit(
    model: ALRNNForPrediction, past_values: ArrayLike | Tensor, *, num_steps: int = 20_000, discard: int = 1_000
) -> SymbolicOrbit:
    """Let the model run freely from the end of a series, and read what follows as symbols.

    Args:
        past_values: (time, channels) or a batch of one, data units; NaN = unseen.
        num_steps: states of the orbit. discard: steps before its first, so that it lies on the attractor.
    Raises: ValueError on more than one series, or if the model diverges.
    """
    dtype = torch.promote_types(model.dtype, torch.float32)
    values = torch.as_tensor(past_values, dtype=dtype, device=model.device)
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3 or len(values) != 1:
        raise ValueError(f"past_values must be one series (time, channels), found {tuple(values.shape)}; choose one.")
    if num_steps < 2 or discard < 0:
        raise ValueError(
            f"num_steps must be at least 2 and discard at least 0, found {num_steps} and {discard}; change them."
        )
    states = model.free_run(model.initial_state(values), discard + num_steps)
    return orbit_of_states(model, _array(states[0, discard:]))


def region_jacobian(model: ALRNNForPrediction, region: ArrayLike) -> NDArray[np.float64]:
    """Return the model's Jacobian, (units, units), in the region with this active set, (relu units,)."""
    return PiecewiseLinearMap.of(model).jacobian(region)


def lyapunov_exponents(
    model: ALRNNForPrediction, states: ArrayLike, *, dt: float = 1.0, transient: int = 500
) -> LyapunovSpectrum:
    """Return the Lyapunov exponents of the model along an orbit, from the exact Jacobian of each step.

    There is one exponent for each of the model's units. As many as the series' own system has dimensions can be
    compared with it; the others belong to directions that only the model has, and are negative where it contracts
    onto what it learned.

    Args:
        states: (time, units), scaled, in order of time: `SymbolicOrbit.states`.
        dt: sampling interval. transient: steps in which directions align, not counted.
    """
    return lyapunov_spectrum(_jacobians(PiecewiseLinearMap.of(model), states), dt=dt, transient=transient)


def _jacobians(maps: PiecewiseLinearMap, states: ArrayLike) -> Iterator[NDArray[np.float64]]:
    """Yield the Jacobians of the steps from states (time, units), in order, (steps, units, units) at a time."""
    regions = maps.regions(states)
    for first in range(0, len(regions), _JACOBIANS_AT_ONCE):
        yield maps.jacobian(regions[first : first + _JACOBIANS_AT_ONCE])


def _array(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().cpu().double().numpy()


def _conditional(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
