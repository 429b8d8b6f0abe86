"""Models, data and evaluation for learning dynamical systems from time series.

Importing this package registers every architecture with transformers' Auto classes.
"""

from .forecasting import Forecaster, ForecastOutput
from .models import (
    ALRNNConfig,
    ALRNNForPrediction,
    ALRNNModel,
    DynoNetConfig,
    DynoNetForPrediction,
    DynoNetModel,
    DystformerConfig,
    DystformerForMaskedModeling,
    DystformerForPrediction,
    DystformerModel,
    FSNetConfig,
    FSNetForPrediction,
    FSNetModel,
)
from .pipeline import ForecastPipeline

__all__ = [
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
    "ForecastOutput",
    "ForecastPipeline",
    "Forecaster",
]
