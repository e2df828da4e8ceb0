"""The whole book as one PDF: its built pages laid one behind the other, printed by a headless Chromium."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from bs4 import BeautifulSoup, Tag

from dwclib.book.execute import BookError
from dwclib.book.head import seen_from

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

FILE = "dwc-book.pdf"
HOME = "book/index.html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
LEFT_OUT = "script, noscript, a.headerlink, .cell:not(.tag_solution) > details.above-input"
KEPT = re.compile("mathjax|book.js", re.IGNORECASE)  # scripts that lay equations out
WIDE, HIGH = 673, 988  # pixels that A4 leaves within its margins: equations shrink to that
PATIENCE = 600_000  # milliseconds for a book on a busy machine
READY = "() => window.MathJax?.startup ? MathJax.startup.promise.then(() => true) : true"
LOADED = "() => [...document.images].every(image => image.complete)"
FOOT = '<p style="font-size: 8px; width: 100%; text-align: center"><span class="pageNumber"></span></p>'


def print_book(html: Path) -> Path:
    """Print the built site as one PDF in its folder, and let its first page lead there.

    Parameters
    ----------
    html : the site.

    Raises
    ------
    BookError
        When there is no site, no browser that starts, or no playwright to lead it.
    """
    if not (html / HOME).exists():
        raise BookError("there is no site to print", where=html, remedy="Call make book first.")
    paper, pdf = html / "print.html", html / FILE
    try:
        paper.write_text(one_page(html), encoding="utf-8")
        _print(paper, pdf)
    finally:
        paper.unlink(missing_ok=True)
    _link(html / HOME, pdf)
    return pdf


def _launched(playwright: Playwright) -> Browser:
    """Start the browser of the PATH or, as installers keep Chrome out of it, the Chrome of this system."""
    from playwright.sync_api import Error

    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    try:
        return playwright.chromium.launch(executable_path=found, channel=None if found else "chrome")
    except Error as error:
        none = "there is no Chromium and no Chrome to print with"
        raise BookError(
            f"it does not start ({error.message.splitlines()[0]})" if found else none,
            where=found or "PATH",
            remedy="Install Chromium or Chrome, and call python -m dwclib pdf again.",
        ) from error


def _print(paper: Path, pdf: Path) -> None:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise BookError(
            "playwright is not installed", where="packages", remedy="Install it: pip install playwright."
        ) from error
    with sync_playwright() as playwright:
        chromium = _launched(playwright)
        page = chromium.new_page(offline=True, viewport={"width": WIDE, "height": HIGH})
        page.set_default_timeout(PATIENCE)
        page.emulate_media(media="print", color_scheme="light")
        page.goto(paper.as_uri(), wait_until="load")
        page.wait_for_function(READY)
        page.wait_for_function(LOADED)
        page.pdf(
            path=pdf, prefer_css_page_size=True, print_background=True, tagged=True, outline=True,
            display_header_footer=True, header_template="<p></p>", footer_template=FOOT,
        )  # fmt: skip
        chromium.close()


def one_page(html: Path) -> str:
    """Return all pages of a site as one, in the order of its contents; what leads to a page leads within.

    Parameters
    ----------
    html : the site; the page is one of its folder.
    """
    home = html / HOME
    head, contents = _part_of(home, "head"), _part_of(home, "nav.bd-links")
    listed = [home, *(_target(str(link["href"]), home)[0] for link in contents.select("a[href]"))]
    marks = {path: path.stem for path in dict.fromkeys(listed) if path.exists()}
    title, *pages = (_laid_out(path, html, marks) for path in marks)
    _lead(contents, home, html, marks)
    _lead(head, home, html, marks)
    for script in head.select("script"):
        if not KEPT.search(f"{script.get('src', '')}{script.string or ''}"):
            script.decompose()
    lists = "".join(map(str, contents.select(".caption, ul")))
    return _PAPER.format(head=head.decode_contents(), title=title, contents=lists, pages="\n".join(pages))


def _part_of(path: Path, selector: str) -> Tag:
    page = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
    if (part := page.select_one(selector)) is None:
        raise BookError(f"a page has no {selector}", where=path, remedy="Build the site anew: make book.")
    return part


def _laid_out(path: Path, html: Path, marks: Mapping[Path, str]) -> str:
    """Return a page's article as a part of the whole: its folds open or left out, its anchors its own."""
    article = _part_of(path, "article")
    for part in article.select(LEFT_OUT):
        part.decompose()
    for fold in article.select("details"):
        fold["open"] = ""
    for picture in article.select("img[loading]"):
        del picture["loading"]
    for link in article.select("a.enlarge"):
        link.unwrap()
    _lead(article, path, html, marks)
    for anchor in article.select("[id]"):
        anchor["id"] = f"{marks[path]}--{anchor['id']}"
    return f'<section class="whole" id="{marks[path]}">{article.decode_contents()}</section>'


def _lead(part: Tag, path: Path, html: Path, marks: Mapping[Path, str]) -> None:
    """Let what a part of a page names by its address be found from the whole."""
    for name in ("href", "src"):
        for tag in part.select(f"[{name}]"):
            address = str(tag[name])
            if re.match(r"[a-z]+:", address):
                continue
            file, place = _target(address, path)
            if file in marks:
                tag[name] = f"#{marks[file]}--{place}" if place else f"#{marks[file]}"
            else:
                tag[name] = seen_from(html, file)


def _target(address: str, page: Path) -> tuple[Path, str]:
    """Return the file and the anchor that an address on a page means."""
    name, _, place = address.partition("#")
    name = unquote(name.partition("?")[0])
    return Path(os.path.normpath(page.parent / name)) if name else page, place


def _link(home: Path, pdf: Path) -> None:
    """Let the first page lead to the PDF, below its title."""
    page = BeautifulSoup(home.read_text(encoding="utf-8"), "html.parser")
    for old in page.select("p.whole-book"):
        old.decompose()
    size = pdf.stat().st_size / 1e6
    link = page.new_tag("a", href=seen_from(home.parent, pdf), string="The whole book as one PDF")
    line = page.new_tag("p", attrs={"class": "whole-book"})
    line.extend([link, f" ({size:.1f} MB)"])
    page.select("article h1")[0].insert_after(line)
    home.write_text(str(page), encoding="utf-8")


_PAPER = """<!DOCTYPE html>
<html lang="en" data-theme="light" data-mode="light">
<head>
{head}
<style>
@page {{ size: A4; margin: 17mm 16mm 18mm; }}
body {{ background: none; }}
.whole ~ .whole {{ break-before: page; }}
nav.whole ul {{ display: block; list-style: none; margin: 0; padding: 0; }}
nav.whole .caption {{ margin: .9rem 0 .2rem; font-weight: 600; }}
</style>
</head>
<body>
<main class="bd-content"><div class="bd-article">
{title}
<nav class="whole"><h1>Contents</h1>{contents}</nav>
{pages}
</div></main>
</body>
</html>
"""
