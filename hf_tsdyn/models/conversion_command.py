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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from .conversion_mapping import Pair, mapped_groups

REPORT_FILE = "conversion_report.json"
CONFIG_FILES = ("case.json", "config.json")
WEIGHT_FILES = ("reference_state.safetensors", "model.safetensors")
RECORD_FILES = ("inputs.safetensors", "outputs.safetensors")

State = dict[str, Tensor]


@dataclass(frozen=True)
class Check:
    """A largest difference that was found, and the largest one that is still taken for rounding."""

    name: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the difference is small enough; NaN is not."""
        return self.difference <= self.tolerance

    def __str__(self) -> str:
        verdict = "bit-equal" if self.difference == 0 else f"largest difference {self.difference:.1e}"
        return f"{'passed' if self.passed else 'FAILED'}: {self.name}: {verdict} (at most {self.tolerance:g})"


def largest_difference(name: str, found: Tensor, expected: Tensor, tolerance: float) -> Check:
    """Return the largest difference as it is; infinity where shapes differ."""
    if found.shape != expected.shape:
        return Check(f"{name} of shape {tuple(found.shape)}, not {tuple(expected.shape)}", float("inf"), tolerance)
    return Check(name, (found - expected).abs().max().item(), tolerance)


def relative_difference(name: str, found: Tensor, expected: Tensor, tolerance: float) -> Check:
    """Return the largest difference over the largest expected value; as it is where all of those are 0."""
    size = expected.abs().max().item() or 1.0
    return largest_difference(f"{name}, relative", found / size, expected / size, tolerance)


@dataclass(frozen=True)
class Conversion:
    """What an architecture brings to its command.

    convert: tensors and settings of a reference to a model. to_reference, settings: a model to tensors and settings
        under the reference's names; ValueError where there is no way back. load: a folder to a model.
    pairs: of a model.
    probe: what a model makes of a fixed random input; it may move the model's state.
    record: how far a model is from recorded inputs and outputs, in the settings that came with them.
    equations: how far it is from the reference's equations, computed from the reference's tensors.
    left_out: by name, what of a reference's tensors a model does not have, and why. kept_here: the other way round.
    """

    convert: Callable[[State, dict[str, Any]], Any]
    to_reference: Callable[[Any], State]
    settings: Callable[[Any], dict[str, Any]]
    load: Callable[[str], Any]
    pairs: Callable[[Any], Sequence[Pair]]
    probe: Callable[[Any], Tensor]
    record: Callable[[Any, State, State, dict[str, Any]], list[Check]]
    equations: Callable[[Any, State], list[Check]] = lambda _model, _state: []
    left_out: Callable[[Any], dict[str, str]] = lambda _model: {}
    kept_here: Callable[[Any], dict[str, str]] = lambda _model: {}


@dataclass
class Report:
    """What was mapped onto what, what was left out, and how the result was checked; without paths of the machine."""

    direction: str
    model: str
    num_parameters: int
    reference_dtypes: list[str]
    model_dtypes: list[str]
    mapped: list[dict[str, Any]]
    left_out: dict[str, str]
    checks: list[Check] = field(default_factory=list)

    def __str__(self) -> str:
        rows = [
            f"{row['num_reference']:>4} x {row['reference']} {row['reference_shape']}  <->  "
            f"{row['num_ours']} x {row['ours']} {row['our_shape']}"
            for row in self.mapped
        ]
        rows += [f"left out: {name}: {reason}" for name, reason in self.left_out.items()]
        count = sum(row["num_reference"] for row in self.mapped)
        rows.append(
            f"{self.direction}: {count} tensors mapped ({', '.join(self.reference_dtypes)} there, "
            f"{', '.join(self.model_dtypes)} here), {self.model} of {self.num_parameters:,} parameters"
        )
        return "\n".join(rows)


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
    return read_weights(found["weights"][0]), json.loads(found["settings"][0].read_text()) | settings


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
    report = _report("from the reference", model, pairs, state | extra, conversion.left_out(model))
    report.checks = [same_state(conversion.load(str(target)).state_dict(), model.state_dict())]
    found, expected = conversion.probe(conversion.load(str(target))), conversion.probe(model)
    report.checks += [largest_difference("reloaded, run on a probe", found, expected, 0.0)]
    report.checks += conversion.equations(conversion.load(str(target)), state)
    inputs, outputs = (source / name for name in RECORD_FILES)
    if inputs.is_file() and outputs.is_file():
        recorded = read_weights(inputs), read_weights(outputs)
        report.checks += conversion.record(conversion.load(str(target)), recorded[0], recorded[1], config)
    else:
        print(f"no {' and '.join(RECORD_FILES)} in SOURCE: not compared with outputs of the reference")
    return report


def into_reference(conversion: Conversion, source: Path, target: Path) -> Report:
    """Write the model in `source` as a reference into the new folder `target`, and check it as converted back."""
    model = conversion.load(str(source))
    state, settings = conversion.to_reference(model), conversion.settings(model)
    target.mkdir(exist_ok=True)
    save_file(state, target / WEIGHT_FILES[0])
    (target / CONFIG_FILES[0]).write_text(json.dumps(settings, indent=1) + "\n")
    pairs, kept = conversion.pairs(model), conversion.kept_here(model)
    report = _report("to the reference", model, pairs, state, kept)
    back = conversion.convert(*read_source(target, {}))
    before, after = ({pair.ours: each.state_dict()[pair.ours] for pair in pairs} for each in (model, back))
    report.checks = [same_state(after, before, name="tensors, converted back")]
    report.checks += conversion.equations(model, state)
    if not kept:
        found, expected = conversion.probe(back), conversion.probe(model)
        report.checks += [largest_difference("converted back, run on a probe", found, expected, 0.0)]
    return report


def same_state(found: State, expected: State, *, name: str = "tensors, reloaded") -> Check:
    """Return how many tensors differ in any bit, or are missing or left over; none may."""
    names = found.keys() | expected.keys()
    equal = [each for each in names if each in found and each in expected and _same(found[each], expected[each])]
    return Check(name, float(len(names) - len(equal)), 0.0)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def _report(
    direction: str, model: PreTrainedModel, pairs: Sequence[Pair], theirs: State, left_out: dict[str, str]
) -> Report:
    ours = model.state_dict()
    return Report(
        direction=direction,
        model=type(model).__name__,
        num_parameters=model.num_parameters(),
        reference_dtypes=_dtypes(theirs),
        model_dtypes=_dtypes({pair.ours: ours[pair.ours] for pair in pairs}),
        mapped=mapped_groups(pairs, theirs, ours),
        left_out=left_out,
    )


def _dtypes(state: State) -> list[str]:
    return sorted({str(each.dtype).removeprefix("torch.") for each in state.values()})


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


def new_parser(description: str | None) -> argparse.ArgumentParser:
    """Return the parser of a command, to which an architecture may add settings that its weights do not tell."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder of the reference, or its weights file")
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
