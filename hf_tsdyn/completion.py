"""Hold completers against each other on the same gaps of held-out windows: one path for models and baselines."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from .data.held_out_windows import HeldOutWindow, batches_of_equal_channels, draw_held_out_windows
from .data.series import TrajectorySource
from .metrics import normalised_mae
from .results import EvaluationResults, summarise
from .scoring import Scores, results_header, system_rows, timed


@runtime_checkable
class Completer(Protocol):
    """Anything that fills gaps in a series: masked-modelling models, interpolation."""

    def complete(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Fill what is hidden in each series.

        Args:
            values: (batch, time, channels), data units, evenly sampled; NaN = hidden. Never modified.
            mask: boolean, same shape, True = hidden and to be filled.
        Returns: shape, units, dtype and device of `values`, with no NaN left; equal to `values` where these are seen.
        """
        ...


def hide_patches(
    num_steps: int, num_channels: int, *, patch_length: int, share: float, rng: np.random.Generator
) -> np.ndarray:
    """Hide round(share * patches) whole patches of every channel, drawn for each by itself, as masked modelling does.

    Returns: (num_steps, num_channels), True = hidden. Patches lie end to end from the first step on.
    """
    num_patches = num_steps // patch_length
    ranks = rng.random((num_patches, num_channels)).argsort(axis=0).argsort(axis=0)
    return np.repeat(ranks < round(share * num_patches), patch_length, axis=0)


def hide_patches_of_all_channels(
    num_steps: int, num_channels: int, *, patch_length: int, share: float, rng: np.random.Generator
) -> np.ndarray:
    """Hide as `hide_patches` does, the same patches of every channel: no channel helps with another's gaps."""
    one = hide_patches(num_steps, 1, patch_length=patch_length, share=share, rng=rng)
    return one.repeat(num_channels, axis=1)


def hide_span(
    num_steps: int, num_channels: int, *, patch_length: int, share: float, rng: np.random.Generator
) -> np.ndarray:
    """Hide one stretch of round(share * num_steps) steps of all channels, as likely in one place as in another.

    It heeds no patches, and may touch an end of the window. Returns: as `hide_patches`.
    """
    length = round(share * num_steps)
    start = int(rng.integers(num_steps - length + 1))
    hidden = np.zeros((num_steps, num_channels), dtype=bool)
    hidden[start : start + length] = True
    return hidden


MASKS: dict[str, Callable[..., np.ndarray]] = {
    "patches": hide_patches,
    "channel_consistent": hide_patches_of_all_channels,
    "span": hide_span,
}
"""The ways to hide parts of a window, by the names that metrics carry."""


@dataclass(frozen=True)
class CompletionProtocol:
    """What is asked of every completer.

    context_length: steps of a window, whole patches. patch_length: steps of a patch. mask_share: of each channel that
    is hidden. mask_kinds: names out of `MASKS`. num_windows: drawn per trajectory without repetition (all there
    are, if fewer). seed: of windows, masks and bootstrap. num_resamples, confidence: of the bootstrap over systems.
    """

    context_length: int = 256
    patch_length: int = 16
    mask_share: float = 0.5
    mask_kinds: tuple[str, ...] = ("patches", "channel_consistent", "span")
    num_windows: int = 4
    seed: int = 0
    num_resamples: int = 2000
    confidence: float = 0.95
    batch_size: int = 64

    def __post_init__(self) -> None:
        counts = ("context_length", "patch_length", "num_windows", "num_resamples", "batch_size")
        wrong = {name: getattr(self, name) for name in counts if getattr(self, name) < 1}
        wrong |= {"confidence": self.confidence} if not 0 < self.confidence < 1 else {}
        unknown = not self.mask_kinds or set(self.mask_kinds) - set(MASKS)
        wrong |= {"mask_kinds": self.mask_kinds} if unknown else {}
        if wrong:
            raise ValueError(
                "a completion protocol must count in positive numbers, have a confidence between 0 and 1 and masks "
                f"among {list(MASKS)}, found {wrong}; correct these fields."
            )
        num_patches, rest = divmod(self.context_length, self.patch_length)
        if rest or not 0 < round(self.mask_share * num_patches) < num_patches:
            raise ValueError(
                f"context_length must be whole patches of which mask_share hides some and leaves some, found "
                f"{self.context_length} steps, patches of {self.patch_length} and a share of {self.mask_share}; "
                "change one of them."
            )


def metric_of(kind: str) -> str:
    """Return the name of the error under masks of one kind.

    It is the mean absolute error over the hidden values of a window that are known, each channel in units of the
    standard deviation of the whole window's truth: one unit for all kinds of masks. A channel that is constant
    there has no such unit and is left out.
    """
    return f"completion_mae@{kind}"


