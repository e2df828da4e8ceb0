"""Experiments: grids of runs, the rows that are kept of them, and what they allow us to say (notebook 11).

A grid is declared in ``data/experiments/<name>.yml``: variants of a configuration, settings of the world's
dials, seeds. Each run becomes a row of ``data/results/<name>/<profile>.json``; rows are computed once.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
import warnings
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import closing, contextmanager
from functools import cached_property, lru_cache
from itertools import islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from zlib import compress, decompress

import numpy as np
import yaml
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError
from tqdm.auto import tqdm

from dwclib.config import Config, parse_config, read_recipe
from dwclib.errors import ConfigError, ResultsError
from dwclib.files import ROOT, atomic, cache_folder, code_of, fingerprint, meaning_of

if TYPE_CHECKING:
    import pandas as pd
    from distributed import Client, Future

    from dwclib.data.synthfashion import SynthFashion

GRIDS = ROOT / "data" / "experiments"
FOLDER = ROOT / "data" / "results"
FORMAT = 1
MARGIN = 1.0  # points of Recall@10: less is no effect worth the name
MEASURED = ("ranks", "metrics", "validation", "weights", "probes", "gaps")  # what of a row is a result
PATIENCE = 10.0  # seconds that a scheduler may take to answer, and a cluster may be without a worker
Groups = dict[str, Int[np.ndarray, " members"]]
Row = dict[str, Any]
Key = TypeVar("Key")


class Cell(NamedTuple):
    """One run of a grid: a variant of the configuration, in a setting of the world's dials, from a seed."""

    variant: str
    setting: str
    seed: int
    config: Config

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells the cell from the others of its grid."""
        return self.variant, self.setting, self.seed


class _Declared(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Size(_Declared):
    recipe: str
    seeds: PositiveInt


class _File(_Declared):
    profiles: dict[str, _Size]
    changes: dict[str, dict[str, Any]] = {}
    variants: dict[str, dict[str, dict[str, Any]]] = Field(min_length=1)
    settings: dict[str, dict[str, Any]] = {"default": {}}
    probed: list[str] = []


class Grid(NamedTuple):
    """Runs to compare: every variant, in every setting, from every seed.

    Fields
    ------
    name, profile : of the file of results.
    base : the configuration that everything departs from.
    variants : changes of its sections by name, ``{"hard labels": {"training": {"alpha": 0.0}}}``.
    settings : changes of its data by name, ``{"noisy": {"train_dials": {"noise": 0.3}}}``.
    seeds : how many, from 0 on.
    probed : variants whose modality weights and gaps are measured too (`dwclib.probes`).
    """

    name: str
    profile: str
    base: Config
    variants: dict[str, dict[str, dict[str, Any]]]
    settings: dict[str, dict[str, Any]]
    seeds: int
    probed: tuple[str, ...] = ()

    def cells(self) -> list[Cell]:
        """Return all runs; those that read the same data stand together."""
        return [
            Cell(variant, setting, seed, self._config(changes, data, seed))
            for setting, data in self.settings.items()
            for variant, changes in self.variants.items()
            for seed in range(self.seeds)
        ]

    def _config(self, changes: dict[str, dict[str, Any]], data: dict[str, Any], seed: int) -> Config:
        training = {**changes.get("training", {}), "seed": seed}
        sections = {**changes, "data": {**changes.get("data", {}), **data}, "training": training}
        return self.base.but(**sections)

    def only(self, *, variants: Sequence[str] = (), settings: Sequence[str] = ()) -> Grid:
        """Return the grid of some variants and settings; of all, where none are named.

        Raises
        ------
        ConfigError
            For a variant or a setting that the grid does not have.
        """
        for kind, names, known in (
            ("variant", variants, self.variants),
            ("setting", settings, self.settings),
        ):
            for name in names:
                if name not in known:
                    raise ConfigError(
                        f"there is no {kind} {name!r}",
                        where=f"grid {self.name}",
                        remedy=f"Use one of: {', '.join(known)}.",
                    )
        return self._replace(
            variants={name: self.variants[name] for name in variants or self.variants},
            settings={name: self.settings[name] for name in settings or self.settings},
        )


def read_grid(name: str, profile: str, *, folder: Path = GRIDS) -> Grid:
    """Read a grid's declaration, ``<folder>/<name>.yml``.

    Raises
    ------
    ConfigError
        For a grid or profile that there is not, an unknown key, or a configuration that cannot be.
    """
    path = folder / f"{name}.yml"
    if not path.exists():
        known = ", ".join(sorted(grid.stem for grid in folder.glob("*.yml")))
        raise ConfigError(f"there is no grid {name!r}", where=folder, remedy=f"Use one of: {known}.")
    try:
        declared = _File.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        raise ConfigError(
            f"it declares no grid ({' '.join(str(error).split())})", where=path, remedy="See its neighbours."
        ) from error
    if profile not in declared.profiles:
        raise ConfigError(
            f"it has no profile {profile!r}", where=path, remedy=f"Use {' or '.join(declared.profiles)}."
        )
    size = declared.profiles[profile]
    grid = Grid(
        name,
        profile,
        read_recipe(size.recipe).but(**declared.changes),
        declared.variants,
        declared.settings,
        size.seeds,
        tuple(declared.probed),
    )
    grid.only(variants=grid.probed)
    grid.cells()  # so that a bad configuration is found now
    return grid


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
    jobs : processes that work at a time, -1 for one per core. On a CPU each run has one thread, so that a row
        does not depend on how many run beside it; on a GPU one process runs them all.
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
        When another process computes this grid, its file is damaged or of another version, the cluster is
        lost, or rows are still missing when the time is up.
    """
    path, end = _path_of(grid, folder), time.monotonic() + 60 * minutes
    with _alone(path):
        rows = _read_rows(path)
        waiting = [cell for cell in grid.cells() if not _is_fresh(rows.get(cell.key), cell, grid)]
        computed = _compute(waiting, grid, jobs=jobs, device=device, scheduler=scheduler, end=end)
        with closing(computed) as finished:
            for row in tqdm(finished, total=len(waiting), disable=not progress, desc=grid.name, unit="run"):
                rows[_key_of(row)] = row
                _write_rows(path, grid, rows)
    return load(grid, folder=folder)


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
        rows = _read_rows(path)
        stale = [cell for cell in grid.cells() if _is_stale_by_code(rows.get(cell.key), cell, grid)]
        drawn = _draw(stale, rows, grid, sample=sample, seed=seed)
        computed = _compute(drawn, grid, jobs=jobs, device="cpu", scheduler=scheduler)
        with closing(computed) as finished:
            bar = tqdm(finished, total=len(drawn), disable=not progress, desc=grid.name, unit="run")
            fresh = {_key_of(row): row for row in bar}
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
        When rows are missing, or the file is damaged or of another version.
    """
    path = _path_of(grid, folder)
    rows, cells = _read_rows(path), grid.cells()
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


class Results:
    """The rows of a grid, one per cell, in the order of its cells.

    Attributes
    ----------
    grid : what was run.
    rows : per run its variant, setting, seed, configuration, metrics, seconds, device, versions and the
        fingerprint of its code; and packed, the rank of every query's target.
    """

    def __init__(self, grid: Grid, rows: list[dict[str, Any]]) -> None:
        self.grid, self.rows = grid, rows
        self._by_key = {_key_of(row): row for row in rows}

    @cached_property
    def stale(self) -> list[dict[str, Any]]:
        """The rows that other code than today's has computed."""
        return [row for row in self.rows if row["code"] != code_print(row["variant"] in self.grid.probed)]

    @cached_property
    def table(self) -> pd.DataFrame:
        """Recall@K in per cent: one row per run, stream and group of queries."""
        import pandas as pd

        return pd.DataFrame(
            {"variant": row["variant"], "setting": row["setting"], "seed": row["seed"], "stream": stream,
             "group": group, **recalls}
            for row in self.rows
            for stream, groups in row["metrics"].items()
            for group, recalls in groups.items()
        )  # fmt: skip

    @cached_property
    def dataset(self) -> SynthFashion:
        """The queries that all rows were measured on, those of the first setting."""
        from dwclib.datasets import load_data

        return load_data(self.grid.cells()[0].config.data)[1]

    @cached_property
    def groups(self) -> Groups:
        """The groups of queries, as `query_groups` makes them."""
        return query_groups(self.dataset)

    def row(self, variant: str, setting: str, seed: int) -> dict[str, Any]:
        """Return one run's row."""
        self.grid.only(variants=[variant], settings=[setting])
        return self._by_key[variant, setting, seed]

    def runs_of(self, variant: str, setting: str = "") -> list[dict[str, Any]]:
        """Return a variant's rows, one per seed, in a setting; in the first by default."""
        setting = setting or next(iter(self.grid.settings))
        return [self.row(variant, setting, seed) for seed in range(self.grid.seeds)]

    def hits(
        self, variant: str, setting: str = "", *, stream: str = "clip", k: int = 10, group: str = "all"
    ) -> Float[np.ndarray, "seeds members"]:
        """Return 100 where a run finds a query's target among the first `k`, and 0 elsewhere."""
        members = self.groups[group]
        ranks = np.stack([unpack(row["ranks"][stream]) for row in self.runs_of(variant, setting)])
        return 100.0 * (ranks[:, members] <= k)

    def recall(
        self, variant: str, setting: str = "", *, stream: str = "clip", k: int = 10, group: str = "all"
    ) -> Interval:
        """Return the mean Recall@K over seeds, in per cent, with its 95 % interval."""
        return crossed_interval(self.hits(variant, setting, stream=stream, k=k, group=group))

    def gain(
        self,
        variant: str,
        over: str,
        setting: str = "",
        *,
        over_setting: str | None = None,
        stream: str = "clip",
        k: int = 10,
        group: str = "all",
    ) -> Gain:
        """Return by how many points of Recall@K a variant is ahead of another, paired by seed and query.

        Parameters
        ----------
        variant, over : the two.
        setting, over_setting : in which setting of the dials each; the first, and the same, by default.
        stream : "clip", "cnn" or "both".
        k, group : of the recall.
        """
        second = setting if over_setting is None else over_setting
        options = {"stream": stream, "k": k, "group": group}
        return gain_of(
            self.hits(variant, setting, **options) - self.hits(over, second, **options)  # type: ignore[arg-type]
        )

    def best(self, variants: Sequence[str], *, stream: str = "clip", setting: str = "") -> str:
        """Return which variant has the best mean R@10 on validation queries; the evaluation is not asked."""
        return max(
            variants,
            key=lambda v: np.mean([row["validation"][stream] for row in self.runs_of(v, setting)]),
        )


