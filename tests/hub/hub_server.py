"""A Hub on this machine, for tests: the part of its protocol by which models and datasets are pushed and loaded.

    python tests/hub/hub_server.py FOLDER --write-token TOKEN --read-token TOKEN

It serves 127.0.0.1 on a free port, prints its address, keeps everything in FOLDER, and ends with its standard input or
after an hour. It checks tokens, the sha256 of uploads and that commits are whole; it knows no Xet, and takes the
front matter of cards as it comes.

While a file FOLDER/drop-uploads exists, connections break in the middle of an upload; while FOLDER/fail-commits does,
commits are answered with status 500.
"""

import argparse
import base64
import hashlib
import json
import re
import select
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hub_repositories import RefusalError, Repositories

MAX_BODY = 64 * 2**20
LIFETIME = 3600.0
LARGE = (".safetensors", ".bin", ".pt", ".pth", ".pkl", ".arrow", ".parquet", ".npy", ".png")
ADDRESS = r"(?P<address>(?:models|datasets)/[\w.-]+/[\w.-]+)"


class HubServer(ThreadingHTTPServer):
    """Serves the repositories of a folder to whoever holds one of two tokens, and to readers without one."""

    daemon_threads = True

    def __init__(self, folder: Path, *, write_token: str, read_token: str):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.repositories = Repositories(folder)
        self.roles = {f"Bearer {write_token}": "write", f"Bearer {read_token}": "read"}
        self.expected_uploads: set[str] = set()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    timeout = 60
    server: HubServer

    def answer(self) -> None:
        """Find the request's route and answer, with a refusal where one is raised."""
        path = urlsplit(self.path).path
        method = "GET" if self.command == "HEAD" else self.command
        try:
            self.body = self._read_body()
            for route_method, route, work in ROUTES:
                found = re.fullmatch(route, path) if route_method == method else None
                if found:
                    return work(self, **{name: unquote(value or "") for name, value in found.groupdict().items()})
            raise RefusalError(404, f"no such address: {method} {path}")
        except RefusalError as refusal:
            self.send_json({"error": str(refusal)}, refusal.status, **refusal.headers)
        except ConnectionError:
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: the output is the address alone."""

    def _read_body(self) -> bytes:
        size = int(self.headers.get("Content-Length") or 0)
        if size > MAX_BODY or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            raise RefusalError(413, f"a body must be announced and hold at most {MAX_BODY} bytes, found {size}")
        if self.command == "PUT" and (self.server.folder / "drop-uploads").exists():
            self.rfile.read(size // 2)
            self.connection.close()
            raise ConnectionResetError
        return self.rfile.read(size)

    def _send(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_json(self, value: Any, status: int = 200, **headers: str) -> None:
        """Answer with a value."""
        self._send(json.dumps(value).encode(), status, **headers)

    def check_role(self, *, may_write: bool = False) -> str:
        """Return what the request's token allows, "" without one; 401 if it is unknown, 403 if it does not suffice."""
        given = self.headers.get("Authorization")
        role = "" if given is None else self.server.roles.get(given)
        if role is None or (may_write and not role):
            raise RefusalError(401, "Invalid credentials in Authorization header")
        if may_write and role != "write":
            raise RefusalError(403, "Forbidden: you must use a write token to upload to a repository.")
        return role

    def check_reader(self, address: str) -> None:
        """401, as for a repository that is not there, if it is private and the request has no token."""
        if not self.check_role() and self.server.repositories.is_private(address):
            raise RefusalError(401, "Repository not found", X_Error_Code="RepoNotFound")

    def who_am_i(self) -> None:
        role = self.check_role()
        if not role:
            raise RefusalError(401, "Invalid credentials in Authorization header")
        self.send_json({"type": "user", "name": "acme", "orgs": [], "auth": {"accessToken": {"role": role}}})

    def create(self) -> None:
        self.check_role(may_write=True)
        asked = json.loads(self.body)
        address = f"{asked.get('type') or 'model'}s/{asked.get('organization') or 'acme'}/{asked['name']}"
        if not re.fullmatch(ADDRESS, address):
            raise RefusalError(400, f"invalid name {address}")
        is_new = self.server.repositories.create(address, is_private=asked.get("visibility") == "private")
        name = address.removeprefix("models/")
        answer = {"url": f"{self.server.url}/{name}", "name": name}
        self.send_json(
            answer if is_new else answer | {"error": "You already created this repo"}, 200 if is_new else 409
        )

    def validate_card(self) -> None:
        self.send_json({"errors": [], "warnings": []})

    def branch(self, address: str, branch: str) -> None:
        self.check_role(may_write=True)
        is_new = self.server.repositories.add_branch(address, branch)
        self.send_json({} if is_new else {"error": "Reference already exists"}, 200 if is_new else 409)

    def info(self, address: str, revision: str = "main") -> None:
        self.check_reader(address)
        commit = self.server.repositories.at(address, revision or "main")
        kind, name = address.split("/", 1)
        siblings = [{"rfilename": path} for path in sorted(commit["files"])]
        is_private = self.server.repositories.is_private(address)
        self.send_json({"id": name, "sha": commit["id"], "siblings": siblings, "private": is_private, "tags": [kind]})

    def history(self, address: str, branch: str) -> None:
        self.check_reader(address)
        commits = self.server.repositories.commits(address, branch)
        told = {"authors": [], "date": "2000-01-01T00:00:00.000Z", "message": ""}
        self.send_json([{"id": commit["id"], "title": commit["title"], **told} for commit in reversed(commits)])

    def tree(self, address: str, revision: str, folder: str) -> None:
        self.check_reader(address)
        listing = self.server.repositories.listing(address, revision)
        if folder and listing.get(folder, {}).get("type") != "directory":
            raise RefusalError(404, f"{folder} does not exist on {revision!r}", X_Error_Code="EntryNotFound")
        inside = {path: entry for path, entry in listing.items() if not folder or path.startswith(folder + "/")}
        if parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() not in ("true", "1"):
            inside = {path: entry for path, entry in inside.items() if path.rpartition("/")[0] == folder}
        self.send_json(list(inside.values()))

    def paths_info(self, address: str, revision: str) -> None:
        self.check_reader(address)
        listing = self.server.repositories.listing(address, revision)
        paths = parse_qs(self.body.decode()).get("paths", [])
        self.send_json([listing[path] for path in paths if path in listing])

    def preupload(self, address: str, branch: str) -> None:
        self.check_role(may_write=True)
        present = self.server.repositories.at(address, branch)["files"]
        files = []
        for file in json.loads(self.body)["files"]:
            large = file["path"].endswith(LARGE) or b"\0" in base64.b64decode(file["sample"])
            known = present.get(file["path"], {})
            oid = known.get("lfs", {}).get("oid") if large else known.get("oid")
            mode = "lfs" if large else "regular"
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.send_json({"files": files})

    def lfs_batch(self, address: str) -> None:
        self.check_role(may_write=True)
        files = self.server.repositories.at(_with_kind(address), "main")["files"].values()
        present = {entry["sha256"] for entry in files}
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            known = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in present:
                self.server.expected_uploads.add(wanted["oid"])
                known["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{wanted['oid']}"}}
            objects.append(known)
        self.send_json({"transfer": "basic", "objects": objects})

    def upload(self, oid: str) -> None:
        if oid not in self.server.expected_uploads or hashlib.sha256(self.body).hexdigest() != oid:
            raise RefusalError(400, "an upload must be announced and have the sha256 of its address")
        self.server.repositories.store(self.body)
        self.send_json({})

    def commit(self, address: str, branch: str) -> None:
        self.check_role(may_write=True)
        if (self.server.folder / "fail-commits").exists():
            raise RefusalError(500, "Internal Error - We're working hard to fix this as soon as possible!")
        lines = [json.loads(line) for line in self.body.splitlines()]
        commit = self.server.repositories.commit(address, branch, lines)
        name = address.removeprefix("models/")
        self.send_json({"success": True, "commitOid": commit, "commitUrl": f"{self.server.url}/{name}/commit/{commit}"})

    def file(self, address: str, revision: str, path: str) -> None:
        self.check_reader(_with_kind(address))
        commit = self.server.repositories.at(_with_kind(address), revision)
        entry = commit["files"].get(path)
        if entry is None:
            known = {"X_Error_Code": "EntryNotFound", "X_Repo_Commit": commit["id"]}
            raise RefusalError(404, f"Entry not found: {path}", **known)
        content = self.server.repositories.blob(entry["sha256"]).read_bytes()
        tag = entry["sha256"] if "lfs" in entry else entry["oid"]
        headers = {"X_Repo_Commit": commit["id"], "ETag": f'"{tag}"', "Accept_Ranges": "bytes"}
        headers["Content_Type"] = "application/octet-stream"
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return self._send(content, **headers)
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        if first > last:
            raise RefusalError(416, "Range Not Satisfiable")
        headers["Content_Range"] = f"bytes {first}-{last}/{len(content)}"
        self._send(content[first : last + 1], 206, **headers)


