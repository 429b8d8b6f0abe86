from dataclasses import replace

import numpy as np
import pytest

from hf_tsdyn.series_evaluation import WindowErrors
from hf_tsdyn.series_results import SeriesResults
from hf_tsdyn.series_scores import SeriesRow, intervals_of_errors, rows_of_errors, signed

CLAIM = {"dataset": "waves", "horizon": 8, "mse": 0.35, "mae": None, "num_parameters": 1200, "source": "Doe 2024"}
OPTIONS = {"num_resamples": 200, "confidence": 0.95, "seed": 0}


def errors_of(level, seed, size=60):
    squared = level + np.random.default_rng(seed).normal(0, 0.01, (size, 2))
    return WindowErrors(squared, np.sqrt(squared), np.array([1.0, 2.0]), ("u", "v"), 0.0)


@pytest.fixture
def results():
    """Of a model with two seeds and a closed form, at one horizon; at another the closed form alone."""
    place = {"dataset": "waves", "split": "test", "horizon": 8}
    full, start = [errors_of(0.4, 0), errors_of(0.5, 1)], [errors_of(0.6, 2)]
    rows = [row for seed in (0, 1) for row in rows_of_errors(full[seed], model="full", seed=seed, **place)]
    rows += rows_of_errors(start[0], model="start", seed=None, **place)
    rows += rows_of_errors(start[0], model="start", seed=None, **(place | {"horizon": 16}))
    intervals = intervals_of_errors(full, model="full", **place, **OPTIONS)
    intervals += intervals_of_errors(full, start, model="full", baseline="start", **place, **OPTIONS)
    header = {
        "models": ["start", "full"],
        "labels": {"full": "the full model"},
        "num_parameters": {"start": 7452, "full": 31000},
        "cpu_seconds": {"start": 2.25},
        "claims": {"DUET": CLAIM},
    }
    return SeriesResults(header, rows, intervals)


def test_rows_hold_every_metric(results):
    rows = [row for row in results.rows if row.model == "start" and row.horizon == 8]
    names = [f"{raw}{name}{of}" for of in ("", "/u", "/v") for raw in ("", "raw_") for name in ("mse", "mae")]
    assert sorted(row.metric for row in rows) == sorted(names)
    values = {row.metric: row.value for row in rows}
    assert values["mse"] == pytest.approx((values["mse/u"] + values["mse/v"]) / 2, rel=1e-6)
    assert values["raw_mse/v"] == pytest.approx(4 * values["mse/v"], rel=1e-6)


def test_means_are_over_seeds(results):
    values = [row.value for row in results.rows if (row.model, row.metric) == ("full", "mse")]
    found = results.mean_of("full", "mse", "waves", 8)
    assert found == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)), 2)
    assert results.mean_of("start", "mse", "waves", 8).std == 0.0
    assert results.mean_of("full", "mse", "waves", 16) is None
    assert results.settings == [("waves", 8), ("waves", 16)]


def test_differences_are_those_of_the_means_over_seeds(results):
    found = results.interval_of("full", "start", "mse", "waves", 8)
    difference = results.mean_of("full", "mse", "waves", 8).mean - results.mean_of("start", "mse", "waves", 8).mean
    assert found.mean == pytest.approx(difference, abs=1e-6)
    assert found.low < found.mean < found.high < 0
    assert (found.num_seeds, found.verdict) == (2, "better")
    assert replace(found, high=0.1).verdict == "undecided"
    assert replace(found, low=0.01, high=0.1).verdict == "worse"
    assert results.interval_of("start", "full", "mse", "waves", 8) is None


def test_other_windows_are_not_compared():
    place = {"dataset": "waves", "split": "test", "horizon": 8}
    with pytest.raises(ValueError, match="found 60 and 50 at 8 on 'waves'"):
        intervals_of_errors([errors_of(1, 0)], [errors_of(1, 0, size=50)], model="a", baseline="b", **place, **OPTIONS)


def test_windows_without_targets_are_left_out_of_rows_and_intervals():
    squared = np.ones((60, 1))
    squared[:20] = np.nan
    place = {"dataset": "waves", "split": "test", "horizon": 8}
    errors = WindowErrors(squared, squared, np.ones(1), ("u",), 0.0)
    (mse, _) = intervals_of_errors([errors], model="a", **place, **OPTIONS)
    assert (mse.mean, mse.low, mse.high) == (1.0, 1.0, 1.0)
    nothing = WindowErrors(squared * np.nan, squared, np.ones(1), ("u",), 0.0)
    assert {row.metric for row in rows_of_errors(nothing, model="a", seed=0, **place)} == {
        "mae", "raw_mae", "mae/u", "raw_mae/u"
    }  # fmt: skip


