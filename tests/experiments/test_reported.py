"""Reported results: the numbers of the sources, no other, each with source and protocol."""

from __future__ import annotations

import re

import pytest

from dwclib.book.pages import draw_reported, reported_page
from dwclib.experiments.reported import SOURCES, TITLES, reported


@pytest.mark.parametrize("name", list(TITLES))
def test_every_row_has_a_source_and_a_protocol(name):
    table = reported(name)
    assert "DWC" in table.index
    assert table.index.is_unique
    assert table["protocol"].str.len().min() > 0
    for named in table["source"]:
        assert set(named.split("; ")) <= set(SOURCES)
    numbers = table.select_dtypes("number").stack().dropna()
    assert ((numbers > 0) & (numbers < 100)).all()


def test_averages_are_those_of_the_three_categories():
    table = reported("fashioniq")
    for k in ("R@10", "R@50"):
        mean = table[[f"{category} {k}" for category in ("dress", "shirt", "toptee")]].mean(
            axis=1, skipna=False
        )
        known = mean.dropna().index
        assert (mean[known] - table.loc[known, f"average {k}"]).abs().max() < 0.02
    overall = (table["average R@10"] + table["average R@50"]) / 2
    assert (overall - table["mean"]).abs().max() < 0.02


def test_recall_grows_with_k():
    for name in ("shoes", "fashion200k"):
        table = reported(name)
        assert (table["R@1"] < table["R@10"]).all()
        assert (table["R@10"] < table["R@50"]).all()


def test_the_page_quotes_every_number_once_per_table(tmp_path):
    page = reported_page("reported.svg")
    for name in TITLES:
        numbers = reported(name).select_dtypes("number").stack().dropna()
        assert all(re.search(rf"\b{value:.2f}\b", page) for value in numbers)
    for name in TITLES:
        best = reported(name).select_dtypes("number").max()
        assert all(re.search(rf"\| \*\*{value:.2f}\*\* \|", page) for value in best)
    assert "**DWC**" not in page
    assert "| method | protocol | source |" in page
    draw_reported(tmp_path / "reported.svg")
    assert (tmp_path / "reported.svg").read_text().startswith("<?xml")
    draw_reported(tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_bytes() == (tmp_path / "reported.svg").read_bytes()
