"""Learners on disk: what builds them as JSON, everything that moves as safetensors, replaced as a whole."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from ..baselines import BASELINES, LagDesign, Ridge, SeasonalNaive
from ..checkpoint_safety import count_values
from ..checkpoint_settings import check_settings, check_size
from ..forecasting import Forecaster
from ..models import ARCHITECTURES
from .learner import LEARNERS, OnlineLearner

FORMAT_VERSION = 1
_DESCRIPTION = "learner.json"
_STATE = "state.safetensors"
_FORECASTER = "forecaster"
_SIMPLE: dict[str, Any] = BASELINES | {"seasonal_naive": SeasonalNaive}
"""Baselines that are all in their options, by name."""
_ATTENTION = ("eager", "sdpa", "flex_attention", "flash_attention_2")
_DTYPES = {
    str(each).removeprefix("torch."): each for each in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
}
# Learners rebuild their forecasters, and each other, from a folder alone: of the values of the state, those that none
# of them has claimed yet.
_UNCLAIMED: ContextVar[int] = ContextVar("unclaimed")


def save_learner(learner: OnlineLearner, folder: str | os.PathLike[str]) -> None:
    """Write a learner to `folder`, in place of one that is there; a write that is cut short leaves the old one.

    Raises: TypeError if the learner, or what it holds, cannot be saved; ValueError if `folder` holds something else.
    """
    folder = Path(folder).resolve()
    if folder.exists() and not (folder / _DESCRIPTION).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"folder must be new, empty or hold a learner, found {str(folder)!r}; choose another.")
    part, old = _part(folder), _old(folder)
    for leftover in (part, old) if folder.exists() else (part,):
        shutil.rmtree(leftover, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        describe_learner(learner, part)
        save_file(learner.state_dict(), part / _STATE)
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def load_learner(folder: str | os.PathLike[str]) -> OnlineLearner:
    """Return the learner that was saved to `folder`, on the CPU; it goes on as the saved one would have, to the bit.

    Nothing of the folder is executed, and its forecasters may not be larger than its state.

    Raises: FileNotFoundError if nothing was saved there; ValueError if it is damaged, or of a kind or format that is
        not known.
    """
    folder = Path(folder).resolve()
    # The instant between moving the old one away and the new one in is the only one without `folder`.
    found = folder if folder.exists() else _old(folder)
    if not (found / _DESCRIPTION).is_file() or not (found / _STATE).is_file():
        raise FileNotFoundError(
            f"a saved learner must hold {_DESCRIPTION} and {_STATE}, found none in {str(folder)!r}; check the path."
        )
    reset = _UNCLAIMED.set(count_values(found / _STATE))
    try:
        with _errors_of(found):
            learner = rebuild_learner(found)
            learner.load_state_dict(load_file(found / _STATE))
    finally:
        _UNCLAIMED.reset(reset)
    return learner


@contextmanager
def _errors_of(folder: Path) -> Iterator[None]:
    """Say of whatever a learner makes of a damaged folder that it is damaged."""
    try:
        yield
    except (
        *(ArithmeticError, AttributeError, LookupError, RuntimeError, StrictDataclassError, TypeError),
        *(json.JSONDecodeError, UnicodeDecodeError),
    ) as error:
        raise ValueError(
            f"{str(folder)!r} must hold a learner as save_learner wrote it, found {type(error).__name__}: "
            f"{' '.join(str(error).split())}; get it anew."
        ) from error


def describe_learner(learner: OnlineLearner, folder: Path) -> None:
    """Write to `folder`, made where needed, what builds an equal learner, its state apart; for learners in learners.

    Raises: TypeError if it, or what it holds, cannot be saved.
    """
    if learner.kind is None:
        raise TypeError(
            f"a learner must name its kind to be saved, found {type(learner).__name__} without one; name it in the "
            'class statement: class Mine(OnlineLearner, kind="mine").'
        )
    folder.mkdir(parents=True, exist_ok=True)
    content = {"format_version": FORMAT_VERSION, "kind": learner.kind, "description": learner._describe(folder)}
    (folder / _DESCRIPTION).write_text(json.dumps(content, indent=2) + "\n")


def rebuild_learner(folder: Path) -> OnlineLearner:
    """Build the learner that `describe_learner` described, in its first state; within `load_learner` alone.

    Raises: as `load_learner`.
    """
    file = folder / _DESCRIPTION
    if not file.is_file():
        raise FileNotFoundError(f"a saved learner must hold {_DESCRIPTION}, found none in {str(folder)!r}.")
    content = json.loads(file.read_text())
    if content["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"{file} must have format version {FORMAT_VERSION}, found {content['format_version']}; save it again, or "
            "use the version of hf_tsdyn that wrote it."
        )
    if content["kind"] not in LEARNERS:
        raise ValueError(
            f"the learner's kind must be one of {sorted(LEARNERS)}, found {content['kind']!r}; import the module that "
            "defines it first."
        )
    return LEARNERS[content["kind"]]._rebuild(folder, content["description"])


def describe_forecaster(forecaster: Forecaster | PreTrainedModel, folder: Path) -> dict[str, Any]:
    """Return, as JSON, what builds an equal forecaster, `forecaster_state` apart; a configuration goes to `folder`.

    Raises: TypeError unless it is a model of ours, a ridge, a seasonal naive forecast or of `BASELINES`.
    """
    if isinstance(forecaster, PreTrainedModel) and type(forecaster) in ARCHITECTURES.values():
        forecaster.config.save_pretrained(folder / _FORECASTER)
        attention = forecaster.config._attn_implementation
        return {"dtype": str(forecaster.dtype).removeprefix("torch."), "attention": attention}
    if type(forecaster) is Ridge:
        return {"design": asdict(forecaster.design)}
    for name, baseline in _SIMPLE.items():
        if type(forecaster) is baseline:
            return {"baseline": name, "options": asdict(cast(Any, forecaster))}
    raise TypeError(
        f"a forecaster must be one of {sorted(each.__name__ for each in ARCHITECTURES.values())} or of the baselines "
        f"{sorted([*_SIMPLE, 'ridge'])} to be saved, found {type(forecaster).__name__}; keep what builds it, and its "
        "state_dict."
    )


def rebuild_forecaster(folder: Path, description: dict[str, Any]) -> Forecaster:
    """Build the forecaster that `describe_forecaster` described; its state is to be loaded.

    Raises: ValueError if it is larger than the learner's state, or of settings that load more than a model.
    """
    if "baseline" in description:
        return _SIMPLE[description["baseline"]](**description["options"])
    if "design" in description:
        design = LagDesign(**description["design"])
        shape = (design.num_groups, design.num_inputs, design.num_outputs)
        _claim(math.prod(shape))
        return Ridge(
            design, torch.zeros(shape, dtype=torch.float64), *torch.ones(2, design.num_channels, dtype=torch.float64)
        )
    return cast(
        Forecaster, _rebuild_model(json.loads((folder / _FORECASTER / "config.json").read_text()), **description)
    )


def _rebuild_model(settings: dict[str, Any], *, attention: str | None, dtype: str) -> PreTrainedModel:
    if attention not in (None, *_ATTENTION) or dtype not in _DTYPES:
        raise ValueError(
            f"attention of a forecaster must be one of {_ATTENTION} and dtype one of {tuple(_DTYPES)}, found "
            f"{attention!r} and {dtype!r}; do not use it unless you know where it comes from."
        )
    if settings["model_type"] not in ARCHITECTURES:
        raise ValueError(
            f"a forecaster must be one of {sorted(ARCHITECTURES)}, found {settings['model_type']!r}; get it anew."
        )
    model_class: Any = ARCHITECTURES[settings["model_type"]]
    check_settings(settings, _UNCLAIMED.get(), model_class.config_class)
    config = model_class.config_class.from_dict(settings)
    check_size(model_class, config, _UNCLAIMED.get())
    config._attn_implementation = attention
    with torch.random.fork_rng(devices=[]):
        model = model_class(config)
    _claim(sum(tensor.numel() for tensor in model.state_dict().values()))
    return model.to(dtype=_DTYPES[dtype]).eval()


def _claim(count: int) -> None:
    """Count a forecaster's values off those of the learner's state, which holds them all."""
    left = _UNCLAIMED.get()
    if count > left:
        raise ValueError(
            f"forecasters must be no larger than the state of their learner, found one of {count} values where the "
            f"state has {left}; check that the files belong together."
        )
    _UNCLAIMED.set(left - count)


def forecaster_state(forecaster: Forecaster | PreTrainedModel) -> dict[str, Tensor]:
    """Return the numbers of a forecaster that its description leaves out, by name."""
    if isinstance(forecaster, PreTrainedModel):
        return forecaster.state_dict()
    names = ("weights", "loc", "scale") if isinstance(forecaster, Ridge) else ()
    return {name: getattr(forecaster, name) for name in names}


def with_state(forecaster: Any, state: dict[str, Tensor]) -> Any:
    """Return a copy of a forecaster with the `forecaster_state` of another one; itself if it has none."""
    if isinstance(forecaster, PreTrainedModel):
        copy = deepcopy(forecaster)
        copy.load_state_dict(state)
        return copy
    if isinstance(forecaster, Ridge):
        return replace(forecaster, **{name: tensor.clone() for name, tensor in state.items()})
    return forecaster


def _part(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.part")


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


__all__ = ["load_learner", "save_learner"]
