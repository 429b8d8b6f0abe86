"""Upload of files to a repository of the Hub, in one commit, with errors that say what to do and quote no secret."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

RepoType = Literal["model", "dataset"]

DATASET_FILES = ("README.md", "manifest.json", "rejected.jsonl", "attractors.png", "data/*.arrow")
"""What is uploaded of a generated dataset: patterns of names below its folder."""

REMEDIES = {
    400: "correct what the Hub refuses, often the first lines of README.md",
    401: "log in with `hf auth login`",
    403: "use an account that may write there",
    404: "check the name, and that the account may write there",
    409: "wait until the other upload to it has ended",
    429: "wait a while, as the Hub limits requests",
}


CARD_PLACEHOLDER = "PATH"
"""What a dataset's card calls its folder until it has an address."""


class PushError(OSError):
    """The Hub cannot be reached, or did not take what was sent."""


class Upload(NamedTuple):
    """Where files went: the repository's full name, its address, and the hash of the commit that holds them."""

    repo: str
    address: str
    revision: str


def matching_files(folder: Path, patterns: tuple[str, ...]) -> dict[str, Path | bytes]:
    """Return the files below a folder, links among them, that match one of the patterns, by their names below it."""
    found = (file for pattern in patterns for file in sorted(folder.glob(pattern)))
    return {file.relative_to(folder).as_posix(): file for file in found if file.is_file() or file.is_symlink()}


def address_dataset_card(card: str, repo: str) -> str:
    """Return the card of a generated dataset whose examples load it from the repository."""
    card = card.replace(f'load_dataset("{CARD_PLACEHOLDER}"', f'load_dataset("{repo}"')
    reads, local = "from hf_tsdyn.data.trajectories import", f'TrajectoryDataset("{CARD_PLACEHOLDER}"'
    if local not in card:
        return card
    card = card.replace(reads, f"from huggingface_hub import snapshot_download\n\n{reads}", 1)
    return card.replace(local, f'TrajectoryDataset(snapshot_download("{repo}", repo_type="dataset")')


def check_account(repo: str, *, option: str) -> str:
    """Return a repository's full name, with the account's where it has none; nothing is made on the Hub.

    Raises: ValueError naming the `option` that holds the name, if it is none; PushError if nobody is logged in, or by
        a token that may only read.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import validate_repo_id

    sent = "nothing was sent"
    try:
        validate_repo_id(repo)
        account = HfApi().whoami()
    except Exception as error:  # whatever the HTTP library raises
        rule = f"{option} must name a repository like 'name/model'"
        raise _refusal(error, "files", repo, rule, sent) from None
    if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise PushError(_text("files", repo, "a token that may only read", "log in with one that may write", sent))
    return repo if "/" in repo else f"{account['name']}/{repo}"


def upload_files(
    files: Mapping[str, Path | bytes],
    repo: str,
    *,
    what: str,
    message: str,
    repo_type: RepoType = "model",
    private: bool | None = None,
    branch: str | None = None,
    replaces: tuple[str, ...] = (),
    option: str = "--repo",
) -> Upload:
    """Put files into a repository, all in one commit; the repository and the branch are made if they do not exist.

    Args:
        files: by name in the repository; contents, or where they lie. What is there already is not sent again.
        what: the thing uploaded, for messages. option: the one that holds the repository's name, for messages.
        private: make a repository that does not exist yet private.
        replaces: patterns of names; what is there of them and not in `files` is deleted by the same commit.
    Raises: ValueError if `repo` is no repository's name; PushError if the Hub cannot be reached or refuses, or the
        repository exists and is not private as it should be.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.utils import filter_repo_objects

    operations: list[Any] = [CommitOperationAdd(name, file) for name, file in sorted(files.items())]
    api, sent = HfApi(), "nothing was sent"
    try:
        url = api.create_repo(repo, repo_type=repo_type, private=private, exist_ok=True)
        sent = "the repository is there, and an upload is one commit: it holds all of the files or none"
        name = url.repo_id
        if private and api.repo_info(name, repo_type=repo_type).private is False:
            raise PushError(_text(what, repo, "a repository that everybody sees", "make it private there", sent))
        if branch is not None:
            api.create_branch(name, branch=branch, repo_type=repo_type, exist_ok=True)
        present = api.list_repo_files(name, repo_type=repo_type, revision=branch) if replaces else []
        old = filter_repo_objects(present, allow_patterns=list(replaces), ignore_patterns=list(files))
        operations += [CommitOperationDelete(file) for file in old]
        commit = api.create_commit(name, operations, commit_message=message, repo_type=repo_type, revision=branch)
    except PushError:
        raise
    except Exception as error:  # whatever the HTTP library raises
        rule = f"{option} must name a repository like 'name/{repo_type}'"
        raise _refusal(error, what, repo, rule, sent) from None
    return Upload(name, str(url), commit.oid)


def _refusal(error: Exception, what: str, repo: str, rule: str, sent: str) -> ValueError | PushError:
    """Say what to do about an error; its own text is left out: an HTTP library may quote the token's header."""
    from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    if isinstance(error, HFValidationError):
        return ValueError(f"{rule}, found {repo!r}; correct it.")
    if isinstance(error, OfflineModeIsEnabled):
        return PushError(_text(what, repo, "offline mode", "unset HF_HUB_OFFLINE", sent))
    if isinstance(error, LocalTokenNotFoundError):
        return PushError(_text(what, repo, "no login", REMEDIES[401], sent))
    cause = error.__cause__ if type(error) is RuntimeError and error.__cause__ else error  # a PUT's is wrapped
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if status is None and str(error).startswith("Invalid metadata in README.md"):
        status = 400
    found = f"HTTP {status}" if status else type(cause).__name__
    remedy = REMEDIES.get(status or 0, "check the connection and the login (`hf auth login`)")
    return PushError(_text(what, repo, found, remedy, sent))


def _text(what: str, repo: str, found: str, remedy: str, sent: str) -> str:
    return (
        f"the Hub must take {what} as {repo!r}, found {found}; {remedy}, and run the same command again: {sent}, "
        "and only the upload is left."
    )
