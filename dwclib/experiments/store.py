"""The store of rows: each run of a grid becomes a row, computed once (notebook 11).

Rows stand in ``data/results/<name>/<profile>.json``.
"""

from __future__ import annotations

import json
import math
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from dwclib.errors import ConfigError, ResultsError
from dwclib.experiments.cluster import compute
from dwclib.experiments.grid import Cell, Grid
from dwclib.experiments.results import Results, key_of
from dwclib.experiments.rows import Row, StoredRow, code_fingerprint
from dwclib.experiments.schema import REMEDY, Kept, Plain, read_sealed, sealed
from dwclib.files import DATA, atomic, cache_folder, check_changeable, fingerprint
from dwclib.training.config import parse_config

FOLDER = DATA / "results"
MEASURED = ("ranks", "metrics", "validation", "weights", "probes", "gaps")  # what of a row is a result


class _File(Kept):
    checksum: str
    grid: Plain
    profile: Plain
    rows: list[StoredRow]


def run(
    grid: Grid,
    *,
    jobs: int = -1,
    minutes: float = math.inf,
    folder: Path = FOLDER,
    device: str | None = None,
    scheduler: str | None = None,
    progress: bool = True,
) -> Results:
    """Compute the rows that are missing or stale, keep each as soon as it is there, and return all.

    Parameters
    ----------
    grid : what to run.
    jobs : processes that work at a time; -1 for one per core, and on a GPU, which all of them share, for one.
        On a CPU each run has one thread, so that a row does not depend on how many run beside it.
    minutes : after which no further run is begun; the next call goes on.
    folder : of the results.
    device : "cpu" or "cuda"; a GPU where there is one, by default.
    scheduler : of a Dask cluster whose workers compute the rows, such as "tcp://10.0.0.1:8786"; this process
        writes them. Each worker has one thread (``dask worker ADDRESS --nthreads 1``) and the same dwclib.
        The row of a worker that dies is computed by another.
    progress : show a bar.

    Raises
    ------
    ConfigError
        When the scheduler does not answer, or a worker is not such a one.
    ResultsError
        When the grid's file is damaged, the cluster is lost, or rows are still missing when the time is up.
        Another process that computes this grid is waited for.
    """
    path, end = _path_of(grid, folder), time.monotonic() + 60 * minutes
    with _alone(path, end):
        rows = _read_rows(path, grid)
        waiting = _missing(grid, rows)
        computed = compute(waiting, grid, jobs=jobs, device=device, scheduler=scheduler, end=end)
        with closing(computed) as finished:
            for row in tqdm(finished, total=len(waiting), disable=not progress, desc=grid.name, unit="run"):
                rows[key_of(row)] = row
                _write_rows(path, grid, rows)
    return load(grid, folder=folder)


def missing(grid: Grid, *, folder: Path = FOLDER) -> list[Cell]:
    """Return the runs whose rows are missing or stale."""
    return _missing(grid, _read_rows(_path_of(grid, folder), grid))


class Verified(NamedTuple):
    """How many stale rows were computed anew and found equal, of how many that are fresh now."""

    checked: int
    of: int


def verify(
    grid: Grid,
    *,
    sample: int,
    seed: int = 0,
    jobs: int = -1,
    folder: Path = FOLDER,
    scheduler: str | None = None,
    progress: bool = True,
) -> Verified:
    """Keep the rows that are stale only because code changed, if a sample by today's code equals them.

    It is for a change of code that is meant to leave all numbers as they are. Of the rows that a CPU computed
    with the configuration and the versions of today, some are computed anew. Where all of these are equal to
    the last bit, they replace the old ones, and the rest takes today's fingerprint and notes under "verified"
    which code computed it, and how many of how many rows were checked. All other rows (missing, of a GPU, of
    another torch) stay as they are.

    What this shows is equality of the sample. A change that reaches only rows outside of it would slip
    through; hence every variant and setting is drawn once before any is drawn twice, probed variants first.

    Parameters
    ----------
    grid : whose rows.
    sample : how many rows to compute anew.
    seed : of the draw.
    jobs, folder, scheduler, progress : as `run` takes them.

    Raises
    ------
    ResultsError
        When a row is not equal, and nothing is kept; or for what `run` raises it.
    ConfigError
        For a sample of no row, or for what `run` raises it.
    """
    if sample < 1:
        raise ConfigError(f"a sample of {sample} rows shows nothing", where="verify", remedy="Use 1 or more.")
    path = _path_of(grid, folder)
    with _alone(path):
        rows = _read_rows(path, grid)
        stale = [cell for cell in grid.cells() if _is_stale_by_code(rows.get(cell.key), cell, grid)]
        drawn = _draw(stale, rows, grid, sample=sample, seed=seed)
        computed = compute(drawn, grid, jobs=jobs, device="cpu", scheduler=scheduler)
        with closing(computed) as finished:
            bar = tqdm(finished, total=len(drawn), disable=not progress, desc=grid.name, unit="run")
            fresh = {key_of(row): row for row in bar}
        _check_equal(rows, fresh, grid, path)
        found = Verified(len(drawn), len(stale))
        kept = {cell.key: _stamped(rows[cell.key], cell, grid, found) for cell in stale}
        if stale:
            _write_rows(path, grid, rows | kept | fresh)
    return found


