"""Statistics of many attractors against the scalar metrics, and what series without an attractor score."""

import numpy as np
import pytest
from scipy.integrate import odeint

from hf_tsdyn.attractor_statistics import ATTRACTOR_STATISTICS, attractor_statistics
from hf_tsdyn.metrics import (
    InvariantOptions,
    correlation_dimension,
    largest_lyapunov,
    spectrum_distance,
    state_space_divergence,
)
from hf_tsdyn.metrics.correlation_dimension import correlation_length

STEPS, DT = 2048, 0.05


def flow(state, _):
    x, y, z = state
    return 10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z


@pytest.fixture(scope="module")
def stretches():
    """(4, STEPS, 3) of one orbit of Lorenz-63."""
    orbit = odeint(flow, [1.0, 1.0, 20.0], DT * np.arange(4 * STEPS + 500), rtol=1e-9, atol=1e-9)[500:]
    return orbit.reshape(4, STEPS, 3)


def measured(series, window):
    """Exponent per step and dimension by the scalar functions."""
    dimension = correlation_dimension(
        series, rng=np.random.default_rng(3), theiler_window=window, min_points=1000
    ).dimension
    return largest_lyapunov(series, theiler_window=window).exponent, dimension


def test_each_series_has_the_values_of_the_scalar_functions(stretches):
    truth, generated = stretches[:2], stretches[2:] * [1.1, 1.0, 0.9]
    options = InvariantOptions(num_bins=12, spectrum_smoothing=5.0)
    found = attractor_statistics(truth, generated, options, dt=DT, seed=3)
    assert tuple(found) == ATTRACTOR_STATISTICS
    for place, (true, other) in enumerate(zip(truth, generated, strict=True)):
        window = correlation_length(true)
        (exponent, dimension), (other_exponent, other_dimension) = measured(true, window), measured(other, window)
        expected = (
            state_space_divergence(true, other, options),
            spectrum_distance(true, other, smoothing=5.0),
            abs(other_exponent - exponent) / exponent,
            abs(other_dimension - dimension),
        )
        assert [found[name][place] for name in ATTRACTOR_STATISTICS] == pytest.approx(expected, rel=1e-12)
        assert found["lyapunov_error"][place] < 0.6
        assert found["correlation_dimension_error"][place] < 0.3


def test_values_do_not_depend_on_the_batch_and_the_truth_itself_scores_zero(stretches):
    truth = stretches[:3]
    generated = np.stack([stretches[3], stretches[1], stretches[0]])
    together = attractor_statistics(truth, generated, dt=DT, seed=0)
    alone = attractor_statistics(truth[2:], generated[2:], dt=DT, seed=0)
    for name in ATTRACTOR_STATISTICS:
        assert together[name].shape == (3,)
        assert together[name][2] == alone[name][0]
        assert together[name][1] == 0


def test_the_exponents_unit_is_the_lyapunov_time_where_it_is_known(stretches):
    truth, generated = stretches[:2], stretches[2:]
    estimated = attractor_statistics(truth, generated, dt=DT, seed=0)["lyapunov_error"]
    known = attractor_statistics(truth, generated, dt=[DT, 2 * DT], seed=0, lyapunov_time=[np.nan, 1.1])
    window = correlation_length(truth[1])
    exponents = [measured(series[1], window)[0] / (2 * DT) for series in (truth, generated)]
    assert known["lyapunov_error"][0] == estimated[0]
    assert known["lyapunov_error"][1] == pytest.approx(1.1 * abs(exponents[1] - exponents[0]), rel=1e-9)


def test_a_truth_without_a_clear_exponent_needs_a_known_unit(stretches):
    phase = 0.1234567 * np.arange(STEPS)
    cycle = np.stack([np.cos(phase), np.sin(phase), np.cos(2 * phase)], axis=1)[None]
    scores = attractor_statistics(cycle, stretches[:1], dt=DT, seed=0)
    assert np.isnan(scores["lyapunov_error"]).all()
    assert scores["correlation_dimension_error"] > 0.8
    assert np.isfinite(attractor_statistics(cycle, stretches[:1], dt=DT, seed=0, lyapunov_time=1.0)["lyapunov_error"])


