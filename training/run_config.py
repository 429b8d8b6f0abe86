"""The settings of one training run: dataclasses filled from YAML and dotted command-line options.

Unknown keys and wrong types end the program before anything heavy starts.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from transformers import TrainingArguments

from hf_tsdyn.data.augmentations import Augmentations
from hf_tsdyn.data.series import SeriesDataset, SeriesOptions, TrajectorySource
from hf_tsdyn.data.series_files import SERIES_SUFFIXES
from hf_tsdyn.data.trajectories import TrajectoryDataset
from hf_tsdyn.evaluation import EvaluationProtocol
from hf_tsdyn.results import write_atomically
from training.bilevel_options import BilevelOptions
from training.folds import FoldOptions
from training.lora import LoraOptions
from training.model_config import Task, build_model_config
from training.weight_averaging import WeightAveraging

CONFIG_FILE = "run_config.yaml"


@dataclass(frozen=True)
class DataConfig:
    """What the model is trained and selected on.

    Args:
        path: folder of a dataset of trajectories, or a series of your own: a CSV, NPY, Parquet or Arrow file, or a
            folder of such.
        train_split: split that random windows are drawn from.
        validation_split: split of other systems, or a later part of the series; its loss selects the best checkpoint.
        series: columns and split of a series; of no concern to a dataset of trajectories.
        balance: draw systems, or rows, with equal probability.
        augmentations: null trains on the trajectories as they are.
        validation_windows_per_trajectory: most windows of one trajectory in the validation loss.
        validation_stride: steps from one of them to the next; by default half the context.
        seed: of windows and augmentations.
        fingerprint: refuse any other dataset than that of this fingerprint; the run's record holds it.
        fold: train and validate on a fold inside the training split of a series, whose fingerprint is its own."""

    path: str
    train_split: str = "train"
    validation_split: str = "validation"
    balance: Literal["systems", "rows"] = "systems"
    augmentations: Augmentations | None = None
    validation_windows_per_trajectory: int = 4
    validation_stride: int | None = None
    seed: int = 0
    fingerprint: str | None = None
    series: SeriesOptions = field(default_factory=SeriesOptions)
    fold: FoldOptions | None = None

    def open(self, split: str, context_length: int) -> TrajectorySource:
        """Return one split of the data.

        context_length: steps before a later part of a series that its windows may look back at.
        Raises: FileNotFoundError or ValueError, as the dataset found does, or on a fold of anything but a series, or a
            split that a fold does not have.
        """
        path = Path(self.path)
        files = path.iterdir() if path.is_dir() and not (path / "manifest.json").exists() else [path]
        if any(file.suffix.lower() in SERIES_SUFFIXES for file in files):
            if self.fold is not None:
                whole = SeriesDataset(path, "train", context_length=0, options=self.series)
                return self.fold.cut(whole, split, context_length)
            part = cast(Literal["train", "validation", "test"], split)  # any other name is refused there
            return SeriesDataset(path, part, context_length=context_length, options=self.series)
        trajectories = TrajectoryDataset(path, split)
        if self.fold is not None:
            raise ValueError(f"data.fold must be of a series, found trajectories at {self.path!r}; leave it out.")
        return trajectories


@dataclass(frozen=True)
class EvaluationConfig:
    """How the trained model is scored, by `training.evaluate_checkpoint`.

    Args:
        name: of the model in tables, cards and results files.
        model_id: folder or Hub name for `from_pretrained` in the card's example; by default where the checkpoint lies.
        dataset_name: of the evaluation data, on the card.
        split: split of held-out systems.
        protocol: windows, horizons, bootstrap.
        baselines: names out of `hf_tsdyn.baselines.BASELINES`, scored beside the model.
        study: name of a shipped study whose tables the card of a model of one series shows.
        limits: sentences that the card of such a model adds to its limits.
        data_license: sentence of that card on the licence of the series.
        ship_probe: false where that licence does not cover a copy of the probe, a window of the series.
        license: of the weights and the card, as the Hub spells it; "" where none was chosen.
    """

    name: str
    model_id: str | None = None
    dataset_name: str = "generated trajectories"
    split: str = "test"
    protocol: EvaluationProtocol = field(default_factory=EvaluationProtocol)
    baselines: tuple[str, ...] = ("persistence", "mean", "parroting")
    study: str | None = None
    limits: tuple[str, ...] = ()
    data_license: str = ""
    ship_probe: bool = True
    license: str = "apache-2.0"


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a run.

    Args:
        task: forecast, or predict what is hidden of a window, which pretrains an encoder.
        model: `model_type` and the fields of that architecture's configuration; all of it is the architecture's.
        data: training and validation windows.
        training: transformers' TrainingArguments; `output_dir` is the run's folder.
        evaluation: scores, card and figures of the result.
        checkpoint: folder or Hub name (`NAME@REVISION` pins it) of a model to start from; `model` then holds only what
            changes in its configuration (loss, dropout), not the shapes of weights.
        encoder_checkpoint: the same of a model whose backbone alone is the start; `model` may change the head too.
        lora: train adapters of `checkpoint` in place of its weights; null trains them all.
        bilevel: train a model's controller on what its signals do to the training of the rest; null trains all alike.
        weight_averaging: validate and save an average of the weights over training; null those of a step.
        closed_form_start: fit what of a new model has a closed form before training; of no effect on others.
        frozen: beginnings of names of parameters that are not trained, such as `model.specialists`.
        max_cpu_seconds: of processor time, after which training ends with a last validation; null has no such limit.
        mixed_precision: "auto" trains in bfloat16 where a GPU has it and in float32 elsewhere."""

    task: Task = "forecast"
    model: dict[str, Any] = field(default_factory=dict)
    data: DataConfig
    training: TrainingArguments
    evaluation: EvaluationConfig
    checkpoint: str | None = None
    encoder_checkpoint: str | None = None
    lora: LoraOptions | None = None
    bilevel: BilevelOptions | None = None
    weight_averaging: WeightAveraging | None = None
    closed_form_start: bool = True
    frozen: tuple[str, ...] = ()
    max_cpu_seconds: float | None = None
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"

    def __post_init__(self) -> None:
        if self.checkpoint is not None and self.encoder_checkpoint is not None:
            raise ValueError(
                f"a run must start from one model, found checkpoint={self.checkpoint!r} and encoder_checkpoint="
                f"{self.encoder_checkpoint!r}; keep the first for all its weights, the second for its backbone."
            )
        if self.lora is not None and self.checkpoint is None:
            raise ValueError("lora must have a checkpoint to adapt, found none; name it with checkpoint.")
        if self.lora is not None and self.bilevel is not None:
            raise ValueError("bilevel must train a model's own weights, found it beside lora; leave one of them out.")

    @property
    def start(self) -> str | None:
        """The model that this run starts from, whole or with its backbone; None if all is new."""
        return self.checkpoint or self.encoder_checkpoint


