"""Serve the demo: `python -m hf_tsdyn.demo [--host HOST] [--port PORT] [--models FOLDER ...]`; or write a Space."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .checkpoints import default_folders, find_checkpoints
from .space_folder import write_space


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m hf_tsdyn.demo", description="A page to try the models on.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; by default this machine alone")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument(
        "--models",
        type=Path,
        nargs="+",
        default=default_folders(),
        metavar="FOLDER",
        help="checkpoint folders, or folders of them; by default model_cards of a checkout. No others are opened",
    )
    parser.add_argument(
        "--write-space",
        type=Path,
        metavar="FOLDER",
        help="serve nothing: write the files of a Hub Space with these models to a new folder",
    )
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Serve the page until it is interrupted, or write a Space; whatever is missing ends it with a message."""
    options = parser().parse_args(arguments)
    try:
        checkpoints = find_checkpoints(options.models)
        if options.write_space is not None:
            write_space(options.write_space, checkpoints)
            print(f"wrote {options.write_space}: hf upload --repo-type space NAME/forecasting {options.write_space}")
            return
        from .app import build, launch_options

        build(checkpoints).launch(server_name=options.host, server_port=options.port, **launch_options())
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
