"""What must hold of a card that is published: what the Hub files it by, and what its reader follows."""

import dataclasses
import posixpath
import re
from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import unquote

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
from training.evaluate_checkpoint import RESULTS_FILE
from training.evaluate_reconstruction import TRUTH_FIGURES
from training.publish_files import CARD_FILE, Bundle, evaluation_settings, may_ship
from training.publish_model import model_class, read_config
from training.publish_results import check_results
from training.publish_texts import Finding

FORECASTING = "time-series-forecasting"
REPOSITORY = re.compile(r"\w[\w.-]*/[\w.-]+")
CODE = re.compile(
    r"^ {0,3}(`{3,}|~{3,})[^`\n]*\n.*?(?:^ {0,3}\1[`~]*[ \t]*$|\Z)|(?<!`)(`+)(?!`)(?:(?!\n\s*\n).)+?(?<!`)\2(?!`)",
    re.MULTILINE | re.DOTALL,
)
"""Fenced blocks and spans of code in Markdown."""
_TARGET = r"(?:<([^<>\n]+)>|([^\s<>()]+(?:\([^\s<>()]*\)[^\s<>()]*)*))"
LINKS = (
    re.compile(rf"\]\(\s*{_TARGET}(?:\s+(?:\"[^\"]*\"|'[^']*'|\([^)]*\)))?\s*\)"),
    re.compile(rf"^ {{0,3}}\[[^\]\n]+\]:\s*{_TARGET}", re.M),
    re.compile(r"<(?:img|a|source|video)\b[^>]*?\s(?:src|href)\s*=\s*(?:\"([^\"]+)\"|'([^']+)'|([^\s\"'>]+))", re.I),
)
"""Of Markdown within a line, by reference, and of HTML; one group holds where they lead."""
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|//|#", re.IGNORECASE)
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
    if bundle.repo_type == "model":
        yield from _check_figures(bundle)
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
        yield from _check_address(bundle, data)
        yield from check_results(bundle, data)
    else:
        yield from _check_dataset_metadata(bundle, data.to_dict())


def read_card(bundle: Bundle) -> ModelCardData | DatasetCardData | Finding:
    """Return a card's metadata, or what keeps the Hub's own reader from it."""
    kind = DatasetCard if bundle.repo_type == "dataset" else ModelCard
    text = bundle.text(CARD_FILE)
    try:
        if text.startswith("\ufeff"):
            raise ValueError("a byte-order mark before it, without which it must be saved")
        if not re.match(r"---\r?\n.+?\n---\r?\n", text, re.DOTALL):
            raise ValueError("no lines between two '---' at its beginning")
        data = cast(ModelCardData | DatasetCardData, kind(text).data)
        data.to_dict()  # fails on some values that were read
        return data
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, yaml.YAMLError) as error:
        do = "correct the front matter, or render the card again"
        return Finding("README.md must begin with metadata that the Hub reads", f"{error}", do)


def _check_figures(bundle: Bundle) -> Iterator[Finding]:
    """Find pictures of a series where its licence keeps back what shows it."""
    shown = [name for name in bundle.files if name in {f"figures/{each}.png" for each in TRUTH_FIGURES}]
    if shown and evaluation_settings(bundle.folder) is not None and not may_ship(bundle.folder, "weights"):
        must = "settings and results of a run must both let figures show its series, by evaluation.ship_weights"
        yield Finding(must, f"{shown} where one does not, or cannot be read", "delete them, or evaluate the run again")


def _check_license(data: ModelCardData | DatasetCardData) -> Iterator[Finding]:
    given = data.to_dict()
    if given.get("license") not in HUB_LICENSES:
        do = "name one as the Hub spells it, such as apache-2.0, or other with license_name and license_link"
        yield Finding("license must be an identifier of the Hub", repr(given.get("license")), do)
    elif given["license"] == "other" and not (given.get("license_name") and given.get("license_link")):
        must = "license: other must come with license_name and license_link"
        yield Finding(must, "none of them or one", "say which licence it is, and where its text is")


def _check_links(bundle: Bundle) -> Iterator[Finding]:
    local = {target for target in _link_targets(bundle.text(CARD_FILE)) if not ELSEWHERE.match(target)}
    files = {posixpath.normpath(unquote(re.split(r"[?#]", target)[0])): target for target in local}
    missing = sorted(target for file, target in files.items() if file not in bundle.files)
    if missing:
        do = "draw the figures again, or take the links out"
        yield Finding("what README.md links to must be uploaded with it", f"no {missing}", do)


def _link_targets(card: str) -> set[str]:
    """Where links and pictures of a card lead, those of its code left out."""
    text = CODE.sub("", card)
    return {next(filter(None, match.groups())) for pattern in LINKS for match in pattern.finditer(text)}


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
        given = data.tags if isinstance(data.tags, list) else []
        missing = [each for each in ("hf_tsdyn", config.model_type, tag) if each not in given]
        if missing:
            yield Finding("tags must name the package, the architecture and the field", f"no {missing}", do)
    if SAFE_WEIGHTS_NAME not in bundle.files and "from_pretrained(" in re.sub(r"`[^`\n]*`", "", bundle.text(CARD_FILE)):
        must = "the card of a repository without weights must load none"
        yield Finding(must, "from_pretrained( in its example", do)


def _check_address(bundle: Bundle, data: ModelCardData) -> Iterator[Finding]:
    """Find what still names the folder where the repository's name should have taken its place."""
    if bundle.repo is None:
        return
    written = read_card(dataclasses.replace(bundle, files={CARD_FILE: bundle.folder / CARD_FILE}))
    before = written.model_name if isinstance(written, ModelCardData) else None
    loaded = re.findall(r"from_(?:pretrained|encoder)\(\s*[\"']([^\"']+)", bundle.text(CARD_FILE))
    lost = [] if data.model_name == bundle.repo else [f"model-index of {data.model_name!r}"]
    lost += [f"an example that loads {before!r}"] if before != bundle.repo and before in loaded else []
    if lost:
        do = "render the card again, or write these lines as the package does"
        yield Finding(f"the card must name {bundle.repo!r} in the place of its folder", " and ".join(lost), do)


def _check_dataset_metadata(bundle: Bundle, data: dict[str, Any]) -> Iterator[Finding]:
    do = "run the same generation command again, which writes the card"
    tasks = data.get("task_categories")
    if not isinstance(tasks, list) or FORECASTING not in tasks:
        yield Finding(f"task_categories must hold {FORECASTING}", repr(tasks), do)
    try:
        patterns = [str(each["path"]) for config in data["configs"] for each in config["data_files"]]
    except (KeyError, TypeError):
        patterns = []
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
        if REPOSITORY.fullmatch(dataset := benchmark or str(result.dataset_type))
    ]
    if not entries:
        return {}
    text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)
    return {f".eval_results/{entries[0].dataset_id.split('/')[1]}.yaml": text.encode()}


def _task_id(result: EvalResult) -> str:
    horizon = re.search(r"@ (\d+)$", str(result.metric_name))
    return re.sub(r"[^\w.]+", "_", str(result.metric_type)) + (f"_{horizon[1]}" if horizon else "")
