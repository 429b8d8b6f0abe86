"""What must hold of every text that is published: no path of the machine that it was made on, and no secret."""

import re
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

PNG_BEGINNING = b"\x89PNG\r\n\x1a\n"
_PNG_WITHOUT_WORDS = (
    b"IHDR PLTE IDAT IEND tRNS gAMA cHRM sRGB pHYs bKGD sBIT tIME".split()
)  # chunks of numbers of a fixed meaning

_REST = r"[^\s\"'`),\]>|}]*"
MACHINE_PATH = re.compile(
    r"(?:^|(?<=[\s\"'`(=\[<,:;|{>])|(?<=\*)(?<!/\*)(?<!/\*\*)|(?<=[\s\"'=]-[A-Za-z])|(?<=\s_)|(?<=file://))"
    r"(?!/dev/null\b)"
    rf"(?:/[\w.-]+/{_REST}|/(?:home|root|tmp|work|Users)\b|~(?:[a-z_][\w.-]+)?/[\w.-]{_REST})"
    rf"|(?<!\w)[A-Za-z]:(?:\\{{1,2}}\w[\w .-]*\\|/\w[\w .-]*/){_REST}"
    rf"|(?<![\\\w])(?:\\{{2}}[\w.-]+\\|\\{{4}}[\w.-]+\\{{2}})\w{_REST}",
    re.MULTILINE,
)
"""An absolute path, or one below a home, or on a server; of a single name only where no other thing is called so."""

_KEY = r"(?:(?:hub|access|auth)_token|(?:api|access|secret|private)_?key|client_secret|password|passwd|passphrase)"
_NOT_GIVEN = r"(?:null|none|true|false)\b|\$[({A-Z]|<|\{|\*\*|\.\.\.|os\.|getpass|your"
SECRETS = {
    "a Hugging Face token": r"(?<![A-Za-z0-9])(?:hf|api_org)_[A-Za-z0-9]{20,}",
    "an API key": r"(?<![A-Za-z0-9])(?:sk-[A-Za-z0-9_-]{20,}|AIza[A-Za-z0-9_-]{30,})",
    "a GitHub token": r"(?<![A-Za-z0-9])(?:gh[oprsu]_[A-Za-z0-9]{30,}|github_pat_\w{30,})",
    "a GitLab token": r"(?<![A-Za-z0-9])glpat-[\w-]{20,}",
    "a PyPI token": r"(?<![A-Za-z0-9])pypi-Ag[\w-]{30,}",
    "a Slack token": r"(?<![A-Za-z0-9])xox[a-z]-[A-Za-z0-9-]{10,}",
    "a web token": r"(?<![A-Za-z0-9])eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}",
    "an AWS key": r"(?<![A-Z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])",
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "a bearer token": r"\b[Bb]earer\s+[A-Za-z0-9._~+/-]{20,}",
    "a login": r"(?i)\bauthorization[\"']?\s*[:=]\s*[\"']?basic\s+[a-z0-9+/=]{8,}",
    "a login in an address": r"\b[a-z][a-z0-9+.-]*://[^\s/:@\"'<>]+:(?![$<{])[^\s/@\"'<>]{3,}@",
    "a token": r"(?i)token[\"']?\s*[:=]\s*[\"']?(?=[a-z_-]*\d)[\w-]{20,}",
    "a password": rf"(?i){_KEY}[\"']?\s*"
    rf"(?:=\s*[\"']?(?!{_NOT_GIVEN})|:\s*[\"']?(?!{_NOT_GIVEN}|[a-z-]+[ .,;:!?)]))[^\s\"',}}]{{8,}}",
}
"""By what they are called; a word after "password:" that is followed by others is prose."""


class Finding(NamedTuple):
    """Something that keeps a folder from being published: what must hold, what was found, and what to do."""

    must: str
    found: str
    do: str

    def __str__(self) -> str:
        return f"{self.must}, found {self.found}; {self.do}."


def check_text(name: str, content: bytes) -> Iterator[Finding]:
    """Find paths and secrets in a text, or that it is none."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        yield Finding(f"{name} must be UTF-8 text", f"other bytes at {error.start}", "write it again")
        return
    paths = sorted({match[0] for match in MACHINE_PATH.finditer(text)})
    if paths:
        shown = ", ".join(map(repr, paths[:3])) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
        do = "write it again with relative paths; training.ship_checkpoint does of a run"
        yield Finding(f"{name} must name no path of this machine", shown, do)
    for kind, pattern in SECRETS.items():
        if (match := re.search(pattern, text)) is not None:
            line = text.count("\n", 0, match.start()) + 1
            do = "delete it there, and have it revoked where it was given out"
            yield Finding(f"{name} must hold no secret", f"what looks like {kind} in line {line}", do)


def without_paths(text: str) -> str:
    """Return YAML with the last part of each path of this machine in its place; what cannot be cut stays, to be found.

    That is no YAML, names of settings, and a value of which it is not plain where its path ends.
    """
    try:
        settings = yaml.safe_load(text)
        cut = _cut(settings)
    except (yaml.YAMLError, RecursionError):
        return text
    return text if cut == settings and MACHINE_PATH.search(text) is None else yaml.safe_dump(cut, sort_keys=False)


def _cut(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _cut(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_cut(each) for each in value]
    found = list(MACHINE_PATH.finditer(value)) if isinstance(value, str) else []
    if len(found) != 1:
        return value
    start, path = value[: found[0].start()], value[found[0].start() :].rstrip("/\\")
    end_is_unknown = re.search(r"\s" if start else r"\n", path) is not None
    return value if end_is_unknown else start + re.split(r"[/\\]+", path)[-1]


def png_text(content: bytes) -> str:
    """Return the words that a PNG holds beside its picture; ValueError if it is not whole, or may hold hidden ones."""
    if not content.startswith(PNG_BEGINNING):
        raise ValueError("other contents")
    words, place, kind = [], len(PNG_BEGINNING), b""
    while kind != b"IEND":
        length, kind = int.from_bytes(content[place : place + 4], "big"), content[place + 4 : place + 8]
        data, place = content[place + 8 : place + 8 + length], place + 12 + length
        if len(content) < place or zlib.crc32(kind + data).to_bytes(4, "big") != content[place - 4 : place]:
            raise ValueError("one that is cut short or damaged")
        if kind in (b"tEXt", b"iTXt"):
            words.append(_words_of_chunk(kind, data))
        elif kind not in _PNG_WITHOUT_WORDS:
            raise ValueError(f"a part of it, {kind.decode('latin-1')}, that may hold words which cannot be read")
    if place != len(content):
        raise ValueError("more after its end")
    return "\n".join(words)


def _words_of_chunk(kind: bytes, data: bytes) -> str:
    if kind == b"tEXt":
        return data.decode("latin-1").replace("\0", "\n")
    if data.partition(b"\0")[2][:1] != b"\0":
        raise ValueError("compressed words, which are not read")
    return data.decode(errors="replace").replace("\0", "\n")
