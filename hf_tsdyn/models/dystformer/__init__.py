"""Dystformer: PatchTST with channel mixing, for chaotic dynamical systems."""

from transformers import AutoConfig, AutoModel, AutoModelForTimeSeriesPrediction

from .configuration_dystformer import DystformerConfig
from .modeling_dystformer import (
    DystformerForMaskedModeling,
    DystformerForPrediction,
    DystformerModel,
    DystformerPreTrainedModel,
)

AutoConfig.register(DystformerConfig.model_type, DystformerConfig, exist_ok=True)
AutoModel.register(DystformerConfig, DystformerModel, exist_ok=True)
AutoModelForTimeSeriesPrediction.register(DystformerConfig, DystformerForPrediction, exist_ok=True)

__all__ = [
    "DystformerConfig",
    "DystformerForMaskedModeling",
    "DystformerForPrediction",
    "DystformerModel",
    "DystformerPreTrainedModel",
]
