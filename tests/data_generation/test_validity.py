"""Validity checks: closed-form signals are rejected for the right reason, chaos passes."""

import json
from argparse import ArgumentError

import numpy as np
import pytest

from data_generation.acceptance import OPTIONAL_CHECKS, ValidityConfig
from data_generation.config_loading import load_config
from data_generation.integration import integrate
from data_generation.systems import load_system
from data_generation.validity import (
    Checked,
    Rejection,
    check_channels_vary,
    check_chaotic,
    check_finite,
    check_magnitude,
    check_not_decaying,
    check_not_fixed_point,
    check_not_limit_cycle,
    check_not_linear,
    check_not_shrinking,
    check_outliers,
    check_spectrum,
    check_stationary,
    check_trajectory,
)

NUM_POINTS = 2048
TIMES = np.arange(NUM_POINTS)
THRESHOLDS = ValidityConfig()


def is_limit_cycle(values: np.ndarray) -> bool:
    return not check_not_limit_cycle(values, min_return_distance=THRESHOLDS.min_return_distance)[1]


def check(values: np.ndarray, channel_std: np.ndarray, thresholds: ValidityConfig = THRESHOLDS) -> Checked:
    rng = np.random.default_rng(0)
    return check_trajectory(values, channel_std, max_abs=1e4, thresholds=thresholds, rng=rng)


def reason(values: np.ndarray, thresholds: ValidityConfig = THRESHOLDS) -> Rejection | None:
    return check(values, np.ones(len(values)), thresholds).rejection


def periodic(period: float, phase: float = 0.0) -> np.ndarray:
    angle = 2 * np.pi * (TIMES / period + phase)
    spike = np.exp(8 * (np.cos(angle) - 1))
    return np.stack([np.sin(angle), np.cos(angle) * (1 + 0.5 * np.sin(2 * angle)), spike])


@pytest.fixture(scope="module")
def chaos() -> dict[str, np.ndarray]:
    """(16, 3, NUM_POINTS) of each of two chaotic systems, 20 periods long."""
    series = {}
    rng = np.random.default_rng(0)
    for name in ("Lorenz", "Rossler"):
        system = load_system(name)
        start = system.initial_condition + 0.1 * system.state_std * rng.standard_normal((16, 3))
        dt, transient = 20 * system.period / NUM_POINTS, 20 * system.period
        defaults = system.parameter_vector
        result = integrate(system.vector_field, start, defaults, dt=dt, num_points=NUM_POINTS, transient=transient)
        series[name] = result.states.swapaxes(1, 2)
    return series


@pytest.mark.parametrize("phase", [0.0, 0.3, 0.77])
@pytest.mark.parametrize("period", [16, 41.3, 100, 100.37, 99.9 * np.sqrt(2), 333.3, 1000.5])
def test_a_periodic_signal_is_rejected_however_it_is_sampled(period: float, phase: float):
    assert is_limit_cycle(periodic(period, phase))
    assert reason(periodic(period, phase)) is Rejection.LIMIT_CYCLE


def test_exact_repetitions_count():
    block = np.random.default_rng(0).standard_normal((3, 128)).cumsum(axis=1)
    distance, passes = check_not_limit_cycle(np.tile(block, 16), min_return_distance=1e-6)
    assert distance < 1e-6
    assert not passes


def test_a_period_doubled_signal_is_rejected():
    angle = 2 * np.pi * TIMES / 87.3
    assert is_limit_cycle(np.stack([np.sin(angle) + 0.2 * np.sin(angle / 4), np.cos(angle)]))


def test_a_constant_repeats_itself():
    assert is_limit_cycle(np.ones((2, NUM_POINTS)))


@pytest.mark.parametrize("name", ["Lorenz", "Rossler"])
def test_chaos_passes_every_check(chaos: dict[str, np.ndarray], name: str):
    std = load_system(name).state_std
    for values in chaos[name]:
        checked = check(values, std)
        assert checked.rejection is None
        assert list(checked.statistics) == [
            "finite_share", "max_abs", "max_z", "tail_spread", "tail_ratio", "spread_growth", "channel_spread",
            "line_share", "return_distance", "num_peaks", "unit_root_p", "diffusing_share",
        ]  # fmt: skip
        json.dumps(checked.statistics, allow_nan=False)


def test_chaos_is_far_from_periodic(chaos: dict[str, np.ndarray]):
    distances = [check_not_limit_cycle(values, min_return_distance=0.01)[0] for values in chaos["Lorenz"]]
    assert min(distances) > 0.3


