"""Whether torch.func or forward derivatives are at work on tensors, which custom operators do not see into."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd import forward_ad


def is_transformed(tensors: Iterable[Tensor]) -> bool:
    """Return whether such a transformation is at work on one of the tensors."""
    tensors = tuple(tensors)
    if torch.compiler.is_compiling():
        return False
    if forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(x).tangent is not None for x in tensors):
        return True
    is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor  # pyright: ignore[reportAttributeAccessIssue]
    return any(is_wrapped(tensor) for tensor in tensors)
