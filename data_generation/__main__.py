"""Generate a dataset of trajectories.

    python -m data_generation --config data_generation/configs/quickstart.yaml
    python -m data_generation --config data_generation/configs/base.yaml --dry-run
    python -m data_generation --config data_generation/configs/quickstart.yaml \\
        --output generated/other --seed 1 --perturbation.parameter_scale 0.5 --jobs 4 --push-to-hub NAME/DATASET
    python -m data_generation --config data_generation/configs/base.yaml --shard $SLURM_ARRAY_TASK_ID/100
    python -m data_generation --help

A killed run continues with the same command; a finished one is left as it is. `python -m data_generation.validate
DIR` checks what was written."""

import errno
import sys
from typing import Any

from data_generation.candidates import reason_text
from data_generation.config import SPLITS, GenerationConfig
from data_generation.config_loading import load_config
from data_generation.estimate import dry_run_report
from data_generation.gallery import GALLERY_FILE
from data_generation.generate import Outcome, generate_dataset
from data_generation.hub import PushError, push_dataset
from data_generation.plan import plan_shards

REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EACCES: "make the folder writable (or name another with --output)",
    errno.EPERM: "make the folder writable (or name another with --output)",
    errno.EROFS: "make the folder writable (or name another with --output)",
}


def main() -> None:
    config = load_config()
    try:
        if config.dry_run:
            print(dry_run_report(config, plan_shards(config)))
            return
        outcome = generate_dataset(config, show_progress=True)
        print(outcome_text(outcome, config))
        if config.push_to_hub and outcome.manifest:
            print(f"uploaded   {push_dataset(config.output, config.push_to_hub)}")
    except (ValueError, ModuleNotFoundError, PushError) as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {failure_text(error, config.output)}")
    except KeyboardInterrupt:
        print("interrupted: finished shards are kept, the same command goes on from them", file=sys.stderr)
        sys.exit(130)


def outcome_text(outcome: Outcome, config: GenerationConfig) -> str:
    """Return what a run did and what is left to do."""
    if outcome.manifest is None:
        return (
            f"share {config.shard} is done; {outcome.num_missing} files of other shares are not. The last run to "
            "finish writes card and manifest, as does the command without --shard."
        )
    heading = f"{config.output} is complete already; nothing was done.\n" if outcome.was_complete else ""
    return heading + summary(outcome.manifest, config.output)


def failure_text(error: OSError, output: str) -> str:
    """Return what the system refused, what is kept, and what to do."""
    if error.errno is None:
        return str(error)
    remedy = REMEDIES.get(error.errno, "mend that, or name another folder with --output")
    return (
        f"output must be a folder that can be written, found: {error.strerror} ({error.filename or output}). "
        f"Finished shards in {output!r} are kept; {remedy}, and run the same command again to go on."
    )


def summary(manifest: dict[str, Any], output: str) -> str:
    """Return what a dataset holds, what was rejected and why, and where the files lie."""
    counts = manifest["counts"]
    lines = [f"{counts['accepted']} of {counts['candidates']} candidates accepted"]
    for split in SPLITS:
        entries = [entry for entry in manifest["systems"].values() if entry["split"] == split]
        accepted = [entry["accepted"] for entry in entries]
        lines.append(f"  {split:<12}{sum(accepted):>7} of {sum(count > 0 for count in accepted)} systems")
    if counts["rejected"]:
        lines.append("rejected")
        for reason, number in sorted(counts["rejected"].items(), key=lambda entry: -entry[1]):
            lines.append(f"  {reason:<18}{number:>7}  {reason_text(reason)}")
    lines += [
        f"data       {output}/data ({len(manifest['shards'])} files)",
        f"card       {output}/README.md (attractors in {GALLERY_FILE} where matplotlib is installed)",
        f"manifest   {output}/manifest.json (fingerprint {manifest['fingerprint'][:16]})",
        f"rejections {output}/rejected.jsonl",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
