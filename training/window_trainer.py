"""The Trainer of windows: batches of one number of channels each, and an exact mean loss over them."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import EvalLoopOutput

from hf_tsdyn.data.windows import ChannelBucketSampler, RandomWindows, SequentialWindows
from training.cpu_budget import CpuBudget
from training.weight_averaging import AveragedWeights, WeightAveraging


class WindowTrainer(Trainer):
    """Trainer for batches of one number of channels each, some of them short, which its own parts know nothing of.

    Args:
        weight_averaging: validate and save an average of the weights, and leave it in the model at the end.
        budget: of processor time; without one the time is counted alone.
    Attributes:
        closed_form_seconds: of a processor, that fitting the model took before its training; None if nothing was.
    Raises: ValueError on fp16 with a model that keeps averages of its gradients, or if it is to push to the Hub.
    """

    def __init__(
        self, *, weight_averaging: WeightAveraging | None = None, budget: CpuBudget | None = None, **arguments: Any
    ):
        _check_precision(arguments["model"], arguments["args"])
        _check_pushes_nothing(arguments["args"])
        self.budget = CpuBudget() if budget is None else budget
        super().__init__(callbacks=[self.budget], **arguments)
        self.closed_form_seconds: float | None = None
        self._average = None
        if hasattr(self.model, "after_optimizer_step"):
            self.add_callback(_GradientsToState())
        if weight_averaging is not None:
            self._average = AveragedWeights(weight_averaging, cast(nn.Module, self.model))
            self.add_callback(_Averaging(self._average))

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        return ChannelBucketSampler(cast(RandomWindows, train_dataset or self.train_dataset), self._train_batch_size)

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler:
        return ChannelBucketSampler(cast(SequentialWindows, eval_dataset), self.args.eval_batch_size)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Train on one batch; ValueError if its loss is not finite, which no later step could mend."""
        return self.check_finite(super().training_step(*args, **kwargs))

    def check_finite(self, loss: torch.Tensor) -> torch.Tensor:
        """Return a training step's loss; ValueError if it is not finite."""
        if not loss.isfinite():
            raise ValueError(
                f"the loss must stay finite, found {loss.item()} at step {self.state.global_step + 1}; lower "
                "training.learning_rate, or clip gradients with training.max_grad_norm."
            )
        return loss

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Return the mean loss over windows; the Trainer's own would weigh short batches as full ones.

        A window counts with the share of its targets that is seen. With several processes a batch may be taken twice,
        so that all have as many.
        Whatever the model draws (what a masked model hides) is drawn alike at every evaluation, and the training's own
        draws go on as if there had been none.
        """
        model = self.model.eval()  # pyright: ignore[reportOptionalMemberAccess]
        device = self.args.device
        totals = torch.zeros(2, dtype=torch.float64, device=device)
        own_draws = torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type)
        with own_draws, torch.no_grad(), self._averaged():
            torch.manual_seed(self.args.seed)
            for batch in dataloader:
                inputs = self._prepare_inputs(batch)
                with self.compute_loss_context_manager():
                    loss = cast(torch.Tensor, self.compute_loss(model, inputs))
                totals += torch.stack([loss.double(), torch.ones_like(loss).double()]) * _num_windows(inputs)
                self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        total, count = self.accelerator.reduce(totals).tolist()  # pyright: ignore[reportAttributeAccessIssue]
        if count == 0:
            raise ValueError(
                "the validation data must have targets, found none that are seen; choose a longer validation part, or "
                "another."
            )
        metrics = {f"{metric_key_prefix}_loss": total / count}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=int(count))  # pyright: ignore[reportArgumentType]

    def _averaged(self) -> Any:
        """A context in which the model has the weights to be judged by."""
        return nullcontext() if self._average is None or not self.is_in_train else self._average.in_place()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model as it is validated; in training also the weights that it goes on with, if they differ."""
        with self._averaged():
            super().save_model(output_dir, _internal_call)
        if self._average is not None and self.is_in_train and self.args.should_save:
            self._average.save(Path(str(output_dir)))

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Push the model alone, as its own `push_to_hub` does; the Trainer's would send pickles too.

        Args:
            kwargs: more of the model's `push_to_hub`; `repo_id` is `args.hub_model_id` or the output folder's name.
        Returns: the commit; None but on the main process.
        """
        if not self.is_world_process_zero():
            return None
        repo = self.args.hub_model_id or Path(str(self.args.output_dir)).resolve().name
        model = cast(PreTrainedModel, self.accelerator.unwrap_model(self.model))
        options = {"token": token or self.args.hub_token, "private": private, "revision": revision}
        return model.push_to_hub(kwargs.pop("repo_id", repo), commit_message=commit_message, **options, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self._average is not None:
            self._average.resume(Path(resume_from_checkpoint))


def _check_precision(model: Any, arguments: TrainingArguments) -> None:
    """Raise ValueError if gradients that a model averages would come scaled, and not finite at times."""
    if arguments.fp16 and hasattr(model, "after_optimizer_step"):
        raise ValueError(
            f"{model.config.model_type!r}, which averages its gradients, must be trained in float32 or bfloat16, found "
            "fp16; set mixed_precision to another."
        )


def _check_pushes_nothing(arguments: TrainingArguments) -> None:
    """Raise ValueError if the Trainer would push: pickles of its arguments, with a token that they hold, and a card."""
    if arguments.push_to_hub:
        raise ValueError(
            "training.push_to_hub must be false here, found true; leave it out, and upload what is finished: with "
            "training.publish, or of a Chronos model with `hf upload`, without training_args.bin, which is a pickle."
        )


class _GradientsToState(TrainerCallback):
    """Let a model that keeps averages of its gradients take in each step's, before they are cleared."""

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        kwargs["model"].after_optimizer_step(online=False)


class _Averaging(TrainerCallback):
    """Take each step into the average, and leave the model with it unless a best checkpoint was reloaded."""

    def __init__(self, average: AveragedWeights):
        self._average = average

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._average.update(state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not args.load_best_model_at_end or state.best_model_checkpoint is None:
            self._average.settle()


def _num_windows(inputs: dict[str, torch.Tensor]) -> float:
    """Windows of a batch, each with the share that is seen of its future, or, without a future, of its past."""
    mask = inputs.get("future_observed_mask" if "future_values" in inputs else "past_observed_mask")
    return len(inputs["past_values"]) if mask is None else mask.double().mean(dim=(1, 2)).sum().item()


def last_complete_checkpoint(output: Path, world_size: int) -> str | None:
    """Return the newest checkpoint that was written to its end; its state file is the last to be written.

    Raises: ValueError if as many processes wrote it as are not at work now: another number draws other batches.
    """
    complete = [folder for folder in output.glob("checkpoint-*") if (folder / TRAINER_STATE_NAME).is_file()]
    if not complete:
        return None
    newest = max(complete, key=lambda folder: int(folder.name.split("-")[1]))
    found = len(list(newest.glob("rng_state*.pth")))
    if found != world_size:
        raise ValueError(
            f"a run must be resumed by as many processes as began it, found {world_size} now and {found} in {newest}; "
            "launch so many, or delete the run's folder."
        )
    return str(newest)
