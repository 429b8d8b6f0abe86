import json

import pytest
import torch
from safetensors.torch import load_file

from training.run_config import load_run_config
from training.train import main, prepare
from training.weight_averaging import AveragedWeights, WeightAveraging

AVERAGING = ("--weight_averaging.decay", "0.8", "--weight_averaging.start_step", "3")


@pytest.fixture
def layer():
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    return layer


def walk(layer, average, generator, steps):
    """Change the weights step by step and return them after each."""
    history = []
    for step in steps:
        layer.weight.data += torch.randn(2, 3, generator=generator)
        average.update(step)
        history.append(layer.weight.detach().clone())
    return history


def test_the_average_is_exponential_from_the_start_step_on(layer, generator):
    average = AveragedWeights(WeightAveraging(decay=0.7, start_step=3), layer)
    weights = walk(layer, average, generator, range(1, 8))
    expected = weights[2]
    for each in weights[3:]:
        expected = 0.7 * expected + 0.3 * each
    with average.in_place():
        torch.testing.assert_close(layer.weight.detach(), expected)
    assert torch.equal(layer.weight, weights[-1])


def test_before_its_start_there_is_nothing_to_put_in_place(layer, generator, tmp_path):
    average = AveragedWeights(WeightAveraging(start_step=3), layer)
    weights = walk(layer, average, generator, range(1, 3))
    with average.in_place():
        assert torch.equal(layer.weight, weights[-1])
    average.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_trainings_weights_come_back_after_an_error(layer, generator):
    average = AveragedWeights(WeightAveraging(), layer)
    weights = walk(layer, average, generator, range(1, 4))

    def fail():
        with average.in_place():
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(layer.weight, weights[-1])


@pytest.mark.parametrize("fields", [{"decay": 1.0}, {"decay": -0.1}, {"start_step": 0}])
def test_options_out_of_range_are_refused(fields):
    with pytest.raises(ValueError, match=r"decay in \[0, 1\) and a start_step of at least 1, found"):
        WeightAveraging(**fields)


def test_an_average_that_would_never_begin_is_refused(run_options, tmp_path):
    with pytest.raises(SystemExit, match=r"start_step must be at most training\.max_steps, 8, found 9"):
        main(run_options("--weight_averaging.start_step", "9"))
    assert not (tmp_path / "run").exists()
    WeightAveraging(start_step=9).check_begins(9)
    WeightAveraging(start_step=9).check_begins(0)


def test_a_best_checkpoint_before_the_last_is_what_remains(run_options, assert_equal_weights, tmp_path):
    diverging = ("--training.learning_rate", "1.0", "--training.lr_scheduler_type", "constant")
    main(run_options("--weight_averaging.decay", "0.5", *diverging))
    assert json.loads((tmp_path / "run" / "training_summary.json").read_text())["best_step"] == 4
    assert_equal_weights(tmp_path / "run", tmp_path / "run" / "checkpoint-4")


def test_what_is_validated_and_saved_is_the_average(run_options, start_options, tmp_path):
    main(run_options(*AVERAGING, output="run"))
    main(run_options(output="plain"))
    for step in (4, 8):
        checkpoint = tmp_path / "run" / f"checkpoint-{step}"
        average, training = (
            load_file(checkpoint / name) for name in ("model.safetensors", "training_weights.safetensors")
        )
        plain = load_file(tmp_path / "plain" / f"checkpoint-{step}" / "model.safetensors")
        assert all(torch.equal(training[name], plain[name]) for name in training)
        assert all(torch.equal(average[name], plain[name]) for name in training) is False
    summary = json.loads((tmp_path / "run" / "training_summary.json").read_text())
    trainer = prepare(*load_run_config(start_options("--checkpoint", str(tmp_path / "run"), output="again")))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(summary["best_validation_loss"], rel=1e-6)


def test_without_a_best_checkpoint_the_last_average_remains(run_options, assert_equal_weights, tmp_path):
    options = ("--training.load_best_model_at_end", "false", "--training.eval_strategy", "no")
    main(run_options(*AVERAGING, *options, "--training.metric_for_best_model", "null"))
    assert_equal_weights(tmp_path / "run", tmp_path / "run" / "checkpoint-8")


def test_an_average_that_forgets_at_once_is_the_plain_run(run_options, assert_equal_weights, tmp_path):
    main(run_options("--weight_averaging.decay", "0", output="forgetful"))
    main(run_options(output="plain"))
    assert_equal_weights(tmp_path / "forgetful", tmp_path / "plain")


@pytest.mark.parametrize("start_step", ["2", "6"])
def test_a_stopped_run_resumes_to_the_same_average(
    run_options, stop_halfway, assert_equal_weights, tmp_path, start_step
):
    averaging = ("--weight_averaging.decay", "0.8", "--weight_averaging.start_step", start_step)
    main(run_options(*averaging, output="whole"))
    main(run_options(*averaging, output="stopped"))
    stop_halfway(tmp_path / "stopped")
    main(run_options(*averaging, output="stopped"))
    assert_equal_weights(tmp_path / "whole", tmp_path / "stopped")
    for name in ("model.safetensors", "training_weights.safetensors"):
        one, other = (load_file(tmp_path / run / "checkpoint-8" / name) for run in ("whole", "stopped"))
        assert all(torch.equal(one[key], other[key]) for key in one)
