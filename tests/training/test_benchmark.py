import json
import re
import shutil
import sys
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from hf_tsdyn.baselines import BASELINES, ContextParroting, Persistence
from hf_tsdyn.data import TrajectoryDataset
from hf_tsdyn.evaluation import EvaluationProtocol, draw_windows, evaluate
from hf_tsdyn.leaderboard_attractors import read_attractors
from hf_tsdyn.results import EvaluationResults, results_bytes, rows_of
from hf_tsdyn.scoring import TRUTH
from training import benchmark, benchmark_memory
from training.benchmark_config import load_benchmark_config
from training.benchmark_results import results_file

SMALL = {"num_windows": 2, "num_curve_points": 3, "num_resamples": 20}
CONDITIONS = {
    "clean": {"context_length": 40, "horizons": [10, 50], "look_back": 100, "rollout_tail": 20} | SMALL,
    "noisy": {"context_length": 40, "horizons": [10], "look_back": 100, "look_ahead": 50, "noise": 0.1} | SMALL,
}
MODELS = {
    "persistence": {"kind": "baseline", "baseline": True, "label": "last value"},
    "parroting": {"kind": "baseline"},
    "slow-parroting": {"kind": "baseline", "rule": "parroting", "options": {"min_lag": 15}},
}


class Failing(Persistence):
    """Raises on the system B, whose values are large."""

    def forecast(self, past_values, *, prediction_length, past_observed_mask=None):
        if past_values.abs().max() > 50:
            raise RuntimeError("out of range")
        return super().forecast(past_values, prediction_length=prediction_length)


class NotFinite(Persistence):
    """Forecasts NaN from step 20 on, and draws from torch's own generator."""

    def forecast(self, past_values, *, prediction_length, past_observed_mask=None):
        forecast = super().forecast(past_values, prediction_length=prediction_length)
        forecast[:, :20] += torch.rand(1)
        forecast[:, 20:] = torch.nan
        return forecast


class WrongQuantiles(Persistence):
    """Quantiles of another shape."""

    def forecast_quantiles(self, past_values, *, prediction_length, quantile_levels, **options):
        return torch.zeros(len(past_values), 1, past_values.shape[2], len(quantile_levels))


@pytest.fixture
def data(write_dataset, tmp_path):
    """Two trajectories of two base systems and a skew product, 200 steps each."""
    rng = np.random.default_rng(0)
    rows = []
    for system, size in {"A": 1.0, "B": 100.0, "A->B": 1.0}.items():
        for k in range(2):
            target = size * (np.sin(0.3 * np.arange(200) + rng.uniform(0, 6, (2, 1))) + 0.1 * rng.normal(size=(2, 200)))
            common = {"split": "test", "dt": 0.5, "period": 10.0, "lyapunov_time": 5.0, "system": system}
            rows.append(common | {"item_id": f"{system}/{k}", "target": target.astype(np.float32)})
    return write_dataset(tmp_path / "data", rows)


@pytest.fixture
def write_benchmark(data, tmp_path):
    """A function that writes a benchmark and returns its command line."""

    def write(*more, **changes):
        content = {
            "name": "toy",
            "data": str(data),
            "conditions": CONDITIONS,
            "models": MODELS,
            "measure_memory": False,
            "output_dir": str(tmp_path / "out"),
        }
        (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump(content | changes, sort_keys=False))
        return ["--config", str(tmp_path / "benchmark.yaml"), *map(str, more)]

    return write


def run(options):
    return benchmark.run(load_benchmark_config(options), show_progress=False)


def arrays(folder):
    """The bytes of every cell's scores and settings."""
    files = [*folder.rglob("scores.npz"), *folder.rglob("settings.json")]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def without_times(text):
    return re.sub(r'"(\w*seconds\w*)": [\d.e-]+', r'"\1": 0', text)


def test_a_benchmark_says_what_an_evaluation_would(write_benchmark, data, tmp_path):
    results = run(write_benchmark())["clean"]
    protocol = EvaluationProtocol(**CONDITIONS["clean"] | {"horizons": (10, 50)})
    models = {"persistence": Persistence(), "parroting": ContextParroting()}
    models["slow-parroting"] = ContextParroting(min_lag=15)
    expected = evaluate(models, TrajectoryDataset(data, "test"), protocol, baselines=["persistence"])
    key = attrgetter("model", "system", "metric", "horizon")
    assert sorted(results.rows, key=key) == sorted(expected.rows, key=key)
    assert results.summary_of("parroting", "smape", 50) == expected.summary_of("parroting", "smape", 50)
    assert {row.baseline for row in results.differences} == {"persistence"}
    header = results.header
    for name in ("models", "protocol", "dataset", "hardware"):
        assert header[name] == expected.header[name]
    assert {name: facts["group"] for name, facts in header["systems"].items()} == {
        "A": "base",
        "B": "base",
        "A->B": "skew_product",
    }
    assert header["benchmark"]["name"] == "toy"
    assert header["benchmark"]["condition"] == "clean"
    assert list(header["benchmark"]["models"]) == list(MODELS)
    facts = header["benchmark"]["models"]["persistence"]
    assert (facts["label"], facts["kind"], facts["num_parameters"]) == ("last value", "baseline", None)
    assert facts["cost"]["cpu_seconds_per_forecast"] > 0
    assert EvaluationResults.read(tmp_path / "out" / "results" / "toy-clean.json.gz") == results


