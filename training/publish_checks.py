"""What must hold of the files that are published: of each by itself, and of a dataset."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from hf_tsdyn.data.trajectories import FEATURES, load_manifest
from training.publish_files import TEXTS, Bundle, is_link
from training.publish_texts import Finding, check_text, png_text

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz", ".joblib")
IMAGE = ".png"
"""What every command draws."""


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
            yield from check_text(name, bundle.content(name) or b"")
        elif Path(name).suffix.lower() == IMAGE:
            yield from _check_image(name, bundle.content(name) or b"")


def _kind_of(bundle: Bundle, name: str) -> Finding | None:
    """What is wrong with the kind of a file."""
    suffix = Path(name).suffix.lower()
    if suffix in PICKLES:
        do = "delete it, or save its tensors as safetensors"
        return Finding("nothing published may hold code that loading runs", f"{name}, a kind that pickles", do)
    if name.startswith("figures/") and suffix != IMAGE:
        return Finding(f"a figure must be {IMAGE}", name, "draw it again, or delete it")
    return None


def _check_image(name: str, content: bytes) -> Iterator[Finding]:
    try:
        words = png_text(content)
    except ValueError as error:
        yield Finding(f"{name} must be an image", f"{error}", "draw it again, or delete it")
        return
    yield from check_text(f"the text in {name}", words.encode())


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
