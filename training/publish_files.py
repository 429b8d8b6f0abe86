"""The files that publishing a checkpoint or a dataset uploads, and nothing else that lies beside them."""

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME

from hf_tsdyn.data.trajectories import load_manifest
from hf_tsdyn.hub_upload import DATASET_FILES, RepoType, address_dataset_card, matching_files
from training.evaluate_checkpoint import RESULTS_FILE
from training.probe import PROBE_FILE
from training.run_config import CONFIG_FILE
from training.run_summary import SUMMARY_FILE

CARD_FILE = "README.md"
CHECKPOINT_FILES = (CARD_FILE, CONFIG_NAME, SAFE_WEIGHTS_NAME, CONFIG_FILE, SUMMARY_FILE, PROBE_FILE, "figures/*")
REPLACED = (*CHECKPOINT_FILES, RESULTS_FILE, ".eval_results/*.yaml", "training_args.bin")
"""Patterns of what a former upload of a checkpoint may have left in its repository."""
TEXTS = (".md", ".json", ".jsonl", ".yaml")
MACHINE_PATH = re.compile(
    r"""(?:(?<=[\s"'`(=\[<,])|^|(?<=file://))(?:(?:/|~/)[\w.-]+/[^\s"'`),\]>]*|/(?:home|root|tmp|work|Users)\b)"""
    r"""|(?<!\w)[A-Za-z]:\\{1,2}\w[\w .-]*\\[^\s"'`),\]>]*""",
    re.MULTILINE,
)
"""An absolute path, or one below a home; of a single name only where no other thing is called so."""


@dataclass(frozen=True)
class Bundle:
    """What is uploaded of a folder.

    files: by name in the repository; contents, or where they lie. left: names of the folder that are not uploaded.
    """

    folder: Path
    repo_type: RepoType
    files: dict[str, Path | bytes]
    left: tuple[str, ...] = ()

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
        return _bundle(folder, "dataset", files)
    if not (folder / CONFIG_NAME).is_file():
        raise FileNotFoundError(
            f"a folder to publish must hold config.json, of a checkpoint, or manifest.json, of a finished dataset, "
            f"found neither in {str(folder)!r}; name another, or finish the run that writes it."
        )
    files = matching_files(folder, CHECKPOINT_FILES)
    for file in (folder / RESULTS_FILE, folder.parent / "results" / f"{folder.resolve().name}.json"):
        if file.is_file():
            files.setdefault(RESULTS_FILE, file)
    if not may_ship(folder, "probe"):
        files.pop(PROBE_FILE, None)
    _rewrite(files, CONFIG_FILE, lambda text: MACHINE_PATH.sub(_last_part, text))
    if repo is not None:
        _rewrite(files, CARD_FILE, lambda text: address_card(text, repo))
    return _bundle(folder, "model", files)


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


def may_ship(folder: Path, part: str) -> bool:
    """Return whether a run's settings let its "weights" or its "probe" be uploaded, as the licence of its data does."""
    return run_settings(folder).get("evaluation", {}).get(f"ship_{part}", True) is not False


def run_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of the run that made a checkpoint; {} if there are none that can be read."""
    try:
        settings = yaml.safe_load((folder / CONFIG_FILE).read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return settings if isinstance(settings, dict) else {}


def address_card(card: str, repo: str) -> str:
    """Return a card whose examples and metadata name the repository, in place of the folder that they named."""
    named = re.search(r"^model-index:\n- name: (\S+)$", card, re.MULTILINE)
    if named is None:
        return card
    card = card.replace(named[0], f"model-index:\n- name: {repo}", 1)
    return card.replace(f'("{named[1]}")', f'("{repo}")')


def _bundle(folder: Path, repo_type: RepoType, files: dict[str, Path | bytes]) -> Bundle:
    tops = {name.split("/")[0] for name in files}
    left = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir() if entry.name not in tops)
    return Bundle(folder, repo_type, files, tuple(left))


def _last_part(match: re.Match[str]) -> str:
    return re.split(r"[/\\]+", match[0].rstrip("/\\"))[-1]
