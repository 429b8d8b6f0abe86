"""What an online study is made of: streams, networks that are pre-trained, methods that learn, claims of others."""

from dataclasses import dataclass, field
from typing import Any, Literal

from hf_tsdyn.data.series import SeriesOptions
from training.study_config import Claim

Protocol = Literal["delayed", "immediate"]
Kind = Literal[
    "frozen",
    "gradient",
    "feature_adaptation",
    "recursive_correction",
    "recursive_least_squares",
    "ridge",
    "persistence",
    "seasonal",
    "copy_last",
    "mixture",
]
OF_NETWORKS = {"frozen": True, "gradient": True, "feature_adaptation": True, "recursive_correction": None}
"""Whether a learner of a kind starts from a network; None of what may. All others do not."""
FIXED = ("frozen", "ridge", "persistence", "seasonal")
"""Kinds that never change."""
NEVER_LEARNING = (*FIXED, "copy_last")
"""Kinds that never learn."""
CHOSEN = "chosen"


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """How a dataset becomes a stream: its test split is the stretch that learners are scored on.

    Args:
        context_length: steps that every forecast is made from.
        series: columns and splits.
        split, row: where the stream lies in a generated dataset: its `item_id`, or its number.
        overrides: of every run of pre-training on it, by dotted name, such as `model.num_channels: 7`.
    """

    context_length: int
    series: SeriesOptions = field(default_factory=SeriesOptions)
    split: str = "test"
    row: int | str = 0
    overrides: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A network that is trained before the stretch.

    Args:
        config: file of a run of `training.train`, which gets the lengths of windows, data, and seeds from the study.
        overrides: of the run, by dotted name.
        overrides_at: more of them for one dataset and horizon, `ETTh1-12: {...}`.
    """

    config: str
    overrides: dict[str, Any] = field(default_factory=dict)
    overrides_at: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LearnerOptions:
    """How a method learns.

    Args:
        kind: "frozen", "gradient" and "feature_adaptation" of a network, "recursive_correction" of a network or of
            persistence, "mixture" of other methods, the others by themselves.
        options: of that learner; `learning_rate: chosen` replays the validation rows, with delay, for each cell.
        members: the methods that a mixture mixes, none of them a mixture, or a ridge, which cannot be saved on its way.
    """

    kind: Kind
    options: dict[str, Any] = field(default_factory=dict)
    members: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row of an online study.

    Args:
        learner: how it learns.
        start: the pre-trained network that it starts from; null of what has none.
        model: fields of that network's configuration that are changed when it is loaded, such as `memory: none`.
        frozen: the method that is this one without learning; by default the frozen network of its start, or of the
            start of its first member that has one.
        memory_off: the method of the same start with its memory switched off.
        label: text of the row in tables; its name by default.
        run_in: whether it also learns, with delay, through the validation rows before the stretch.
        protocols: how targets are revealed to it.
        seeds: of its starts and draws; those of the study by default. What has no start needs one.
        settings: datasets and horizons, `{ETTh1: [12]}`; those of the study by default.
    """

    learner: LearnerOptions
    start: str | None = None
    model: dict[str, Any] = field(default_factory=dict)
    frozen: str | None = None
    memory_off: str | None = None
    label: str | None = None
    run_in: bool = False
    protocols: tuple[Protocol, ...] = ("delayed", "immediate")
    seeds: tuple[int, ...] | None = None
    settings: dict[str, tuple[int, ...]] | None = None

    @property
    def is_rate_chosen(self) -> bool:
        """Whether its learning rate is chosen on the validation rows."""
        return self.learner.options.get("learning_rate") == CHOSEN

    @property
    def learns(self) -> bool:
        """Whether it learns while it forecasts: a correction may be told not to."""
        return self.learner.kind not in NEVER_LEARNING and bool(self.learner.options.get("learns", True))

    @property
    def is_bound_to_protocol(self) -> bool:
        """Whether only one protocol makes sense for it, wherever it is a member."""
        return self.is_rate_chosen or self.learner.kind == "copy_last"

    @property
    def is_penalty_chosen(self) -> bool:
        """Whether the penalty of its ridge is chosen on the validation rows."""
        ridge = self.learner.kind in ("ridge", "recursive_least_squares")
        return ridge and self.learner.options.get("penalty") is None


@dataclass(frozen=True, kw_only=True)
class OnlineClaim(Claim):
    """Errors that are no cell's, of one protocol.

    Args:
        mape: mean absolute percentage error, of z-scores.
    """

    protocol: Protocol
    mape: float | None = None


@dataclass(frozen=True, kw_only=True)
class Roles:
    """What figures and verdicts take methods for.

    Args:
        reference: what improvements are measured from.
        persistence, ridge: those baselines, which every method is compared with.
        chosen: the learner that was settled on before the stretch was looked at.
        roadmap: methods each of which changes the one before it.
        bug_fix: memories that are set side by side, such as the published one, the fixed one, none.
    """

    reference: str | None = None
    persistence: str | None = None
    ridge: str | None = None
    chosen: str | None = None
    roadmap: tuple[str, ...] = ()
    bug_fix: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every method that has a role."""
        single = (self.reference, self.persistence, self.ridge, self.chosen)
        return *(name for name in single if name is not None), *self.roadmap, *self.bug_fix
