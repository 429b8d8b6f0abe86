import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from hf_tsdyn.models.dynonet import DynoNetForPrediction
from training.run_config import load_run_config
from training.train import main, prepare


@pytest.fixture
def options_of_run(start_options, dynonet_options, waves):
    """Command-line options of a bilevel run on the waves."""

    def options(*more, output="run", data=waves):
        fixed = ("--data.path", str(data), "--bilevel.controller_learning_rate", "0.01")
        return start_options(*fixed, *dynonet_options, "--training.weight_decay", "1e-2", *more, output=output)

    return options


def test_a_stopped_run_resumes_to_the_same_weights(options_of_run, stop_halfway, assert_equal_weights, tmp_path):
    more = ("--weight_averaging.decay", "0.7", "--training.logging_steps", "1")
    main(options_of_run(*more, output="whole"))
    main(options_of_run(*more, output="stopped"))
    stop_halfway(tmp_path / "stopped")
    main(options_of_run(*more, output="stopped"))
    assert_equal_weights(tmp_path / "whole", tmp_path / "stopped")
    one, other = (
        load_file(tmp_path / name / "checkpoint-8" / "training_weights.safetensors") for name in ("whole", "stopped")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    logs = [(tmp_path / name / "signals.json").read_bytes() for name in ("whole", "stopped")]
    assert logs[0] == logs[1]
    assert json.loads(logs[0])["steps"] == list(range(9))


def write_waves(file, poisoned, value):
    """A CSV file of 800 hours, of which the validation split begins at 560 and the test split at 680."""
    steps = np.arange(800)
    values = np.stack([np.sin(0.3 * steps), np.cos(0.2 * steps)], axis=1)
    values[poisoned] = value
    frame = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=800, freq="h"), "u": values[:, 0]})
    frame.assign(v=values[:, 1]).to_csv(file, index=False)
    return file


def test_a_poisoned_test_split_goes_unnoticed(options_of_run, assert_equal_weights, tmp_path):
    for name, value in (("clean", 0.0), ("poisoned", 1e30)):
        file = write_waves(tmp_path / f"{name}.csv", slice(680, None), value)
        main(options_of_run(output=name, data=file))
    assert_equal_weights(tmp_path / "clean", tmp_path / "poisoned")
    losses = [json.loads((tmp_path / name / "training_summary.json").read_text()) for name in ("clean", "poisoned")]
    assert losses[0]["best_validation_loss"] == losses[1]["best_validation_loss"]


def test_the_validation_split_selects_and_does_nothing_else(options_of_run, assert_equal_weights, tmp_path):
    for name, value in (("clean", 0.3), ("other", 100.0)):
        file = write_waves(tmp_path / f"{name}.csv", slice(600, 620), value)
        main(options_of_run(output=name, data=file))
    for step in (4, 8):
        assert_equal_weights(tmp_path / "clean" / f"checkpoint-{step}", tmp_path / "other" / f"checkpoint-{step}")
    losses = [json.loads((tmp_path / name / "training_summary.json").read_text()) for name in ("clean", "other")]
    assert losses[0]["best_validation_loss"] < losses[1]["best_validation_loss"]


def test_a_model_without_a_controller_is_refused(run_options, tmp_path):
    with pytest.raises(SystemExit, match="bilevel must train a model with a controller, found 'dystformer'"):
        main(run_options("--bilevel.mode", "first_order"))
    assert not (tmp_path / "run").exists()


def test_the_scaler_and_the_specialists_know_all_training_steps(options_of_run):
    more = ("--model.specialists", '[{"kind": "low_rank", "rank": 2}]', "--training.max_steps", "0")
    seen = []
    for mode in ("lookahead", "none"):
        trainer = prepare(*load_run_config(options_of_run(*more, "--bilevel.mode", mode, output=mode)))
        config = trainer.model.config
        specialists = [each.clone() for each in trainer.model.model.specialists.state_dict().values()]
        seen.append((config.channel_loc, config.channel_scale, specialists))
        assert trainer.closed_form_seconds is not None
    assert seen[0][:2] == seen[1][:2]
    assert all(torch.equal(one, other) for one, other in zip(seen[0][2], seen[1][2], strict=True))


