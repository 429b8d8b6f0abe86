"""Forecasters by name, and what importing the adapters needs."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hf_tsdyn.adapters.loading import load_forecasters
from hf_tsdyn.baselines import ContextParroting, Persistence
from hf_tsdyn.models import DystformerConfig, DystformerForPrediction


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    sizes = {"d_model": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16, "patch_length": 4}
    config = DystformerConfig(context_length=16, prediction_length=8, num_poly_feats=4, num_rff=4, **sizes)
    DystformerForPrediction(config).save_pretrained(tmp_path / "small")
    return tmp_path / "small"


def test_baselines_and_checkpoints_come_by_name_in_the_order_asked_for(checkpoint: Path):
    found = load_forecasters(["parroting", str(checkpoint), "persistence"])
    assert list(found) == ["parroting", "small", "persistence"]
    assert isinstance(found["parroting"], ContextParroting)
    assert isinstance(found["persistence"], Persistence)
    past = torch.randn(1, 16, 2, generator=torch.Generator().manual_seed(0))
    expected = DystformerForPrediction.from_pretrained(checkpoint).forecast(past, prediction_length=3)
    torch.testing.assert_close(found["small"].forecast(past, prediction_length=3), expected, rtol=0, atol=0)


def test_unknown_and_repeated_names_are_refused(checkpoint: Path):
    with pytest.raises(ValueError, match=r"one of .*'persistence'.* found 'persistance'"):
        load_forecasters(["persistance"])
    with pytest.raises(ValueError, match="found 'persistence' twice"):
        load_forecasters(["persistence", "persistence"])
    with pytest.raises(ValueError, match="found 'small' twice"):
        load_forecasters([str(checkpoint), f"{checkpoint}/"])


def test_importing_the_adapters_imports_no_benchmark():
    program = (
        "import sys, hf_tsdyn.adapters, hf_tsdyn.adapters.gluonts, hf_tsdyn.adapters.fev_tasks as tasks\n"
        "assert 'gluonts' not in sys.modules and 'fev' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