def test_floors_stand_beside_long_rollouts_alone(write_benchmark):
    results = run(write_benchmark())
    assert results["clean"].header["models"][-1] == TRUTH
    assert rows_of(results["clean"].rows, model=TRUTH, metric="spectrum_distance@tail", horizon=50)
    assert TRUTH not in results["noisy"].header["models"]


def test_rollouts_of_drawn_systems_lie_beside_the_results(write_benchmark, data, tmp_path):
    run(write_benchmark(drawn=["A->B"]))
    rollouts = read_attractors(tmp_path / "out/results/toy-clean.attractors.npz")
    assert {system: set(series) for system, series in rollouts.items()} == {"A->B": {"truth", *MODELS}}
    window = draw_windows(TrajectoryDataset(data, "test", systems=["A->B"]), EvaluationProtocol(**CONDITIONS["clean"]))[
        0
    ]
    truth, persistence = rollouts["A->B"]["truth"], rollouts["A->B"]["persistence"]
    assert np.array_equal(truth, window.values[100:])
    assert np.array_equal(persistence, np.repeat(window.values[99:100], 50, axis=0))
    assert not (tmp_path / "out/results/toy-noisy.attractors.npz").exists()
    run(write_benchmark())
    assert not (tmp_path / "out/results/toy-clean.attractors.npz").exists()


def test_drawn_systems_are_systems(write_benchmark):
    with pytest.raises(ValueError, match=r"drawn must name systems that are forecast.*\['C'\]"):
        run(write_benchmark(drawn=["C"]))


@pytest.mark.slow  # workers are fresh processes
def test_workers_change_no_number(write_benchmark, tmp_path):
    run(write_benchmark())
    run(write_benchmark("--jobs", 2, "--output_dir", tmp_path / "parallel"))
    assert arrays(tmp_path / "out") == arrays(tmp_path / "parallel")
    for file in (tmp_path / "out" / "results").iterdir():
        again = tmp_path / "parallel" / "results" / file.name
        assert without_times(results_bytes(file).decode()) == without_times(results_bytes(again).decode())


def test_draws_from_torchs_own_generator_repeat_and_leave_it_alone(write_benchmark, tmp_path, monkeypatch):
    monkeypatch.setitem(BASELINES, "random", NotFinite)
    models = {"random": {"kind": "baseline"}}
    torch.manual_seed(5)
    run(write_benchmark(models=models))
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))
    run(write_benchmark("--output_dir", tmp_path / "again", models=models))
    assert arrays(tmp_path / "out") == arrays(tmp_path / "again")


def test_a_stopped_benchmark_scores_what_is_missing_alone(write_benchmark, tmp_path):
    options = write_benchmark()
    first = run(options)
    cells = tmp_path / "out" / "cells"
    (cells / "parroting" / "A_B" / "clean" / "cell.json").unlink()
    shutil.rmtree(cells / "truth" / "B")
    times = {file: file.stat().st_mtime_ns for file in cells.rglob("cell.json")}
    again = run(options)
    assert again["clean"].rows == first["clean"].rows
    changed = {str(f.relative_to(cells)) for f in cells.rglob("cell.json") if times.get(f) != f.stat().st_mtime_ns}
    assert changed == {"parroting/A_B/clean/cell.json", "truth/B/clean/cell.json"}


def test_new_models_and_conditions_add_their_own_cells(write_benchmark, tmp_path):
    cells = tmp_path / "out" / "cells"
    run(write_benchmark(models={"persistence": MODELS["persistence"]}, conditions={"clean": CONDITIONS["clean"]}))
    times = {file: file.stat().st_mtime_ns for file in cells.rglob("*.json")}
    results = run(write_benchmark("--only", "parroting"))
    assert {file: file.stat().st_mtime_ns for file in times} == times
    assert results["clean"].header["models"] == ["persistence", "parroting", TRUTH]
    assert results["noisy"].header["models"] == ["parroting"]  # persistence was not asked for


