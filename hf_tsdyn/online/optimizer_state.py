"""The state of an optimiser as named tensors, and back."""

from collections.abc import Mapping

from torch import Tensor
from torch.optim import Optimizer


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return what an optimiser keeps of each parameter, as `number.name`, not copied; empty before its first step."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": tensor for index, kept in state.items() for name, tensor in kept.items()}


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Go on from the `optimizer_tensors` of an optimiser of equal parameters; its settings stay."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, kept = name.partition(".")
        state.setdefault(int(index), {})[kept] = tensor.clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


__all__ = ["optimizer_tensors", "restore_optimizer"]
