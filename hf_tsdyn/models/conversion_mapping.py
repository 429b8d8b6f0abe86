"""Which tensors of a reference's checkpoint are which of ours: joined one way, split the other, and told in a table."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ..checkpoint_settings import MAX_NUMBER, check_settings

_FLOATING = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Pair:
    """One tensor of ours and the reference's tensors that it is made of."""

    ours: str
    theirs: tuple[str, ...]
    join: Callable[[list[Tensor]], Tensor] = lambda parts: parts[0]
    split: Callable[[Tensor], Sequence[Tensor]] = lambda tensor: [tensor]


def stacked(ours: str, theirs: Sequence[str]) -> Pair:
    """Return the pair of a tensor whose first axis counts the reference's tensors."""
    return Pair(ours, tuple(theirs), torch.stack, lambda tensor: tensor.unbind(0))


def reshaped(ours: str, theirs: str, our_shape: Sequence[int], their_shape: Sequence[int]) -> Pair:
    """Return the pair of tensors of the same values in the same order."""
    return Pair(ours, (theirs,), lambda parts: parts[0].reshape(*our_shape), lambda each: [each.reshape(*their_shape)])


def in_one_line(error: BaseException) -> str:
    """Return what an error says without its line breaks."""
    return " ".join(str(error).split())


def configured(config_class: type[Any], settings: dict[str, Any]) -> Any:
    """Return the configuration of settings under our names.

    Raises: ValueError on a value of a wrong type, or out of range.
    """
    try:
        return config_class(**settings)
    except StrictDataclassFieldValidationError as error:
        found = in_one_line(error.__cause__ or error)
        raise ValueError(f"settings must be of the types that a model's are, found: {found}; correct it.") from None
    except StrictDataclassClassValidationError as error:
        raise ValueError(in_one_line(error.__cause__ or error)) from None


def plan_model(model_class: type[Any], config: PreTrainedConfig, state: dict[str, Tensor]) -> Any:
    """Return a model without memory for its tensors, to check the reference's against before it is built.

    Raises: ValueError on a configuration of a model that is far larger than the reference's tensors.
    """
    num_values = sum(tensor.numel() for tensor in state.values())
    check_settings(config.to_dict(), num_values, type(config))
    try:
        with torch.device("meta"):
            planned = model_class(copy.deepcopy(config))
    except (OverflowError, RuntimeError) as error:  # sizes beyond what a tensor can have
        raise ValueError(
            f"settings must describe a model that can be built, found none ({in_one_line(error)}); check its sizes."
        ) from None
    if planned.num_parameters() > num_values + MAX_NUMBER:
        raise ValueError(
            f"settings must describe the model of the weights, found weights of {num_values} values for a model of "
            f"{planned.num_parameters()}; check that they belong together."
        )
    return planned


def join_all(pairs: Sequence[Pair], state: dict[str, Tensor], model: nn.Module, *, kind: str) -> dict[str, Tensor]:
    """Return the reference's tensors under our names, checked against the model's shapes.

    kind: what a reference checkpoint is called in errors.
    Raises: ValueError naming tensors that are missing, left over or of a wrong shape.
    """
    named = [name for pair in pairs for name in pair.theirs]
    missing = [name for name in named if name not in state]
    if missing:
        raise ValueError(f"a reference state must hold {missing[0]!r}, found none; check that the file is {kind}'s.")
    surplus = sorted(state.keys() - set(named))
    if surplus:
        raise ValueError(
            f"a reference state must be understood to the last tensor, found left over {surplus[:5]}; check that "
            "weights and configuration belong together."
        )
    wanted, joined = model.state_dict(), {}
    for pair in pairs:
        parts = [state[name] for name in pair.theirs]
        try:
            joined[pair.ours] = pair.join(parts)
        except (IndexError, RuntimeError):  # parts that do not go together
            raise _wrong_shapes({name: tuple(state[name].shape) for name in pair.theirs}) from None
    wrong = {name: tuple(value.shape) for name, value in joined.items() if value.shape != wanted[name].shape}
    if wrong:
        raise _wrong_shapes(wrong, {name: tuple(wanted[name].shape) for name in wrong})
    dtypes = {name: each.dtype for name, each in joined.items() if wanted[name].is_floating_point()}
    others = [f"{name} of {dtype}" for name, dtype in dtypes.items() if dtype not in _FLOATING]
    if others:
        raise ValueError(
            f"a reference's weights must be floating-point numbers of 16 bits or more, found {', '.join(others[:5])}; "
            "write them as they were trained."
        )
    return joined


def _wrong_shapes(found: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]] | None = None) -> ValueError:
    instead = f" in place of {wanted}" if wanted else ""
    return ValueError(
        f"the reference's tensors must have the shapes of its configuration, found {found}{instead}; check that they "
        "belong together."
    )


def split_all(pairs: Sequence[Pair], model: nn.Module) -> dict[str, Tensor]:
    """Return the model's tensors under the reference's names, as copies."""
    state = model.state_dict()
    return {
        name: part.clone(memory_format=torch.contiguous_format)
        for pair in pairs
        for name, part in zip(pair.theirs, pair.split(state[pair.ours]), strict=True)
    }


def load_joined(planned: Any, state: dict[str, Tensor], *, strict: bool = True) -> Any:
    """Build a planned model with the tensors and their precision, and return it in eval mode."""
    dtypes = [value.dtype for value in state.values() if value.is_floating_point()]
    model = type(planned)(planned.config).to(reduce(torch.promote_types, dtypes))
    model.load_state_dict(state, strict=strict)
    return model.eval()


def check_expressible(config: PreTrainedConfig, returned: PreTrainedConfig, *, of_training: Sequence[str] = ()) -> None:
    """Raise ValueError unless a configuration survives the way to the reference's settings and back, as `returned`.

    of_training: fields that no forecast depends on.
    """
    names = set(type(config).__annotations__) - {"model_type", "provenance", *of_training}
    differing = sorted(name for name in names if getattr(config, name) != getattr(returned, name))
    if differing:
        raise ValueError(
            "a model must be one that the reference can build to be written as its state, found "
            f"{ {name: getattr(config, name) for name in differing} }, of which the reference has "
            f"{ {name: getattr(returned, name) for name in differing} } alone; there is no way back for this model."
        )


def scaling_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return `channel_loc` and `channel_scale` where they are given; reference networks take series scaled already."""
    return {name: settings[name] for name in ("channel_loc", "channel_scale") if settings.get(name) is not None}


def mapped_groups(pairs: Sequence[Pair], theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> list[dict[str, Any]]:
    """Return a row for each group of pairs whose names differ in numbers alone, with names, shapes and how many."""
    groups: dict[tuple[str, str, str, str], list[Pair]] = {}
    for pair in pairs:
        key = (
            " + ".join(dict.fromkeys(map(_masked, pair.theirs))),
            " + ".join(dict.fromkeys(str(tuple(theirs[name].shape)) for name in pair.theirs)),
            _masked(pair.ours),
            str(tuple(ours[pair.ours].shape)),
        )
        groups.setdefault(key, []).append(pair)
    return [
        {
            "reference": reference,
            "reference_shape": reference_shape,
            "num_reference": sum(len(pair.theirs) for pair in group),
            "ours": name,
            "our_shape": shape,
            "num_ours": len(group),
        }
        for (reference, reference_shape, name, shape), group in groups.items()
    ]


def _masked(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)
