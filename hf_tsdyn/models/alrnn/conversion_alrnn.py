"""Turn the weights of a reference AL-RNN into a model, and back.

    python -m hf_tsdyn.models.alrnn.conversion_alrnn SOURCE TARGET [--inverse]

SOURCE is a folder with `case.json` and `reference_state.safetensors`, or such a weights file by itself, together with
`--num-relu-units`, which the weights do not tell. TARGET becomes a folder for `from_pretrained`, with
`conversion_report.json`. The weights are the tensors A (units,), W (units, units), h (units,) and B (channels, units);
a state starts as `x B` with its first units overwritten by x, so that of B only the other columns matter. What comes
out is held against these equations, and against recorded runs where SOURCE has them. With --inverse SOURCE is a model
and TARGET the reference's two files.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ..conversion_command import Conversion, new_parser, run_command
from ..conversion_mapping import (
    Pair,
    check_expressible,
    configured,
    join_all,
    load_joined,
    plan_model,
    scaling_settings,
    split_all,
)
from ..conversion_report import Check, relative_difference
from .configuration_alrnn import ALRNNConfig
from .modeling_alrnn import ALRNNForPrediction

_NAMES = ("A", "W", "h", "B")
_PROBE_STEPS = 20
_PROBE_TOLERANCE = 1e-4  # relative, in float32 after that many steps
_RECORDED_STEPS = 50  # of a recorded chaotic run, before rounding grows
_RECORD_TOLERANCE = 1e-5
_OF_TRAINING = (
    "context_length",
    "prediction_length",
    "warmup_length",
    "forcing_strength",
    "noise_std",
    "regularization_weight",
    "regularization_threshold",
    "init_std",
)


def convert_reference(state_dict: dict[str, Tensor], config: dict[str, Any]) -> ALRNNForPrediction:
    """Return an AL-RNN with the reference's weights and its outputs, in eval mode.

    Its scaling is the identity, as the reference has none, unless `config` has `channel_loc` and `channel_scale`: give
    it values scaled as in the reference's training, or call `set_scaler` with how they were scaled.

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
            f"{surplus[:5]}; check that the file is one of an AL-RNN."
        )
    B = state_dict["B"]
    channels, units = B.shape if B.ndim == 2 else (0, 0)
    shapes = {"A": (units,), "W": (units, units), "h": (units,), "B": (channels, units)}
    wrong = {name: tuple(state_dict[name].shape) for name in _NAMES if state_dict[name].shape != shapes[name]}
    if wrong:
        raise ValueError(
            "the tensors of a reference state must be A (units,), W (units, units), h (units,), B (channels, units), "
            f"found B {tuple(B.shape)} and {wrong} beside it; check that they belong to one model."
        )
    planned = plan_model(ALRNNForPrediction, _config(config, hidden_size=units, num_channels=channels), state_dict)
    return load_joined(planned, join_all(pairs_of(planned), state_dict, planned, kind="an AL-RNN"))


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
    return configured(ALRNNConfig, sizes | settings | scaling_settings(config))


def reference_settings(model: ALRNNForPrediction) -> dict[str, Any]:
    """Return sizes and forcing of a model, and its scaling under our names."""
    names = ("hidden_size", "num_relu_units", "num_channels", "forcing_interval")
    return {name: getattr(model.config, name) for name in names} | scaling_settings(vars(model.config))


def to_reference(model: ALRNNForPrediction) -> dict[str, Tensor]:
    """Return the model's tensors under the reference's names and shapes; the columns of B that do not matter are 0.

    The scaling is not among them: they forecast series that are scaled as by the model's `to_scaled`.
    """
    settings = reference_settings(model)
    sizes = {name: settings[name] for name in ("hidden_size", "num_channels")}
    check_expressible(model.config, _config(settings, **sizes), of_training=_OF_TRAINING)
    return split_all(pairs_of(model), model)


def pairs_of(model: ALRNNForPrediction) -> list[Pair]:
    """Return what of the model is made of what of the reference."""
    channels = model.config.num_channels

    def join(parts: list[Tensor]) -> Tensor:
        return parts[0][:, channels:].T.contiguous()

    def split(L: Tensor) -> list[Tensor]:
        return [torch.cat([L.new_zeros(channels, channels), L.T], dim=1)]

    return [*(Pair(f"model.{name}", (name,)) for name in ("A", "W", "h")), Pair("model.L", ("B",), join, split)]


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


def _without_scaling(model: ALRNNForPrediction) -> ALRNNForPrediction:
    bare, channels = copy.deepcopy(model), model.config.num_channels
    bare.set_scaler([0.0] * channels, [1.0] * channels)
    return bare


def _equations(model: ALRNNForPrediction, state_dict: dict[str, Tensor]) -> list[Check]:
    start = torch.randn(4, model.config.num_channels, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = _free_run(state_dict, start, num_relu_units=model.config.num_relu_units)
    found = _without_scaling(model).forecast(start[:, None], prediction_length=_PROBE_STEPS)
    return [relative_difference(f"{_PROBE_STEPS} steps of the equations", found, expected, _PROBE_TOLERANCE)]


def _record(
    model: ALRNNForPrediction, inputs: dict[str, Tensor], outputs: dict[str, Tensor], _: dict[str, Any]
) -> list[Check]:
    bare, channels = _without_scaling(model), model.config.num_channels
    runs = outputs["free_run_latents"][:, :_RECORDED_STEPS, :channels]
    forecast = bare.forecast(inputs["initial_observations"][:, None], prediction_length=runs.shape[1])
    orbit = outputs["orbit_latents"]
    with torch.no_grad():
        loss = bare(inputs["forced_inputs"][:, :1], future_values=inputs["forced_targets"]).loss.reshape(1)
        step = bare.free_run(orbit[:-1], 1)[:, 0]
    found = {
        f"recorded runs of {runs.shape[1]} steps": (forecast, runs),
        "recorded loss": (loss, outputs["forced_loss"]),
    }
    found["one step from each recorded state"] = (step, orbit[1:])
    return [relative_difference(name, one, other, _RECORD_TOLERANCE) for name, (one, other) in found.items()]


def _probe(model: ALRNNForPrediction) -> Tensor:
    start = torch.randn(4, 1, model.config.num_channels, generator=torch.Generator().manual_seed(0)).to(model.dtype)
    return model.forecast(model.loc + model.scale * start, prediction_length=_PROBE_STEPS)


CONVERSION = Conversion(
    convert=convert_reference,
    to_reference=to_reference,
    settings=reference_settings,
    models=(ALRNNForPrediction,),
    pairs=pairs_of,
    probe=_probe,
    record=_record,
    equations=_equations,
    left_out=lambda model: {
        f"B, its first {model.config.num_channels} columns": "what they start is overwritten by what was observed"
    },
)


def main() -> None:
    """Convert SOURCE into the folder TARGET and say what came out."""
    parser = new_parser("alrnn", __doc__)
    parser.add_argument("--num-relu-units", type=int, help="how many of the last units are rectified")
    parser.add_argument("--forcing-interval", type=int, help="of the reference's training")
    run_command(CONVERSION, parser)


if __name__ == "__main__":
    main()
