"""Upload of a run by the command that trained it: when it has ended, in one commit, without a pickle."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy
from transformers.utils import CONFIG_NAME

from hf_tsdyn.hub_card import hub_card
from hf_tsdyn.hub_upload import Upload, check_account, upload_files
from training.publish_checks import check_files
from training.publish_files import CARD_FILE, REPLACED, gather
from training.publish_model import check_model_files, model_class
from training.run_summary import SUMMARY_FILE

DESCRIPTION = (
    "`{architecture}` ({num_parameters:,} parameters), trained with `hf_tsdyn` and not evaluated yet: this card was "
    "written when the training ended, and holds no result but the loss that chose the checkpoint. `python -m "
    "training.publish` puts a card with results in its place, once the run is evaluated."
)
RECORD = """
| | |
|---|---|
| context, prediction | {context_length} steps, {prediction_length} steps |
| training | {steps:,} steps, {windows_seen:,} windows |
| validation loss | {loss} |
| data | fingerprint `{dataset_fingerprint}` |

`run_config.yaml` holds the settings of the run, `training_summary.json` the rest of what it reached. No licence was
chosen: until its owner names one in the lines above, all rights are reserved.
"""


@dataclass(frozen=True)
class PushRequest:
    """Where a run goes when it has ended: a repository, made private if it does not exist yet, and a branch of it."""

    repo: str
    private: bool | None
    branch: str | None


def take_push(arguments: TrainingArguments, settings: dict[str, Any]) -> PushRequest | None:
    """Return what the training arguments ask to be pushed, None if nothing, and take it out of them and the record.

    The Trainer then sends nothing by itself: it would send pickles, and every checkpoint's. What is pushed decides no
    weight, so that a run is the same with and without. Whatever else `hub_strategy` says, the run is pushed at its end.
    Raises: ValueError on a token, which the record would keep, or a wish for checkpoints, or a name that is none;
        PushError if nobody is logged in, before hours of training.
    """
    if arguments.hub_token is not None:
        raise ValueError(
            "training.hub_token must not be given, as records of the run would hold it, found one; set HF_TOKEN, or "
            "log in with `hf auth login`."
        )
    if not arguments.push_to_hub:
        return None
    if arguments.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        raise ValueError(
            "training.hub_strategy must be end: checkpoints to resume from hold pickles, which are not pushed, found "
            f"{arguments.hub_strategy.value}; leave it out."
        )
    named = arguments.hub_model_id or Path(str(arguments.output_dir)).resolve().name
    repo = check_account(named, option="training.hub_model_id")
    push = PushRequest(repo, arguments.hub_private_repo, arguments.hub_revision)
    arguments.push_to_hub = settings["push_to_hub"] = False
    for name in ("hub_model_id", "hub_private_repo", "hub_revision"):
        settings.pop(name, None)
    return push


def push_run(output: Path, push: PushRequest) -> Upload:
    """Upload a finished run, with the card of its evaluation or, without one, a card that says that there was none.

    Raises: ValueError naming all that keeps it from being pushed; PushError.
    """
    from training.publish_card import check_card  # knows the results of every kind, and by them the trainings

    bundle = gather(output, repo=push.repo)
    is_evaluated = CARD_FILE in bundle.files
    if not is_evaluated:
        bundle.files[CARD_FILE] = run_card(output, push.repo).encode()
    findings = [*check_files(bundle, max_bytes=5_000_000_000), *check_model_files(bundle)]
    findings += check_card(bundle) if is_evaluated else []
    if findings:
        listed = "\n".join(f"- {finding}" for finding in findings)
        raise ValueError(f"{output} is trained, and not fit to be pushed:\n{listed}")
    return upload_files(
        bundle.files,
        push.repo,
        what=f"the run {str(output)!r}",
        message="End of training",
        private=push.private,
        branch=push.branch,
        replaces=REPLACED,
        option="training.hub_model_id",
    )


def run_card(output: Path, repo: str) -> str:
    """Return the card of a run that was not evaluated, from its configuration and its summary."""
    trained = model_class(json.loads((output / CONFIG_NAME).read_text()))
    summary = json.loads((output / SUMMARY_FILE).read_text())
    loss = summary["best_validation_loss"]
    shown = ("context_length", "prediction_length", "steps", "windows_seen", "dataset_fingerprint")
    record = RECORD.format(
        loss="none that chose it" if loss is None else f"{loss:.4g}", **{name: summary[name] for name in shown}
    )
    description = DESCRIPTION.format(architecture=trained.__name__, num_parameters=summary["num_parameters"])
    return hub_card(trained, repo, description) + record
