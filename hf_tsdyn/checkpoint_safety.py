"""What is asked of a checkpoint before any of it is loaded, so that one from a stranger can do no harm.

Weights are tensors in safetensors files inside the folder, and nothing else is read: no pickles, no code, no
adapters that point elsewhere, no settings that would fetch kernels or quantizers. Sizes are bounded by the weights, so
that a configuration cannot ask for more memory or layers than the checkpoint fills.
"""

from __future__ import annotations

import copy
import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig
from transformers.utils.hub import cached_file

if TYPE_CHECKING:
    from transformers import PreTrainedModel as _Model
else:
    _Model = object

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
MAX_NUMBER = 2**20
"""Largest whole number of a configuration that weights with fewer values may have."""
MAX_DEPTH = 1024
"""Most layers, and most degrees of monomials."""
MAX_NEW_VALUES = 2**26
"""How many more values than the checkpoint holds a model may have, such as those of a head that is to be trained."""

_DEPTHS = ("num_hidden_layers", "num_layers", "num_decoder_layers", "num_worker_layers", "poly_degrees")
# What transformers would act on at loading: attention from Hub kernels, patches, quantizers, another weights file.
_LOADING_FIELDS = (
    "attn_implementation",
    "experts_implementation",
    "fusion_config",
    "quantization_config",
    "transformers_weights",
)
_SHARD_OF_A_RANK = re.compile(r"shard-\d+-model-\d+-of-\d+\.safetensors")
_WHERE = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


