"""The last hand on the rendered pages: light, described, linked, and readable by keyboard."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from bs4 import BeautifulSoup
from bs4.element import NavigableString, PageElement

from dwclib.book.head import Site, describe, draw_card, seen_from, write_map
from dwclib.book.tables import tidy_table
from dwclib.book.weight import lighten_picture, thin_icons, thin_pictures
from dwclib.files import atomic

NAMED = re.compile(r"\b[Nn]otebooks?\s+\d\d\b(?:(?:,| and|, and| or| to)\s+\d\d\b)*")
NUMBER = re.compile(r"(?:[Nn]otebooks?\s+)?\d\d")
SILENT = {"a", "pre", "code", "h1", "h2", "h3", "h4", "script", "style", "summary"}
UNUSED = ("*.map", "*.py", "*-macros.html", ".buildinfo")  # of a theme's author, or the cover's
NO_EXCERPTS = '\nif (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;\n'


def finish(rendered: Path, html: Path, *, base: str = "") -> None:
    """Write the site as readers get it.

    Parameters
    ----------
    rendered : what Jupyter Book made; left as it is.
    html : where the site goes; what was there is replaced.
    base : the address that it will have, where that is known: a site map and a card need one.

    Raises
    ------
    BookError
        When a picture has no alternative text, or a path in its place.
    """
    with atomic(html) as folder:
        shutil.copytree(rendered, folder, ignore=shutil.ignore_patterns(*UNUSED))
        site = Site(folder, base)
        thin_icons(folder)
        thin_pictures(folder)
        draw_card(folder / "_static")
        for path in site.pages:
            page = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
            _finish_page(page, path, site)
            path.write_text(str(page), encoding="utf-8")
        write_map(site)
        with (folder / "_static" / "documentation_options.js").open("a", encoding="utf-8") as options:
            options.write(NO_EXCERPTS)  # a page from the disk may not read its neighbours


def _finish_page(page: BeautifulSoup, path: Path, site: Site) -> None:
    for script in page.select('script[src*="fontawesome.js"]'):
        script.decompose()
    # The page is drawn before its scripts are read; what stands in the page itself needs the options.
    for script in page.select('head script[src]:not([src*="documentation_options.js"])'):
        script["defer"] = ""
    for logo in page.select("img.logo__image"):
        logo["width"] = logo["height"] = "64"  # its shape is known before it is there: nothing jumps
    for icon in page.select('[class*="fa-"]'):
        icon["aria-hidden"] = "true"
    for fold in page.select("details > summary[aria-label]"):
        del fold["aria-label"]  # what it shows is its name
    for part in page.select("[role=doc-biblioentry], .citation-list[role]"):
        del part["role"]  # docutils gives a list roles that browsers no longer know
    for picture in page.select("article img"):
        lighten_picture(picture, path, site.folder)
    for picture in page.select("article figure > img"):  # on a phone, a figure's words are small
        picture.wrap(page.new_tag("a", attrs={"class": "enlarge", "href": str(picture["src"])}))
    for table in page.select("article table"):
        tidy_table(page, table)
    describe(page, path, site)
    link_notebooks(page, path, site)


def link_notebooks(page: BeautifulSoup, path: Path, site: Site) -> None:
    """Let "notebook 05", wherever prose names it, lead to that notebook's page.

    Parameters
    ----------
    page : changed in place.
    path, site : its file, and the site that it is of.
    """
    places = {file.name[:2]: file for file in site.pages if re.match(r"\d\d_", file.name) and file != path}
    for article in page.select("article"):
        for text in article.find_all(string=NAMED):
            if not SILENT & {parent.name for parent in text.parents}:
                text.replace_with(*_linked(page, str(text), path, places))


def _linked(page: BeautifulSoup, text: str, path: Path, places: dict[str, Path]) -> list[PageElement]:
    parts: list[PageElement] = []
    end = 0
    for number in (one for named in NAMED.finditer(text) for one in NUMBER.finditer(text, *named.span())):
        if file := places.get(number[0][-2:]):
            link = page.new_tag("a", href=seen_from(path.parent, file), string=number[0])
            parts += [NavigableString(text[end : number.start()]), link]
            end = number.end()
    return [*parts, NavigableString(text[end:])]
