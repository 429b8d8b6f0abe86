"""AL-RNN through the command that trains any architecture."""

import json

import numpy as np
import pytest
import torch

from hf_tsdyn import ALRNNForPrediction
from hf_tsdyn.results import EvaluationResults
from training import evaluate_checkpoint, train

CONFIG = "training/configs/alrnn_series.yaml"


@pytest.fixture
def options(tmp_path, request):
    """Options of a short run on two waves, some of whose values are unseen."""
    time = np.arange(3000) * 0.1
    waves = np.stack([3 * np.sin(time), np.cos(time) - 5], axis=1)
    waves[50:55, 0] = np.nan
    np.save(tmp_path / "waves.npy", waves)
    config = request.config.rootpath / CONFIG
    run = {
        "data.path": tmp_path / "waves.npy",
        "model.num_channels": 2,
        "model.hidden_size": 4,
        "model.prediction_length": 20,
        "model.noise_std": 0.0,
        "training.output_dir": tmp_path / "run",
        "training.max_steps": 200,
        "training.eval_steps": 100,
        "training.save_steps": 100,
        "training.learning_rate": 2e-2,
        "training.report_to": "none",
        "training.use_cpu": "true",
        "evaluation.protocol.num_windows": 4,
    }

    def build(**changes):
        given = run | {name.replace("__", "."): value for name, value in changes.items()}
        return ["--config", str(config), *(str(part) for name, value in given.items() for part in (f"--{name}", value))]

    return build


def test_it_learns_a_series_and_is_scored(options, tmp_path):
    train.main(options())
    summary = json.loads((tmp_path / "run" / "training_summary.json").read_text())
    assert summary["best_validation_loss"] < 0.02
    model = ALRNNForPrediction.from_pretrained(tmp_path / "run")
    assert model.config.channel_loc[1] == pytest.approx(-5, abs=0.05)
    assert model.config.channel_scale[0] == pytest.approx(3 / 2**0.5, rel=0.02)
    evaluate_checkpoint.main([str(tmp_path / "run")])
    results = EvaluationResults.read(tmp_path / "run" / "results.json")
    better = [row for row in results.differences if (row.metric, row.horizon) == ("normalised_mae", 16)]
    assert {row.baseline for row in better if row.median < 0} >= {"persistence", "mean"}
    card = (tmp_path / "run" / "README.md").read_text()
    assert "| channels | 2 |" in card
    assert "forced every 16 steps" in card


def test_the_card_s_example_runs(options, tmp_path, capsys):
    waves = np.load(tmp_path / "waves.npy")
    np.save(tmp_path / "three.npy", np.column_stack([waves, waves.sum(axis=1)]))
    three = {"data__path": tmp_path / "three.npy", "model__num_channels": 3}
    train.main(options(training__max_steps=1, training__eval_steps=1, training__save_steps=1, **three))
    evaluate_checkpoint.main([str(tmp_path / "run"), "--evaluation.model_id", str(tmp_path / "run")])
    (block,) = (tmp_path / "run" / "README.md").read_text().split("```python\n")[1:]
    exec(compile(block.split("```")[0], "card", "exec"), {})
    assert "(128, 3)" in capsys.readouterr().out.splitlines()[-1]


def test_an_exploding_loss_ends_the_run_with_its_step(options, capsys):
    with pytest.raises(SystemExit, match=r"loss must stay finite, found .* at step \d+"):
        train.main(options(training__learning_rate=1e12, training__max_grad_norm=0.0))


def test_other_channels_than_the_configuration_s_are_refused(options):
    with pytest.raises(SystemExit, match="the 3 channels of the configuration, found 2"):
        train.main(options(model__num_channels=3))


def test_a_resumed_model_keeps_its_scaler(options, tmp_path):
    train.main(options())
    moved = np.load(tmp_path / "waves.npy") * 2 + 7
    np.save(tmp_path / "moved.npy", moved)
    changes = {"checkpoint": tmp_path / "run", "data__path": tmp_path / "moved.npy"}
    changes |= {"training__output_dir": tmp_path / "second", "training__max_steps": 100}
    train.main(options(**changes))
    first, second = (ALRNNForPrediction.from_pretrained(tmp_path / name) for name in ("run", "second"))
    assert second.config.channel_loc == first.config.channel_loc
    assert not torch.equal(second.model.W, first.model.W)
