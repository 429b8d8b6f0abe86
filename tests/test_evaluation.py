"""One evaluation, from a dataset on disk to rows, medians and a file, with forecasters whose errors are known."""

import dataclasses
import gzip
import json

import numpy as np
import pytest
import torch

from hf_tsdyn.baselines import ContextMean, ContextParroting, Persistence
from hf_tsdyn.data import TrajectoryDataset
from hf_tsdyn.evaluation import EvaluationProtocol, evaluate
from hf_tsdyn.metrics import normalised_mae, smape
from hf_tsdyn.results import EvaluationResults, ResultRow, summarise

SYSTEMS = {"Anishchenko": 3, "Blinking": 2, "Chua": 3, "Duffing->Lorenz": 3}  # channels
PROTOCOL = EvaluationProtocol(
    context_length=60, horizons=(10, 30), num_windows=3, batch_size=4, num_curve_points=5, num_resamples=200
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_dataset):
    """Two noisy oscillations of each system, 120 steps long."""
    rows = []
    for system, num_channels in SYSTEMS.items():
        rng = np.random.default_rng(len(system))
        lyapunov_time = {"Blinking": None, "Chua": 5000.0}.get(system, 5.0)
        common = {"system": system, "split": "test", "dt": 0.5, "period": 10.0, "lyapunov_time": lyapunov_time}
        for k in range(2):
            phase = rng.uniform(0, 6, (num_channels, 1))
            target = np.sin(0.3 * np.arange(120) + phase) + 0.1 * rng.normal(size=(num_channels, 120))
            rows.append(common | {"item_id": f"{system}/{k}", "target": target.astype(np.float32)})
    return write_dataset(tmp_path_factory.mktemp("dataset") / "toy", rows)


@pytest.fixture(scope="module")
def dataset(folder):
    return TrajectoryDataset(folder, "test")


@pytest.fixture(scope="module")
def results(dataset):
    forecasters = {"parrot": ContextParroting(), "mean": ContextMean(), "last": Persistence()}
    return evaluate(forecasters, dataset, PROTOCOL, baselines=["mean", "last"], show_progress=False)


class Recorder:
    """Persistence that remembers every context it was given."""

    def __init__(self):
        self.seen = []

    def forecast(self, past_values, *, prediction_length, past_observed_mask=None):
        self.seen.append(past_values.clone())
        return Persistence().forecast(past_values, prediction_length=prediction_length)


class Broken:
    """A forecast that is NaN from step 20 on for series that begin above 0."""

    def forecast(self, past_values, *, prediction_length, past_observed_mask=None):
        forecast = Persistence().forecast(past_values, prediction_length=prediction_length)
        forecast[past_values[:, 0, 0] > 0, 20:] = torch.nan
        return forecast


class TooLong:
    """Whole blocks of 64, whatever was asked."""

    def forecast(self, past_values, *, prediction_length, past_observed_mask=None):
        return Persistence().forecast(past_values, prediction_length=64)


def value(results, **wanted):
    (row,) = [r for r in results.rows if all(getattr(r, k) == v for k, v in wanted.items())]
    return row


def test_a_row_is_the_median_over_the_windows_of_a_system(dataset, folder):
    recorder = Recorder()
    every = dataclasses.replace(PROTOCOL, num_windows=1000)
    results = evaluate({"last": recorder}, TrajectoryDataset(folder, "test", systems=["Chua"]), every)
    errors = {"smape": [], "normalised_mae": []}
    for trajectory in dataset:
        if trajectory.system != "Chua":
            continue
        windows = np.lib.stride_tricks.sliding_window_view(trajectory.values, 90, axis=1).transpose(1, 2, 0)
        past, future = windows[:, :60], windows[:, 60:70]
        forecast = np.repeat(past[:, -1:], 10, axis=1)
        errors["smape"].extend(smape(future, forecast, past_values=past))
        errors["normalised_mae"].extend(normalised_mae(future, forecast, past_values=past))
    for metric, expected in errors.items():
        row = value(results, system="Chua", metric=metric, horizon=10)
        assert row.value == pytest.approx(np.median(expected), rel=1e-5)
        assert row.num_windows == len(expected) == 2 * 31


def test_all_forecasters_see_the_same_windows_in_batches_of_equal_channels(dataset):
    first, second = Recorder(), Recorder()
    evaluate({"a": first, "b": second}, dataset, PROTOCOL, show_progress=False)
    assert all(torch.equal(a, b) for a, b in zip(first.seen, second.seen, strict=True))
    assert {batch.shape[2] for batch in first.seen} == {2, 3}
    assert sum(len(batch) for batch in first.seen) == 4 * 2 * 3
    assert max(len(batch) for batch in first.seen) == PROTOCOL.batch_size