def test_a_model_that_lacks_a_system_waits_for_it(write_benchmark, capsys):
    run(write_benchmark("--only", "parroting", "--systems", "A"))
    benchmark.main(write_benchmark("--only", "persistence"))
    assert "not in the tables, for want of cells: parroting, slow-parroting" in capsys.readouterr().out
    results = run(write_benchmark("--only", "persistence"))
    assert results["clean"].header["models"] == ["persistence", TRUTH]
    assert run(write_benchmark("--only", "parroting"))["noisy"].header["models"] == ["persistence", "parroting"]


def test_a_cell_of_other_settings_is_refused(write_benchmark):
    run(write_benchmark())
    changed = MODELS | {"parroting": {"kind": "baseline", "options": {"min_lag": 3}}}
    with pytest.raises(ValueError, match=r"cells/parroting/A/clean must .*settings of \['model.options.min_lag'\]"):
        run(write_benchmark(models=changed))
    assert (
        "parroting"
        not in EvaluationResults.read(results_file(load_benchmark_config(write_benchmark()), "clean")).header["models"]
    )
    conditions = CONDITIONS | {"noisy": CONDITIONS["noisy"] | {"noise": 0.2}}
    with pytest.raises(ValueError, match=r"settings of \['protocol.noise'\]"):
        run(write_benchmark(conditions=conditions))
    conditions = CONDITIONS | {"noisy": CONDITIONS["noisy"] | {"num_resamples": 30}}
    assert run(write_benchmark(conditions=conditions))["noisy"].header["protocol"]["num_resamples"] == 30


def test_models_that_fail_keep_their_place_with_infinite_errors(write_benchmark, monkeypatch, capsys):
    for name, model in {"failing": Failing, "nan": NotFinite, "shapes": WrongQuantiles}.items():
        monkeypatch.setitem(BASELINES, name, model)
    models = {name: {"kind": "baseline"} for name in ("persistence", "failing", "nan", "shapes")}
    benchmark.main(write_benchmark(models=models))
    printed = capsys.readouterr().out
    assert re.search(r"failing failed on 4 of 12 windows.*B: RuntimeError: out of range", printed)
    assert "nan failed on 12 of 12 windows, which count as infinite errors\n" in printed
    assert "shapes failed on 12 of 12 windows" in printed
    config = load_benchmark_config(write_benchmark(models=models))
    results = EvaluationResults.read(results_file(config, "clean"))
    assert {name: each["failed_windows"] for name, each in results.header["cost"].items()} == {
        "persistence": 0,
        "failing": 4,
        "nan": 12,
        "shapes": 12,
        TRUTH: 0,
    }
    values = {(r.model, r.system, r.metric): r.value for r in results.rows if r.horizon == 50}
    assert values["failing", "B", "normalised_mae"] == values["failing", "B", "state_space_divergence"] == np.inf
    assert values["failing", "B", "smape"] == 100
    assert values["failing", "A", "smape"] == values["persistence", "A", "smape"]
    assert values["nan", "A", "mase"] == values["shapes", "A", "normalised_crps"] == np.inf
    assert values["shapes", "A", "mase"] == values["persistence", "A", "mase"]
    assert results.summary_of("failing", "smape", 50).num_systems == 3


def test_short_series_are_forecast_as_far_as_they_allow(write_benchmark, tmp_path):
    series = {}
    for name, shape in {"long": (200, 2), "short": (70, 2), "shorter": (18,)}.items():
        np.save(tmp_path / f"file-{name}.npy", np.sin(np.arange(np.prod(shape)).reshape(shape)))
        series |= {name: {"path": str(tmp_path / f"file-{name}.npy")}}
    results = run(write_benchmark(series=series))["clean"]
    facts = results.header["systems"]
    assert {facts[name]["group"] for name in series} == {"series"}
    assert "protocol" not in facts["long"]
    shrunk = {"look_back": None, "rollout_tail": None, "horizons": [10]}
    assert facts["short"]["protocol"] == shrunk
    assert facts["shorter"]["protocol"] == shrunk | {"horizons": [9], "context_length": 9}
    rows = rows_of(results.rows, model="parroting", metric="smape")
    assert {(row.system, row.horizon) for row in rows if row.system in series} == {
        ("long", 10),
        ("long", 50),
        ("short", 10),
        ("shorter", 9),
    }
    assert results.summary_of("parroting", "smape", 10).num_systems == 3  # of the dataset alone
    assert set(results.header["benchmark"]["series"]) == set(series)
    assert {row.system for row in results.rows if row.model == TRUTH} == {"A", "B", "A->B", "long"}


