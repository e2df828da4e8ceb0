"""The rows that the book brings along are those of its grids, and the trained runs those of their rows."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from dwclib.errors import ConfigError
from dwclib.experiments import compute_row, load, publish, read_grid, rows
from dwclib.experiments.grid import grid_names
from dwclib.experiments.results import key_of
from dwclib.experiments.store import FOLDER, missing
from dwclib.training import runs
from dwclib.training.runs import SHIPPED, Run, open_run, shared_run

PUBLISHED = {
    (grid.name, variant): SHIPPED / f"{grid.name}-{variant.replace(' ', '-')}"
    for grid in (read_grid(name, "laptop") for name in ("ablations-clip", "ablations-both"))
    for variant in grid.probed
}


@pytest.mark.parametrize("name", grid_names())
def test_the_stored_rows_are_those_of_the_grid_made_by_todays_code(name):
    grid = read_grid(name, "laptop")
    stored = json.loads((FOLDER / name / "laptop.json").read_text())["rows"]
    assert {key_of(row) for row in stored} == {cell.key for cell in grid.cells()}
    assert missing(grid) == []


def test_two_grids_that_train_the_same_run_have_the_same_ranks():
    ranks: dict[str, list[dict[str, str]]] = {}
    for name in grid_names():
        for row in load(read_grid(name, "laptop")).rows:
            run = json.dumps([row["config"], row["device"], row["versions"]], sort_keys=True)
            ranks.setdefault(run, []).append(row["ranks"])
    twice = [found for found in ranks.values() if len(found) > 1]
    assert len(twice) > 10
    assert all(found == twins[0] for twins in twice for found in twins)


@pytest.mark.parametrize(("grid", "variant"), PUBLISHED)
def test_a_run_finds_what_its_row_says_and_begins_as_it_did(grid, variant, tmp_path):
    declared = read_grid(grid, "laptop").only(variants=[variant])
    row = load(declared).row(variant, "default", 0)
    run = shared_run(declared.cells()[0].config, device="cpu")
    assert run.folder == PUBLISHED[grid, variant]
    found = {stream: recalls[10] for stream, recalls in run.recall().items()}
    stored = {stream: metrics["all"]["R@10"] for stream, metrics in row["metrics"].items()}
    assert found == pytest.approx(stored, abs=0.5)  # to the bit by the versions and processor of the row
    losses = [f"loss_{stream}" for stream in run.model.streams]
    begun = Run(run.config, tmp_path, device="cpu").train(stop_after=2, progress=False)
    np.testing.assert_allclose(begun.log[losses], run.log[losses].head(2), rtol=1e-3)


def test_a_run_of_another_length_is_another_run():
    config = read_grid("ablations-clip", "laptop").only(variants=["full"]).cells()[0].config
    longer = config.but(training={"epochs": config.training.epochs + 1})
    assert shared_run(longer, device="cpu", progress=False).folder.parent != SHIPPED


def test_they_are_small_enough_for_git_and_none_is_left_over():
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*.*")) < 12e6
    assert {path for path in SHIPPED.iterdir() if path.is_dir()} == set(PUBLISHED.values())


def test_weights_of_another_configuration_are_refused(tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(PUBLISHED["ablations-clip", "full"], folder)
    config = json.loads((folder / "config.json").read_text())
    config["training"]["alpha"] = 0.3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"training\.alpha"):
        open_run(folder, device="cpu")


def test_the_first_run_of_a_probed_variant_is_kept_and_published(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "kept_folder", lambda cell: tmp_path / "kept" / cell.variant)
    monkeypatch.setattr(runs, "SHIPPED", tmp_path / "runs")
    grid = read_grid("ablations-clip", "smoke").only(variants=["full", "sum"])
    assert publish(grid) == []  # nothing is trained yet
    row = compute_row(grid.cells()[0], True, "cpu")
    (folder,) = publish(grid)
    found = shared_run(grid.cells()[0].config, device="cpu")
    assert found.folder == folder
    assert round(found.recall()["clip"][10], 3) == row["metrics"]["clip"]["all"]["R@10"]
