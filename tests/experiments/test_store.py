"""Experiments: no row is lost, doubled, or shown when it is stale; and statistics keep their word."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from filelock import FileLock

from dwclib import experiments as package
from dwclib.__main__ import main
from dwclib.data.synthfashion import synthfashion
from dwclib.errors import ConfigError, ResultsError
from dwclib.experiments import (
    GRIDS,
    Grid,
    Interval,
    compare,
    crossed_interval,
    detectable,
    gain_of,
    grid_names,
    holm,
    load,
    mean_gain,
    mean_interval,
    pack,
    query_groups,
    read_grid,
    run,
    unpack,
    verdict,
    verify,
)
from dwclib.experiments import store as experiments
from dwclib.experiments.results import differing, key_of
from dwclib.training.config import read_recipe

DECLARED = {
    "profiles": {"smoke": {"recipe": "synthfashion-smoke", "seeds": 2}},
    "changes": {"model": {"streams": ["clip"]}},
    "variants": {"full": {}, "hard labels": {"training": {"alpha": 0.0}}},
    "settings": {"clean": {}, "noisy": {"train_dials": {"noise": 0.5, "noise_kind": "mismatched target"}}},
    "probed": ["full"],
}


def _declare(folder: Path, **changes) -> Grid:
    (folder / "toy.yml").write_text(yaml.safe_dump({**DECLARED, **changes}))
    return read_grid("toy", "smoke", folder=folder)


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> tuple[Grid, Path]:
    """Run a grid once."""
    folder = tmp_path_factory.mktemp("grid")
    grid = _declare(folder)
    run(grid, folder=folder, jobs=2, device="cpu", progress=False)
    return grid, folder


def _copy(stored: tuple[Grid, Path], tmp_path: Path) -> tuple[Grid, Path, Path]:
    grid, folder = stored
    path = tmp_path / "toy" / "smoke.json"
    path.parent.mkdir()
    path.write_bytes((folder / "toy" / "smoke.json").read_bytes())
    return grid, tmp_path, path


def _rewrite(path: Path, grid: Grid, rows: list[dict]) -> None:
    """Write rows as if they had been computed so."""
    experiments._write_rows(path, grid, {key_of(row): row for row in rows})


def test_a_grid_is_every_variant_in_every_setting_from_every_seed(stored):
    grid, folder = stored
    found = load(grid, folder=folder)
    assert len(found.rows) == 2 * 2 * 2
    assert [row["seed"] for row in found.runs_of("full")] == [0, 1]
    for cell in grid.cells():
        row = found.row(cell.variant, cell.setting, cell.seed)
        assert row["config"] == cell.config.model_dump()
        assert (row["config"]["training"]["alpha"] == 0.0) == (cell.variant == "hard labels")
        assert bool(row["config"]["data"]["train_dials"]) == (cell.setting == "noisy")
        assert row["seconds"] > 0
        assert row["device"]
        assert row["versions"]["torch"]
        assert ("probes" in row) == (cell.variant == "full")


def test_metrics_are_those_of_the_ranks_that_are_kept(stored):
    grid, folder = stored
    found = load(grid, folder=folder)
    row = found.row("full", "clean", 1)
    ranks = unpack(row["ranks"]["clip"])
    assert len(ranks) == len(found.dataset)
    assert ranks.min() >= 1
    for name, members in found.groups.items():
        for k in (1, 10, 50):
            expected = 100 * np.mean(ranks[members] <= k)
            assert row["metrics"]["clip"][name][f"R@{k}"] == pytest.approx(expected, abs=1e-3)
    by_seed = found.hits("full", "clean").mean(axis=1)
    kept = [row["metrics"]["clip"]["all"]["R@10"] for row in found.runs_of("full", "clean")]
    np.testing.assert_allclose(by_seed, kept, atol=1e-3)
    weights = unpack(row["weights"]["clip"])
    assert len(weights) == len(ranks)
    assert ((weights > 0) & (weights < 1)).all()


def test_probes_begin_with_no_damage(stored):
    grid, folder = stored
    for row in load(grid, folder=folder).runs_of("full"):
        kinds = row["probes"]["clip"]
        assert set(kinds) == {"hidden", "blurred", "cut"}
        assert len({(levels[0]["R@10"], levels[0]["weight"]) for levels in kinds.values()}) == 1
        assert all(len({level["weight"] for level in levels}) > 1 for levels in kinds.values())


def test_rows_do_not_depend_on_how_many_run_at_a_time(stored, tmp_path):
    grid, folder = stored
    small = grid.only(variants=["hard labels"], settings=["clean"])
    alone = run(small, folder=tmp_path, jobs=1, device="cpu", progress=False)
    beside = load(grid, folder=folder)
    for row in alone.rows:
        other = beside.row(row["variant"], row["setting"], row["seed"])
        assert row["ranks"] == other["ranks"]
        assert row["metrics"] == other["metrics"]


def test_only_what_is_missing_or_stale_is_computed(stored, tmp_path):
    grid, folder, path = _copy(stored, tmp_path)
    content = json.loads(path.read_text())
    content["rows"][0]["code"] = "of another day"
    del content["rows"][3]
    _rewrite(path, grid, content["rows"])
    with pytest.raises(ResultsError, match="1 of 8 rows are missing"):
        load(grid, folder=folder)
    before = {key_of(row): row for row in content["rows"]}
    found = run(grid, folder=folder, jobs=1, device="cpu", progress=False)
    assert not found.stale
    same = [row for row in found.rows if before.get(key_of(row)) == row]
    assert len(same) == 6
    assert len(json.loads(path.read_text())["rows"]) == 8


def test_rows_from_before_a_change_of_the_code_are_shown_with_a_warning(stored, tmp_path):
    grid, folder, path = _copy(stored, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not load(grid, folder=folder).stale
    rows = json.loads(path.read_text())["rows"]
    rows[0]["code"] = "of another day"
    _rewrite(path, grid, rows)
    with pytest.warns(UserWarning, match="1 of 8 rows are from before the code changed"):
        assert len(load(grid, folder=folder).stale) == 1


def test_a_changed_configuration_makes_its_rows_missing(stored, tmp_path):
    _, folder, _ = _copy(stored, tmp_path)
    grid = _declare(tmp_path, variants={"full": {}, "hard labels": {"training": {"alpha": 0.01}}})
    with pytest.raises(ResultsError, match="4 of 8 rows are missing"):
        load(grid, folder=folder)


def test_rows_outlive_a_new_key_of_the_configuration(stored, tmp_path):
    grid, folder, path = _copy(stored, tmp_path)
    content = json.loads(path.read_text())
    for row in content["rows"]:  # as if they had been computed before there were these keys
        assert not row["config"]["training"].pop("flip")
        del row["config"]["model"]["cnn_weights"]
    _rewrite(path, grid, content["rows"])
    assert len(load(grid, folder=folder).rows) == 8
    content["rows"][0]["config"]["training"]["flip"] = True
    _rewrite(path, grid, content["rows"])
    with pytest.raises(ResultsError, match="1 of 8 rows are missing"):
        load(grid, folder=folder)


def _age(path: Path, grid: Grid, chosen: Callable[[dict], bool], **changes) -> list[dict]:
    """Make stored rows those of older code, changed further in other ways."""
    content = json.loads(path.read_text())
    for row in filter(chosen, content["rows"]):
        row.update(code="of another day", **changes)
    _rewrite(path, grid, content["rows"])
    return content["rows"]


def _rows(path: Path) -> dict[tuple, dict]:
    return {key_of(row): row for row in json.loads(path.read_text())["rows"]}


def _hard(row: dict) -> bool:
    return row["variant"] == "hard labels"


def test_rows_of_older_code_are_kept_when_a_sample_of_them_is_equal(stored, tmp_path):
    grid, folder, path = _copy(stored, tmp_path)
    _age(path, grid, _hard)
    before = _rows(path)
    assert verify(grid, sample=2, folder=folder, jobs=1, progress=False) == (2, 4)
    assert not load(grid, folder=folder).stale
    fresh, stamped = [], []
    for key, row in _rows(path).items():
        if not _hard(row):
            assert row == before[key]
        elif "verified" in row:
            stamped.append(row)
            assert row["verified"].pop("date").endswith("UTC")
            assert row["verified"] == {"computed_by": "of another day", "checked": 2, "of": 4}
            assert row["code"] == experiments.code_fingerprint()
            assert {**row, "code": "of another day"} == {**before[key], "verified": row["verified"]}
        else:
            fresh.append(row)
    assert {row["setting"] for row in fresh} == {"clean", "noisy"}
    assert len(stamped) == len(fresh) == 2
    assert verify(grid, sample=2, folder=folder, jobs=1, progress=False) == (0, 0)


def test_what_was_kept_twice_still_tells_which_code_computed_it(stored, tmp_path):
    grid, folder, path = _copy(stored, tmp_path)
    _age(path, grid, _hard, verified={"computed_by": "the first", "checked": 1, "of": 9, "date": "long ago"})
    verify(grid, sample=1, folder=folder, jobs=1, progress=False)
    notes = [row["verified"] for row in _rows(path).values() if "verified" in row]
    assert [(note["computed_by"], note["checked"], note["of"]) for note in notes] == [("the first", 1, 4)] * 3


def _other_ranks(row: dict) -> None:
    ranks = unpack(row["ranks"]["clip"]).copy()
    ranks[7] += 1
    row["ranks"]["clip"] = pack(ranks)


def _other_validation(row: dict) -> None:
    row["validation"]["clip"] += 1e-9


def _other_gaps(row: dict) -> None:
    row["gaps"] = {"clip": {"image and text": 0.5}}


@pytest.mark.parametrize("tamper", [_other_ranks, _other_validation, _other_gaps])
def test_no_row_is_kept_when_one_of_the_sample_differs(stored, tmp_path, tamper):
    grid, folder, path = _copy(stored, tmp_path)
    rows = _age(path, grid, _hard)
    key = "hard labels", "noisy", 1
    tamper(next(row for row in rows if key_of(row) == key))
    _rewrite(path, grid, rows)
    before = path.read_bytes()
    with pytest.raises(
        ResultsError, match=r"1 of 4 rows .* 'hard labels' in 'noisy' from seed 1.*Compute all anew"
    ):
        verify(grid, sample=9, folder=folder, jobs=1, progress=False)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "changes",
    [{"device": "NVIDIA H100 80GB HBM3"}, {"versions": {"python": "3.11.7", "torch": "1.0"}}, {"config": {}}],
)
def test_rows_that_are_stale_for_another_reason_are_left(stored, tmp_path, changes):
    grid, folder, path = _copy(stored, tmp_path)
    _age(path, grid, _hard, **changes)
    before = path.read_bytes()
    assert verify(grid, sample=4, folder=folder, jobs=1, progress=False) == (0, 0)
    assert path.read_bytes() == before


def test_each_variant_and_setting_is_drawn_once_before_any_is_drawn_twice(stored):
    grid, folder = stored
    rows = {key_of(row): row for row in load(grid, folder=folder).rows}
    draws = set()
    for seed in range(20):
        drawn = experiments._draw(grid.cells(), rows, grid, sample=6, seed=seed)
        kinds = [(cell.variant, cell.setting) for cell in drawn]
        assert set(kinds[:2]) == {("full", "clean"), ("full", "noisy")}
        assert set(kinds[2:4]) == {("hard labels", "clean"), ("hard labels", "noisy")}
        assert set(kinds[4:]) == set(kinds[:2])
        assert len({cell.key for cell in drawn}) == 6
        draws.add(tuple(cell.key for cell in drawn))
    assert len(draws) > 5


def test_a_sample_of_no_row_is_refused(stored):
    grid, folder = stored
    with pytest.raises(ConfigError, match="a sample of 0 rows shows nothing"):
        verify(grid, sample=0, folder=folder)


def test_the_command_line_verifies(stored, tmp_path, monkeypatch, capsys):
    grid, folder, path = _copy(stored, tmp_path)
    _age(path, grid, _hard)
    monkeypatch.setattr(package, "read_grid", lambda name, profile: grid)
    monkeypatch.setattr(package, "verify", partial(verify, folder=folder, progress=False))
    assert main(["experiment", "toy", "--verify", "1", "--jobs", "1"]) == 0
    assert capsys.readouterr().out == "toy: 1 rows computed anew and equal, 4 rows are fresh by that\n"
    assert not load(grid, folder=folder).stale


def test_a_killed_experiment_loses_no_row_and_goes_on(tmp_path):
    grid = _declare(tmp_path, settings={"clean": {}}, probed=[])
    path = tmp_path / "toy" / "smoke.json"
    program = (
        "from pathlib import Path; from dwclib.experiments import read_grid, run; "
        f"f = Path({str(tmp_path)!r}); "
        "run(read_grid('toy', 'smoke', folder=f), folder=f, jobs=1, device='cpu')"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)
    deadline = time.time() + 300
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.time() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    rows = json.loads(path.read_text())["rows"]
    assert 1 <= len(rows) <= 4
    found = run(grid, folder=tmp_path, jobs=1, device="cpu", progress=False)
    assert len(found.rows) == len(json.loads(path.read_text())["rows"]) == 4
    kept = {(row["variant"], row["seed"]): row for row in found.rows}
    assert all(kept[row["variant"], row["seed"]] == row for row in rows)


def test_when_the_time_is_up_no_further_run_is_begun(tmp_path):
    grid = _declare(tmp_path, settings={"clean": {}}, probed=[])
    options = {"folder": tmp_path, "jobs": 1, "device": "cpu", "progress": False}
    with pytest.raises(ResultsError, match="4 of 4 rows are missing"):
        run(grid, minutes=0, **options)
    assert len(run(grid, minutes=60, **options).rows) == 4


def _lock(path: Path) -> FileLock:
    name = experiments.fingerprint(str(path.absolute()))
    return FileLock(experiments.cache_folder("experiments") / f"{name}.lock")


def test_the_second_of_two_waits_for_shared_rows_and_says_so(stored, tmp_path, capsys):
    grid, folder, path = _copy(stored, tmp_path)
    path.rename(tmp_path / "computed.json")
    begun, told = threading.Event(), []

    def compute_elsewhere_until_told() -> None:
        with _lock(path):
            begun.set()
            for _ in range(1200):
                told.append(capsys.readouterr().err)
                if "waiting" in told[-1]:
                    break
                time.sleep(0.05)
            (tmp_path / "computed.json").rename(path)

    threading.Thread(target=compute_elsewhere_until_told).start()
    begun.wait()
    assert len(run(grid, folder=folder, jobs=1, device="cpu", progress=False).rows) == 8
    assert "another process computes these rows; waiting for it" in "".join(told)


def test_it_waits_no_longer_than_it_was_given(stored, tmp_path):
    grid, folder, path = _copy(stored, tmp_path)
    before = path.read_bytes()
    with _lock(path), pytest.raises(ResultsError, match="another process still computes"):
        run(grid, folder=folder, jobs=1, device="cpu", minutes=0.005, progress=False)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "told"),
    [(lambda text: text[: len(text) // 2], "cannot be read"), (lambda text: "[]", "damaged"),
     (lambda text: text.replace('"checksum"', '"format"'), "'checksum'"),
     (lambda text: text.replace('"seed"', '"sead"', 1), "damaged at 'rows.0.seed'"),
     (lambda text: text.replace('"seconds": ', '"seconds": 1', 1), "another checksum"),
     (lambda text: text.replace('"toy"', '"other"', 1), "another checksum")],
)  # fmt: skip
def test_a_damaged_file_is_told_and_left_alone(stored, tmp_path, damage, told):
    grid, folder, path = _copy(stored, tmp_path)
    path.write_text(damage(path.read_text()))
    before = path.read_bytes()
    for use in (load, run):
        with pytest.raises(ResultsError, match=told):
            use(grid, folder=folder)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"variants": {"full": {"training": {"alfa": 0.0}}}}, "alfa"), ({"variants": {}}, "variants"),
     ({"settings": {"odd": {"train_dials": {"noice": 0.1}}}}, "noice"), ({"probed": ["fall"]}, "fall"),
     ({"profiles": {"laptop": {"recipe": "synthfashion-smoke", "seeds": 2}}}, "laptop"),
     ({"profiles": {"smoke": {"recipe": "synthfashion-smoke", "seeds": 0}}}, "seeds"),
     ({"profiles": {"smoke": {"recipe": "synthfashion-smoke", "seeds": 10**30}}}, "seeds"),
     ({"profiles": {"smoke": {"recipe": "../recipes/shoes", "seeds": 2}}}, "recipe"),
     ({"profiles": {"smoke": {"recipe": "synthfashion-smoke", "seeds": 2, "epochs": 0}}}, "epochs"),
     ({"settings": {str(n): {} for n in range(501)}}, "1002 variants in settings"),
     ({"seed": 3}, "seed")],
)  # fmt: skip
def test_a_grid_that_cannot_be_is_refused(tmp_path, changes, told):
    with pytest.raises(ConfigError, match=told):
        _declare(tmp_path, **changes)


def test_a_profile_may_train_for_a_length_of_its_own(tmp_path):
    profiles = {"smoke": {"recipe": "synthfashion-smoke", "seeds": 2, "epochs": 7}}
    grid = _declare(tmp_path, profiles=profiles, changes={"training": {"epochs": 5}})
    assert {cell.config.training.epochs for cell in grid.cells()} == {7}
    assert differing(grid.base, read_recipe("synthfashion-smoke")) == ["training.epochs"]


def test_each_variant_is_run_with_each_choice(tmp_path):
    variants = {"full": {}, "sum": {"model": {"composer": "sum"}, "training": {"alpha": 0.0}}}
    choices = {f"rate {rate}": {"training": {"learning_rate": rate}} for rate in (0.1, 0.2)}
    grid = _declare(tmp_path, variants=variants, each=choices, probed=[])
    assert list(grid.variants) == [
        "full at rate 0.1",
        "full at rate 0.2",
        "sum at rate 0.1",
        "sum at rate 0.2",
    ]
    last = grid.cells()[-1].config
    assert (last.model.composer, last.training.alpha, last.training.learning_rate) == ("sum", 0.0, 0.2)


def test_unknown_names_are_refused(tmp_path, stored):
    grid, folder = stored
    with pytest.raises(ConfigError, match="ablations-clip"):
        read_grid("ablation", "laptop")
    for names in ({"variants": ["fool"]}, {"settings": ["loud"]}):
        with pytest.raises(ConfigError, match=r"fool|loud"):
            grid.only(**names)
    for names in (("fool",), ("full", "loud")):
        with pytest.raises(ConfigError, match=r"fool|loud"):
            load(grid, folder=folder).hits(*names)
    for options in ({"stream": "ear"}, {"group": "says nothing"}):
        with pytest.raises(ConfigError, match=r"ear|says nothing"):
            load(grid, folder=folder).hits("full", **options)


def test_a_folder_without_grids_is_told_and_no_grid_lies_elsewhere(tmp_path, monkeypatch, capsys):
    (tmp_path / "...yml").write_text("{}")
    with pytest.raises(ConfigError, match="there is no grid"):
        grid_names(tmp_path)
    monkeypatch.setattr(package, "grid_names", partial(grid_names, tmp_path))
    assert main(["experiment"]) == 2
    assert "there is no grid" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"there is no grid '\.\./experiments/noise'"):
        read_grid("../experiments/noise", "laptop")


def test_the_command_line_says_what_was_computed_now(stored, monkeypatch, capsys):
    grid, folder = stored
    monkeypatch.setattr(package, "read_grid", lambda name, profile: grid)
    for name in ("run", "missing"):
        monkeypatch.setattr(package, name, partial(getattr(experiments, name), folder=folder))
    assert main(["experiment", "toy", "--jobs", "1"]) == 0
    assert capsys.readouterr().out == "toy: 8 rows, 0 of them computed now\n"


@pytest.mark.parametrize("name", [path.stem for path in sorted(GRIDS.glob("*.yml"))])
@pytest.mark.parametrize("profile", ["smoke", "laptop", "gpu"])
def test_every_grid_of_the_book_is_read(name, profile):
    grid = read_grid(name, profile)
    assert len(grid.cells()) == grid.seeds * len(grid.variants) * len(grid.settings)
    runs = {cell.config.model_dump_json() for cell in grid.cells()}
    same = (
        {"batch 32", "batch 32, no mutual enhancement"} & grid.variants.keys() if profile == "smoke" else ()
    )
    assert len(runs) == len(grid.cells()) - grid.seeds * len(same)  # the smoke profile's batches are of 32


@pytest.mark.parametrize("name", [path.stem for path in sorted(GRIDS.glob("*.yml"))])
def test_no_row_that_the_book_shows_is_missing_or_stale(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(read_grid(name, "laptop"))


def test_groups_are_thirds_by_what_the_text_says():
    dataset = synthfashion("val", images=80, queries=61)
    groups = query_groups(dataset)
    share = dataset.text_share()
    thirds = [groups[name] for name in ("says little", "says some", "says much")]
    assert sorted(np.concatenate(thirds)) == list(groups["all"]) == list(range(61))
    assert share[thirds[0]].max() <= share[thirds[1]].min()
    assert share[thirds[1]].max() <= share[thirds[2]].min()
    for query in groups["reference hidden"]:
        assert dataset.scenes[dataset.references[query]].occlusion > 0


def test_the_interval_is_students():
    found = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.776445 * np.sqrt(2.5 / 5)  # t quantile for 4 degrees of freedom, from a printed table
    assert found.mean == 3
    assert found.low == pytest.approx(3 - half, abs=1e-5)
    assert found.high == pytest.approx(3 + half, abs=1e-5)
    assert str(found) == "3.0 [1.0, 5.0]"


def test_it_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = [
        found.low <= 10 <= found.high
        for found in (mean_interval(rng.normal(10, 2, size=5), confidence=0.8) for _ in range(2000))
    ]
    assert 0.77 < np.mean(inside) < 0.83


@pytest.mark.parametrize("values", [[], [1.0]])
def test_one_run_has_no_interval(values):
    with pytest.raises(ConfigError, match="two seeds"):
        mean_interval(values)
    with pytest.raises(ConfigError, match="two seeds"):
        detectable(values)
    with pytest.raises(ConfigError, match="two seeds"):
        crossed_interval(np.zeros((len(values), 4)))


def _world(rng, seeds, queries, mean=0.0, by_seed=1.0, by_query=1.0):
    """Draw differences with an effect of each seed, of each query, and of both together."""
    noise = rng.normal(0, 3, (seeds, queries))
    return mean + rng.normal(0, by_seed, (seeds, 1)) + rng.normal(0, by_query, queries) + noise


@pytest.mark.parametrize(("by_seed", "by_query"), [(1.0, 0.0), (0.0, 5.0), (0.5, 5.0)])
@pytest.mark.parametrize("seeds", [3, 8])
def test_the_crossed_interval_covers_other_seeds_and_other_queries(seeds, by_seed, by_query):
    rng = np.random.default_rng(seeds)
    inside = []
    for _ in range(120):
        found = crossed_interval(_world(rng, seeds, 50, 2.0, by_seed, by_query), resamples=200)
        assert found.low <= found.mean <= found.high
        inside.append(found.low <= 2 <= found.high)
    assert np.mean(inside) > 0.88


def test_p_values_are_rarely_small_without_a_difference_and_small_with_one():
    rng = np.random.default_rng(1)
    none = [gain_of(_world(rng, 5, 50), resamples=200).p for _ in range(100)]
    assert np.mean(np.array(none) < 0.05) < 0.12
    assert gain_of(_world(rng, 10, 200, mean=4.0), resamples=400).p < 0.01
    assert gain_of(np.zeros((3, 10))).p == 1.0


def test_holm_multiplies_the_smallest_p_value_most():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])


def test_what_is_detectable_is_detected_as_often_as_stated():
    from scipy import stats

    rng = np.random.default_rng(2)
    many = rng.normal(0, 1, (4000, 6))
    effect = np.mean([detectable(row) for row in many[:300]]) / np.std(many, axis=1, ddof=1)[:300].mean()
    pairs = rng.normal(effect, 1, (4000, 6)) - rng.normal(0, 1, (4000, 6))
    found = stats.ttest_1samp(pairs, 0, axis=1).pvalue < 0.05
    assert 0.77 < found.mean() < 0.83
    assert detectable(rng.normal(0, 1, 40)) < detectable(rng.normal(0, 1, 4))


@pytest.mark.parametrize(
    ("interval", "p", "expected"),
    [((2, 1, 3), 0.01, "supported"), ((2, 1, 3), 0.2, "cannot tell"), ((0.4, 0.1, 0.7), 0.01, "supported"),
     ((-2, -3, -1), 0.01, "opposite"), ((-2, -3, -1), 0.3, "cannot tell"),
     ((0, -0.5, 0.5), 0.9, "no effect of a point or more"), ((0, -2, 2), 0.9, "cannot tell"),
     ((-0.5, -2, 0.9), 0.9, "cannot tell"), ((0.5, -0.9, 2), 0.9, "cannot tell"),
     ((0.4, 0.1, 0.7), 0.3, "no effect of a point or more")],
)  # fmt: skip
def test_a_verdict_follows_from_interval_and_p_value(interval, p, expected):
    assert verdict(Interval(*interval), p=p) == expected


def test_the_margin_is_one_of_the_unit_that_a_gain_has():
    gains = {"points": mean_gain([-0.1, 0.0, 0.1]), "weight": mean_gain([-0.1, 0.0, 0.1], unit="hundredth")}
    said = [comparison.verdict for comparison in compare(gains).values()]
    assert said == ["no effect of a point or more", "no effect of a hundredth or more"]


def test_every_grid_departs_from_the_one_canonical_configuration():
    for name in grid_names():
        grid = read_grid(name, "laptop")
        allowed = {"model.streams", "training.epochs", "training.watched"}
        assert set(differing(read_recipe("synthfashion-laptop"), grid.base)) <= allowed, name


@pytest.mark.parametrize(
    ("digits", "written"),
    [("", "0.0 [-0.1, 0.1]"), (".2f", "-0.01 [-0.10, 0.10]"), ("+.1f", "0.0 [-0.1, +0.1]")],
)
def test_what_rounds_to_zero_is_written_without_a_sign(digits, written):
    assert f"{Interval(-0.01, -0.1, 0.1):{digits}}" == written
