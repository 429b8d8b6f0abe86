"""Turn the weights of a reference FSNet into a model.

    python -m hf_tsdyn.models.fsnet.conversion_fsnet SOURCE TARGET

SOURCE is a folder with `case.json` and `reference_state.safetensors`; TARGET becomes a folder for `from_pretrained`.
Where SOURCE also holds recorded inputs and outputs, the recorded online steps are repeated and held against them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from .configuration_fsnet import FSNetConfig
from .modeling_fsnet import FSNetForPrediction
from .network import Bank

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
_BLOCKS = "encoder.feature_extractor.net"
_TOLERANCE = 1e-5


def convert_reference(state_dict: dict[str, Tensor], config: dict[str, Any]) -> FSNetForPrediction:
    """Return the published FSNet with the reference's weights and its outputs, in eval mode.

    Its scaling of the series is the identity, as the reference's lies in its data. Averages of gradients and queries
    begin anew: the reference keeps them beside its state.

    Args:
        state_dict: under the reference's names.
        config: the keys of `FIELDS`, `input_dims` (channels and time features) and `tau` (less the threshold).
    Raises: ValueError naming what is missing, left over or of a wrong shape.
    """
    missing = [name for name in (*FIELDS, "input_dims", "tau") if name not in config]
    if missing:
        raise ValueError(f"the configuration must have {sorted(FIELDS)}, found no {missing}; give them.")
    fields = {ours: config[name] for name, ours in FIELDS.items()}
    features = config["input_dims"] - config["C"]
    model = FSNetForPrediction(FSNetConfig(**fields, num_time_features=features, trigger_threshold=-config["tau"]))
    left = dict(state_dict)
    with torch.no_grad():
        renamed = _rename(left, model)
    if left:
        raise ValueError(
            f"a reference state must be understood to the last tensor, found left over {sorted(left)[:5]}; check that "
            "weights and configuration belong together."
        )
    wanted = model.state_dict()
    wrong = {name: tuple(value.shape) for name, value in renamed.items() if value.shape != wanted[name].shape}
    if wrong:
        raise ValueError(
            f"the reference's tensors must have the shapes of its configuration, found {wrong} in place of "
            f"{ {name: tuple(wanted[name].shape) for name in wrong} }; check that they belong together."
        )
    model.load_state_dict(renamed, strict=False)
    return model.eval()


def _rename(left: dict[str, Tensor], model: FSNetForPrediction) -> dict[str, Tensor]:
    """Take every tensor out of `left` and return it under the name it has here; layers of a bank are stacked."""

    def take(name: str) -> Tensor:
        if name not in left:
            raise ValueError(f"a reference state must hold {name!r}, found none; check that the file is an FSNet's.")
        return left.pop(name)

    def pair(ours: str, name: str) -> dict[str, Tensor]:
        return {f"{ours}.{kind}": take(f"{name}.{kind}").squeeze(-1) for kind in ("weight", "bias")}

    depth = model.config.num_hidden_layers
    found = pair("model.input_projection", "encoder.input_fc") | pair("head", "regressor")
    found["model.input_projection.bias"] = found["model.input_projection.bias"].reshape(-1)
    found |= pair("model.network.residual", f"{_BLOCKS}.{depth}.projector")
    places = [[f"{block}.conv{number}" for block in range(depth) for number in (1, 2)]] if depth else []
    places += [[f"{depth}.conv1"], [f"{depth}.conv2"]]
    for index, (names, bank) in enumerate(zip(places, model.banks, strict=True)):
        for ours, parts in LAYER.items():
            stacked = [torch.cat([take(f"{_BLOCKS}.{name}.{part}") for part in parts]) for name in names]
            found[f"model.network.banks.{index}.{ours}"] = torch.stack(stacked)
        controller = f"model.network.banks.{index}.calibration.controller.weight"
        found[controller] = _taps_before_inputs(found[controller], bank)
    return found


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


def _taps_before_inputs(weight: Tensor, bank: Bank) -> Tensor:
    """(layers, size, rows x inputs x taps of a chunk) as (layers, size, rows, taps, inputs)."""
    return weight.reshape(*weight.shape[:2], -1, *bank.weight.shape[2:]).mT


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
        inputs, outputs = map(load_file, records)
        reloaded = FSNetForPrediction.from_pretrained(arguments.target)
        forecasts, triggers = replay(reloaded, inputs, learning_rate=config["lr"])
        difference = (forecasts - outputs["predictions"]).abs().max().item()
        same = torch.equal(triggers, outputs["triggers_after_step"].bool())
        print(f"reloaded, {len(forecasts)} online steps: largest difference {difference:.1e}, same triggers: {same}")
        if difference > _TOLERANCE or not same:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
