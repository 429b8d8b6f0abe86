"""Settings from YAML files, dotted command-line options and manifests."""

from argparse import ArgumentError
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from data_generation.config import GenerationConfig


def load_config(arguments: Sequence[str] | None = None, *, exit_on_error: bool = True) -> GenerationConfig:
    """Read the settings from command-line arguments: `--config FILE.yaml` and options such as `--seed 1`.

    Args:
        arguments: those of the process when None.
        exit_on_error: print the error with the usage and exit, as a command does.
    Raises: jsonargparse.ArgumentError on an unknown key, a wrong type or a broken rule, unless it exits."""
    parser = _parser(exit_on_error=exit_on_error)
    parsed = parser.parse_args(arguments)
    try:
        return _build(parser, parsed)
    except ValueError as error:
        parser.error(str(error))


def config_from_settings(settings: dict[str, Any], *, output: str) -> GenerationConfig:
    """Return the settings that `data_settings` wrote into a manifest, for a dataset that lies in `output`.

    Raises: ValueError on settings of another version of this package."""
    parser = _parser(exit_on_error=False)
    try:
        return _build(parser, parser.parse_object({**settings, "output": output}))
    except ArgumentError as error:
        raise ValueError(
            f"settings must be those of this version of data_generation, found others ({error}); use the version "
            "that made the dataset."
        ) from error


def _parser(*, exit_on_error: bool) -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m data_generation",
        description="Generate an Arrow dataset of trajectories of chaotic systems.",
        exit_on_error=exit_on_error,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="a YAML file, e.g. one of data_generation/configs")
    parser.add_class_arguments(GenerationConfig, skip={"dry_run", "push_to_hub"})
    parser.add_argument("--dry-run", action="store_true", help="print plan, expected size and time; write nothing")
    parser.add_argument("--push-to-hub", type=str | None, metavar="REPO", help="upload the finished dataset")
    return parser


def _build(parser: ArgumentParser, parsed: Namespace) -> GenerationConfig:
    settings = vars(parser.instantiate(parsed))
    return GenerationConfig(**{entry.name: settings[entry.name] for entry in fields(GenerationConfig)})
