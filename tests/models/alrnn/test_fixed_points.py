"""Fixed points and cycles against closed forms, on maps that are AL-RNNs exactly."""

import itertools
import math

import numpy as np
import pytest
import torch

from hf_tsdyn import ALRNNConfig, ALRNNForPrediction
from hf_tsdyn.models.alrnn.fixed_points import _CyclicKeys, find_cycles, fixed_points, stability_kind
from hf_tsdyn.models.alrnn.symbolic import PiecewiseLinearMap, orbit_of_states


def build(A, W, h, *, num_channels, num_relu_units):
    config = ALRNNConfig(num_channels=num_channels, hidden_size=len(A), num_relu_units=num_relu_units)
    model = ALRNNForPrediction(config).double().eval()
    with torch.no_grad():
        for name, value in {"A": A, "W": W, "h": h}.items():
            getattr(model.model, name).copy_(torch.tensor(value, dtype=torch.float64))
    return model


def tent(slope):
    """v' = slope / 2 - slope |v| - 1/2: the tent map about its tip."""
    return build([slope], [[-2 * slope]], [(slope - 1) / 2], num_channels=1, num_relu_units=1)


def lozi(a, b):
    """x' = 1 - a|x| + y, y' = b x, with |x| = 2 relu(x) - x and a third unit equal to x, rectified."""
    W = [[a, 1.0, -2 * a], [b, 0.0, 0.0], [a, 1.0, -2 * a]]
    return build([0.0] * 3, W, [1.0, 0.0, 1.0], num_channels=2, num_relu_units=1)


def run(model, state, num_steps):
    maps, states = PiecewiseLinearMap.of(model), [np.asarray(state, dtype=float)]
    for _ in range(num_steps):
        states.append(maps.jacobian(maps.regions(states[-1])) @ states[-1] + maps.h)
    return orbit_of_states(model, states[1:])


def necklaces(length):
    """Binary sequences that are no shorter one repeated, one for all rotations."""
    turned = {min(word[i:] + word[:i] for i in range(length)) for word in itertools.product((0, 1), repeat=length)}
    return [word for word in turned if len({word[i:] + word[:i] for i in range(length)}) == length]


def test_fixed_points_of_the_lozi_map():
    a, b = 1.7, 0.5
    model = lozi(a, b)
    model.set_scaler([5.0, -1.0], [2.0, 3.0])
    right, left = fixed_points(model, [[True], [False]])
    for point, x, sign in ((right, 1 / (1 + a - b), -1), (left, 1 / (1 - a - b), 1)):
        np.testing.assert_allclose(point.state, [x, b * x, x], rtol=1e-12)
        np.testing.assert_allclose(point.observed, [2 * x + 5, 3 * b * x - 1], rtol=1e-12)
        root = math.sqrt(a**2 + 4 * b)
        expected = [sign * (a + root) / 2, sign * (a - root) / 2, 0]
        np.testing.assert_allclose(point.eigenvalues, expected, atol=1e-12)
        assert point.is_real
        assert point.kind == "saddle"


def test_a_fixed_point_outside_its_region_is_virtual():
    point = fixed_points(lozi(0.3, 0.3), [[False]])[0]
    assert point.state[0] == pytest.approx(2.5)
    assert not point.is_real


def test_a_region_whose_map_only_shifts_has_no_fixed_point():
    model = build([1.0, 0.5], np.zeros((2, 2)), [0.1, 0.2], num_channels=1, num_relu_units=1)
    assert fixed_points(model, [[True], [False]]) == []


def test_a_linear_model_has_one_fixed_point_and_no_cycles():
    angle, h = 0.7, np.array([1.0, 2.0])
    W = 0.9 * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    model = build([0.0, 0.0], W, h, num_channels=2, num_relu_units=0)
    orbit = run(model, [1.0, 0.0], 50)
    assert find_cycles(model, orbit, max_length=5) == []
    (point,) = fixed_points(model, orbit.regions)
    np.testing.assert_allclose(point.state, W @ point.state + h, atol=1e-14)
    assert point.is_real
    assert point.kind == "stable focus"


