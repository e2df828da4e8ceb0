"""The leaderboard: all ways to compose a query, trained equally long in one setting (notebook 10)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from dwclib.errors import check_choice
from dwclib.experiments.claims import verdict_of
from dwclib.experiments.grid import read_grid
from dwclib.experiments.quantities import QUANTITIES, Quantity, read_quantities
from dwclib.experiments.results import Results
from dwclib.experiments.statistics import Comparison, Gain, Interval, compare
from dwclib.experiments.store import FOLDER, load

if TYPE_CHECKING:
    from dwclib.data.synthfashion import SynthFashion

ROWS = (
    "image only",
    "text only",
    "sum",
    "concatenation",
    "TIRG",
    "CLIP4Cir combiner",
    "CLIP stream",
    "CNN stream without mutual enhancement",
    "both streams without mutual enhancement",
    "both streams",
    "both streams as released",
)  # headline quantities
CLAIMED = {"CLIP stream": "all against the sum, clip"}  # rows whose difference from the sum is a claim's test
MEASURES = ("R@1", "R@10", "R@50", "mAP@10", "wrong@10")


class Standing(NamedTuple):
    """A row of the leaderboard.

    Fields
    ------
    seeds : how many runs it is the mean of.
    measures : by name, each with its 95 % interval.
    ahead : by how many points of R@10 it is ahead of the rival, paired by seed and query; the p-value is
        corrected by Holm for all rows, or is the claims page's where that tests the same. None for the rival.
    """

    seeds: int
    measures: dict[str, Interval]
    ahead: Comparison | None


def standings(
    *, over: str = "sum", profile: str = "laptop", path: Path = QUANTITIES, folder: Path = FOLDER
) -> dict[str, Standing]:
    """Return where each of `ROWS` stands, from the stored rows.

    Parameters
    ----------
    over : the rival, one of `ROWS`, that the others are compared with.
    profile, path, folder : as `dwclib.experiments.quantity` takes them.

    Raises
    ------
    ConfigError
        For a rival that is not on it; or when a row and the rival differ in more than their variants and
        streams.
    ResultsError
        When a row is missing.
    """
    check_choice("row of the leaderboard", over, ROWS, path)
    declared = read_quantities(path)
    named = {name: declared[name] for name in ROWS}
    grids = _load(named, profile, folder)
    rivals = {name: _gain(known, named[over], grids) for name, known in named.items() if name != over}
    ahead = compare(rivals)
    if over == "sum" and folder == FOLDER:
        claimed = {name: verdict_of(part, profile=profile).found for name, part in CLAIMED.items()}
        ahead |= {name: found for name, found in claimed.items() if found}
    return {name: _standing(known, grids[known.grid], ahead.get(name)) for name, known in named.items()}


def wrong_by_chance(dataset: SynthFashion) -> Float[np.ndarray, " queries"]:
    """Return which per cent of each query's answers the text excludes where a random order gives them.

    Parameters
    ----------
    dataset : its queries and its gallery; the reference is never an answer.
    """
    excluded, references = dataset.excluded(), dataset.gallery_position(dataset.references)
    inside = np.flatnonzero(references >= 0)
    excluded[inside, references[inside]] = False
    answers = excluded.shape[1] - (references >= 0)
    return 100 * excluded.sum(axis=1) / answers


def _load(named: Mapping[str, Quantity], profile: str, folder: Path) -> dict[str, Results]:
    variants: dict[str, list[str]] = {}
    for known in named.values():
        variants.setdefault(known.grid, []).append(known.variant)
    return {
        grid: load(read_grid(grid, profile).only(variants=kept), folder=folder)
        for grid, kept in variants.items()
    }


def _gain(known: Quantity, rival: Quantity, grids: Mapping[str, Results]) -> Gain:
    return grids[known.grid].gain(
        known.variant, rival.variant, stream=known.stream, over_stream=rival.stream, of=grids[rival.grid]
    )


def _standing(known: Quantity, found: Results, ahead: Comparison | None) -> Standing:
    measures = {measure: found.value(known.variant, measure, stream=known.stream) for measure in MEASURES}
    return Standing(found.grid.seeds, measures, ahead)
