"""What must hold of a card that is published, and of the results that its numbers come from."""

import math
import re
import statistics
from collections.abc import Iterator
from typing import Any, cast

import yaml
from huggingface_hub import (
    DatasetCard,
    DatasetCardData,
    EvalResult,
    EvalResultEntry,
    ModelCard,
    ModelCardData,
    eval_result_entries_to_yaml,
)
from huggingface_hub.utils import filter_repo_objects
from transformers.utils import SAFE_WEIGHTS_NAME

from hf_tsdyn.models import MASKED_MODELING
from hf_tsdyn.results import EvaluationResults
from hf_tsdyn.series_results import SeriesResults
from training.evaluate_checkpoint import RESULTS_FILE
from training.publish_checks import Finding, model_class, read_config
from training.publish_files import CARD_FILE, Bundle
from training.ship_checkpoint import read_results

FORECASTING = "time-series-forecasting"
REPOSITORY = re.compile(r"\w[\w.-]*/[\w.-]+")
HUB_LICENSES = (
    "afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc "
    "cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 "
    "cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 "
    "cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 "
    "gfdl gpl gpl-2.0 gpl-3.0 isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by "
    "ofl-1.1 openmdw-1.0 openrail osl-3.0 other pddl postgresql unlicense wtfpl zlib"
).split()
"""Identifiers of licences that the Hub knows, without those of single products."""


def check_card(bundle: Bundle) -> Iterator[Finding]:
    """Find what a card lacks for the Hub to file it, and for its reader to run, see and trust what it shows."""
    if CARD_FILE not in bundle.files:
        do = "evaluate the run (training.evaluate_checkpoint and its like), which writes it, or generate the data again"
        yield Finding("what is published must have a card, README.md", "none", do)
        return
    data = read_card(bundle)
    if isinstance(data, Finding):
        yield data
        return
    yield from _check_license(data)
    yield from _check_links(bundle)
    if isinstance(data, ModelCardData):
        yield from _check_model_metadata(bundle, data)
        yield from _check_results(bundle, data)
    else:
        yield from _check_dataset_metadata(bundle, data.to_dict())


