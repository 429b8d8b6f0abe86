"""What must hold of a model that is published: its configuration, its weights and the records of its run."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME

from hf_tsdyn import checkpoint_safety
from training.model_config import MODEL_CLASSES
from training.probe import PROBE_FILE, repeat_probe
from training.publish_files import Bundle, evaluation_settings, may_ship
from training.publish_texts import Finding, check_text
from training.run_config import CONFIG_FILE
from training.run_summary import SUMMARY_FILE
from training.sweep_folder import without_transformers_bars

WRITTEN_BY_TRANSFORMERS = {"model_type", "transformers_version", "use_cache"}
"""Keys of a configuration's file that are no fields of it."""
NUM_PROBED_STEPS = 16
"""Of the probe's outcome: later ones of a chaotic system differ with the last bits of another processor."""
PROBE_TOLERANCE = 1e-3
"""In standard deviations of the outcome: a hundred times what last bits amount to by then."""


def check_model_files(bundle: Bundle) -> Iterator[Finding]:
    """Find what keeps a model from loading, as its licence allows, or from being that of the run that its records say.

    Code of the checkpoint is never run; its model is, once on its probe, if nothing else is found.
    """
    problem, config = read_config(bundle)
    found = [] if problem is None else [problem]
    found += _check_licence(bundle)
    model = None
    try:
        checkpoint_safety.check_checkpoint(bundle.folder, local_files_only=True)
        if config is not None and SAFE_WEIGHTS_NAME in bundle.files:  # by whose size that of the model is bounded
            with torch.device("meta"):
                model = model_class(config)(config)
    except (ValueError, OSError, RuntimeError) as error:
        do = "save the model again, where it was made"
        found.append(Finding("from_pretrained must take the checkpoint", f"that it refuses it ({error})", do))
    for name, file in bundle.files.items():
        if name.endswith(".safetensors") and isinstance(file, Path):
            found += _check_tensors(name, file, model if name == SAFE_WEIGHTS_NAME else None)
    found += _check_summary(bundle, model)
    yield from found if found or model is None else _check_probe(bundle, model.config)


def read_config(bundle: Bundle) -> tuple[Finding | None, PreTrainedConfig | None]:
    """Return the configuration, or what keeps it from being read, which then is not tried."""
    must = f"{CONFIG_NAME} must be the configuration of a model of hf_tsdyn"
    try:
        content = json.loads(bundle.text(CONFIG_NAME))
        if not isinstance(content, dict):
            raise ValueError(f"found {type(content).__name__}")
    except (ValueError, RecursionError) as error:
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
        must = f"{CONFIG_NAME} must hold fields of {type(config).__name__}"
        return Finding(must, f"{unknown}", "delete them"), config
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


def _check_licence(bundle: Bundle) -> Iterator[Finding]:
    """Find weights where the licence of the series keeps them back, and none where it does not."""
    if evaluation_settings(bundle.folder) is None:
        found = "other contents" if CONFIG_FILE in bundle.files else "none"
        do = "restore it from the run: it says whether the weights may be published"
        yield Finding(f"{CONFIG_FILE} must be YAML of a run's settings, with its evaluation", found, do)
    elif SAFE_WEIGHTS_NAME not in bundle.files and may_ship(bundle.folder, "weights"):
        do = "save the model there; only a run whose evaluation.ship_weights is false may go without"
        yield Finding(f"a checkpoint must hold {SAFE_WEIGHTS_NAME}", "none", do)
    elif SAFE_WEIGHTS_NAME in bundle.files and not may_ship(bundle.folder, "weights"):
        must = "settings and results of a run must both let its weights be published, by evaluation.ship_weights"
        do = "ship the run with training.ship_checkpoint, which leaves out all that shows its series, and publish that"
        yield Finding(must, f"{SAFE_WEIGHTS_NAME} where one does not, or cannot be read", do)


def _check_tensors(name: str, file: Path, model: Any) -> Iterator[Finding]:
    """Read a file's words and, of the weights, compare shapes with those of a `model` and look for lost values."""
    do = "save the model again"
    try:
        with safe_open(file, framework="pt") as opened:
            shapes = {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
            words = "\n".join([*shapes, json.dumps(opened.metadata() or {})])
            broken = [] if model is None else [key for key in shapes if not _is_finite(opened.get_tensor(key))]
    except (SafetensorError, OSError) as error:
        yield Finding(f"{name} must be a whole safetensors file", f"one that does not open ({error})", do)
        return
    yield from check_text(f"the metadata of {name}", words.encode())
    if broken:
        found = f"NaN or infinity in {len(broken)} tensors, the first {broken[0]!r}"
        yield Finding(f"{name} must hold finite weights", found, "take the weights of a step before they were lost")
    expected = {} if model is None else {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    differing = [key for key in expected | shapes if expected.get(key) != shapes.get(key)]
    if model is not None and differing:
        first = differing[0]
        what = f"{shapes.get(first)} in place of {expected.get(first)}"
        found = f"{len(differing)} that differ, the first {first!r}: {what}"
        yield Finding(f"{name} must hold the tensors of {CONFIG_NAME}'s model", found, do)


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _check_summary(bundle: Bundle, model: Any) -> Iterator[Finding]:
    """Compare what a run says that it trained with the model that is there, if it can be built."""
    do = "restore it from the run, or train again"
    if SUMMARY_FILE not in bundle.files:
        yield Finding(f"a checkpoint must hold {SUMMARY_FILE}, the record of its training", "none", do)
        return
    try:
        summary = json.loads(bundle.text(SUMMARY_FILE))
        recorded = summary["model_type"], summary["num_parameters"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        yield Finding(f"{SUMMARY_FILE} must be the record of a training", f"{type(error).__name__}: {error}", do)
        return
    expected = None if model is None else (model.config.model_type, model.num_parameters())
    if expected not in (None, recorded):
        found = f"one of {recorded[1]} parameters ({recorded[0]}) in place of {expected[1]} ({expected[0]})"
        yield Finding(f"{SUMMARY_FILE} must be the record of this model's training", found, do)


def _check_probe(bundle: Bundle, config: PreTrainedConfig) -> Iterator[Finding]:
    """Repeat what the model made of a window when its training ended, where that may be shipped and is there."""
    if not {PROBE_FILE, SAFE_WEIGHTS_NAME} <= set(bundle.files):
        return
    must, do = f"the model must repeat the outcome in {PROBE_FILE}", "take weights and probe of one and the same run"
    try:
        with without_transformers_bars():
            model = model_class(config).from_pretrained(bundle.folder, local_files_only=True)
        again, recorded = repeat_probe(model, load_file(bundle.folder / PROBE_FILE))
        spread = max(recorded.std(correction=0).item(), 0.01 * recorded.abs().max().item()) or 1.0
        difference = (again - recorded)[:, :NUM_PROBED_STEPS].abs().max().item() / spread
    except Exception as error:  # whatever a model raises on what is no window of its series
        yield Finding(must, f"that it cannot ({type(error).__name__}: {error})", do)
        return
    if not difference <= PROBE_TOLERANCE:
        yield Finding(must, f"another, by up to {difference:.2g} standard deviations", do)
