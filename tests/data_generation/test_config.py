"""Settings: strict, from YAML and dotted options, with rules that say what to do."""

import json
from argparse import ArgumentError
from pathlib import Path

import pytest

from data_generation.config import GenerationConfig, data_settings
from data_generation.config_loading import config_from_settings, load_config

CONFIGS = sorted((Path(__file__).parents[2] / "data_generation" / "configs").glob("*.yaml"))


def load(*arguments: str) -> GenerationConfig:
    return load_config(["--output", "unused", *arguments], exit_on_error=False)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_config_file_loads(file: Path):
    assert load_config(["--config", str(file)], exit_on_error=False).output.startswith("generated/")


def test_options_override_the_file(tmp_path: Path):
    file = tmp_path / "settings.yaml"
    file.write_text(
        "output: here\nsystems: [Lorenz]\nintegration: {rtol: 1e-9}\nsplits: {test: {num_parameter_sets: 2}}\n"
    )
    options = ["--config", str(file), "--integration.atol", "1e-11", "--splits.test.num_parameter_sets", "3"]
    config = load_config(options, exit_on_error=False)
    assert config.output == "here"
    assert config.systems == ["Lorenz"]
    assert (config.integration.rtol, config.integration.atol) == (1e-9, 1e-11)
    assert config.splits.test.num_parameter_sets == 3
    assert config.splits.train == GenerationConfig(output="here").splits.train


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sede", "1"], "unrecognized arguments: --sede"),
        (["--integration", "{rtoll: 1e-9}"], "rtoll"),
        (["--seed", "1.5"], "Expected a <class 'int'>"),
        (["--systems", "Lorenz"], "systems"),
        (["--systems", "[Lorenz, Lorenz]"], r"each system once, found \['Lorenz'\]"),
        (["--systems", "[]"], "at least one system"),
        (["--jobs", "0"], "jobs must be at least 1, or -1, found 0"),
        (["--shard", "4/4"], r'shard must be "i/n" with i from 0 to n - 1, found \'4/4\''),
        (["--shard", "1"], r'shard must be "i/n"'),
        (["--shard=-1/4"], r'shard must be "i/n"'),
        (["--seed", "-1"], "seed must not be negative, found -1"),
        (["--rows_per_shard", "0"], "rows_per_shard must be at least 1, found 0"),
        (["--perturbation.sign_match", "1.5"], "sign_match must be a probability, found 1.5"),
        (["--perturbation.parameter_scale", "0"], "parameter_scale must be positive and finite, found 0.0"),
        (["--perturbation.initial_condition_scale", "-1"], "initial_condition_scale must not be negative"),
        (["--integration.rtol", "0"], "rtol must be positive and finite, found 0"),
        (["--integration.num_points", "10"], "num_points must be at least 64, found 10"),
        (["--integration.transient_periods", "-1"], "transient_periods must not be negative"),
        (["--splits.test.num_parameter_sets", "-1"], "num_parameter_sets must not be negative, found -1"),
        (["--validity.max_z", "-1"], "max_z must be finite and not negative, found -1"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(arguments: list[str], message: str):
    with pytest.raises(ArgumentError, match=message):
        load(*arguments)


def test_output_is_required():
    with pytest.raises(ArgumentError, match="output"):
        load_config([], exit_on_error=False)


def test_the_command_exits_on_a_wrong_setting(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        load_config(["--output", "unused", "--jobs", "0"])
    assert "jobs must be at least 1" in capsys.readouterr().err


def test_data_settings_leave_out_how_the_run_is_made():
    one = load("--jobs", "1", "--systems", "[Rossler, Lorenz]")
    other = load_config(
        [
            *("--output", "elsewhere", "--jobs", "2", "--backend", "threading", "--systems", "[Lorenz, Rossler]"),
            *("--shard", "0/2", "--dry-run", "--push-to-hub", "name/chaos"),
        ],
        exit_on_error=False,
    )
    assert (other.shard, other.dry_run, other.push_to_hub) == ("0/2", True, "name/chaos")
    assert data_settings(one) == data_settings(other)
    assert data_settings(one) != data_settings(load("--seed", "1", "--systems", "[Rossler, Lorenz]"))


def test_settings_come_back_from_a_manifest():
    config = load("--systems", "[Rossler, Lorenz]", "--integration.rtol", "1e-9")
    stored = json.loads(json.dumps(data_settings(config)))
    assert data_settings(config_from_settings(stored, output="there")) == data_settings(config)
    with pytest.raises(ValueError, match=r"settings must be those of this version.*sede"):
        config_from_settings({**stored, "sede": 1}, output="there")
