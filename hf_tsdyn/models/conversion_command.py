"""The one command that turns a reference's checkpoint into a model or, with --inverse, a model into a reference's.

What it does is the same for every architecture: read weights from safetensors, convert, write a folder with
`conversion_report.json`, and check what was written. The folder appears as a whole, after its checks, or not at all.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.utils import logging

from .conversion_mapping import Pair, in_one_line
from .conversion_report import Check, Report, largest_difference, report_of, same_state

REPORT_FILE = "conversion_report.json"
CONFIG_FILES = ("case.json", "config.json")
WEIGHT_FILES = ("reference_state.safetensors", "model.safetensors")
RECORD_FILES = ("inputs.safetensors", "outputs.safetensors")

State = dict[str, Tensor]


@dataclass(frozen=True)
class Conversion:
    """What an architecture brings to its command.

    convert: tensors and settings of a reference to a model. to_reference, settings: a model to tensors and settings
        under the reference's names; ValueError where there is no way back.
    models: the classes that come out; of a folder that names none in its config.json, the first.
    pairs: of a model.
    probe: what a model makes of a fixed random input; it may move the model's state.
    record: how far a model is from recorded inputs and outputs, in the settings that came with them.
    equations: how far it is from the reference's equations, computed from the reference's tensors.
    left_out: by name, what of a reference's tensors a model does not have, and why. kept_here: the other way round.
    """

    convert: Callable[[State, dict[str, Any]], Any]
    to_reference: Callable[[Any], State]
    settings: Callable[[Any], dict[str, Any]]
    models: Sequence[Any]
    pairs: Callable[[Any], Sequence[Pair]]
    probe: Callable[[Any], Tensor]
    record: Callable[[Any, State, State, dict[str, Any]], list[Check]]
    equations: Callable[[Any, State], list[Check]] = lambda _model, _state: []
    left_out: Callable[[Any], dict[str, str]] = lambda _model: {}
    kept_here: Callable[[Any], dict[str, str]] = lambda _model: {}


def read_weights(file: Path) -> State:
    """Return the tensors of a safetensors file.

    Raises: ValueError on a file of another kind, which is not opened, or one that is damaged.
    """
    if file.suffix != ".safetensors":
        raise ValueError(
            f"weights must be in a safetensors file, found {file.name}, which may run code and is not opened; where "
            "you trust its author, write one by safetensors.torch.save_file(torch.load(FILE, weights_only=True), "
            "'reference_state.safetensors')."
        )
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file.name} must be a whole safetensors file, found: {error}; get it anew.") from None


def read_source(source: Path, settings: dict[str, Any]) -> tuple[State, dict[str, Any]]:
    """Return weights and settings of a reference's folder, or of a weights file; `settings` stand above the file's.

    Raises: FileNotFoundError naming what is missing; ValueError on weights that are no safetensors.
    """
    if source.is_file():
        return read_weights(source), settings
    configs, weights = ([source / name for name in names] for names in (CONFIG_FILES, WEIGHT_FILES))
    found = {"settings": [file for file in configs if file.is_file()], "weights": [f for f in weights if f.is_file()]}
    if not found["weights"] and source.is_dir():
        others = sorted(file for file in source.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"))
        if others:
            read_weights(others[0])
    for kind, names in (("settings", CONFIG_FILES), ("weights", WEIGHT_FILES)):
        if not found[kind]:
            raise FileNotFoundError(
                f"SOURCE must hold {' or '.join(names)}, found neither in {source}; check the path."
            )
    return read_weights(found["weights"][0]), read_settings(found["settings"][0]) | settings


def read_settings(file: Path) -> dict[str, Any]:
    """Return the object of a JSON file.

    Raises: FileNotFoundError if there is none; ValueError if it holds something else.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"a file {file.name} must be there, found none in {str(file.parent)!r}; check the path."
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file.name} must be JSON, found a file that is none ({error}); get it anew.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file.name} must hold a JSON object, found a {type(content).__name__}; get it anew.")
    return content


