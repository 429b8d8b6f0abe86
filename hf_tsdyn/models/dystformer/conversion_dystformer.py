"""Turn a reference (Panda) checkpoint into a dystformer, and back.

    python -m hf_tsdyn.models.dystformer.conversion_dystformer SOURCE TARGET [--index-tuples FILE] [--inverse]

SOURCE holds the reference's configuration (`case.json` or `config.json`) and its weights (`reference_state.safetensors`
or `model.safetensors`); TARGET becomes a folder for `from_pretrained`, with `conversion_report.json`. Where SOURCE also
holds recorded inputs and outputs, what comes out is held against them. With --inverse SOURCE is a model, TARGET the
reference's.

Published Panda checkpoints with a dynamics embedding lack the index tuples of its polynomial features, which were
drawn at random when the model was made: without those tuples the model cannot be had, and no other tuples will do. Get
them from whoever trained it (the embedding's `patch_indices` there) and give them as `--index-tuples FILE`: for each
degree K an integer array `degree_K` of shape (num_poly_feats, K), steps of a patch counted from 0, in an .npz,
.safetensors or .json file. A SOURCE may also hold them, as tensors `patch_indices.degree_K`.
"""

from __future__ import annotations

from pathlib import Path
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
    split_all,
)
from ..conversion_report import Check, relative_difference
from .configuration_dystformer import DystformerConfig
from .index_tuples import INDICES, read_index_tuples
from .modeling_dystformer import DystformerForMaskedModeling, DystformerForPrediction

Converted = DystformerForPrediction | DystformerForMaskedModeling

_MODELS = {"predict": DystformerForPrediction, "mlm": DystformerForMaskedModeling}  # by the reference's `mode`
# Fields that mean the same and are called the same in both configurations.
_SHARED_FIELDS = (
    "context_length prediction_length patch_length d_model num_hidden_layers num_attention_heads ffn_dim "
    "channel_attention channel_rope rope_percent max_wavelength num_poly_feats poly_degrees num_rff rff_scale "
    "rff_trainable norm_type norm_eps bias attention_dropout ff_dropout head_dropout pooling_type loss "
    "huber_delta init_std channel_consistent_masking"
).split()
# Those without which nothing could tell whose weights these are.
_SIZES = "context_length prediction_length patch_length d_model num_hidden_layers num_attention_heads ffn_dim".split()
# Reference settings of which only one value exists here.
_REQUIRED_SETTINGS = {
    "distribution_output": None,
    "activation_function": "gelu",
    "pre_norm": True,
    "use_cls_token": False,
    "scaling": "std",
    "mask_type": "random",
    "mask_value": 0,
    "unmasked_channel_indices": None,
}
_REFERENCE_EPSILON = 1e-5
_TOLERANCE = 1e-5
_PROBE_PATCHES = 32  # at most: no weight tells that a context is long
_OF_TRAINING = ("mask_ratio", "mask_shift_rate", "normalize_loss", "quantile_levels", "spread_factor")

# (reference, ours): prefixes and parts of keys, one to one, so that they serve both directions.
_EMBEDDING_KEYS = {
    "linear": (("model.encoder.embedder.input_embedding.", "model.embedding.projection."),),
    "dynamics": (
        ("model.encoder.embedder.freq_weights", "model.embedding.frequencies"),
        ("model.encoder.embedder.freq_biases", "model.embedding.phases"),
        ("model.encoder.embedder.projection.", "model.embedding.projection."),
        ("patch_indices.degree_", "model.embedding.indices_degree_"),
    ),
}
_LAYER_KEYS = (
    ("model.encoder.layers.", "model.layers."),
    (".temporal_self_attn.", ".temporal_attention."),
    (".channel_self_attn.", ".channel_attention."),
    (".norm_sublayer1.", ".temporal_norm."),
    (".norm_sublayer2.", ".channel_norm."),
    (".norm_sublayer3.", ".feed_forward_norm."),
    (".ff.", ".feed_forward."),
)
_MASKED_HEAD_KEYS = (("head.linear.", "reconstruction.projection."),)


def convert_config(config: dict[str, Any]) -> DystformerConfig:
    """Return our configuration of a reference model; its scaling epsilon and loss units are kept.

    Raises: ValueError naming a reference setting that dystformer does not have, or one that is missing or wrong.
    """
    missing = [name for name in _SIZES if name not in config]
    if missing:
        raise ValueError(
            f"a reference's configuration must have {', '.join(_SIZES)}, found no {missing}; give the folder of a "
            "Panda checkpoint, with its config.json."
        )
    for name, value in _REQUIRED_SETTINGS.items():
        if config.get(name, value) != value:
            raise ValueError(
                f"a reference checkpoint must have {name}={value!r} to be converted, found {config[name]!r}; "
                "this architecture has no counterpart of that setting."
            )
    if config.get("patch_stride", config["patch_length"]) != config["patch_length"]:
        raise ValueError(
            f"patch_stride must equal patch_length, found {config['patch_stride']} and "
            f"{config['patch_length']}; overlapping patches have no counterpart here."
        )
    fields = {name: config[name] for name in _SHARED_FIELDS if name in config} | {
        "embedding": "dynamics" if config.get("use_dynamics_embedding", True) else "linear",
        "mask_ratio": config.get("random_mask_ratio", 0.5),
        "scale_masked_values": True,
        "scaling_epsilon": _REFERENCE_EPSILON,
        "relative_scaling_epsilon": False,
        "normalize_loss": False,
    }
    return configured(DystformerConfig, fields)


