"""The paper's claims and their verdicts: ``data/claims.yml`` names the tests, stored rows decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from dwclib.errors import ConfigError
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
from dwclib.files import ROOT

CLAIMS = ROOT / "data" / "claims.yml"


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
    declared: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    results: dict[str, Results] = {}
    gains: dict[tuple[str, str], Gain] = {}
    parts: dict[tuple[str, str], Part] = {}
    for claim, content in declared.items():
        for part in content["parts"]:
            key = claim, part["says"]
            if key in parts:
                raise ConfigError(
                    f"{part['says']!r} stands there twice", where=path, remedy="Say each part once."
                )
            if "untestable" in part:
                parts[key] = Part(*key, "", "", None, part["untestable"])
                continue
            test, options = _test_of(part, path)
            name = options.pop("grid")
            if name not in results:
                results[name] = load(read_grid(name, profile), folder=folder)
            try:
                gains[key] = TRIALS[test].gain(results[name], **options)
            except (TypeError, KeyError) as error:
                raise ConfigError(
                    f"the test {test!r} cannot be made so ({error})", where=f"{path}, {part['says']}",
                    remedy="See dwclib/experiments/claims.py for what it takes.",
                ) from error  # fmt: skip
            parts[key] = Part(*key, f"{name}: {', '.join(options.values())}", TRIALS[test].unit, None)
    for key, found in compare(gains).items():
        parts[key] = parts[key]._replace(found=found)
    return list(parts.values())


def _test_of(part: Mapping[str, Any], path: Path) -> tuple[str, dict[str, Any]]:
    named = [key for key in part if key != "says"]
    if len(named) != 1 or named[0] not in TRIALS or "grid" not in part[named[0]]:
        raise ConfigError(
            f"{', '.join(named) or 'nothing'} is no test",
            where=f"{path}, {part['says']}",
            remedy=f"Name one of {', '.join(TRIALS)}, with its grid, or say why it is untestable.",
        )
    return named[0], dict(part[named[0]])