def draw_mask(window: HeldOutWindow, kind: str, protocol: CompletionProtocol) -> np.ndarray:
    """Return (time, channels), True = hidden: a function of the protocol, the kind, and the window's place alone."""
    place = repr((kind, window.trajectory.item_id, window.start))
    digest = hashlib.sha256(place.encode()).digest()
    rng = np.random.default_rng([protocol.seed, *np.frombuffer(digest, dtype="<u4").tolist()])
    num_steps, num_channels = window.values.shape
    return MASKS[kind](num_steps, num_channels, patch_length=protocol.patch_length, share=protocol.mask_share, rng=rng)


def shows_every_channel(values: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Return whether each window, (..., time, channels) both arguments, shows something of all its channels, (...)."""
    return np.all(np.any(~hidden & ~np.isnan(values), axis=-2), axis=-1)


def evaluate_completion(
    completers: Mapping[str, Completer],
    dataset: TrajectorySource,
    protocol: CompletionProtocol,
    *,
    baselines: Collection[str] = (),
    device: str | torch.device = "cpu",
    show_progress: bool = True,
) -> EvaluationResults:
    """Fill the same gaps with every completer and report errors per system and over systems.

    Hidden values are NaN before a completer sees them, and only hidden ones are scored: per window and kind of mask
    by `metric_of(kind)`, at the window's length as horizon. Per system: the median over its windows. Over systems:
    the median with a bootstrap interval, and the paired difference of every completer to each baseline. A window
    with a value that is not finite under some mask has failed: it stays in the medians as an infinite error and in the
    header as a count. A window of which a mask leaves some channel nothing is left out of that mask's scores.

    Args:
        completers: by the name they are reported under.
        dataset: as in `hf_tsdyn.evaluation.evaluate`; a window and its masks depend on its `item_id` and the
            protocol alone.
        baselines: names in `completers` that the others are compared with.
        device: where values are put; completers must be there already.
    Raises: ValueError if there is no completer or trajectory, a baseline is unknown, a trajectory is shorter than
        a window, no window shows all of its channels, or a completion has the wrong shape.
    """
    _check(completers, dataset, baselines)
    length = protocol.context_length
    windows = draw_held_out_windows(dataset, length=length, num_windows=protocol.num_windows, seed=protocol.seed)
    scores = {name: Scores(len(windows)) for name in completers}
    batches = list(batches_of_equal_channels(windows, protocol.batch_size))
    with tqdm(total=len(batches) * len(protocol.mask_kinds), desc="complete", disable=not show_progress) as progress:
        for batch in batches:
            for kind in protocol.mask_kinds:
                _score(batch, kind, protocol, completers, scores, device)
                progress.update()
    rows = [row for name in completers for row in system_rows(name, scores[name], windows, protocol.seed)]
    if not rows:
        raise ValueError(
            f"every channel of some window must be seen where it is not hidden, found no such among {len(windows)} "
            "windows; leave channels without values out (columns of a series), or hide less."
        )
    header = results_header(scores, windows, dataset, protocol, baselines=baselines, device=torch.device(device))
    summary, differences = summarise(
        rows,
        baselines=header["baselines"],
        seed=protocol.seed,
        num_resamples=protocol.num_resamples,
        confidence=protocol.confidence,
    )
    return EvaluationResults(header, rows, summary, differences)


def _check(completers: Mapping[str, Completer], dataset: TrajectorySource, baselines: Collection[str]) -> None:
    if not completers or not len(dataset):
        raise ValueError(
            "evaluate_completion needs at least one completer and one trajectory, found "
            f"{len(completers)} and {len(dataset)}; name a model, and a split that has systems."
        )
    unknown = [name for name in baselines if name not in completers]
    if unknown:
        raise ValueError(
            f"baselines must be among the completers {list(completers)}, found {unknown}; add them to both."
        )


def _score(
    batch: list[HeldOutWindow],
    kind: str,
    protocol: CompletionProtocol,
    completers: Mapping[str, Completer],
    scores: Mapping[str, Scores],
    device: str | torch.device,
) -> None:
    """Hide one kind of mask from a batch, fill it with every completer and keep the errors."""
    truth = np.stack([window.values for window in batch])
    hidden = np.stack([draw_mask(window, kind, protocol) for window in batch])
    shown = shows_every_channel(truth, hidden)
    truth, hidden = truth[shown], hidden[shown]
    indices = [window.index for window, has_all in zip(batch, shown, strict=True) if has_all]
    if not indices:
        return
    values = torch.from_numpy(np.where(hidden, np.float32(np.nan), truth)).to(device)
    mask = values.isnan()
    for name, completer in completers.items():
        call = partial(completer.complete, values.clone(), mask.clone())
        completed = timed(name, call, truth.shape, scores[name], prefix="")
        errors = normalised_mae(truth, completed, past_values=truth, future_observed_mask=hidden)
        scores[name].set(metric_of(kind), protocol.context_length, indices, errors)
        scores[name].set_failed(indices, completed)
