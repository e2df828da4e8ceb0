"""Rows are compared only where they differ in what their variants name."""

from __future__ import annotations

import numpy as np
import pytest

from dwclib.errors import ConfigError
from dwclib.experiments import Grid, Results, crossed_interval, differing, gain_of, mean_interval, pack
from dwclib.training.config import read_recipe

BASE = read_recipe("synthfashion-smoke")
GRID = Grid(
    "toy",
    "smoke",
    BASE,
    {"full": {}, "hard labels": {"training": {"alpha": 0.0}}},
    {"clean": {}, "noisy": {"train_dials": {"noise": 0.5}}},
    3,
)


def _results(grid: Grid) -> Results:
    """Return rows as if the grid had run: each stream finds its targets by chance."""
    rng, rows = np.random.default_rng(len(grid.name)), []
    for cell in grid.cells():
        ranks = {stream: rng.integers(1, 30, 40).astype(np.uint16) for stream in ("clip", "cnn")}
        metrics = {
            stream: {"all": {"R@10": 100 * (found <= 10).mean(), "mAP@10": float(cell.seed)}}
            for stream, found in ranks.items()
        }
        packed = {stream: pack(found) for stream, found in ranks.items()}
        row = {"variant": cell.variant, "setting": cell.setting, "seed": cell.seed, "device": "CPU, 2 cores"}
        rows.append({**row, "config": cell.config.model_dump(), "ranks": packed, "metrics": metrics})
    return Results(grid, rows)


def test_variants_that_differ_in_what_they_name_are_compared():
    found = _results(GRID)
    hits = [found.hits(name, "noisy", stream="cnn") for name in ("full", "hard labels")]
    assert found.gain("full", "hard labels", "noisy", stream="cnn") == gain_of(hits[0] - hits[1])
    by_dial = found.hits("full", "noisy") - found.hits("full")
    np.testing.assert_array_equal(found.ahead("full", "full", "noisy", over_setting="clean"), by_dial)
    by_stream = found.hits("full", stream="cnn") - found.hits("full", stream="clip")
    np.testing.assert_array_equal(found.ahead("full", "full", stream="cnn", over_stream="clip"), by_stream)


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"training": {"epochs": 9}}, "training.epochs too"), ({"data": {"val_queries": 50}}, "data.val_queri"),
     ({"model": {"dim": 64}, "training": {"batch": 16}}, "model.dim, training.batch too")],
)  # fmt: skip
def test_rows_of_two_recipes_are_not_compared(changes, told):
    other = _results(GRID._replace(name="other", base=BASE.but(**changes)))
    with pytest.raises(ConfigError, match=f"grid toy and grid other: 'full' and 'hard labels' .*{told}"):
        _results(GRID).gain("full", "hard labels", of=other)


def test_what_the_variants_of_two_grids_name_may_differ_and_common_seeds_are_paired():
    variants = {"one stream": {"model": {"streams": ["clip"]}}}
    other = _results(GRID._replace(name="other", variants=variants, seeds=2))
    found = _results(GRID)
    pairs = found.pairs("hard labels", "one stream", of=other)
    assert [(row["variant"], rival["variant"], row["seed"], rival["seed"]) for row, rival in pairs] == [
        ("hard labels", "one stream", seed, seed) for seed in (0, 1)
    ]
    expected = found.hits("hard labels")[:2] - other.hits("one stream")
    np.testing.assert_array_equal(found.ahead("hard labels", "one stream", of=other), expected)


def test_one_stream_is_compared_with_both_only_where_the_comparison_names_the_streams():
    base = BASE.but(model={"streams": ["clip"]})
    alone = _results(GRID._replace(name="alone", base=base))
    found = _results(GRID)
    expected = found.hits("full", stream="cnn") - alone.hits("full")
    named = {"stream": "cnn", "over_stream": "clip", "of": alone}
    np.testing.assert_array_equal(found.ahead("full", "full", **named), expected)
    with pytest.raises(ConfigError, match=r"model\.streams too"):
        found.ahead("full", "full", of=alone)


@pytest.mark.parametrize(("section", "key", "value"), [("training", "seed", 7), ("training", "epochs", 9)])
def test_a_stored_row_of_another_seed_or_configuration_is_not_compared(section, key, value):
    seeded = {**GRID.variants, "full": {"training": {"seed": 5}}}
    found = _results(GRID._replace(variants=seeded))
    found.rows[0]["config"][section][key] = value
    with pytest.raises(ConfigError, match=f"{section}.{key} too"):
        found.pairs("full", "hard labels")


def test_a_run_of_a_gpu_is_compared_with_a_cpus_only_where_the_comparison_names_the_streams():
    found = _results(GRID)
    found.rows[0]["device"] = "CPU, 16 cores"
    found.pairs("full", "hard labels")
    found.rows[0]["device"] = "NVIDIA H200"
    with pytest.raises(ConfigError, match="'full' and 'hard labels' differ in device too"):
        found.gain("full", "hard labels")
    assert found.ahead("full", "hard labels", stream="clip", over_stream="cnn").shape == (3, 40)


def test_keys_that_differ_are_named():
    assert differing(BASE, BASE) == []
    other = BASE.but(training={"alpha": 0.5}, data={"dials": {"noise": 0.1}})
    assert differing(BASE, other) == ["data.dials", "training.alpha"]


def test_the_value_of_a_measure_is_over_seeds_and_that_of_a_recall_over_queries_too():
    found = _results(GRID)
    assert found.value("full", "mAP@10", "noisy", stream="cnn") == mean_interval([0.0, 1.0, 2.0])
    assert found.value("full", "R@10") == crossed_interval(found.hits("full")) == found.recall("full")
    for options in ({"measure": "R@11"}, {"measure": "R@10", "stream": "ear"}):
        with pytest.raises(ConfigError, match=r"no measure 'R@11'|no stream 'ear'"):
            found.value("full", **options)
