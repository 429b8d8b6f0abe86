"""Milliseconds a trajectory: 4096 points over 40 periods at the default tolerances, sixteen trajectories at once."""

import numpy as np
import pytest

from data_generation.integration import IntegrationStatus, integrate
from data_generation.kernels import load_kernel
from data_generation.systems import load_system, system_names

NUM_TRAJECTORIES = 16


def run(name: str) -> list[IntegrationStatus]:
    system = load_system(name)
    starts = system.initial_condition * (1 + 1e-6 * np.arange(NUM_TRAJECTORIES)[:, None])
    settings = {"dt": 40 * system.period / 4096, "num_points": 4096, "unbounded": system.unbounded}
    return integrate(system.vector_field, starts, system.parameter_vector, **settings).status


@pytest.mark.bench
@pytest.mark.parametrize("name", ["Lorenz", "DoublePendulum", "Hopfield", "MacArthur", "InteriorSquirmer"])
def test_one_system(benchmark, name):
    run(name)
    benchmark(run, name)
    benchmark.extra_info["ms_per_trajectory"] = 1e3 * benchmark.stats.stats.median / NUM_TRAJECTORIES


@pytest.mark.bench
def test_all_systems(benchmark):
    for name in system_names():
        load_kernel(load_system(name).vector_field)
    statuses = benchmark.pedantic(lambda: [run(name) for name in system_names()], rounds=1)
    benchmark.extra_info["ms_per_trajectory"] = 1e3 * benchmark.stats.stats.mean / (NUM_TRAJECTORIES * len(statuses))
    assert all(status is IntegrationStatus.COMPLETED for batch in statuses for status in batch)