def load_run_config(arguments: Sequence[str] | None = None) -> tuple[RunConfig, dict[str, Any]]:
    """Return the configuration of a command line, and the same as plain values for the record.

    Raises: SystemExit with a message on unknown keys, wrong types or values that break a rule.
    """
    parser = _parser()
    namespace = parser.parse_args(arguments)
    set_precision(namespace)
    if namespace["task"] != "forecast":
        namespace["training.label_names"] = []
    for name in ("checkpoint", "encoder_checkpoint"):
        check_start_checkpoint(parser, name, namespace[name])
    resolved = plain_values(parser, namespace)
    try:
        settings = parser.instantiate(namespace)
        config = RunConfig(**{item.name: settings[item.name] for item in dataclasses.fields(RunConfig)})
        if config.start is None:
            build_model_config(config.model, config.task)
    except (TypeError, ValueError) as error:
        parser.error(str(error))
    return config, resolved


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m training.train", description="Train a model of hf_tsdyn.", allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="YAML file; options after it override it")
    parser.add_class_arguments(RunConfig)
    # What every run of these models needs of the Trainer; a configuration may still say otherwise.
    parser.set_defaults(
        {
            "training.label_names": ["future_values"],
            "training.remove_unused_columns": False,
            "training.dataloader_pin_memory": torch.cuda.is_available(),
        }
    )
    return parser


def claim_output_dir(resolved: dict[str, Any], output_dir: str | Path) -> None:
    """Write the settings to `output_dir`, or check that what lies there is the same run, to be resumed.

    Raises: FileExistsError naming the settings that differ.
    """
    path = Path(output_dir) / CONFIG_FILE
    if path.exists():
        parser = _parser()
        # An older record lacks fields that came later.
        defaults = _decisive(plain_values(parser, parser.get_defaults()))
        found = defaults | _decisive(yaml.safe_load(path.read_text()))
        wanted = defaults | _decisive(resolved)
        differing = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
        if differing:
            raise FileExistsError(
                f"{output_dir} must be new or hold this same run, found a run with other settings of {differing[:6]}; "
                "choose another --training.output_dir or delete it."
            )
        return
    write_atomically(path, yaml.safe_dump(resolved, sort_keys=False).encode())


def _decisive(resolved: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide the weights: not where the data lie, how batches are loaded, or what is scored."""
    idle = ("evaluation.", "data.path", "training.dataloader_", "training.save_total_limit")
    return {key: value for key, value in flatten(resolved).items() if not key.startswith(idle)}


def set_precision(namespace: Namespace) -> None:
    """Put what `mixed_precision` asks for here into the training arguments."""
    wanted = namespace["mixed_precision"]
    if wanted == "auto":
        wanted = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    if wanted != "no":
        namespace[f"training.{wanted}"] = True


def check_start_checkpoint(parser: ArgumentParser, name: str, start: str | None) -> None:
    """Refuse a path that is not there before the Hub is asked for it."""
    if start is None or Path(start).is_dir():
        return
    place, _ = split_revision(start)
    if place.startswith((".", "/", "~")) or place.count("/") != 1:
        parser.error(f"{name} must be a folder or a Hub name, found nothing at {start!r}; check the path.")


def split_revision(start: str) -> tuple[str, dict[str, str]]:
    """Return where a model to start from lies, and the `revision` to load of it: `NAME@REVISION` pins a Hub name."""
    name, _, revision = start.partition("@")
    if not revision or Path(start).exists():
        return start, {}
    return name, {"revision": revision}


def plain_values(parser: ArgumentParser, namespace: Namespace) -> dict[str, Any]:
    """The namespace as YAML would hold it, without the options that do not decide the result."""
    plain = yaml.safe_load(parser.dump(namespace, skip_validation=True))
    plain.pop("config", None)
    for name in ("output_dir", "resume_from_checkpoint", "report_to", "disable_tqdm", "logging_steps"):
        plain["training"].pop(name, None)
    return plain


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings by their dotted names."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        name: value
        for key, child in tree.items()
        for name, value in flatten(child, f"{prefix}.{key}" if prefix else str(key)).items()
    }
