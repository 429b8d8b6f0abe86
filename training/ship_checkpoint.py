"""Copy an evaluated run, of a forecaster or of a model that fills gaps, into `model_cards/`, its table into the README.

    python -m training.ship_checkpoint runs/quickstart/model

The card, the checkpoint, the figures and the run's records go to `model_cards/NAME`, the results to
`model_cards/results/NAME.json`; NAME is the run's `evaluation.name`. In README.md the table between the lines
`<!-- results NAME -->` and `<!-- end -->` is written anew.
"""

import argparse
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import yaml

from hf_tsdyn.completion_card import error_table
from hf_tsdyn.models import MASKED_MODELING
from hf_tsdyn.results import EvaluationResults, write_atomically
from training import evaluate_checkpoint, evaluate_completion
from training.evaluate_checkpoint import RESULTS_FILE
from training.run_config import CONFIG_FILE
from training.train import PROBE_FILE, SUMMARY_FILE

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ("README.md", "config.json", "model.safetensors", "figures", CONFIG_FILE, SUMMARY_FILE, PROBE_FILE)
TABLE_METRICS = ("normalised_mae", "smape", "vpt_periods@0.4", "coverage@0.8")
LARGEST_FILE = 10_000_000  # bytes; a repository is no place for larger ones


def render_readme(text: str, name: str, results: EvaluationResults) -> str:
    """Return the README with the results table of `name` written anew between its two marker lines.

    Raises: ValueError if the text has no such markers.
    """
    start, end = f"<!-- results {name} -->", "<!-- end -->"
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"README.md must hold the lines {start!r} and {end!r}, found no such pair; add them.")
    if "mask_kinds" in results.header["protocol"]:
        table = error_table(results)
    else:
        table = results.summary_table(TABLE_METRICS, horizons=results.header["protocol"]["horizons"])
    return pattern.sub(lambda _: f"{start}\n{table}\n{end}", text)


def evaluation_command(checkpoint: Path) -> ModuleType:
    """Return the module whose command scores the checkpoint's kind of model, and renders its card."""
    architectures = json.loads((checkpoint / "config.json").read_text()).get("architectures") or []
    masked = {model_class.__name__ for model_class in MASKED_MODELING.values()}
    return evaluate_completion if masked & set(architectures) else evaluate_checkpoint


def ship_checkpoint(checkpoint: Path, *, root: Path = ROOT) -> Path:
    """Copy an evaluated run into `root` and return the folder of its card.

    Raises: FileNotFoundError if the run was not evaluated; ValueError if a file is too large to ship.
    """
    name = evaluation_command(checkpoint).load_request([str(checkpoint)]).evaluation.name
    missing = [file for file in (*SHIPPED, RESULTS_FILE) if not (checkpoint / file).exists()]
    if missing:
        raise FileNotFoundError(
            f"{checkpoint} must hold an evaluated run, found no {missing}; run training.evaluate_checkpoint first."
        )
    size = (checkpoint / "model.safetensors").stat().st_size
    if size > LARGEST_FILE:
        raise ValueError(f"model.safetensors must be at most {LARGEST_FILE} bytes to be shipped, found {size}.")
    target = root / "model_cards" / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for file in SHIPPED:
        source = checkpoint / file
        shutil.copytree(source, target / file) if source.is_dir() else shutil.copyfile(source, target / file)
    settings = yaml.safe_load((target / CONFIG_FILE).read_text())
    settings["data"]["path"] = "DATA"  # as the card calls it: where it lay is the concern of one machine
    (target / CONFIG_FILE).write_text(yaml.safe_dump(settings, sort_keys=False))
    content = (checkpoint / RESULTS_FILE).read_bytes()
    write_atomically(root / "model_cards" / "results" / f"{name}.json", content)
    readme = root / "README.md"
    results = EvaluationResults.read(checkpoint / RESULTS_FILE)
    write_atomically(readme, render_readme(readme.read_text(), name, results).encode())
    return target


def main(arguments: Sequence[str] | None = None) -> None:
    """Ship the checkpoint that the command line names."""
    parser = argparse.ArgumentParser(description="Copy an evaluated run into model_cards/.")
    parser.add_argument("checkpoint", type=Path, help="folder of a run that training.evaluate_checkpoint scored")
    print(f"shipped to {ship_checkpoint(parser.parse_args(arguments).checkpoint)}")


if __name__ == "__main__":
    main()