def test_series_of_your_own_need_no_dataset(write_benchmark, tmp_path, capsys):
    np.save(tmp_path / "mine.npy", np.sin(np.arange(300.0)))
    path = tmp_path / "mine.npy"
    benchmark.main(write_benchmark("--series.mine.path", path, "--only", "persistence", data=None))
    printed = capsys.readouterr().out
    assert "## clean" in printed
    assert "series (1)" in printed
    assert "not in the tables, for want of cells: parroting, slow-parroting" in printed
    results = EvaluationResults.read(tmp_path / "out" / "results" / "toy-clean.json.gz")
    assert results.summary_of("persistence", "smape", 50).num_systems == 1


def test_tables_have_every_group(write_benchmark, tmp_path, capsys):
    benchmark.main(write_benchmark())
    printed = capsys.readouterr().out
    for title in ("systems of the dataset (3)", "base (2)", "skew product (1)"):
        assert title in printed
    benchmark.main(write_benchmark("--systems", "A", "B", "--output_dir", tmp_path / "other"))
    printed = capsys.readouterr().out
    assert "base (2)" in printed
    assert "systems of" not in printed
    assert "skew" not in printed


def test_a_checkpoint_is_known_by_its_weights(write_benchmark, tmp_path):
    model = Path("model_cards/dystformer-quickstart")
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("config.json", "model.safetensors", "training_summary.json"):
        shutil.copy(model / name, copy / name)
    conditions = {"noisy": CONDITIONS["noisy"]}

    def options(path):
        models = {"mine": {"kind": "checkpoint", "path": str(path)}}
        return write_benchmark("--systems", "A", models=models, conditions=conditions)

    facts = run(options(copy))["noisy"].header["benchmark"]["models"]["mine"]
    summary = json.loads((model / "training_summary.json").read_text())
    assert facts["num_parameters"] == summary["num_parameters"]
    assert facts["training"]["dataset_fingerprint"] == summary["dataset_fingerprint"]
    elsewhere = copy.rename(tmp_path / "elsewhere")
    run(options(elsewhere))
    (elsewhere / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:-1] + b"\x00")
    with pytest.raises(ValueError, match=r"settings of \['model.digest'\]"):
        run(options(elsewhere))


REFUSED = {
    "no checkpoint": ({"kind": "checkpoint", "path": "./nowhere"}, "model wrong: path must be a checkpoint"),
    "no rule": ({"kind": "baseline"}, r"rule must be one of the baselines .*found 'wrong'"),
    "options": ({"kind": "baseline", "rule": "parroting", "options": {"lag": 3}}, "unexpected keyword argument 'lag'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_built_is_refused_before_anything_runs(case, write_benchmark, tmp_path):
    entry, message = REFUSED[case]
    models = MODELS | {"wrong": entry}
    with pytest.raises(ValueError, match=message):
        run(write_benchmark(models=models))
    assert not (tmp_path / "out").exists()
    assert run(write_benchmark("--only", "parroting", models=models))


def test_a_package_that_is_missing_is_named_with_its_install_line(write_benchmark, monkeypatch):
    monkeypatch.setitem(sys.modules, "fracast", None)
    with pytest.raises(ValueError, match=r"model wrong: .*pip install 'hf_tsdyn\[fracast\]'"):
        run(write_benchmark(models={"wrong": {"kind": "fracast"}}))


def test_a_trajectory_that_is_too_short_is_refused_before_anything_runs(write_benchmark, tmp_path):
    conditions = {"clean": CONDITIONS["clean"] | {"look_back": 151}}
    with pytest.raises(ValueError, match="201 steps, found 200 in 'A/0'"):
        run(write_benchmark(conditions=conditions))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_memory_is_that_of_one_forecast_in_a_process_of_its_own(write_benchmark):
    conditions = {"long": {"context_length": 64, "horizons": [2_000_000], "num_windows": 1} | {"look_ahead": None}}
    config = load_benchmark_config(write_benchmark(conditions=conditions))
    assert benchmark_memory.measure_memory(("persistence", "long"), config=config) is None
    found = benchmark_memory.peak_memory(config, "persistence", "long")
    # 2 000 000 steps of 3 channels of 4 bytes, and what is loaded to make them.
    assert 24_000_000 <= found <= 60_000_000
    file = benchmark_memory.memory_file(config, "persistence", "long")
    written = file.stat().st_mtime_ns
    benchmark_memory.measure_memory(("persistence", "long"), config=config)
    assert file.stat().st_mtime_ns == written


def test_the_command_that_measures_memory_says_how_it_is_called():
    with pytest.raises(SystemExit, match=r"usage: python -m training\.benchmark_memory NAME ENTRY"):
        benchmark_memory.main(["--help"])
