"""Which tensors of a reference's checkpoint are which of ours: joined one way, split the other, and told in a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig


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
        except RuntimeError:  # parts that do not go together
            raise _wrong_shapes({name: tuple(state[name].shape) for name in pair.theirs}) from None
    wrong = {name: tuple(value.shape) for name, value in joined.items() if value.shape != wanted[name].shape}
    if wrong:
        raise _wrong_shapes(wrong, {name: tuple(wanted[name].shape) for name in wrong})
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


def load_joined(model: Any, state: dict[str, Tensor], *, strict: bool = True) -> Any:
    """Give a model the tensors and their precision, and return it in eval mode."""
    dtypes = [value.dtype for value in state.values() if value.is_floating_point()]
    model.to(reduce(torch.promote_types, dtypes)).load_state_dict(state, strict=strict)
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
