"""AL-RNN: an almost-linear recurrent network that reconstructs a dynamical system from a series of it."""

from transformers import AutoConfig, AutoModel, AutoModelForTimeSeriesPrediction

from .configuration_alrnn import ALRNNConfig
from .modeling_alrnn import ALRNNForPrediction, ALRNNModel, ALRNNPreTrainedModel

AutoConfig.register(ALRNNConfig.model_type, ALRNNConfig, exist_ok=True)
AutoModel.register(ALRNNConfig, ALRNNModel, exist_ok=True)
AutoModelForTimeSeriesPrediction.register(ALRNNConfig, ALRNNForPrediction, exist_ok=True)

__all__ = ["ALRNNConfig", "ALRNNForPrediction", "ALRNNModel", "ALRNNPreTrainedModel"]
