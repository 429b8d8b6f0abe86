"""Symbols of orbits, and what is counted in them, against hand-made orbits and maps with known entropies."""

import math

import numpy as np
import pytest
import torch

from hf_tsdyn import ALRNNConfig, ALRNNForPrediction
from hf_tsdyn.models.alrnn.symbolic import (
    MAX_DENSE_REGIONS,
    PiecewiseLinearMap,
    SymbolicOrbit,
    lyapunov_exponents,
    orbit_of_states,
    region_jacobian,
    symbolic_orbit,
)

GOLDEN_RATIO = (1 + math.sqrt(5)) / 2


def build(A, W, h, *, num_channels, num_relu_units):
    config = ALRNNConfig(num_channels=num_channels, hidden_size=len(A), num_relu_units=num_relu_units)
    model = ALRNNForPrediction(config).double().eval()
    with torch.no_grad():
        for name, value in {"A": A, "W": W, "h": h}.items():
            getattr(model.model, name).copy_(torch.tensor(value, dtype=torch.float64))
        model.model.L.zero_()
    return model


def tent(slope):
    """v' = slope / 2 - slope |v| - 1/2: the tent map about its tip."""
    return build([slope], [[-2 * slope]], [(slope - 1) / 2], num_channels=1, num_relu_units=1)


def tent_with_auxiliary(slope, contraction):
    """x' = slope (1/2 - |x - 1/2|), and a rectified unit that is drawn to x - 1/2 by `contraction` a step."""
    c = contraction
    return build(
        [0.0, c], [[slope, -2 * slope], [slope - c, -2 * slope]], [0, (c - 1) / 2], num_channels=1, num_relu_units=1
    )


def random_model(units=6, relu_units=3, channels=2, seed=0):
    rng = np.random.default_rng(seed)
    W = rng.normal(0, 0.4, (units, units))
    model = build(
        rng.uniform(-0.5, 0.5, units), W, rng.normal(size=units), num_channels=channels, num_relu_units=relu_units
    )
    with torch.no_grad():
        model.model.L.copy_(torch.tensor(rng.normal(size=(units - channels, channels))))
    return model


def iterate(model, state, num_steps):
    """States after each step, one at a time, from the region's Jacobian alone."""
    maps, states = PiecewiseLinearMap.of(model), []
    for _ in range(num_steps):
        state = maps.jacobian(maps.regions(state)) @ state + maps.h
        states.append(state)
    return np.array(states)


def orbit_of_symbols(symbols, num_relu_units=10):
    """An orbit with these symbols, whose states say nothing."""
    size = max(symbols) + 1
    regions = (np.arange(size)[:, None] >> np.arange(num_relu_units)) % 2 > 0
    states = np.zeros((len(symbols), num_relu_units))
    return SymbolicOrbit(states, states[:, :1], regions, np.array(symbols))


def test_symbols_number_regions_by_falling_occupancy_and_ties_by_code():
    model = random_model(units=3, relu_units=2, channels=1)
    codes = ["+-", "-+", "--", "-+", "-+", "+-", "++"]
    states = [[9.0, *(1.0 if sign == "+" else -1.0 for sign in code)] for code in codes]
    orbit = orbit_of_states(model, states)
    assert [orbit.label(region) for region in range(4)] == ["-+", "+-", "--", "++"]
    assert orbit.symbols.tolist() == [1, 0, 2, 0, 0, 1, 3]
    assert orbit.counts.tolist() == [3, 2, 1, 1]
    assert orbit.occupancy == pytest.approx([3 / 7, 2 / 7, 1 / 7, 1 / 7])


def test_a_unit_at_zero_is_not_active():
    orbit = orbit_of_states(random_model(units=2, relu_units=1, channels=1), [[1.0, 0.0], [1.0, -0.0], [1.0, 1e-300]])
    assert [orbit.label(symbol) for symbol in orbit.symbols] == ["-", "-", "+"]


