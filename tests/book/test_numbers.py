"""One thing has one number: a named quantity is the same on every page of the site."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from dwclib.book.voice import number

SHOWN = re.compile(r'<span data-quantity="([^"]+)">([^<]*)</span>')


def shown_on(pages: Mapping[str, str]) -> dict[str, dict[str, set[str]]]:
    """Return by quantity, and by page where it appears, how it is written there."""
    found: dict[str, dict[str, set[str]]] = {}
    for page, text in pages.items():
        for name, value in SHOWN.findall(text):
            found.setdefault(name, {}).setdefault(page, set()).add(value)
    return found


def contradictions(pages: Mapping[str, str]) -> dict[str, dict[str, set[str]]]:
    """Return the quantities that are not written alike wherever they appear."""
    return {name: on for name, on in shown_on(pages).items() if len(set().union(*on.values())) > 1}


@pytest.mark.parametrize(("other", "differs"), [("48.8 [48.1, 49.5]", False), ("49.4 [48.7, 50.1]", True)])
def test_two_pages_that_differ_are_listed(other, differs):
    def page(value: str) -> str:
        return f'<li>R@10: <span data-quantity="sum, R@10">{value}</span>, and <span>1.0</span></li>'

    pages = {"one": page("48.8 [48.1, 49.5]"), "two": page(other), "three": "<p>none</p>"}
    expected = {"sum, R@10": {"one": {"48.8 [48.1, 49.5]"}, "two": {other}}}
    assert contradictions(pages) == (expected if differs else {})


def test_what_the_voice_writes_is_found():
    assert list(shown_on({"page": number("CLIP stream", "R@10")})) == ["CLIP stream, R@10"]
