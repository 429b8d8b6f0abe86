"""The Chronos model that a run starts from: new, or a checkpoint's, for other lengths of windows."""

import math
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, T5Config

from hf_tsdyn.baselines.chronos import Family, family_of, model_class_of, require_chronos
from hf_tsdyn.checkpoint_safety import check_checkpoint, pinned
from hf_tsdyn.checkpoint_settings import check_size
from training.chronos_config import (
    NEW_CONTEXT_LENGTH,
    NEW_PREDICTION_LENGTH,
    BoltSizes,
    Chronos2Sizes,
    ChronosRunConfig,
    T5Sizes,
    TransformerSizes,
)
from training.lora import LoraOptions
from training.run_config import split_revision

if TYPE_CHECKING:
    from peft import PeftModel


class ChronosStart(NamedTuple):
    """A model and the windows to train it on."""

    model: PreTrainedModel
    family: Family
    context_length: int
    prediction_length: int


def build_start(config: ChronosRunConfig) -> ChronosStart:
    """Return the model to train, without adapters, in float32.

    Raises: ModuleNotFoundError without the package chronos; ValueError if the checkpoint is not of Chronos, cannot
        take the windows, or as `hf_tsdyn.checkpoint_safety` says; OSError if there is none, or none in safetensors.
    """
    require_chronos()
    if config.checkpoint is not None:
        return _from_checkpoint(config, config.checkpoint)
    context_length = config.context_length or NEW_CONTEXT_LENGTH
    prediction_length = config.prediction_length or NEW_PREDICTION_LENGTH
    if config.chronos_t5 is not None:
        family, model_config = "chronos_t5", _t5_config(config.chronos_t5, context_length, prediction_length)
    elif config.chronos_bolt is not None:
        family, model_config = "chronos_bolt", _bolt_config(config.chronos_bolt, context_length, prediction_length)
    else:
        sizes = cast(Chronos2Sizes, config.chronos_2)
        family, model_config = "chronos_2", _chronos_2_config(sizes, context_length, prediction_length)
    return ChronosStart(model_class_of(model_config)(model_config), family, context_length, prediction_length)


def _sizes(sizes: TransformerSizes) -> dict[str, Any]:
    """What configurations of all families are built with."""
    names = ("d_model", "d_kv", "d_ff", "num_layers", "num_heads", "dropout_rate", "initializer_factor")
    return {name: getattr(sizes, name) for name in names} | {"feed_forward_proj": "relu", "pad_token_id": 0}


def _t5_config(sizes: T5Sizes, context_length: int, prediction_length: int) -> PreTrainedConfig:
    tokens = {"n_tokens": sizes.num_tokens, "n_special_tokens": 2, "pad_token_id": 0, "eos_token_id": 1}
    sampling = {"num_samples": 20, "temperature": 1.0, "top_k": 50, "top_p": 1.0}
    chronos: dict[str, Any] = {
        "tokenizer_class": "MeanScaleUniformBins",
        "tokenizer_kwargs": {"low_limit": -sizes.bin_limit, "high_limit": sizes.bin_limit},
        "model_type": "seq2seq",
        "use_eos_token": True,
        "context_length": context_length,
        "prediction_length": prediction_length,
    }
    fields = _sizes(sizes) | {"vocab_size": sizes.num_tokens, "eos_token_id": 1, "decoder_start_token_id": 0}
    chronos |= tokens | sampling
    return T5Config(**fields, chronos_config=chronos)  # pyright: ignore[reportCallIssue]


def _bolt_config(sizes: BoltSizes, context_length: int, prediction_length: int) -> PreTrainedConfig:
    chronos = _patches(sizes, context_length) | {"prediction_length": prediction_length}
    fields = _sizes(sizes) | {"vocab_size": 2, "decoder_start_token_id": 0, "chronos_config": chronos}
    return T5Config(**fields, chronos_pipeline_class="ChronosBoltPipeline")  # pyright: ignore[reportCallIssue]


