"""Milliseconds a trajectory of a skew product: 4096 points over 40 periods at the default tolerances."""

import numpy as np
import pytest

from data_generation.config import GenerationConfig
from data_generation.integration import IntegrationStatus, integrate
from data_generation.skew_products import load_item_system

NUM_TRAJECTORIES = 16


def run(name: str) -> list[IntegrationStatus]:
    system = load_item_system(GenerationConfig(output="unused"), name)
    starts = system.initial_condition * (1 + 1e-6 * np.arange(NUM_TRAJECTORIES)[:, None])
    settings = {"dt": 40 * system.period / 4096, "num_points": 4096, "unbounded": system.unbounded}
    return integrate(system.vector_field, starts, system.parameter_vector, **settings).status


@pytest.mark.bench
@pytest.mark.parametrize("name", ["Rossler->Lorenz", "Halvorsen->Thomas", "Lorenz->Lorenz96"])
def test_one_pair(benchmark, name):
    assert run(name) == [IntegrationStatus.COMPLETED] * NUM_TRAJECTORIES
    benchmark(run, name)
    benchmark.extra_info["ms_per_trajectory"] = 1e3 * benchmark.stats.stats.median / NUM_TRAJECTORIES
