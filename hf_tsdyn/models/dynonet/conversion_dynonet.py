"""Turn the weights of a reference DynoNet into a model, and back.

    python -m hf_tsdyn.models.dynonet.conversion_dynonet SOURCE TARGET [--inverse]

SOURCE is a folder with `case.json` and `reference_state.safetensors`; TARGET becomes a folder for `from_pretrained`,
with `conversion_report.json`. Where SOURCE also holds recorded inputs and outputs, what comes out is held against them.
With --inverse SOURCE is a model and TARGET the reference's two files.
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
    scaling_settings,
    split_all,
    stacked,
)
from ..conversion_report import Check
from .configuration_dynonet import DynoNetConfig
from .modeling_dynonet import DynoNetForPrediction

SIZES = (
    "num_channels",
    "context_length",
    "prediction_length",
    "controller_hidden_size",
    "worker_hidden_size",
    "num_worker_layers",
    "worker_context_length",
)
"""Of a reference's configuration, under the names they have here."""

_SIGNAL_HEADS = {
    "lr_scale": "lr_ctrl",
    "wd_scale": "wd_ctrl",
    "dropout_rate": "dropout_ctrl",
    "grad_clip": "grad_clip_ctrl",
    "loss_weight": "loss_weight_ctrl",
    "freeze_prob": "freeze_ctrl",
}
_POSITIONS = 96  # rows of every worker's table of positions there
_TOLERANCE = 1e-5  # relative to the largest value
_OF_TRAINING = ("worker_dropout", "mixer_dropout", "normalize_loss", "input_noise")


def convert_config(config: dict[str, Any]) -> DynoNetConfig:
    """Return our configuration of a reference model.

    Raises: ValueError naming settings that are missing or wrong.
    """
    missing = [name for name in SIZES if name not in config]
    if missing:
        raise ValueError(
            f"the configuration must have {', '.join(SIZES)}, found no {missing}; give case.json with them."
        )
    fields = {name: config[name] for name in SIZES} | scaling_settings(config)
    return configured(DynoNetConfig, fields | {"input_noise": "shift"})


def reference_settings(model: DynoNetForPrediction) -> dict[str, Any]:
    """Return the sizes that the reference is built with, and the model's scaling under our names."""
    return {name: getattr(model.config, name) for name in SIZES} | scaling_settings(vars(model.config))


def convert_reference(state_dict: dict[str, Tensor], config: dict[str, Any]) -> DynoNetForPrediction:
    """Return a DynoNet with the reference's weights and its outputs, in eval mode.

    Its scaling of the series is the identity, as the reference's lies in its data, unless `config` has `channel_loc`
    and `channel_scale`: give it values scaled as in the reference's training, or call `set_scaler` with how they were
    scaled.

    Args:
        state_dict: under the reference's names.
        config: the fields of `SIZES`.
    Raises: ValueError naming what is missing, left over or of a wrong shape.
    """
    planned = plan_model(DynoNetForPrediction, convert_config(config), state_dict)
    return load_joined(planned, join_all(pairs_of(planned), state_dict, planned, kind="a DynoNet"))


def to_reference(model: DynoNetForPrediction) -> dict[str, Tensor]:
    """Return the model's tensors under the reference's names; its scaling is not among them.

    Rows of the workers' positions that the reference has and never reads are 0.
    Raises: ValueError if the reference has no such network, as with specialists or another gating.
    """
    check_expressible(model.config, convert_config(reference_settings(model)), of_training=_OF_TRAINING)
    return split_all(pairs_of(model), model)