class Interval(NamedTuple):
    """A mean and its confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """Write it as "12.3 [11.8, 12.8]"."""
        return f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}]"


class Gain(NamedTuple):
    """A paired difference in points: its 95 % interval, and the p-value against no difference at all."""

    interval: Interval
    p: float


def mean_interval(
    values: Sequence[float] | Float[np.ndarray, " runs"], *, confidence: float = 0.95
) -> Interval:
    """Return the mean of independent runs with Student's t interval.

    For the difference of two methods, pass the differences of runs with the same seed.

    Parameters
    ----------
    values : one number per seed.
    confidence : of the interval.

    Raises
    ------
    ConfigError
        For fewer than two values: one run has no interval.
    """
    from scipy import stats

    _two_or_more(len(values), "mean_interval")
    mean, error = float(np.mean(values)), float(stats.sem(values))
    half = error * float(stats.t.ppf((1 + confidence) / 2, len(values) - 1))
    return Interval(mean, mean - half, mean + half)


def crossed_interval(values: Float[np.ndarray, "seeds queries"], *, resamples: int = 2000) -> Interval:
    """Return the mean over seeds and queries, with a 95 % interval for other seeds and other queries.

    It reaches as far as the wider of two: Student's t over seeds, which is honest about few of them, and the
    bootstrap that draws seeds and queries anew.

    Parameters
    ----------
    values : one number per seed and query.
    resamples : of the bootstrap.

    Raises
    ------
    ConfigError
        For fewer than two seeds.
    """
    return _wider(values, _bootstrap(values, resamples))


def gain_of(differences: Float[np.ndarray, "seeds queries"], *, resamples: int = 2000) -> Gain:
    """Return the interval of paired differences, and the greater p-value of the two ways to make it.

    Parameters
    ----------
    differences : in points, one per seed and query.
    resamples : of the bootstrap.
    """
    from scipy import stats

    drawn = _bootstrap(differences, resamples)
    interval = _wider(differences, drawn)
    if not differences.any():
        return Gain(interval, 1.0)
    beyond = min((drawn <= 0).mean(), (drawn >= 0).mean())
    by_seed = differences.mean(axis=1)
    student = float(stats.ttest_1samp(by_seed, 0.0).pvalue) if by_seed.std() > 0 else 0.0
    return Gain(interval, max(student, min(1.0, 2 * float(beyond)), 1 / resamples))


def mean_gain(values: Sequence[float]) -> Gain:
    """Return Student's interval and p-value of differences, one number per seed."""
    from scipy import stats

    interval = mean_interval(values)
    return Gain(interval, float(stats.ttest_1samp(values, 0.0).pvalue))


