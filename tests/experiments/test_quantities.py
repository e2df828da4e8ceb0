"""Headline quantities: a name is one number, read from stored rows."""

from __future__ import annotations

import numpy as np
import pytest

from dwclib.errors import ConfigError, ResultsError
from dwclib.experiments import load, quantity, read_grid, row_of
from dwclib.experiments.quantities import read_quantities
from dwclib.training.config import parse_config

NAMED = read_quantities()


@pytest.mark.parametrize("name", NAMED)
def test_a_quantity_is_the_mean_of_its_rows(name):
    known = NAMED[name]
    rows = load(read_grid(known.grid, "laptop")).runs_of(known.variant, known.setting)
    kept = [row["metrics"][known.stream]["all"]["R@10"] for row in rows]
    found = quantity(name, "R@10")
    assert found.mean == pytest.approx(np.mean(kept), abs=1e-3)
    assert found.low < found.mean < found.high


@pytest.mark.parametrize(
    ("name", "measure", "told"),
    [("clip streem", "R@10", "no quantity 'clip streem'"), ("CLIP stream", "R@7", "no measure 'R@7'")],
)
def test_what_no_row_has_is_told(name, measure, told):
    with pytest.raises(ConfigError, match=told):
        quantity(name, measure)


def test_a_missing_row_is_told(tmp_path):
    with pytest.raises(ResultsError, match="rows are missing"):
        quantity("CLIP stream", "R@10", folder=tmp_path)


def test_a_damaged_declaration_is_told(tmp_path):
    (tmp_path / "named.yml").write_text("CLIP stream: {grid: noise, variant: full, stream: ear}")
    with pytest.raises(ConfigError, match=r"damaged at 'CLIP stream\.stream'"):
        quantity("CLIP stream", "R@10", path=tmp_path / "named.yml")


def test_a_configuration_has_the_stored_row_of_its_seed_and_another_one_has_none():
    known = NAMED["CLIP stream"]
    row = load(read_grid(known.grid, "laptop")).runs_of(known.variant, known.setting)[1]
    config = parse_config(row["config"], "row")
    assert row_of("CLIP stream", config) == row
    with pytest.raises(ConfigError, match=r"no row of 'CLIP stream' has this .*: training\.epochs differ"):
        row_of("CLIP stream", config.but(training={"epochs": config.training.epochs + 1}))
    with pytest.raises(ConfigError, match=r"training\.seed differ"):
        row_of("CLIP stream", config.but(training={"seed": 999}))
