"""Check a checkpoint or a dataset for the Hub, and upload it in one commit.

    python -m training.publish model_cards/dystformer-quickstart --dry-run
    python -m training.publish model_cards/dystformer-quickstart --repo NAME/dystformer-quickstart
    python -m training.publish generated/chaos --repo NAME/chaos --private

FOLDER is a checkpoint with its card, shipped or the folder of a finished and evaluated run, or a generated dataset.
Uploaded are, of a checkpoint, README.md, config.json, model.safetensors, probe.safetensors, run_config.yaml,
training_summary.json, figures/ and results.json (of a shipped one `results/NAME.json` beside its folder); of a dataset
card, manifest, picture, rejections and data/*.arrow; nothing else. Absolute paths in run_config.yaml are cut to their
last part, and the examples of the card load from the repository. With --benchmark, or where the card's results are of a
dataset on the Hub, they go to `.eval_results/` too, which the leaderboards of that dataset read. Files of these names
that a former upload left in the repository are deleted by the same commit; others there stay.

All that keeps it from being published is reported at once, and the status is 1. The dry run needs no network. A run
whose `evaluation.ship_weights` is false, for the licence of its series, is published without weights: its results, its
card and its configuration, from a folder that training.ship_checkpoint wrote.
"""

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME

from hf_tsdyn.hub_card import import_name
from hf_tsdyn.hub_upload import DATASET_FILES, check_account, upload_files
from training.cell_runs import run_or_exit
from training.publish_card import check_card, eval_results_file
from training.publish_checks import check_dataset, check_files
from training.publish_files import REPLACED, Bundle, gather
from training.publish_model import check_model_files, model_class
from training.publish_texts import Finding

MAX_MB = {"model": 10, "dataset": 5_000}


def prepare(
    folder: Path, *, repo: str | None = None, max_mb: float | None = None, benchmark: str | None = None
) -> tuple[Bundle, list[Finding]]:
    """Return what publishing a folder uploads, and all that keeps it from being published; asks the Hub nothing.

    Args:
        repo: name that the card's examples will load from.
        max_mb: most of one file; 10 of a checkpoint and 5,000 of a dataset by default.
        benchmark: dataset on the Hub that the results are of.
    Raises: FileNotFoundError if it is no such folder; ValueError on a damaged manifest, a name that is none, or a size
        that is none.
    """
    _check_options(repo, max_mb)
    try:
        bundle = gather(folder, repo=repo)
        if bundle.repo_type == "model":
            bundle = dataclasses.replace(bundle, files=bundle.files | eval_results_file(bundle, benchmark))
        most = MAX_MB[bundle.repo_type] if max_mb is None else max_mb
        findings = list(check_files(bundle, max_bytes=int(most * 1e6)))
        findings += check_model_files(bundle) if bundle.repo_type == "model" else check_dataset(bundle)
        return bundle, findings + list(check_card(bundle))
    except RecursionError:
        raise ValueError(
            f"files to publish must be nested a few levels deep, found hundreds in {str(folder)!r}; write them again."
        ) from None


def _check_options(repo: str | None, max_mb: float | None) -> None:
    try:
        if repo is not None:
            validate_repo_id(repo)
    except HFValidationError:
        raise ValueError(f"--repo must name a repository like 'name/model', found {repo!r}; correct it.") from None
    if max_mb is not None and not 0 < max_mb < math.inf:
        raise ValueError(f"--max-mb must be a number above 0, found {max_mb}; correct it, or leave it out.")


def describe(bundle: Bundle) -> str:
    """Return the list of what is uploaded, with sizes, and of what is not."""
    sizes = {name: bundle.size(name) for name in sorted(bundle.files)}
    lines = [f"{size:>12,}  {name}" for name, size in sizes.items()]
    lines.append(f"{sum(sizes.values()):>12,}  bytes in {len(sizes)} files, a {bundle.repo_type} repository")
    if bundle.left:
        lines.append(f"{'not uploaded':>12}  {', '.join(bundle.left)}")
    if bundle.repo_type == "model" and SAFE_WEIGHTS_NAME not in bundle.files:
        lines.append(f"{'no weights':>12}  results, card and configuration alone")
    return "\n".join(lines)


def how_to_load(bundle: Bundle, repo: str, revision: str) -> str:
    """Return the line that loads what was published, pinned to its commit."""
    place = f'("{repo}", revision="{revision}")'
    if bundle.repo_type == "dataset":
        return f"datasets.load_dataset{place}"
    if SAFE_WEIGHTS_NAME not in bundle.files:
        return f"transformers.AutoConfig.from_pretrained{place}"
    return f"{import_name(model_class(json.loads(bundle.text(CONFIG_NAME))))}.from_pretrained{place}"


def publish(bundle: Bundle, repo: str, *, private: bool = False, branch: str | None = None) -> str:
    """Upload what was gathered and found fit, and return its address, its revision and the line that loads it.

    Raises: ValueError or PushError, as `upload_files` does.
    """
    what = f"the {bundle.repo_type} {str(bundle.folder)!r}"
    message = f"{bundle.folder.resolve().name}, published by hf_tsdyn"
    uploaded = upload_files(
        bundle.files,
        repo,
        what=what,
        message=message,
        repo_type=bundle.repo_type,
        private=private or None,
        branch=branch,
        replaces=DATASET_FILES if bundle.repo_type == "dataset" else REPLACED,
    )
    load = how_to_load(bundle, uploaded.repo, uploaded.revision)
    return f"published  {uploaded.address}\nrevision   {uploaded.revision}\nload       {load}"


def _parser() -> argparse.ArgumentParser:
    description = "Check a checkpoint or a dataset for the Hub, and upload it."
    parser = argparse.ArgumentParser(prog="python -m training.publish", description=description)
    parser.add_argument("folder", type=Path, help="checkpoint with its card, or generated dataset")
    parser.add_argument("--repo", help="repository that gets it, such as name/model; made if it does not exist")
    parser.add_argument("--dry-run", action="store_true", help="check and list alone; needs no network")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", metavar="BRANCH", help="branch that gets the commit; main by default")
    parser.add_argument("--max-mb", type=float, help="most megabytes of a file; 10 of a checkpoint, 5000 of a dataset")
    parser.add_argument("--benchmark", metavar="DATASET", help="dataset on the Hub that the results are of")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Check what the command line names, list it and, without --dry-run, upload it."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    if asked.repo is None and not asked.dry_run:
        parser.error("--repo must name the repository that gets it, found none; name one, or add --dry-run.")
    options = {"repo": asked.repo, "max_mb": asked.max_mb, "benchmark": asked.benchmark}
    if not asked.dry_run:
        options["repo"] = run_or_exit(lambda: check_account(asked.repo, option="--repo"))
    bundle, findings = run_or_exit(lambda: prepare(asked.folder, **options))
    print(describe(bundle))
    if findings:
        listed = "\n".join(f"- {finding}" for finding in findings)
        sys.exit(f"error: {asked.folder} is not fit to be published:\n{listed}")
    if asked.dry_run:
        print(f"{'fit':>12}  to be published; nothing was sent")
        return
    print(run_or_exit(lambda: publish(bundle, options["repo"], private=asked.private, branch=asked.revision)))


if __name__ == "__main__":
    main()