def _chronos_2_config(sizes: Chronos2Sizes, context_length: int, prediction_length: int) -> PreTrainedConfig:
    from chronos.chronos2.config import Chronos2CoreConfig

    chronos = _patches(sizes, context_length) | {
        "output_patch_size": sizes.patch_length,
        "max_output_patches": math.ceil(prediction_length / sizes.patch_length),
        "use_arcsinh": True,
    }
    return Chronos2CoreConfig(**_sizes(sizes), chronos_pipeline_class="Chronos2Pipeline", chronos_config=chronos)


def _patches(sizes: BoltSizes | Chronos2Sizes, context_length: int) -> dict[str, Any]:
    """What Bolt and Chronos-2 are told of their input and of their quantiles."""
    return {
        "context_length": context_length,
        "input_patch_size": sizes.patch_length,
        "input_patch_stride": sizes.patch_length,
        "quantiles": list(sizes.quantile_levels),
        "use_reg_token": True,
    }


def _from_checkpoint(config: ChronosRunConfig, checkpoint: str) -> ChronosStart:
    checkpoint, revision = split_revision(checkpoint)
    place = pinned(checkpoint, revision)
    num_values = check_checkpoint(checkpoint, **place) or 0
    model_class = model_class_of(AutoConfig.from_pretrained(checkpoint, trust_remote_code=False, **place))
    model_config = model_class.config_class.from_pretrained(checkpoint, **place)
    family = family_of(model_config)
    chronos = model_config.chronos_config
    native = chronos.get("prediction_length") or chronos["max_output_patches"] * chronos["output_patch_size"]
    context_length = config.context_length or chronos["context_length"]
    prediction_length = config.prediction_length or native
    if family == "chronos_bolt" and prediction_length > native:
        raise ValueError(
            f"prediction_length must be at most the {native} steps that the checkpoint puts out at once, found "
            f"{prediction_length}; lower it: longer forecasts go on block by block."
        )
    if config.lora is not None and family != "chronos_2":
        raise ValueError(f"lora must adapt a Chronos-2 checkpoint, found one of family {family!r}; leave lora out.")
    if chronos.get("model_type") == "causal":
        raise ValueError(
            f"a Chronos-T5 checkpoint must have a decoder of its own, found a causal model in {checkpoint}."
        )
    chronos["context_length"] = max(chronos["context_length"], context_length)
    if family == "chronos_t5":
        chronos["prediction_length"] = prediction_length
    if family == "chronos_2":
        patches = math.ceil(prediction_length / chronos["output_patch_size"])
        chronos["max_output_patches"] = max(chronos["max_output_patches"], patches)
    check_size(model_class, model_config, num_values)
    options = {"config": model_config, "dtype": "float32", "use_safetensors": True, "trust_remote_code": False}
    model = model_class.from_pretrained(checkpoint, **options, **place)
    return ChronosStart(model, family, context_length, prediction_length)


def add_chronos_adapter(model: PreTrainedModel, options: LoraOptions) -> "PeftModel":
    """Freeze a Chronos-2 and return it with an adapter, which changes nothing until it is trained.

    By default every linear map of the encoder is adapted: those of both kinds of attention and of the feed-forward
    maps. The head that is trained in full is the map from the last layer to patches of quantiles.

    Raises: ValueError if a name of `target_modules` is no linear map's.
    """
    from peft import LoraConfig, get_peft_model

    parts = {"self_attention": "q k v o", "mlp": "wi wo"}
    inside = [f"{part}.{name}" for part, names in parts.items() for name in names.split()]
    targets = list(options.target_modules or inside)
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    unknown = [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in names)]
    if unknown:
        raise ValueError(
            f"lora.target_modules must end names of linear maps, found {unknown}; those of the encoder are {inside}."
        )
    config = LoraConfig(
        r=options.rank,
        lora_alpha=cast(int, options.alpha),  # peft takes any number, whatever its annotation says
        lora_dropout=options.dropout,
        target_modules=targets,
        modules_to_save=["output_patch_embedding"] if options.train_head else None,
    )
    with warnings.catch_warnings():  # peft asks for a property that transformers has renamed
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        return cast("PeftModel", get_peft_model(model, config))
