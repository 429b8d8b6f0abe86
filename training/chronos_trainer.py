"""The Trainer of Chronos models: every batch of windows as each family takes it, channel by channel."""

import math
from typing import Any, cast

import torch
from torch import Tensor

from hf_tsdyn.baselines.chronos import Family
from training.window_trainer import WindowTrainer

LEAST_SPREAD = 1e-6
"""Of a channel's context, relative to its magnitude; errors are not measured in units of a smaller one."""
FARTHEST_TARGET = 15.0
"""Standard deviations of its context that a target of Bolt is taken to lie from the mean at most: as far as the bins of
T5 reach. A channel that bursts after resting would outweigh all others of its batch a million times; Chronos-2 takes
the inverse hyperbolic sine of its targets instead."""


class ChronosTrainer(WindowTrainer):
    """Trainer with the families' own losses: cross-entropy of T5's tokens, pinball losses of the others' quantiles.

    Each channel of a window is a series of its own; with `multivariate` those of one window see each other. A target
    that is unseen counts nowhere, and the loss is a mean over those that are seen. Neither does one count for Bolt and
    Chronos-2 whose context does not vary, which has no unit to measure errors in.

    Args:
        family: of the model.
        multivariate: of concern to Chronos-2 alone.
    """

    def __init__(self, *, family: Family, multivariate: bool, **arguments: Any):
        super().__init__(**arguments)
        self.family: Family = family
        self.multivariate = multivariate
        self.model_accepts_loss_kwargs = False  # losses are means, whatever arguments the models take
        if family == "chronos_t5":
            from chronos import ChronosConfig

            self._tokenizer = ChronosConfig(**cast(Any, self.model).config.chronos_config).create_tokenizer()

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the loss of one batch of windows, as a `WindowDataset` serves them."""
        past, future = _rows(inputs, "past"), _rows(inputs, "future")
        loss = (
            self._token_loss(model, past, future)
            if self.family == "chronos_t5"
            else self._quantile_loss(model, past, future, inputs)
        )
        return (loss, None) if return_outputs else loss

    def _token_loss(self, model: Any, past: Tensor, future: Tensor) -> Tensor:
        tokens, attention_mask, scale = self._tokenizer.context_input_transform(past.cpu())
        labels, seen = self._tokenizer.label_input_transform(future.cpu(), scale)
        batch = {"input_ids": tokens, "attention_mask": attention_mask, "labels": labels.masked_fill(~seen, -100)}
        return model(**{name: each.to(past.device) for name, each in batch.items()}).loss

    def _quantile_loss(self, model: Any, past: Tensor, future: Tensor, inputs: dict[str, Any]) -> Tensor:
        future = future.masked_fill(~_varies(past), torch.nan)
        if self.family == "chronos_bolt":
            loss = model(context=past, target=_within_reach(past, future)).loss
        else:
            num_windows, _, num_channels = inputs["past_values"].shape
            groups = torch.arange(num_windows, device=past.device).repeat_interleave(num_channels)
            patch = model.config.chronos_config["output_patch_size"]
            loss = model(
                context=past,
                group_ids=groups if self.multivariate else None,
                num_output_patches=math.ceil(future.shape[1] / patch),
                future_target=future,
            ).loss
        share = (~future.isnan()).float().mean()
        return loss / share.clamp(min=1 / future.numel())  # the models' own means count unseen targets as met


def _rows(inputs: dict[str, Tensor], part: str) -> Tensor:
    """(windows x channels, time), unseen values NaN."""
    values, mask = inputs[f"{part}_values"], inputs.get(f"{part}_observed_mask")
    if mask is not None:
        values = values.masked_fill(~mask, torch.nan)
    return values.transpose(1, 2).flatten(0, 1)


def _within_reach(past: Tensor, future: Tensor) -> Tensor:
    """The targets (rows, steps), those beyond `FARTHEST_TARGET` put there; NaN stays."""
    seen = ~past.isnan()
    count = seen.sum(dim=1, keepdim=True).clamp(min=1)
    mean = past.nan_to_num().sum(dim=1, keepdim=True) / count
    std = ((past - mean).nan_to_num().square().sum(dim=1, keepdim=True) / count).sqrt()
    return future.clamp(mean - FARTHEST_TARGET * std, mean + FARTHEST_TARGET * std)


def _varies(past: Tensor) -> Tensor:
    """(rows, 1): whether the seen part of each row has a spread to speak of."""
    highest = past.nan_to_num(-torch.inf).amax(dim=1, keepdim=True)
    lowest = past.nan_to_num(torch.inf).amin(dim=1, keepdim=True)
    return highest - lowest > LEAST_SPREAD * torch.maximum(highest.abs(), lowest.abs())
