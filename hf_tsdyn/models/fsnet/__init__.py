"""The FSNet family: dilated convolutions that learn online, fast by calibration and slowly by gradients."""

from transformers import AutoConfig, AutoModel, AutoModelForTimeSeriesPrediction

from .configuration_fsnet import FSNetConfig
from .modeling_fsnet import FSNetForPrediction, FSNetModel, FSNetPreTrainedModel

AutoConfig.register(FSNetConfig.model_type, FSNetConfig, exist_ok=True)
AutoModel.register(FSNetConfig, FSNetModel, exist_ok=True)
AutoModelForTimeSeriesPrediction.register(FSNetConfig, FSNetForPrediction, exist_ok=True)

__all__ = ["FSNetConfig", "FSNetForPrediction", "FSNetModel", "FSNetPreTrainedModel"]
