"""What is asked of a checkpoint before any of it is loaded, so that one from a stranger can do no harm.

Weights are tensors in safetensors files inside the folder, and nothing else is read: no pickles, no code, no
adapters that point elsewhere, no settings that would fetch kernels or quantizers. Sizes are bounded by the weights, so
that a configuration cannot ask for more memory or layers than the checkpoint fills.
"""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig
from transformers.utils.hub import cached_file, resolve_revision

from .checkpoint_settings import check_dtype, check_settings, check_size

if TYPE_CHECKING:
    from transformers import PreTrainedModel as _Model
else:
    _Model = object

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
MAX_TENSORS = 2**16
"""Most tensors of a file: headers of many take long to read."""

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
        name = pretrained_model_name_or_path
        if name is not None:
            for given in ("dtype", "torch_dtype"):
                check_dtype(options.get(given))
            options |= pinned(name, options)
            config = options.get("config")
            settings_class = cls.config_class if config is None else None
            num_values = check_checkpoint(name, config_class=settings_class, **options)
            if num_values is None:
                raise _no_weights(name, options.get("variant"))
            check_size(cls, _configuration(cls, name, options), num_values)
        return super().from_pretrained(pretrained_model_name_or_path, *arguments, use_safetensors=True, **options)


def check_checkpoint(
    name_or_path: str | os.PathLike[str], *, config_class: type | None = None, **options: Any
) -> int | None:
    """Return how many values the weights of a folder or Hub repository hold; None if there are no such weights.

    Args:
        config_class: that config.json must be of; by default the one that it names.
        options: those of `from_pretrained`.
    Raises: ValueError as `SafeLoadingMixin.from_pretrained`, but for sizes that only a model's class can tell;
        FileNotFoundError if there is no such folder, and the name is no repository's.
    """
    path = Path(name_or_path)
    where = _where(options)
    _check_place(name_or_path, where)
    _check_adapter(str(name_or_path), where, options.get("adapter_kwargs"))
    _check_pickles(path / where.get("subfolder", ""), options.get("variant"))
    files = _weight_files(str(name_or_path), where, options.get("variant"))
    num_values = sum(map(count_values, files))
    check_settings(_json_of(str(name_or_path), "config.json", where) or {}, num_values, config_class)
    return num_values if files else None


def pinned(name_or_path: str | os.PathLike[str], options: dict[str, Any]) -> dict[str, Any]:
    """Return `revision` as the commit that it is now, so that what is checked is what is loaded; {} of a folder.

    Raises: FileNotFoundError as `check_checkpoint`; OSError if the Hub has no such repository, or cannot be asked.
    """
    where = _where(options)
    _check_place(name_or_path, where)
    if Path(name_or_path).is_dir():
        return {}
    _check_repository(str(name_or_path), where)
    asked = {name: options[name] for name in ("token", "local_files_only", "cache_dir") if name in options}
    revision = resolve_revision(name_or_path, options.get("revision"), **asked)
    return {} if revision is None else {"revision": revision}


def _where(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in _WHERE if options.get(name) is not None}


def _check_place(name_or_path: str | os.PathLike[str], where: dict[str, Any]) -> None:
    """Refuse a path that is not there before the Hub is asked for it, time and again, as for a repository."""
    path, name = Path(name_or_path), str(name_or_path)
    if path.is_file():
        raise ValueError(f"a checkpoint must be a folder, found the file {path.name}; {_ADVICE}")
    if path.is_dir():
        return
    local = path.is_absolute() or name.startswith((".", "~")) or path.parts[0] in ("model_cards", "runs")
    if not local and len(path.parts) == 2 and Path(path.parts[0]).is_dir():
        cached = {"cache_dir": where.get("cache_dir"), "local_files_only": True}
        local = _find(name, "config.json", cached) is None
    if local or len(path.parts) != 2:
        raise FileNotFoundError(
            f"a checkpoint must be a folder, or a Hub repository like NAME/MODEL, found neither at {name!r} from "
            f"{Path.cwd()}; check the path."
        )


def _check_repository(name: str, where: dict[str, Any]) -> None:
    try:
        cached_file(name, "config.json", **where)
    except OSError as error:
        if error.__cause__ is None:  # the repository is there, without that file
            return
        raise OSError(
            f"a checkpoint must be a folder, or a Hub repository like NAME/MODEL, found no folder {name!r} in "
            f"{Path.cwd()}, and of the Hub: {error}"
        ) from error


def _no_weights(name_or_path: str | os.PathLike[str], variant: str | None) -> OSError:
    wanted, place = _with_variant(WEIGHTS, variant), str(name_or_path)
    if Path(place, "README.md").is_file():
        return FileNotFoundError(
            f"a checkpoint must hold {wanted}, found none in {place}; it may ship without: its README.md says why."
        )
    return FileNotFoundError(
        f"a checkpoint must hold {wanted}, found none at {place}; check the name, and the connection if it lies on "
        "the Hub."
    )


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
    """Refuse local folders without safetensors that hold other weights; `_no_weights` is said of those without any."""
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
            wanted = _with_variant(WEIGHTS, variant)
            raise ValueError(f"a checkpoint must hold {wanted}, found {pickles[0]}, which may run code; {_ADVICE}")


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
    if not shards:
        raise ValueError(f"{INDEX} must name the file of every tensor, found none; get the checkpoint anew.")
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


def count_values(file: Path) -> int:
    """Return how many values a safetensors file holds; ValueError if it is damaged, or of too many tensors."""
    try:
        with safe_open(file, framework="pt") as tensors:  # its header is bounded and checked against the file's length
            names = tensors.offset_keys()
            if len(names) > MAX_TENSORS:
                raise ValueError(
                    f"{file.name} must hold at most {MAX_TENSORS} tensors, found {len(names)}; get the checkpoint anew."
                )
            return sum(math.prod(tensors.get_slice(name).get_shape()) for name in names)
    except SafetensorError as error:
        raise ValueError(
            f"{file.name} must be a whole safetensors file, found: {error}; get the checkpoint anew."
        ) from None


def _configuration(model_class: type, name_or_path: Any, options: dict[str, Any]) -> PreTrainedConfig:
    config = options.get("config")
    if isinstance(config, PreTrainedConfig):
        return config
    config_class: Any = model_class.config_class  # pyright: ignore[reportAttributeAccessIssue]
    known = {*_WHERE, *(field.name for field in fields(config_class))}
    chosen = {name: value for name, value in options.items() if name in known and value is not None}
    return config_class.from_pretrained(name_or_path if config is None else config, **chosen)


__all__ = ["SafeLoadingMixin", "check_checkpoint", "count_values", "pinned"]
