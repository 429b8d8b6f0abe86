"""What must hold of the files that are published: of each by itself, of a checkpoint and of a dataset."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME

from hf_tsdyn import checkpoint_safety
from hf_tsdyn.data.trajectories import FEATURES, load_manifest
from training.model_config import MODEL_CLASSES
from training.publish_files import MACHINE_PATH, TEXTS, Bundle, is_link, may_ship

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz", ".joblib")
WRITTEN_BY_TRANSFORMERS = {"model_type", "transformers_version", "use_cache"}
"""Keys of a configuration's file that are no fields of it."""
IMAGES = {".png": b"\x89PNG\r\n\x1a\n", ".jpg": b"\xff\xd8\xff"}
"""What an image of each kind begins with."""
SECRETS = {
    "a Hugging Face token": r"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{20,}",
    "an API key": r"(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{20,}",
    "a GitHub token": r"(?<![A-Za-z0-9])(?:gh[oprsu]_[A-Za-z0-9]{30,}|github_pat_\w{30,})",
    "an AWS key": r"(?<![A-Z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])",
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "a bearer token": r"\b[Bb]earer\s+[A-Za-z0-9._~+/-]{20,}",
    "a password": r"(?i)\b(?:hub_token|api_key|access_token|secret_key|password)[\"']?\s*[:=]\s*"
    r"[\"']?(?!null\b|none\b)[^\s\"',}]{8,}",
}


class Finding(NamedTuple):
    """Something that keeps a folder from being published: what must hold, what was found, and what to do."""

    must: str
    found: str
    do: str

    def __str__(self) -> str:
        return f"{self.must}, found {self.found}; {self.do}."


def check_files(bundle: Bundle, *, max_bytes: int) -> Iterator[Finding]:
    """Find links, files of other kinds, large ones, and texts that name this machine or hold a secret."""
    for name, file in bundle.files.items():
        if isinstance(file, Path) and is_link(file, bundle.folder):
            do = "put a copy in its place"
            yield Finding(f"{name} must be a file of the folder itself", "a link to another place", do)
        elif (found := _kind_of(bundle, name)) is not None:
            yield found
        elif bundle.size(name) > max_bytes:
            size = f"{bundle.size(name) / 1e6:.1f} MB"
            do = "make it smaller, or raise --max-mb"
            yield Finding(f"{name} must be at most {max_bytes / 1e6:g} MB", size, do)
        elif name.endswith(TEXTS):
            yield from _check_text(name, bundle.content(name) or b"")


def _kind_of(bundle: Bundle, name: str) -> Finding | None:
    """What is wrong with the kind of a file."""
    suffix = Path(name).suffix.lower()
    if suffix in PICKLES:
        do = "delete it, or save its tensors as safetensors"
        return Finding("nothing published may hold code that loading runs", f"{name}, a kind that pickles", do)
    if name.startswith("figures/") and suffix not in IMAGES:
        return Finding(f"a figure must be one of {sorted(IMAGES)}", name, "draw it again, or delete it")
    if suffix in IMAGES and not (bundle.content(name) or b"").startswith(IMAGES[suffix]):
        return Finding(f"{name} must be an image", "other contents", "draw it again, or delete it")
    return None


def _check_text(name: str, content: bytes) -> Iterator[Finding]:
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


def check_checkpoint(bundle: Bundle) -> Iterator[Finding]:
    """Find what keeps a configuration or its weights from loading, without running anything of them."""
    problem, config = read_config(bundle)
    if problem is not None:
        yield problem
    if SAFE_WEIGHTS_NAME not in bundle.files and may_ship(bundle.folder, "weights"):
        do = "save the model there; only a run whose evaluation.ship_weights is false may go without"
        yield Finding(f"a checkpoint must hold {SAFE_WEIGHTS_NAME}", "none", do)
    if SAFE_WEIGHTS_NAME in bundle.files and not may_ship(bundle.folder, "weights"):
        do = "ship the run with training.ship_checkpoint, which leaves out all that shows its series, and publish that"
        yield Finding("a run whose evaluation.ship_weights is false must have no weights here", SAFE_WEIGHTS_NAME, do)
    try:
        checkpoint_safety.check_checkpoint(bundle.folder, local_files_only=True)
    except (ValueError, OSError) as error:
        do = "save the model again, where it was made"
        yield Finding("from_pretrained must take the checkpoint", f"that it refuses it ({error})", do)
        config = None  # a model of it may be too large to build
    for name, file in bundle.files.items():
        if name.endswith(".safetensors") and isinstance(file, Path):
            yield from _check_tensors(name, file, config if name == SAFE_WEIGHTS_NAME else None)


