"""The card of a model that nothing is measured of yet: what it is, and how it is loaded."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel as _Model
else:
    _Model = object

CARD = """---
{front_matter}
---

# {name}

{description}

```python
import {module}

model = {module}.{architecture}.from_pretrained("{repo}")
```
"""
WRITTEN_BY_TRANSFORMERS = "This model card has been automatically generated."
DESCRIPTION = (
    "`{architecture}` ({num_parameters:,} parameters) of the package `hf_tsdyn`, which holds its code. How it was "
    "trained and how well it does is not recorded here: `python -m training.publish` puts a card with results in the "
    "place of this one. No licence was chosen: until its owner names one in the lines above, all rights are reserved."
)


class HubCardMixin(_Model):
    """`push_to_hub` that writes, where a repository has no card, one that says how the model is loaded."""

    def _upload_modified_files(
        self, working_dir: str | os.PathLike[str], repo_id: str, *arguments: Any, **options: Any
    ) -> Any:
        from huggingface_hub import ModelCard

        file = Path(working_dir, "README.md")
        if file.is_file() and WRITTEN_BY_TRANSFORMERS in file.read_text(encoding="utf-8"):
            description = DESCRIPTION.format(architecture=type(self).__name__, num_parameters=self.num_parameters())
            given = ModelCard.load(file).data.to_dict().get("tags") or []
            file.write_text(hub_card(type(self), repo_id, description, tags=given), encoding="utf-8")
        return super()._upload_modified_files(working_dir, repo_id, *arguments, **options)


def hub_card(model_class: Any, repo: str, description: str, *, tags: list[str] | None = None) -> str:
    """Return a card without results.

    Args:
        repo: the repository that the card's example loads from.
        description: one paragraph. tags: more of them than the package, the architecture and the field.
    """
    from huggingface_hub import ModelCardData

    from .models import MASKED_MODELING

    field = "imputation" if model_class in MASKED_MODELING.values() else "time-series"
    own = ["hf_tsdyn", model_class.config_class.model_type, field]
    module, _, architecture = import_name(model_class).rpartition(".")
    data = ModelCardData(
        library_name="hf_tsdyn",
        pipeline_tag="time-series-forecasting" if hasattr(model_class, "forecast") else None,
        tags=[*own, *(tag for tag in tags or [] if tag not in own)],
    )
    return CARD.format(
        front_matter=data.to_yaml(line_break="\n"),
        name=repo.split("/")[-1],
        description=description,
        module=module,
        architecture=architecture,
        repo=repo,
    )


def import_name(model_class: type) -> str:
    """Return how users reach a class, such as `hf_tsdyn.ALRNNForPrediction`: by the outermost module that offers it."""
    parts = model_class.__module__.split(".")
    modules = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    offering = [name for name in modules if getattr(sys.modules[name], model_class.__name__, None) is model_class]
    module = offering[0] if offering else model_class.__module__
    return f"{module}.{model_class.__name__}"
