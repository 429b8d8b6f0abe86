"""Machine code for vector fields: one numba function per graph that evaluates `LANES` independent states at once.

The source of each kernel is written to a cache directory under a name made from its own hash, so that numba's disk
cache finds the compiled code again in every later process. Set HF_TSDYN_CACHE to move the directory.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np

from data_generation.dormand_prince import FAST_MATH, LANES
from data_generation.expressions import Expression, VectorField, topological_order

SIGNATURE = "void(float64[::1], float64[::1], float64[::1], float64[::1])"
_TIME_STAMP = 1_000_000_000

_HEADER = f'''"""Written by data_generation.kernels; do not edit."""

from math import cos, cosh, exp, inf, log, nan, sin, sinh, sqrt, tanh

from numba import njit


@njit("{SIGNATURE}", fastmath=set({sorted(FAST_MATH)}), error_model="numpy", nogil=True, cache=True)
def kernel(states, time, constants, outputs):
    for lane in range({LANES}):
'''
_FORMATS = {
    "negative": "-{0}",
    "add": "{0} + {1}",
    "subtract": "{0} - {1}",
    "multiply": "{0} * {1}",
    "divide": "{0} / {1}",
    "power": "{0} ** {1}",
    "absolute": "abs({0})",
    "sign": "1.0 if {0} > 0.0 else (-1.0 if {0} < 0.0 else {0})",
    "heaviside": "1.0 if {0} > 0.0 else (0.0 if {0} < 0.0 else ({1} if {0} == 0.0 else {0}))",
    "maximum": "{0} if {0} >= {1} or {0} != {0} else {1}",
    "minimum": "{0} if {0} <= {1} or {0} != {0} else {1}",
    **{name: name + "({0})" for name in ("cos", "cosh", "exp", "log", "sin", "sinh", "sqrt", "tanh")},
}


class Kernel:
    """A vector field ready to run: machine code, and the numbers per trajectory that it reads.

    What depends on parameters alone is worked out once per trajectory, not at every step; so the compiled function
    reads `constants(parameters)` instead of the parameters.

    Attributes:
        function: compiled `(states, time, constants, outputs)`, each a flat array of rows of `LANES` numbers, one
            row per state, constant or output; `time` is one row.
    """

    def __init__(self, vector_field: VectorField) -> None:
        constants = _constants(vector_field)
        self._constants = VectorField(constants, 0, vector_field.parameter_names)
        self._identity = all(node.operation == "parameter" for node in constants)
        self.function = _load(emit(vector_field))

    def constants(self, parameters: np.ndarray) -> np.ndarray:
        """Return (num_trajectories, num_constants) from parameters (num_trajectories, num_parameters)."""
        if self._identity:
            return parameters[:, [node.payload for node in self._constants.outputs]]
        rows = [self._constants(np.empty(0), 0.0, row) for row in parameters]  # alone: neighbours cannot matter
        return np.array(rows).reshape(len(parameters), len(self._constants.outputs))


@cache
def load_kernel(vector_field: VectorField) -> Kernel:
    """Return the kernel of a vector field; compiles it on first use on this machine."""
    return Kernel(vector_field)


def cache_directory() -> Path:
    """Return the folder that holds kernels and their machine code: HF_TSDYN_CACHE or ~/.cache/hf_tsdyn/kernels."""
    return Path(os.environ.get("HF_TSDYN_CACHE") or Path.home() / ".cache" / "hf_tsdyn" / "kernels")


def _constants(vector_field: VectorField) -> tuple[Expression, ...]:
    """Return the nodes made of parameters alone that states, time or outputs meet directly."""
    fixed = {node for node in vector_field.nodes if node.operation == "constant"}
    met: dict[Expression, None] = {}
    for node in vector_field.nodes:
        if node.operation == "parameter" or (node.arguments and fixed.issuperset(node.arguments)):
            fixed.add(node)
        else:
            met.update(dict.fromkeys(argument for argument in node.arguments if argument in fixed))
    met.update(dict.fromkeys(output for output in vector_field.outputs if output in fixed))
    return tuple(node for node in met if node.operation != "constant")


def emit(vector_field: VectorField) -> str:
    """Return the source of the kernel, the same in every process."""
    loaded = {node: f"constants[{LANES * row} + lane]" for row, node in enumerate(_constants(vector_field))}
    names: dict[Expression, str] = {}
    lines = []
    for node in topological_order(vector_field.outputs, known=loaded):
        if node.operation == "constant":
            names[node] = f"({node.payload!r})"
            continue
        names[node] = f"v{len(names)}"
        if node in loaded:
            value = loaded[node]
        elif node.operation == "state":
            value = f"states[{LANES * node.payload} + lane]"
        elif node.operation == "time":
            value = "time[lane]"
        else:
            value = _FORMATS[node.operation].format(*(names[argument] for argument in node.arguments))
        lines.append(f"{names[node]} = {value}")
    lines += [f"outputs[{LANES * row} + lane] = {names[node]}" for row, node in enumerate(vector_field.outputs)]
    return _HEADER + "".join(f"        {line}\n" for line in lines)


def kernel_name(source: str) -> str:
    """Return the name of the module that holds a kernel, the same in every process."""
    return "kernel_" + hashlib.sha256(source.encode()).hexdigest()[:24]


def _load(source: str) -> Callable:
    name = kernel_name(source)
    path = cache_directory() / f"{name}.py"
    if not path.exists() or path.read_bytes() != source.encode():
        _write(path, source)
    module = ModuleType(name)
    sys.modules[name] = module  # where numba looks for it when it reads its cache
    exec(compile(source, str(path), "exec"), vars(module))  # numba reads the file's name and time stamp only
    return module.kernel


def _write(path: Path, source: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
        file.write(source)
    # numba takes the time stamp for part of the version: a fixed one lets processes that race share the machine code
    os.utime(file.name, (_TIME_STAMP, _TIME_STAMP))
    os.replace(file.name, path)
