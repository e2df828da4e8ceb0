"""The claims page: every verdict follows from stored rows by the written rule."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from dwclib.book.pages import claims_page, findings
from dwclib.errors import ConfigError, ResultsError
from dwclib.experiments import FOLDER, verdict
from dwclib.experiments.claims import CLAIMS, TRIALS, judge, read_claims, verdict_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def parts():
    return judge()


def test_every_part_has_a_result_and_the_verdict_that_the_rule_gives(parts):
    declared = yaml.safe_load(CLAIMS.read_text())
    assert [part.id for part in parts] == [p["id"] for c in declared.values() for p in c["parts"]]
    assert {"C1", "C2", "C3"} <= set(declared)
    for part in parts:
        if part.found is None:
            assert part.effect == part.why_not != ""
            assert part.verdict == "not testable here"
            continue
        interval = part.found.interval
        assert interval.low <= interval.mean <= interval.high
        assert part.verdict == verdict(interval, p=part.found.p, unit=part.unit.split()[0].removesuffix("s"))
        assert part.tests == sum(one.found is not None for one in parts)


def test_a_part_that_is_asked_for_alone_is_judged_with_all_others(parts):
    assert [verdict_of(part.id) for part in parts] == parts
    with pytest.raises(ConfigError, match="no part of a claim 'mutual love'"):
        verdict_of("mutual love")


def test_every_test_names_rows_that_are_stored():
    for claim in yaml.safe_load(CLAIMS.read_text()).values():
        for part in claim["parts"]:
            for options in (part[name] for name in TRIALS if name in part):
                assert (FOLDER / options["grid"] / "laptop.json").exists()


def test_the_page_counts_first_and_shows_every_part_with_its_interval_and_its_notebook(parts):
    page = claims_page()
    counts = Counter(part.verdict for part in parts)
    first = re.sub(r"<[^>]+>", "", page.split("\n\n")[1])
    assert all(f"{n} {verdict}" in first for verdict, n in counts.items())
    for part in parts:
        row = next(line for line in page.splitlines() if f"| {part.says} |" in line)
        assert re.match(rf'\| <span class="verdict [a-z-]+">{part.verdict}</span> \|', row)
        assert part.effect in row
        assert part.tested_by.replace("*full*", "the full model") in row
        assert (ROOT / "notebooks" / f"{part.notebook}.ipynb").exists()
        assert f"(../notebooks/{part.notebook}.ipynb)" in row
    headings = re.findall(r"^## (.+)", page, re.MULTILINE)
    assert headings == [claim.name for claim in read_claims().values()]
    assert not re.search(r"\{\w+\}", page)


def test_the_first_page_has_three_findings_with_their_verdicts_and_intervals(parts):
    lines = findings().splitlines()
    assert len(lines) == 3
    for line in lines:
        (part,) = (part for part in parts if part.says in line)
        assert f">{part.verdict}</span>" in line
        assert part.effect in line


def test_what_is_compared_is_said_in_words():
    options = {"better": "full", "worse": "sum", "stream": "clip", "setting": "vague", "beyond": "clean"}
    said = TRIALS["gain"].said(**options)
    assert said == "*full* against *sum*, CLIP stream, trained on *vague*, less that on *clean*"


def test_the_old_names_of_verdicts_are_gone():
    words = "not " + "supported", "not " + "detectable", "supported " + "here"
    files = [path for folder in ("dwclib", "notebooks", "book", "data/claims.yml", "tests")
             for path in [ROOT / folder, *(ROOT / folder).rglob("*")]
             if path.suffix in (".py", ".ipynb", ".md", ".yml")]  # fmt: skip
    assert [str(path) for path in files if any(word in path.read_text().lower() for word in words)] == []


def _write(path, **part):
    path.write_text(
        yaml.safe_dump(
            {
                "C1": {
                    "name": "It",
                    "says": "It works.",
                    "notebook": "01",
                    "parts": [{"id": "this", "says": "This.", **part}],
                }
            }
        )
    )
    return path


@pytest.mark.parametrize(
    ("part", "told"),
    [({}, "nothing"), ({"guess": {"grid": "noise"}}, "guess"), ({"gain": {"better": "full"}}, "no grid"),
     ({"gain": {"grid": "noise", "better": "soft labels"}}, "worse"),
     ({"gain": {"grid": "noise", "better": "x", "worse": "y", "stream": "clip"}}, "'x'"),
     ({"gain": {"grid": "nois", "better": "x", "worse": "y", "stream": "clip"}}, "nois"),
     ({"gain": {"grid": "noise", "better": "soft labels", "worse": "hard labels", "stream": "ear"}}, "ear")],
)  # fmt: skip
def test_a_test_that_cannot_be_made_is_told(tmp_path, part, told):
    with pytest.raises(ConfigError, match=told):
        judge(_write(tmp_path / "claims.yml", **part))


@pytest.mark.parametrize("changes", [{"id": "that"}, {"says": "That."}])
def test_a_part_is_said_once(tmp_path, changes):
    path = _write(tmp_path / "claims.yml", untestable="No world for it.")
    content = yaml.safe_load(path.read_text())
    content["C2"] = content["C1"] | {"parts": [content["C1"]["parts"][0] | changes]}
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="twice"):
        judge(path)


def test_a_claim_without_rows_is_no_claim(tmp_path):
    part = {"grid": "noise", "better": "soft labels", "worse": "hard labels", "stream": "clip"}
    with pytest.raises(ResultsError, match="rows are missing"):
        judge(_write(tmp_path / "claims.yml", gain=part), folder=tmp_path)
