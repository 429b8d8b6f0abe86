import json
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from chronos import BaseChronosPipeline
from safetensors.torch import load_file

from hf_tsdyn.baselines.chronos import ChronosForecaster
from training.chronos_config import load_chronos_config
from training.finetune_chronos import main, prepare
from training.probe import verify_reload

SIZES = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "initializer_factor": 0.5}
OWN = {"chronos_t5": {"num_tokens": 64}, "chronos_bolt": {"patch_length": 8}, "chronos_2": {"patch_length": 8}}
FAMILIES = tuple(OWN)
ONE_FAMILY = [pytest.param(family, marks=[pytest.mark.slow] * (family != "chronos_bolt")) for family in OWN]
"""Where one family speaks for all in the default suite."""


def as_options(values, prefix):
    return [item for name, value in values.items() for item in (f"--{prefix}.{name}", str(value))]


@pytest.fixture
def run(oscillators, tmp_path):
    """A function that returns the options of a run of 8 steps on the oscillators, from new weights or a checkpoint."""

    def options(family, *more, output="run"):
        training = {
            "output_dir": tmp_path / output,
            "max_steps": 8,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "eval_strategy": "steps",
            "eval_steps": 4,
            "save_steps": 4,
            "logging_steps": 4,
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_loss",
            "disable_tqdm": True,
            "use_cpu": True,
        }
        lengths = ("--context_length", "64", "--prediction_length", "16")
        start = as_options(SIZES | OWN[family], family) if family in OWN else ["--checkpoint", str(family)]
        return [*start, *as_options(training, "training"), *lengths, "--data.path", str(oscillators), *more]

    return options


def build(options):
    return prepare(*load_chronos_config(options))