def test_a_systems_rows_do_not_depend_on_the_others_or_the_batch(results, folder):
    alone = evaluate(
        {"parrot": ContextParroting()},
        TrajectoryDataset(folder, "test", systems=["Chua"]),
        dataclasses.replace(PROTOCOL, batch_size=1),
        show_progress=False,
    )
    together = [row for row in results.rows if (row.model, row.system) == ("parrot", "Chua")]
    assert [dataclasses.replace(row, value=0) for row in alone.rows] == [
        dataclasses.replace(row, value=0) for row in together
    ]
    np.testing.assert_allclose([row.value for row in alone.rows], [row.value for row in together], rtol=1e-5)


def test_the_seed_chooses_the_windows(dataset):
    contexts = []
    for seed in (0, 0, 1):
        recorder = Recorder()
        protocol = dataclasses.replace(PROTOCOL, seed=seed)
        evaluate({"a": recorder}, dataset, protocol, show_progress=False)
        contexts.append(torch.cat([batch.flatten() for batch in recorder.seen]))
    assert torch.equal(contexts[0], contexts[1])
    assert not torch.equal(contexts[0], contexts[2])


def test_lyapunov_times_are_given_only_where_known_and_chaotic(results):
    metric = "vpt_lyapunov@0.4"
    assert {row.system for row in results.rows if row.metric == metric} == {"Anishchenko", "Duffing->Lorenz"}
    assert results.summary_of("mean", metric, 30).num_systems == 2
    assert results.summary_of("mean", "vpt_periods@0.4", 30).num_systems == 4
    assert results.header["systems"]["Chua"]["lyapunov_times_per_period"] is None
    in_periods = value(results, model="mean", system="Anishchenko", metric="vpt_periods@0.4").value
    in_lyapunov = value(results, model="mean", system="Anishchenko", metric=metric).value
    assert in_lyapunov == pytest.approx(2 * in_periods)


def test_the_summary_is_the_median_over_systems_and_differences_are_paired(results):
    by_system = {
        model: {r.system: r.value for r in results.rows if (r.model, r.metric, r.horizon) == (model, "smape", 10)}
        for model in ("parrot", "last")
    }
    assert results.summary_of("parrot", "smape", 10).median == np.median(list(by_system["parrot"].values()))
    paired = [by_system["parrot"][system] - by_system["last"][system] for system in SYSTEMS]
    (row,) = [
        r for r in results.differences if (r.model, r.baseline, r.metric, r.horizon) == ("parrot", "last", "smape", 10)
    ]
    assert row.median == pytest.approx(np.median(paired))
    assert row.low <= row.median <= row.high


def test_failed_forecasts_are_counted_and_worst_where_they_failed(dataset):
    broken = evaluate({"broken": Broken(), "last": Persistence()}, dataset, PROTOCOL, show_progress=False)
    failed = broken.header["cost"]["broken"]["failed_windows"]
    assert 0 < failed < broken.header["dataset"]["num_windows"]
    assert broken.header["cost"]["last"]["failed_windows"] == 0
    for system in SYSTEMS:
        here = {"system": system, "metric": "normalised_mae"}
        assert (
            value(broken, model="broken", horizon=10, **here).value
            == value(broken, model="last", horizon=10, **here).value
        )
        assert (
            value(broken, model="broken", horizon=30, **here).value
            >= value(broken, model="last", horizon=30, **here).value
        )
        assert value(broken, model="broken", horizon=30, **here).num_windows == 6
    assert any(np.isinf(row.value) for row in broken.rows if row.model == "broken")


def test_results_survive_the_file(results, tmp_path):
    path = tmp_path / "new" / "results.json"
    results.write(path)
    assert EvaluationResults.read(path) == results
    assert [entry.name for entry in path.parent.iterdir()] == ["results.json"]


def test_infinite_values_survive_the_file_as_standard_json(results, tmp_path):
    row = ResultRow("a", "Chua", 10, "mae", float("inf"), 3, 0)
    infinite = dataclasses.replace(results, rows=[row])
    infinite.write(tmp_path / "results.json")

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    assert EvaluationResults.read(tmp_path / "results.json").rows == [row]


def test_compressed_results_are_the_same(results, tmp_path):
    for name in ("plain.json", "small.json.gz"):
        results.write(tmp_path / name)
    plain, small = ((tmp_path / name).read_bytes() for name in ("plain.json", "small.json.gz"))
    assert len(small) < len(plain) / 3
    assert gzip.decompress(small) == plain
    assert EvaluationResults.read(tmp_path / "small.json.gz") == results
    (tmp_path / "small.json.gz").write_bytes(small[:-20])
    with pytest.raises(ValueError, match=r"small\.json\.gz must be compressed, found .*; write it again"):
        EvaluationResults.read(tmp_path / "small.json.gz")


