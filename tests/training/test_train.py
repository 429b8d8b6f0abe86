import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hf_tsdyn import DystformerForPrediction
from training.run_config import load_run_config
from training.train import main, prepare


def test_a_run_leaves_the_best_checkpoint_its_settings_and_a_summary(
    run_options, assert_equal_weights, tmp_path, capsys
):
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


def test_one_seed_gives_one_checkpoint_whatever_the_number_of_workers(run_options, assert_equal_weights, tmp_path):
    main(run_options(output="a"))
    main(run_options("--training.dataloader_num_workers", "2", output="b"))
    main(run_options("--training.seed", "1", output="c"))
    assert_equal_weights(tmp_path / "a", tmp_path / "b")
    weights = [load_file(tmp_path / name / "model.safetensors")["head.projection.weight"] for name in "ac"]
    assert not torch.equal(*weights)


def test_a_stopped_run_resumes_to_the_same_weights(run_options, stop_halfway, assert_equal_weights, tmp_path):
    main(run_options(output="whole"))
    main(run_options(output="stopped"))
    stop_halfway(tmp_path / "stopped")
    main(run_options(output="stopped"))
    assert_equal_weights(tmp_path / "whole", tmp_path / "stopped")


def test_a_finished_run_is_left_alone(run_options, tmp_path, capsys):
    main(run_options())
    before = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    main(run_options())
    assert "finished" in capsys.readouterr().out
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == before


def test_a_checkpoint_cut_short_while_written_is_passed_over(run_options, assert_equal_weights, tmp_path):
    main(run_options(output="whole"))
    main(run_options(output="cut"))
    (tmp_path / "cut" / "training_summary.json").unlink()
    (tmp_path / "cut" / "checkpoint-8" / "trainer_state.json").unlink()
    main(run_options(output="cut"))
    assert_equal_weights(tmp_path / "whole", tmp_path / "cut")


def test_the_validation_loss_is_the_mean_over_windows_whatever_the_batches(run_options, tmp_path):
    losses = []
    for size in (3, 5, 64):
        config, resolved = load_run_config(
            run_options("--training.per_device_eval_batch_size", str(size), output=str(size))
        )
        trainer = prepare(config, resolved)
        losses.append(trainer.evaluate()["eval_loss"])
    model, windows = trainer.model.eval(), trainer.eval_dataset
    with torch.no_grad():
        alone = [model(**windows.__getitems__([index])).loss.item() for index in range(len(windows))]
    assert len({windows[index]["past_values"].shape[-1] for index in range(len(windows))}) == 2
    assert losses == pytest.approx([sum(alone) / len(alone)] * 3, rel=1e-5)


def test_a_run_without_validation_keeps_its_last_step(run_options, assert_equal_weights, tmp_path, capsys):
    options = ("--training.load_best_model_at_end", "false", "--training.eval_strategy", "no")
    main(run_options(*options, "--training.metric_for_best_model", "null"))
    assert "of 8 steps the last one" in capsys.readouterr().out
    assert_equal_weights(tmp_path / "run", tmp_path / "run" / "checkpoint-8")


def test_the_record_of_a_run_repeats_it_and_refuses_other_data(
    run_options, assert_equal_weights, tmp_path, write_dataset
):
    main(run_options())
    record = ["--config", str(tmp_path / "run" / "run_config.yaml"), "--training.output_dir", str(tmp_path / "again")]
    main(record)
    assert_equal_weights(tmp_path / "run", tmp_path / "again")
    wave = np.sin(np.arange(400.0))[None]
    rows = [{"target": wave, "split": split} for split in ("train", "validation")]
    other = write_dataset(tmp_path / "other", rows)
    with pytest.raises(SystemExit, match="must hold the dataset of fingerprint"):
        main([*record, "--data.path", str(other)])


def test_augmented_and_accumulated_training_runs(run_options, tmp_path):
    main(
        run_options(
            "--data.augmentations.rate", "0.5", "--training.gradient_accumulation_steps", "2",
            "--training.activation_checkpointing", "true",
        )
    )  # fmt: skip
    summary = json.loads((tmp_path / "run" / "training_summary.json").read_text())
    assert summary["windows_seen"] == 64


@pytest.mark.parametrize("max_steps", ["-1", "0"])
def test_a_run_that_is_not_measured_in_steps_is_refused(run_options, max_steps):
    with pytest.raises(SystemExit, match=rf"max_steps must be at least 1, found {max_steps}"):
        main(run_options("--training.max_steps", max_steps))


def test_validation_windows_lie_a_stride_apart(run_options):
    most = ("--data.validation_windows_per_trajectory", "1000")
    starts = {}
    for stride in ("null", "7"):
        config, resolved = load_run_config(run_options(*most, "--data.validation_stride", stride, output=stride))
        windows = prepare(config, resolved).eval_dataset
        rows, found = windows.locate(np.arange(len(windows)))
        starts[stride] = found[rows == 0].tolist()
    assert starts["null"] == list(range(0, 400 - 80 + 1, 32))
    assert starts["7"] == list(range(0, 400 - 80 + 1, 7))


def test_a_dataset_that_is_not_there_is_named(run_options, tmp_path):
    with pytest.raises(SystemExit, match=r"error: .*nowhere"):
        main(run_options("--data.path", str(tmp_path / "nowhere")))


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_weights_of_an_uninterrupted_one(
    run_options, train_with_a_kill, assert_equal_weights, tmp_path
):
    more = ("--training.max_steps", "120")
    main(run_options(*more, output="whole"))
    train_with_a_kill(run_options(*more, output="killed"), tmp_path / "killed")
    assert_equal_weights(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
def test_two_processes_train_one_model(run_options, train_in_two_processes, tmp_path):
    train_in_two_processes(run_options(), port=29531)
    summary = json.loads((tmp_path / "run" / "training_summary.json").read_text())
    assert summary["windows_seen"] == 8 * 2 * 2


def test_a_run_is_resumed_by_as_many_processes_as_began_it(run_options, stop_halfway, tmp_path):
    main(run_options())
    stop_halfway(tmp_path / "run")
    (newest,) = tmp_path.glob("run/checkpoint-*")
    (newest / "rng_state.pth").rename(newest / "rng_state_0.pth")
    (newest / "rng_state_1.pth").write_bytes((newest / "rng_state_0.pth").read_bytes())
    with pytest.raises(SystemExit, match="found 1 now and 2 in"):
        main(run_options())