class Comparison(NamedTuple):
    """A gain among several: interval, p-value corrected by Holm, and the verdict on "it is positive"."""

    interval: Interval
    p: float
    verdict: str


def compare(gains: Mapping[Key, Gain], *, margin: float = MARGIN) -> dict[Key, Comparison]:
    """Return verdicts for gains that are looked at together: the more there are, the less each is believed.

    Parameters
    ----------
    gains : by name.
    margin : as `verdict` takes it.
    """
    corrected = holm([gain.p for gain in gains.values()])
    return {
        name: Comparison(gain.interval, float(p), verdict(gain.interval, p=float(p), margin=margin))
        for (name, gain), p in zip(gains.items(), corrected, strict=True)
    }


def holm(p_values: Sequence[float]) -> Float[np.ndarray, " n"]:
    """Return p-values corrected for being several, by Holm's method."""
    from statsmodels.stats.multitest import multipletests

    return multipletests(p_values, method="holm")[1]


def detectable(values: Sequence[float] | Float[np.ndarray, " seeds"], *, power: float = 0.8) -> float:
    """Return the smallest difference that a paired comparison over as many seeds would find.

    It is stated before any comparison is made, from the runs of one variant alone: two variants whose runs
    had nothing in common would differ by sqrt(2) times what one's runs vary; what they share lowers it.

    Parameters
    ----------
    values : one recall per seed, of one variant.
    power : how often it would be found, at a level of 5 %.
    """
    from statsmodels.stats.power import TTestPower

    _two_or_more(len(values), "detectable")
    effect = TTestPower().solve_power(nobs=len(values), alpha=0.05, power=power)
    return float(effect) * math.sqrt(2) * float(np.std(values, ddof=1))