@pytest.mark.parametrize(
    ("eigenvalues", "kind"),
    [
        ([0.5, -0.2, 0.0], "stable node"),
        ([0.5 + 0.5j, 0.5 - 0.5j, 0.1], "stable focus"),
        ([0.9, 0.1 + 0.1j, 0.1 - 0.1j], "stable node"),
        ([1.5, -1.1], "unstable node"),
        ([1 + 0.1j, 1 - 0.1j, 2.0], "unstable focus"),
        ([1.5, 0.5], "saddle"),
        ([1.5, 0.9, 0.1j, -0.1j], "saddle"),
        ([1.5, 0.9j, -0.9j, 0.1], "saddle focus"),
        ([1.5j, -1.5j, 0.2], "saddle focus"),
        ([np.exp(1j), np.exp(-1j), 0.5], "center"),
        ([0.2, np.exp(3j), np.exp(-3j), np.exp(1j), np.exp(-1j)], "center"),
        ([1.0, 0.5], "neutral"),
        ([-1.0], "neutral"),
        ([1.0, np.exp(1j), np.exp(-1j)], "neutral"),
        ([1.0, 2.0], "non-hyperbolic, unstable"),
        ([-1.0, 3.0], "non-hyperbolic, unstable"),
        ([np.exp(0.1j), np.exp(-0.1j), 2.0], "non-hyperbolic, unstable"),
        ([1 + 1e-7, 1 - 1e-5], "neutral"),
    ],
)
def test_kinds_follow_from_the_moduli_and_the_eigenvalues_nearest_to_the_unit_circle(eigenvalues, kind):
    assert stability_kind(eigenvalues) == kind


@pytest.mark.parametrize("a", [1.7, 1.6])
def test_the_two_cycle_of_the_lozi_map(a):
    b = 0.5
    model = lozi(a, b)
    cycles = find_cycles(model, run(model, [0.1, 0.1, 0.1], 5000), max_length=2)
    assert len(cycles) == 1
    cycle, norm = cycles[0], (1 - b) ** 2 + a**2
    right, left = (1 - b + a) / norm, (1 - b - a) / norm
    np.testing.assert_allclose(sorted(cycle.states[:, 0]), [left, right], rtol=1e-12)
    np.testing.assert_allclose(cycle.observed, cycle.states[:, :2])
    trace = 2 * b - a**2
    roots = [(trace - math.sqrt(trace**2 - 4 * b**2)) / 2, (trace + math.sqrt(trace**2 - 4 * b**2)) / 2]
    np.testing.assert_allclose(cycle.eigenvalues[:2], roots, rtol=1e-12)
    assert cycle.is_real
    assert cycle.kind == "saddle"


def test_the_full_tent_map_has_as_many_cycles_as_there_are_necklaces():
    slope = 2 - 1e-9
    model = tent(slope)
    cycles = find_cycles(model, run(model, [0.1234], 4000), max_length=7)
    assert all(cycle.is_real for cycle in cycles)
    lengths = [len(cycle.symbols) for cycle in cycles]
    assert {length: lengths.count(length) for length in range(2, 8)} == {2: 1, 3: 2, 4: 3, 5: 6, 6: 9, 7: 18}
    for cycle in cycles:
        assert abs(cycle.eigenvalues[0]) == pytest.approx(slope ** len(cycle.symbols))


@pytest.mark.parametrize("slope", [1.5, 1.75, 1.9])
def test_cycles_are_those_of_a_search_through_all_sequences(slope):
    model, expected = tent(slope), set()
    for length in range(2, 8):
        for word in necklaces(length):
            factor, offset = 1.0, 0.0
            for active in word:
                step = -slope if active else slope
                factor, offset = step * factor, step * offset + (slope - 1) / 2
            orbit = [offset / (1 - factor)]
            for _ in range(length - 1):
                orbit.append((slope - 1) / 2 - slope * abs(orbit[-1]))
            if tuple(int(v > 0) for v in orbit) == word:
                expected.add(tuple(np.round(sorted(orbit), 9)))
    cycles = find_cycles(model, run(model, [0.1234], 5000), max_length=7, max_candidates=10_000)
    found = [tuple(np.round(np.sort(cycle.states[:, 0]), 9)) for cycle in cycles if cycle.is_real]
    assert len(found) == len(set(found))
    assert set(found) == expected


@pytest.fixture(scope="module", params=[169, 190])
def random_search(request):
    """A map of five units with real and virtual cycles, an orbit of it, and what is found from that."""
    rng = np.random.default_rng(request.param)
    A, W, h = rng.uniform(-0.9, 0.9, 5), rng.normal(0, 0.6, (5, 5)), rng.normal(size=5)
    model = build(A, W, h, num_channels=2, num_relu_units=4)
    orbit = run(model, rng.normal(size=5), 600)
    return model, orbit, find_cycles(model, orbit, max_length=10)


def closes_in(orbit, cycle):
    """Whether the orbit runs through the cycle's sequence from some start and then is in its first region again."""
    symbols = cycle.symbols.tolist()
    turned = (symbols[i:] + symbols[:i] + [symbols[i]] for i in range(len(symbols)))
    return min(symbols) >= 0 and any(bytes(word) in bytes(orbit.symbols.tolist()) for word in turned)


def test_the_orbit_ran_through_what_is_solved_and_following_that_finds_real_cycles_that_it_did_not(random_search):
    _, orbit, cycles = random_search
    assert all(closes_in(orbit, cycle) for cycle in cycles if not cycle.is_real)
    assert not all(closes_in(orbit, cycle) for cycle in cycles if cycle.is_real)


