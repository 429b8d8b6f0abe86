"""One tiny configuration of every architecture, for the tests that all of them must pass."""

import copy

import pytest
import torch
from safetensors.torch import save_file

from hf_tsdyn.models import ARCHITECTURES, ALRNNConfig, DynoNetConfig, DystformerConfig, FSNetConfig
from hf_tsdyn.models.alrnn.conversion_alrnn import CONVERSION
from hf_tsdyn.models.conversion_command import new_parser, run_command

TINY_CONFIGS = {
    "alrnn": ALRNNConfig(
        num_channels=3,
        hidden_size=12,
        num_relu_units=4,
        context_length=16,
        warmup_length=16,
        prediction_length=8,
        forcing_interval=3,
        noise_std=0.0,
    ),
    "dynonet": DynoNetConfig(
        num_channels=3,
        context_length=16,
        prediction_length=8,
        controller_hidden_size=12,
        worker_hidden_size=12,
        num_worker_layers=2,
        worker_context_length=16,
        trend_window=5,
        mixer_dropout=0.0,
        worker_dropout=0.0,
        gating="time_varying",
    ),
    "dystformer": DystformerConfig(
        context_length=64,
        prediction_length=8,
        d_model=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        ffn_dim=48,
        num_poly_feats=4,
        num_rff=8,
    ),
    "fsnet": FSNetConfig.from_preset(
        "ultra",
        num_channels=3,
        context_length=16,
        prediction_length=8,
        hidden_size=8,
        num_hidden_layers=2,
        representation_size=24,
        controller_size=12,
        num_memory_slots=6,
        head_dropout=0.0,
        controller_dropout=0.0,
        identity_start=True,
    ),
}


@pytest.fixture(params=sorted(ARCHITECTURES))
def model(request):
    """A freshly initialised model of each architecture in turn, in eval mode."""
    torch.manual_seed(0)
    return ARCHITECTURES[request.param](TINY_CONFIGS[request.param]).eval()


@pytest.fixture
def windows(model, generator):
    """A batch of the model's own lengths: past_values and future_values."""
    config = model.config
    channels = getattr(config, "num_channels", 3)
    values = torch.randn(3, config.context_length + config.prediction_length, channels, generator=generator).cumsum(1)
    return {
        "past_values": values[:, : config.context_length],
        "future_values": values[:, config.context_length :],
    }


@pytest.fixture
def in_other_units():
    """Return the model that is to values * factor + offset what `model` is to values: itself, if it scales windows."""

    def build(model, factor, offset):
        if not hasattr(model, "set_scaler"):
            return model
        moved = copy.deepcopy(model)
        backbone = getattr(model, model.base_model_prefix)
        moved.set_scaler((backbone.loc * factor + offset).tolist(), (backbone.scale * factor).tolist())
        return moved

    return build


@pytest.fixture
def source(tmp_path, generator):
    """Folder of a reference AL-RNN with four units and two channels."""
    folder, shapes = tmp_path / "source", {"A": (4,), "W": (4, 4), "h": (4,), "B": (2, 4)}
    folder.mkdir()
    state = {name: 0.3 * torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    save_file(state, folder / "reference_state.safetensors")
    (folder / "case.json").write_text('{"num_relu_units": 1}')
    return folder


@pytest.fixture
def run_conversion(monkeypatch):
    """A function that runs the conversion command of AL-RNN with arguments."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["conversion", *map(str, arguments)])
        run_command(CONVERSION, new_parser("alrnn", "Convert."))

    return run
