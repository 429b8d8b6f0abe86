"""Which convolutions and taps of a dilated network can reach the last step of a context.

Block i, dilated by 2^i, is asked only at every 2^i-th step counted from the last one, for all that comes after it is
farther apart. On these steps its convolution is an ordinary one, and where fewer of them are left than it has taps, the
outer taps meet nothing but padding. Leaving the rest out changes no forecast and no gradient.
"""

from __future__ import annotations

from itertools import groupby
from typing import NamedTuple


class Part(NamedTuple):
    """Consecutive layers of a bank, from `first` on, of which taps within `reach` of the middle one count."""

    first: int
    num_layers: int
    reach: int

    @property
    def layers(self) -> slice:
        """Of the bank."""
        return slice(self.first, self.first + self.num_layers)


def steps_left(context_length: int, block: int) -> int:
    """Return at how many steps the output of `block`, counted from 0, matters for the last step."""
    return -(-context_length // 2**block)


def parts_of(blocks: list[int], *, context_length: int, kernel_size: int) -> list[Part]:
    """Return the parts of a bank whose layers belong to these blocks, in their order."""
    reaches = [min(kernel_size // 2, steps_left(context_length, block) - 1) for block in blocks]
    parts, first = [], 0
    for reach, group in groupby(reaches):
        count = len(list(group))
        parts.append(Part(first, count, reach))
        first += count
    return parts
