"""Turn the weights of a reference AL-RNN into a model, and back.

    python -m hf_tsdyn.models.alrnn.conversion_alrnn SOURCE TARGET

SOURCE is a folder with `case.json` and `reference_state.safetensors`, or such a weights file by itself, together with
`--num-relu-units`, which the weights do not tell. TARGET becomes a folder for `from_pretrained`. The weights are the
tensors A (units,), W (units, units), h (units,) and B (channels, units); a state starts as `x B` with its first
units overwritten by x, so that of B only the other columns matter.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from .configuration_alrnn import ALRNNConfig
from .modeling_alrnn import ALRNNForPrediction

_NAMES = ("A", "W", "h", "B")
_PROBE_STEPS = 20
_PROBE_TOLERANCE = 1e-4  # relative, in float32 after that many steps


def convert_reference(state_dict: dict[str, Tensor], config: dict[str, Any]) -> ALRNNForPrediction:
    """Return an AL-RNN with the reference's weights and its outputs, in eval mode.

    Its scaling is the identity, as the reference has none: give it values scaled as in the reference's training, or
    call `set_scaler` with how they were scaled.

    Args:
        state_dict: A, W, h, B, see the module.
        config: `num_relu_units`; `forcing_interval`, where known; `hidden_size` and `num_channels`, if present,
            must be those of the weights.
    Raises: ValueError naming tensors that are missing, left over or of a wrong shape, or a setting that is.
    """
    missing, surplus = sorted(set(_NAMES) - state_dict.keys()), sorted(state_dict.keys() - set(_NAMES))
    if missing or surplus:
        raise ValueError(
            f"a reference state must hold the tensors {', '.join(_NAMES)}, found missing {missing} and left over "
            f"{surplus}; check that the file is one of an AL-RNN."
        )
    A, W, h, B = (state_dict[name] for name in _NAMES)
    channels, units = B.shape if B.ndim == 2 else (0, 0)
    shapes = {"A": (units,), "W": (units, units), "h": (units,), "B": (channels, units)}
    wrong = {name: tuple(state_dict[name].shape) for name in _NAMES if state_dict[name].shape != shapes[name]}
    if wrong:
        raise ValueError(
            "the tensors of a reference state must be A (units,), W (units, units), h (units,), B (channels, units), "
            f"found B {tuple(B.shape)} and {wrong} beside it; check that they belong to one model."
        )
    model = ALRNNForPrediction(_config(config, hidden_size=units, num_channels=channels))
    model.model.load_state_dict({"A": A, "W": W, "h": h, "L": B[:, channels:].T.contiguous()})
    return model.eval()


def _config(config: dict[str, Any], **sizes: int) -> ALRNNConfig:
    for name, value in sizes.items():
        if config.get(name, value) != value:
            raise ValueError(
                f"{name} must be {value}, as in the weights, found {config[name]}; check that weights and "
                "configuration belong together."
            )
    if "num_relu_units" not in config:
        raise ValueError(
            f"the configuration must have num_relu_units, found {sorted(config)}; the weights do not tell it, give it."
        )
    settings = {name: config[name] for name in ("num_relu_units", "forcing_interval") if name in config}
    return ALRNNConfig(**sizes, **settings)


def to_reference(model: ALRNNForPrediction) -> dict[str, Tensor]:
    """Return the model's tensors under the reference's names and shapes; the columns of B that do not matter are 0.

    Raises: ValueError if the model scales its series: the reference has no place for that.
    """
    inner = model.model
    if (inner.loc != 0).any() or (inner.scale != 1).any():
        raise ValueError(
            "a model must have loc 0 and scale 1 to be written as a reference state, which has no scaling, found "
            f"loc={inner.loc.tolist()} and scale={inner.scale.tolist()}; keep them with the series, then call "
            "set_scaler with zeros and ones and scale the series outside."
        )
    A, W, h, L = (each.detach().clone() for each in (inner.A, inner.W, inner.h, inner.L))
    channels = model.config.num_channels
    return {"A": A, "W": W, "h": h, "B": torch.cat([L.new_zeros(channels, channels), L.T], dim=1)}


def _free_run(state_dict: dict[str, Tensor], observed: Tensor, *, num_relu_units: int) -> Tensor:
    """Observed units (batch, steps, channels) after `observed` (batch, channels), from the reference's tensors."""
    A, W, h, B = (state_dict[name].double() for name in _NAMES)
    state, outputs = observed @ B, []
    state[:, : len(B)] = observed
    for _ in range(_PROBE_STEPS):
        rectified = state.clone()
        rectified[:, len(A) - num_relu_units :].clamp_(min=0)
        state = A * state + rectified @ W.T + h
        outputs.append(state[:, : len(B)])
    return torch.stack(outputs, dim=1)


def _probe_difference(model: ALRNNForPrediction, state_dict: dict[str, Tensor]) -> float:
    """Largest difference between the model's forecast and the reference's equations, over the largest value."""
    start = torch.randn(4, model.config.num_channels, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = _free_run(state_dict, start, num_relu_units=model.config.num_relu_units)
    found = model.forecast(start[:, None], prediction_length=_PROBE_STEPS)
    return ((found - expected).abs().max() / expected.abs().max()).item()


def _read(source: Path, settings: dict[str, int]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and configuration; what was given on the command line stands above the file's."""
    if source.is_file():
        return load_file(source), settings
    for name in ("case.json", "reference_state.safetensors"):
        if not (source / name).is_file():
            raise FileNotFoundError(f"{source} must be a weights file or hold {name}, found neither; check the path.")
    config = json.loads((source / "case.json").read_text())
    return load_file(source / "reference_state.safetensors"), config | settings


def main() -> None:
    """Convert SOURCE into the folder TARGET and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with the reference's files, or its weights file")
    parser.add_argument("target", type=Path, help="folder to write config.json and model.safetensors to")
    parser.add_argument("--num-relu-units", type=int, help="how many of the last units are rectified")
    parser.add_argument("--forcing-interval", type=int, help="of the reference's training")
    arguments = vars(parser.parse_args())
    source, target = arguments.pop("source"), arguments.pop("target")
    state, config = _read(source, {name: value for name, value in arguments.items() if value is not None})
    model = convert_reference(state, config)
    model.save_pretrained(target)
    difference = _probe_difference(ALRNNForPrediction.from_pretrained(target), state)
    sizes = model.config
    print(
        f"{model.num_parameters():,} parameters, {sizes.hidden_size} units, {sizes.num_relu_units} of them rectified, "
        f"{sizes.num_channels} channels -> {target}"
    )
    print(f"reloaded, {_PROBE_STEPS} steps from a probe: relative difference {difference:.1e} to the equations")
    if not difference < _PROBE_TOLERANCE:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
