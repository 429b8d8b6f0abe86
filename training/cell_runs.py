"""How the cells of a study run: side by side, each under a lock of its own and on one thread, its words in a log."""

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from joblib import Parallel, cpu_count, delayed
from joblib.parallel import get_active_backend
from tqdm import tqdm

from hf_tsdyn.parallel import joblib_backend
from training.sweep_folder import SweepFolder, without_transformers_bars

LOG_FILE = "log.txt"
T = TypeVar("T")


def run_cells(
    run: Callable[[Any], str | None],
    cells: Sequence[Any],
    *,
    jobs: int,
    backend: str | None = None,
    unit: str = "cell",
    show_progress: bool = True,
) -> list[str]:
    """Return what went wrong, cell by cell, in order of the text; `run` says it of a cell, None if nothing did.

    jobs: processes at once; -1 = one per core.
    backend: of `joblib_backend`.
    """
    workers = max(min(cpu_count() if jobs == -1 else jobs, len(cells)), 1)
    failures: list[str] = []
    with joblib_backend(backend, jobs=jobs), tqdm(total=len(cells), unit=unit, disable=not show_progress) as bar:
        # Ray's pool hands over its results at the end alone.
        streams = cast(Any, get_active_backend()[0]).supports_return_generator
        parallel = Parallel(workers, return_as="generator_unordered" if streams else "list")
        for failure in cast(Iterable[str | None], parallel(delayed(run)(cell) for cell in cells)):
            if failure is not None:
                failures.append(failure)
                bar.write(failure, file=sys.stderr)
            bar.set_postfix_str(f"failed {len(failures)}", refresh=False)
            bar.update()
    return sorted(failures)


def run_or_exit(work: Callable[[], T]) -> T:
    """Return what a command's work gives; end the program with a message if it fails, with 130 if it is interrupted."""
    try:
        return work()
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        sys.exit(130)


def failure_of(name: str, work: Callable[[], None]) -> str | None:
    """Work on the cell of this name; return what went wrong, None if nothing did."""
    try:
        work()
    except (ValueError, OSError, RuntimeError) as error:
        text = str(error)
        return text if text.startswith("cell ") else f"cell {name}: {text}"
    return None


@contextlib.contextmanager
def at_work(name: str, folder: Path, *, study: Path) -> Iterator[None]:
    """Hold the lock of a cell, waiting for it, and work on one thread; what is printed goes to the folder's log."""
    with SweepFolder(study).lock(name.replace("/", ",")):
        folder.mkdir(parents=True, exist_ok=True)
        with _on_one_thread(), _log_to(folder / LOG_FILE), without_transformers_bars():
            yield


@contextlib.contextmanager
def _log_to(file: Path) -> Iterator[None]:
    with file.open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        yield


@contextlib.contextmanager
def _on_one_thread() -> Iterator[None]:
    """As many threads for every cell, so that how cells are spread over workers changes no bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
