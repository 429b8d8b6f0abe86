"""A measure, and a limit, of the processor time that a training run takes."""

import time
from typing import Any

import torch
from torch import distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import IntervalStrategy, SaveStrategy


class CpuBudget(TrainerCallback, ExportableState):
    """Count the processor time of training and its validation, and end a run that has used up its share.

    The count goes on where a run is resumed: what came after the checkpoint and was lost does not count. It sums the
    processes of a run, without the workers that load data. A run that is ended so validates and saves its last step,
    and its learning rate is where `max_steps` put it: choose those for the schedule to end about then, or a schedule
    without an end.

    Args:
        max_seconds: of processor time, after which no other step begins; None never ends a run.
    Attributes:
        used_seconds: of processor time so far.
    Raises: ValueError if `max_seconds` is not positive.
    """

    def __init__(self, max_seconds: float | None = None):
        if max_seconds is not None and not max_seconds > 0:
            raise ValueError(
                f"max_cpu_seconds must be positive, found {max_seconds!r}; leave it out for no limit but max_steps."
            )
        self.max_seconds = max_seconds
        self.used_seconds = 0.0
        self._start = 0.0

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of this: the time used."""
        return {"args": {"max_seconds": self.max_seconds}, "attributes": {"used_seconds": self.used_seconds}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # The Trainer reads a checkpoint's states into `state` alone; in one from before there was a count, it is 0.
        states: Any = state.stateful_callbacks
        self.used_seconds = 0.0
        earlier = states.setdefault(type(self).__name__, self.state())["attributes"]["used_seconds"]
        self._start = time.process_time() - earlier / args.world_size
        self.used_seconds = earlier

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._count(args)
        if self.max_seconds is not None and self.used_seconds >= self.max_seconds:
            control.should_training_stop = True
            control.should_evaluate = args.eval_strategy != IntervalStrategy.NO
            control.should_save = args.save_strategy != SaveStrategy.NO

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._count(args)

    def _count(self, args: TrainingArguments) -> None:
        """Sum up over processes, so that all of them stop at the same step."""
        seconds = torch.tensor(time.process_time() - self._start, dtype=torch.float32, device=args.device)
        if args.world_size > 1:
            distributed.all_reduce(seconds)
        self.used_seconds = seconds.item()
