"""What a controller says of a few fixed windows, over the steps of its training."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from hf_tsdyn.results import write_atomically

SIGNALS_FILE = "signals.json"
NUM_LOGGED_WINDOWS = 32


class SignalLog:
    """Means and standard deviations of signals by training step, as a file that goes on where a stopped run left it.

    The file holds `steps`, ascending, and under `signals`, by name, `mean` and `std`: of each step a list, a number a
    channel.

    Args:
        measure: returns the signals of the windows as they now are, see `channel_statistics`.
    """

    def __init__(self, path: Path, measure: Callable[[], Mapping[str, Tensor]]):
        self.path = path
        self._measure = measure
        self.steps: list[int] = []
        self.signals: dict[str, dict[str, list[list[float]]]] = {}

    def record(self, step: int) -> None:
        """Measure the signals after this step, unless that was done."""
        if self.steps and step <= self.steps[-1]:
            return
        self.steps.append(step)
        for name, moments in channel_statistics(self._measure()).items():
            entry = self.signals.setdefault(name, {"mean": [], "std": []})
            for kind, values in zip(("mean", "std"), moments, strict=True):
                entry[kind].append(values.tolist())

    def write(self) -> None:
        """Write the file at once or not at all."""
        write_atomically(self.path, json.dumps({"steps": self.steps, "signals": self.signals}).encode())

    def resume(self, step: int) -> None:
        """Take over what the file holds up to this step; nothing if there is no file."""
        if not self.path.is_file():
            return
        found = json.loads(self.path.read_text())
        kept = sum(each <= step for each in found["steps"])
        self.steps = found["steps"][:kept]
        self.signals = {
            name: {kind: rows[:kept] for kind, rows in entry.items()} for name, entry in found["signals"].items()
        }


def channel_statistics(signals: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return mean and standard deviation over windows, (C,) both, of each signal of `DynoNetForPrediction.signals`.

    Of what has units, patches or layers the mean of theirs. FiLM comes as `film_gamma` and `film_beta`, the mixture as
    `mixture_0` and so on, a name a specialist; `context` (batch, units), of a controller that reads all channels at
    once, has its units in place of channels.
    """
    parts: dict[str, Tensor] = {}
    for name, values in signals.items():
        values = values.detach().to(torch.float64)
        if name == "film":
            gamma, beta = values.permute(1, 2, 3, 0, 4)  # (2, batch, channels, layers, units)
            parts |= {"film_gamma": gamma, "film_beta": beta}
        elif name == "mixture":
            parts |= {f"mixture_{number}": weight for number, weight in enumerate(values.unbind(dim=2))}
        else:
            parts[name] = values
    flat = {name: values.flatten(2) if values.ndim > 2 else values[..., None] for name, values in parts.items()}
    return {name: (each.mean(dim=(0, 2)), each.std(dim=0, correction=0).mean(dim=1)) for name, each in flat.items()}