@pytest.mark.parametrize("step", [8, 16, 40])
def test_coarse_sampling_does_not_make_chaos_periodic(chaos: dict[str, np.ndarray], step: int):
    assert not any(is_limit_cycle(values[:, ::step]) for values in chaos["Lorenz"])


def test_noise_is_not_periodic():
    assert not is_limit_cycle(np.random.default_rng(0).standard_normal((3, NUM_POINTS)))


def spiral(decay_periods: float) -> np.ndarray:
    angle = 2 * np.pi * TIMES / 100
    return 5 + np.exp(-TIMES / (100 * decay_periods)) * np.stack([np.cos(angle), np.sin(angle)])


@pytest.mark.parametrize(
    ("decay_periods", "expected"),
    [
        (1.0, Rejection.FIXED_POINT),
        (3.0, Rejection.DECAYING),
        (6.0, Rejection.SHRINKING),
        (12.0, Rejection.SHRINKING),
        (25.0, Rejection.SHRINKING),
    ],
)
def test_a_decaying_spiral_is_rejected(decay_periods: float, expected: Rejection):
    assert reason(spiral(decay_periods)) is expected
    assert not check_not_shrinking(spiral(decay_periods), min_spread_growth=1.0)[1]


def test_one_growing_channel_is_not_shrinking():
    values = spiral(6.0)
    assert check_not_shrinking(np.stack([values[0], values[1, ::-1]]), min_spread_growth=1.0)[1]
    assert check_not_decaying(values[:, ::-1], min_tail_ratio=1.0)[1]


def test_a_spiral_that_has_come_to_rest_is_a_fixed_point():
    noise = 1e-9 * np.random.default_rng(0).standard_normal((3, NUM_POINTS))
    assert reason(2.0 + noise) is Rejection.FIXED_POINT
    assert reason(np.full((3, NUM_POINTS), 2.0)) is Rejection.FIXED_POINT
    assert reason(np.zeros((3, NUM_POINTS))) is Rejection.FIXED_POINT


def test_the_channel_that_moves_most_decides_about_rest(chaos: dict[str, np.ndarray]):
    values = chaos["Lorenz"][0].copy()
    values[0, NUM_POINTS // 2 :] = 0.0
    std = load_system("Lorenz").state_std
    assert check_not_fixed_point(values, std, min_tail_spread=1e-3)[1]
    assert not check_not_fixed_point(values[:1], std[:1], min_tail_spread=1e-3)[1]


@pytest.mark.parametrize("level", [0.0, -7.0])
def test_one_constant_channel_is_enough_to_reject(chaos: dict[str, np.ndarray], level: float):
    values = chaos["Lorenz"][0].copy()
    values[1] = level
    assert reason(values) is Rejection.CONSTANT_CHANNEL
    assert check_channels_vary(values, min_channel_spread=1e-5) == (0.0, False)


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (np.nan, Rejection.INVALID_VALUE),
        (np.inf, Rejection.INVALID_VALUE),
        (-2e4, Rejection.TOO_LARGE),
        (900.0, Rejection.OUTLIER),
    ],
)
def test_one_bad_value_is_enough_to_reject(chaos: dict[str, np.ndarray], bad: float, expected: Rejection):
    values = chaos["Lorenz"][0].copy()
    values[2, 1000] = bad
    assert reason(values) is expected


def test_statistics_are_what_they_say():
    values = np.array([[0.0, 0.0, 0.0, 4.0], [1.0, -3.0, 1.0, 1.0]])
    assert check_finite(np.array([1.0, np.nan])) == (0.5, False)
    assert check_magnitude(values, max_abs=4.0) == (4.0, True)
    assert check_magnitude(values, max_abs=3.9) == (4.0, False)
    # One of four values apart: z = 3 / sqrt(3).
    assert check_outliers(values, max_z=2.0) == (pytest.approx(np.sqrt(3)), True)
    assert check_outliers(values, max_z=1.7)[1] is False


def test_every_rejection_says_what_it_means():
    texts = [rejection.value for rejection in Rejection]
    assert all(len(text) > 30 for text in texts)
    assert len(set(texts)) == len(texts)