def convert_reference(state_dict: dict[str, Tensor], config: dict[str, Any]) -> Converted:
    """Return a dystformer with the reference's weights and exactly its outputs, in eval mode.

    A forecaster, or with the reference's mode "mlm" a masked-modelling model.

    Args:
        state_dict: the reference's tensors under its own names, index tuples as `patch_indices.degree_K`.
        config: the reference's configuration.
    Raises: ValueError naming the tensors that are missing, left over or of a wrong shape.
    """
    mode = config.get("mode", "predict")
    if mode not in list(_MODELS):
        raise ValueError(f"a reference's mode must be one of {sorted(_MODELS)} to be converted, found {mode!r}.")
    planned = plan_model(_MODELS[mode], convert_config(config), state_dict)
    pairs = pairs_of(planned)
    named = {name for pair in pairs for name in pair.theirs}
    lacking = sorted(name for name in named - state_dict.keys() if name.startswith(INDICES))
    if lacking:
        raise ValueError(
            f"a reference state must hold the index tuples of its polynomial features, found no {lacking}. The index "
            "tuples of the dynamics embedding are not in published reference files: get them from the process that "
            "trained the model and give them as --index-tuples FILE, or add them to the state under these names."
        )
    joined = join_all(pairs, state_dict, planned, kind="a Panda")
    for name, value in joined.items():
        if "indices_degree" in name:
            _check_indices(name, value, planned.config.patch_length)
    return load_joined(planned, joined)


def _check_indices(name: str, indices: Tensor, patch_length: int) -> None:
    whole = not (indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool)
    indices = indices.long() if whole else indices
    if not whole or (indices.numel() and (indices.min() < 0 or indices.max() >= patch_length)):
        found = f"{indices.min().item()} to {indices.max().item()}" if whole else str(indices.dtype)
        raise ValueError(
            f"index tuples must be whole numbers from 0 to {patch_length - 1}, steps of a patch, found {found} in "
            f"{name}; check where they come from."
        )


def pairs_of(model: Converted) -> list[Pair]:
    """Return what of the model is what of the reference, one to one."""
    pairs = []
    for ours, value in model.state_dict().items():
        theirs = _renamed(ours, model)
        if ours == "model.embedding.phases":
            pairs.append(reshaped(ours, theirs, value.shape, (1, 1, 1, *value.shape)))
        else:
            pairs.append(Pair(ours, (theirs,)))
    return pairs


def reference_settings(model: Converted) -> dict[str, Any]:
    """Return the model's configuration under the reference's names."""
    config, modes = model.config, {model_class: mode for mode, model_class in _MODELS.items()}
    return {name: getattr(config, name) for name in _SHARED_FIELDS} | {
        **_REQUIRED_SETTINGS,
        "mode": modes[type(model)],
        "patch_stride": config.patch_length,
        "use_dynamics_embedding": config.embedding == "dynamics",
        "random_mask_ratio": config.mask_ratio,
    }


def to_reference(model: Converted) -> dict[str, Tensor]:
    """Return the model's tensors under the reference's names and shapes: the inverse of the conversion.

    Raises: ValueError naming settings of the model that the reference does not have.
    """
    check_expressible(model.config, convert_config(reference_settings(model)), of_training=_OF_TRAINING)
    return split_all(pairs_of(model), model)


def _renamed(key: str, model: Converted) -> str:
    pairs = _EMBEDDING_KEYS[model.config.embedding] + _LAYER_KEYS
    if isinstance(model, DystformerForMaskedModeling):
        pairs += _MASKED_HEAD_KEYS
    for theirs, ours in pairs:
        key = key.replace(ours, theirs)
    return key


def _record(model: Converted, inputs: dict[str, Tensor], outputs: dict[str, Tensor], _: dict[str, Any]) -> list[Check]:
    """Outputs in units of each window's scale, as offsets hide differences."""
    with torch.no_grad():
        if isinstance(model, DystformerForMaskedModeling):
            output = model(inputs["past_values"], mask=outputs["mask"])
            scaled = (output.prediction_outputs - output.loc) / output.scale
            patches = scaled.transpose(1, 2).unflatten(2, (-1, model.config.patch_length))
            found = {"completed patches": (patches, outputs["prediction_output"])}
        else:
            output = model(**inputs)
            hidden = model.model(inputs["past_values"]).last_hidden_state
            expected = (outputs["prediction_outputs"] - outputs["loc"]) / outputs["scale"]
            found = {
                "hidden states": (hidden, outputs["last_hidden_state"]),
                "scaled forecasts": ((output.prediction_outputs - output.loc) / output.scale, expected),
                "loc": (output.loc, outputs["loc"]),
                "scale": (output.scale, outputs["scale"]),
            }
    found["loss"] = (output.loss.reshape(1), outputs["loss"])
    return [relative_difference(f"recorded {name}", one, other, _TOLERANCE) for name, (one, other) in found.items()]


def _probe(model: Converted) -> Tensor:
    length = min(model.config.context_length, _PROBE_PATCHES * model.config.patch_length)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, length, 3, generator=generator).to(model.dtype)
    if isinstance(model, DystformerForPrediction):
        return model.forecast(values, prediction_length=2 * model.config.prediction_length + 1)
    hidden = (torch.arange(length) // model.config.patch_length % 2 == 1)[:, None].expand_as(values)
    return model.complete(values, hidden)


CONVERSION = Conversion(
    convert=convert_reference,
    to_reference=to_reference,
    settings=reference_settings,
    models=(DystformerForPrediction, DystformerForMaskedModeling),
    pairs=pairs_of,
    probe=_probe,
    record=_record,
)


def main() -> None:
    """Convert SOURCE into the folder TARGET and say what came out."""
    parser = new_parser("dystformer", __doc__)
    parser.add_argument(
        "--index-tuples", dest="extra", type=Path, metavar="FILE", help="arrays degree_2, degree_3, ... as said above"
    )
    run_command(CONVERSION, parser, read_extra=read_index_tuples)


if __name__ == "__main__":
    main()