def test_transitions_are_conditional_probabilities():
    orbit = orbit_of_symbols([0, 0, 1, 0, 1, 1, 2])
    assert orbit.transition_counts.tolist() == [[1, 2, 0], [1, 1, 1], [0, 0, 0]]
    expected = np.array([[1 / 3, 2 / 3, 0], [1 / 3, 1 / 3, 1 / 3], [0, 0, 0]])
    np.testing.assert_allclose(orbit.transition_matrix, expected)
    np.testing.assert_allclose(orbit.switch_matrix, [[0, 1, 0], [1 / 2, 0, 1 / 2], [0, 0, 0]])
    np.testing.assert_array_equal(orbit.exits(2), orbit.switch_matrix[:2])


def test_dwell_times_leave_out_the_visits_that_the_ends_of_the_orbit_cut():
    orbit = orbit_of_symbols([0, 0, 1, 0, 2, 2, 2, 0, 0, 0, 1, 1])
    assert [times.tolist() for times in orbit.dwell_times] == [[1, 3], [1], [3]]
    assert [times.tolist() for times in orbit_of_symbols([0, 0, 0]).dwell_times] == [[]]


def test_flips_are_counted_for_each_unit_and_step():
    orbit = orbit_of_symbols([0, 1, 0, 3, 3], num_relu_units=3)
    np.testing.assert_allclose(orbit.flips, [3 / 4, 1 / 4, 0])


@pytest.mark.parametrize(("slope", "entropy"), [(GOLDEN_RATIO, math.log(GOLDEN_RATIO)), (2 - 1e-9, math.log(2))])
def test_topological_entropy_is_exact_where_regions_make_a_markov_partition(slope, entropy):
    model = tent(slope)
    states = iterate(model, np.array([0.1234]), 3000)[100:]
    assert orbit_of_states(model, states).topological_entropy == pytest.approx(entropy, abs=1e-9)


@pytest.mark.parametrize("halves", [1, 2])
@pytest.mark.parametrize("size", [10, 900])
def test_topological_entropy_of_graphs_with_two_ways_out_of_each_region_is_log_two(size, halves):
    rng, symbols = np.random.default_rng(0), [0]
    part = size // halves  # two halves alternate: the graph is periodic
    for bit in rng.integers(0, 2, 40 * size).tolist():
        half, position = divmod(symbols[-1], part)
        symbols.append((half + 1) % halves * part + (2 * position + bit) % part)
    assert orbit_of_symbols(symbols).topological_entropy == pytest.approx(math.log(2), abs=1e-9)


@pytest.mark.parametrize("symbols", [[0, 1, 2] * 3, [0, 1, 0, 1], [0, 0, 0]])
def test_topological_entropy_is_zero_where_no_region_is_on_two_loops(symbols):
    orbit = orbit_of_symbols(symbols)
    assert orbit.topological_entropy == pytest.approx(0, abs=1e-12)
    assert orbit.switch_entropy == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("symbols", [[0, 1, 2], [0, 0, 1, 1, 2, 2], [0, 1, 0, 2, 3, 4, 5], list(range(5000))])
def test_an_orbit_that_left_most_regions_once_says_nothing_of_their_entropy(symbols):
    orbit = orbit_of_symbols(symbols, num_relu_units=13)
    assert orbit.topological_entropy is None
    assert orbit.switch_entropy is None


@pytest.mark.parametrize("stay", [1, 2, 7])
def test_the_entropy_of_switches_does_not_count_stays(stay):
    """From 0 to 1 or 2 and back: a free choice at every other switch, log 2 / 2 however long the stays."""
    choices = np.random.default_rng(0).integers(1, 3, 100)
    symbols = np.stack([np.zeros_like(choices), choices], axis=1).reshape(-1).repeat(stay).tolist()
    orbit = orbit_of_symbols(symbols)
    assert orbit.switch_entropy == pytest.approx(math.log(2) / 2)
    assert orbit.switch_rate == pytest.approx(199 / (200 * stay - 1))
    if stay > 1:
        assert orbit.topological_entropy == pytest.approx(math.log(1 + math.sqrt(2)))


@pytest.mark.parametrize(("ring", "short_cut"), [(5000, 37), (900, 450)])
def test_the_entropy_of_a_long_ring_with_one_short_cut_is_exact(ring, short_cut):
    """Paths through loops of two lengths n, m grow as the h of exp(-n h) + exp(-m h) = 1."""
    short, whole = list(range(short_cut)), list(range(ring))
    orbit = orbit_of_symbols((whole + short + short) * 3, num_relu_units=13)
    entropy = orbit.switch_entropy
    assert np.exp(-ring * entropy) + np.exp(-short_cut * entropy) == pytest.approx(1, abs=1e-6)


