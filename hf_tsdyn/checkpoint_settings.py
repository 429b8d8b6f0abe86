"""What is asked of a checkpoint's config.json, and of the model that it describes, before any of it is built."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from transformers import CONFIG_MAPPING, PreTrainedConfig

MAX_NUMBER = 2**20
"""Largest whole number of a configuration that weights with fewer values may have."""
MAX_DEPTH = 1024
"""Most layers, and most degrees of monomials."""
MAX_LEVELS = 32
"""Of lists and objects in each other."""
MAX_NEW_VALUES = 2**26
"""How many more values than the checkpoint holds a model may have, such as those of a head that is to be trained."""

_DEPTHS = ("num_hidden_layers", "num_layers", "num_decoder_layers", "num_worker_layers", "poly_degrees")
# What transformers would act on at loading: attention from Hub kernels, patches, quantizers, other files.
_LOADING_FIELDS = (
    "attn_implementation",
    "configuration_files",
    "distributed_config",
    "experts_implementation",
    "fusion_config",
    "quantization_config",
    "transformers_weights",
)
# What transformers writes, or wrote, and reads without acting on it; the code that auto_map names is not run.
_HARMLESS = {
    "_commit_hash",
    "_name_or_path",
    "auto_map",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "rope_scaling",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "use_return_dict",
}


def check_settings(settings: dict[str, Any], num_values: int, config_class: type | None = None) -> None:
    """Raise unless a configuration holds nothing but settings of a model, of sizes that its weights may have.

    Args:
        settings: the content of config.json. num_values: of the weights.
        config_class: of the model that is loaded; by default the one that `model_type` names.
    Raises: ValueError on settings that load more than weights or take the place of what the configuration's class
        does, or on numbers that no weights of this size go with.
    """
    named = settings.get("model_type")
    if config_class is None:
        config_class = PreTrainedConfig
        if isinstance(named, str) and named in CONFIG_MAPPING:
            config_class = CONFIG_MAPPING[named]
    elif named not in (None, config_class.model_type):  # pyright: ignore[reportAttributeAccessIssue]
        expected = config_class.model_type  # pyright: ignore[reportAttributeAccessIssue]
        raise ValueError(
            f"model_type of config.json must be {expected!r}, found {named!r}; load it as what it is, by "
            "AutoModelForTimeSeriesPrediction."
        )
    _check_names(settings, config_class)
    for name in ("dtype", "torch_dtype"):
        check_dtype(settings.get(name))
    _check_numbers(settings, num_values)


def check_dtype(dtype: Any) -> None:
    """Raise ValueError unless it is None, "auto", a type of torch, or the name of one."""
    named = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype not in (None, "auto") and not isinstance(named, torch.dtype | dict):
        raise ValueError(f"dtype must be 'auto' or a floating-point type of torch like 'bfloat16', found {dtype!r}.")


def check_size(model_class: Any, config: PreTrainedConfig, num_values: int) -> None:
    """Raise ValueError if a configuration's model cannot be built, or has far more values than its weights."""
    try:
        with torch.device("meta"):
            wanted = sum(tensor.numel() for tensor in model_class(copy.deepcopy(config)).state_dict().values())
    except RuntimeError as error:  # sizes beyond what a tensor can have
        raise ValueError(
            f"a configuration must describe a model that can be built, found none ({error}); check its sizes."
        ) from None
    if wanted > num_values + MAX_NEW_VALUES:
        raise ValueError(
            f"config.json must describe the model of its weights, found weights of {num_values} values for a model of "
            f"{wanted}; check that they belong together."
        )


def _check_names(settings: dict[str, Any], config_class: type) -> None:
    fields = {field.name for field in dataclasses.fields(config_class)}  # pyright: ignore[reportArgumentType]
    given = [name for name, value in settings.items() if value is not None]
    acting = [name for name in given if name.lstrip("_") in _LOADING_FIELDS]
    if acting:
        raise ValueError(
            f"config.json must not decide what is loaded beside weights, found {acting[0]}={settings[acting[0]]!r}; "
            "delete it there, and give it to from_pretrained yourself if you want it."
        )
    other = [name for name in given if name not in fields | _HARMLESS]
    replacing = [name for name in other if name.startswith("_") or hasattr(config_class, name)]
    if replacing:
        raise ValueError(
            f"config.json must hold settings alone, found {replacing[0]}, which is how {config_class.__name__} works; "
            "delete it there."
        )
    auto_map = settings.get("auto_map")
    if auto_map is not None and not (
        isinstance(auto_map, dict) and all(isinstance(value, str | list | None) for value in auto_map.values())
    ):
        raise ValueError(f"auto_map of config.json must map names to names, found {auto_map!r}; delete it there.")


def _check_numbers(settings: dict[str, Any], num_values: int) -> None:
    largest = max(MAX_NUMBER, num_values)
    for name, number in _whole_numbers(settings):
        limit = MAX_DEPTH if name in _DEPTHS else largest
        if number > limit:
            raise ValueError(
                f"{name} of config.json must be at most {limit} with weights of {num_values} values, found {number}; "
                "check that configuration and weights belong together."
            )


def _whole_numbers(settings: dict[str, Any], level: int = 0) -> Iterator[tuple[str, int]]:
    if level > MAX_LEVELS:
        raise ValueError(f"config.json must be nested at most {MAX_LEVELS} levels deep, found more; get it anew.")
    for name, value in settings.items():
        if name == "provenance":
            continue
        if isinstance(value, dict):
            yield from _whole_numbers(value, level + 1)
        elif isinstance(value, list):
            for each in value:
                yield from _whole_numbers({name: each}, level + 1)
        elif isinstance(value, int):
            yield name, value
