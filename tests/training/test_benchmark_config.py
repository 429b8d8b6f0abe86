import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from data_generation.config_loading import load_config
from data_generation.plan import plan_items
from data_generation.systems import split_of, system_names
from hf_tsdyn.baselines import BASELINES
from training.benchmark_config import load_benchmark_config

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "training" / "configs" / "benchmark.yaml"
DATA = ROOT / "data_generation" / "configs" / "benchmark.yaml"


@pytest.fixture
def write(tmp_path):
    """A function that writes a benchmark of things that are not there and returns its command line."""

    def options(*more, **changes):
        content = {
            "name": "toy",
            "data": "somewhere",
            "conditions": {"clean": {"context_length": 32, "horizons": [8]}},
            "models": {"mean": {"kind": "baseline"}, "net": {"kind": "checkpoint", "path": "./net"}},
            "output_dir": "out",
        }
        (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump(content | changes))
        return ["--config", str(tmp_path / "benchmark.yaml"), *more]

    return options


REFUSED = {
    "unknown kind": ({"models": {"a": {"kind": "oracle"}}}, "oracle"),
    "unknown key": ({"models": {"a": {"kind": "baseline", "rank": 3}}}, "rank"),
    "no model": ({"models": {}}, "models must name a model at least"),
    "no condition": ({"conditions": {}}, "conditions must name a condition at least"),
    "no path": ({"models": {"a": {"kind": "chronos"}}}, "model a, of kind chronos, must have a path"),
    "a path too many": ({"models": {"a": {"kind": "baseline", "path": "x"}}}, "must not have a path"),
    "a rule of a network": ({"models": {"a": {"kind": "patchtst", "path": "x", "rule": "mean"}}}, "must have no rule"),
    "the floors' name": ({"models": {"truth": {"kind": "baseline", "rule": "mean"}}}, "'truth' must name no model"),
    "no name of a folder": ({"models": {"a/b": {"kind": "baseline", "rule": "mean"}}}, "names must be letters"),
    "a condition's bounds": ({"conditions": {"a": {"context_length": 32, "look_back": 31}}}, "look_back must be at"),
    "a condition's type": ({"conditions": {"a": {"noise": "much"}}}, "much"),
    "nothing to forecast": ({"data": None}, "a benchmark must have systems"),
    "jobs": ({"jobs": 0}, "jobs must be at least 1, or -1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_break_a_rule_end_the_command(case, write, capsys):
    changes, message = REFUSED[case]
    with pytest.raises(SystemExit):
        load_benchmark_config(write(**changes))
    assert re.search(message, " ".join(capsys.readouterr().err.split()))


def test_unknown_models_and_stray_systems_end_the_command(write, capsys):
    with pytest.raises(SystemExit):
        load_benchmark_config(write("--only", "mena"))
    assert "only must name models, which are ['mean', 'net'], found ['mena']" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        load_benchmark_config(write("--systems", "Lorenz", data=None, series={"a": {"path": "a.csv"}}))
    assert "systems must be those of data" in capsys.readouterr().err


def test_options_override_the_file(write):
    config = load_benchmark_config(
        write("--series.mine.path", "mine.csv", "--only", "mean", "--systems", "Lorenz", "Rossler", "--data", "there")
    )
    assert config.series["mine"].path == "mine.csv"
    assert (config.asked, config.systems, config.data) == (("mean",), ("Lorenz", "Rossler"), "there")
    assert load_benchmark_config(write()).asked == ("mean", "net")


def test_the_shipped_benchmark_has_every_baseline_and_common_origins():
    config = load_benchmark_config(["--config", str(SHIPPED)])
    rules = {entry.rule or name for name, entry in config.models.items() if entry.kind == "baseline"}
    assert rules >= set(BASELINES)
    assert {entry.kind for entry in config.models.values()} == {
        "baseline",
        "checkpoint",
        "chronos",
        "patchtst",
        "fitted_alrnn",
        "fracast",
    }
    origins = {(each.origin, each.window_length) for each in config.conditions.values()}
    assert len(origins) == 1
    clean = config.conditions["context-512"]
    assert config.conditions["context-2048"] == dataclasses.replace(clean, context_length=2048)
    assert clean.has_floors
    assert clean.horizons == (64, 128, 256, 512, 1024, 2048, 3584)
    assert [each.noise for each in config.conditions.values()] == [0, 0, 0.1, 0]
    assert [each.missing for each in config.conditions.values()] == [0, 0, 0, 0.3]


def test_its_data_are_all_held_out_systems_and_skew_products_long_enough():
    data = load_config(["--config", str(DATA)])
    systems = {item.system for item in plan_items(data, "test")}
    assert {name for name in system_names() if split_of(name) == "test"} <= systems
    assert sum("->" in name for name in systems) >= 40
    protocols = load_benchmark_config(["--config", str(SHIPPED)]).conditions.values()
    assert max(each.window_length for each in protocols) <= data.integration.num_points
    periods = 3584 * data.integration.num_periods / data.integration.num_points
    assert periods >= 35
