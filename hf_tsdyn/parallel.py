"""Where independent work runs: joblib's backends, with a local cluster of Dask or Ray where none is connected."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import joblib

INSTALL = "it is not installed; run: pip install 'hf_tsdyn[cluster]'"


def joblib_backend(name: str | None, *, jobs: int) -> AbstractContextManager[object]:
    """Return a context in which `joblib.Parallel` runs on a backend; None leaves the active one.

    `dask` uses the active `dask.distributed.Client`, or the scheduler that DASK_SCHEDULER_ADDRESS names; `ray` the
    cluster that is connected, or that RAY_ADDRESS names; either starts `jobs` local workers where there is none.

    Raises: ModuleNotFoundError, with the command that installs it; ValueError on an unknown name."""
    num_workers = joblib.cpu_count() if jobs == -1 else jobs
    if name is None:
        return nullcontext()
    start = STARTERS.get(name)
    return start(num_workers) if start else joblib.parallel_config(backend=name)


@contextmanager
def _dask(num_workers: int) -> Iterator[None]:
    try:
        from dask.distributed import Client, get_client  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ModuleNotFoundError(f"backend 'dask' needs dask[distributed], and {INSTALL}") from error
    try:
        client: AbstractContextManager[object] = nullcontext(get_client())
    except ValueError:
        client = Client(n_workers=num_workers, threads_per_worker=1, dashboard_address=None)
    with client, joblib.parallel_config(backend="dask"):
        yield


@contextmanager
def _ray(num_workers: int) -> Iterator[None]:
    try:
        import ray  # pyright: ignore[reportMissingImports]
        from ray.util.joblib import register_ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ModuleNotFoundError(f"backend 'ray' needs ray, and {INSTALL}") from error
    connected = ray.is_initialized()
    if not connected and os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False)
    elif not connected:
        ray.init(address="local", num_cpus=num_workers, include_dashboard=False, log_to_driver=False)
    register_ray()
    try:
        with joblib.parallel_config(backend="ray"):
            yield
    finally:
        if not connected:
            ray.shutdown()


STARTERS: dict[str, Callable[[int], AbstractContextManager[None]]] = {"dask": _dask, "ray": _ray}