def verdict(interval: Interval, *, p: float, margin: float = MARGIN) -> str:
    """Say what an interval allows to say of a claim that a difference is positive; the rule of the book.

    "supported": the interval is above zero, and so is the corrected p-value below 5 %. "not supported": the
    interval is below zero likewise, or it leaves no room for an effect of `margin` points. Else "not
    detectable".

    Parameters
    ----------
    interval : of the difference, in points.
    p : against no difference, corrected for the number of comparisons.
    margin : the smallest effect worth the name.
    """
    if interval.low > 0 and p < 0.05:
        return "supported"
    if (interval.high < 0 and p < 0.05) or interval.high < margin:
        return "not supported"
    return "not detectable"


def query_groups(dataset: SynthFashion) -> Groups:
    """Return the groups in which recalls are counted: all, thirds by what the text says, hidden references.

    Parameters
    ----------
    dataset : its truth tells how much each text says, and which references something hides.
    """
    by_text = np.array_split(dataset.text_share().argsort(kind="stable"), 3)
    hidden = np.array([dataset.scenes[image].occlusion > 0 for image in dataset.references])
    return {
        "all": np.arange(len(dataset)),
        **dict(zip(("says little", "says some", "says much"), by_text, strict=True)),
        "reference hidden": np.flatnonzero(hidden),
    }