def read_card(bundle: Bundle) -> ModelCardData | DatasetCardData | Finding:
    """Return a card's metadata, or what keeps the Hub's own reader from it."""
    kind = DatasetCard if bundle.repo_type == "dataset" else ModelCard
    text = bundle.text(CARD_FILE)
    try:
        if not re.match(r"---\r?\n.+?\n---\r?\n", text, re.DOTALL):
            raise ValueError("no lines between two '---' at its beginning")
        return cast(ModelCardData | DatasetCardData, kind(text).data)
    except (ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        do = "correct the front matter, or render the card again"
        return Finding("README.md must begin with metadata that the Hub reads", f"{error}", do)


def _check_license(data: ModelCardData | DatasetCardData) -> Iterator[Finding]:
    given = data.to_dict()
    if given.get("license") not in HUB_LICENSES:
        do = "name one as the Hub spells it, such as apache-2.0, or other with license_name and license_link"
        yield Finding("license must be an identifier of the Hub", repr(given.get("license")), do)
    elif given["license"] == "other" and not (given.get("license_name") and given.get("license_link")):
        must = "license: other must come with license_name and license_link"
        yield Finding(must, "none of them or one", "say which licence it is, and where its text is")


def _check_links(bundle: Bundle) -> Iterator[Finding]:
    targets = re.findall(r"\]\(([^)\s]+)\)", bundle.text(CARD_FILE))
    local = {target for target in targets if not re.match(r"https?://|mailto:|#", target)}
    missing = sorted(target for target in local if target not in bundle.files)
    if missing:
        do = "draw the figures again, or take the links out"
        yield Finding("what README.md links to must be uploaded with it", f"no {missing}", do)


def _check_model_metadata(bundle: Bundle, data: ModelCardData) -> Iterator[Finding]:
    do = "render the card again, or correct its front matter"
    if data.library_name != "hf_tsdyn":
        yield Finding("library_name must be hf_tsdyn", repr(data.library_name), do)
    config = read_config(bundle)[1]
    if config is not None:
        forecasts = model_class(config) not in MASKED_MODELING.values()
        wanted, tag = (FORECASTING, "time-series") if forecasts else (None, "imputation")  # the Hub has no tag of that
        if data.pipeline_tag != wanted:
            must = f"pipeline_tag of {config.architectures} must be {wanted}" if forecasts else "no pipeline_tag fits"
            yield Finding(must, repr(data.pipeline_tag), do)
        missing = [each for each in ("hf_tsdyn", config.model_type, tag) if each not in (data.tags or [])]
        if missing:
            yield Finding("tags must name the package, the architecture and the field", f"no {missing}", do)
    if SAFE_WEIGHTS_NAME not in bundle.files and "from_pretrained(" in re.sub(r"`[^`\n]*`", "", bundle.text(CARD_FILE)):
        must = "the card of a repository without weights must load none"
        yield Finding(must, "from_pretrained( in its example", do)


def _check_results(bundle: Bundle, data: ModelCardData) -> Iterator[Finding]:
    """Compare every number of the card's model-index with the results file, and that with its own rows."""
    if not data.eval_results:
        yield Finding(
            "the card must have results, in model-index", "none", "evaluate the checkpoint and render it again"
        )
        return
    file = bundle.files.get(RESULTS_FILE)
    if file is None or isinstance(file, bytes):
        do = "put it beside the card, or, of a shipped checkpoint, into results/NAME.json beside its folder"
        yield Finding("the results that the card's numbers come from must be uploaded", f"no {RESULTS_FILE}", do)
        return
    try:
        results = read_results(file)
    except (ValueError, KeyError, TypeError) as error:
        yield Finding(f"{RESULTS_FILE} must be a results file", f"{error}", "evaluate the checkpoint again")
        return
    title = re.search(r"^# (.+)$", bundle.text(CARD_FILE), re.MULTILINE)
    model = title[1].strip() if title else ""
    if model not in results.header["models"]:
        found = f"{model!r}, where the results are of {results.header['models']}"
        yield Finding(
            "the card's title must be the model's name in its results", found, "evaluate the checkpoint again"
        )
        return
    do = "render the card from these results again"
    for result in data.eval_results:
        recorded = _recorded(results, model, result)
        if not any(math.isclose(float(result.metric_value), value, rel_tol=1e-3) for value in recorded):
            must = f"{result.metric_name or result.metric_type} on the card must be that of {RESULTS_FILE}"
            shown = f"{result.metric_value} in place of {recorded[0]:.4g}" if recorded else "a metric that is not there"
            yield Finding(must, shown, do)
    if isinstance(results, EvaluationResults):
        yield from _check_summary(results, model)


def _recorded(results: EvaluationResults | SeriesResults, model: str, result: EvalResult) -> list[float]:
    """What the results hold of a card's number: one value, or none."""
    found = re.search(r"@ (\d+)$", result.metric_name or "")
    horizon = int(found[1]) if found else None
    if isinstance(results, SeriesResults):
        split = str(result.dataset_split)
        mean = results.mean_of(model, result.metric_type, result.dataset_type, horizon or 0, split=split)
        return [] if mean is None else [mean.mean]
    rows = (row for row in results.summary if row.model == model and row.metric == result.metric_type)
    return [row.median for row in rows if horizon in (None, row.horizon)]


def _check_summary(results: EvaluationResults, model: str) -> Iterator[Finding]:
    for row in results.summary:
        place = (model, row.metric, row.horizon)
        values = [each.value for each in results.rows if (each.model, each.metric, each.horizon) == place]
        if row.model != model or (values and math.isclose(statistics.median(values), row.median, rel_tol=1e-6)):
            continue
        again = f"{statistics.median(values):.6g}" if values else "nothing"
        must = f"the summary of {row.metric} at {row.horizon} must be the median over the rows of {RESULTS_FILE}"
        yield Finding(must, f"{row.median:.6g} in place of {again}", "evaluate the checkpoint again")


def _check_dataset_metadata(bundle: Bundle, data: dict[str, Any]) -> Iterator[Finding]:
    do = "run the same generation command again, which writes the card"
    if FORECASTING not in (data.get("task_categories") or []):
        yield Finding(f"task_categories must hold {FORECASTING}", repr(data.get("task_categories")), do)
    configs = data.get("configs") or []
    patterns = [each["path"] for config in configs for each in config.get("data_files", [])]
    empty = [pattern for pattern in patterns if not list(filter_repo_objects(bundle.files, allow_patterns=[pattern]))]
    if empty or not patterns:
        yield Finding("configs must name the files of each split", f"{empty or 'none'} without files", do)


def eval_results_file(bundle: Bundle, benchmark: str | None) -> dict[str, bytes]:
    """Return `.eval_results/NAME.yaml`, the card's numbers as the Hub's leaderboards read them.

    benchmark: dataset on the Hub that the results are of; without one it is the card's own, where that is one.
    Returns: {} where the results are of no dataset on the Hub, which an entry must name.
    Raises: ValueError if `benchmark` is no repository's name.
    """
    if benchmark is not None and not REPOSITORY.fullmatch(benchmark):
        raise ValueError(
            f"--benchmark must be a dataset on the Hub like 'name/dataset', found {benchmark!r}; correct it."
        )
    data = read_card(bundle)
    if not isinstance(data, ModelCardData) or not data.eval_results:
        return {}
    entries = [
        EvalResultEntry(dataset, _task_id(result), result.metric_value, notes=f"{result.metric_name}; {RESULTS_FILE}")
        for result in data.eval_results
        if REPOSITORY.fullmatch(dataset := benchmark or result.dataset_type)
    ]
    if not entries:
        return {}
    text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)
    return {f".eval_results/{entries[0].dataset_id.split('/')[1]}.yaml": text.encode()}


def _task_id(result: EvalResult) -> str:
    horizon = re.search(r"@ (\d+)$", result.metric_name or "")
    return re.sub(r"[^\w.]+", "_", result.metric_type) + (f"_{horizon[1]}" if horizon else "")
