"""Turn the weights of a reference FSNet into a model, and back.

    python -m hf_tsdyn.models.fsnet.conversion_fsnet SOURCE TARGET [--inverse]

SOURCE is a folder with `case.json` and `reference_state.safetensors`; TARGET becomes a folder for `from_pretrained`,
with `conversion_report.json`. Where SOURCE also holds recorded inputs and outputs, the recorded online steps are
repeated and held against them. With --inverse SOURCE is a model and TARGET the reference's two files.
"""

from __future__ import annotations

from functools import partial
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
    reshaped,
    scaling_settings,
    split_all,
)
from ..conversion_report import Check, largest_difference
from .configuration_fsnet import FSNetConfig
from .modeling_fsnet import FSNetForPrediction

FIELDS = {
    "C": "num_channels",
    "L": "context_length",
    "horizon": "prediction_length",
    "hidden": "hidden_size",
    "depth": "num_hidden_layers",
    "out": "representation_size",
    "kernel_size": "kernel_size",
    "controller_hidden": "controller_size",
    "memory_slots": "num_memory_slots",
    "gamma": "slow_decay",
    "f_gamma": "fast_decay",
}
"""Names of the reference's settings and what they are called here."""
LAYER = {
    "weight": ("conv.weight",),
    "bias": ("bias",),
    "calibration.controller.weight": ("controller.0.weight",),
    "calibration.controller.bias": ("controller.0.bias",),
    "calibration.heads.weight": ("calib_w.weight", "calib_b.weight", "calib_f.weight"),
    "calibration.heads.bias": ("calib_w.bias", "calib_b.bias", "calib_f.bias"),
    "calibration.memory.slots": ("W",),
}
"""What a bank stacks, and what the reference calls it in each layer; several are put one below the other."""
_BLOCKS = "encoder.feature_extractor.net"
_TOLERANCE = 1e-5
_LONGEST = 2**14  # context: what it takes to run is bounded by no weight
_OF_TRAINING = ("head_dropout", "controller_dropout", "memory_in_training", "memory_diversity", "identity_start")


def convert_config(config: dict[str, Any]) -> FSNetConfig:
    """Return our configuration of a reference model.

    Raises: ValueError naming settings that are missing or wrong.
    """
    missing = [name for name in (*FIELDS, "input_dims", "tau") if name not in config]
    if missing:
        raise ValueError(f"the configuration must have {sorted(FIELDS)}, found no {missing}; give case.json with them.")
    numbers = {name: config[name] for name in ("input_dims", "C", "tau")}
    if not all(type(value) is int or (name == "tau" and type(value) is float) for name, value in numbers.items()):
        raise ValueError(f"input_dims and C must be whole numbers, and tau a number, found {numbers}; correct them.")
    if type(config["L"]) is int and config["L"] > _LONGEST:
        raise ValueError(f"L must be at most {_LONGEST} steps to be converted, found {config['L']}; correct it.")
    fields = {ours: config[name] for name, ours in FIELDS.items()} | scaling_settings(config)
    features = config["input_dims"] - config["C"]
    return configured(FSNetConfig, fields | {"num_time_features": features, "trigger_threshold": -config["tau"]})


def reference_settings(model: FSNetForPrediction) -> dict[str, Any]:
    """Return the model's configuration under the reference's names, and its scaling under ours."""
    config = model.config
    settings = {name: getattr(config, ours) for name, ours in FIELDS.items()}
    settings |= {"input_dims": config.num_channels + config.num_time_features, "tau": -config.trigger_threshold}
    return settings | scaling_settings(vars(config))


def convert_reference(state_dict: dict[str, Tensor], config: dict[str, Any]) -> FSNetForPrediction:
    """Return the published FSNet with the reference's weights and its outputs, in eval mode.

    Its scaling of the series is the identity, as the reference's lies in its data, unless `config` has `channel_loc`
    and `channel_scale`: give it values scaled as in the reference's training, or call `set_scaler` with how they were
    scaled. Averages of gradients and queries begin anew: the reference keeps them beside its state.

    Args:
        state_dict: under the reference's names.
        config: the keys of `FIELDS`, `input_dims` (channels and time features) and `tau` (less the threshold).
    Raises: ValueError naming what is missing, left over or of a wrong shape.
    """
    planned = plan_model(FSNetForPrediction, convert_config(config), state_dict)
    return load_joined(planned, join_all(pairs_of(planned), state_dict, planned, kind="an FSNet"), strict=False)


def to_reference(model: FSNetForPrediction) -> dict[str, Tensor]:
    """Return the model's tensors under the reference's names; its online state and its scaling are not among them.

    Raises: ValueError if the reference has no such network, as for every preset but the published one.
    """
    check_expressible(model.config, convert_config(reference_settings(model)), of_training=_OF_TRAINING)
    return split_all(pairs_of(model), model)