def compute_row(cell: Cell, probed: bool, device: str) -> dict[str, Any]:
    """Train a cell's run in a folder of its own, and return its row."""
    import torch

    from dwclib import machine
    from dwclib.probes import modality_gaps, probe_weights
    from dwclib.runs import Run, ranks_of, recalls_of

    if device == "cpu":
        torch.set_num_threads(1)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=cache_folder("experiments")) as folder:
        trained = Run(cell.config, folder, device=device).train(progress=False)
        embedded, dataset = trained.embedded(), trained.evaluation.dataset
        ranks = {name: found.numpy() for name, found in ranks_of(embedded, dataset).items()}
        held_out = recalls_of(trained.embedded(trained.validation), trained.validation.dataset, ks=(10,))
        extra: dict[str, Any] = {}
        if probed:
            lam = {name: part.modality_weight for name, part in embedded.items()}
            kept = {n: pack(w.numpy().astype(np.float16)) for n, w in lam.items() if w is not None}
            extra = {"weights": kept, "probes": probe_weights(trained), "gaps": modality_gaps(trained)}
    groups = query_groups(dataset)  # type: ignore[arg-type]
    return {
        "variant": cell.variant,
        "setting": cell.setting,
        "seed": cell.seed,
        "metrics": {stream: _metrics(found, groups) for stream, found in ranks.items()},
        "validation": {stream: found[10] for stream, found in held_out.items()},
        "seconds": round(time.perf_counter() - start, 1),
        **machine.stamp(device),
        "code": code_print(probed),
        "config": cell.config.model_dump(),
        "ranks": {stream: pack(found.clip(max=65535).astype(np.uint16)) for stream, found in ranks.items()},
        **extra,
    }


@lru_cache
def code_print(probed: bool = False) -> str:
    """Return the fingerprint of all code and weights that a row depends on.

    Comments and docstrings do not count, nor does what is said when something goes wrong.
    """
    from dwclib.encoders import BOOK_CLIP, BOOK_CNN

    files = code_of("dwclib.probes" if probed else "dwclib.runs")
    code = [meaning_of(path) for path in files if path.name != "errors.py"]
    weights = [path for folder in (BOOK_CLIP, BOOK_CNN) for path in sorted(folder.glob("*.safetensors"))]
    return fingerprint(code, *weights)


def pack(values: np.ndarray) -> str:
    """Write an array of uint16 or float16 as text."""
    return f"{values.dtype.name}:{b64encode(compress(values.tobytes(), 9)).decode()}"


def unpack(text: str) -> np.ndarray:
    """Read what `pack` wrote."""
    kind, packed = text.split(":")
    return np.frombuffer(decompress(b64decode(packed)), dtype=kind)


def _metrics(ranks: Int[np.ndarray, " queries"], groups: Groups) -> dict[str, dict[str, float]]:
    return {
        name: {f"R@{k}": round(100 * float((ranks[members] <= k).mean()), 3) for k in (1, 10, 50)}
        for name, members in groups.items()
    }


def _wider(values: Float[np.ndarray, "seeds queries"], drawn: Float[np.ndarray, " resamples"]) -> Interval:
    student = mean_interval(values.mean(axis=1))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(student.mean, min(student.low, float(low)), max(student.high, float(high)))


