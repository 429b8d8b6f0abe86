"""What an evaluation does to contexts and origins, and the floors of long rollouts."""

import dataclasses

import numpy as np
import pytest
import torch

from hf_tsdyn.attractor_statistics import ATTRACTOR_STATISTICS, attractor_statistics
from hf_tsdyn.baselines import ContextMean, Persistence
from hf_tsdyn.data import TrajectoryDataset
from hf_tsdyn.evaluation import EvaluationProtocol, draw_windows, evaluate
from hf_tsdyn.results import EvaluationResults, of_group, rows_of, summarise
from hf_tsdyn.scoring import TRUTH

PROTOCOL = EvaluationProtocol(
    context_length=40, horizons=(10, 50), num_windows=3, batch_size=4, num_curve_points=3, num_resamples=50
)
AROUND = {"look_back": 100, "look_ahead": 60}


class Recorder(Persistence):
    """Persistence that remembers the contexts and lengths it was asked for."""

    def __init__(self):
        object.__setattr__(self, "contexts", [])
        object.__setattr__(self, "quantile_lengths", [])

    def forecast(self, past_values, *, prediction_length, past_observed_mask=None):
        self.contexts.extend(past_values.clone().unbind())
        return super().forecast(past_values.nan_to_num(), prediction_length=prediction_length)

    def forecast_quantiles(self, past_values, *, prediction_length, quantile_levels, **options):
        self.quantile_lengths.append(prediction_length)
        shape = (len(past_values), prediction_length, past_values.shape[2], len(quantile_levels))
        return torch.tensor(quantile_levels).expand(shape)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, write_dataset):
    """Noisy oscillations of two systems, 300 steps of two trajectories each; one channel does not move."""
    rng = np.random.default_rng(0)
    rows = []
    for system in ("A", "B->C"):
        for k in range(2):
            target = np.sin(0.3 * np.arange(300) + rng.uniform(0, 6, (3, 1))) + 0.1 * rng.normal(size=(3, 300))
            target[2], target[1] = 1.0, 50 * target[1]
            common = {"split": "test", "dt": 0.5, "period": 10.0, "lyapunov_time": 5.0}
            rows.append(
                common
                | {"system": system, "item_id": f"{system}/{k}", "target": (target * [[1], [50], [1]]).astype("f4")}
            )
    return TrajectoryDataset(write_dataset(tmp_path_factory.mktemp("data") / "toy", rows), "test")


def contexts(dataset, **changes):
    recorder = Recorder()
    evaluate({"a": recorder}, dataset, dataclasses.replace(PROTOCOL, **changes), show_progress=False)
    return torch.stack(recorder.contexts)


def test_contexts_of_different_lengths_end_at_the_same_origins(dataset):
    short, long = contexts(dataset, **AROUND), contexts(dataset, context_length=90, horizons=(20,), **AROUND)
    assert torch.equal(short, long[:, -40:])
    assert not torch.equal(short, contexts(dataset, look_back=101, look_ahead=60))


def test_windows_look_back_and_ahead_as_far_as_asked(dataset):
    protocol = dataclasses.replace(PROTOCOL, num_windows=1000, batch_size=1000, **AROUND)
    windows = draw_windows(dataset, protocol)
    assert {window.start for window in windows} == set(range(300 - 160 + 1))
    for window in windows[:5]:
        np.testing.assert_array_equal(protocol.context_of(window), window.trajectory.values.T[window.start :][60:100])
    rows = evaluate({"a": Persistence()}, dataset, protocol, show_progress=False).rows
    truth, past = (
        np.stack([w.trajectory.values.T[w.start :][part] for w in windows if w.trajectory.system == "A"])
        for part in (slice(100, 110), slice(60, 100))
    )
    error = np.abs(truth - past[:, -1:])[:, :, :2] / past.std(axis=1, keepdims=True)[:, :, :2]
    (row,) = [r for r in rows if (r.system, r.metric, r.horizon) == ("A", "normalised_mae", 10)]
    assert row.value == pytest.approx(np.median(error.mean(axis=(1, 2))), rel=1e-4)


def test_noise_is_white_of_the_asked_size_and_leaves_targets_alone(dataset):
    clean, noisy = (contexts(dataset, num_windows=150, batch_size=600, noise=size) for size in (0.0, 0.2))
    unit = clean.std(dim=1, keepdim=True, correction=0)
    noise = (noisy - clean) / unit
    assert torch.equal(noisy[:, :, 2], clean[:, :, 2])  # no scale, no noise
    assert noise[:, :, :2].std().item() == pytest.approx(0.2, rel=0.03)
    assert abs((noise[:, 1:, :2] * noise[:, :-1, :2]).mean().item()) < 0.002
    assert abs((noise[:, :, 0] * noise[:, :, 1]).mean().item()) < 0.002
    model = {"mean": ContextMean()}
    zero = dataclasses.replace(PROTOCOL, noise=1e-6)
    exact, disturbed = (evaluate(model, dataset, each, show_progress=False) for each in (PROTOCOL, zero))
    np.testing.assert_allclose([r.value for r in exact.rows], [r.value for r in disturbed.rows], rtol=1e-3)