def pairs_of(model: FSNetForPrediction) -> list[Pair]:
    """Return what of the model is made of what of the reference; layers of a bank are stacked."""
    depth = model.config.num_hidden_layers
    names = {"model.input_projection": "encoder.input_fc", "head": "regressor"}
    pairs = [Pair(f"{ours}.{kind}", (f"{name}.{kind}",)) for ours, name in names.items() for kind in ("weight", "bias")]
    residual, projector = model.model.network.residual.weight.shape, f"{_BLOCKS}.{depth}.projector"
    pairs.append(reshaped("model.network.residual.weight", f"{projector}.weight", residual, (*residual, 1)))
    pairs.append(Pair("model.network.residual.bias", (f"{projector}.bias",)))
    places = [[f"{block}.conv{number}" for block in range(depth) for number in (1, 2)]] if depth else []
    places += [[f"{depth}.conv1"], [f"{depth}.conv2"]]
    for index, (layers, bank) in enumerate(zip(places, model.banks, strict=True)):
        for ours, parts in LAYER.items():
            theirs = tuple(f"{_BLOCKS}.{layer}.{part}" for layer in layers for part in parts)
            split = partial(_unstack, num_parts=len(parts), taps=model.config.kernel_size)
            join = partial(_stack, num_parts=len(parts))
            if ours == "calibration.controller.weight":
                join, split = partial(_stack_controllers, inputs=bank.weight.shape[2:]), _unstack_controllers
            pairs.append(Pair(f"model.network.banks.{index}.{ours}", theirs, join, split))
    return pairs


def _stack(tensors: list[Tensor], *, num_parts: int) -> Tensor:
    return torch.stack([torch.cat(tensors[first : first + num_parts]) for first in range(0, len(tensors), num_parts)])


def _unstack(tensor: Tensor, *, num_parts: int, taps: int) -> list[Tensor]:
    """The inverse of `_stack`; of several parts the first has a row a tap, and the others are alike."""
    if num_parts == 1:
        return list(tensor.unbind(0))
    rest = (tensor.shape[1] - taps) // (num_parts - 1)
    return [part for layer in tensor for part in layer.split([taps, *[rest] * (num_parts - 1)])]


def _stack_controllers(tensors: list[Tensor], *, inputs: torch.Size) -> Tensor:
    """Layers of (size, rows x inputs x taps of a chunk) as (layers, size, rows, taps, inputs)."""
    weight = torch.stack(tensors)
    return weight.reshape(*weight.shape[:2], -1, *inputs).mT


def _unstack_controllers(tensor: Tensor) -> list[Tensor]:
    return list(tensor.mT.flatten(2).unbind(0))


def replay(model: FSNetForPrediction, inputs: dict[str, Tensor], *, learning_rate: float) -> tuple[Tensor, Tensor]:
    """Learn recorded windows online, one step each, and return forecasts and triggers.

    Args:
        inputs: `inputs` (steps, 1, time, channels and time features) and `targets` (steps, 1, horizon x channels).
    Returns: (steps, horizon x channels), each from before its step; (steps, layers) boolean, after it.
    """
    channels = model.config.num_channels
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    forecasts, triggers = [], []
    for window, target in zip(inputs["inputs"], inputs["targets"], strict=True):
        with model.learning():
            output = model(
                window[..., :channels],
                future_values=target.unflatten(1, (-1, channels)),
                past_time_features=window[..., channels:] if window.shape[2] > channels else None,
            )
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        model.after_optimizer_step(online=True)
        forecasts.append(output.prediction_outputs.detach().flatten())
        triggers.append(torch.cat([each.trigger for each in model.averages]))
    return torch.stack(forecasts), torch.stack(triggers)


def _record(
    model: FSNetForPrediction, inputs: dict[str, Tensor], outputs: dict[str, Tensor], config: dict[str, Any]
) -> list[Check]:
    forecasts, triggers = replay(model, inputs, learning_rate=config["lr"])
    differing = (triggers != outputs["triggers_after_step"].bool()).sum().item()
    return [
        largest_difference(
            f"forecasts of {len(forecasts)} online steps", forecasts, outputs["predictions"], _TOLERANCE
        ),
        Check("triggers of those steps that differ", differing, 0.0),
    ]


def _probe(model: FSNetForPrediction) -> Tensor:
    config, generator = model.config, torch.Generator().manual_seed(0)
    window = torch.randn(2, config.context_length, config.num_channels + config.num_time_features, generator=generator)
    values, features = window.to(model.dtype).split([config.num_channels, config.num_time_features], dim=2)
    with torch.no_grad():
        return model(values, past_time_features=features if config.num_time_features else None).prediction_outputs


def _online_state(model: FSNetForPrediction) -> dict[str, str]:
    moved = any(bool(each.num_steps) for each in model.averages) or any(each.any() for each in model.moved_by_learning)
    reason = "the reference keeps them beside its state; a network that is loaded there begins anew"
    return {"averages of gradients, triggers and queries": reason} if moved else {}


CONVERSION = Conversion(
    convert=convert_reference,
    to_reference=to_reference,
    settings=reference_settings,
    models=(FSNetForPrediction,),
    pairs=pairs_of,
    probe=_probe,
    record=_record,
    kept_here=_online_state,
)


def main() -> None:
    """Convert SOURCE into the folder TARGET and say what came out."""
    run_command(CONVERSION, new_parser("fsnet", __doc__))


if __name__ == "__main__":
    main()