def test_every_cycle_closes_and_says_rightly_whether_it_is_real(random_search):
    model, orbit, cycles = random_search
    maps = PiecewiseLinearMap.of(model)
    for cycle in cycles:
        regions = maps.regions(cycle.states) if cycle.is_real else orbit.regions[cycle.symbols]
        stepped = np.einsum("kij,kj->ki", maps.jacobian(regions), cycle.states) + maps.h
        scale = np.abs(cycle.states).max()
        np.testing.assert_allclose(stepped, np.roll(cycle.states, -1, axis=0), atol=1e-6 * scale)
        assert cycle.is_real == (maps.regions(cycle.states) == regions).all()
        visited = cycle.symbols >= 0
        np.testing.assert_array_equal(orbit.regions[cycle.symbols[visited]], regions[visited])


def test_no_cycle_is_another_one_turned_or_a_shorter_one_repeated(random_search):
    _, _, cycles = random_search
    names = set()
    for cycle in cycles:
        states = [tuple(np.round(state, 6)) for state in cycle.states]
        if cycle.is_real:
            assert len(set(states)) == len(states)
            names.add(min(tuple(states[i:] + states[:i]) for i in range(len(states))))
    assert len(names) == sum(cycle.is_real for cycle in cycles)
    lengths = [(not cycle.is_real, len(cycle.symbols)) for cycle in cycles]
    assert lengths == sorted(lengths)


def test_the_nearest_return_comes_first_and_repetitions_of_a_cycle_do_not_count():
    left, right, h = 0.4, -2.0, 1.0
    model = build([left], [[right - left]], [h], num_channels=1, num_relu_units=1)
    cycles = find_cycles(model, run(model, [0.3], 400), max_length=12, max_candidates=1)
    assert [cycle.is_real for cycle in cycles] == [True]
    upper = (left * h + h) / (1 - left * right)
    np.testing.assert_allclose(np.sort(cycles[0].states[:, 0]), [right * upper + h, upper], rtol=1e-12)
    np.testing.assert_allclose(cycles[0].eigenvalues, [left * right])
    assert cycles[0].kind == "stable node"


def test_short_cycles_are_found_beside_long_ones_in_one_search():
    model = tent(1.9)
    orbit = run(model, [0.1234], 5000)
    cycles = find_cycles(model, orbit, max_length=200, max_candidates=100)
    short = find_cycles(model, orbit, max_length=4)
    real = {tuple(np.round(np.sort(cycle.states[:, 0]), 9)) for cycle in cycles if cycle.is_real}
    assert {len(cycle.symbols) for cycle in short} == {2, 3, 4}
    assert real >= {tuple(np.round(np.sort(cycle.states[:, 0]), 9)) for cycle in short if cycle.is_real}
    assert max(map(len, real)) > 16


@pytest.mark.parametrize(("num_symbols", "length"), [(2, 5), (2, 12), (2, 14), (3, 8), (5, 5)])
def test_windows_have_one_name_exactly_if_they_are_rotations(num_symbols, length):
    words = np.array(list(itertools.product(range(num_symbols), repeat=length)))
    numbers = words @ num_symbols ** np.arange(length)
    turned = [np.roll(words, turn, axis=1) @ num_symbols ** np.arange(length) for turn in range(length)]
    classes = np.min(turned, axis=0)
    names = _CyclicKeys.of(words.reshape(-1)).of_windows(length)[::length]
    assert len(np.unique(numbers)) == len(names)
    pairs = np.unique(np.stack([classes.astype(np.uint64), names], axis=1), axis=0)
    assert len(pairs) == len(np.unique(classes)) == len(np.unique(names))


def test_cycles_that_rounding_does_not_let_close_are_left_out():
    slope = 1.9
    model = tent(slope)
    cycles = find_cycles(model, run(model, [0.1234], 2000), max_length=70)
    real = [cycle.states[:, 0] for cycle in cycles if cycle.is_real]
    assert max(map(len, real)) > 10
    for v in real:
        np.testing.assert_allclose((slope - 1) / 2 - slope * np.abs(v), np.roll(v, -1), atol=1e-6)
    assert slope ** max(len(cycle.symbols) for cycle in cycles) < 1e16


def test_a_sequence_whose_map_overflows_has_no_cycle():
    model = build([1e200], [[0.0]], [1.0], num_channels=1, num_relu_units=1)
    orbit = orbit_of_states(model, [[1.0], [-1.0], [-1.0], [1.0], [1.0]])
    assert [len(cycle.symbols) for cycle in find_cycles(model, orbit, max_length=4)] == []


def test_searches_that_cannot_be_are_refused():
    model = tent(1.9)
    orbit = run(model, [0.1234], 100)
    with pytest.raises(ValueError, match="max_length must be at least 2"):
        find_cycles(model, orbit, max_length=1)
    with pytest.raises(ValueError, match="max_candidates at least 1"):
        find_cycles(model, orbit, max_length=3, max_candidates=0)