def read_config(bundle: Bundle) -> tuple[Finding | None, PreTrainedConfig | None]:
    """Return the configuration, or what keeps it from being read, which then is not tried."""
    must = f"{CONFIG_NAME} must be the configuration of a model of hf_tsdyn"
    try:
        content = json.loads(bundle.text(CONFIG_NAME))
        if not isinstance(content, dict):
            raise ValueError(f"found {type(content).__name__}")
    except ValueError as error:
        return Finding(must, f"no JSON object ({error})", "save the model again"), None
    if "auto_map" in bundle.text(CONFIG_NAME):
        must = f"{CONFIG_NAME} must name no code to be loaded with it"
        return Finding(must, "auto_map", "delete it: the package holds the architecture"), None
    if model_class(content) is None:
        names = sorted(known_classes())
        found = f"model_type {content.get('model_type')!r} with architectures {content.get('architectures')}"
        return Finding(must, found, f"name one of {names} with its model_type in it"), None
    try:
        config = AutoConfig.from_pretrained(bundle.folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # strict dataclasses raise error classes of their own
        return Finding(must, f"one that does not load ({error})", "save the model again"), None
    known = {field.name for field in dataclasses.fields(type(config))}  # pyright: ignore[reportArgumentType]
    unknown = sorted(set(content) - known - WRITTEN_BY_TRANSFORMERS)
    if unknown:
        return Finding(
            f"{CONFIG_NAME} must hold fields of {type(config).__name__}", f"{unknown}", "delete them"
        ), config
    return None, config


def known_classes() -> dict[str, Any]:
    """Return the model classes that are published, by name."""
    return {each.__name__: each for classes in MODEL_CLASSES.values() for each in classes.values()}


def model_class(config: dict[str, Any] | PreTrainedConfig) -> Any:
    """Return the one class that a configuration names; None if it names none of this package, or another's."""
    named = config if isinstance(config, dict) else config.to_dict()
    architectures = named.get("architectures")
    if not isinstance(architectures, list) or len(architectures) != 1:
        return None
    found = known_classes().get(str(architectures[0]))
    return found if found is not None and found.config_class.model_type == named.get("model_type") else None


def _check_tensors(name: str, file: Path, config: PreTrainedConfig | None) -> Iterator[Finding]:
    """Read a header, and compare it with the model that the configuration builds without memory for weights."""
    try:
        with safe_open(file, framework="pt") as opened:
            shapes = {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
            metadata = json.dumps(opened.metadata() or {})
    except (SafetensorError, OSError) as error:
        yield Finding(f"{name} must be a whole safetensors file", f"one that does not open ({error})", "save it again")
        return
    yield from _check_text(f"the metadata of {name}", metadata.encode())
    if config is None:
        return
    with torch.device("meta"):
        model = model_class(config)(config)
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    differing = [key for key in {**expected, **shapes} if expected.get(key) != shapes.get(key)]
    if differing:
        first = differing[0]
        what = f"{shapes.get(first)} in place of {expected.get(first)}"
        found = f"{len(differing)} that differ, the first {first!r}: {what}"
        yield Finding(f"{name} must hold the tensors of {CONFIG_NAME}'s model", found, "save the model again")


def check_dataset(bundle: Bundle) -> Iterator[Finding]:
    """Find shards that are not those of the manifest, or hold no trajectories."""
    manifest, do = load_manifest(bundle.folder), "run the same generation command again"
    listed = {entry["file"]: entry for entry in manifest["shards"]}
    shards = {name for name in bundle.files if name.endswith(".arrow")}
    if listed.keys() != shards:
        found = f"{sorted(listed.keys() ^ shards)} in one of the two alone"
        yield Finding("manifest.json must list the files of data/", found, do)
    for name in sorted(listed.keys() & shards):
        file = bundle.folder / name
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        if digest != listed[name]["sha256"]:
            yield Finding(f"{name} must have the bytes that manifest.json records", "others", do)
            continue
        with pa.OSFile(str(file)) as source, pa.ipc.open_stream(source) as stream:
            if stream.schema.names != list(FEATURES):
                yield Finding(f"{name} must have the columns of trajectories", f"{stream.schema.names}", do)
