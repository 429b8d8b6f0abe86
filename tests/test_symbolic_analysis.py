"""What an analysis looks at, in which order, and what it refuses."""

import numpy as np
import pytest
import torch

from hf_tsdyn.models.alrnn import ALRNNConfig, ALRNNForPrediction
from hf_tsdyn.models.alrnn.symbolic import SymbolicOrbit
from hf_tsdyn.symbolic_analysis import SHORTEST_RUN, STAGES, analyse_symbols, regions_to_solve

SLOPE = 1.9


def make_model(A, W, h):
    """z' = A z + W max(z, 0) + h."""
    model = ALRNNForPrediction(ALRNNConfig(num_channels=1, hidden_size=1, num_relu_units=1)).eval()
    with torch.no_grad():
        for name, value in {"A": A, "W": W, "h": h}.items():
            getattr(model.model, name).fill_(value)
    return model


@pytest.fixture(scope="module")
def tent():
    """z' = 1 - SLOPE |z|."""
    return make_model(SLOPE, -2 * SLOPE, 1.0)


@pytest.mark.parametrize(("units", "searched"), [(0, 1), (3, 8), (8, 256), (9, 2)])
def test_all_regions_are_searched_where_they_are_not_too_many(units, searched):
    regions = np.array([[True] * units, [False] * units])[: 2 if units else 1]
    orbit = SymbolicOrbit(np.zeros((2, 9)), np.zeros((2, 2)), regions, np.zeros(2, dtype=int))
    found = regions_to_solve(orbit)
    assert found.shape == (searched, units)
    assert len(np.unique(found, axis=0)) == searched
    np.testing.assert_array_equal(found[: len(regions)], regions)


def test_volumes_of_very_many_regions_are_those_of_some_spread_over_the_run(tent, monkeypatch):
    monkeypatch.setattr("hf_tsdyn.symbolic_analysis._MAX_VOLUMES", 1)
    found = analyse_symbols(tent, np.array([[0.3]]), num_steps=600)
    assert found.mean_log_determinant == pytest.approx(np.log(SLOPE), rel=1e-6)


def test_runs_too_short_for_exponents_are_refused_before_anything_is_done(tent):
    told = []
    with pytest.raises(ValueError, match=f"at least {SHORTEST_RUN}.*found {SHORTEST_RUN - 1}"):
        analyse_symbols(tent, np.array([[0.3]]), num_steps=SHORTEST_RUN - 1, progress=told.append)
    assert told == []
    analyse_symbols(tent, np.array([[0.3]]), num_steps=SHORTEST_RUN)


def test_stages_are_told_in_turn(tent):
    told = []
    analyse_symbols(tent, np.array([[0.3]]), num_steps=600, progress=told.append)
    assert tuple(told) == STAGES


@pytest.mark.parametrize("dt", [0.0, -1.0, np.nan])
def test_impossible_intervals_are_refused(tent, dt):
    with pytest.raises(ValueError, match="dt must be above 0"):
        analyse_symbols(tent, np.array([[0.3]]), dt=dt)


def test_a_model_that_runs_away_is_refused():
    model = make_model(2.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="the model diverges"):
        analyse_symbols(model, np.array([[1.0]]), num_steps=1000)