def forecast(forecaster, past_values, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return forecaster.forecast(past_values, prediction_length=40, generator=generator, **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_leaves_a_checkpoint_that_both_ways_of_loading_agree_on(run, tmp_path, capsys, generator, family):
    main(run(family))
    output = tmp_path / "run"
    summary = json.loads((output / "training_summary.json").read_text())
    assert (summary["model_type"], summary["steps"], summary["windows_seen"]) == (family, 8, 32)
    assert summary["train_systems"] == list("ABCDEF")
    assert 0 < summary["cpu_seconds"] <= summary["cpu_seconds_of_last_launch"] + 0.1
    official = BaseChronosPipeline.from_pretrained(output)
    ours = ChronosForecaster.from_pretrained(output)
    assert summary["num_parameters"] == ours.num_parameters() == official.inner_model.num_parameters()
    past_values = torch.randn(2, 64, 3, generator=generator)
    assert torch.equal(forecast(ours, past_values), forecast(ChronosForecaster(official), past_values))
    best = ChronosForecaster.from_pretrained(output / f"checkpoint-{summary['best_step']}")
    assert torch.equal(forecast(ours, past_values), forecast(best, past_values))
    assert "bit-equal" in verify_reload(ours, output, summary)
    assert load_file(output / "probe.safetensors")["forecast"].shape[1] == 40
    assert "checkpoint" in capsys.readouterr().out


@pytest.mark.parametrize("family", FAMILIES)
def test_the_trained_weights_are_those_that_come_back(run, tmp_path, generator, family):
    trainer = build(run(family))
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    loaded = ChronosForecaster.from_pretrained(tmp_path / "saved")
    past_values = torch.randn(2, 64, 2, generator=generator)
    expected = forecast(loaded, past_values)
    loaded.pipeline.inner_model.load_state_dict(trainer.model.state_dict())
    assert torch.equal(forecast(loaded, past_values), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_training_on_a_sine_lowers_the_loss(run, write_dataset, tmp_path, family):
    wave = np.sin(0.35 * np.arange(400.0))[None]
    rows = [{"target": wave, "split": split} for split in ("train", "validation")]
    data = write_dataset(tmp_path / "sine", rows)
    more = ("--training.max_steps", "60", "--data.path", str(data), f"--{family}.dropout_rate", "0")
    trainer = build(run(family, *more, "--training.eval_strategy", "no", "--training.load_best_model_at_end", "false"))
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert (
        trainer.evaluate()["eval_loss"] < {"chronos_t5": 0.85, "chronos_bolt": 0.6, "chronos_2": 0.6}[family] * before
    )


@pytest.mark.parametrize("family", ONE_FAMILY)
def test_a_stopped_run_resumes_to_the_same_weights(run, stop_halfway, assert_equal_weights, tmp_path, family):
    more = (
        "--data.augmentations.rate",
        "0.5",
        "--data.augmentations.weights",
        "{missing_points: 1, channel_subset: 1}",
    )
    main(run(family, *more, output="whole"))
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    stop_halfway(tmp_path / "stopped")
    main(run(family, *more, output="stopped"))
    assert_equal_weights(tmp_path / "whole", tmp_path / "stopped")


def test_a_finished_run_is_left_alone_and_another_is_refused(run, tmp_path, capsys):
    main(run("chronos_bolt"))
    before = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    main(run("chronos_bolt"))
    assert "finished" in capsys.readouterr().out
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(SystemExit, match=r"other settings of \['chronos_bolt.d_model'\]"):
        main(run("chronos_bolt", "--chronos_bolt.d_model", "32"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_loss_is_the_mean_over_what_is_seen(run, generator, family):
    trainer = build(run(family, f"--{family}.dropout_rate", "0"))
    windows = {"past_values": torch.randn(3, 64, 2, generator=generator)}
    windows["future_values"] = torch.randn(3, 16, 2, generator=generator)
    trainer.multivariate = False
    whole = trainer.compute_loss(trainer.model.eval(), windows)
    mask = torch.ones(3, 16, 2, dtype=torch.bool)
    mask[:, 8:] = False
    masked = windows | {"past_observed_mask": torch.ones(3, 64, 2, dtype=torch.bool), "future_observed_mask": mask}
    half = trainer.compute_loss(trainer.model, masked)
    other = masked | {"future_values": windows["future_values"].where(mask, torch.tensor(1e3))}
    if family != "chronos_t5":  # its decoder reads the target's earlier tokens
        rest = masked | {"future_observed_mask": ~mask}
        halves = (half + trainer.compute_loss(trainer.model, rest)) / 2
        torch.testing.assert_close(halves, whole)
    assert torch.equal(trainer.compute_loss(trainer.model, other), half)


def test_channels_without_spread_have_no_part_in_the_loss(run, generator):
    trainer = build(run("chronos_bolt", "--chronos_bolt.dropout_rate", "0"))
    trainer.model.eval()
    windows = {"past_values": torch.randn(3, 64, 1, generator=generator)}
    windows["future_values"] = torch.randn(3, 16, 1, generator=generator)
    constant = {name: torch.cat([values, torch.full_like(values, 3.0)], dim=2) for name, values in windows.items()}
    constant["future_values"][..., 1] = 1e4
    losses = [trainer.compute_loss(trainer.model, each) for each in (windows, constant)]
    torch.testing.assert_close(*losses)


def test_a_burst_counts_as_the_farthest_target(run, generator):
    trainer = build(run("chronos_bolt", "--chronos_bolt.dropout_rate", "0"))
    trainer.model.eval()
    past = torch.randn(3, 64, 1, generator=generator) + 5.0
    future = torch.full((3, 16, 1), 5.0)
    mean, std = past.mean(dim=1), past.std(dim=1, correction=0)
    losses = []
    for height in (1e6 * std, 15 * std, 14 * std):
        windows = {"past_values": past, "future_values": future.clone()}
        windows["future_values"][:, 7] = mean + height
        losses.append(trainer.compute_loss(trainer.model, windows))
    torch.testing.assert_close(losses[0], losses[1])
    assert losses[2] < losses[1]


def test_the_channels_of_chronos_2_see_each_other_in_training_as_the_option_says(run, generator):
    windows = {"past_values": torch.randn(2, 64, 2, generator=generator)}
    windows["future_values"] = torch.randn(2, 16, 2, generator=generator)
    trainer = build(run("chronos_2", "--chronos_2.dropout_rate", "0"))
    trainer.model.eval()
    alone = torch.stack(
        [trainer.compute_loss(trainer.model, {name: each[..., [c]] for name, each in windows.items()}) for c in (0, 1)]
    ).mean()
    assert (trainer.compute_loss(trainer.model, windows) - alone).abs() > 1e-4
    trainer.multivariate = False
    torch.testing.assert_close(trainer.compute_loss(trainer.model, windows), alone)


def test_an_adapter_is_trained_merged_and_saved_beside_the_model(run, tmp_path):
    main(run("chronos_2", output="start"))
    more = ("--lora.rank", "2", "--lora.dropout", "0.1")
    main(run(tmp_path / "start", *more, output="whole"))
    start, merged = (load_file(tmp_path / name / "model.safetensors") for name in ("start", "whole"))
    changed = {name for name in start if not torch.equal(start[name], merged[name])}
    assert changed == {
        name for name in start
        if name.startswith("output_patch_embedding") or re.search(r"self_attention\.[qkvo]|mlp\.w[io]", name)
    }  # fmt: skip
    assert (tmp_path / "whole" / "adapter" / "adapter_model.safetensors").is_file()
    summary = json.loads((tmp_path / "whole" / "training_summary.json").read_text())
    assert summary["num_trainable_parameters"] < summary["num_parameters"]
    forecaster = ChronosForecaster.from_pretrained(tmp_path / "whole")
    assert "bit-equal" in verify_reload(forecaster, tmp_path / "whole", summary)
    official = BaseChronosPipeline.from_pretrained(tmp_path / "whole")
    past_values = torch.sin(torch.arange(64.0)).reshape(1, 64, 1)
    assert torch.equal(forecast(forecaster, past_values), forecast(ChronosForecaster(official), past_values))


@pytest.mark.slow
def test_a_stopped_run_of_an_adapter_resumes_to_the_same_weights(run, stop_halfway, assert_equal_weights, tmp_path):
    build(run("chronos_2", output="start")).save_model(str(tmp_path / "start"))
    more = ("--lora.rank", "2", "--lora.dropout", "0.1")
    main(run(tmp_path / "start", *more, output="whole"))
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    stop_halfway(tmp_path / "stopped")
    main(run(tmp_path / "start", *more, output="stopped"))
    assert_equal_weights(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.parametrize(
    ("family", "lengths", "found"),
    [
        ("chronos_t5", (80, 24), (80, 24)),
        ("chronos_bolt", (80, 12), (80, 16)),
        ("chronos_2", (32, 20), (64, 24)),
    ],
)
def test_a_checkpoint_is_trained_on_with_other_lengths(run, tmp_path, family, lengths, found):
    build(run(family, output="start")).save_model(str(tmp_path / "start"))
    more = ("--context_length", str(lengths[0]), "--prediction_length", str(lengths[1]))
    trainer = build(run(tmp_path / "start", *more, "--training.max_steps", "1", output="more"))
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    pipeline = BaseChronosPipeline.from_pretrained(tmp_path / "saved")
    assert (pipeline.model_context_length, pipeline.model_prediction_length) == found
    assert (trainer.train_dataset.context_length, trainer.train_dataset.prediction_length) == lengths


@pytest.mark.parametrize(
    ("family", "more", "message"),
    [
        ("chronos_bolt", ("--prediction_length", "24"), "must be at most the 16 steps"),
        ("chronos_bolt", ("--lora.rank", "2"), "lora must adapt a Chronos-2 checkpoint, found one of .*'chronos_bolt'"),
        ("chronos_2", ("--lora.target_modules", "[qqq]"), r"must end names of linear maps, found \['qqq'\]"),
    ],
)
def test_what_a_checkpoint_cannot_do_is_refused(run, tmp_path, family, more, message):
    build(run(family, output="start")).save_model(str(tmp_path / "start"))
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        main(run(tmp_path / "start", *more, output="more"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--data.path", "nowhere"), "nowhere"),
        (("--data.fingerprint", "abc"), "fingerprint abc"),
    ],
)
def test_what_does_not_fit_ends_the_program(run, more, message):
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        main(run("chronos_2", *more))


def test_without_the_package_the_error_names_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "chronos", None)
    with pytest.raises(SystemExit, match=re.escape("pip install 'hf_tsdyn[chronos]'")):
        main(run("chronos_bolt"))


def test_a_run_ends_with_its_budget_and_keeps_its_last_step(run, tmp_path):
    main(run("chronos_bolt", "--training.max_steps", "100000", "--max_cpu_seconds", "0.3", "--training.eval_steps", "7",
             "--training.save_steps", "7"))  # fmt: skip
    summary = json.loads((tmp_path / "run" / "training_summary.json").read_text())
    assert 0.3 <= summary["cpu_seconds"] < 3
    assert summary["steps"] < 1000
    assert (tmp_path / "run" / f"checkpoint-{summary['steps']}" / "model.safetensors").is_file()
    state = json.loads((tmp_path / "run" / f"checkpoint-{summary['steps']}" / "trainer_state.json").read_text())
    assert [e["step"] for e in state["log_history"] if "eval_loss" in e][-1] == summary["steps"]


def test_a_checkpoint_in_another_format_is_refused(run, tmp_path):
    trainer = build(run("chronos_bolt", output="start"))
    trainer.model.config.save_pretrained(tmp_path / "pickled")
    torch.save(trainer.model.state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(SystemExit, match=r"error: .*model\.safetensors"):
        main(run(tmp_path / "pickled", output="more"))