def test_the_summary_can_be_made_again_from_the_file(results, tmp_path):
    results.write(tmp_path / "results.json")
    read = EvaluationResults.read(tmp_path / "results.json")
    rows = [row for row in read.rows if row.metric != "step_normalised_mae"]
    again = summarise(rows, baselines=["mean", "last"], seed=0, num_resamples=200, confidence=0.95)
    assert again == (results.summary, results.differences)


def test_a_header_that_is_no_json_is_refused_and_nothing_written(results, tmp_path):
    header = results.header | {"extra": float("nan")}
    with pytest.raises(ValueError, match="not JSON compliant"):
        dataclasses.replace(results, header=header).write(tmp_path / "results.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"), [("{}", "format_version None"), ("[1", "found no JSON"), ("[]", "format_version None")]
)
def test_other_files_are_refused(content, message, tmp_path):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        EvaluationResults.read(tmp_path / "results.json")


def test_rows_with_other_fields_are_refused(results, tmp_path):
    results.write(tmp_path / "results.json")
    content = (tmp_path / "results.json").read_text().replace('"num_windows"', '"num_window"')
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match="ResultRow must have the fields"):
        EvaluationResults.read(tmp_path / "results.json")


def test_the_table_shows_every_model_at_the_asked_columns(results):
    lines = results.summary_table(["smape"], [30, 10]).splitlines()
    assert lines[0] == "| model | sMAPE (0-100) @ 30 | sMAPE (0-100) @ 10 |"
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["parrot", "mean", "last"]
    row = results.summary_of("mean", "smape", 30)
    assert f"{row.median:.3g} [{row.low:.3g}, {row.high:.3g}]" in lines[3]


def test_a_table_of_nothing_is_refused(results):
    with pytest.raises(ValueError, match="found none for metrics"):
        results.summary_table(["smape"], [11])


def test_the_header_says_how_the_numbers_came_about(results, folder):
    header = results.header
    counts = {"num_systems": 4, "num_trajectories": 8, "num_windows": 24}
    fingerprint = json.loads((folder / "manifest.json").read_text())["fingerprint"]
    assert header["dataset"] == {"fingerprint": fingerprint, "split": "test", **counts}
    assert header["protocol"]["horizons"] == [10, 30]
    assert header["systems"]["Blinking"]["num_channels"] == 2
    assert header["systems"]["Blinking"]["steps_per_period"] == 20
    assert header["versions"]["torch"] == torch.__version__
    assert header["hardware"]["cpu"]


def test_a_forecast_of_the_wrong_length_is_refused_by_name(dataset):
    with pytest.raises(ValueError, match=r"found \(4, 64, 2\) from 'blocks'"):
        evaluate({"blocks": TooLong()}, dataset, PROTOCOL, show_progress=False)


def test_contexts_of_which_nothing_is_seen_are_refused(write_dataset, tmp_path):
    target = np.full((1, 200), np.nan, np.float32)
    target[:, 190:] = 1.0
    folder = write_dataset(tmp_path / "unseen", [{"target": target, "split": "test"}])
    protocol = EvaluationProtocol(context_length=150, horizons=(20,), num_windows=2)
    with pytest.raises(ValueError, match="some window must have a seen value in its context"):
        evaluate({"persistence": Persistence()}, TrajectoryDataset(folder, "test"), protocol, show_progress=False)


def test_a_trajectory_that_is_too_short_is_refused_by_name(dataset):
    long = dataclasses.replace(PROTOCOL, horizons=(61,))
    with pytest.raises(ValueError, match=r"121 steps, found 120 in 'Anishchenko/0'"):
        evaluate({"last": Persistence()}, dataset, long, show_progress=False)


def test_unknown_baselines_and_no_forecasters_are_refused(dataset):
    with pytest.raises(ValueError, match=r"found \['mena'\]"):
        evaluate({"mean": ContextMean()}, dataset, PROTOCOL, baselines=["mena"], show_progress=False)
    with pytest.raises(ValueError, match="at least one forecaster and one trajectory, found 0 and 8"):
        evaluate({}, dataset, PROTOCOL, show_progress=False)


@pytest.mark.parametrize(
    "wrong",
    [
        {"horizons": ()},
        {"horizons": (0, 4)},
        {"num_windows": 0},
        {"confidence": 1.0},
        {"vpt_thresholds": (0,)},
        {"num_samples": 0},
        {"quantile_levels": (0.9, 0.1)},
        {"quantile_levels": (0.5, 1.0)},
    ],
)
def test_an_impossible_protocol_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EvaluationProtocol(**wrong)
