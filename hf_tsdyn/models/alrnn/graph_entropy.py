"""How fast the number of paths through a directed graph grows with their length."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array, eye_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu

_DENSE_SIZE = 400  # rows up to which all eigenvalues at once are cheaper than an iteration for the largest
_FEW_BRANCHES = 1000  # edges more than nodes, up to which a factorisation stays sparse
_TOLERANCE = 1e-10
_MAX_STEPS = 5000
_SMALLEST = 1e-300  # of a vector's components: along a long way out of a loop they fall exponentially


def graph_entropy(counts: csr_array) -> float:
    """Return the topological entropy, nats per edge, of the graph with an edge wherever there are counts.

    The logarithm of the largest spectral radius of its strongly connected parts; 0 without loops.
    """
    graph = csr_array((np.ones(counts.nnz), counts.indices, counts.indptr), shape=counts.shape)
    _, parts = connected_components(graph, connection="strong")
    order, sizes = np.argsort(parts, kind="stable"), np.bincount(parts)
    members = [part for part in np.split(order, np.cumsum(sizes)[:-1]) if len(part) > 1]
    radii = (_spectral_radius(csr_array(graph[part][:, part]), len(part)) for part in members)
    return float(np.log(max(radii, default=1.0)))


def _spectral_radius(graph: csr_array, size: int) -> float:
    """Spectral radius of a matrix of zeros and ones in which every row reaches every other.

    For any positive x the radius of G lies between the least and the largest (G x)_i / x_i (Collatz, Wielandt), which
    iteration draws together. The largest is what comes back: where the last digits do not settle, a bound from above.
    """
    if size <= _DENSE_SIZE:
        return float(np.abs(np.linalg.eigvals(graph.toarray())).max())
    has_few_branches = graph.nnz - size <= _FEW_BRANCHES
    vector, largest = np.ones(size), np.inf
    for _ in range(_MAX_STEPS):
        image = graph @ vector
        ratios = image / vector
        largest = min(largest, float(ratios.max()))
        if largest - ratios.min() <= _TOLERANCE:
            break
        vector = _noda_step(graph, vector, largest) if has_few_branches else image + vector
        vector = np.maximum(vector / vector.max(), _SMALLEST)
    return largest


def _noda_step(graph: csr_array, vector: NDArray[np.float64], bound: float) -> NDArray[np.float64]:
    """Inverse iteration from above the root: a few steps where powers take millions, in long rings with short cuts.

    Source: Noda, Numerische Mathematik 17, 382 (1971).
    """
    shifted = csc_array(bound * eye_array(len(vector), format="csr") - graph)
    return splu(shifted).solve(vector)