def test_channels_on_one_line_are_linear(chaos: dict[str, np.ndarray]):
    channel = chaos["Lorenz"][0][0]
    values = np.stack([channel, 2 - 3 * channel, 1e-3 * channel])
    assert check_not_linear(values, max_line_share=0.99) == (pytest.approx(1.0), False)
    assert reason(values) is Rejection.LINEAR
    assert check_not_linear(values[:1], max_line_share=0.99)[1]
    assert not check_not_linear(np.ones((3, 64)), max_line_share=0.99)[1]
    # Two channels of correlation r share (1 + r) / 2.
    pair = np.array([[1.0, -1.0, 1.0, -1.0, 0.0, 0.0], [1.0, -1.0, 0.0, 0.0, 1.0, -1.0]])
    assert check_not_linear(pair, max_line_share=0.7) == (pytest.approx(0.75), False)


@pytest.mark.parametrize("num_tones", [1, 3, 4, 7])
def test_peaks_of_the_spectrum_are_counted(num_tones: int):
    tones = sum(10.0**-i * np.sin(2 * np.pi * 17 * (i + 1) * TIMES / NUM_POINTS) for i in range(num_tones))
    values = np.stack([5 + tones, np.cos(2 * np.pi * 5 * TIMES / NUM_POINTS)])
    # A tone 10^-i high has 10^-2i of the power.
    counted = check_spectrum(values, min_num_peaks=4, min_peak_power=0.5e-6)
    assert counted == (min(num_tones, 4), num_tones >= 4)
    assert check_spectrum(np.ones((2, 64)), min_num_peaks=1, min_peak_power=1e-5) == (0.0, False)


def test_a_random_walk_is_not_stationary():
    walk = np.random.default_rng(0).standard_normal((3, NUM_POINTS)).cumsum(axis=1)
    noise = np.random.default_rng(1).standard_normal((3, NUM_POINTS))
    assert reason(walk) is Rejection.NOT_STATIONARY
    assert check_stationary(noise, max_unit_root_p=0.05)[1]
    assert not check_stationary(np.stack([*noise, walk[0]]), max_unit_root_p=0.05)[1]
    assert check_stationary(np.ones((2, 64)), max_unit_root_p=0.05) == (1.0, False)


def is_chaotic(values: np.ndarray, seed: int = 0) -> bool:
    rng = np.random.default_rng(seed)
    return check_chaotic(values, min_growth_correlation=0.2, min_diffusing_share=0.2, rng=rng)[1]


def test_one_chaotic_channel_is_enough(chaos: dict[str, np.ndarray]):
    regular = np.stack([np.sin(2 * np.pi * TIMES / 5.3), np.cos(2 * np.pi * TIMES / 5.3)])
    assert not is_chaotic(regular)
    assert is_chaotic(np.stack([*regular, chaos["Lorenz"][0][0]]))
    assert not is_chaotic(np.ones((2, 64)))


@pytest.mark.parametrize("name", OPTIONAL_CHECKS)
def test_every_optional_check_can_be_left_out(name: str, chaos: dict[str, np.ndarray]):
    assert Rejection[name.upper()]
    std = load_system("Lorenz").state_std
    everything = check(chaos["Lorenz"][0], std).statistics
    others = ValidityConfig(checks=[check for check in OPTIONAL_CHECKS if check != name])
    assert len(check(chaos["Lorenz"][0], std, others).statistics) == len(everything) - 1
    alone = check(chaos["Lorenz"][0], std, ValidityConfig(checks=[name])).statistics
    assert len(alone) == 1 + len(check(chaos["Lorenz"][0], std, ValidityConfig(checks=[])).statistics)
    assert alone.items() <= everything.items()


@pytest.mark.parametrize(
    ("bad", "expected"),
    [(np.nan, Rejection.INVALID_VALUE), (2e4, Rejection.TOO_LARGE), (None, Rejection.CONSTANT_CHANNEL)],
)
def test_what_nobody_wants_is_rejected_without_any_check(bad, expected, chaos: dict[str, np.ndarray]):
    values = chaos["Lorenz"][0].copy()
    values[1] = 1.0 if bad is None else bad
    assert reason(values, ValidityConfig(checks=[])) is expected
    assert reason(np.ones((3, 64)), ValidityConfig(checks=[])) is Rejection.FIXED_POINT


@pytest.mark.parametrize(
    ("checks", "message"),
    [
        ("[linear, limit_cycel]", "names of checks only, found 'limit_cycel'; choose among outlier, "),
        ("[fixed_point]", "names of checks only, found 'fixed_point'"),
        ("[linear, linear]", r"each check once, found \['linear'\]"),
    ],
)
def test_a_wrong_list_of_checks_is_refused(checks: str, message: str):
    with pytest.raises(ArgumentError, match=message):
        load_config(["--output", "unused", "--validity.checks", checks], exit_on_error=False)
