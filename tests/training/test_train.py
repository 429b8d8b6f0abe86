import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_tsdyn import DystformerForPrediction
from training.train import main


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def assert_equal_weights(one, other):
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_leaves_the_best_checkpoint_its_settings_and_a_summary(run_options, tmp_path, capsys):
    main(run_options())
    output = tmp_path / "run"
    summary = json.loads((output / "training_summary.json").read_text())
    assert summary["steps"] == 8
    assert summary["windows_seen"] == 32
    assert summary["train_systems"] == list("ABCDEF")
    assert summary["validation_systems"] == list("GH")
    state = json.loads((output / f"checkpoint-{summary['best_step']}" / "trainer_state.json").read_text())
    losses = {entry["step"]: entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry}
    assert summary["best_validation_loss"] == min(losses.values())
    assert_equal_weights(output, output / f"checkpoint-{summary['best_step']}")
    probe = load_file(output / "probe.safetensors")
    forecast = DystformerForPrediction.from_pretrained(output).forecast(probe["past_values"], prediction_length=40)
    assert torch.equal(forecast, probe["forecast"])
    assert f"checkpoint: {output}" in capsys.readouterr().out


def test_one_seed_gives_one_checkpoint_whatever_the_number_of_workers(run_options, tmp_path):
    main(run_options(output="a"))
    main(run_options("--training.dataloader_num_workers", "2", output="b"))
    main(run_options("--training.seed", "1", output="c"))
    assert_equal_weights(tmp_path / "a", tmp_path / "b")
    assert not torch.equal(*(weights(tmp_path / name)["head.projection.weight"] for name in "ac"))


def test_a_stopped_run_resumes_to_the_same_weights(run_options, tmp_path):
    main(run_options(output="whole"))
    main(run_options(output="stopped"))
    stopped = tmp_path / "stopped"
    for name in ("training_summary.json", "model.safetensors", "probe.safetensors"):
        (stopped / name).unlink()
    subprocess.run(["rm", "-r", str(stopped / "checkpoint-8")], check=True)
    main(run_options(output="stopped"))
    assert_equal_weights(tmp_path / "whole", stopped)


def test_a_finished_run_is_left_alone(run_options, tmp_path, capsys):
    main(run_options())
    before = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    main(run_options())
    assert "finished" in capsys.readouterr().out
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == before


def test_training_starts_from_a_checkpoint_with_changed_settings(run_options, tmp_path):
    main(run_options(output="first"))
    arguments = run_options(output="second")
    without_model = [
        item
        for name, value in zip(arguments[::2], arguments[1::2], strict=True)
        if not name.startswith("--model.")
        for item in (name, value)
    ]
    options = ["--checkpoint", str(tmp_path / "first"), "--model", '{"loss": "mae"}', "--training.learning_rate", "0.0"]
    main([*without_model, *options])
    assert_equal_weights(tmp_path / "first", tmp_path / "second")
    assert DystformerForPrediction.from_pretrained(tmp_path / "second").config.loss == "mae"


def test_augmented_and_accumulated_training_runs(run_options, tmp_path):
    main(
        run_options(
            "--data.augmentations.rate", "0.5", "--training.gradient_accumulation_steps", "2",
            "--training.activation_checkpointing", "true",
        )
    )  # fmt: skip
    summary = json.loads((tmp_path / "run" / "training_summary.json").read_text())
    assert summary["windows_seen"] == 64


def test_a_run_measured_in_epochs_is_refused(run_options):
    with pytest.raises(ValueError, match=r"max_steps must be at least 1, found -1"):
        main(run_options("--training.max_steps", "-1"))


def test_a_dataset_that_is_not_there_is_named(run_options, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        main(run_options("--data.path", str(tmp_path / "nowhere")))


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_weights_of_an_uninterrupted_one(run_options, tmp_path):
    more = ("--training.max_steps", "120")
    main(run_options(*more, output="whole"))
    command = [sys.executable, "-m", "training.train", *run_options(*more, output="killed")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / "checkpoint-20").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "training_summary.json").exists()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert_equal_weights(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
def test_two_processes_train_one_model(run_options, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29531"]
    options = run_options("--training.ddp_backend", "gloo", "--training.per_device_train_batch_size", "2")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, "-m", "training.train", *options], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads((tmp_path / "run" / "training_summary.json").read_text())
    assert summary["windows_seen"] == 8 * 2 * 2
