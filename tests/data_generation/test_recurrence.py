"""Returns of a trajectory to its own past, against the definition."""

import numpy as np
import pytest

from data_generation.integration import integrate
from data_generation.recurrence import nearest_return, return_distances
from data_generation.systems import load_system


def standardised(values: np.ndarray) -> np.ndarray:
    return (values - values.mean(axis=1, keepdims=True)) / values.std(axis=1, keepdims=True)


@pytest.mark.parametrize("num_points", [255, 256, 300])
def test_return_distances_equal_their_definition(num_points: int):
    values = standardised(np.random.default_rng(0).standard_normal((3, num_points)).cumsum(axis=1))
    half = num_points // 2
    later = values[:, num_points - half :]
    slow = [
        np.sqrt(np.mean((later - values[:, num_points - half - shift : num_points - shift]) ** 2) / 2)
        for shift in range(num_points - half + 1)
    ]
    np.testing.assert_allclose(return_distances(values), slow, atol=1e-6)


def test_a_return_between_two_samples_is_found():
    angle = 2 * np.pi * np.arange(1000) / 300.5
    values = np.sqrt(2) * np.stack([np.sin(angle), np.cos(angle)])
    assert return_distances(values)[100:].min() > 1e-3
    assert nearest_return(values, resolution=0.0) < 1e-5


def test_what_cannot_come_within_the_resolution_is_left_as_it_is():
    values = standardised(np.random.default_rng(0).standard_normal((3, 500)).cumsum(axis=1))
    distances = return_distances(values)
    departed = int(np.argmax(distances > 0.5))
    assert nearest_return(values, resolution=1e-3) == distances[departed:].min()


@pytest.mark.parametrize("name", ["SaltonSea", "SprottI"])
def test_a_longer_series_tells_a_near_return_from_a_cycle(name: str):
    """Both are chaotic, and stay near an unstable periodic orbit for long."""
    system = load_system(name)
    distances = []
    for num_points, num_periods, transient_periods in ((2048, 20, 10), (4096, 32, 8)):
        times = {"dt": num_periods * system.period / num_points, "transient": transient_periods * system.period}
        start, parameters = system.initial_condition[None], system.parameter_vector
        states = integrate(system.vector_field, start, parameters, num_points=num_points, **times).states[0]
        distances.append(nearest_return(standardised(states.T), resolution=0.01))
    assert distances[0] < 0.01 < distances[1]