def load_model(conversion: Conversion, folder: Path) -> Any:
    """Return the model in a local folder that holds all of its weights and no others.

    Raises: FileNotFoundError if there is no such folder; ValueError if it holds another model, or other weights.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"SOURCE must be a model's folder, found no folder {str(folder)!r}; check the path.")
    named = read_settings(folder / "config.json").get("architectures")
    models = {each.__name__: each for each in conversion.models}
    chosen = [models[name] for name in models if isinstance(named, list) and name in named]
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what transformers reports as a table is refused below
    try:
        model, info = (chosen or conversion.models)[0].from_pretrained(
            folder, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (StrictDataclassError, AttributeError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(f"SOURCE must be a model's folder, found {in_one_line(error)}; get it anew.") from None
    finally:
        logging.set_verbosity(verbosity)
    wrong = {kind: sorted(map(str, names)) for kind, names in info.items() if names}
    if wrong:
        raise ValueError(
            f"a model's folder must hold exactly its weights, found {_shortened(wrong)}; get it "
            "anew, or load it by from_pretrained, which draws what is missing, and save that."
        )
    return model


def _shortened(wrong: dict[str, list[str]]) -> str:
    return "; ".join(f"{kind} {names[:5]}{'...' if len(names) > 5 else ''}" for kind, names in wrong.items())


def from_reference(
    conversion: Conversion, source: Path, target: Path, settings: dict[str, Any], extra: State
) -> Report:
    """Convert the reference in `source` into the new folder `target`, and check it as reloaded.

    extra: tensors that the reference's file lacks.
    """
    state, config = read_source(source, settings)
    twice = sorted(state.keys() & extra.keys())
    if twice:
        raise ValueError(f"SOURCE must lack what is given beside it, found {twice[0]} in both; leave the option out.")
    model = conversion.convert(state | extra, config)
    model.save_pretrained(target)
    pairs = conversion.pairs(model)
    report = report_of("from the reference", model, pairs, state | extra, conversion.left_out(model))
    report.checks = [same_state(load_model(conversion, target).state_dict(), model.state_dict())]
    found, expected = conversion.probe(load_model(conversion, target)), conversion.probe(model)
    report.checks += [largest_difference("reloaded, run on a probe", found, expected, 0.0)]
    report.checks += conversion.equations(load_model(conversion, target), state)
    inputs, outputs = (source / name for name in RECORD_FILES)
    if inputs.is_file() and outputs.is_file():
        recorded = read_weights(inputs), read_weights(outputs)
        report.checks += _of_record(conversion, load_model(conversion, target), *recorded, config)
    else:
        print(f"no {' and '.join(RECORD_FILES)} in SOURCE: not compared with outputs of the reference")
    return report


def _of_record(
    conversion: Conversion, model: Any, inputs: State, outputs: State, config: dict[str, Any]
) -> list[Check]:
    try:
        return conversion.record(model, inputs, outputs, config)
    except (IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:  # whatever a model makes of them
        raise ValueError(
            f"{' and '.join(RECORD_FILES)} must be a record of SOURCE, found {type(error).__name__}: "
            f"{in_one_line(error)}; remove them to go without the comparison."
        ) from None


def into_reference(conversion: Conversion, source: Path, target: Path) -> Report:
    """Write the model in `source` as a reference into the new folder `target`, and check it as converted back."""
    model = load_model(conversion, source)
    state, settings = conversion.to_reference(model), conversion.settings(model)
    target.mkdir(exist_ok=True)
    save_file(state, target / WEIGHT_FILES[0])
    (target / CONFIG_FILES[0]).write_text(json.dumps(settings, indent=1) + "\n")
    pairs, kept = conversion.pairs(model), conversion.kept_here(model)
    report = report_of("to the reference", model, pairs, state, kept)
    back = conversion.convert(*read_source(target, {}))
    before, after = ({pair.ours: each.state_dict()[pair.ours] for pair in pairs} for each in (model, back))
    report.checks = [same_state(after, before, name="tensors, converted back")]
    report.checks += conversion.equations(model, state)
    if not kept:
        found, expected = conversion.probe(back), conversion.probe(model)
        report.checks += [largest_difference("converted back, run on a probe", found, expected, 0.0)]
    return report


def write_target(target: Path, work: Callable[[Path], Report]) -> Report:
    """Let `work` fill a folder beside `target`, which becomes `target` once its report has no failed check.

    Raises: ValueError if `target` is there and not an empty folder, or a check failed.
    """
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ValueError(f"TARGET must be new or an empty folder, found {str(target)!r}; choose another.")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        report = work(part)
        for line in (report, *report.checks):
            print(line)
        failed = [check.name for check in report.checks if not check.passed]
        if failed:
            raise ValueError(f"what was converted must be what was given, found checks that failed: {failed}.")
        (part / REPORT_FILE).write_text(json.dumps(asdict(report), indent=1) + "\n")
        part.chmod(0o755)  # mkdtemp makes it private
        part.replace(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return report


def new_parser(architecture: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of a command, to which an architecture may add settings that its weights do not tell."""
    parser = argparse.ArgumentParser(
        prog=f"python -m hf_tsdyn.models.{architecture}.conversion_{architecture}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="folder of the reference, or, where options tell the settings, its weights file",
    )
    parser.add_argument("target", type=Path, metavar="TARGET", help="new or empty folder to write to")
    parser.add_argument("--inverse", action="store_true", help="SOURCE is a model of ours, TARGET the reference's")
    return parser


def run_command(
    conversion: Conversion,
    parser: argparse.ArgumentParser,
    *,
    read_extra: Callable[[Path], State] | None = None,
) -> None:
    """Do what a `new_parser` with an architecture's own options is asked, and say what came out.

    Own options are settings of the reference; but `extra` is a file, of what its weights lack, for `read_extra`.
    """
    options = vars(parser.parse_args())
    source, target, inverse = (options.pop(name) for name in ("source", "target", "inverse"))
    settings = {name: value for name, value in options.items() if value is not None}
    if inverse and settings:
        parser.error("--inverse takes no settings: they are in the model; leave the other options out.")
    file = settings.pop("extra", None)

    def work(folder: Path) -> Report:
        if inverse:
            return into_reference(conversion, source, folder)
        extra = read_extra(file) if read_extra is not None and file is not None else {}
        return from_reference(conversion, source, folder, settings, extra)

    try:
        write_target(target, work)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"written to {target}")
