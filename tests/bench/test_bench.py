"""The benchmark measures what it says; nothing here looks at how long anything takes."""

from __future__ import annotations

import json
import statistics

import pytest
import torch

from dwclib import bench
from dwclib.__main__ import main
from dwclib.errors import ConfigError
from dwclib.experiments.machine import peak_memory, stamp


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmarks")
    return bench.run(only=["step", "ranking"], quick=True, device="cpu", folder=folder)


def test_the_schedules_run_the_networks_as_often_as_the_book_says(results):
    passes = bench.read(results)["step"]["facts"]["passes in a step"]
    assert list(passes["released schedule"].values()) == [4, 5, 3]
    assert list(passes["our step"].values()) == [2, 0, 0]


def test_every_ratio_follows_from_the_stored_seconds(results):
    for entry in bench.read(results).values():
        for what, ratio in entry["ratios"].items():
            above, below = (statistics.median(entry["seconds"][name]) for name in what.split(" / "))
            assert ratio == pytest.approx(above / below)


def test_every_round_is_kept_with_device_versions_and_date(results):
    for entry in bench.read(results).values():
        assert {len(seconds) for seconds in entry["seconds"].values()} == {bench.QUICK.rounds}
        assert entry["device"] == stamp("cpu")["device"]
        assert entry["versions"]["torch"] == torch.__version__.partition("+")[0]
        assert entry["date"].endswith("UTC")


def test_the_benchmarked_ranking_is_a_full_sort(results):
    assert bench.read(results)["ranking"]["facts"]["same as a full sort"] is True


def test_running_one_benchmark_again_leaves_the_others(results, capsys):
    before = bench.read(results)
    bench.run(only=["store"], quick=True, device="cpu", folder=results.parent)
    after = bench.read(results)
    assert {name: after[name] for name in before} == before
    assert set(after) == {*before, "store"}
    assert "store: store images/s / decoded images/s" in capsys.readouterr().out


def test_actions_take_turns_after_one_untimed_round():
    called = []
    seconds = bench.in_turn({name: lambda name=name: called.append(name) for name in "ab"}, rounds=2)
    assert called == ["a", "b"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_memory_of_a_step_grows_with_the_batch():
    found = bench.bench_memory(bench.QUICK, "cpu").facts
    assert found["peak of the step, MB"] == sorted(found["peak of the step, MB"])
    assert found["MB per triplet"] > 0


def _hold(megabytes):
    kept = torch.ones(megabytes, 250_000)
    return peak_memory()["cpu"], len(kept)


def test_peak_memory_counts_what_was_held_and_let_go():
    before = peak_memory()["cpu"]
    _hold(int(1000 * before) + 300)
    assert peak_memory()["cpu"] > before + 0.25


def test_the_mirrored_batches_of_the_throughput_are_whole_steps():
    found = bench.bench_throughput(bench.QUICK, "cpu")
    assert found.facts["steps"] == 4
    assert found.facts["triplets/s"] == pytest.approx(
        4 * bench.QUICK.large_batch / statistics.median(found.seconds["epoch"])
    )


def test_every_size_is_searched_every_way_and_milvus_is_compared_with_the_exact_search():
    found = bench.bench_search(bench.QUICK, "cpu")
    rows = found.facts["rows"]
    assert [(row["gallery"], row["way"]) for row in rows] == [
        (size, way) for size in bench.QUICK.galleries for way in bench.WAYS
    ]
    recall = {row["way"]: row["recall@10, %"] for row in rows}
    assert recall["exact"] == 100
    assert recall["FLAT"] > 99  # ties and rounding may swap two
    assert 50 < recall["IVF_FLAT"] <= 100
    assert found.ratios["exact search / bare product"] == bench.quotient(
        found.seconds, "exact search", "bare product"
    )


def test_an_unknown_benchmark_and_a_damaged_file_are_told(tmp_path, capsys):
    assert main(["bench", "--only", "speed", "--folder", str(tmp_path)]) == 2
    assert "there is no benchmark 'speed'" in capsys.readouterr().err
    damaged = tmp_path / "cpu.json"
    damaged.write_text('{"step": ')
    with pytest.raises(ConfigError, match="cannot be read"):
        bench.read(damaged)


def test_stored_benchmarks_of_the_book_are_complete():
    files = sorted(bench.FOLDER.glob("*.json"))
    assert files
    for path in files:
        entries = json.loads(path.read_text())
        device = "cpu" if path.name.startswith("cpu") else "cuda"
        assert set(entries) >= {n for n in bench.BENCHMARKS if bench.ON_ONE_DEVICE.get(n, device) == device}
        assert all({"device", "versions", "date", "took"} <= set(entry) for entry in entries.values())