def test_many_regions_are_counted_without_matrices_from_each_to_each():
    size = MAX_DENSE_REGIONS + 1
    orbit = orbit_of_symbols([*range(size), 0, 0, 7], num_relu_units=13)
    assert orbit.transitions.nnz == size + 2
    assert orbit.switches.nnz == size + 1
    assert orbit.transitions[0, 0] == 1
    exits = orbit.exits(2)
    assert exits.shape == (2, size)
    assert exits[0, [1, 7]].tolist() == [0.5, 0.5]
    for name in ("transition_counts", "transition_matrix", "switch_matrix"):
        with pytest.raises(ValueError, match="at most 4,096 regions, found 4,097"):
            getattr(orbit, name)


def test_without_rectified_units_there_is_one_region_with_an_empty_code():
    angle = 0.3
    rotation = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    model = build([0.0, 0.0], rotation, [0.0, 0.0], num_channels=2, num_relu_units=0)
    orbit = symbolic_orbit(model, [[1.0, 0.0]], num_steps=600, discard=0)
    assert orbit.regions.shape == (1, 0)
    assert orbit.label(0) == ""
    assert orbit.transition_matrix.tolist() == [[1.0]]
    assert orbit.flips.shape == (0,)
    assert orbit.topological_entropy == 0
    np.testing.assert_allclose(orbit.observed[9], [math.cos(3), math.sin(3)], atol=1e-12)
    np.testing.assert_allclose(lyapunov_exponents(model, orbit.states).exponents, 0, atol=1e-12)


def test_the_region_jacobian_is_the_derivative_of_a_step():
    model = random_model()
    state = torch.tensor([0.3, -0.2, 0.5, -0.7, 0.4, 0.6], dtype=torch.float64)

    def step(z):
        A, W, h, _ = (each[0].detach() for each in model.model.stacked)
        return A * z + W @ torch.cat([z[:3], z[3:].relu()]) + h

    derivative = torch.autograd.functional.jacobian(step, state)
    np.testing.assert_allclose(region_jacobian(model, [False, True, True]), derivative, atol=1e-15)


def test_an_orbit_is_the_free_run_after_what_is_discarded():
    model = random_model()
    model.set_scaler([10.0, -3.0], [2.0, 0.5])
    past = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.1
    orbit = symbolic_orbit(model, past, num_steps=30, discard=7)
    expected = iterate(model, model.initial_state(past[None])[0].numpy(), 37)[7:]
    np.testing.assert_allclose(orbit.states, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(orbit.observed, expected[:, :2] * [2.0, 0.5] + [10.0, -3.0], rtol=1e-9)
    np.testing.assert_array_equal(orbit.regions[orbit.symbols], expected[:, 3:] > 0)


def test_lyapunov_exponents_of_the_tent_map_and_of_the_direction_that_only_the_model_has():
    model = tent_with_auxiliary(1.9, 0.3)
    states = iterate(model, np.array([0.2, -0.3]), 3000)
    found = lyapunov_exponents(model, states, dt=0.5).exponents
    np.testing.assert_allclose(found, [math.log(1.9) / 0.5, math.log(0.3) / 0.5], rtol=1e-3)


def test_a_model_that_diverges_is_an_error_that_says_when():
    model = build([1.5], [[0.0]], [1.0], num_channels=1, num_relu_units=1)
    with pytest.raises(ValueError, match="diverges from this start"):
        symbolic_orbit(model, [[1.0]], num_steps=4000, discard=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: symbolic_orbit(model, np.zeros((2, 5, 2))), "one series"),
        (lambda model: symbolic_orbit(model, np.zeros((5, 2)), num_steps=1), "num_steps must be at least 2"),
        (lambda model: symbolic_orbit(model, np.zeros((5, 2)), discard=-1), "discard at least 0"),
        (lambda model: orbit_of_states(model, np.zeros((5, 4))), r"must be \(time, 6\)"),
        (lambda model: region_jacobian(model, [True]), "each of the 3 rectified units"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(random_model())
