"""Running averages of the gradients of stacked convolutions: what their controllers read, and what triggers memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from .configuration_fsnet import FSNetConfig
from .convolutions import is_compiled_for
from .reach import Part

TRIGGER_SHARE = 0.01
"""Share of steps that an adaptive threshold aims at, and the size of its steps."""
THRESHOLDS = (-0.95, -0.25)
"""The ends that an adaptive threshold stays between."""
_EPSILON = 1e-6


class GradientAverages(nn.Module):
    """A slow and a fast average of each layer's gradients, each fibre along the input channels of unit norm.

    Buffers: `slow`, `fast` and, of squares, `second` (layers, outputs, kernel_size, inputs); `num_steps`, how many
    gradients they hold; `trigger` (layers,), True = the next learning forward asks the memory; `threshold` (layers,)
    of the cosines, with an adaptive one: `trigger_threshold` is where it begins.
    """

    slow: Tensor
    fast: Tensor
    second: Tensor | None
    num_steps: Tensor
    trigger: Tensor
    threshold: Tensor

    def __init__(self, config: FSNetConfig, *, num_layers: int, inputs: int, outputs: int, parts: list[Part]):
        super().__init__()
        self.config = config
        self.parts = parts
        layers, shape = num_layers, (num_layers, outputs, config.kernel_size, inputs)
        self.register_buffer("slow", torch.empty(shape))
        self.register_buffer("fast", torch.empty(shape))
        self.register_buffer("second", torch.empty(shape) if config.track_second_moment else None)
        self.register_buffer("num_steps", torch.empty((), dtype=torch.int64))
        self.register_buffer("trigger", torch.empty(layers, dtype=torch.bool))
        self.register_buffer("threshold", torch.empty(layers))

    def taps(self, part: Part) -> slice:
        """Return which taps count in a part's layers."""
        middle = self.slow.shape[2] // 2
        return slice(middle - part.reach, middle + part.reach + 1)

    def features(self, part: Part) -> list[Tensor]:
        """Return what controllers read of a part's layers: (layers, outputs, taps that count, inputs).

        The slow average, then with second moments the gradients' root mean square.
        """
        taps = self.taps(part)
        found = [self.slow[part.layers, :, taps]]
        if self.second is not None:
            correction = 1 - self.config.second_moment_decay ** self.num_steps.clamp(min=1).double()
            found.append((self.second[part.layers, :, taps] / correction.to(self.second.dtype)).sqrt())
        return found

    @torch.no_grad()
    def update(self, gradient: Tensor, *, online: bool) -> None:
        """Take in the gradients (layers, outputs, inputs, kernel_size) of one optimiser step, and set triggers.

        Where one of them is not finite, nothing moves: averages would never be finite again.

        online: whether a disagreement of the averages sets triggers; offline it does with `memory_in_training` alone.
        """
        if not bool(gradient.sum(dtype=torch.promote_types(gradient.dtype, torch.float32)).isfinite()):
            return
        cosines = torch.cat([self._update_part(part, gradient) for part in self.parts])
        if self.config.memory != "none" and (online or self.config.memory_in_training):
            self._set_triggers(cosines)
        self.num_steps += 1

    def _update_part(self, part: Part, gradient: Tensor) -> Tensor:
        """Move the averages of a part's layers and return the cosines (layers,) of the fast and the slow one."""
        config = self.config
        keep = (config.slow_decay, config.fast_decay, config.second_moment_decay)
        if not is_compiled_for(gradient):
            return self._update_plainly(part, gradient, keep)
        from .averages_cpu import update_averages

        second = self.slow[:0] if self.second is None else self.second
        averages = tuple(each.numpy() for each in (self.slow, self.fast, second))
        layers = gradient[part.layers].numpy()
        shares = tuple(map(averages[0].dtype.type, keep))
        return torch.from_numpy(update_averages(layers, part.first, part.reach, averages, shares))

    def _update_plainly(self, part: Part, gradient: Tensor, keep: tuple[float, float, float]) -> Tensor:
        taps = self.taps(part)
        smallest = max(1e-12, torch.finfo(gradient.dtype).tiny)  # half precision has no 1e-12
        found = normalize(gradient[part.layers, ..., taps].mT, dim=3, eps=smallest)
        slow, fast = self.slow[part.layers, :, taps], self.fast[part.layers, :, taps]
        fast.lerp_(found, 1 - keep[1])
        product = (fast * slow).sum(dim=(1, 2, 3))
        norms = [torch.linalg.vector_norm(each, dim=(1, 2, 3)).clamp(min=_EPSILON) for each in (fast, slow)]
        slow.lerp_(found, 1 - keep[0])
        if self.second is not None:
            self.second[part.layers, :, taps].lerp_(found.square(), 1 - keep[2])
        return product / (norms[0] * norms[1])

    def _set_triggers(self, cosines: Tensor) -> None:
        config, threshold = self.config, self.threshold
        below = cosines < (threshold if config.adaptive_trigger else config.trigger_threshold)
        self.trigger |= below
        if config.adaptive_trigger:
            threshold += TRIGGER_SHARE * (TRIGGER_SHARE - below.to(threshold.dtype))
            threshold.clamp_(*THRESHOLDS)
