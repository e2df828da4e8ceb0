"""The paper's claims and their verdicts: ``data/claims.yml`` names the tests, stored rows decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from pydantic import ConfigDict, Field, RootModel, model_validator

from dwclib.errors import ConfigError, brief, check_choice
from dwclib.experiments.grid import read_grid
from dwclib.experiments.results import Results
from dwclib.experiments.rows import unpack
from dwclib.experiments.schema import Kept, Named, Plain, checked
from dwclib.experiments.statistics import Comparison, Gain, compare, gain_of, mean_gain
from dwclib.experiments.store import FOLDER, load
from dwclib.files import DATA, read_yaml

CLAIMS = DATA / "claims.yml"
STREAMS = {"clip": "CLIP stream", "cnn": "CNN stream", "both": "both streams"}


class DeclaredPart(Kept):
    """A part of a claim: its short name, what it says, and its test with options, or why it has none."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, dict[str, str]]  # the test: {"gain": {"grid": "noise", "better": ...}}
    id: Named
    says: Named
    notebook: Plain | None = None
    untestable: str = ""

    @model_validator(mode="after")
    def _has_one_test(self) -> DeclaredPart:
        tests = self.model_extra or {}
        if len(tests) + bool(self.untestable) != 1 or not set(tests) <= set(TRIALS):
            raise ValueError(f"{brief(', '.join(tests)) if tests else 'nothing'} is no test")
        return self


class Claim(Kept):
    """What the paper says, the notebook that tests it (a part may name another), and its parts."""

    name: Named
    says: Named
    notebook: Plain
    parts: list[DeclaredPart] = Field(min_length=1)


class _File(RootModel[dict[Named, Claim]]):
    @model_validator(mode="after")
    def _says_each_once(self) -> _File:
        parts = [part for claim in self.root.values() for part in claim.parts]
        if min(len({part.id for part in parts}), len({part.says for part in parts})) < len(parts):
            raise ValueError("a part stands there twice")
        return self


class Trial(NamedTuple):
    """A way to test a part of a claim.

    Fields
    ------
    gain : from the results to the difference that the part says is positive.
    of : what is measured, in the gain's unit.
    words : what is compared, with the names of the options in braces.
    """

    gain: Callable[..., Gain]
    of: str
    words: str

    def said(self, *, stream: str = "", setting: str = "", beyond: str = "", **options: str) -> str:
        """Say in words what is compared with these options."""
        named = [self.words.format(**options), STREAMS.get(stream, "")]
        named += [f"trained on *{setting}*" if setting else "", f"less that on *{beyond}*" if beyond else ""]
        return ", ".join(filter(None, named))


class Part(NamedTuple):
    """A part of a claim, with its verdict.

    Fields
    ------
    claim, id, says : which claim, which part, and what it says.
    notebook : where its test is shown.
    tested_by : what is compared, in words.
    found : the difference, its corrected p-value and its verdict; None where nothing here can test it.
    unit : of the difference.
    why_not : the reason, where it cannot be tested.
    tests : among how many its p-value is corrected.
    """

    claim: str
    id: str
    says: str
    notebook: str
    tested_by: str = ""
    found: Comparison | None = None
    unit: str = ""
    why_not: str = ""
    tests: int = 0

    @property
    def verdict(self) -> str:
        """As `statistics.verdict` says it, or "not testable here"."""
        return self.found.verdict if self.found else "not testable here"

    @property
    def effect(self) -> str:
        """The difference in its unit with interval and p-value; or why there is none."""
        if self.found is None:
            return self.why_not
        p = f"p = {self.found.p:.3f}" if self.found.p >= 0.001 else "p < 0.001"
        return f"{self.found.interval} {self.unit}, {p}"


def _recall_gain(
    results: Results, *, better: str, worse: str, stream: str, setting: str = "", beyond: str = ""
) -> Gain:
    """Return by how many points of R@10 one variant is ahead; `beyond` what it is in another setting."""
    ahead = results.ahead(better, worse, setting, stream=stream)
    return gain_of(ahead - results.ahead(better, worse, beyond, stream=stream) if beyond else ahead)


