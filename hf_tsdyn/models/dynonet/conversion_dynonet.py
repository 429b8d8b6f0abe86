"""Turn the weights of a reference DynoNet into a model.

    python -m hf_tsdyn.models.dynonet.conversion_dynonet SOURCE TARGET

SOURCE is a folder with `case.json` and `reference_state.safetensors`; TARGET becomes a folder for `from_pretrained`.
Where SOURCE also holds recorded inputs and outputs, what comes out is held against them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

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
_TOLERANCE = 1e-5  # relative to the largest value


def convert_reference(state_dict: dict[str, Tensor], config: dict[str, Any]) -> DynoNetForPrediction:
    """Return a DynoNet with the reference's weights and its outputs, in eval mode.

    Its scaling of the series is the identity, as the reference's lies in its data: give it values scaled as in the
    reference's training, or call `set_scaler` with how they were scaled.

    Args:
        state_dict: under the reference's names.
        config: the fields of `SIZES`.
    Raises: ValueError naming what is missing, left over or of a wrong shape.
    """
    missing = [name for name in SIZES if name not in config]
    if missing:
        raise ValueError(f"the configuration must have {', '.join(SIZES)}, found no {missing}; give them.")
    model = DynoNetForPrediction(DynoNetConfig(**{name: config[name] for name in SIZES}, input_noise="shift"))
    left = dict(state_dict)
    renamed = _rename(left, model.config)
    if left:
        raise ValueError(
            f"a reference state must be understood to the last tensor, found left over {sorted(left)[:5]}; check that "
            "weights and configuration belong together."
        )
    wanted = model.model.state_dict()
    wrong = {name: tuple(value.shape) for name, value in renamed.items() if value.shape != wanted[name].shape}
    if wrong:
        raise ValueError(
            f"the reference's tensors must have the shapes of its configuration, found {wrong} in place of "
            f"{ {name: tuple(wanted[name].shape) for name in wrong} }; check that they belong together."
        )
    model.model.load_state_dict(renamed)
    return model.eval()


def _rename(left: dict[str, Tensor], config: DynoNetConfig) -> dict[str, Tensor]:
    """Take every tensor out of `left` and return it under the name it has here; workers are stacked."""

    def take(name: str) -> Tensor:
        if name not in left:
            raise ValueError(f"a reference state must hold {name!r}, found none; check that the file is a DynoNet's.")
        return left.pop(name)

    def stack(name: str) -> Tensor:
        return torch.stack([take(f"worker_net.workers.{c}.{name}") for c in range(config.num_channels)])

    def pair(ours: str, name: str) -> dict[str, Tensor]:
        return {f"{ours}.{kind}": take(f"{name}.{kind}") for kind in ("weight", "bias")}

    def stacked_pair(ours: str, name: str) -> dict[str, Tensor]:
        return {f"{ours}_{kind}": stack(f"{name}.{kind}") for kind in ("weight", "bias")}

    gru = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    found = {f"norm_{kind}": take(f"revin.affine_{kind}") for kind in ("weight", "bias")}
    found |= {f"controller.reader.{name}": take(f"control_net.brain.gru.{name}_l0")[None] for name in gru}
    for layer in range(config.num_worker_layers):
        found |= pair(f"controller.film.{layer}", f"control_net.film_gens.{layer}")
        found |= {f"workers.layers.{layer}.{name}": stack(f"grus.{layer}.{name}_l0") for name in gru}
        found |= stacked_pair(f"workers.layers.{layer}.norm", f"lns.{layer}")
    for ours, name in _SIGNAL_HEADS.items():
        found |= pair(f"controller.training_signals.{ours}", f"control_net.{name}.gen")
    heads = {"input_noise": "noise_ctrl", "gate": "gate_ctrl.0", "context": "context_proj"}
    for ours, name in heads.items():
        found |= pair(f"controller.{ours}", f"control_net.{name}")
    found |= stacked_pair("workers.input", "input_proj")
    found["workers.position"] = stack("pos_embedding")[:, 0, : config.worker_context_length]
    found |= stacked_pair("workers.hidden", "output_proj.0") | stacked_pair("workers.output", "output_proj.2")
    found |= pair("trend_head", "worker_net.shared_trend_linear")
    for layer in (0, 3):
        found |= pair(f"mixer.{layer}", f"worker_net.channel_mixer.{layer}")
    return found


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


def main() -> None:
    """Convert SOURCE into the folder TARGET and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with the reference's files")
    parser.add_argument("target", type=Path, help="folder to write config.json and model.safetensors to")
    arguments = parser.parse_args()
    for name in ("case.json", "reference_state.safetensors"):
        if not (arguments.source / name).is_file():
            parser.error(f"SOURCE must hold {name}, found none in {str(arguments.source)!r}; check the path.")
    config = json.loads((arguments.source / "case.json").read_text())
    model = convert_reference(load_file(arguments.source / "reference_state.safetensors"), config)
    model.save_pretrained(arguments.target)
    print(f"{model.num_parameters():,} parameters -> {arguments.target}")
    records = [arguments.source / f"{name}.safetensors" for name in ("inputs", "outputs")]
    if all(file.is_file() for file in records):
        reloaded = DynoNetForPrediction.from_pretrained(arguments.target)
        differences = largest_differences(reloaded, *map(load_file, records))
        for name, difference in differences.items():
            print(f"reloaded, {name}: relative difference {difference:.1e} to the record")
        if max(differences.values()) > _TOLERANCE:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