def load(grid: Grid, *, folder: Path = FOLDER) -> Results:
    """Read a grid's rows from the store; a warning says so when the code has changed since.

    Raises
    ------
    ResultsError
        When rows are missing, or the file is damaged.
    """
    path = _path_of(grid, folder)
    rows, cells = _read_rows(path, grid), grid.cells()
    missing = [cell for cell in cells if not _is_of(rows.get(cell.key), cell)]
    if missing:
        first = missing[0]
        raise ResultsError(
            f"{len(missing)} of {len(cells)} rows are missing, the first is {first.variant!r} in "
            f"{first.setting!r} from seed {first.seed}",
            where=path,
            remedy=f"Compute them: python -m dwclib experiment {grid.name} --profile {grid.profile}.",
        )
    found = Results(grid, [rows[cell.key] for cell in cells])
    if found.stale:
        warnings.warn(
            f"{path}: {len(found.stale)} of {len(cells)} rows are from before the code changed. "
            f"Compute them anew: python -m dwclib experiment {grid.name} --profile {grid.profile}.",
            stacklevel=2,
        )
    return found


def _missing(grid: Grid, rows: Mapping[Any, Row]) -> list[Cell]:
    return [cell for cell in grid.cells() if not _is_fresh(rows.get(cell.key), cell, grid)]


def _path_of(grid: Grid, folder: Path) -> Path:
    return folder / grid.name / f"{grid.profile}.json"


def _is_of(row: Mapping[str, Any] | None, cell: Cell) -> bool:
    try:
        return row is not None and parse_config(row["config"], "row") == cell.config
    except ConfigError:  # of another version of the book
        return False


def _is_fresh(row: Mapping[str, Any] | None, cell: Cell, grid: Grid) -> bool:
    return (
        row is not None and _is_of(row, cell) and row["code"] == code_fingerprint(cell.variant in grid.probed)
    )


def _is_stale_by_code(row: Row | None, cell: Cell, grid: Grid) -> bool:
    from dwclib.experiments import machine

    if row is None or not _is_of(row, cell) or _is_fresh(row, cell, grid):
        return False
    return row["device"].startswith("CPU") and row["versions"] == machine.stamp("cpu")["versions"]


def _draw(
    cells: Sequence[Cell], rows: Mapping[Any, Row], grid: Grid, *, sample: int, seed: int
) -> list[Cell]:
    """Draw cells: each variant, setting and old code comes once before any comes twice, probed ones first."""
    turns: Counter[tuple[str, str, str]] = Counter()
    order = []
    for number in np.random.default_rng(seed).permutation(len(cells)):
        cell = cells[number]
        kind = cell.variant, cell.setting, rows[cell.key]["code"]
        order.append((turns[kind], cell.variant not in grid.probed, cell))
        turns[kind] += 1
    return [cell for *_, cell in sorted(order, key=lambda entry: entry[:2])[:sample]]


def _check_equal(rows: Mapping[Any, Row], fresh: Mapping[Any, Row], grid: Grid, path: Path) -> None:
    def measured(row: Row) -> str:
        return json.dumps({name: row.get(name) for name in MEASURED}, sort_keys=True)

    different = [key for key in sorted(fresh) if measured(fresh[key]) != measured(rows[key])]
    if different:
        variant, setting, seed = different[0]
        raise ResultsError(
            f"{len(different)} of {len(fresh)} rows that were computed anew differ from the stored ones, the "
            f"first is {variant!r} in {setting!r} from seed {seed}; nothing was changed",
            where=path,
            remedy=f"Compute all anew: python -m dwclib experiment {grid.name} --profile {grid.profile}.",
        )


def _stamped(row: Row, cell: Cell, grid: Grid, found: Verified) -> Row:
    """Return a row as fresh, with a note of what that rests on; the code that computed it stays known."""
    from dwclib.experiments import machine

    first = row.get("verified", {}).get("computed_by", row["code"])
    note = {"computed_by": first, **found._asdict(), "date": machine.stamp("cpu")["date"]}
    return {**row, "code": code_fingerprint(cell.variant in grid.probed), "verified": note}


def _read_rows(path: Path, grid: Grid) -> dict[tuple[str, str, int], Row]:
    if not path.exists():
        return {}
    content = read_sealed(path, _File)
    if (content["grid"], content["profile"]) != (grid.name, grid.profile):
        raise ResultsError(f"these are rows of the grid {content['grid']}", where=path, remedy=REMEDY)
    return {key_of(row): row for row in content["rows"]}


def _write_rows(path: Path, grid: Grid, rows: Mapping[Any, Row]) -> None:
    """Write all rows, a line each; a reader sees the old file or the new one."""
    content = sealed(
        {"grid": grid.name, "profile": grid.profile, "rows": [rows[key] for key in sorted(rows)]}
    )
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in content.pop("rows"))
    with atomic(path) as target:
        target.write_text(f'{json.dumps(content)[:-1]}, "rows": [\n{lines}\n]}}\n', encoding="utf-8")


@contextmanager
def _alone(path: Path, end: float = math.inf) -> Iterator[None]:
    """Let one process at a time compute these rows; another waits, until the end that it was given."""
    from filelock import FileLock, Timeout

    check_changeable(path)
    lock = FileLock(cache_folder("experiments") / f"{fingerprint(str(path.absolute()))}.lock")
    with suppress(Timeout):
        lock.acquire(timeout=0)
    if not lock.is_locked:
        print(f"{path}: another process computes these rows; waiting for it.", file=sys.stderr)
        try:
            lock.acquire(timeout=max(0.0, end - time.monotonic()))
        except Timeout as error:
            raise ResultsError(
                "another process still computes these rows", where=path, remedy="Call again later."
            ) from error
    try:
        yield
    finally:
        lock.release()
