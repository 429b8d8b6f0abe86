"""Generate a dataset of trajectories.

    python -m data_generation --config data_generation/configs/quickstart.yaml
    python -m data_generation --config data_generation/configs/quickstart.yaml \\
        --output generated/other --seed 1 --perturbation.parameter_scale 0.5 --jobs 4
    python -m data_generation --help

A killed run continues with the same command; a finished one is left as it is."""

import sys
from typing import Any

from data_generation.candidates import reason_text
from data_generation.config import SPLITS, load_config
from data_generation.generate import generate_dataset


def main() -> None:
    config = load_config()
    try:
        manifest, was_complete = generate_dataset(config, show_progress=True)
    except (ValueError, ModuleNotFoundError) as error:
        sys.exit(f"error: {error}")
    if was_complete:
        print(f"{config.output} is complete already; nothing was done.")
    print(summary(manifest, config.output))


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
        f"card       {output}/README.md",
        f"manifest   {output}/manifest.json (fingerprint {manifest['fingerprint'][:16]})",
        f"rejections {output}/rejected.jsonl",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
