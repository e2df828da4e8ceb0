"""The claims page: every verdict follows from stored rows by the written rule."""

from __future__ import annotations

import re

import pytest
import yaml

from dwclib.book.pages import claims_page
from dwclib.errors import ConfigError, ResultsError
from dwclib.experiments import FOLDER, verdict
from dwclib.experiments.claims import CLAIMS, TRIALS, judge


@pytest.fixture(scope="module")
def parts():
    return judge()


def test_every_part_has_a_result_and_the_verdict_that_the_rule_gives(parts):
    declared = yaml.safe_load(CLAIMS.read_text())
    assert [part.says for part in parts] == [p["says"] for c in declared.values() for p in c["parts"]]
    assert {"C1", "C2", "C3"} <= set(declared)
    for part in parts:
        if part.found is None:
            assert part.why_not
            assert part.verdict == "not testable here"
            continue
        interval = part.found.interval
        assert interval.low <= interval.mean <= interval.high
        expected = verdict(interval, p=part.found.p)
        assert part.verdict in (expected, f"{expected} here")


def test_every_test_names_rows_that_are_stored():
    for claim in yaml.safe_load(CLAIMS.read_text()).values():
        for part in claim["parts"]:
            for options in (part[name] for name in TRIALS if name in part):
                assert (FOLDER / options["grid"] / "laptop.json").exists()


def test_the_page_shows_every_part_with_its_interval(parts):
    page = claims_page()
    for part in parts:
        row = next(line for line in page.splitlines() if line.startswith(f"| {part.says} |"))
        assert f"**{part.verdict}**" in row
        assert part.found is None or str(part.found.interval) in row
    assert not re.search(r"\{\w+\}", page)


def _write(path, **part):
    path.write_text(yaml.safe_dump({"C1": {"says": "It works.", "parts": [{"says": "This too.", **part}]}}))
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


def test_a_part_is_said_once(tmp_path):
    path = _write(tmp_path / "claims.yml", untestable="No world for it.")
    content = yaml.safe_load(path.read_text())
    content["C1"]["parts"].append(dict(content["C1"]["parts"][0]))
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="twice"):
        judge(path)


def test_a_claim_without_rows_is_no_claim(tmp_path):
    part = {"grid": "noise", "better": "soft labels", "worse": "hard labels", "stream": "clip"}
    with pytest.raises(ResultsError, match="rows are missing"):
        judge(_write(tmp_path / "claims.yml", gain=part), folder=tmp_path)
