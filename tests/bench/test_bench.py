"""The benchmark measures what it says; nothing here looks at how long anything takes."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from compared import BENCHMARKS
from workload import QUICK, WAYS

from dwclib.errors import ResultsError
from dwclib.experiments.benchmarks import benchmarks, keep_benchmark
from dwclib.experiments.machine import peak_memory, stamp

HERE = Path(__file__).parent


def _bench(folder: Path, *names: str) -> subprocess.CompletedProcess[str]:
    command = ["-m", "pytest", "-p", "no:cacheprovider", str(HERE / "compared.py"), "--confcutdir", str(HERE)]
    options = ["--quick", "--device", "cpu", "--folder", str(folder), *(f"--only={name}" for name in names)]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    return subprocess.run(
        [sys.executable, *command, *options], env=alone, capture_output=True, text=True, check=False
    )  # in a process that xdist has started, pytest-benchmark would time nothing


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmarks")
    done = _bench(folder, "step", "ranking", "memory", "throughput", "search")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step: our step / two ResNet passes = " in done.stdout
    return folder


@pytest.fixture(scope="module")
def results(folder):
    return next(iter(benchmarks(folder).values()))


def test_the_schedules_run_the_networks_as_often_as_the_book_says(results):
    passes = results["step"]["facts"]["passes in a step"]
    assert list(passes["released schedule"].values()) == [4, 5, 3]
    assert list(passes["our step"].values()) == [2, 0, 0]


def test_every_ratio_of_two_ways_follows_from_the_stored_seconds(results):
    for name in ("step", "ranking", "search"):
        assert results[name]["ratios"]
        for what, ratio in results[name]["ratios"].items():
            above, below = (statistics.median(results[name]["seconds"][way]) for way in what.split(" / "))
            assert ratio == pytest.approx(above / below)


def test_every_way_and_round_is_kept_with_device_versions_and_date(results):
    for name, found in results.items():
        assert set(found["seconds"]) == set(BENCHMARKS[name].ways)
        assert {len(seconds) for seconds in found["seconds"].values()} <= {QUICK.rounds}
        assert found["device"] == stamp("cpu")["device"]
        assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
        assert found["date"].endswith("UTC")


def test_the_benchmarked_ranking_is_a_full_sort(results):
    assert results["ranking"]["facts"]["same as a full sort"] is True


def test_memory_of_a_step_grows_with_the_batch(results):
    found = results["memory"]["facts"]
    assert found["peak of the step, MB"] == sorted(found["peak of the step, MB"])
    assert found["MB per triplet"] > 0


def test_the_mirrored_batches_of_the_throughput_are_whole_steps(results):
    found = results["throughput"]
    assert found["facts"]["steps"] == 4
    median = statistics.median(found["seconds"]["epoch"])
    assert found["facts"]["triplets/s"] == pytest.approx(4 * QUICK.large_batch / median)


def test_every_size_is_searched_every_way_and_milvus_is_compared_with_the_exact_search(results):
    rows = results["search"]["facts"]["rows"]
    expected = [(size, way) for size in QUICK.galleries for way in WAYS]
    assert [(row["gallery"], row["way"]) for row in rows] == expected
    recall = {row["way"]: row["recall@10, %"] for row in rows}
    assert recall["exact"] == 100
    assert recall["FLAT"] > 99  # ties and rounding may swap two
    assert 50 < recall["IVF_FLAT"] <= 100


def test_running_one_benchmark_again_leaves_the_others(folder, results):
    assert _bench(folder, "store").returncode == 0
    after = next(iter(benchmarks(folder).values()))
    assert {name: after[name] for name in results} == results
    assert set(after) == {*results, "store"}


def test_an_unknown_benchmark_is_told(tmp_path):
    assert "there is no benchmark 'speed'; use step, settings" in _bench(tmp_path, "speed").stdout


@pytest.mark.parametrize("damage", ['{"step": ', "[]", '{"checksum": "0"}', '{"checksum": "0", "step": 3}'])
def test_a_damaged_file_is_told(tmp_path, damage):
    (tmp_path / "cpu.json").write_text(damage)
    with pytest.raises(ResultsError, match=r"cpu\.json: it (is damaged|cannot be read)"):
        benchmarks(tmp_path)


def test_a_number_that_was_changed_by_hand_is_told(tmp_path):
    path = tmp_path / "cpu.json"
    found = {"seconds": {"a": [1.0]}, "ratios": {}, "facts": {}, **stamp("cpu"), "took": 1.0}
    keep_benchmark(path, "step", found)
    keep_benchmark(path, "store", found)
    assert benchmarks(tmp_path) == {"cpu": {"step": found, "store": found}}
    path.write_text(path.read_text().replace('"took": 1.0', '"took": 2.0', 1))
    with pytest.raises(ResultsError, match="another checksum"):
        benchmarks(tmp_path)


def _hold(megabytes):
    kept = torch.ones(megabytes, 250_000)
    return peak_memory()["cpu"], len(kept)


def test_peak_memory_counts_what_was_held_and_let_go():
    before = peak_memory()["cpu"]
    _hold(int(1000 * before) + 300)
    assert peak_memory()["cpu"] > before + 0.25


def test_stored_benchmarks_of_the_book_are_known_and_those_of_a_cpu_complete():
    stored = benchmarks()
    assert stored
    for machine, entries in stored.items():
        device = "cpu" if machine.startswith("cpu") else "cuda"  # a GPU's time may end before the last one
        known = {name for name, one in BENCHMARKS.items() if one.only_on in ("", device)}
        assert set(entries) == known if device == "cpu" else set(entries) <= known
