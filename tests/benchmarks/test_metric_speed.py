"""CPU-seconds of all attractor statistics of 100 trajectories of (3, 4096), truth and generated."""

import time

import numpy as np
import pytest

from data_generation.integration import integrate
from data_generation.systems import load_system
from hf_tsdyn.attractor_statistics import attractor_statistics
from hf_tsdyn.metrics import correlation_dimension, largest_lyapunov, spectrum_distance, state_space_divergence

NUM_TRAJECTORIES, NUM_POINTS = 100, 4096
SYSTEMS = ["Lorenz", "Rossler", "Halvorsen", "Thomas"]
PROMISED_SECONDS = 60.0

pytestmark = [pytest.mark.bench, pytest.mark.benchmark(timer=time.process_time)]


@pytest.fixture(scope="module")
def trajectories():
    """Truth and generated (NUM_TRAJECTORIES, NUM_POINTS, 3), other stretches of the same orbits, and dt."""
    rng, parts, dt = np.random.default_rng(0), [], []
    for name in SYSTEMS:
        system = load_system(name)
        count = NUM_TRAJECTORIES // len(SYSTEMS)
        starts = system.initial_condition + 0.1 * system.state_std * rng.standard_normal((count, 3))
        step = 32 * system.period / NUM_POINTS
        times = {"dt": step, "transient": 8 * system.period}
        parts.append(
            integrate(system.vector_field, starts, system.parameter_vector, num_points=2 * NUM_POINTS, **times).states
        )
        dt += [step] * count
    states = np.concatenate(parts)
    return states[:, :NUM_POINTS], states[:, NUM_POINTS:], np.array(dt)


def test_all_statistics_of_100_trajectories(benchmark, trajectories):
    truth, generated, dt = trajectories
    attractor_statistics(truth[:1], generated[:1], dt=dt[:1], seed=0)  # compiles
    scores = benchmark.pedantic(attractor_statistics, args=trajectories[:2], kwargs={"dt": dt, "seed": 0}, rounds=1)
    seconds = benchmark.stats.stats.median
    print(f"\n{seconds:.1f} CPU-seconds; medians " + ", ".join(f"{k} {np.nanmedian(v):.3f}" for k, v in scores.items()))
    assert seconds < PROMISED_SECONDS


@pytest.mark.parametrize(
    "measure",
    [
        lambda truth, generated: state_space_divergence(truth, generated),
        lambda truth, generated: spectrum_distance(truth, generated),
        lambda truth, generated: largest_lyapunov(generated),
        lambda truth, generated: correlation_dimension(generated, rng=np.random.default_rng(0)),
    ],
    ids=["state_space_divergence", "spectrum_distance", "largest_lyapunov", "correlation_dimension"],
)
def test_each_of_one_trajectory(benchmark, measure, trajectories):
    truth, generated, _ = trajectories
    benchmark.pedantic(measure, args=(truth[0], generated[0]), rounds=10, warmup_rounds=1)
    print(f"\n{1e3 * benchmark.stats.stats.median:.1f} ms")