class SafeLoadingMixin(_Model):
    """`from_pretrained` of a model that asks of a checkpoint what this module says, and takes no other weights."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *arguments: Any, **options: Any) -> Any:
        """Load as transformers does, from safetensors files alone; nothing that a checkpoint brings is executed.

        Raises: ValueError on a checkpoint with other weights, with files outside its folder, with settings that would
            load more than weights, or of sizes that its weights do not have.
        """
        if options.pop("use_safetensors", True) is False:
            raise ValueError(
                "use_safetensors must be True, found False; weights are read from safetensors files alone."
            )
        if pretrained_model_name_or_path is not None:
            num_values = check_checkpoint(pretrained_model_name_or_path, **options)
            if num_values is not None:
                _check_size(cls, _configuration(cls, pretrained_model_name_or_path, options), num_values)
        return super().from_pretrained(pretrained_model_name_or_path, *arguments, use_safetensors=True, **options)


def check_checkpoint(name_or_path: str | os.PathLike[str], **options: Any) -> int | None:
    """Return how many values the weights of a folder, file or Hub repository hold; None if there are no such weights.

    Args:
        options: those of `from_pretrained`.
    Raises: ValueError as `SafeLoadingMixin.from_pretrained`, but for sizes that only a model's class can tell.
    """
    path = Path(name_or_path)
    if path.is_file():
        files = [path]
        if path.suffix != ".safetensors":
            raise ValueError(f"weights must be a safetensors file, found {path.name}; {_ADVICE}")
    else:
        where = {name: options[name] for name in _WHERE if options.get(name) is not None}
        _check_adapter(str(name_or_path), where, options.get("adapter_kwargs"))
        _check_pickles(path / where.get("subfolder", ""), options.get("variant"))
        files = _weight_files(str(name_or_path), where, options.get("variant"))
    if not files:
        return None
    num_values = sum(map(_count_values, files))
    if not path.is_file():
        _check_settings(_json_of(str(name_or_path), "config.json", where) or {}, num_values)
    return num_values


_ADVICE = "it is not opened. Have its author save it with save_pretrained, which writes model.safetensors."


def _find(name: str, file: str, where: dict[str, Any]) -> Path | None:
    found = cached_file(
        name,
        file,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **where,
    )
    return None if found is None else Path(found)


def _json_of(name: str, file: str, where: dict[str, Any]) -> Any:
    found = _find(name, file, where)
    if found is None:
        return None
    try:
        content = json.loads(found.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file} must be JSON, found a file that is none ({error}); get the checkpoint anew."
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} must hold a JSON object, found a {type(content).__name__}; get the checkpoint anew.")
    return content


def _check_adapter(name: str, where: dict[str, Any], adapter_kwargs: dict[str, Any] | None) -> None:
    if (adapter_kwargs or {}).get("_adapter_model_path") or _find(name, ADAPTER, where) is not None:
        raise ValueError(
            f"a checkpoint must be a whole model, found an adapter, {ADAPTER}, whose base may be anywhere; merge it "
            "into its base (peft's merge_and_unload), save that, or delete the file if the model is whole."
        )


def _check_pickles(folder: Path, variant: str | None) -> None:
    """Refuse local folders without safetensors that hold other weights; transformers reports those without any."""
    if not folder.is_dir():
        return
    names = sorted(file.name for file in folder.iterdir())
    ranks = [name for name in names if _SHARD_OF_A_RANK.fullmatch(name)]
    if ranks:
        raise ValueError(
            f"a checkpoint must hold {WEIGHTS}, found {ranks[0]}, one process's part of a distributed run; gather the "
            "parts where they were made."
        )
    if not {_with_variant(WEIGHTS, variant), _with_variant(INDEX, variant)} & set(names):
        pickles = [name for name in names if name.endswith((".bin", ".bin.index.json", ".pt", ".pth", ".ckpt", ".pkl"))]
        if pickles:
            raise ValueError(f"a checkpoint must hold {WEIGHTS}, found {pickles[0]}, which may run code; {_ADVICE}")


def _with_variant(file: str, variant: str | None) -> str:
    stem, _, suffix = file.rpartition(".")
    return file if variant is None else f"{stem}.{variant}.{suffix}"


def _weight_files(name: str, where: dict[str, Any], variant: str | None) -> list[Path]:
    single = _find(name, _with_variant(WEIGHTS, variant), where)
    if single is not None:
        return [single]
    index = _json_of(name, _with_variant(INDEX, variant), where)
    if index is None:
        return []
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not isinstance(index.get("metadata"), dict):
        raise ValueError(f"{INDEX} must hold weight_map and metadata, found {sorted(index)}; get the checkpoint anew.")
    return [_shard(name, file, where) for file in sorted({str(file) for file in shards.values()})]


def _shard(name: str, file: str, where: dict[str, Any]) -> Path:
    if Path(file).name != file or "\\" in file or not file.endswith(".safetensors"):
        raise ValueError(
            f"{INDEX} must name safetensors files beside it, found {file!r}; do not use it unless you know "
            "where it comes from."
        )
    found = _find(name, file, where)
    if found is None:
        raise FileNotFoundError(f"{INDEX} must name files that are there, found none called {file!r}; get it anew.")
    return found


def _count_values(file: Path) -> int:
    try:
        with safe_open(file, framework="pt") as tensors:  # its header is bounded and checked against the file's length
            return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.offset_keys())
    except SafetensorError as error:
        raise ValueError(
            f"{file.name} must be a whole safetensors file, found: {error}; get the checkpoint anew."
        ) from None


def _check_settings(settings: dict[str, Any], num_values: int) -> None:
    """Raise ValueError on settings that load more than weights, or numbers that no weights of this size go with."""
    acting = [name for name in _LOADING_FIELDS if settings.get(name) is not None]
    if acting:
        raise ValueError(
            f"config.json must not decide what is loaded beside weights, found {acting[0]}={settings[acting[0]]!r}; "
            "delete it there, and give it to from_pretrained yourself if you want it."
        )
    largest = max(MAX_NUMBER, num_values)
    for name, number in _whole_numbers(settings):
        limit = MAX_DEPTH if name in _DEPTHS else largest
        if number > limit:
            raise ValueError(
                f"{name} of config.json must be at most {limit} with weights of {num_values} values, found {number}; "
                "check that configuration and weights belong together."
            )


def _whole_numbers(settings: dict[str, Any]) -> Iterator[tuple[str, int]]:
    for name, value in settings.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, dict) and name != "provenance":
                yield from _whole_numbers(each)
            elif isinstance(each, int):
                yield name, each


def _configuration(model_class: type, name_or_path: Any, options: dict[str, Any]) -> PreTrainedConfig:
    config = options.get("config")
    if isinstance(config, PreTrainedConfig):
        return config
    config_class: Any = model_class.config_class  # pyright: ignore[reportAttributeAccessIssue]
    known = {*_WHERE, *(field.name for field in fields(config_class))}
    chosen = {name: value for name, value in options.items() if name in known and value is not None}
    return config_class.from_pretrained(name_or_path if config is None else config, **chosen)


def _check_size(model_class: Any, config: PreTrainedConfig, num_values: int) -> None:
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


__all__ = ["SafeLoadingMixin", "check_checkpoint"]
