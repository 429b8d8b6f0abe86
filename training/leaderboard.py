"""Render the leaderboard of all benchmark results of a checkout: page, figures, and the table in the README.

    python -m training.leaderboard
    python -m training.leaderboard --results model_cards/results --page model_cards/leaderboard

Every results file of a benchmark (training.benchmark) in the folder takes part, and the rollouts beside it. In
README.md the table between the lines `<!-- leaderboard -->` and `<!-- end -->` is written anew.
"""

import argparse
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from hf_tsdyn.leaderboard import Board, read_boards
from hf_tsdyn.leaderboard_attractors import Attractors, merge_attractors
from hf_tsdyn.leaderboard_gallery import draw_leaderboard, pictures_of
from hf_tsdyn.leaderboard_page import leaderboard_summary, render_leaderboard
from hf_tsdyn.results import write_atomically

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE, README = Path("model_cards", "results"), Path("model_cards", "leaderboard"), "README.md"
FIGURES = "figures"
START, END = "<!-- leaderboard -->", "<!-- end -->"


def write_leaderboard(results: Path, page: Path, *, readme: Path) -> Path:
    """Put page and figures in the place of what is in a folder, and the table into the README; return the page.

    Raises: FileNotFoundError without results of a benchmark or README; ValueError if results do not fit together, the
        README has no place for the table, or the folder holds something that is no page.
    """
    foreign = sorted(file.name for file in page.glob("*") if file.name not in (README, FIGURES))
    if foreign:
        raise ValueError(f"{page} must be new or hold a page alone, as it is replaced, found {foreign}; name another.")
    boards = read_boards(results)
    attractors = _read_attractors(boards, results)
    text = render_readme(readme.read_text(), boards, page=_link(page, readme))
    part = page.with_name(f".{page.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        draw_leaderboard(boards, attractors, part / FIGURES)
        (part / README).write_text(render_page(boards, attractors, part))
        shutil.rmtree(page, ignore_errors=True)
        part.rename(page)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    write_atomically(readme, text.encode())
    return page / README


def _read_attractors(boards: Sequence[Board], results: Path) -> dict[str, Attractors]:
    found = {board.condition: merge_attractors(results, board.files) for board in boards}
    return {condition: series for condition, series in found.items() if series}


def _link(page: Path, readme: Path) -> str:
    return Path(os.path.relpath(page / README, readme.parent)).as_posix()


def render_page(boards: Sequence[Board], attractors: Mapping[str, Attractors], folder: Path) -> str:
    """Return the page, with those of its figures that lie in the folder."""
    figures = {
        condition: [
            (f"{FIGURES}/{picture.file}", picture.caption)
            for picture in pictures
            if (folder / FIGURES / picture.file).is_file()
        ]
        for condition, pictures in pictures_of(boards, attractors).items()
    }
    return render_leaderboard(boards, figures=figures)


def render_readme(text: str, boards: Sequence[Board], *, page: str) -> str:
    """Return the README with the table of the first board between its two marker lines.

    Raises: ValueError if the text has no such markers.
    """
    pattern = re.compile(f"{re.escape(START)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"README.md must hold the lines {START!r} and {END!r}, found no such pair; add them.")
    summary = leaderboard_summary(boards, page=page)
    return pattern.sub(lambda _: f"{START}\n{summary}\n{END}", text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(prog="python -m training.leaderboard", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--results", type=Path, default=ROOT / RESULTS, help="folder of results files")
    parser.add_argument("--page", type=Path, default=ROOT / PAGE, help="folder of the page, which is replaced")
    parser.add_argument("--readme", type=Path, default=ROOT / README, help="file with a place for the table")
    options = parser.parse_args(arguments)
    try:
        page = write_leaderboard(options.results, options.page, readme=options.readme)
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"error: {error}")
    print(f"rendered {page}")


if __name__ == "__main__":
    main()
