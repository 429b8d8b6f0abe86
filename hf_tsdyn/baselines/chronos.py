"""Chronos-T5, Chronos-Bolt and Chronos-2 behind the Forecaster protocol, run by their authors' own pipelines."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING, AutoConfig

from ..checkpoint_safety import check_checkpoint, pinned
from ..checkpoint_settings import check_size
from ..distributions import check_num_samples, check_quantile_levels
from ..forecasting import check_prediction_length
from ..observations import check_past_values, last_observed

if TYPE_CHECKING:
    from chronos import BaseChronosPipeline

Family = Literal["chronos_t5", "chronos_bolt", "chronos_2"]
UNROLLED_QUANTILES = 9
"""Paths of one series that Bolt and Chronos-2 go on with beyond their first block."""


class ChronosForecaster:
    """A Chronos model as a forecaster of any number of channels and steps.

    Chronos-T5 and Chronos-Bolt forecast every channel by itself. Chronos-2 takes the channels of a series for the
    variates of one group, each of which sees the others, or every channel by itself. The point forecast is the median.

    Beyond the model's own prediction length forecasts go on block by block, the way the official pipelines do: T5
    appends the median of its samples to the context of all of them; Bolt and Chronos-2 append nine quantiles, each to
    a copy of the context, and take the quantiles of all that follows. A context longer than the model's (or
    `context_length`) loses its oldest steps; while a forecast is rolled out, its own steps push them out.

    A channel with nothing seen in that context is not given to the model: it goes on at the last value seen before,
    or at 0. Everything is computed in float32 at most.

    Args:
        pipeline: a `ChronosPipeline`, `ChronosBoltPipeline` or `Chronos2Pipeline`.
        num_samples: sampled paths of Chronos-T5, from which its medians and quantiles come; of no effect on the others.
        context_length: latest steps that are used; by default, and at most, the model's own.
        multivariate: whether channels see each other; by default in Chronos-2 alone, which alone can.
        batch_size: sequences that go through the network at once, a channel counted for each of its samples or
            unrolled quantiles; bounds the memory.
    Raises: ValueError on an option that the model cannot serve.
    Sources: Ansari et al. 2024, "Chronos" (arXiv:2403.07815); Ansari et al. 2025, "Chronos-2" (arXiv:2510.15821).
    """

    def __init__(
        self,
        pipeline: BaseChronosPipeline,
        *,
        num_samples: int = 20,
        context_length: int | None = None,
        multivariate: bool | None = None,
        batch_size: int = 128,
    ):
        self.pipeline = pipeline
        self.family = family_of(pipeline.inner_model.config)
        self.num_samples = num_samples
        self.multivariate = self.family == "chronos_2" if multivariate is None else multivariate
        self.batch_size = batch_size
        longest = pipeline.model_context_length
        self.context_length = longest if context_length is None else context_length
        check_num_samples(num_samples)
        if not 1 <= self.context_length <= longest:
            raise ValueError(
                f"context_length must lie between 1 and the model's {longest}, found {context_length!r}; leave it out "
                "for the model's."
            )
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, found {batch_size!r}; it counts sequences.")
        if self.multivariate and self.family != "chronos_2":
            raise ValueError(
                f"multivariate must be False for all but Chronos-2, found {multivariate!r} for a model of family "
                f"{self.family!r}, which forecasts every channel by itself; leave it out."
            )

    @classmethod
    def from_pretrained(
        cls,
        folder_or_name: str | Path,
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        num_samples: int = 20,
        context_length: int | None = None,
        multivariate: bool | None = None,
        batch_size: int = 128,
    ) -> ChronosForecaster:
        """Load a checkpoint folder or a Hub repository, such as "amazon/chronos-bolt-tiny", of any of the families.

        Weights are read from safetensors files alone, and nothing that a repository brings along is executed.

        Args:
            revision: branch or hash of a commit of the repository.
            dtype: of the weights: float32, or bfloat16, which is faster on GPUs that have it.
            num_samples, context_length, multivariate, batch_size: as of the class.
        Raises: ModuleNotFoundError without the package chronos; FileNotFoundError or OSError without a checkpoint;
            ValueError if it is none of Chronos, or as `hf_tsdyn.checkpoint_safety` says.
        """
        pipeline_class = require_chronos().BaseChronosPipeline
        folder = Path(folder_or_name)
        if str(folder_or_name).startswith("s3:") or (folder.is_dir() and not (folder / "config.json").is_file()):
            raise FileNotFoundError(
                f"a Chronos checkpoint must be a folder with config.json or a Hub name, found {str(folder_or_name)!r}; "
                "give the folder that save_pretrained or training.finetune_chronos wrote (of an adapter, the merged "
                "model)."
            )
        options = pinned(folder_or_name, {"revision": revision})
        num_values = check_checkpoint(folder_or_name, **options)
        model_class = model_class_of(
            AutoConfig.from_pretrained(str(folder_or_name), trust_remote_code=False, **options)
        )
        config = model_class.config_class.from_pretrained(str(folder_or_name), **options)
        check_size(model_class, config, num_values or 0)
        pipeline = pipeline_class.from_pretrained(
            str(folder_or_name), dtype=dtype, use_safetensors=True, trust_remote_code=False, **options
        )
        pipeline.inner_model.to(device).eval()
        return cls(
            pipeline,
            num_samples=num_samples,
            context_length=context_length,
            multivariate=multivariate,
            batch_size=batch_size,
        )

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.pipeline.inner_model.device

    def num_parameters(self) -> int:
        """Return the number of weights."""
        return self.pipeline.inner_model.num_parameters()

    def forecast(
        self,
        past_values: Tensor,
        *,
        prediction_length: int,
        past_observed_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the medians of the steps after `past_values` (batch, time, channels), as `Forecaster` says.

        generator: of the samples of Chronos-T5, as in `forecast_quantiles`.
        """
        quantiles = self.forecast_quantiles(
            past_values,
            prediction_length=prediction_length,
            quantile_levels=(0.5,),
            past_observed_mask=past_observed_mask,
            generator=generator,
        )
        return quantiles[..., 0]

    @torch.no_grad()
    def forecast_quantiles(
        self,
        past_values: Tensor,
        *,
        prediction_length: int,
        quantile_levels: Sequence[float],
        past_observed_mask: Tensor | None = None,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Quantiles of the forecast of each value, as the official pipelines find them.

        Those of Chronos-T5 are of its samples, those of the others its own, linear between its levels.

        Args:
            past_values, past_observed_mask, prediction_length: as in `forecast`.
            quantile_levels: in (0, 1), any order; of Bolt and Chronos-2 within the range that the model was trained
                for (0.1 to 0.9, and 0.01 to 0.99).
            num_samples: of Chronos-T5 in place of the forecaster's.
            generator: source of those samples; seeded with 0 by default, so that calls repeat. What a series gets
                depends on the others of its batch. No global generator is changed.
        Returns: (batch, prediction_length, channels, levels), units, dtype and device of `past_values`. The quantiles
            of Bolt and Chronos-2 may cross, as the models leave them.
        Raises: ValueError or TypeError on bad shapes, lengths or levels, or a series with nothing seen.
        """
        steps = check_prediction_length(prediction_length)
        levels = self._check_levels(quantile_levels)
        num_samples = self.num_samples if num_samples is None else num_samples
        check_num_samples(num_samples)
        values, mask = check_past_values(past_values, past_observed_mask)
        context = values.masked_fill(~mask, torch.nan)[:, -self.context_length :].float().cpu()
        seen = ~context.isnan().all(dim=1)  # (batch, channels)
        channels_first = context.transpose(1, 2)
        series = [channels_first[index][seen[index]] for index in range(len(seen)) if seen[index].any()]
        if not self.multivariate:
            series = [row for each in series for row in each.split(1)]
        result = last_observed(values, mask).float().cpu()[..., None].repeat(1, steps, 1, len(levels))
        if series:
            with self._own_draws(generator):
                blocks = [
                    self._quantiles(part, steps, levels, num_samples) for part in self._parts(series, num_samples)
                ]
            result.transpose(1, 2)[seen] = torch.cat(blocks)
        return result.to(past_values)

    def _check_levels(self, quantile_levels: Sequence[float]) -> Tensor:
        levels = check_quantile_levels(quantile_levels)
        if self.family != "chronos_t5":
            known = cast(Any, self.pipeline).quantiles
            if levels.min() < min(known) or levels.max() > max(known):
                raise ValueError(
                    f"quantile_levels must lie within the model's, {min(known)} to {max(known)}, found "
                    f"{list(quantile_levels)}; ask for others, or use a model with a wider range (Chronos-2 has 0.01 "
                    "to 0.99, Chronos-T5 any)."
                )
        return levels.float()

    def _parts(self, series: list[Tensor], num_samples: int) -> Iterator[list[Tensor]]:
        """Cut the series so that the network never takes more than `batch_size` sequences, unless one series has."""
        copies = num_samples if self.family == "chronos_t5" else UNROLLED_QUANTILES
        part: list[Tensor] = []
        for each in series:
            if part and (sum(map(len, part)) + len(each)) * copies > self.batch_size:
                yield part
                part = []
            part.append(each)
        yield part

    def _quantiles(self, series: list[Tensor], steps: int, levels: Tensor, num_samples: int) -> Tensor:
        """(rows, steps, levels) of series (channels, time) each, one row a channel."""
        if self.family == "chronos_t5":
            samples = self._sample_paths(torch.cat(series), steps, num_samples)
            return samples.quantile(levels, dim=1).permute(1, 2, 0)
        from chronos.utils import interpolate_quantiles

        with _without_advice():
            if self.family == "chronos_bolt":
                predicted = self.pipeline.predict(torch.cat(series), steps)
            else:
                options = {"prediction_length": steps, "batch_size": sum(map(len, series))}
                predicted = torch.cat(cast(Any, self.pipeline).predict(series, **options))
        return interpolate_quantiles(levels, cast(Any, self.pipeline).quantiles, predicted.transpose(1, 2))

    def _sample_paths(self, rows: Tensor, steps: int, num_samples: int) -> Tensor:
        """(rows, samples, steps): the pipeline's own roll-out, without what it logs about long ones."""
        blocks = []
        while steps > 0:
            length = min(steps, self.pipeline.model_prediction_length)
            blocks.append(cast(Any, self.pipeline).predict(rows, length, num_samples=num_samples))
            rows = torch.cat([rows, blocks[-1].median(dim=1).values], dim=1)
            steps -= length
        return torch.cat(blocks, dim=2)

    @contextmanager
    def _own_draws(self, generator: torch.Generator | None) -> Iterator[None]:
        """A context whose draws come from `generator`; the global ones go on afterwards as if there had been none."""
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        seed = torch.randint(1 << 62, (), generator=generator, device=generator.device).item()
        device = self.device
        with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
            torch.manual_seed(int(seed))
            yield


def family_of(config: Any) -> Family:
    """Return which Chronos a configuration is of.

    Raises: ValueError if it is of none.
    """
    names = {"ChronosPipeline": "chronos_t5", "ChronosBoltPipeline": "chronos_bolt", "Chronos2Pipeline": "chronos_2"}
    name = getattr(config, "chronos_pipeline_class", "ChronosPipeline")
    if not hasattr(config, "chronos_config") or name not in names:
        raise ValueError(
            f"a checkpoint must be of one of {list(names)}, found {name!r} in a configuration with"
            f"{'' if hasattr(config, 'chronos_config') else 'out'} chronos_config; give a Chronos model."
        )
    return cast(Family, names[name])


def model_class_of(config: Any) -> Any:
    """Return the network that the official pipeline of a configuration's family runs; ValueError as `family_of`."""
    family = family_of(config)
    if family == "chronos_t5":
        is_causal = config.chronos_config.get("model_type") == "causal"
        mapping = MODEL_FOR_CAUSAL_LM_MAPPING if is_causal else MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
        return mapping[type(config)]
    from chronos.chronos2 import Chronos2Model
    from chronos.chronos_bolt import ChronosBoltModelForForecasting

    return Chronos2Model if family == "chronos_2" else ChronosBoltModelForForecasting


def require_chronos() -> Any:
    """Return the package chronos; ModuleNotFoundError that says how to install it."""
    try:
        import chronos
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Chronos models need the package chronos-forecasting, found no module {error.name!r}; install it with: "
            "pip install 'hf_tsdyn[chronos]'"
        ) from error
    return chronos


@contextmanager
def _without_advice() -> Iterator[None]:
    """A context without the pipelines' warning that long forecasts are less accurate."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="We recommend keeping prediction length")
        yield
