"""A Chronos checkpoint from a stranger is checked before a run starts from it."""

import json

import pytest
import torch
from safetensors.torch import save_file

from training.chronos_config import load_chronos_config
from training.chronos_models import build_start

SETTINGS = {
    "model_type": "t5",
    "architectures": ["T5ForConditionalGeneration"],
    "chronos_config": {"model_type": "seq2seq", "context_length": 64, "prediction_length": 16},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_attn_implementation": "evil/kernel"}, "must not decide what is loaded beside weights"),
        ({"d_model": 2**13, "d_ff": 2**14, "num_layers": 4}, "found weights of 4 values for a model of"),
        ({"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}, "custom code"),
    ],
)
def test_a_checkpoint_that_means_harm_is_refused(oscillators, tmp_path, monkeypatch, change, message):
    pytest.importorskip("chronos")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    save_file({"shared.weight": torch.zeros(4)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(SETTINGS | change))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'sentinel')!r}, 'w')")
    options = {
        "checkpoint": tmp_path,
        "data.path": oscillators,
        "training.output_dir": tmp_path / "run",
        "training.max_steps": 1,
    }
    config, _ = load_chronos_config([item for name, value in options.items() for item in (f"--{name}", str(value))])
    with pytest.raises(ValueError, match=message):
        build_start(config)
    assert not (tmp_path / "sentinel").exists()
