"""The integrator against closed forms and SciPy; what a batch, a restart or a failure may not change."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from data_generation.dormand_prince import LARGEST_STEP
from data_generation.expressions import trace
from data_generation.integration import IntegrationStatus, integrate
from data_generation.systems import load_system

OSCILLATOR = trace(lambda x, t, p: [x[1], -(p["omega"] ** 2) * x[0]], 2, {"omega": 1.0})
POWER_GROWTH = trace(lambda x, t, p: [p["rate"] * x[0] ** 2], 1, {"rate": 1.0})
FORCED = trace(lambda x, t, p: [np.cos(t)], 1, {})
COMPLETED = IntegrationStatus.COMPLETED


def oscillation(omega, times):
    return np.stack([np.cos(omega * times), -omega * np.sin(omega * times)], axis=-1)


def test_oscillator_stays_at_closed_form_for_many_periods():
    result = integrate(OSCILLATOR, [1.0, 0.0], [2.0], dt=0.05, num_points=4096)
    assert result.status == [COMPLETED]
    np.testing.assert_allclose(result.states[0], oscillation(2.0, 0.05 * np.arange(4096)), atol=1e-8)


def test_decay_follows_closed_form_down_to_the_absolute_tolerance():
    decay = trace(lambda x, t, p: [-p["rate"] * x[0]], 1, {"rate": 1.0})
    rates = np.array([0.1, 1.0, 5.0])
    result = integrate(decay, [[1.0], [2.0], [3.0]], rates[:, None], dt=0.1, num_points=200)
    expected = np.array([1.0, 2.0, 3.0])[:, None] * np.exp(-rates[:, None] * 0.1 * np.arange(200))
    np.testing.assert_allclose(result.states[:, :, 0], expected, rtol=1e-8, atol=1e-10)


def test_first_stored_point_is_the_state_after_the_transient():
    starts, transients = np.array([0.0, 0.3]), np.array([1.7, 0.0])
    result = integrate(FORCED, [0.0], [], start_time=starts, transient=transients, dt=0.25, num_points=20)
    times = starts[:, None] + transients[:, None] + 0.25 * np.arange(20)
    np.testing.assert_allclose(result.states[:, :, 0], np.sin(times) - np.sin(starts)[:, None], atol=1e-9)


@pytest.mark.parametrize("omega", [1.0, 1.3])
def test_error_falls_with_the_eighth_power_of_the_step(omega):
    """With a tolerance that accepts everything every step has the largest size allowed, LARGEST_STEP * dt."""
    steps = np.array([0.8, 0.4, 0.2])
    errors = []
    for step in steps:
        dt = step / LARGEST_STEP
        num_points = round(8.0 / dt)
        found = integrate(OSCILLATOR, [1.0, 0.0], [omega], dt=dt, num_points=num_points, rtol=1e6, atol=1e6)
        errors.append(np.abs(found.states[0] - oscillation(omega, dt * np.arange(num_points))).max())
    order = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert 7.5 < order < 8.7


def test_error_is_proportional_to_the_tolerance():
    tolerances = np.array([1e-5, 1e-7, 1e-9, 1e-11])
    times = 0.01 * np.arange(2000)
    errors = [
        np.abs(
            integrate(OSCILLATOR, [1.0, 0.0], [1.0], dt=0.01, num_points=2000, rtol=r, atol=r).states[0]
            - oscillation(1.0, times)
        ).max()
        for r in tolerances
    ]
    assert 0.8 < np.polyfit(np.log(tolerances), np.log(errors), 1)[0] < 1.2
    assert np.all(np.array(errors) < 30 * tolerances)


@pytest.mark.parametrize(
    ("name", "periods", "tolerance"),
    [("Lorenz", 4, 2e-7), ("Rossler", 2, 1e-8), ("Lorenz96", 2, 1e-7), ("LorenzCoupled", 2, 1e-6), ("Chua", 2, 1e-5)],
)
def test_trajectory_equals_tight_scipy_solution(name, periods, tolerance):
    system = load_system(name)
    times = system.period / 50 * np.arange(50 * periods)
    field, parameters = system.vector_field, system.parameter_vector
    reference = solve_ivp(
        lambda t, x: field(x, t, parameters), (0, times[-1]), system.initial_condition,
        method="DOP853", rtol=1e-12, atol=1e-13, t_eval=times,
    )  # fmt: skip
    found = integrate(field, system.initial_condition, parameters, dt=system.period / 50, num_points=len(times))
    np.testing.assert_allclose(found.states[0] / system.state_std, reference.y.T / system.state_std, atol=tolerance)


def test_costs_about_the_evaluations_of_scipy_at_the_same_tolerance():
    system = load_system("Rossler")
    field, parameters = system.vector_field, system.parameter_vector
    reference = solve_ivp(
        lambda t, x: field(x, t, parameters), (0, 3 * system.period), system.initial_condition,
        method="DOP853", rtol=1e-10, atol=1e-12,
    )  # fmt: skip
    found = integrate(field, system.initial_condition, parameters, dt=3 * system.period, num_points=2)
    assert found.num_evaluations[0] == pytest.approx(reference.nfev, rel=0.1)


@pytest.fixture(scope="module")
def mixed_batch():
    """37 Lorenz trajectories of different parameters, transients and samplings; three of them fail."""
    system = load_system("Lorenz")
    generator = np.random.default_rng(5)
    count = 37
    arguments = {
        "initial_conditions": system.initial_condition + generator.standard_normal((count, 3)),
        "parameters": system.parameter_vector * (1 + 0.2 * generator.standard_normal((count, 3))),
        "dt": generator.uniform(0.01, 0.05, count),
        "transient": generator.uniform(0, 3, count) * (np.arange(count) % 3 > 0),
    }
    arguments["parameters"][4] = [-20.0, 28.0, -10.0]
    arguments["parameters"][11] = np.nan
    arguments["initial_conditions"][20] = np.inf
    return system.vector_field, arguments


def run(field, arguments, rows, num_points=150):
    return integrate(field, **{name: values[rows] for name, values in arguments.items()}, num_points=num_points)


def test_bad_trajectories_fail_alone(mixed_batch):
    field, arguments = mixed_batch
    result = run(field, arguments, slice(None))
    failed = {row: status for row, status in enumerate(result.status) if status is not COMPLETED}
    assert failed == {4: IntegrationStatus.DIVERGED, 11: IntegrationStatus.NOT_FINITE, 20: IntegrationStatus.NOT_FINITE}
    assert np.isfinite(np.delete(result.states, list(failed), axis=0)).all()
    assert np.isnan(result.states[list(failed), -1]).all()


@pytest.mark.parametrize("order", ["reversed", "shuffled", "alone", "fives", "repeated"])
def test_bits_do_not_depend_on_neighbours(mixed_batch, order):
    field, arguments = mixed_batch
    whole = run(field, arguments, slice(None))
    batches = {
        "reversed": [np.arange(37)[::-1]],
        "shuffled": [np.random.default_rng(1).permutation(37)],
        "alone": [np.array([row]) for row in range(0, 37, 4)],
        "fives": np.split(np.arange(35), 7),
        "repeated": [np.repeat(np.arange(37), 2)],
    }[order]
    for rows in batches:
        part = run(field, arguments, rows)
        np.testing.assert_array_equal(part.states, whole.states[rows])
        np.testing.assert_array_equal(part.num_evaluations, whole.num_evaluations[rows])
        assert part.status == [whole.status[row] for row in rows]


@pytest.mark.parametrize("name", ["DoublePendulum", "MacArthur", "Torus", "LidDrivenCavityFlow"])
def test_bits_do_not_depend_on_neighbours_with_other_operations(name):
    system = load_system(name)
    starts = system.initial_condition * (1 + 1e-3 * np.arange(19)[:, None])
    settings = {"dt": system.period / 100, "num_points": 30, "unbounded": system.unbounded}
    whole = integrate(system.vector_field, starts, system.parameter_vector, **settings)
    for row in (0, 7, 18):
        alone = integrate(system.vector_field, starts[row], system.parameter_vector, **settings)
        np.testing.assert_array_equal(alone.states[0], whole.states[row])


def test_threads_integrate_at_the_same_time_without_disturbing_each_other(mixed_batch):
    field, arguments = mixed_batch
    whole = run(field, arguments, slice(None))
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda _: run(field, arguments, slice(None)).states, range(8)))
    for states in results:
        np.testing.assert_array_equal(states, whole.states)


def test_longer_run_begins_with_the_bits_of_a_shorter_one(mixed_batch):
    field, arguments = mixed_batch
    long, short = (run(field, arguments, slice(0, 4), num_points) for num_points in (400, 150))
    np.testing.assert_array_equal(long.states[:, :150], short.states)


@pytest.mark.parametrize("name", ["Lorenz", "DoublePendulum", "Torus"])
def test_integrating_from_the_first_stored_point_gives_the_same_bits(name):
    system = load_system(name)
    settings = {"dt": system.period / 64, "num_points": 300, "unbounded": system.unbounded}
    transient = 5.37 * system.period
    row = integrate(
        system.vector_field, system.initial_condition, system.parameter_vector, transient=transient, **settings
    ).states[0]
    again = integrate(system.vector_field, row[0], system.parameter_vector, start_time=transient, **settings)
    np.testing.assert_array_equal(again.states[0], row)


@pytest.mark.parametrize(
    ("field", "settings", "status"),
    [
        (POWER_GROWTH, {}, IntegrationStatus.DIVERGED),
        (POWER_GROWTH, {"max_abs": 1e300}, IntegrationStatus.STEP_TOO_SMALL),
        (POWER_GROWTH, {"unbounded": (0,)}, IntegrationStatus.STEP_TOO_SMALL),
        (trace(lambda x, t, p: [np.sqrt(p["a"] - t)], 1, {"a": 1.0}), {}, IntegrationStatus.NOT_FINITE),
        (trace(lambda x, t, p: [p["a"] * 1e3 * np.cos(1e3 * t)], 1, {"a": 1.0}), {"max_steps": 20},
         IntegrationStatus.TOO_MANY_STEPS),
    ],
)  # fmt: skip
def test_failure_is_named_and_leaves_nan_from_there_on(field, settings, status):
    result = integrate(field, [1.0], [1.0], dt=0.01, num_points=200, **settings)
    assert result.status == [status]
    finite = np.isfinite(result.states[0, :, 0])
    assert finite[0]
    assert not finite[-1]
    assert np.all(np.diff(finite.astype(int)) <= 0)


def test_right_hand_side_undefined_at_the_start_is_named():
    field = trace(lambda x, t, p: [np.sqrt(x[0])], 1, {})
    assert integrate(field, [-1.0], [], dt=0.1, num_points=5).status == [IntegrationStatus.NOT_FINITE]


def test_failure_in_the_transient_leaves_no_points():
    result = integrate(POWER_GROWTH, [1.0], [1.0], dt=0.01, num_points=5, transient=3.0)
    assert result.status == [IntegrationStatus.DIVERGED]
    assert np.isnan(result.states).all()


def test_unbounded_states_may_grow():
    drift = trace(lambda x, t, p: [1e3, -x[1]], 2, {})
    settings = {"dt": 1.0, "num_points": 50}
    assert integrate(drift, [0.0, 1.0], [], **settings).status == [IntegrationStatus.DIVERGED]
    result = integrate(drift, [0.0, 1.0], [], unbounded=(0,), **settings)
    assert result.status == [COMPLETED]
    np.testing.assert_allclose(result.states[0, :, 0], 1e3 * np.arange(50), rtol=1e-12)


def test_rest_state_stays_where_it_is():
    result = integrate(OSCILLATOR, [0.0, 0.0], [1.0], dt=1.0, num_points=5000)
    assert result.status == [COMPLETED]
    np.testing.assert_array_equal(result.states, np.zeros((1, 5000, 2)))


def test_no_trajectories_give_an_empty_result():
    result = integrate(OSCILLATOR, np.empty((0, 2)), np.empty((0, 1)), dt=1.0, num_points=5)
    assert result.states.shape == (0, 5, 2)
    assert result.status == []


def test_arguments_are_left_as_they_were():
    start, parameters = np.array([[1.0, 0.0]]), np.array([[1.0]])
    integrate(OSCILLATOR, start, parameters, dt=0.1, num_points=50, transient=1.0)
    np.testing.assert_array_equal(start, [[1.0, 0.0]])
    np.testing.assert_array_equal(parameters, [[1.0]])


def test_every_status_says_what_happened():
    messages = {status.message for status in IntegrationStatus}
    assert len(messages) == len(IntegrationStatus) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_points": 0}, "num_points must be at least 1, found 0"),
        ({"dt": -0.1}, "dt must be positive and finite, found -0.1"),
        ({"dt": np.inf}, "dt must be positive and finite, found inf"),
        ({"transient": -1.0}, "transient must be zero or more and finite, found -1.0"),
        ({"rtol": 0.0}, "rtol must be positive, found 0.0"),
        ({"atol": -1.0}, "atol must be positive, found -1.0"),
        ({"max_abs": 0.0}, "max_abs must be positive, found 0.0"),
        ({"max_steps": 0}, "max_steps must be at least 1, found 0"),
        ({"unbounded": (2,)}, r"unbounded must hold state indices below 2, found \(2,\)"),
        ({"initial_conditions": np.zeros((3, 4))}, r"initial_conditions must fit shape \(3, 2\).*found \(3, 4\)"),
        ({"parameters": np.zeros((2, 1)), "dt": np.ones(3)}, r"dt must fit shape \(2,\).*found \(3,\)"),
        ({"initial_conditions": np.zeros((3, 2)), "transient": np.zeros(7)}, r"transient must fit shape \(3,\)"),
    ],
)  # fmt: skip
def test_bad_argument_raises_value_error(change, message):
    arguments = {"initial_conditions": [1.0, 0.0], "parameters": [1.0], "dt": 0.1, "num_points": 5, **change}
    with pytest.raises(ValueError, match=message):
        integrate(OSCILLATOR, **arguments)