def _bootstrap(values: Float[np.ndarray, "seeds queries"], resamples: int) -> Float[np.ndarray, " resamples"]:
    """Return the means of samples in which seeds and queries are drawn anew, each with replacement."""
    from scipy.stats import bootstrap

    _two_or_more(len(values), "bootstrap")

    def mean_of(seeds: Int[np.ndarray, " s"], queries: Int[np.ndarray, " q"]) -> float:
        by_query = np.bincount(seeds, minlength=len(values)) @ values / len(seeds)  # as values[seeds].mean()
        return float(by_query[queries].mean())

    indices = tuple(np.arange(length) for length in values.shape)
    options: dict[str, Any] = {"vectorized": False, "method": "percentile", "rng": np.random.default_rng(0)}
    found = bootstrap(indices, mean_of, n_resamples=resamples, **options)
    return found.bootstrap_distribution


def _path_of(grid: Grid, folder: Path) -> Path:
    return folder / grid.name / f"{grid.profile}.json"


def _key_of(row: Mapping[str, Any]) -> tuple[str, str, int]:
    return row["variant"], row["setting"], row["seed"]


def _is_of(row: Mapping[str, Any] | None, cell: Cell) -> bool:
    try:
        return row is not None and parse_config(row["config"], "row") == cell.config
    except ConfigError:  # of another version of the book
        return False


def _is_fresh(row: Mapping[str, Any] | None, cell: Cell, grid: Grid) -> bool:
    return row is not None and _is_of(row, cell) and row["code"] == code_print(cell.variant in grid.probed)


def _is_stale_by_code(row: Row | None, cell: Cell, grid: Grid) -> bool:
    from dwclib import machine

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
    from dwclib import machine

    first = row.get("verified", {}).get("computed_by", row["code"])
    note = {"computed_by": first, **found._asdict(), "date": machine.stamp("cpu")["date"]}
    return {**row, "code": code_print(cell.variant in grid.probed), "verified": note}


