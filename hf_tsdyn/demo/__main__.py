"""Serve the demo: `python -m hf_tsdyn.demo [--host HOST] [--port PORT] [--models FOLDER ...]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .checkpoints import default_folders, find_checkpoints


def main(arguments: list[str] | None = None) -> None:
    """Serve the page until it is interrupted; whatever is missing ends it with a message."""
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
    options = parser.parse_args(arguments)
    try:
        checkpoints = find_checkpoints(options.models)
        from .app import build, launch_options

        build(checkpoints).launch(server_name=options.host, server_port=options.port, **launch_options())
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
