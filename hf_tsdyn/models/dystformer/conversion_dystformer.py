"""Turn a reference (Panda) checkpoint into a dystformer, and back.

    python -m hf_tsdyn.models.dystformer.conversion_dystformer SOURCE TARGET

SOURCE holds the reference's configuration (`case.json` or `config.json`) and its weights
(`reference_state.safetensors` or `model.safetensors`); TARGET becomes a folder for `from_pretrained`.
Reference checkpoints with a dynamics embedding must carry their index tuples as
`patch_indices.degree_2`, `patch_indices.degree_3`: the published files lack them, and no other tuples will do.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from .configuration_dystformer import DystformerConfig
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

    Raises: ValueError naming a reference setting that dystformer does not have.
    """
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
    return DystformerConfig(
        **{name: config[name] for name in _SHARED_FIELDS if name in config},
        embedding="dynamics" if config.get("use_dynamics_embedding", True) else "linear",
        mask_ratio=config.get("random_mask_ratio", 0.5),
        scale_masked_values=True,
        scaling_epsilon=_REFERENCE_EPSILON,
        relative_scaling_epsilon=False,
        normalize_loss=False,
    )


def _renamed(key: str, model: Converted, *, to_reference: bool) -> str:
    pairs = _EMBEDDING_KEYS[model.config.embedding] + _LAYER_KEYS
    if isinstance(model, DystformerForMaskedModeling):
        pairs += _MASKED_HEAD_KEYS
    for theirs, ours in pairs:
        key = key.replace(ours, theirs) if to_reference else key.replace(theirs, ours)
    return key


def convert_reference(state_dict: dict[str, Tensor], config: dict[str, Any]) -> Converted:
    """Return a dystformer with the reference's weights and exactly its outputs, in eval mode.

    A forecaster, or with the reference's mode "mlm" a masked-modelling model.

    Args:
        state_dict: the reference's tensors under its own names, index tuples as `patch_indices.degree_K`.
        config: the reference's configuration.
    Raises: ValueError naming the tensors that are missing or left over.
    """
    mode = config.get("mode", "predict")
    if mode not in _MODELS:
        raise ValueError(f"a reference's mode must be one of {sorted(_MODELS)} to be converted, found {mode!r}.")
    model = _MODELS[mode](convert_config(config))
    state = {_renamed(key, model, to_reference=False): value for key, value in state_dict.items()}
    if "model.embedding.phases" in state:
        state["model.embedding.phases"] = state["model.embedding.phases"].flatten()
    expected = model.state_dict()
    missing, surplus = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or surplus:
        hint = (
            " The index tuples of the dynamics embedding are not in published reference files: get them from "
            "the process that trained the model and add them as patch_indices.degree_2 and patch_indices.degree_3."
            if any("indices_degree" in key for key in missing)
            else ""
        )
        raise ValueError(
            "a reference state must hold the tensors of its configuration, found "
            f"missing {missing[:4]} and left over {surplus[:4]}; check that weights and configuration belong "
            f"together.{hint}"
        )
    model.load_state_dict(state)
    return model.eval()


def to_reference(model: Converted) -> dict[str, Tensor]:
    """Return the model's tensors under the reference's names and shapes: the inverse of the conversion."""
    state = {_renamed(key, model, to_reference=True): value for key, value in model.state_dict().items()}
    phases = "model.encoder.embedder.freq_biases"
    if phases in state:
        state[phases] = state[phases].reshape(1, 1, 1, -1)
    return state


def _find(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder} must hold {' or '.join(names)}, found neither; check the path.")


def _probe(model: Converted, values: Tensor) -> Tensor:
    if isinstance(model, DystformerForPrediction):
        return model.forecast(values, prediction_length=2 * model.config.prediction_length + 1)
    length = values.shape[1]
    return model.complete(
        values, (torch.arange(length) // model.config.patch_length % 2 == 1)[:, None].expand_as(values)
    )


def main() -> None:
    """Convert the folder SOURCE into the folder TARGET and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with the reference's configuration and weights")
    parser.add_argument("target", type=Path, help="folder to write config.json and model.safetensors to")
    arguments = parser.parse_args()
    config = json.loads(_find(arguments.source, ("case.json", "config.json")).read_text())
    state = load_file(_find(arguments.source, ("reference_state.safetensors", "model.safetensors")))
    model = convert_reference(state, config)
    model.save_pretrained(arguments.target)
    reloaded = type(model).from_pretrained(arguments.target)
    probe = torch.randn(2, model.config.context_length, 3, generator=torch.Generator().manual_seed(0))
    same = torch.equal(_probe(model, probe), _probe(reloaded, probe))
    print(f"{len(state)} tensors mapped, {model.num_parameters():,} parameters -> {arguments.target}")
    print(f"{type(model).__name__}, reloaded and run on a probe: {'bit-equal' if same else 'DIFFERENT'}")
    if not same:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
