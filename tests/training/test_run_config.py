import re
from pathlib import Path

import pytest
import yaml

from training.model_config import build_model_config
from training.run_config import claim_output_dir, load_run_config

ROOT = Path(__file__).parents[2]
CONFIGS = [
    file
    for file in sorted((ROOT / "training" / "configs").glob("*.yaml"))
    if "num_seeds" not in file.read_text()  # those are of sweeps
    and not file.stem.endswith("_study")
    and not file.stem.startswith(("chronos_", "benchmark"))  # of their own commands
    and not file.stem.startswith("online_")  # of studies, too
]
RECORD = ROOT / "model_cards" / "dystformer-quickstart" / "run_config.yaml"
"""Of a run before there were tasks, adapters and series."""


@pytest.fixture
def config_file(tmp_path):
    content = {
        "model": {
            "model_type": "dystformer",
            "d_model": 64,
            "num_attention_heads": 4,
            "num_poly_feats": 8,
            "num_rff": 32,
        },
        "data": {"path": "somewhere"},
        "training": {"output_dir": str(tmp_path / "run"), "max_steps": 3},
        "evaluation": {"name": "toy"},
    }

    def write(**changes):
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(content | changes))
        return str(file)

    return write


def load(file, *options):
    return load_run_config(["--config", file, *options])


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_every_committed_configuration_loads(file):
    config, _ = load(str(file), "--data.path", "somewhere")
    if config.start is None:
        build_model_config(config.model, config.task)
    else:
        assert (ROOT / config.start / "config.json").is_file()


def test_options_override_the_file_with_their_types(config_file):
    config, resolved = load(
        config_file(), "--training.learning_rate", "1e-4", "--model.d_model", "64", "--data.seed", "7"
    )
    assert config.training.learning_rate == pytest.approx(1e-4)
    assert config.model["d_model"] == 64
    assert resolved["data"]["seed"] == config.data.seed == 7


def test_numbers_in_exponent_notation_are_numbers(config_file):
    file = Path(config_file())
    text = file.read_text().replace("max_steps: 3", "max_steps: 3\n  learning_rate: 1e-3")
    file.write_text(text)
    assert load(str(file))[0].training.learning_rate == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--training.learning_rat", "1e-3"], "unrecognized arguments"),
        (["--training.learning_rate", "fast"], "learning_rate"),
        (["--data.balance", "weeks"], "balance"),
        (["--data.series.test_share", "0.9"], r"together below 1, found \(0.15, 0.9\)"),
        (["--task", "masked"], "task"),
        (["--model.d_modle", "64"], "did you mean d_model"),
        (["--model.d_model", "wide"], "d_model"),
        (["--model.d_model", "72"], "must equal d_model"),
        (["--model.model_type", "lstm"], r"must be one of \['alrnn', .*'fsnet', 'patchtst'\], found 'lstm'"),
        (["--evaluation.protocol.context_length", "0"], "positive numbers"),
        (["--bilevel.mode", "second_order"], "bilevel"),
        (["--bilevel.meta_share", "1.5"], "between 0 and 1, found 1.5"),
        (["--weight_averaging.decay", "1.5"], r"decay in \[0, 1\)"),
        (["--checkpoint", "a/b", "--lora.rank", "2", "--bilevel.mode", "none"], "found it beside lora"),
        (["--data.augmentations.weights", "{stretch: 1.0}"], r"weights must name augmentations, found \['stretch'\]"),
    ],
)
def test_bad_options_end_with_what_was_found(config_file, capsys, options, message):
    with pytest.raises(SystemExit) as ended:
        load(config_file(), *options)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error


def test_unknown_keys_in_the_file_are_errors(config_file, capsys):
    with pytest.raises(SystemExit):
        load(config_file(datta={"path": "x"}))
    assert "datta" in capsys.readouterr().err


def test_a_missing_file_is_named(capsys):
    with pytest.raises(SystemExit):
        load("nowhere.yaml")
    assert "nowhere.yaml" in capsys.readouterr().err


def test_a_folder_belongs_to_one_run(config_file, tmp_path):
    _, resolved = load(config_file())
    claim_output_dir(resolved, tmp_path / "run")
    claim_output_dir(resolved, tmp_path / "run")
    _, other = load(config_file(), "--training.learning_rate", "0.5", "--training.logging_steps", "7")
    with pytest.raises(FileExistsError, match=r"other settings of \['training\.learning_rate'\]"):
        claim_output_dir(other, tmp_path / "run")


def test_the_record_of_an_older_run_stands_for_the_same_run(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run_config.yaml").write_text(RECORD.read_text())
    config, resolved = load(str(RECORD))
    assert config.task == "forecast"
    assert config.start is config.lora is None
    claim_output_dir(resolved, tmp_path / "run")
    _, other = load(str(RECORD), "--task", "masked_modeling", "--data.series.test_share", "0.2")
    with pytest.raises(FileExistsError, match=r"\['data\.series\.test_share', 'task', 'training\.label_names'\]"):
        claim_output_dir(other, tmp_path / "run")
