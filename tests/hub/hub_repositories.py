"""Repositories of the tests' Hub on disk: commits as lists of files, contents by their sha256."""

import base64
import hashlib
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

GIT_ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


class RefusalError(Exception):
    """What the Hub answers instead: a status, words, and headers, of which X-Error-Code tells its client the case."""

    def __init__(self, status: int, words: str, **headers: str):
        super().__init__(words)
        self.status, self.headers = status, {"X_Error_Message": words, **headers}


class Repositories:
    """Repositories below a folder; each address is `models/NAME/REPO` or `datasets/NAME/REPO`.

    A commit is whole or absent: its list of files replaces the former record at once.
    """

    def __init__(self, folder: Path):
        self._commits = folder / "repositories"
        self._blobs = folder / "blobs"
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()

    def create(self, address: str, *, is_private: bool = False) -> bool:
        """Begin a repository with a commit of its own, as the Hub does, and return whether it is new."""
        with self._lock:
            if self._record(address).exists():
                return False
            entry = self.entry(self.store(GIT_ATTRIBUTES), large=False)
            repository = {"private": is_private, "branches": {"main": []}}
            self._append(address, repository, "main", "initial commit", {".gitattributes": entry})
            return True

    def _read(self, address: str) -> dict[str, Any]:
        record = self._record(address)
        if not record.is_file():
            raise RefusalError(404, "Repository not found", X_Error_Code="RepoNotFound")
        return json.loads(record.read_text())

    def is_private(self, address: str) -> bool:
        """Whether readers without a token see nothing of a repository."""
        return self._read(address)["private"]

    def commits(self, address: str, branch: str = "main") -> list[dict[str, Any]]:
        """Every commit of a branch, the oldest first: id, title and the files by path."""
        branches = self._read(address)["branches"]
        if branch not in branches:
            raise RefusalError(404, f"Invalid rev id: {branch}", X_Error_Code="RevisionNotFound")
        return branches[branch]

    def add_branch(self, address: str, branch: str) -> bool:
        """Begin a branch at the newest commit of `main`, and return whether it is new."""
        with self._lock:
            repository = self._read(address)
            if branch in repository["branches"]:
                return False
            repository["branches"][branch] = repository["branches"]["main"]
            self._write(address, repository)
            return True

    def at(self, address: str, revision: str) -> dict[str, Any]:
        """The commit of a hash, or the newest of a branch."""
        branches = self._read(address)["branches"]
        if revision in branches:
            return branches[revision][-1]
        for commit in (commit for commits in branches.values() for commit in commits):
            if commit["id"] == revision:
                return commit
        raise RefusalError(404, f"Invalid rev id: {revision}", X_Error_Code="RevisionNotFound")

    def commit(self, address: str, branch: str, lines: Sequence[dict[str, Any]]) -> str:
        """Take in the lines of a commit request; 412 if another came between, 400 on content that was not uploaded."""
        header = next(line["value"] for line in lines if line["key"] == "header")
        with self._lock:
            commits = self.commits(address, branch)
            if header.get("parentCommit") not in (None, commits[-1]["id"]):
                raise RefusalError(412, "A commit has happened since. Please refresh and try again.")
            files = dict(commits[-1]["files"])
            for line in lines:
                self._apply(files, line["key"], line["value"])
            return self._append(address, self._read(address), branch, header["summary"], files)

    def _apply(self, files: dict[str, Any], key: str, value: dict[str, Any]) -> None:
        if key == "file":
            files[value["path"]] = self.entry(self.store(base64.b64decode(value["content"])), large=False)
        elif key == "lfsFile":
            if not self.blob(value["oid"]).is_file():
                raise RefusalError(400, f"{value['path']} refers to content that was not uploaded")
            files[value["path"]] = self.entry(value["oid"], large=True)
        elif key == "deletedFile":
            del files[value["path"]]
        elif key == "deletedFolder":
            for path in [path for path in files if path.startswith(value["path"].rstrip("/") + "/")]:
                del files[path]
        elif key != "header":
            raise RefusalError(400, f"unknown operation {key}")

    def _append(self, address: str, repository: dict[str, Any], branch: str, title: str, files: dict[str, Any]) -> str:
        commits = repository["branches"][branch]
        content = json.dumps([address, [commit["id"] for commit in commits], title, files], sort_keys=True)
        commit = {"id": hashlib.sha1(content.encode()).hexdigest(), "title": title, "files": files}
        repository["branches"][branch] = [*commits, commit]
        self._write(address, repository)
        return commit["id"]

    def _write(self, address: str, repository: dict[str, Any]) -> None:
        record = self._record(address)
        record.parent.mkdir(parents=True, exist_ok=True)
        unfinished = record.with_suffix(".new")
        unfinished.write_text(json.dumps(repository))
        unfinished.replace(record)

    def _record(self, address: str) -> Path:
        return self._commits / (address.replace("/", "--") + ".json")

    def blob(self, oid: str) -> Path:
        """The file of a content."""
        return self._blobs / oid

    def store(self, content: bytes) -> str:
        """Keep a content and return its sha256."""
        oid = hashlib.sha256(content).hexdigest()
        unfinished = self._blobs / f"{oid}.{threading.get_ident()}"
        unfinished.write_bytes(content)
        unfinished.replace(self.blob(oid))
        return oid

    def entry(self, oid: str, *, large: bool) -> dict[str, Any]:
        """A file as listings name it; one too large for git has git's hash of a pointer to it."""
        size = self.blob(oid).stat().st_size
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()
        tracked = pointer if large else self.blob(oid).read_bytes()
        git_hash = hashlib.sha1(b"blob %d\0" % len(tracked) + tracked).hexdigest()
        entry: dict[str, Any] = {"type": "file", "oid": git_hash, "size": size, "sha256": oid}
        if large:
            entry["lfs"] = {"oid": oid, "size": size, "pointerSize": len(pointer)}
        return entry

    def listing(self, address: str, revision: str) -> dict[str, dict[str, Any]]:
        """Every file and folder of a commit by path."""
        found = {}
        for path, entry in self.at(address, revision)["files"].items():
            for end in (place for place, letter in enumerate(path) if letter == "/"):
                folder = path[:end]
                git_hash = hashlib.sha1(folder.encode()).hexdigest()
                found[folder] = {"type": "directory", "path": folder, "oid": git_hash, "size": 0}
            found[path] = {"path": path, **entry}
        return found