def _weight_follows_text(results: Results, *, variant: str, stream: str) -> Gain:
    """Return minus Spearman's correlation of the weight with the text's share, in hundredths."""
    from scipy.stats import spearmanr

    share = results.dataset.text_share()
    weights = [unpack(row["weights"][stream]) for row in results.runs_of(variant)]
    found = [-100 * float(spearmanr(share, weight).statistic) for weight in weights]
    return mean_gain(found, unit="hundredth")


def _weight_follows_image(results: Results, *, variant: str, stream: str) -> Gain:
    """Return by how many hundredths the mean weight falls from a clear reference to the most hidden one."""
    levels = [row["probes"][stream]["hidden"] for row in results.runs_of(variant)]
    found = [100 * (level[0]["weight"] - level[-1]["weight"]) for level in levels]
    return mean_gain(found, unit="hundredth")


def _gap(results: Results, *, wide: str, narrow: str, stream: str, between: str) -> Gain:
    """Return by how many hundredths the distance of two clouds' centres shrinks."""
    gaps = [[row["gaps"][stream][between] for row in pair] for pair in results.pairs(wide, narrow)]
    return mean_gain([100 * (first - second) for first, second in gaps], unit="hundredth")


def _streams(results: Results, *, variant: str) -> Gain:
    """Return by how many points both streams together are ahead of the one that is better on average."""
    better = max(("clip", "cnn"), key=lambda stream: results.hits(variant, stream=stream).mean())
    return results.gain(variant, variant, stream="both", over_stream=better)


TEXT = "the weight of *{variant}* against the share of the target that the text tells"
IMAGE = "the mean weight of *{variant}*, with the reference clear and with it hidden"
TRIALS: Mapping[str, Trial] = {
    "gain": Trial(_recall_gain, "R@10", "*{better}* against *{worse}*"),
    "weight_follows_text": Trial(_weight_follows_text, "Spearman's correlation, sign turned", TEXT),
    "weight_follows_image": Trial(_weight_follows_image, "the weight", IMAGE),
    "gap": Trial(_gap, "a unit of length", "the gap between {between}, *{wide}* against *{narrow}*"),
    "streams": Trial(_streams, "R@10", "both streams of *{variant}* against the better one"),
}


def read_claims(path: Path = CLAIMS) -> dict[str, Claim]:
    """Read the claims and their tests.

    Raises
    ------
    ConfigError
        When the file declares none, or a part twice.
    """
    return checked(_File, read_yaml(path), path, remedy="See data/claims.yml.").root


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

    gains: dict[str, Gain] = {}
    parts: list[Part] = []
    for claim, content in read_claims(path).items():
        for declared in content.parts:
            notebook = declared.notebook or content.notebook
            part = Part(claim, declared.id, declared.says, notebook, why_not=declared.untestable)
            for test, options in (declared.model_extra or {}).items():
                trial, grid = TRIALS[test], options.pop("grid", "none")
                try:
                    gain = gains[part.id] = trial.gain(results(grid), **options)
                    part = part._replace(tested_by=trial.said(**options), unit=f"{gain.unit}s of {trial.of}")
                except (TypeError, KeyError) as error:
                    raise ConfigError(
                        f"the test {test!r} cannot be made so ({error})",
                        where=f"{path}, {brief(part.says)}",
                        remedy="See dwclib/experiments/claims.py for what it takes.",
                    ) from error
            parts.append(part)
    found = compare(gains)
    return [part._replace(found=found.get(part.id), tests=len(gains)) for part in parts]


_judged = cache(judge)


def verdict_of(part: str, *, profile: str = "laptop") -> Part:
    """Return a part of a claim with its verdict, which is corrected once, for all tests of the claims page.

    Parameters
    ----------
    part : its short name, such as "mutual enhancement, both".
    profile : of the results.

    Raises
    ------
    ConfigError
        When there is no such part.
    """
    parts = {found.id: found for found in _judged(profile=profile)}
    check_choice("part of a claim", part, parts, CLAIMS)
    return parts[part]
