"""The index tuples of a reference's polynomial features, from a file of their own."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..conversion_command import read_settings, read_weights
from ..conversion_mapping import in_one_line

INDICES = "patch_indices.degree_"
"""What their names in a reference's state begin with."""
_MAX_BYTES = 2**26  # unpacked


def read_index_tuples(file: Path) -> dict[str, Tensor]:
    """Return index tuples under the reference's names from a file of arrays `degree_K`.

    Raises: FileNotFoundError if there is none; ValueError on a file of another kind or with other names.
    """
    if not file.is_file():
        raise FileNotFoundError(f"--index-tuples must be a file, found none at {str(file)!r}; check the path.")
    readers = {".npz": _read_npz, ".json": _read_json}
    found = readers.get(file.suffix, read_weights)(file)
    tuples = {
        INDICES + name.removeprefix("patch_indices.").removeprefix("degree_"): each for name, each in found.items()
    }
    wrong = sorted(name for name in found if not name.removeprefix("patch_indices.").startswith("degree_"))
    if wrong or not found:
        raise ValueError(
            f"a file of index tuples must hold arrays degree_2, degree_3, ... alone, found {wrong or 'none'} in "
            f"{file.name}; rename them."
        )
    return tuples


def _read_json(file: Path) -> dict[str, Tensor]:
    found = {}
    for name, rows in read_settings(file).items():
        try:
            found[name] = torch.tensor(rows)
        except (OverflowError, RuntimeError, TypeError, ValueError):
            raise ValueError(
                f"{name} of {file.name} must be a list of lists of whole numbers, equally long, found another; "
                "write an array's tolist()."
            ) from None
    return found


def _read_npz(file: Path) -> dict[str, Tensor]:
    try:
        with zipfile.ZipFile(file) as members:
            size = sum(each.file_size for each in members.infolist())
        if size > _MAX_BYTES:
            raise ValueError(f"{size} bytes where {_MAX_BYTES} are the most")
        with np.load(file, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except Exception as error:  # numpy and zipfile have a dozen for damage, some of which advise to unpickle
        what = "pickled objects" if "pickle" in str(error) else in_one_line(error)
        raise ValueError(
            f"{file.name} must be whole, and hold arrays of whole numbers, found {what}; write it anew by "
            "numpy.savez(FILE, degree_2=..., degree_3=...)."
        ) from None


__all__ = ["INDICES", "read_index_tuples"]
