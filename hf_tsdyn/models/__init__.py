"""The architectures, one folder each; importing this registers them with the Auto classes."""

from .dystformer import DystformerConfig, DystformerForPrediction, DystformerModel

ARCHITECTURES = {DystformerConfig.model_type: DystformerForPrediction}
"""The forecasting model of each architecture, by `model_type`."""

__all__ = ["ARCHITECTURES", "DystformerConfig", "DystformerForPrediction", "DystformerModel"]
