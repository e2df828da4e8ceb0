"""Run what `compared` lists by pytest-benchmark, and keep it: ``make bench``.

    python -m pytest tests/bench/compared.py --confcutdir tests/bench
        [--only NAME]... [--device cpu|cuda] [--quick] [--folder DIR]

The other conftest, which checks every shape at a cost, stays out of it.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from workload import QUICK, Sizes

from dwclib.experiments import machine
from dwclib.experiments.benchmarks import BENCHMARKS as FOLDER
from dwclib.experiments.benchmarks import keep_benchmark
from dwclib.training.single import seed_everything

SAID = pytest.StashKey[list[str]]()


def pytest_addoption(parser):
    group = parser.getgroup("the book's benchmark")
    group.addoption("--only", action="append", help="only this one; the file keeps the others")
    group.addoption("--device", choices=("cpu", "cuda"), help="a GPU where there is one, by default")
    group.addoption("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    group.addoption("--folder", type=Path, default=FOLDER, help="data/results/benchmarks by default")


def pytest_generate_tests(metafunc):
    if "compared" in metafunc.fixturenames:
        listed, chosen = metafunc.module.BENCHMARKS, metafunc.config.getoption("--only")
        if unknown := sorted(set(chosen or ()) - set(listed)):
            raise pytest.UsageError(f"there is no benchmark {unknown[0]!r}; use {', '.join(listed)}")
        here = _device(metafunc.config)
        names = chosen or [name for name, one in listed.items() if one.only_on in ("", here)]
        ways = [(name, way) for name in names for way in listed[name].ways or (None,)]
        ids = [f"{name}: {way or 'all'}" for name, way in ways]
        metafunc.parametrize(("compared", "way"), ways, indirect=["compared"], ids=ids, scope="module")


def _device(config):
    return config.getoption("--device") or ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="module")
def device(request):
    return _device(request.config)


@pytest.fixture(scope="module")
def compared(request, device):
    """Prepare one benchmark, let its ways be timed, and put what was found into this machine's file."""
    quick, listed = request.config.getoption("--quick"), request.module.BENCHMARKS
    sizes = QUICK if quick else Sizes()
    seed_everything(0)
    found, start = request.module.Compared(sizes.rounds), time.perf_counter()
    with contextmanager(listed[request.param].prepare)(found, sizes, device):
        yield found
    row = {"seconds": found.seconds, "ratios": found.ratios, "facts": found.facts, **machine.stamp(device)}
    row["took"] = round(time.perf_counter() - start, 1)
    kind = "-".join(machine.device_name(device).lower().replace(",", "").split())  # such as cpu-2-cores
    path = request.config.getoption("--folder") / f"{kind}{'-quick' if quick else ''}.json"
    keep_benchmark(path, request.param, row)
    said = request.config.stash.setdefault(SAID, [])
    said += [f"{request.param}: {what} = {value:.2f}" for what, value in found.ratios.items()]


def pytest_terminal_summary(terminalreporter, config):
    for line in config.stash.get(SAID, []):
        terminalreporter.write_line(line)
