"""Embeddings of one patch of a scaled series."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_dystformer import DystformerConfig


class LinearEmbedding(nn.Module):
    """One affine map of the patch."""

    def __init__(self, config: DystformerConfig):
        super().__init__()
        self.projection = nn.Linear(config.patch_length, config.d_model)

    def forward(self, patches: Tensor) -> Tensor:
        """(..., patch_length) -> (..., d_model)."""
        return self.projection(patches)


class DynamicsEmbedding(nn.Module):
    """The patch, random monomials of it and random Fourier features of it, mixed by one matrix.

        projection [patch, prod_j patch[i_j] of degree 2, 3, ..., sin(patch W + b), cos(patch W + b)]

    Index tuples, W and b are drawn once and are part of the checkpoint. Source: Panda (arXiv:2505.13755),
    where the tuples are missing from the checkpoint.
    """

    def __init__(self, config: DystformerConfig):
        super().__init__()
        self.rff_scale = config.rff_scale
        self.degrees = range(2, 2 + config.poly_degrees)
        for degree in self.degrees:
            indices = torch.zeros(config.num_poly_feats, degree, dtype=torch.long)
            self.register_buffer(f"indices_degree_{degree}", indices)
        num_frequencies = config.num_rff // 2
        frequencies, phases = torch.zeros(config.patch_length, num_frequencies), torch.zeros(num_frequencies)
        if config.rff_trainable:
            self.frequencies, self.phases = nn.Parameter(frequencies), nn.Parameter(phases)
        else:
            self.register_buffer("frequencies", frequencies)
            self.register_buffer("phases", phases)
        self.projection = nn.Linear(config.d_model, config.d_model, bias=False)
        self.patch_length = config.patch_length

    def draw_features(self) -> None:
        """Draw the index tuples, frequencies and phases anew from torch's global generator."""
        for degree in self.degrees:
            indices = getattr(self, f"indices_degree_{degree}")
            drawn = torch.randint(self.patch_length, indices.shape, device=indices.device)
            init.copy_(indices, drawn)
        init.normal_(self.frequencies, mean=0.0, std=self.rff_scale)
        init.normal_(self.phases, mean=0.0, std=1.0)

    def forward(self, patches: Tensor) -> Tensor:
        """(..., patch_length) -> (..., d_model)."""
        features = [patches]
        for degree in self.degrees:
            indices = getattr(self, f"indices_degree_{degree}")
            monomials = patches[..., indices[:, 0]]
            for column in range(1, degree):
                monomials = monomials * patches[..., indices[:, column]]
            features.append(monomials)
        angles = patches @ self.frequencies + self.phases
        features += [angles.sin(), angles.cos()]
        return self.projection(torch.cat(features, dim=-1))


class UnseenEmbedding(nn.Linear):
    """One linear map of which steps of a patch are unseen or masked (1) and which are not (0); 0 at first."""

    def __init__(self, config: DystformerConfig):
        super().__init__(config.patch_length, config.d_model, bias=False)
