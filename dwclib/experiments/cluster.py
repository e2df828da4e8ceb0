"""Where rows are computed: in processes of this machine, or on the workers of a Dask cluster."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from itertools import islice, takewhile
from typing import TYPE_CHECKING

from dwclib.errors import ConfigError, ResultsError
from dwclib.experiments.grid import Cell, Grid
from dwclib.experiments.rows import Row, code_fingerprint, compute_row
from dwclib.files import cache_folder

if TYPE_CHECKING:
    from distributed import Client, Future

PATIENCE = 10.0  # seconds that a scheduler may take to answer, and a cluster may be without a worker


def compute(
    cells: Sequence[Cell],
    grid: Grid,
    *,
    jobs: int,
    device: str | None,
    scheduler: str | None,
    end: float = math.inf,
) -> Generator[Row, None, None]:
    """Yield the cells' rows in the order in which they are ready; none is begun after `end`."""
    begun = takewhile(lambda cell: time.monotonic() < end, cells)
    work = ((cell, cell.variant in grid.probed) for cell in begun)
    if scheduler is not None:
        yield from _on_cluster(work, device, scheduler)
    else:
        device = _device(device)
        _prepare(cells, device)
        yield from _in_processes(work, device, jobs=1 if device == "cuda" and jobs < 0 else jobs)


def _in_processes(work: Iterable[tuple[Cell, bool]], device: str, *, jobs: int) -> Iterator[Row]:
    import torch
    from joblib import Parallel, delayed, parallel_config

    threads = torch.get_num_threads()
    try:
        with parallel_config(backend="loky", inner_max_num_threads=1):
            yield from Parallel(n_jobs=jobs, return_as="generator_unordered")(
                delayed(compute_row)(*cell, device) for cell in work
            )
    finally:
        torch.set_num_threads(threads)  # one job is done in this very process


def _on_cluster(work: Iterator[tuple[Cell, bool]], device: str | None, scheduler: str) -> Iterator[Row]:
    """Yield rows that a cluster's workers compute.

    Dask's own futures, not joblib's backend for Dask: that one waits for ever for a run whose workers all
    die, and computes in this process where the cluster has one worker.
    """
    with _client(scheduler) as client:
        running: set[Future] = set()
        while True:
            room = max(1, 2 * len(client.nthreads())) - len(running)  # one to compute, one that waits for it
            running |= {
                client.submit(_row_on_worker, *cell, device, code_fingerprint(cell[1]), pure=False)
                for cell in islice(work, max(0, room))
            }
            if not running:
                return
            yield from _handed_over(client, running)


@contextmanager
def _client(scheduler: str) -> Iterator[Client]:
    """Connect to a cluster; when it is lost meanwhile, say so."""
    try:
        from distributed import Client
        from distributed.comm import CommClosedError
        from distributed.scheduler import KilledWorker
    except ImportError as error:
        raise ConfigError(
            "a cluster needs Dask, which is not installed",
            where=f"scheduler {scheduler}",
            remedy="Install it: pip install 'dwclib[scale]'.",
        ) from error
    try:
        client = Client(scheduler, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no scheduler answered within {PATIENCE:.0f} s ({error})",
            where=f"scheduler {scheduler}",
            remedy="Start one (dask scheduler), and name the address that it prints.",
        ) from error
    try:
        with client:
            yield client
    except (KilledWorker, CancelledError, CommClosedError, TimeoutError) as error:
        raise ResultsError(
            f"the cluster was lost ({error}); the rows that came before are kept",
            where=f"scheduler {scheduler}",
            remedy="See that it runs and has workers (dask worker ADDRESS --nthreads 1), and run again.",
        ) from error


def _handed_over(client: Client, running: set[Future]) -> Iterator[Row]:
    """Yield the rows that are ready, perhaps none; a TimeoutError says that no worker is left."""
    from distributed import wait

    future = None
    try:
        for future in wait(running, timeout=PATIENCE, return_when="FIRST_COMPLETED").done:
            row = future.result(timeout=PATIENCE)
            running.remove(future)
            yield row
    except TimeoutError:  # none is ready, or a worker died before it handed its row over
        if future is not None and future.status == "error":  # the run's own
            raise
        client.wait_for_workers(1, timeout=PATIENCE)


def _row_on_worker(cell: Cell, probed: bool, device: str | None, code: str) -> Row:
    """Compute a row in a cluster's worker, if its row is the one that this machine would compute."""
    from distributed import get_worker

    worker = get_worker()
    if worker.state.nthreads != 1:  # runs in one process would draw from one another's random numbers
        raise ConfigError(
            f"it runs {worker.state.nthreads} at a time in one process",
            where=f"worker {worker.address}",
            remedy="Start it with --nthreads 1, and one per core with --nworkers.",
        )
    if code_fingerprint(probed) != code:
        raise ConfigError(
            "its dwclib, or the weights in data/, are not those of the process that asks",
            where=f"worker {worker.address}",
            remedy="Install the same version on all machines, and start the workers anew.",
        )
    return compute_row(cell, probed, _device(device))


def _prepare(cells: Iterable[Cell], device: str) -> None:
    """Draw the pictures and encode them once, with all cores, before the runs share them."""
    from dwclib.training.runs import Run

    for config in {cell.config.data.model_dump_json(): cell.config for cell in cells}.values():
        with tempfile.TemporaryDirectory(dir=cache_folder("experiments")) as folder:
            Run(config, folder, device=device)


def _device(named: str | None) -> str:
    import torch

    return named or ("cuda" if torch.cuda.is_available() else "cpu")
