"""What a page says of itself to those who have not opened it: its description, its card, its address."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from bs4 import BeautifulSoup, Tag

NAME = "The DWC book"
PROMISE = ("Find the picture that you mean", "with a picture and a sentence.")
ASIDE = ("search.html", "genindex.html", "404.html")  # what searches of the web leave out
CARD, CARD_ALT = (
    (1200, 630),
    "A reference dress, a modification text, and the first five answers of a search.",
)
LONGEST = 158  # letters of a description that searches show
SYMBOLS = re.compile(r"\s*\\\(.*?\\\)")  # which only MathJax can read


class Site(NamedTuple):
    """A rendered site.

    Fields
    ------
    folder : with its pages.
    base : the address that it will have, with a slash at its end; "" where none is known.
    """

    folder: Path
    base: str

    @property
    def pages(self) -> list[Path]:
        """Its pages, but the one that only leads to the first."""
        return [path for path in sorted(self.folder.rglob("*.html")) if path != self.folder / "index.html"]

    def address(self, page: Path) -> str:
        """Return the address of one of its pages."""
        return self.base + page.relative_to(self.folder).as_posix()


def seen_from(folder: Path, file: Path) -> str:
    """Return a file's address on a page of a folder, with the slashes of the web."""
    return Path(os.path.relpath(file, folder)).as_posix()


def shortened(text: str, longest: int) -> str:
    """Return as many whole words of a text as fit into so many letters."""
    return text if len(text) <= longest else text[: longest - 4].rpartition(" ")[0] + " ..."


def describe(page: BeautifulSoup, path: Path, site: Site) -> None:
    """Say in a page's head what it is about, for searches and for who is sent a link.

    Parameters
    ----------
    page : changed in place.
    path, site : its file, and the site that it is of.
    """
    if path.name in ASIDE:
        _meta(page, name="robots", content="noindex")
        if path.name == "404.html" and site.base:  # it is shown in the place of any page
            (page.select_one("head") or page).insert(0, page.new_tag("base", href=site.base))
        return
    text = first_words(page)
    told = {
        "title": (page.select_one("title") or page).get_text(),
        "description": text,
        "type": "article",
        "site_name": NAME,
    }
    if site.base:
        told |= {"url": site.address(path), "image": f"{site.base}_static/card.png", "image:alt": CARD_ALT}
    _meta(page, name="description", content=text)
    _meta(page, name="twitter:card", content="summary_large_image")
    for key, content in told.items():
        _meta(page, property=f"og:{key}", content=content)


def _meta(page: BeautifulSoup, **attributes: str) -> None:
    (page.select_one("head") or page).append(page.new_tag("meta", attrs=attributes))


def first_words(page: Tag) -> str:
    """Return the beginning of what a page says, in whole sentences where that goes, else in whole words."""
    parts = page.select("article p:not([class])")
    said = [" ".join(SYMBOLS.sub("", part.get_text()).split()) for part in parts]
    text = " ".join([paragraph for paragraph in said if paragraph][:3])
    whole = re.match(rf"(.{{60,{LONGEST}}}[.?!])\s", text) if len(text) > LONGEST else None
    return whole[1] if whole else shortened(text, LONGEST)


def write_map(site: Site) -> None:
    """Write the first page's redirection and, where the site's address is known, its map for searches."""
    home = "book/index.html"
    canonical = f'<link rel="canonical" href="{site.base}{home}">' if site.base else ""
    (site.folder / "index.html").write_text(
        _ROOT.format(name=NAME, home=home, canonical=canonical), encoding="utf-8"
    )
    if site.base:
        listed = [site.address(path) for path in site.pages if path.name not in ASIDE]
        urls = "\n".join(f"<url><loc>{address}</loc></url>" for address in listed)
        (site.folder / "sitemap.xml").write_text(_SITEMAP.format(urls=urls), encoding="utf-8")
        (site.folder / "robots.txt").write_text(
            f"User-agent: *\nSitemap: {site.base}sitemap.xml\n", encoding="utf-8"
        )


def draw_card(static: Path) -> None:
    """Draw what is shown of the book where somebody links to it: its name above its cover.

    Parameters
    ----------
    static : the site's folder with the cover, ``readme.png``.
    """
    from PIL import Image, ImageDraw, ImageFont

    from dwclib.book.plots import INK, PAPER, TEXT

    card = Image.new("RGB", CARD, PAPER)
    with Image.open(static / "readme.png") as cover:
        size = (CARD[0] - 40, (CARD[0] - 40) * cover.height // cover.width)
        card.paste(cover.convert("RGB").resize(size, Image.Resampling.LANCZOS), (20, 360))
    draw = ImageDraw.Draw(card)
    draw.text((60, 70), NAME, INK, ImageFont.load_default(84))
    for line, words in enumerate(PROMISE):
        draw.text((62, 190 + 56 * line), words, TEXT, ImageFont.load_default(44))
    card.save(static / "card.png")


_ROOT = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{name}</title>
<link rel="icon" href="_static/logo.svg">
<meta http-equiv="refresh" content="0; url={home}">
{canonical}
</head>
<body><a href="{home}">{name}</a></body>
</html>
"""

_SITEMAP = """<?xml version="1.0" encoding="UTF-8"?>
<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">
{urls}
</urlset>
"""
