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
from .modeling_dystformer import DystformerForPrediction

# Fields that mean the same and are called the same in both configurations.
_SHARED_FIELDS = (
    "context_length prediction_length patch_length d_model num_hidden_layers num_attention_heads ffn_dim "
    "channel_attention channel_rope rope_percent max_wavelength num_poly_feats poly_degrees num_rff rff_scale "
    "rff_trainable norm_type norm_eps bias attention_dropout ff_dropout head_dropout pooling_type loss "
    "huber_delta init_std"
).split()
# Reference settings of which only one value exists here.
_REQUIRED_SETTINGS = {
    "distribution_output": None,
    "activation_function": "gelu",
    "pre_norm": True,
    "use_cls_token": False,
    "scaling": "std",
    "mode": "predict",
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
        scaling_epsilon=_REFERENCE_EPSILON,
        relative_scaling_epsilon=False,
        normalize_loss=False,
    )


def _renamed(key: str, embedding: str, *, to_reference: bool) -> str:
    for theirs, ours in _EMBEDDING_KEYS[embedding] + _LAYER_KEYS:
        key = key.replace(ours, theirs) if to_reference else key.replace(theirs, ours)
    return key


def convert_reference(state_dict: dict[str, Tensor], config: dict[str, Any]) -> DystformerForPrediction:
    """Return a dystformer with the reference's weights and exactly its outputs, in eval mode.

    Args:
        state_dict: the reference's tensors under its own names, index tuples as `patch_indices.degree_K`.
        config: the reference's configuration.
    Raises: ValueError naming the tensors that are missing or left over.
    """
    model = DystformerForPrediction(convert_config(config))
    embedding = model.config.embedding
    state = {_renamed(key, embedding, to_reference=False): value for key, value in state_dict.items()}
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


def to_reference(model: DystformerForPrediction) -> dict[str, Tensor]:
    """Return the model's tensors under the reference's names and shapes: the inverse of the conversion."""
    embedding = model.config.embedding
    state = {_renamed(key, embedding, to_reference=True): value for key, value in model.state_dict().items()}
    phases = "model.encoder.embedder.freq_biases"
    if phases in state:
        state[phases] = state[phases].reshape(1, 1, 1, -1)
    return state


def _find(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder} must hold {' or '.join(names)}, found neither; check the path.")


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
    reloaded = DystformerForPrediction.from_pretrained(arguments.target)
    probe = torch.randn(2, model.config.context_length, 3, generator=torch.Generator().manual_seed(0))
    length = 2 * model.config.prediction_length + 1
    same = torch.equal(
        model.forecast(probe, prediction_length=length), reloaded.forecast(probe, prediction_length=length)
    )
    print(f"{len(state)} tensors mapped, {model.num_parameters():,} parameters -> {arguments.target}")
    print(f"reloaded and forecast {length} steps of a probe: {'bit-equal' if same else 'DIFFERENT'}")
    if not same:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
