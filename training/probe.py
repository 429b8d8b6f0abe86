"""What a trained model makes of one window, kept beside it for other processes to repeat to the bit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hf_tsdyn.data.time_features import time_feature_arguments
from hf_tsdyn.data.windows import SequentialWindows
from hf_tsdyn.provenance import hardware_class, package_versions

PROBE_FILE = "probe.safetensors"
HIDDEN_SHARE = 0.4
"""Of the window of a masked model's probe, value by value."""


def save_probe(model: Any, windows: SequentialWindows, path: Path) -> None:
    """Save a forecast of the first validation window, two and a half blocks long, or of a masked model a completion.

    The forecast of a model that takes time features is one block long: it has none of the steps after the context.
    """
    window = windows.__getitems__([0])
    past_values = window["past_values"].contiguous()
    features = time_feature_arguments(model, window.get("past_time_features"))
    if windows.prediction_length == 0:
        mask = torch.rand(past_values.shape, generator=torch.Generator().manual_seed(0)) < HIDDEN_SHARE
        outcome = {"mask": mask, "completion": model.cpu().complete(past_values, mask).contiguous()}
    else:
        block = model.config.prediction_length
        length = block if features else block * 5 // 2
        outcome = {"forecast": model.cpu().forecast(past_values, prediction_length=length, **features).contiguous()}
    save_file({"past_values": past_values, **features, **outcome}, path)


def repeat_probe(model: Any, probe: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return what the model makes of the probe now, and what it made of it in training."""
    if "completion" in probe:
        return model.complete(probe["past_values"], probe["mask"]), probe["completion"]
    length = probe["forecast"].shape[1]
    features = time_feature_arguments(model, probe.get("past_time_features"))
    return model.forecast(probe["past_values"], prediction_length=length, **features), probe["forecast"]


def verify_reload(model: Any, checkpoint: Path, summary: Mapping[str, Any]) -> str:
    """Compare what the loaded model makes of its probe with what it made of it in training, and say how they compare.

    Args:
        model: on the device of the probe's making, the CPU.
        checkpoint: folder of the model and its probe.
        summary: the run's, with the machine and versions of the training; empty where unknown.
    Raises: RuntimeError, with the largest difference, if they differ on the same kind of machine and versions.
    """
    if not (checkpoint / PROBE_FILE).is_file():
        return f"no {PROBE_FILE} beside the checkpoint: reloading was not verified"
    found, expected = repeat_probe(model, load_file(checkpoint / PROBE_FILE))
    if torch.equal(found, expected):
        return f"reloaded in a new process: bit-equal on the window in {PROBE_FILE}"
    difference = (found - expected).abs().max().item()
    here = (hardware_class(model.device)["cpu"], package_versions())
    there = (summary.get("hardware", {}).get("cpu"), summary.get("versions"))
    if here == there:
        raise RuntimeError(
            f"a reloaded checkpoint must be bit-equal, found differences up to {difference:.3g} in "
            f"{checkpoint}; its files were changed since training: train again."
        )
    return f"reloaded on another processor or other versions: outcomes on the probe differ by up to {difference:.3g}"