def test_errors_of_noisy_contexts_are_in_units_of_the_clean_ones(dataset):
    class Zero(Persistence):
        def forecast(self, past_values, *, prediction_length, past_observed_mask=None):
            return past_values.new_zeros(len(past_values), prediction_length, past_values.shape[2])

    clean, noisy = (
        evaluate({"a": Zero()}, dataset, dataclasses.replace(PROTOCOL, **each), show_progress=False).rows
        for each in ({}, {"noise": 3.0, "missing": 0.5})
    )
    assert clean == noisy


def test_the_asked_share_is_hidden_more_of_it_where_more_is_asked(dataset):
    some, more = (contexts(dataset, num_windows=150, batch_size=600, missing=share).isnan() for share in (0.3, 0.5))
    assert some.float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert more.float().mean().item() == pytest.approx(0.5, abs=0.01)
    assert (more | ~some).all()
    assert (some[:, :, 0] != some[:, :, 1]).any()


def test_disturbances_depend_on_seed_and_place_alone(dataset):
    changes = {"noise": 0.1, "missing": 0.3, **AROUND}
    first = contexts(dataset, **changes)
    alone = contexts(TrajectoryDataset(dataset.path, "test", systems=["B->C"]), batch_size=1, **changes)
    np.testing.assert_array_equal(first[6:], alone)
    np.testing.assert_array_equal(first.isnan(), contexts(dataset, noise=0.4, missing=0.3, **AROUND).isnan())


def noise_of(dataset, **changes):
    """The noise on the moving channels of every context, in units of the clean one."""
    clean, noisy = (contexts(dataset, noise=size, **AROUND, **changes) for size in (0.0, 0.1))
    return ((noisy - clean) / clean.std(dim=1, keepdim=True, correction=0))[:, :, :2]


def test_contexts_of_different_lengths_are_disturbed_alike(dataset):
    torch.testing.assert_close(noise_of(dataset), noise_of(dataset, context_length=80)[:, -40:], atol=1e-4, rtol=0)
    short, long = (contexts(dataset, missing=0.3, context_length=n, **AROUND).isnan() for n in (40, 80))
    assert torch.equal(short, long[:, -40:])


def test_no_two_windows_are_disturbed_alike_and_hidden_values_not_chosen_by_their_noise(dataset):
    every = {"num_windows": 1000, "batch_size": 1000}
    noise, hidden = noise_of(dataset, **every), contexts(dataset, missing=0.3, **AROUND, **every).isnan()
    assert len(np.unique(noise.flatten(1).numpy().round(3), axis=0)) == len(noise) == 4 * 141
    assert len(np.unique(hidden.flatten(1).numpy(), axis=0)) == len(hidden)
    assert abs(noise[hidden[:, :, :2]].mean().item()) < 0.003
    assert noise[hidden[:, :, :2]].std().item() == pytest.approx(0.1, rel=0.02)
    other = contexts(dataset, missing=0.3, seed=1, **AROUND, **every).isnan()  # the same windows: all there are
    assert not torch.equal(other, hidden)


def test_quantiles_are_asked_for_and_scored_as_far_as_their_horizon(dataset):
    recorder = Recorder()
    protocol = dataclasses.replace(PROTOCOL, horizons=(10, 30, 50), quantile_horizon=30)
    results = evaluate({"a": recorder}, dataset, protocol, show_progress=False)
    assert set(recorder.quantile_lengths) == {30}
    assert {row.horizon for row in rows_of(results.rows, model="a", metric="normalised_crps")} == {10, 30}
    assert {row.horizon for row in rows_of(results.rows, model="a", metric="smape")} == {10, 30, 50}
    assert [entry["horizon"] for entry in results.header["calibration"]["a"]] == [10, 30]


def test_rollouts_are_scored_beside_the_truth_before_the_origin(dataset):
    protocol = dataclasses.replace(PROTOCOL, rollout_tail=20, **AROUND)
    results = evaluate({"mean": ContextMean()}, dataset, protocol, baselines=["mean"], show_progress=False)
    metrics = {"state_space_divergence", "state_space_divergence@tail", "spectrum_distance", "spectrum_distance@tail"}
    assert {row.metric for row in results.rows if row.model == TRUTH} == metrics
    assert results.header["models"] == ["mean", TRUTH]
    floor, mean = (results.summary_of(name, "spectrum_distance", 50).median for name in (TRUTH, "mean"))
    assert floor < 0.5 < mean == 1
    windows = [window for window in draw_windows(dataset, protocol) if window.trajectory.system == "A"]
    values = np.stack([window.values for window in windows])
    for suffix, first in (("", 0), ("@tail", 20)):
        parts = values[:, 100:150][:, first:], values[:, 50:100][:, first:]
        expected = attractor_statistics(*parts, dt=0.5, seed=0, lyapunov_time=5.0)
        for name in ATTRACTOR_STATISTICS[:2]:
            rows = rows_of(results.rows, model=TRUTH, metric=name + suffix, horizon=50)
            assert next(r.value for r in rows if r.system == "A") == pytest.approx(np.median(expected[name]), rel=1e-4)