def pairs_of(model: DynoNetForPrediction) -> list[Pair]:
    """Return what of the model is made of what of the reference; workers are stacked."""
    config = model.config

    def of_workers(name: str) -> tuple[str, ...]:
        return tuple(f"worker_net.workers.{channel}.{name}" for channel in range(config.num_channels))

    gru = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    one = {f"norm_{kind}": f"revin.affine_{kind}" for kind in ("weight", "bias")}
    many = {}
    modules = {f"controller.training_signals.{ours}": f"control_net.{name}.gen" for ours, name in _SIGNAL_HEADS.items()}
    heads = {"input_noise": "noise_ctrl", "gate": "gate_ctrl.0", "context": "context_proj"}
    modules |= {f"controller.{ours}": f"control_net.{name}" for ours, name in heads.items()}
    modules |= {"trend_head": "worker_net.shared_trend_linear"}
    modules |= {f"mixer.{layer}": f"worker_net.channel_mixer.{layer}" for layer in (0, 3)}
    worker_modules = {"input": "input_proj", "hidden": "output_proj.0", "output": "output_proj.2"}
    for layer in range(config.num_worker_layers):
        modules[f"controller.film.{layer}"] = f"control_net.film_gens.{layer}"
        worker_modules[f"layers.{layer}.norm"] = f"lns.{layer}"
        many |= {f"layers.{layer}.{name}": f"grus.{layer}.{name}_l0" for name in gru}
    for kind in ("weight", "bias"):
        one |= {f"{ours}.{kind}": f"{name}.{kind}" for ours, name in modules.items()}
        many |= {f"{ours}_{kind}": f"{name}.{kind}" for ours, name in worker_modules.items()}
    pairs = [Pair(f"model.{ours}", (name,)) for ours, name in one.items()]
    pairs += [stacked(f"model.controller.reader.{name}", [f"control_net.brain.gru.{name}_l0"]) for name in gru]
    pairs += [stacked(f"model.workers.{ours}", of_workers(name)) for ours, name in many.items()]
    cut = partial(_cut_positions, length=config.worker_context_length)
    return [*pairs, Pair("model.workers.position", of_workers("pos_embedding"), cut, _pad_positions)]


def _cut_positions(tables: list[Tensor], *, length: int) -> Tensor:
    return torch.stack(tables)[:, 0, :length]


def _pad_positions(positions: Tensor) -> list[Tensor]:
    channels, length, width = positions.shape
    rows = torch.cat([positions, positions.new_zeros(channels, max(_POSITIONS - length, 0), width)], dim=1)
    return list(rows[:, None].unbind(0))


def largest_differences(
    model: DynoNetForPrediction, inputs: dict[str, Tensor], outputs: dict[str, Tensor]
) -> dict[str, float]:
    """Return by name the largest difference of predictions and signals to recorded ones, over the largest value.

    A signal that is 0 throughout is compared as it is.
    """
    with torch.no_grad():
        found = model(inputs["past_values"], output_signals=True, return_dict=True)
    values = {"prediction_outputs": found.prediction_outputs} | found.signals
    values["film"] = values["film"].permute(3, 0, 1, 2, 4)  # recorded by channel and layer
    differences = {}
    for name, expected in outputs.items():
        difference = (values[name] - expected).abs().max()
        differences[name] = (difference / (expected.abs().max() or 1.0)).item()
    return differences


def _record(
    model: DynoNetForPrediction, inputs: dict[str, Tensor], outputs: dict[str, Tensor], _: dict[str, Any]
) -> list[Check]:
    differences = largest_differences(model, inputs, outputs)
    return [Check(f"recorded {name}, relative", value, _TOLERANCE) for name, value in differences.items()]


def _probe(model: DynoNetForPrediction) -> Tensor:
    shape = (2, model.config.context_length, model.config.num_channels)
    window = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(model.dtype)
    return model.forecast(window, prediction_length=2 * model.config.prediction_length + 1)


def _unread_positions(model: DynoNetForPrediction) -> dict[str, str]:
    length = model.config.worker_context_length
    reason = "a worker reads as many positions as it has steps of context"
    return {f"worker_net.workers.*.pos_embedding, rows from {length} on": reason} if length < _POSITIONS else {}


CONVERSION = Conversion(
    convert=convert_reference,
    to_reference=to_reference,
    settings=reference_settings,
    models=(DynoNetForPrediction,),
    pairs=pairs_of,
    probe=_probe,
    record=_record,
    left_out=_unread_positions,
)


def main() -> None:
    """Convert SOURCE into the folder TARGET and say what came out."""
    run_command(CONVERSION, new_parser("dynonet", __doc__))


if __name__ == "__main__":
    main()
