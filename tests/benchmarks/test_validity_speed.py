"""Milliseconds of the validity battery for one trajectory of (3, 4096), over 32 periods."""

import time

import numpy as np
import pytest

from data_generation.config import ValidityConfig
from data_generation.integration import integrate
from data_generation.systems import load_system
from data_generation.validity import check_trajectory

NUM_TRAJECTORIES, NUM_POINTS = 16, 4096

pytestmark = [pytest.mark.bench, pytest.mark.benchmark(timer=time.process_time)]


def slow_noise(rng):
    """Return noise so slow that KPSS mostly rejects it, and ADF has to run too."""
    noise = rng.standard_normal((NUM_TRAJECTORIES, 3, NUM_POINTS))
    for i in range(1, NUM_POINTS):
        noise[:, :, i] += 0.98 * noise[:, :, i - 1]
    return noise


def trajectories(name, rng):
    if name == "slow noise":
        return slow_noise(rng), np.ones(3)
    system = load_system(name)
    start = system.initial_condition + 0.1 * system.state_std * rng.standard_normal((NUM_TRAJECTORIES, 3))
    times = {"dt": 32 * system.period / NUM_POINTS, "transient": 8 * system.period}
    result = integrate(system.vector_field, start, system.parameter_vector, num_points=NUM_POINTS, **times)
    return result.states.swapaxes(1, 2), system.state_std


@pytest.mark.parametrize("name", ["Lorenz", "Rossler", "slow noise"])
def test_whole_battery(benchmark, name):
    values, channel_std = trajectories(name, np.random.default_rng(0))

    def run():
        return [
            check_trajectory(
                one, channel_std, max_abs=1e4, thresholds=ValidityConfig(), rng=np.random.default_rng(number)
            )
            for number, one in enumerate(values)
        ]

    num_checks = [len(checked.statistics) for checked in benchmark.pedantic(run, rounds=10, warmup_rounds=1)]
    milliseconds = 1e3 * benchmark.stats.stats.median / NUM_TRAJECTORIES
    benchmark.extra_info["ms_per_trajectory"] = milliseconds
    print(f"\n{name}: {milliseconds:.2f} ms a trajectory, {np.mean(num_checks):.1f} checks run")