def test_a_closed_form_is_a_run_of_no_steps(options_of_run, tmp_path, capsys):
    more = ("--model.specialists", '[{"kind": "low_rank", "rank": 2}]', "--model.num_worker_layers", "0")
    more += ("--model.trend_head", "false", "--model.channel_mixer", "false", "--bilevel", "null")
    main(options_of_run(*more, "--training.max_steps", "0"))
    summary = json.loads((tmp_path / "run" / "training_summary.json").read_text())
    assert (summary["steps"], summary["best_step"], summary["windows_seen"]) == (0, 0, 0)
    assert summary["closed_form_cpu_seconds"] >= 0
    probe = load_file(tmp_path / "run" / "probe.safetensors")
    model = DynoNetForPrediction.from_pretrained(tmp_path / "run")
    assert torch.equal(model.forecast(probe["past_values"], prediction_length=20), probe["forecast"])
    assert "(of 0 steps number 0, validation loss" in capsys.readouterr().out
    main(options_of_run(*more, "--training.max_steps", "0", "--closed_form_start", "false", output="unfitted"))
    unfitted = json.loads((tmp_path / "unfitted" / "training_summary.json").read_text())
    assert "closed_form_cpu_seconds" not in unfitted
    assert summary["best_validation_loss"] < unfitted["best_validation_loss"]


def test_frozen_parameters_stay_and_what_is_none_is_named(options_of_run, tmp_path):
    specialists = ("--model.specialists", '[{"kind": "periodic", "period": 4}]', "--model.trend_head", "false")
    config, resolved = load_run_config(options_of_run(*specialists, "--frozen", '["model.specialists"]'))
    trainer = prepare(config, resolved)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    moved = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert not any(name.startswith("model.specialists") for name in moved)
    config, resolved = load_run_config(options_of_run("--frozen", '["model.specialist."]', output="other"))
    with pytest.raises(ValueError, match=r"found 'model\.specialist\.', which none has"):
        prepare(config, resolved)


def test_the_meta_windows_do_not_repeat_the_training_windows(options_of_run):
    config, resolved = load_run_config(options_of_run("--data.augmentations.rate", "0.5"))
    trainer = prepare(config, resolved)
    train, meta = trainer.train_dataset, trainer.meta_windows
    assert train.augmentations is not None
    assert meta.augmentations is None
    starts = [windows.locate(np.arange(2000))[1] for windows in (train, meta)]
    assert abs(np.corrcoef(*starts)[0, 1]) < 0.1


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        ('["model"]', r"frozen must leave something to train, found \['model'\]"),
        ('["model.workers", "model.trend", "model.mixer", "model.norm"]', "bilevel must have something to train"),
    ],
)
def test_a_run_that_would_train_nothing_is_refused(options_of_run, tmp_path, frozen, message):
    with pytest.raises(SystemExit, match=message):
        main(options_of_run("--frozen", frozen, "--bilevel.controller_learning_rate", "0"))
    assert not (tmp_path / "run").exists()


def test_a_frozen_controller_is_one_of_rate_0(options_of_run, assert_equal_weights, tmp_path):
    main(options_of_run("--frozen", '["model.controller"]', output="frozen"))
    main(options_of_run("--bilevel.controller_learning_rate", "0", output="rate_0"))
    assert_equal_weights(tmp_path / "frozen", tmp_path / "rate_0")


def test_a_fold_of_a_series_carves_its_meta_split_in_time(options_of_run):
    fold = ("--data.fold.num_folds", "2", "--data.fold.fold_length", "40", "--data.fold.index", "0")
    config, resolved = load_run_config(options_of_run(*fold))
    trainer = prepare(config, resolved)
    front, meta = trainer.train_dataset.trajectories, trainer.meta_windows.trajectories
    whole = config.data.open("train", 32).values(0)
    np.testing.assert_array_equal(np.concatenate([front.values(0), meta.values(0)[:, 32:]], axis=1), whole)
