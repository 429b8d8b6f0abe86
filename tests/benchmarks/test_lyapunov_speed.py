"""Milliseconds a largest exponent: 100 periods after a transient of 20, sixteen trajectories at once."""

import time

import numpy as np
import pytest

from data_generation.integration import integrate
from data_generation.lyapunov import largest_lyapunov_exponents
from data_generation.lyapunov_spectrum import lyapunov_spectrum
from data_generation.systems import load_system, system_names

NUM_TRAJECTORIES = 16


def settings(name):
    system = load_system(name)
    starts = system.initial_condition * (1 + 1e-6 * np.arange(NUM_TRAJECTORIES)[:, None])
    return system, (system.vector_field, starts, system.parameter_vector)


def exponents(name, function=largest_lyapunov_exponents, **options):
    system, problem = settings(name)
    rng = np.random.default_rng(0)
    return function(*problem, period=system.period, unbounded=system.unbounded, rng=rng, **options)


def trajectories(name):
    system, problem = settings(name)
    return integrate(*problem, dt=40 * system.period / 4096, num_points=4096, unbounded=system.unbounded)


def milliseconds(function, name):
    start = time.perf_counter()
    function(name)
    return 1e3 * (time.perf_counter() - start) / NUM_TRAJECTORIES


@pytest.mark.bench
@pytest.mark.parametrize("name", ["Lorenz", "DoublePendulum", "Hopfield", "MacArthur"])
def test_one_system(benchmark, name):
    exponents(name, num_periods=1)
    benchmark.pedantic(exponents, (name,), rounds=3)
    benchmark.extra_info["ms_per_trajectory"] = 1e3 * benchmark.stats.stats.median / NUM_TRAJECTORIES


@pytest.mark.bench
def test_all_systems(benchmark):
    """The extra figures compare with the trajectories of the data: 4096 points over 40 periods, rtol 1e-10."""
    for name in system_names():
        exponents(name, num_periods=1, transient_periods=0)
        integrate(*settings(name)[1], dt=1e-3, num_points=1)
    costs = benchmark.pedantic(lambda: [milliseconds(exponents, name) for name in system_names()], rounds=1)
    base = [milliseconds(trajectories, name) for name in system_names()]
    for label, summary in (("median", np.median), ("mean", np.mean)):
        benchmark.extra_info[f"{label}_ms"] = float(summary(costs))
        benchmark.extra_info[f"{label}_ms_of_trajectories"] = float(summary(base))


@pytest.mark.bench
@pytest.mark.parametrize("name", ["Lorenz", "Lorenz96", "Hopfield"])
def test_spectrum(benchmark, name):
    exponents(name, lyapunov_spectrum, num_periods=1)
    benchmark.pedantic(exponents, (name, lyapunov_spectrum), rounds=1)
    benchmark.extra_info["ms_per_trajectory"] = 1e3 * benchmark.stats.stats.median / NUM_TRAJECTORIES
