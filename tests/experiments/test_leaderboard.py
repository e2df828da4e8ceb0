"""The leaderboard: what stands on it is what the named rows say, paired with the rival of the same seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dwclib.data.synthfashion import synthfashion
from dwclib.errors import ConfigError, ResultsError
from dwclib.experiments import (
    ROWS,
    compare,
    gain_of,
    load,
    pack,
    quantity,
    read_grid,
    standings,
    verdict_of,
    wrong_by_chance,
)
from dwclib.experiments.leaderboard import MEASURES
from dwclib.experiments.quantities import read_quantities
from dwclib.experiments.rows import code_fingerprint
from dwclib.experiments.store import _path_of, _read_rows, _write_rows
from dwclib.retrieval import rank, share_in_top_k

NAMED = read_quantities()


def _row(cell, grid, rng):
    """Return a row as if its run had found its targets by chance."""
    streams = cell.config.model.streams
    streams = [*streams, "both"] if len(streams) > 1 else streams
    ranks = {s: rng.integers(1, 60, cell.config.data.val_queries).astype(np.uint16) for s in streams}
    found = {
        s: {"all": {f"R@{k}": float(100 * (r <= k).mean()) for k in (1, 10, 50)}} for s, r in ranks.items()
    }
    for metrics in found.values():
        metrics["all"] |= {"mAP@10": cell.seed + 1.0, "wrong@10": 60.0 - cell.seed}
    return {
        "variant": cell.variant, "setting": cell.setting, "seed": cell.seed, "metrics": found,
        "validation": dict.fromkeys(streams, 50.0), "seconds": 1.0, "device": "CPU", "versions": {},
        "date": "today", "code": code_fingerprint(cell.variant in grid.probed),
        "config": cell.config.model_dump(), "ranks": {s: pack(r) for s, r in ranks.items()},
    }  # fmt: skip


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Return a folder with a row for each run that the leaderboard names, of the smoke profile."""
    folder, rng = tmp_path_factory.mktemp("results"), np.random.default_rng(0)
    for name in {NAMED[row].grid for row in ROWS}:
        grid = read_grid(name, "smoke")
        rows = {cell.key: _row(cell, grid, rng) for cell in grid.cells()}
        _write_rows(_path_of(grid, folder), grid, rows)
    return folder


@pytest.fixture(scope="module")
def board(kept):
    return standings(over="both streams", profile="smoke", folder=kept)


def test_each_row_has_the_measures_of_its_quantity(kept, board):
    assert list(board) == list(ROWS)
    for name in ("sum", "both streams as released"):
        expected = {m: quantity(name, m, profile="smoke", folder=kept) for m in MEASURES}
        assert board[name].measures == expected
        assert board[name].seeds == 2


def test_each_row_is_paired_with_the_rival_and_corrected_for_all_rows(kept, board):
    def hits(name):
        found = load(read_grid(NAMED[name].grid, "smoke"), folder=kept)
        return found.hits(NAMED[name].variant, stream=NAMED[name].stream)

    rival = hits("both streams")
    gains = {name: gain_of(hits(name) - rival) for name in ROWS if name != "both streams"}
    assert board["both streams"].ahead is None
    assert {name: row.ahead for name, row in board.items() if row.ahead} == compare(gains)


def test_rows_of_two_schedules_do_not_stand_on_one_leaderboard(kept, tmp_path):
    for name in ("ablations-clip", "ablations-both"):
        grid = read_grid(name, "smoke")
        rows = _read_rows(_path_of(grid, kept), grid)
        if name == "ablations-both":
            longer = grid._replace(base=grid.base.but(training={"epochs": 9}))
            rows = {
                cell.key: {**rows[cell.key], "config": cell.config.model_dump()} for cell in longer.cells()
            }
        _write_rows(_path_of(grid, tmp_path), grid, rows)
    with pytest.raises(ResultsError, match="rows are missing"):
        standings(profile="smoke", folder=tmp_path)


def test_a_difference_that_a_claim_tests_has_the_claims_pages_verdict():
    board = standings()
    assert board["CLIP stream"].ahead == verdict_of("all against the sum, clip").found
    assert board["sum"].ahead is None


def test_a_rival_that_is_not_on_it_is_told(kept):
    with pytest.raises(ConfigError, match="no row of the leaderboard 'the mean'"):
        standings(over="the mean", profile="smoke", folder=kept)


def test_chance_is_the_share_of_a_whole_ranking_without_the_reference():
    world = synthfashion("val", images=60, queries=40)
    references = torch.from_numpy(world.gallery_position(world.references))
    assert (references >= 0).any()
    whole = rank(torch.rand(40, 4), torch.rand(60, 4), k=59, exclude=references)
    expected = share_in_top_k(whole, torch.from_numpy(world.excluded()), k=59)
    np.testing.assert_allclose(wrong_by_chance(world), expected)
