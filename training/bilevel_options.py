"""How a model with a controller is trained on two levels."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from transformers import TrainingArguments

from hf_tsdyn.data.parts import SeriesPart, carve_end, carve_rows
from hf_tsdyn.data.series import SeriesDataset, TrajectorySource
from training.lookahead import parameter_roles

ADAMW = ("adamw_torch", "adamw_torch_fused")
"""Names of the optimizer that bilevel training has one of its own for."""


@dataclass(frozen=True)
class BilevelOptions:
    """What the controller learns from, and how fast; the workers learn from training batches as `training` says.

    With "lookahead" and "first_order" a part of the training data, the meta split, is kept from the workers: the
    controller's gradient comes from its windows. Every signal then acts on the workers' steps.

    Args:
        mode: "lookahead": the controller's gradient goes through one step of the workers, so that every signal has
            one. "first_order": through the forecast alone; the signals that only act in training have none and stay.
            "none": no meta split; controller and workers learn together from the plain loss, and the signals that
            only act in training do not act.
        meta_share: of the training steps, the last ones; of a dataset of trajectories, of its systems, drawn by
            `data.seed`.
        meta_batch_size: windows of the meta split per controller step; by default as many as in a training batch.
        controller_learning_rate: 0 keeps the controller as it starts, and what its signals do, as if all of it were
            `frozen`; the meta split is kept from the workers all the same, so that such a run compares with others.
        controller_weight_decay: on all of the controller but its biases and norms.
        controller_interval: steps of the workers per step of the controller."""

    mode: Literal["lookahead", "first_order", "none"] = "lookahead"
    meta_share: float = 0.2
    meta_batch_size: int | None = None
    controller_learning_rate: float = 1e-4
    controller_weight_decay: float = 1e-3
    controller_interval: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.meta_share < 1:
            raise ValueError(f"bilevel.meta_share must lie between 0 and 1, found {self.meta_share}; change it.")
        if (self.meta_batch_size is not None and self.meta_batch_size < 1) or self.controller_interval < 1:
            raise ValueError(
                "bilevel.meta_batch_size and bilevel.controller_interval must be at least 1, found "
                f"{self.meta_batch_size} and {self.controller_interval}; raise them."
            )
        if not self.controller_learning_rate >= 0 or not self.controller_weight_decay >= 0:
            raise ValueError(
                "bilevel.controller_learning_rate and bilevel.controller_weight_decay must be at least 0, found "
                f"{self.controller_learning_rate} and {self.controller_weight_decay}; change them."
            )


def carve_meta_split(
    options: BilevelOptions | None, source: TrajectorySource, *, context_length: int, seed: int
) -> tuple[TrajectorySource, TrajectorySource | None]:
    """Return what of the training data trains the workers, and what is kept for the controller, if anything is."""
    if options is None or options.mode == "none":
        return source, None
    if isinstance(source, SeriesDataset | SeriesPart):  # a part is a fold's
        return carve_end(source, options.meta_share, context_length=context_length)
    return carve_rows(source, options.meta_share, seed=seed)


def meta_draws(drawn: dict[str, Any]) -> dict[str, Any]:
    """Return how meta windows are drawn: as the workers' are, by a seed of their own, and never augmented."""
    own = np.random.SeedSequence([drawn["seed"], *b"meta"])
    return drawn | {"seed": int(own.generate_state(1, np.uint64)[0]), "augmentations": None}


def check_bilevel(options: BilevelOptions, model: Any, arguments: TrainingArguments) -> None:
    """Raise ValueError unless a model with a controller can learn, in one process, by AdamW, a batch per step."""
    if not hasattr(model, "signals") or getattr(model.model, "controller", None) is None:
        raise ValueError(
            "bilevel must train a model with a controller, found "
            f"{model.config.model_type!r} without one; leave bilevel out, or switch model.controller on."
        )
    _check_parameters(options, model)
    devices = arguments.world_size * max(arguments.n_gpu, 1)
    if devices > 1:
        raise ValueError(
            f"bilevel must be trained by one process on one device, found {devices}; launch one, and show it one GPU."
        )
    if arguments.gradient_accumulation_steps > 1:
        raise ValueError(
            "bilevel must take its step on a whole batch, found training.gradient_accumulation_steps="
            f"{arguments.gradient_accumulation_steps}; set it to 1 and enlarge the batch."
        )
    if arguments.fp16:
        raise ValueError("bilevel must run in float32 or bfloat16, found fp16; set mixed_precision to another.")
    if arguments.optim not in ADAMW:
        raise ValueError(f"bilevel steps are AdamW's, found training.optim={arguments.optim}; leave that out.")


def _check_parameters(options: BilevelOptions, model: Any) -> None:
    """Raise ValueError unless the controller has signals to give, and something learns from a loss."""
    if not list(model.model.controller.parameters()):
        raise ValueError(
            "bilevel must train a controller that has signals to give, found neither workers nor two specialists; "
            "leave bilevel out, or add such with model.num_worker_layers or model.specialists."
        )
    roles = parameter_roles(model)
    learning = set(roles.controller) if options.controller_learning_rate > 0 else set()
    if options.mode != "lookahead" or not roles.learners:
        learning -= model.without_gradient
    if not learning and not roles.learners:
        raise ValueError(
            "bilevel must have something to train, found nothing that a loss reaches with what is frozen and "
            f"bilevel.controller_learning_rate {options.controller_learning_rate}; freeze less, or raise it."
        )
