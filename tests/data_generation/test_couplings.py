"""Couplings: their equations, their draws, and the JSON that rebuilds them."""

import json

import numpy as np
import pytest

from data_generation.config import SkewProductConfig
from data_generation.couplings import Coupling, draw_coupling
from data_generation.expressions import trace

SIZES = {"driver_rms": 4.0, "response_rms": 2.0}


def draw(driver_dimension: int, response_dimension: int, *, seed: int = 0, **settings) -> Coupling:
    return draw_coupling(
        SkewProductConfig(**settings), driver_dimension=driver_dimension, response_dimension=response_dimension,
        rng=np.random.default_rng(seed), **SIZES,
    )  # fmt: skip


def evaluate(coupling: Coupling, f_d: np.ndarray, f_r: np.ndarray) -> np.ndarray:
    """The flow of the response where the flows of driver and response are given numbers."""

    def flow(state, time, constants):
        return coupling.combine(state[: len(f_d)], state[len(f_d) :], constants)

    field = trace(flow, len(f_d) + len(f_r), coupling.constants())
    vector = np.hstack([np.ravel(value) for _, value in sorted(coupling.constants().items())])
    return field(np.concatenate([f_d, f_r]), 0.0, vector)


@pytest.mark.parametrize(("num_driver", "num_response"), [(2, 4), (3, 3), (6, 3)])
def test_additive_coupling_adds_a_permuted_padded_flow(num_driver: int, num_response: int):
    coupling = draw(num_driver, num_response, clock="unit", strength=0.5)
    indices = coupling.driver_indices
    assert indices is not None
    chosen = [index for index in indices if index is not None]
    assert len(indices) == num_response
    assert len(set(chosen)) == len(chosen) == min(num_driver, num_response)
    f_d, f_r = np.arange(1.0, num_driver + 1), np.linspace(-1, 1, num_response)
    permuted = np.array([0.0 if index is None else f_d[index] for index in indices])
    np.testing.assert_allclose(evaluate(coupling, f_d, f_r), 0.5 / 4.0 * permuted + f_r / 2.0, rtol=1e-14)


@pytest.mark.parametrize("matrix", ["gaussian", "low_rank"])
@pytest.mark.parametrize(
    ("kind", "activation"), [("tanh", np.tanh), ("sin", np.sin), ("relu", lambda x: np.maximum(x, 0.0))]
)
def test_activated_coupling_follows_its_formula(kind: str, activation, matrix: str):
    coupling = draw(2, 3, kinds=[kind], matrix=matrix, clock="unit")
    f_d, f_r = np.array([3.0, -5.0]), np.array([1.0, 2.0, -0.5])
    m_d, m_r = np.array(coupling.driver_matrix), np.array(coupling.response_matrix)
    assert (m_d.shape, m_r.shape) == ((3, 2), (3, 3))
    expected = activation(m_d @ f_d / 4.0) + m_r @ f_r / 2.0
    np.testing.assert_allclose(evaluate(coupling, f_d, f_r), expected, rtol=1e-13)


def test_a_response_with_its_own_clock_keeps_its_flow():
    coupling = draw(3, 3, clock="own")
    f_r = np.array([1.0, -2.0, 3.0])
    np.testing.assert_allclose(evaluate(coupling, np.zeros(3), f_r), f_r, rtol=1e-15)


def test_matrices_have_the_asked_spread_and_rank():
    gaussian = np.array(draw(60, 40, kinds=["tanh"]).driver_matrix)
    assert gaussian.std() == pytest.approx(1 / 10, rel=0.1)
    low_rank = np.array(draw(6, 5, kinds=["tanh"], matrix="low_rank", rank=2).response_matrix)
    assert np.linalg.matrix_rank(low_rank - np.eye(5)) == 2


def test_every_kind_is_drawn_and_draws_differ():
    kinds = {draw(3, 3, seed=seed, kinds=["additive", "tanh", "sin", "relu"]).kind for seed in range(40)}
    assert kinds == {"additive", "tanh", "sin", "relu"}
    assert len({draw(3, 3, seed=seed).driver_indices for seed in range(40)}) == 6
    assert draw(3, 3, seed=1) == draw(3, 3, seed=1)


@pytest.mark.parametrize("kind", ["additive", "relu"])
def test_json_gives_the_coupling_back(kind: str):
    coupling = draw(2, 3, kinds=[kind])
    assert Coupling.from_json(json.loads(json.dumps(coupling.as_json()))) == coupling