def test_failed_series_score_as_the_table_says(stretches):
    truth = stretches[0]
    failed = {
        "not finite": np.where(np.arange(STEPS)[:, None] > 2000, np.nan, truth),
        "at rest": np.full_like(truth, 5.0),
        "in the end at rest": truth * np.exp(-0.01 * np.arange(STEPS))[:, None],
        "a cycle": np.tile(truth[:64], (32, 1)),
        "in the end on a cycle": np.concatenate([truth[:700], np.tile(truth[:300], (5, 1))[: STEPS - 700]]),
        "rounded": np.round(truth / 30) + 0.0,
        "running away": truth * np.exp(0.25 * np.arange(STEPS))[:, None],
    }
    generated = np.stack(list(failed.values()))
    scores = attractor_statistics(np.broadcast_to(truth, generated.shape), generated, dt=DT, seed=3)
    by_case = {case: [scores[name][place] for name in ATTRACTOR_STATISTICS] for place, case in enumerate(failed)}
    dimension = measured(truth, correlation_length(truth))[1]
    assert by_case["not finite"] == [np.inf, 1, np.inf, np.inf]
    assert by_case["at rest"][1:] == [1, np.inf, pytest.approx(dimension)]
    assert by_case["in the end at rest"][2:] == [np.inf, pytest.approx(dimension)]
    for case in ("a cycle", "in the end on a cycle"):
        assert by_case[case][2:] == [pytest.approx(1), pytest.approx(dimension - 1)]
    assert by_case["rounded"][3] == np.inf
    assert np.isfinite([values[0] for case, values in by_case.items() if case != "not finite"]).all()
    assert not np.isnan(generated[1:]).any()
    assert not any(np.isnan(values).any() for values in by_case.values())


def test_a_channel_at_rest_is_left_out(stretches):
    truth, generated = stretches[:1].copy(), stretches[1:2].copy()
    both = attractor_statistics(truth[..., :2], generated[..., :2], dt=DT, seed=0)
    truth[..., 2] = 4.0
    in_truth = attractor_statistics(truth, generated, dt=DT, seed=0)
    np.testing.assert_equal(in_truth, both)
    truth, generated[..., 2] = stretches[:1], 4.0
    in_generated = attractor_statistics(truth, generated, dt=DT, seed=0)
    assert np.isfinite([in_generated[name][0] for name in ATTRACTOR_STATISTICS]).all()
    assert in_generated["spectrum_distance"] > 1 / 3


def test_nothing_but_an_unmeasurable_truth_is_nan(stretches):
    truth = stretches[:2].copy()
    truth[0, 7, 1] = np.nan
    truth[1] = 3.0
    scores = attractor_statistics(truth, stretches[:2], dt=DT, seed=0)
    assert all(np.isnan(scores[name]).all() for name in ATTRACTOR_STATISTICS)
    short = attractor_statistics(stretches[:1, :999], stretches[1:2, :999], dt=DT, seed=0)
    assert [bool(np.isnan(short[name][0])) for name in ATTRACTOR_STATISTICS] == [False, False, True, True]


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((2, 100, 2), {"dt": 1.0}, r"found \(2, 100, 3\) and \(2, 100, 2\)"),
        ((2, 99, 3), {"dt": 1.0}, r"found \(2, 100, 3\) and \(2, 99, 3\)"),
        ((2, 100, 3), {"dt": [1.0, 0.0]}, "dt must be one positive time, or one for each of 2 series"),
        ((2, 100, 3), {"dt": [1.0]}, "dt must be one positive time"),
        ((2, 100, 3), {"dt": 1.0, "lyapunov_time": [-1.0, 2.0]}, "lyapunov_time must be one positive time"),
    ],
)
def test_what_does_not_fit_is_named(shape, options, message):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=message):
        attractor_statistics(rng.normal(size=(2, 100, 3)), rng.normal(size=shape), seed=0, **options)
