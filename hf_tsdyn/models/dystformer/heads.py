"""What dystformer's heads make of hidden states; all in scaled units."""

from __future__ import annotations

from torch import Tensor, nn

from .configuration_dystformer import DystformerConfig


class DystformerPredictionHead(nn.Module):
    """Pool over patches, then one linear map to the block, shared by all channels."""

    def __init__(self, config: DystformerConfig, num_outputs: int):
        super().__init__()
        self.pooling_type = config.pooling_type
        self.num_outputs = num_outputs
        self.dropout = nn.Dropout(config.head_dropout)
        self.projection = nn.Linear(config.d_model, config.prediction_length * num_outputs, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(batch, channels, patches, d_model) -> (batch, prediction_length, channels, num_outputs)."""
        if self.pooling_type == "mean":
            pooled = hidden_states.mean(dim=2)
        elif self.pooling_type == "max":
            pooled = hidden_states.amax(dim=2)
        else:
            pooled = hidden_states[:, :, -1]
        return self.projection(self.dropout(pooled)).unflatten(-1, (-1, self.num_outputs)).transpose(1, 2)


class DystformerMaskedHead(nn.Module):
    """One linear map from each patch's hidden state back to its values."""

    def __init__(self, config: DystformerConfig):
        super().__init__()
        self.dropout = nn.Dropout(config.head_dropout)
        self.projection = nn.Linear(config.d_model, config.patch_length)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(batch, channels, patches, d_model) -> (batch, patches * patch_length, channels)."""
        return self.projection(self.dropout(hidden_states)).flatten(2).transpose(1, 2)
