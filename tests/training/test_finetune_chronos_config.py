import re
import time

import pytest
import yaml
from transformers import TrainerControl, TrainerState, TrainingArguments

from training.chronos_config import load_chronos_config
from training.cpu_budget import CpuBudget


@pytest.fixture
def options(tmp_path):
    """The options of a run of a new Chronos-Bolt."""
    named = {"data.path": "x", "training.output_dir": tmp_path / "run", "training.max_steps": 8}
    named |= {"chronos_bolt.d_model": 16, "context_length": 64, "prediction_length": 16}
    return [item for name, value in named.items() for item in (f"--{name}", str(value))]


def test_options_override_the_file_with_their_types(options, tmp_path):
    (tmp_path / "config.yaml").write_text("training: {learning_rate: 1e-3, seed: 3}\nchronos_bolt: {num_heads: 2}\n")
    config, resolved = load_chronos_config(
        ["--config", str(tmp_path / "config.yaml"), *options, "--training.seed", "4", "--multivariate", "false"]
    )
    assert config.training.learning_rate == pytest.approx(1e-3)
    assert (config.training.seed, config.multivariate) == (4, False)
    assert (config.chronos_bolt.num_heads, config.chronos_bolt.d_model) == (2, 16)
    assert resolved["chronos_bolt"]["num_heads"] == 2
    assert "output_dir" not in resolved["training"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--chronos_t5.d_model", "8"), "one of checkpoint, .* found chronos_t5 and chronos_bolt"),
        (("--chronos_bolt", "null"), "found none; name one"),
        (("--chronos_bolt.d_modle", "8"), "d_modle"),
        (("--chronos_bolt.d_model", "0"), r"sizes must be at least 1, .* found {'d_model': 0}"),
        (("--chronos_bolt.patch_length", "0"), r"sizes must be at least 1, .* found {'patch_length': 0}"),
        (("--chronos_bolt.quantile_levels", "[0.1,0.9]"), r"\(0.5,\) among them, found \(0.1, 0.9\)"),
        (("--chronos_bolt", "null", "--chronos_2.quantile_levels", "[0.1,0.5,0.9]"), r"0.8, 0.9\) among them"),
        (("--chronos_bolt", "null", "--chronos_t5.num_tokens", "4"), "num_tokens must be at least 5, .* found 4"),
        (("--chronos_bolt.dropout_rate", "1"), r"dropout_rate in \[0, 1\)"),
        (("--context_length", "0"), r"must be at least 1, found \(0, 16\)"),
        (("--lora.rank", "2"), "lora must have a checkpoint"),
        (("--max_cpu_seconds", "0"), "max_cpu_seconds must be positive, found 0"),
        (("--training.max_steps", "0"), "max_steps must be at least 1, found 0"),
        (("--training.learning_rate", "fast"), "learning_rate"),
        (("--chronos_bolt", "null", "--checkpoint", "./nowhere"), "nothing at './nowhere'"),
    ],
)
def test_bad_options_end_with_what_was_found(options, capsys, more, message):
    with pytest.raises(SystemExit) as ended:
        load_chronos_config([*options, *more])
    assert ended.value.code == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("name", ["chronos_t5", "chronos_bolt", "chronos_2", "chronos_2_lora"])
def test_every_committed_configuration_loads(name, pytestconfig, tmp_path):
    content = yaml.safe_load((pytestconfig.rootpath / "training" / "configs" / f"{name}.yaml").read_text())
    if "checkpoint" in content:
        content["checkpoint"] = str(tmp_path)  # the result of another run
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    config, _ = load_chronos_config(["--config", str(tmp_path / "config.yaml")])
    assert (config.context_length, config.prediction_length) == (512, 128)


def test_the_time_before_an_interruption_counts(tmp_path):
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    before = CpuBudget(1.0)
    before.used_seconds = 0.9
    state = TrainerState(stateful_callbacks=[before])
    state.save_to_json(str(tmp_path / "state.json"))
    budget, control = CpuBudget(1.0), TrainerControl()
    budget.on_train_begin(arguments, TrainerState.load_from_json(str(tmp_path / "state.json")), control)
    assert budget.used_seconds == 0.9
    budget.on_step_end(arguments, state, control)
    assert not control.should_training_stop
    begun = time.process_time()
    while time.process_time() - begun < 0.12:
        pass
    budget.on_step_end(arguments, state, control)
    assert control.should_training_stop
    budget.on_train_begin(arguments, TrainerState(), control)
    assert budget.used_seconds == 0
