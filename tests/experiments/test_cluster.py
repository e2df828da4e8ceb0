"""Sweeps on a cluster: a real scheduler and real workers on the loopback; some of them are killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from dwclib import experiments
from dwclib.__main__ import main
from dwclib.errors import ConfigError, ResultsError
from dwclib.experiments import Grid, read_grid, run, store
from dwclib.experiments import cluster as module

pytest.importorskip("distributed", reason="the extra 'scale' is not installed")

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = {"device": "cpu", "progress": False}


class Cluster:
    """A scheduler and its workers, each a process of its own; their cache is not this process's."""

    def __init__(self, cache: Path, processes: ExitStack) -> None:
        self.cache, self.processes = cache, processes
        self.address = f"tcp://127.0.0.1:{_free_port()}"
        port = self.address.rsplit(":", 1)[1]
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard")
        self.workers: list[subprocess.Popen] = []
        _wait_until(lambda: _answers(int(port)))

    def add_worker(self, *, threads: int = 1) -> None:
        """Start a worker, and wait until the scheduler has it, however busy this machine is."""
        from distributed import Client

        options = ("--nthreads", str(threads), "--no-nanny", "--no-dashboard")
        self.workers.append(self._start("worker", self.address, *options))
        with Client(self.address, timeout=120) as client:
            client.wait_for_workers(len(self.workers), timeout=120)

    def _start(self, role: str, *options: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", role, *options],
            env=os.environ | {"DWC_CACHE": str(self.cache), "PYTHONPATH": str(ROOT)},
            cwd=self.cache,
            stderr=subprocess.DEVNULL,
        )
        self.processes.callback(_kill, process)
        return process


def _kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _answers(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cluster(cache) -> Iterator[Cluster]:
    with ExitStack() as processes:
        yield Cluster(cache, processes)


@pytest.fixture(scope="module")
def shared(cache) -> Iterator[Cluster]:
    """Two workers that no test kills."""
    with ExitStack() as processes:
        found = Cluster(cache, processes)
        found.add_worker()
        found.add_worker()
        yield found


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 2.0)


def _grid(*variants: str, seeds: int = 2) -> Grid:
    grid = read_grid("ablations-clip", "smoke").only(variants=variants)
    return grid._replace(seeds=seeds, probed=())


def _stored(folder: Path) -> list[dict]:
    return json.loads((folder / "ablations-clip" / "smoke.json").read_text())["rows"]


def _kill_after_the_first_row(folder: Path, process: subprocess.Popen) -> None:
    path = folder / "ablations-clip" / "smoke.json"

    def watch() -> None:
        _wait_until(path.exists)
        _kill(process)

    threading.Thread(target=watch, daemon=True).start()


def test_rows_of_a_cluster_are_those_of_local_processes(shared, tmp_path):
    grid = _grid("full", "hard labels")
    far = run(grid, folder=tmp_path / "far", scheduler=shared.address, **OPTIONS)
    near = run(grid, folder=tmp_path / "near", jobs=1, **OPTIONS)
    assert len(far.rows) == 4
    assert not far.stale
    for row, other in zip(far.rows, near.rows, strict=True):
        assert {name: row.get(name) for name in store.MEASURED} == {
            name: other.get(name) for name in store.MEASURED
        }
        assert row["config"] == other["config"]


def test_the_command_line_names_the_scheduler(shared, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(experiments, "read_grid", lambda name, profile: _grid("full", seeds=1))
    monkeypatch.setattr(experiments, "run", partial(run, folder=tmp_path, progress=False))
    monkeypatch.setattr(experiments, "missing", partial(store.missing, folder=tmp_path))
    assert main(["experiment", "ablations-clip", "--scheduler", shared.address, "--device", "cpu"]) == 0
    assert "ablations-clip: 1 rows, 1 of them computed now" in capsys.readouterr().out
    assert len(_stored(tmp_path)) == 1


def test_a_killed_worker_loses_no_row_and_the_last_ones_death_is_told(cluster, tmp_path, impatient):
    cluster.add_worker()
    cluster.add_worker()
    _kill_after_the_first_row(tmp_path, cluster.workers[0])
    grid = _grid("full", "hard labels", seeds=6)
    found = run(grid, folder=tmp_path, scheduler=cluster.address, **OPTIONS)
    assert cluster.workers[0].poll() == -signal.SIGKILL
    assert len(found.rows) == len(_stored(tmp_path)) == 12

    _kill_after_the_first_row(tmp_path / "more", cluster.workers[1])
    with pytest.raises(ResultsError, match=f"{cluster.address}: the cluster was lost"):
        run(grid._replace(seeds=40), folder=tmp_path / "more", scheduler=cluster.address, **OPTIONS)
    assert 1 <= len(_stored(tmp_path / "more")) < 80


def test_when_the_scheduler_dies_it_is_told(cluster, tmp_path, impatient):
    cluster.add_worker()
    _kill_after_the_first_row(tmp_path, cluster.scheduler)
    with pytest.raises(ResultsError, match=f"{cluster.address}: the cluster was lost"):
        run(_grid("full", seeds=40), folder=tmp_path, scheduler=cluster.address, **OPTIONS)
    assert 1 <= len(_stored(tmp_path)) < 40


def test_a_cluster_without_workers_is_told(cluster, tmp_path, impatient):
    with pytest.raises(ResultsError, match=r"the cluster was lost.*dask worker ADDRESS"):
        run(_grid("full"), folder=tmp_path, scheduler=cluster.address, **OPTIONS)


def test_a_worker_that_runs_several_at_a_time_is_refused(cluster, tmp_path):
    cluster.add_worker(threads=2)
    with pytest.raises(ConfigError, match=r"2 at a time in one process.*--nthreads 1"):
        run(_grid("full"), folder=tmp_path, scheduler=cluster.address, **OPTIONS)


def test_a_worker_with_other_code_is_refused(shared, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "code_fingerprint", lambda probed=False: "of another day")
    with pytest.raises(ConfigError, match=r"worker tcp://.*not those of the process that asks"):
        run(_grid("full"), folder=tmp_path, scheduler=shared.address, **OPTIONS)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:{}", "127.0.0.1:{}", "carrier-pigeon://127.0.0.1:{}"])
def test_a_scheduler_that_does_not_answer_is_told_with_its_address(tmp_path, impatient, address):
    address = address.format(_free_port())
    with pytest.raises(ConfigError, match=f"scheduler {address}: no scheduler answered"):
        run(_grid("full"), folder=tmp_path, scheduler=address, **OPTIONS)


def test_without_dask_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match=r"pip install 'dwclib\[scale\]'"):
        run(_grid("full"), folder=tmp_path, scheduler="tcp://127.0.0.1:1", **OPTIONS)
