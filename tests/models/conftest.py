"""One tiny configuration of every architecture, for the tests that all of them must pass."""

import pytest
import torch

from hf_tsdyn.models import ARCHITECTURES, DystformerConfig

TINY_CONFIGS = {
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
    values = torch.randn(3, config.context_length + config.prediction_length, 3, generator=generator).cumsum(1)
    return {
        "past_values": values[:, : config.context_length],
        "future_values": values[:, config.context_length :],
    }
