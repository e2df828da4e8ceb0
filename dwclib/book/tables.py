"""One form for the site's tables, whoever made them: pandas, a page of this book, or a notebook's text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bs4 import BeautifulSoup, Tag

NUMBER = re.compile(r"[-+−]?\d[\d.,]*( ?%)?( \[[^\]]*\])?")
BOX, THEIRS = "table-box", "pst-scrollable-table-container"


def tidy_table(page: BeautifulSoup, table: Tag) -> None:
    """Give a table one row of titles, numbers to the right, and a box that it can scroll in.

    Parameters
    ----------
    page, table : changed in place.
    """
    around = table.parent or page
    for style in around.find_all("style", recursive=False):  # pandas brings its own
        style.decompose()
    for part in (table, *table.find_all("tr")):
        for attribute in ("border", "style"):
            del part[attribute]
    _unite_titles(page, table)
    _align(table)
    if THEIRS in around.get_attribute_list("class"):
        around["class"] = f"{THEIRS} {BOX}"
    else:
        table.wrap(page.new_tag("div", attrs={"class": BOX}))


def _unite_titles(page: BeautifulSoup, table: Tag) -> None:
    """Make one row of pandas' several: the names of its index stand below the titles of its columns."""
    rows = table.select("thead tr")
    if rows:
        titles = united([_spread(row) for row in rows], index=len(table.select("tbody tr:first-child > th")))
        if len(rows) > 1:
            for row in rows[1:]:
                row.decompose()
            rows[0].clear()
            rows[0].extend(page.new_tag("th", string=title) for title in titles)
        for cell, title in zip(rows[0].find_all("th"), titles, strict=False):
            if title:
                cell["scope"] = "col"
            else:
                cell.name = "td"  # a corner is no title
    for cell in table.select("tbody th"):
        cell["scope"] = "row"


def _spread(row: Tag) -> list[str]:
    """Return a row's texts, one for each column."""
    return [
        cell.get_text().strip() for cell in row.find_all(["th", "td"]) for _ in range(_span(cell, "colspan"))
    ]


def _span(cell: Tag, way: str) -> int:
    return int(str(cell.get(way, "1")))


def united(rows: Sequence[Sequence[str]], *, index: int) -> list[str]:
    """Return the titles of the columns, of the rows in which pandas spreads them.

    Parameters
    ----------
    rows : of texts, one a column; the last one names the index where nothing stands beside those names.
    index : how many columns the index has.
    """
    *above, last = rows
    if not above or any(last[index:]):
        above = list(rows)
    columns = [", ".join(dict.fromkeys(filter(None, parts))) for parts in zip(*above, strict=True)]
    return [*last[:index], *columns[index:]]


def _align(table: Tag) -> None:
    """Mark the columns of numbers, which stand below each other by their last digit."""
    columns: dict[int, list[Tag]] = {}
    taken: dict[tuple[int, int], bool] = {}
    for number, row in enumerate(table.select("tbody tr")):
        place = 0
        for cell in row.find_all(["th", "td"], recursive=False):
            while taken.get((number, place)):
                place += 1
            taken |= {(number + more, place): True for more in range(_span(cell, "rowspan"))}
            columns.setdefault(place, []).append(cell)
    titles = table.select("thead tr > *")
    for place, cells in columns.items():
        texts = [text for cell in cells if (text := cell.get_text().strip())]
        if texts and all(map(NUMBER.fullmatch, texts)):
            for cell in (*cells, *titles[place : place + 1]):
                cell["class"] = " ".join([*cell.get_attribute_list("class"), "number"])