def _read_rows(path: Path) -> dict[tuple[str, str, int], Row]:
    if not path.exists():
        return {}
    remedy = "Bring the file back (git checkout), or remove it and compute the rows anew."
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version, rows = content["format"], {_key_of(row): row for row in content["rows"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultsError(f"the results are damaged ({error})", where=path, remedy=remedy) from error
    if version != FORMAT:
        raise ResultsError(
            f"the results are of format {version}, this is format {FORMAT}", where=path, remedy=remedy
        )
    return rows


def _write_rows(path: Path, grid: Grid, rows: Mapping[Any, Mapping[str, Any]]) -> None:
    """Write all rows, a line each; a reader sees the old file or the new one."""
    head = json.dumps({"format": FORMAT, "grid": grid.name, "profile": grid.profile})[:-1]
    lines = ",\n".join(json.dumps(rows[key], ensure_ascii=False) for key in sorted(rows))
    with atomic(path) as target:
        target.write_text(f'{head}, "rows": [\n{lines}\n]}}\n', encoding="utf-8")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(cache_folder("experiments") / f"{fingerprint(str(path.absolute()))}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ResultsError(
            "another process computes these rows", where=path, remedy="Wait for it; no row is lost."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _compute(
    cells: Sequence[Cell],
    grid: Grid,
    *,
    jobs: int,
    device: str | None,
    scheduler: str | None,
    end: float = math.inf,
) -> Generator[Row, None, None]:
    """Yield the cells' rows in the order in which they are ready; none is begun after `end`."""
    begun = takewhile(lambda cell: time.monotonic() < end, cells)
    work = ((cell, cell.variant in grid.probed) for cell in begun)
    if scheduler is not None:
        yield from _on_cluster(work, device, scheduler)
    else:
        device = _device(device)
        _prepare(cells, device)
        yield from _in_processes(work, device, jobs=1 if device == "cuda" else jobs)


def _in_processes(work: Iterable[tuple[Cell, bool]], device: str, *, jobs: int) -> Iterator[Row]:
    from joblib import Parallel, delayed, parallel_config

    with parallel_config(backend="loky", inner_max_num_threads=1):
        yield from Parallel(n_jobs=jobs, return_as="generator_unordered")(
            delayed(compute_row)(*cell, device) for cell in work
        )


def _on_cluster(work: Iterator[tuple[Cell, bool]], device: str | None, scheduler: str) -> Iterator[Row]:
    """Yield rows that a cluster's workers compute.

    Dask's own futures, not joblib's backend for Dask: that one waits for ever for a run whose workers all
    die, and computes in this process where the cluster has one worker.
    """
    with _client(scheduler) as client:
        running: set[Future] = set()
        while True:
            room = max(1, 2 * len(client.nthreads())) - len(running)  # one to compute, one that waits for it
            running |= {
                client.submit(_row_on_worker, *cell, device, code_print(cell[1]), pure=False)
                for cell in islice(work, max(0, room))
            }
            if not running:
                return
            yield from _handed_over(client, running)


@contextmanager
def _client(scheduler: str) -> Iterator[Client]:
    """Connect to a cluster; when it is lost meanwhile, say so."""
    try:
        from distributed import Client
        from distributed.comm import CommClosedError
        from distributed.scheduler import KilledWorker
    except ImportError as error:
        raise ConfigError(
            "a cluster needs Dask, which is not installed",
            where=f"scheduler {scheduler}",
            remedy="Install it: pip install 'dwclib[scale]'.",
        ) from error
    try:
        client = Client(scheduler, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no scheduler answered within {PATIENCE:.0f} s ({error})",
            where=f"scheduler {scheduler}",
            remedy="Start one (dask scheduler), and name the address that it prints.",
        ) from error
    try:
        with client:
            yield client
    except (KilledWorker, CancelledError, CommClosedError, TimeoutError) as error:
        raise ResultsError(
            f"the cluster was lost ({error}); the rows that came before are kept",
            where=f"scheduler {scheduler}",
            remedy="See that it runs and has workers (dask worker ADDRESS --nthreads 1), and run again.",
        ) from error


def _handed_over(client: Client, running: set[Future]) -> Iterator[Row]:
    """Yield the rows that are ready, perhaps none; a TimeoutError says that no worker is left."""
    from distributed import wait

    future = None
    try:
        for future in wait(running, timeout=PATIENCE, return_when="FIRST_COMPLETED").done:
            row = future.result(timeout=PATIENCE)
            running.remove(future)
            yield row
    except TimeoutError:  # none is ready, or a worker died before it handed its row over
        if future is not None and future.status == "error":  # the run's own
            raise
        client.wait_for_workers(1, timeout=PATIENCE)


def _row_on_worker(cell: Cell, probed: bool, device: str | None, code: str) -> Row:
    """Compute a row in a cluster's worker, if its row is the one that this machine would compute."""
    from distributed import get_worker

    worker = get_worker()
    if worker.state.nthreads != 1:  # runs in one process would draw from one another's random numbers
        raise ConfigError(
            f"it runs {worker.state.nthreads} at a time in one process",
            where=f"worker {worker.address}",
            remedy="Start it with --nthreads 1, and one per core with --nworkers.",
        )
    if code_print(probed) != code:
        raise ConfigError(
            "its dwclib, or the weights in data/, are not those of the process that asks",
            where=f"worker {worker.address}",
            remedy="Install the same version on all machines, and start the workers anew.",
        )
    return compute_row(cell, probed, _device(device))


def _prepare(cells: Iterable[Cell], device: str) -> None:
    """Draw the pictures and encode them once, with all cores, before the runs share them."""
    from dwclib.runs import Run

    seen = set()
    for cell in cells:
        key = cell.config.data.model_dump_json()
        if key not in seen:
            seen.add(key)
            with tempfile.TemporaryDirectory(dir=cache_folder("experiments")) as folder:
                Run(cell.config, folder, device=device)


def _device(named: str | None) -> str:
    import torch

    return named or ("cuda" if torch.cuda.is_available() else "cpu")


def _two_or_more(seeds: int, where: str) -> None:
    if seeds < 2:
        raise ConfigError(f"{seeds} run has no interval", where=where, remedy="Use two seeds or more.")
