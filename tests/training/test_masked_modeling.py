import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_tsdyn.models import MASKED_MODELING
from training import evaluate_checkpoint
from training.probe import verify_reload
from training.run_config import load_run_config
from training.train import main, prepare

Masked = MASKED_MODELING["dystformer"]


@pytest.fixture
def masked_options(run_options):
    return lambda *more, **names: run_options("--task", "masked_modeling", *more, **names)


def test_a_masked_model_is_trained_on_windows_without_a_future(masked_options, tmp_path):
    config, resolved = load_run_config(masked_options())
    trainer = prepare(config, resolved)
    assert resolved["task"] == "masked_modeling"
    assert set(trainer.train_dataset.__getitems__([0])) == {"past_values"}
    assert trainer.label_names == []
    main(masked_options(output="trained"))
    summary = json.loads((tmp_path / "trained" / "training_summary.json").read_text())
    assert summary["num_trainable_parameters"] == summary["num_parameters"]
    assert Masked.from_pretrained(tmp_path / "trained").config.architectures == [Masked.__name__]


def test_the_probe_is_a_completion_that_reloading_repeats(masked_options, tmp_path):
    main(masked_options())
    probe = load_file(tmp_path / "run" / "probe.safetensors")
    assert probe["past_values"].shape == probe["mask"].shape == probe["completion"].shape
    visible = ~probe["mask"]
    assert torch.equal(probe["completion"][visible], probe["past_values"][visible])
    assert not torch.equal(probe["completion"], probe["past_values"])
    model = Masked.from_pretrained(tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "training_summary.json").read_text())
    assert "bit-equal" in verify_reload(model, tmp_path / "run", summary)
    probe["completion"][0, 0, 0] += 1e-3
    save_file(probe, tmp_path / "run" / "probe.safetensors")
    with pytest.raises(RuntimeError, match=r"bit-equal, found differences up to 0\.001"):
        verify_reload(model, tmp_path / "run", summary)


def test_validation_hides_the_same_at_every_evaluation_and_leaves_the_training_s_draws_alone(masked_options):
    config, resolved = load_run_config(masked_options("--training.per_device_eval_batch_size", "3"))
    trainer = prepare(config, resolved)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    losses = [trainer.evaluate()["eval_loss"] for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    model = trainer.model.eval()
    torch.manual_seed(config.training.seed)
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in trainer.get_eval_dataloader():
            total += model(**batch).loss.item() * len(batch["past_values"])
            count += len(batch["past_values"])
    assert count == len(trainer.eval_dataset)
    assert losses == pytest.approx([total / count] * 2, rel=1e-6)


def test_a_stopped_run_resumes_to_the_same_weights(masked_options, stop_halfway, assert_equal_weights, tmp_path):
    main(masked_options(output="whole"))
    main(masked_options(output="stopped"))
    stop_halfway(tmp_path / "stopped")
    main(masked_options(output="stopped"))
    assert_equal_weights(tmp_path / "whole", tmp_path / "stopped")


def test_its_forecasts_are_not_scored(masked_options, tmp_path, capsys):
    main(masked_options())
    with pytest.raises(SystemExit):
        evaluate_checkpoint.main([str(tmp_path / "run")])
    assert f"must be a model that forecasts, found {Masked.__name__}" in capsys.readouterr().err
