"""The rows of a grid, and what they say when they are compared (notebook 11)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from dwclib.errors import ConfigError, check_choice
from dwclib.experiments.grid import Grid
from dwclib.experiments.rows import Groups, Row, code_fingerprint, query_groups, unpack
from dwclib.experiments.statistics import Gain, Interval, crossed_interval, gain_of, mean_interval
from dwclib.training.config import Config, parse_config

if TYPE_CHECKING:
    from dwclib.data.synthfashion import SynthFashion


def key_of(row: Mapping[str, Any]) -> tuple[str, str, int]:
    """Return what tells a row from the others of its grid."""
    return row["variant"], row["setting"], row["seed"]


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
        self._by_key = {key_of(row): row for row in rows}

    @cached_property
    def stale(self) -> list[dict[str, Any]]:
        """The rows that other code than today's has computed."""
        return [
            row for row in self.rows if row["code"] != code_fingerprint(row["variant"] in self.grid.probed)
        ]

    @cached_property
    def dataset(self) -> SynthFashion:
        """The queries that all rows were measured on, those of the first setting."""
        from dwclib.data.datasets import load_data

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
        """Return 100 where a run finds a query's target among the first `k`, and 0 elsewhere.

        Parameters
        ----------
        variant, setting : of the grid; the first setting by default.
        stream : "clip", "cnn" or "both".
        k : of the recall.
        group : of queries, one of `groups`.
        """
        return self._found(self.runs_of(variant, setting), stream, k, group)

    def _found(
        self, rows: list[Row], stream: str, k: int = 10, group: str = "all"
    ) -> Float[np.ndarray, "seeds members"]:
        check_choice("stream", stream, rows[0]["ranks"], f"grid {self.grid.name}")
        ranks = np.stack([unpack(row["ranks"][stream]) for row in rows])
        if group != "all":
            check_choice("group", group, self.groups, f"grid {self.grid.name}")
            ranks = ranks[:, self.groups[group]]
        return 100.0 * (ranks <= k)

    def recall(self, variant: str, setting: str = "", **options: Any) -> Interval:
        """Return the mean Recall@K over seeds, in per cent, with its 95 % interval.

        Parameters
        ----------
        variant, setting, **options : as `hits` takes them.
        """
        return crossed_interval(self.hits(variant, setting, **options))

    def value(self, variant: str, measure: str, setting: str = "", *, stream: str = "clip") -> Interval:
        """Return the mean of a measure over seeds, with its 95 % interval: a recall's is that of `recall`.

        Parameters
        ----------
        variant, setting, stream : as `hits` takes them.
        measure : of all queries, one of those that the rows hold, such as "R@10".
        """
        rows = self.runs_of(variant, setting)
        check_choice("stream", stream, rows[0]["metrics"], f"grid {self.grid.name}")
        found = [row["metrics"][stream]["all"] for row in rows]
        check_choice("measure", measure, set[str].intersection(*map(set, found)), f"grid {self.grid.name}")
        if measure.startswith("R@"):
            return self.recall(variant, setting, stream=stream, k=int(measure.removeprefix("R@")))
        return mean_interval([metrics[measure] for metrics in found])

    def pairs(
        self,
        variant: str,
        over: str,
        setting: str = "",
        *,
        over_setting: str = "",
        of: Results | None = None,
        named: tuple[str, ...] = (),
    ) -> list[tuple[Row, Row]]:
        """Return the rows of two variants, paired by seed: every comparison begins here.

        Parameters
        ----------
        variant, over : the two.
        setting, over_setting : in which setting of the dials each; the first, and the same, by default.
        of : the results of another grid, where `over` is one of that; the seeds that both have are paired.
        named : what the two may differ in besides: keys, such as "model.streams", or "device".

        Raises
        ------
        ConfigError
            When the stored configurations differ in a key that neither variants nor settings declare, or a
            CPU has trained the one and a GPU the other.
        """
        other, rows = of or self, self.runs_of(variant, setting)
        found = list(zip(rows, other.runs_of(over, over_setting or setting), strict=False))
        for row, rival in found:
            _check_pair((row, self.grid), (rival, other.grid), named=named)
        return found

    def ahead(
        self,
        variant: str,
        over: str,
        setting: str = "",
        *,
        over_setting: str = "",
        of: Results | None = None,
        stream: str = "clip",
        over_stream: str = "",
        **options: Any,
    ) -> Float[np.ndarray, "seeds members"]:
        """Return the paired differences of two variants' hits, 100, 0 or -100.

        Parameters
        ----------
        variant, over, setting, over_setting, of : as `pairs` takes them.
        stream, over_stream : of each; the same by default. Where both are given, a run of one stream may be
            compared with one of both, whatever trained them.
        **options : "k" and "group", as `hits` takes them.
        """
        named = ("model.streams", "device") if over_stream else ()
        found = self.pairs(variant, over, setting, over_setting=over_setting, of=of, named=named)
        rows, rivals = zip(*found, strict=True)
        other = (of or self)._found(list(rivals), over_stream or stream, **options)
        return self._found(list(rows), stream, **options) - other

    def gain(self, variant: str, over: str, setting: str = "", **options: Any) -> Gain:
        """Return by how many points of Recall@K a variant is ahead of another, paired by seed and query.

        Parameters
        ----------
        variant, over, setting, **options : as `ahead` takes them.
        """
        return gain_of(self.ahead(variant, over, setting, **options))

    def best(self, variants: Sequence[str], *, stream: str = "clip", setting: str = "") -> str:
        """Return which variant has the best mean R@10 on validation queries; the evaluation is not asked."""
        return max(
            variants, key=lambda v: np.mean([row["validation"][stream] for row in self.runs_of(v, setting)])
        )


def differing(one: Config, other: Config) -> list[str]:
    """Return the keys in which two configurations differ, such as "training.alpha"."""
    first, second = one.model_dump(), other.model_dump()
    keys = [(section, key) for section in first for key in {**first[section], **second[section]}]
    return [f"{s}.{k}" for s, k in keys if first[s].get(k) != second[s].get(k)]


def _check_pair(*pair: tuple[Row, Grid], named: tuple[str, ...] = ()) -> None:
    """Refuse to compare two rows that differ in more than is named, or declared by variant and setting."""
    one, other = (parse_config(row["config"], "a stored row") for row, _ in pair)
    declared = set(named).union(*(_declared_by(grid, row) for row, grid in pair))
    devices = {row["device"].partition(",")[0] for row, _ in pair}  # such as CPU
    unlike = differing(one, other) + ["device"] * (len(devices) > 1)
    if more := [key for key in unlike if key not in declared]:
        raise ConfigError(
            f"{pair[0][0]['variant']!r} and {pair[1][0]['variant']!r} differ in {', '.join(more)} too",
            where=" and ".join(dict.fromkeys(f"grid {grid.name}" for _, grid in pair)),
            remedy="Compare runs that differ in nothing but what their variants declare.",
        )


def _declared_by(grid: Grid, row: Row) -> set[str]:
    """Return the keys that a row's variant and setting declare; the seed is never one of them."""
    changes = [*grid.variants[row["variant"]].items(), ("data", grid.settings[row["setting"]])]
    return {f"{section}.{key}" for section, keys in changes for key in keys} - {"training.seed"}
