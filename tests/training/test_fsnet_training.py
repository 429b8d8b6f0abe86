"""Members of the FSNet family in training: presets in run configurations, and the state that offline steps move."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hf_tsdyn.models.fsnet import FSNetConfig, FSNetForPrediction
from hf_tsdyn.models.fsnet.presets import PRESETS
from training import train
from training.model_config import build_model_config
from training.window_trainer import WindowTrainer

SIZES = {"num_channels": 2, "context_length": 24, "prediction_length": 8, "hidden_size": 4, "num_hidden_layers": 2,
         "representation_size": 8}  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS)
def test_a_run_configuration_names_a_preset(preset):
    fields = {"model_type": "fsnet", "preset": preset}
    assert build_model_config(fields).to_dict() == FSNetConfig.from_preset(preset).to_dict()
    changed = build_model_config(fields | {"num_channels": 3, "num_memory_slots": 7})
    assert changed.to_dict() == FSNetConfig.from_preset(preset, num_channels=3, num_memory_slots=7).to_dict()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "fsnet", "preset": "super"}, "preset must be one of .* found 'super'"),
        ({"model_type": "fsnet", "preset": "ultra", "num_slots": 3}, "found 'num_slots'"),
        ({"model_type": "fsnet", "preset": "ultra", "num_memory_heads": 7}, "num_memory_heads must divide"),
        ({"model_type": "dynonet", "preset": "ultra"}, "found 'preset'"),
    ],
)
def test_presets_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        build_model_config(fields)


@pytest.fixture
def run(start_options, tmp_path):
    """A function of model fields that trains eight offline steps, and returns the model and its start's memory."""
    waves = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32)
    np.save(tmp_path / "waves.npy", waves)

    def trained(**fields):
        given = {"model_type": "fsnet", "trigger_threshold": 1.0} | SIZES | fields
        options = [part for name, value in given.items() for part in (f"--model.{name}", str(value))]
        train.main(start_options(*options, "--data.path", str(tmp_path / "waves.npy"),
                                 "--training.load_best_model_at_end", "false"))  # fmt: skip
        return FSNetForPrediction.from_pretrained(tmp_path / "run")

    return trained


@pytest.mark.parametrize("preset", ["published", "ultra"])
def test_offline_training_moves_averages_and_leaves_the_memory(run, preset):
    model = run(preset=preset)
    assert all(getattr(model.config, name) == value for name, value in PRESETS[preset].items())
    for bank in model.banks:
        averages, slots = bank.calibration.averages, bank.calibration.memory.slots
        assert averages.num_steps == 8
        assert averages.slow.any()
        assert averages.fast.any()
        assert not averages.trigger.any()
        assert (averages.threshold == 1.0).all()
        assert bank.calibration.has_query
        norms = torch.linalg.vector_norm(slots, dim=(1, 2))  # written slots would be shorter
        torch.testing.assert_close(norms, torch.ones_like(norms), atol=1e-6, rtol=0)


def test_training_with_memory_sets_triggers_and_writes(run):
    model = run(preset="fixed", memory_in_training="true")
    for bank in model.banks:
        assert bank.calibration.averages.trigger.all()
        assert (torch.linalg.vector_norm(bank.calibration.memory.slots, dim=(1, 2)) < 0.999).all()


def test_half_precision_whose_gradients_are_scaled_is_refused():
    model = FSNetForPrediction(FSNetConfig(**SIZES))
    with pytest.raises(ValueError, match=r"'fsnet', .* must be trained in float32 or bfloat16, found fp16"):
        WindowTrainer(model=model, args=SimpleNamespace(fp16=True))


def test_training_a_plain_network_keeps_no_state(run):
    assert not [name for name, _ in run(preset="tcn").named_buffers()]