def _with_kind(address: str) -> str:
    """The address of a repository outside the API, where models have no prefix."""
    return address if address.startswith("datasets/") else f"models/{address}"


PAGE = r"/(?P<address>(?:datasets/)?[\w.-]+/[\w.-]+)"
ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", "/api/whoami-v2", Handler.who_am_i),
    ("POST", "/api/repos/create", Handler.create),
    ("POST", "/api/validate-yaml", Handler.validate_card),
    ("GET", f"/api/{ADDRESS}(?:/revision/(?P<revision>[^/]+))?", Handler.info),
    ("POST", f"/api/{ADDRESS}/branch/(?P<branch>[^/]+)", Handler.branch),
    ("GET", f"/api/{ADDRESS}/commits/(?P<branch>[^/]+)", Handler.history),
    ("GET", f"/api/{ADDRESS}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", Handler.tree),
    ("POST", f"/api/{ADDRESS}/paths-info/(?P<revision>[^/]+)", Handler.paths_info),
    ("POST", f"/api/{ADDRESS}/preupload/(?P<branch>[^/]+)", Handler.preupload),
    ("POST", f"/api/{ADDRESS}/commit/(?P<branch>[^/]+)", Handler.commit),
    ("POST", rf"{PAGE}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]{64})", Handler.upload),
    ("GET", rf"{PAGE}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.file),
]


def main() -> None:
    """Serve until the standard input ends or the time is up."""
    parser = argparse.ArgumentParser(description="Serve a Hub for tests.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write-token", required=True)
    parser.add_argument("--read-token", required=True)
    options = parser.parse_args()
    server = HubServer(options.folder, write_token=options.write_token, read_token=options.read_token)
    print(server.url, flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    select.select([sys.stdin], [], [], LIFETIME)


if __name__ == "__main__":
    main()
