"""The paper's claims and their verdicts: ``data/claims.yml`` names the tests, stored rows decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import ConfigDict, Field, RootModel, field_validator, model_validator

from dwclib.errors import ConfigError, brief
from dwclib.experiments import (
    FOLDER,
    Comparison,
    Gain,
    Results,
    compare,
    gain_of,
    load,
    mean_gain,
    read_grid,
    unpack,
)
from dwclib.experiments.schema import Kept, Named, checked
from dwclib.files import DATA, read_yaml

CLAIMS = DATA / "claims.yml"


class DeclaredPart(Kept):
    """A part of a claim: what it says, and its test with options, or why it has none."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, dict[str, str]]  # the test: {"gain": {"grid": "noise", "better": ...}}
    says: Named
    untestable: str = ""

    @model_validator(mode="after")
    def _has_one_test(self) -> DeclaredPart:
        tests = self.model_extra or {}
        if len(tests) + bool(self.untestable) != 1 or not set(tests) <= set(TRIALS):
            raise ValueError(f"{brief(', '.join(tests)) if tests else 'nothing'} is no test")
        return self


class Claim(Kept):
    """What the paper says, and its parts."""

    says: Named
    parts: list[DeclaredPart] = Field(min_length=1)

    @field_validator("parts")
    @classmethod
    def _says_each_once(cls, parts: list[DeclaredPart]) -> list[DeclaredPart]:
        if len({part.says for part in parts}) < len(parts):
            raise ValueError("a part stands there twice")
        return parts


class Trial(NamedTuple):
    """A way to test a part of a claim.

    Fields
    ------
    gain : from the results to the difference that the part says is positive.
    unit : of the difference.
    """

    gain: Callable[..., Gain]
    unit: str


class Part(NamedTuple):
    """A part of a claim, with its verdict.

    Fields
    ------
    claim, says : which claim, and what of it.
    where : the rows that decide.
    unit : of the difference.
    found : the difference, its corrected p-value and its verdict; None where nothing here can test it.
    why_not : the reason then.
    """

    claim: str
    says: str
    where: str
    unit: str
    found: Comparison | None
    why_not: str = ""

    @property
    def verdict(self) -> str:
        """One of "supported here", "not supported here", "not detectable", "not testable here"."""
        if self.found is None:
            return "not testable here"
        return {"not detectable": "not detectable"}.get(self.found.verdict, f"{self.found.verdict} here")


def _recall_gain(
    results: Results, *, better: str, worse: str, stream: str, setting: str = "", beyond: str = ""
) -> Gain:
    """Return by how many points of R@10 one variant is ahead; `beyond` what it is in another setting."""

    def ahead(where: str) -> np.ndarray:
        return results.hits(better, where, stream=stream) - results.hits(worse, where, stream=stream)

    return gain_of(ahead(setting) - ahead(beyond) if beyond else ahead(setting))


def _weight_follows_text(results: Results, *, variant: str, stream: str) -> Gain:
    """Return minus Spearman's correlation of the weight with the text's share, in hundredths."""
    from scipy.stats import spearmanr

    share = results.dataset.text_share()
    weights = [unpack(row["weights"][stream]) for row in results.runs_of(variant)]
    return mean_gain([-100 * float(spearmanr(share, found).statistic) for found in weights])


def _weight_follows_image(results: Results, *, variant: str, stream: str) -> Gain:
    """Return by how many hundredths the mean weight falls from a clear reference to the most hidden one."""
    levels = [row["probes"][stream]["hidden"] for row in results.runs_of(variant)]
    return mean_gain([100 * (level[0]["weight"] - level[-1]["weight"]) for level in levels])


def _gap(results: Results, *, wide: str, narrow: str, stream: str, between: str) -> Gain:
    """Return by how many hundredths the distance of two clouds' centres shrinks."""
    pairs = zip(results.runs_of(wide), results.runs_of(narrow), strict=True)
    return mean_gain([100 * (w["gaps"][stream][between] - n["gaps"][stream][between]) for w, n in pairs])


def _streams(results: Results, *, variant: str) -> Gain:
    """Return by how many points both streams together are ahead of the one that is better on average."""
    clip, cnn, both = (results.hits(variant, stream=stream) for stream in ("clip", "cnn", "both"))
    return gain_of(both - max((clip, cnn), key=np.mean))


TRIALS: Mapping[str, Trial] = {
    "gain": Trial(_recall_gain, "points of R@10"),
    "weight_follows_text": Trial(_weight_follows_text, "hundredths of Spearman's correlation, sign turned"),
    "weight_follows_image": Trial(_weight_follows_image, "hundredths of the weight"),
    "gap": Trial(_gap, "hundredths of the distance"),
    "streams": Trial(_streams, "points of R@10"),
}


def read_claims(path: Path = CLAIMS) -> dict[str, Claim]:
    """Read the claims and their tests.

    Raises
    ------
    ConfigError
        When the file declares none.
    """
    return checked(RootModel[dict[Named, Claim]], read_yaml(path), path, remedy="See data/claims.yml.").root


def judge(path: Path = CLAIMS, *, profile: str = "laptop", folder: Path = FOLDER) -> list[Part]:
    """Return every part of every claim with its verdict, by the rule of `statistics.verdict`.

    Parameters
    ----------
    path : of the claims.
    profile, folder : of the results. All p-values are corrected together.

    Raises
    ------
    ConfigError
        For a test that there is not, or one that is declared wrongly.
    ResultsError
        When its rows are missing.
    """

    @cache
    def results(grid: str) -> Results:
        return load(read_grid(grid, profile), folder=folder)

    gains: dict[int, Gain] = {}
    parts: list[Part] = []
    for claim, content in read_claims(path).items():
        for part in content.parts:
            if part.untestable:
                parts.append(Part(claim, part.says, "", "", None, part.untestable))
                continue
            ((test, options),) = (part.model_extra or {}).items()
            grid = options.pop("grid", "none")
            try:
                gains[len(parts)] = TRIALS[test].gain(results(grid), **options)
            except (TypeError, KeyError) as error:
                raise ConfigError(
                    f"the test {test!r} cannot be made so ({error})",
                    where=f"{path}, {brief(part.says)}",
                    remedy="See dwclib/experiments/claims.py for what it takes.",
                ) from error
            where = f"{grid}: {', '.join(options.values())}"
            parts.append(Part(claim, part.says, where, TRIALS[test].unit, None))
    found = compare(gains)
    return [part._replace(found=found.get(place)) for place, part in enumerate(parts)]
