"""A Hub on this machine and fresh processes that talk to it through the real client."""

import json
import os
import runpy
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
WRITE_TOKEN, READ_TOKEN, WRONG_TOKEN = "hf_loopbackwrite", "hf_loopbackread", "hf_loopbackwrong"
LIMIT = 900.0
"""Seconds of wall time for a process."""


class LoopbackHub:
    """A Hub at `url`; `token` may write. A file `drop-uploads` or `fail-commits` in `folder` makes it fail so."""

    token, read_token, wrong_token = WRITE_TOKEN, READ_TOKEN, WRONG_TOKEN

    def __init__(self, url: str, folder: Path):
        self.url = url
        self.folder = folder

    def environment(self, home: Path, *, token: str | None = WRITE_TOKEN, offline: bool = False) -> dict[str, str]:
        """The variables of a process whose caches lie in `home`."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        own = {"HF_HOME": str(home), "HF_ENDPOINT": self.url, "HF_HUB_OFFLINE": str(int(offline))}
        own |= dict.fromkeys(("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS"), "1")
        own |= {"OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"} | ({} if token is None else {"HF_TOKEN": token})
        return kept | own

    def run(self, arguments: Sequence[str], home: Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run Python with these arguments to its end, whatever it is; `options` are those of `environment`."""
        environment = self.environment(home, **options)
        command = [sys.executable, *arguments]
        return subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=LIMIT)

    def run_code(self, code: str, home: Path, *values: Any, **options: Any) -> Any:
        """Run code in a new process and return what it leaves in `result`; it has the values as list `given`."""
        ending = "\nimport json; print('\\n' + json.dumps(result))"
        program = f"import json, sys; given = json.loads(sys.argv[1])\n{textwrap.dedent(code)}{ending}"
        done = self.run(["-c", program, json.dumps(values, default=str)], home, **options)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def read(self, path: str) -> Any:
        """What the Hub answers to a GET request of whoever may read all."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        request = urllib.request.Request(f"{self.url}/{path}", headers={"Authorization": f"Bearer {READ_TOKEN}"})
        with opener.open(request, timeout=30) as response:
            return json.load(response)

    def commits(self, address: str, branch: str = "main") -> list[str]:
        """Hashes of the commits of `models/NAME/REPO` or `datasets/NAME/REPO`, the newest first; none without it."""
        try:
            return [commit["id"] for commit in self.read(f"api/{address}/commits/{branch}")]
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return []
            raise

    def files(self, address: str) -> set[str]:
        """The paths of a repository's files."""
        return {sibling["rfilename"] for sibling in self.read(f"api/{address}")["siblings"]}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    """A Hub without repositories at first, which ends with the module's tests."""
    folder = tmp_path_factory.mktemp("hub")
    tokens = ["--write-token", WRITE_TOKEN, "--read-token", READ_TOKEN]
    command = [sys.executable, str(HERE / "hub_server.py"), str(folder), *tokens]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield LoopbackHub(server.stdout.readline().strip(), folder)
        server.terminate()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder for the caches of a process, and to work in."""
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture(scope="session")
def tiny_configs() -> dict[str, Any]:
    """The configuration of a tiny model by architecture."""
    return runpy.run_path(str(HERE.parent / "models" / "conftest.py"))["TINY_CONFIGS"]
