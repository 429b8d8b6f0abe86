"""Evaluation of forecasters with a distribution, on noise of a known one, and of series without a period."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy import stats

from hf_tsdyn.baselines import ContextMean
from hf_tsdyn.data import TrajectoryDataset
from hf_tsdyn.data.held_out_windows import draw_held_out_windows
from hf_tsdyn.evaluation import EvaluationProtocol, evaluate
from hf_tsdyn.metrics import interval_coverage, interval_width, normalised_crps
from hf_tsdyn.results import EvaluationResults, rows_of

PROTOCOL = EvaluationProtocol(
    context_length=40, horizons=(10, 30), num_windows=6, batch_size=8, num_curve_points=5, num_resamples=100
)
QUANTILE_METRICS = {"normalised_crps", "coverage@0.8", "coverage@0.6", "coverage@0.4", "coverage@0.2"} | {
    "interval_width@0.8"
}


@dataclasses.dataclass
class Normal:
    """Forecasts a normal distribution about 0, whatever came before; remembers what it was asked."""

    spread: float = 1.0
    asked: list = dataclasses.field(default_factory=list)

    def forecast(self, past_values, *, prediction_length, past_observed_mask=None):
        return past_values.new_zeros(len(past_values), prediction_length, past_values.shape[2])

    def forecast_quantiles(self, past_values, *, prediction_length, quantile_levels, **options):
        self.asked.append({"quantile_levels": quantile_levels} | options)
        quantiles = self.spread * torch.special.ndtri(torch.tensor(quantile_levels))
        return self.forecast(past_values, prediction_length=prediction_length)[..., None] + quantiles


class Sampled(Normal):
    """The same by its samples."""

    def forecast_quantiles(self, past_values, *, prediction_length, quantile_levels, num_samples, generator):
        shape = (num_samples, len(past_values), prediction_length, past_values.shape[2])
        samples = self.spread * torch.randn(shape, generator=generator)
        return torch.quantile(samples, torch.tensor(quantile_levels), dim=0).movedim(0, -1)


@dataclasses.dataclass
class Broken(Normal):
    """Quantiles that are not finite from step 20 on for series that begin above 0."""

    def forecast_quantiles(self, past_values, *, prediction_length, quantile_levels, **options):
        quantiles = super().forecast_quantiles(
            past_values, prediction_length=prediction_length, quantile_levels=quantile_levels
        )
        quantiles[past_values[:, 0, 0] > 0, 20:] = torch.nan
        return quantiles


class Forgetful(Normal):
    """Has a distribution for its first batch only."""

    def forecast_quantiles(self, past_values, **options):
        if self.asked:
            raise NotImplementedError("an operation is missing on this device")
        return super().forecast_quantiles(past_values, **options)


def noise(write_dataset, folder, spreads, *, num_trajectories=2, period=10.0, lyapunov_time=None):
    """Normal noise of a standard deviation a system; the n-th has n channels and another trajectory more."""
    rng = np.random.default_rng(0)
    rows = []
    for number, (system, spread) in enumerate(spreads.items(), start=1):
        for k in range(num_trajectories + number):
            target = (spread * rng.normal(size=(number, 150))).astype(np.float32)
            common = {"split": "test", "dt": 0.5, "period": period, "lyapunov_time": lyapunov_time}
            rows.append(common | {"system": system, "item_id": f"{system}/{k}", "target": target})
    return write_dataset(folder, rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_dataset):
    return noise(write_dataset, tmp_path_factory.mktemp("noise") / "data", {"A": 1.0, "B": 1.0, "C": 1.0})


@pytest.fixture(scope="module")
def dataset(folder):
    return TrajectoryDataset(folder, "test")


@pytest.fixture(scope="module")
def results(dataset):
    forecasters = {"right": Normal(), "narrow": Normal(0.5), "mean": ContextMean()}
    return evaluate(forecasters, dataset, PROTOCOL, baselines=["right", "mean"], show_progress=False)


def coverage(results, model, nominal="0.8", horizon=30):
    (entry,) = [entry for entry in results.header["calibration"][model] if entry["horizon"] == horizon]
    return entry["coverage"][nominal]


def test_intervals_of_the_right_distribution_cover_what_they_claim(results):
    for nominal in ("0.8", "0.6", "0.4", "0.2"):
        assert coverage(results, "right", nominal) == pytest.approx(float(nominal), abs=0.03)
    (entry,) = [entry for entry in results.header["calibration"]["right"] if entry["horizon"] == 30]
    assert entry["levels"] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    np.testing.assert_allclose(entry["share_below"], entry["levels"], atol=0.03)


def test_intervals_that_are_too_narrow_cover_less_by_what_the_distribution_says(results):
    expected = 1 - 2 * stats.norm.cdf(0.5 * stats.norm.ppf(0.1))
    assert coverage(results, "narrow") == pytest.approx(expected, abs=0.03)
    right, narrow = (results.summary_of(model, "normalised_crps", 30).median for model in ("right", "narrow"))
    assert right < narrow


def test_rows_are_medians_over_the_windows_of_each_horizon(results, dataset):
    windows = [
        w for w in draw_held_out_windows(dataset, length=70, num_windows=6, seed=0) if w.trajectory.system == "B"
    ]
    values = np.stack([window.values for window in windows])
    levels = PROTOCOL.quantile_levels
    for horizon in (10, 30):
        future = values[:, 40 : 40 + horizon]
        quantiles = np.broadcast_to(stats.norm.ppf(levels), (*future.shape, 9))
        options = {"quantile_levels": levels, "past_values": values[:, :40]}
        expected = {
            "normalised_crps": normalised_crps(future, quantiles, **options),
            "coverage@0.8": interval_coverage(future, quantiles, **options, nominal=0.8),
            "coverage@0.2": interval_coverage(future, quantiles, **options, nominal=0.2),
            "interval_width@0.8": interval_width(future, quantiles, **options, nominal=0.8),
        }
        for metric, scores in expected.items():
            rows = rows_of(results.rows, model="right", metric=metric, horizon=horizon)
            (row,) = [row for row in rows if row.system == "B"]
            assert row.value == pytest.approx(np.median(scores), rel=1e-5)
            assert row.num_windows == len(windows) == 24


def test_pooled_shares_weight_each_system_equally(tmp_path, write_dataset):
    mixed = TrajectoryDataset(noise(write_dataset, tmp_path / "data", {"A": 1.0, "B": 1e4}), "test")
    results = evaluate({"right": Normal()}, mixed, PROTOCOL, show_progress=False)
    assert coverage(results, "right") == pytest.approx(0.8 / 2, abs=0.03)


def test_sampled_quantiles_repeat_with_the_seed_and_are_calibrated(dataset):
    first, second, other = (
        evaluate({"sampled": Sampled()}, dataset, dataclasses.replace(PROTOCOL, seed=seed), show_progress=False)
        for seed in (0, 0, 1)
    )
    assert first.rows == second.rows
    assert first.header["calibration"] == second.header["calibration"]
    assert first.header["calibration"] != other.header["calibration"]
    assert coverage(first, "sampled") == pytest.approx(0.8, abs=0.04)


def test_every_batch_and_no_model_has_random_numbers_of_its_own(dataset):
    first, second, third = Normal(), Normal(), Normal()
    protocol = dataclasses.replace(PROTOCOL, num_samples=7, quantile_levels=(0.25, 0.75))
    evaluate({"a": first, "b": second}, dataset, protocol, show_progress=False)
    evaluate({"a": third}, dataset, dataclasses.replace(protocol, seed=1), show_progress=False)
    seeds = [[asked["generator"].initial_seed() for asked in model.asked] for model in (first, second, third)]
    assert seeds[0] == seeds[1]
    assert not set(seeds[0]) & set(seeds[2])
    assert len(set(seeds[0])) == len(seeds[0]) > 3
    assert {(asked["num_samples"], asked["quantile_levels"]) for asked in first.asked} == {(7, (0.25, 0.75))}


def test_a_forecaster_without_a_distribution_is_scored_on_its_points_alone(results):
    assert {row.metric for row in results.rows if row.model == "right"} >= QUANTILE_METRICS
    assert not {row.metric for row in results.rows if row.model == "mean"} & QUANTILE_METRICS
    assert set(results.header["calibration"]) == {"right", "narrow"}
    assert set(results.header["cost"]["right"]) - set(results.header["cost"]["mean"]) == {
        "quantile_cpu_seconds",
        "quantile_wall_seconds",
    }
    compared = {(r.model, r.baseline) for r in results.differences if r.metric == "normalised_crps"}
    assert compared == {("narrow", "right")}


def test_tables_leave_out_models_without_any_of_the_columns(results):
    lines = results.summary_table(["coverage@0.8"]).splitlines()
    assert lines[0] == "| model | coverage of the 80 % interval @ 10 | coverage of the 80 % interval @ 30 |"
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["right", "narrow"]
    assert results.summary_table(["smape", "coverage@0.8"], [10]).splitlines()[-1].endswith("| - |")


def test_without_levels_no_quantiles_are_asked_for(dataset):
    model = Normal()
    results = evaluate({"a": model}, dataset, dataclasses.replace(PROTOCOL, quantile_levels=()), show_progress=False)
    assert model.asked == []
    assert results.header["calibration"] == {}
    assert not {row.metric for row in results.rows} & QUANTILE_METRICS


def test_quantiles_that_are_not_finite_count_as_failed_windows(dataset):
    results = evaluate({"broken": Broken(), "right": Normal()}, dataset, PROTOCOL, show_progress=False)
    failed = results.header["cost"]["broken"]["failed_windows"]
    assert 0 < failed < results.header["dataset"]["num_windows"]
    assert results.header["cost"]["right"]["failed_windows"] == 0
    assert coverage(results, "broken", horizon=10) == coverage(results, "right", horizon=10)
    assert coverage(results, "broken") < coverage(results, "right") - 0.1


def test_quantiles_of_the_wrong_shape_are_refused_by_name(dataset):
    model = Normal()
    model.forecast_quantiles = lambda past, **options: Normal().forecast_quantiles(past, **options)[..., :2]
    with pytest.raises(ValueError, match=r"\(8, 30, 1, 9\), found \(8, 30, 1, 2\) from 'short'"):
        evaluate({"short": model}, dataset, PROTOCOL, show_progress=False)


def test_a_distribution_that_is_lost_half_way_is_an_error(dataset):
    with pytest.raises(NotImplementedError, match="an operation is missing"):
        evaluate({"forgetful": Forgetful()}, dataset, PROTOCOL, show_progress=False)


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


def test_calibration_survives_the_file(results, tmp_path):
    results.write(tmp_path / "results.json")
    json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    assert EvaluationResults.read(tmp_path / "results.json") == results


def test_a_series_without_a_period_has_no_valid_times_and_a_file_all_the_same(tmp_path, write_dataset):
    unknown = {"period": float("nan"), "lyapunov_time": 3.0}  # without a period, nobody knows whether it is chaotic
    folder = noise(write_dataset, tmp_path / "data", {"A": 1.0, "B": 1.0}, **unknown)
    results = evaluate({"right": Normal()}, TrajectoryDataset(folder, "test"), PROTOCOL, show_progress=False)
    assert not [row for row in results.rows if row.metric.startswith("vpt")]
    assert {facts["steps_per_period"] for facts in results.header["systems"].values()} == {None}
    assert results.summary_of("right", "normalised_mae", 30).num_systems == 2
    results.write(tmp_path / "results.json")
    json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    assert EvaluationResults.read(tmp_path / "results.json") == results


def test_windows_with_nothing_seen_in_the_context_are_left_out(tmp_path, write_dataset):
    target = np.random.default_rng(0).normal(size=(1, 150)).astype(np.float32)
    target[:, :80] = np.nan
    folder = write_dataset(tmp_path / "data", [{"target": target, "split": "test"}])
    every = dataclasses.replace(PROTOCOL, num_windows=1000)
    results = evaluate({"mean": ContextMean()}, TrajectoryDataset(folder, "test"), every, show_progress=False)
    (row,) = rows_of(results.rows, model="mean", metric="smape", horizon=30)
    assert results.header["dataset"]["num_windows"] == 81
    assert row.num_windows == 81 - 41