def test_rollouts_are_measured_in_the_units_of_their_trajectories(dataset, monkeypatch):
    asked = []

    def record(truth, generated, **options):
        asked.append(options)
        return {"divergence": np.zeros(len(truth))}

    monkeypatch.setattr("hf_tsdyn.scoring.attractor_statistics", record)
    protocol = dataclasses.replace(PROTOCOL, rollout_tail=20, num_windows=1, seed=7)
    evaluate({"mean": ContextMean()}, dataset, protocol, show_progress=False)
    for options in asked:
        assert options["dt"].tolist() == [0.5] * 4
        assert options["lyapunov_time"].tolist() == [5.0] * 4
        assert options["seed"] == 7
    assert len(asked) == 2


@pytest.mark.parametrize("changes", [{"rollout_tail": 20, "look_back": 49}, {"look_back": 100}])
def test_without_a_long_look_back_or_a_tail_there_is_no_floor(changes, dataset):
    protocol = dataclasses.replace(PROTOCOL, **changes)
    results = evaluate({"mean": ContextMean()}, dataset, protocol, show_progress=False)
    assert results.header["models"] == ["mean"]
    assert ("state_space_divergence" in {row.metric for row in results.rows}) == ("rollout_tail" in changes)


@pytest.mark.parametrize(
    ("num_steps", "expected"),
    [
        (160, {}),
        (159, {"look_back": 100, "look_ahead": None}),
        (149, {"look_back": 99, "look_ahead": None}),
        (90, {"look_back": 40, "look_ahead": None}),
        (89, {"horizons": (10,), "context_length": 40, "rollout_tail": None, "look_back": None, "look_ahead": None}),
        (25, {"horizons": (10,), "context_length": 15, "rollout_tail": None, "look_back": None, "look_ahead": None}),
        (21, {"horizons": (10,), "context_length": 11, "rollout_tail": None, "look_back": None, "look_ahead": None}),
        (9, {"horizons": (4,), "context_length": 5, "rollout_tail": None, "look_back": None, "look_ahead": None}),
    ],
)
def test_a_protocol_shrinks_to_what_a_series_allows(num_steps, expected):
    protocol = dataclasses.replace(PROTOCOL, rollout_tail=20, quantile_horizon=10, **AROUND)
    fitted = protocol.fitted(num_steps)
    assert fitted == dataclasses.replace(protocol, **expected)
    assert fitted.window_length <= num_steps


def test_a_series_of_three_steps_is_refused():
    with pytest.raises(ValueError, match="at least 4 steps to be forecast, found 3"):
        PROTOCOL.fitted(3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"look_back": 39},
        {"look_ahead": 49},
        {"noise": -0.1},
        {"noise": float("nan")},
        {"missing": 1.0},
        {"rollout_tail": 0},
        {"rollout_tail": 50},
        {"quantile_horizon": 9},
        {"quantile_horizon": 0},
    ],
)
def test_impossible_bounds_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))} must"):
        dataclasses.replace(PROTOCOL, **wrong)


def test_defaults_score_what_they_always_did(dataset):
    results = evaluate({"mean": ContextMean()}, dataset, PROTOCOL, show_progress=False)
    assert {row.metric for row in results.summary} == {"smape", "normalised_mae", "normalised_mse", "mase"} | {
        f"vpt_{unit}@{threshold}" for unit in ("periods", "lyapunov", "saturated") for threshold in (0.4, 0.2)
    }


def test_a_group_has_the_medians_of_its_own_systems(dataset):
    protocol = dataclasses.replace(PROTOCOL, rollout_tail=20)
    results = evaluate({"mean": ContextMean(), "last": Persistence()}, dataset, protocol, baselines=["last"])
    for system, group in (("A", "base"), ("B->C", "skew_product")):
        results.header["systems"][system]["group"] = group
    part = of_group(results, "skew_product")
    assert {row.system for row in part.rows} == set(part.header["systems"]) == {"B->C"}
    (row,) = [r for r in part.rows if (r.model, r.metric, r.horizon) == ("mean", "smape", 50)]
    assert part.summary_of("mean", "smape", 50).median == row.value
    assert {row.metric for row in part.summary} == {row.metric for row in results.summary}
    assert part.differences
    with pytest.raises(ValueError, match=r"\['base', 'skew_product'\], found 'series'"):
        of_group(results, "series")
    assert isinstance(part, EvaluationResults)


def test_differences_are_paired_on_the_systems_that_both_are_scored_on(dataset):
    rows = evaluate({"a": ContextMean(), "b": Persistence()}, dataset, PROTOCOL, show_progress=False).rows
    fewer = [row for row in rows if (row.model, row.system, row.metric) != ("b", "A", "smape")]
    _, differences = summarise(fewer, baselines=["b"], seed=0, num_resamples=10, confidence=0.9)
    found = {row.metric: row for row in differences if row.horizon == 50}
    values = {row.model: row.value for row in rows if (row.system, row.metric, row.horizon) == ("B->C", "smape", 50)}
    assert (found["smape"].num_systems, found["mase"].num_systems) == (1, 2)
    assert found["smape"].median == pytest.approx(values["a"] - values["b"])