def test_results_come_back_from_their_file_with_a_row_a_line(results, tmp_path):
    results.write(tmp_path / "results.json")
    assert SeriesResults.read(tmp_path / "results.json") == results
    lines = (tmp_path / "results.json").read_text().splitlines()
    assert len([line for line in lines if line.startswith('{"model"')]) == len(results.rows) + len(results.intervals)
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace(results, rows=[SeriesRow("a", "waves", "test", 8, 0, "mse", float("inf"))]).write(tmp_path / "bad.json")
    assert not (tmp_path / "bad.json").exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"format_version": 1, "rows": []}', '{"format": "other"}'])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=r"results\.json must be a file of 'hf_tsdyn series results 1'"):
        SeriesResults.read(tmp_path / "results.json")


def test_the_table_has_a_row_a_model_and_claims_are_marked(results):
    mse, mae = (results.mean_of("full", metric, "waves", 8) for metric in ("mse", "mae"))
    start = results.mean_of("start", "mse", "waves", 8).mean, results.mean_of("start", "mae", "waves", 8).mean
    assert results.table("waves", 8).splitlines() == [
        "| model | MSE | MAE | parameters | CPU s of training |",
        "|---|---:|---:|---:|---:|",
        f"| start | {start[0]:.4f} | {start[1]:.4f} | 7,452 | 2.2 |",
        f"| the full model | {mse.mean:.4f} ± {mse.std:.4f} (2) | {mae.mean:.4f} ± {mae.std:.4f} (2) | 31,000 | - |",
        "| DUET (claim: Doe 2024) | 0.35 | - | 1,200 | - |",
    ]
    validation = replace(results, rows=[replace(row, split="validation") for row in results.rows])
    assert "DUET" not in validation.table("waves", 8, split="validation")
    with pytest.raises(ValueError, match="a table needs a model that was scored on test windows of 'waves' at 32"):
        results.table("waves", 32)


def test_parameters_and_seconds_stand_at_the_first_setting_alone(results):
    assert results.table("waves", 16).splitlines()[2:] == [
        f"| start | {results.mean_of('start', 'mse', 'waves', 16).mean:.4f} "
        f"| {results.mean_of('start', 'mae', 'waves', 16).mean:.4f} | - | - |"
    ]


def test_the_overview_has_a_column_a_setting(results):
    lines = results.overview().splitlines()
    assert lines[0] == "| model | waves @ 8 | waves @ 16 |"
    assert lines[3].startswith("| the full model | 0.4")
    assert lines[3].endswith(" | - |")
    with pytest.raises(ValueError, match="needs scores on the validation windows"):
        results.overview(split="validation")


def test_differences_are_tabulated_with_what_they_say(results):
    lines = results.differences_table(metrics=("mse",)).splitlines()
    assert len(lines) == 3
    assert lines[2].startswith("| the full model | start | waves @ 8 | MSE | -0.1")
    assert lines[2].endswith("] | better |")
    assert results.differences_table(split="validation") == ""


def test_an_overview_of_some_places_has_their_columns_and_claims(results):
    claims = {"DUET": CLAIM, "far": CLAIM | {"horizon": 16, "mae": 0.5, "kind": "rerun", "source": "its code"}}
    both = replace(results, header=results.header | {"claims": claims})
    assert both.overview().splitlines()[-2:] == [
        "| DUET (claim: Doe 2024) | 0.35 / - | - |",
        "| far (rerun: its code) | - | 0.35 / 0.5 |",
    ]
    lines = both.overview(settings=[("waves", 16)]).splitlines()
    assert lines[0] == "| model | waves @ 16 |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| start", "| far (rerun: its code)"]


def test_small_differences_are_not_zero(results):
    (interval, _) = [row for row in results.intervals if row.baseline is not None]
    small = replace(interval, mean=-2.126e-5, low=-3e-5, high=-1e-5)
    assert small.text == "-0.0000213 [-0.0000300, -0.0000100]"
    assert replace(small, mean=-0.01234, low=-0.5, high=0.1).text == "-0.012 [-0.500, +0.100]"
    assert replace(small, mean=-0.002, low=-0.00398, high=2.5e-5).text == "-0.00200 [-0.00398, +0.00003]"
    assert replace(small, mean=0.0, low=0.0, high=0.0).text == "+0 [+0, +0]"
    assert signed(-1234.5, 0.0) == ["-1234", "+0"]
    lines = replace(results, intervals=[small]).differences_table().splitlines()
    assert lines[2] == "| the full model | start | waves @ 8 | MSE | -0.0000213 [-0.0000300, -0.0000100] | better |"


@pytest.mark.parametrize(("size", "count"), [(1, 0), (2, 2), (3, 2)])
def test_a_single_window_has_no_interval(size, count):
    place = {"dataset": "waves", "split": "test", "horizon": 8}
    assert len(intervals_of_errors([errors_of(1, 0, size=size)], model="a", **place, **OPTIONS)) == count
