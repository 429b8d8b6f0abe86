"""What a conversion says of itself: what became what, and how far what came out is from what went in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .conversion_mapping import Pair, mapped_groups


@dataclass(frozen=True)
class Check:
    """A largest difference that was found, and the largest one that is still taken for rounding."""

    name: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the difference is small enough; NaN is not."""
        return self.difference <= self.tolerance

    def __str__(self) -> str:
        verdict = "bit-equal" if self.difference == 0 else f"largest difference {self.difference:.1e}"
        return f"{'passed' if self.passed else 'FAILED'}: {self.name}: {verdict} (at most {self.tolerance:g})"


def largest_difference(name: str, found: Tensor, expected: Tensor, tolerance: float) -> Check:
    """Return the largest difference as it is; infinity where shapes differ."""
    if found.shape != expected.shape:
        return Check(f"{name} of shape {tuple(found.shape)}, not {tuple(expected.shape)}", float("inf"), tolerance)
    return Check(name, (found - expected).abs().max().item(), tolerance)


def relative_difference(name: str, found: Tensor, expected: Tensor, tolerance: float) -> Check:
    """Return the largest difference over the largest expected value; as it is where all of those are 0."""
    size = expected.abs().max().item() or 1.0
    return largest_difference(f"{name}, relative", found / size, expected / size, tolerance)


def same_state(found: dict[str, Tensor], expected: dict[str, Tensor], *, name: str = "tensors, reloaded") -> Check:
    """Return how many tensors differ in any bit, or are missing or left over; none may."""
    names = found.keys() | expected.keys()
    equal = [each for each in names if each in found and each in expected and _same(found[each], expected[each])]
    return Check(name, float(len(names) - len(equal)), 0.0)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


@dataclass
class Report:
    """What was mapped onto what, what was left out, and how the result was checked; without paths of the machine."""

    direction: str
    model: str
    num_parameters: int
    reference_dtypes: list[str]
    model_dtypes: list[str]
    mapped: list[dict[str, Any]]
    left_out: dict[str, str]
    checks: list[Check] = field(default_factory=list)

    def __str__(self) -> str:
        rows = [
            f"{row['num_reference']:>4} x {row['reference']} {row['reference_shape']}  <->  "
            f"{row['num_ours']} x {row['ours']} {row['our_shape']}"
            for row in self.mapped
        ]
        rows += [f"left out: {name}: {reason}" for name, reason in self.left_out.items()]
        count = sum(row["num_reference"] for row in self.mapped)
        rows.append(
            f"{self.direction}: {count} tensors mapped ({', '.join(self.reference_dtypes)} there, "
            f"{', '.join(self.model_dtypes)} here), {self.model} of {self.num_parameters:,} parameters"
        )
        return "\n".join(rows)


def report_of(
    direction: str, model: PreTrainedModel, pairs: Sequence[Pair], theirs: dict[str, Tensor], left_out: dict[str, str]
) -> Report:
    """Return the report of a conversion, without checks."""
    ours = model.state_dict()
    return Report(
        direction=direction,
        model=type(model).__name__,
        num_parameters=model.num_parameters(),
        reference_dtypes=_dtypes(theirs),
        model_dtypes=_dtypes({pair.ours: ours[pair.ours] for pair in pairs}),
        mapped=mapped_groups(pairs, theirs, ours),
        left_out=left_out,
    )


def _dtypes(state: dict[str, Tensor]) -> list[str]:
    return sorted({str(each.dtype).removeprefix("torch.") for each in state.values()})
