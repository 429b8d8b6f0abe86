"""The architecture that a run trains, and its configuration from the plain values of YAML and command line."""

import dataclasses
import difflib
from functools import partial
from typing import Any, Literal

from transformers import CONFIG_MAPPING, PatchTSTConfig, PreTrainedConfig

from hf_tsdyn.baselines.patchtst import PatchTSTForecaster
from hf_tsdyn.models import ARCHITECTURES, MASKED_MODELING

Task = Literal["forecast", "masked_modeling"]
MODEL_CLASSES: dict[Task, dict[str, type[Any]]] = {
    "forecast": ARCHITECTURES | {PatchTSTConfig.model_type: PatchTSTForecaster},
    "masked_modeling": MASKED_MODELING,
}
"""The class that is trained for each task, by `model_type`."""


def build_model_config(fields: dict[str, Any], task: Task = "forecast") -> PreTrainedConfig:
    """Return the architecture's configuration, refusing fields that it does not have.

    Where an architecture has presets, `preset` names the one that holds but for the fields given beside it.

    Raises: ValueError on a missing `model_type` or one that `task` does not have, an unknown field, a wrong type or a
    broken rule.
    """
    model_type = fields.get("model_type")
    if model_type not in MODEL_CLASSES[task]:
        raise ValueError(
            f"model.model_type must be one of {sorted(MODEL_CLASSES[task])}, found {model_type!r}; name the "
            "architecture."
        )
    config_class = CONFIG_MAPPING[model_type]
    given = {name: value for name, value in fields.items() if name != "model_type"}
    build = config_class
    if "preset" in given and hasattr(config_class, "from_preset"):
        build = partial(config_class.from_preset, given.pop("preset"))  # pyright: ignore[reportAttributeAccessIssue]
    _check_model_fields(config_class, given)
    try:
        return build(**given)
    except Exception as error:  # strict dataclasses raise their own error classes, which name the field
        raise ValueError(f"model must fit {config_class.__name__}: {error}") from error


def _check_model_fields(config_class: type[PreTrainedConfig], given: dict[str, Any]) -> None:
    known = [item.name for item in dataclasses.fields(config_class)]  # pyright: ignore[reportArgumentType]
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {', '.join(close)}?" if close else f"its docstring lists them ({config_class})."
            raise ValueError(f"model keys must be fields of {config_class.__name__}, found {name!r}; {hint}")
