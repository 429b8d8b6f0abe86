"""DynoNet: a controller that modulates one small forecaster a channel, and weighs specialists against each other."""

from transformers import AutoConfig, AutoModel, AutoModelForTimeSeriesPrediction

from .configuration_dynonet import DynoNetConfig
from .modeling_dynonet import DynoNetForPrediction, DynoNetModel, DynoNetPreTrainedModel

AutoConfig.register(DynoNetConfig.model_type, DynoNetConfig, exist_ok=True)
AutoModel.register(DynoNetConfig, DynoNetModel, exist_ok=True)
AutoModelForTimeSeriesPrediction.register(DynoNetConfig, DynoNetForPrediction, exist_ok=True)

__all__ = ["DynoNetConfig", "DynoNetForPrediction", "DynoNetModel", "DynoNetPreTrainedModel"]
