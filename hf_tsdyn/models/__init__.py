"""The architectures, one folder each; importing this registers them with the Auto classes."""

from .alrnn import ALRNNConfig, ALRNNForPrediction, ALRNNModel
from .dynonet import DynoNetConfig, DynoNetForPrediction, DynoNetModel
from .dystformer import DystformerConfig, DystformerForMaskedModeling, DystformerForPrediction, DystformerModel
from .fsnet import FSNetConfig, FSNetForPrediction, FSNetModel

ARCHITECTURES = {
    ALRNNConfig.model_type: ALRNNForPrediction,
    DynoNetConfig.model_type: DynoNetForPrediction,
    DystformerConfig.model_type: DystformerForPrediction,
    FSNetConfig.model_type: FSNetForPrediction,
}
"""The forecasting model of each architecture, by `model_type`."""

MASKED_MODELING = {DystformerConfig.model_type: DystformerForMaskedModeling}
"""The masked-modelling model, by `model_type`, of the architectures that have one."""

__all__ = [
    "ARCHITECTURES",
    "MASKED_MODELING",
    "ALRNNConfig",
    "ALRNNForPrediction",
    "ALRNNModel",
    "DynoNetConfig",
    "DynoNetForPrediction",
    "DynoNetModel",
    "DystformerConfig",
    "DystformerForMaskedModeling",
    "DystformerForPrediction",
    "DystformerModel",
    "FSNetConfig",
    "FSNetForPrediction",
    "FSNetModel",
]
