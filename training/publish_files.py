"""The files that publishing a checkpoint or a dataset uploads, and nothing else that lies beside them."""

import contextlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME

from hf_tsdyn.data.trajectories import load_manifest
from hf_tsdyn.hub_upload import DATASET_FILES, RepoType, address_dataset_card, matching_files
from training.evaluate_checkpoint import RESULTS_FILE
from training.probe import PROBE_FILE
from training.publish_texts import without_paths
from training.run_config import CONFIG_FILE
from training.run_summary import SUMMARY_FILE

CARD_FILE = "README.md"
CHECKPOINT_FILES = (CARD_FILE, CONFIG_NAME, SAFE_WEIGHTS_NAME, CONFIG_FILE, SUMMARY_FILE, PROBE_FILE, "figures/*")
REPLACED = (*CHECKPOINT_FILES, RESULTS_FILE, ".eval_results/*.yaml", "training_args.bin")
"""Patterns of what a former upload of a checkpoint may have left in its repository."""
TEXTS = (".md", ".json", ".jsonl", ".yaml")


@dataclass(frozen=True)
class Bundle:
    """What is uploaded of a folder.

    files: by name in the repository; contents, or where they lie. left: names of the folder that are not uploaded.
    repo: name of the repository that the card's examples should load from.
    """

    folder: Path
    repo_type: RepoType
    files: dict[str, Path | bytes]
    left: tuple[str, ...] = ()
    repo: str | None = None

    def content(self, name: str) -> bytes | None:
        """Return the bytes of a file, None if it is not uploaded."""
        file = self.files.get(name)
        return file if file is None or isinstance(file, bytes) else file.read_bytes()

    def text(self, name: str) -> str:
        """Return the text of a file, "" if it is not uploaded; what is not UTF-8 is marked in it."""
        return (self.content(name) or b"").decode(errors="replace")

    def size(self, name: str) -> int:
        """Return the bytes of a file as a number."""
        file = self.files[name]
        return len(file) if isinstance(file, bytes) else file.lstat().st_size


def gather(folder: Path, *, repo: str | None = None) -> Bundle:
    """Return what is uploaded of a folder; with the repository's name the card's examples load from there.

    Raises: FileNotFoundError if it is neither a checkpoint's nor a finished dataset's; ValueError on a manifest that
        is not whole.
    """
    if (folder / "manifest.json").is_file():
        load_manifest(folder)
        files = matching_files(folder, DATASET_FILES)
        if repo is not None:
            _rewrite(files, CARD_FILE, lambda text: address_dataset_card(text, repo))
        return Bundle(folder, "dataset", files, _left(folder, files), repo)
    if not (folder / CONFIG_NAME).is_file():
        raise FileNotFoundError(
            f"a folder to publish must hold config.json, of a checkpoint, or manifest.json, of a finished dataset, "
            f"found neither in {str(folder)!r}; name another, or finish the run that writes it."
        )
    files = matching_files(folder, CHECKPOINT_FILES)
    if (results := results_file(folder)) is not None:
        files[RESULTS_FILE] = results
    if not may_ship(folder, "probe"):
        files.pop(PROBE_FILE, None)
    _rewrite(files, CONFIG_FILE, without_paths)
    if repo is not None:
        _rewrite(files, CARD_FILE, lambda text: address_card(text, repo))
    return Bundle(folder, "model", files, _left(folder, files), repo)


def results_file(folder: Path) -> Path | None:
    """Return where a checkpoint's results lie: a run's beside it, those of a shipped one beside its folder."""
    shipped = folder.resolve()
    files = (folder / RESULTS_FILE, shipped.parent / "results" / f"{shipped.name}.json")
    return next((file for file in files if file.is_file()), None)


def _rewrite(files: dict[str, Path | bytes], name: str, change: Callable[[str], str]) -> None:
    """Put changed text in the place of a file's; links and what is no text stay, to be found."""
    file = files.get(name)
    if isinstance(file, Path) and not file.is_symlink():
        with contextlib.suppress(UnicodeDecodeError):
            text = file.read_bytes().decode()
            files[name] = file if change(text) == text else change(text).encode()


def is_link(file: Path, folder: Path) -> bool:
    """Return whether a file below a folder is a link, or lies in one."""
    return file.is_symlink() or (file.parent != folder and file.parent.is_symlink())


def may_ship(folder: Path, part: Literal["weights", "probe"]) -> bool:
    """Return whether a run's settings and results let its weights be uploaded, or also a window of its series.

    The licence of the data decides it; where one of them cannot be read, or says anything but true, it is not.
    """
    parts = ("weights",) if part == "weights" else ("weights", "probe")
    said = (evaluation_settings(folder), _evaluation_of_results(folder))
    return all(each is not None and each.get(f"ship_{name}", True) is True for each in said for name in parts)


def evaluation_settings(folder: Path) -> dict[str, Any] | None:
    """Return how the run that made a checkpoint is to be evaluated; None if its settings cannot be read or lack it."""
    try:
        settings = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None
    return _section(settings, "evaluation")


def _evaluation_of_results(folder: Path) -> dict[str, Any] | None:
    """How results were made; {} if there are none, or they do not say, and None if they cannot be read."""
    file = results_file(folder)
    try:
        results = {"header": {}} if file is None else json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    header = _section(results, "header")
    return header if header is None else _section({"evaluation": {}} | header, "evaluation")


def _section(content: Any, name: str) -> dict[str, Any] | None:
    section = content.get(name) if isinstance(content, dict) else None
    return section if isinstance(section, dict) else None


def address_card(card: str, repo: str) -> str:
    """Return a card whose examples and metadata name the repository, in place of the folder that they named."""
    named = re.search(r"^model-index:\n- name: (\S+)$", card, re.MULTILINE)
    if named is None:
        return card
    card = card.replace(named[0], f"model-index:\n- name: {repo}", 1)
    return card.replace(f'("{named[1]}")', f'("{repo}")')


def _left(folder: Path, files: Mapping[str, Path | bytes]) -> tuple[str, ...]:
    """What a folder holds beside the files that are uploaded; of a folder none of which is, the folder."""
    partly = {name.partition("/")[0] for name in files if "/" in name}
    inside = [entry for name in sorted(partly) for entry in sorted((folder / name).iterdir())]
    entries = [entry for entry in sorted(folder.iterdir()) if entry.name not in partly] + inside
    names = {entry: entry.relative_to(folder).as_posix() for entry in entries}
    return tuple(name + "/" * entry.is_dir() for entry, name in names.items() if name not in files)
