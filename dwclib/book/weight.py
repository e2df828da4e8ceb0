"""What a page weighs: of the theme's icons only those that are used, and pictures in a modern format."""

from __future__ import annotations

import base64
import io
import os
import re
from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote

from bs4 import Tag

from dwclib.book.execute import BookError
from dwclib.book.head import seen_from

ICON = re.compile(r"\bfa-([a-z0-9-]+)")
RULE = re.compile(r'(?:\.fa-[\w-]+:before,?)+\{content:"[^"]*"\}')
ESCAPED = re.compile(r'content:"\\([0-9a-f]{2,4})\s?"')
PRIVATE = re.compile("[\ue000-\uf8ff]")  # where fonts keep icons
SOURCES = re.compile(r"src:url\([^)]*?/(fa-[\w-]+)\.woff2\)[^}]*")
EMBEDDED = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)")
QUALITY = 90
Names = set[str]


def thin_icons(html: Path) -> None:
    """Keep of the theme's icon fonts, and of the style sheet that names them, what the pages show.

    Parameters
    ----------
    html : the rendered site; its pages need the theme's icon script no more.
    """
    static = html / "_static"
    shown = [*html.rglob("*.html"), *static.glob("scripts/*theme.js")]
    names = {name for path in shown for name in ICON.findall(path.read_text(encoding="utf-8"))}
    style = static / "styles" / "pydata-sphinx-theme.css"
    text = RULE.sub(lambda rule: _if_used(rule[0], names), style.read_text(encoding="utf-8"))
    style.write_text(SOURCES.sub(_as_woff, text), encoding="utf-8")
    characters = {sign for path in static.glob("styles/*.css") for sign in _characters(path)}
    for font in static.glob("vendor/fontawesome/webfonts/*.ttf"):
        _subset(font, characters)
    (static / "scripts" / "fontawesome.js").unlink()


def _if_used(rule: str, names: Names) -> str:
    return rule if names & set(ICON.findall(rule)) else ""


def _as_woff(match: re.Match[str]) -> str:
    return f'src:url(../vendor/fontawesome/webfonts/{match[1]}.woff) format("woff")'


def _characters(style: Path) -> set[int]:
    text = style.read_text(encoding="utf-8")
    return {ord(sign) for sign in PRIVATE.findall(text)} | {int(code, 16) for code in ESCAPED.findall(text)}


def _subset(font: Path, characters: set[int]) -> None:
    """Write a font with these characters only, as WOFF, in the place of its full files."""
    from fontTools import subset

    options = subset.Options(flavor="woff")
    loaded = subset.load_font(str(font), options)
    chosen = subset.Subsetter(options)
    chosen.populate(unicodes=characters)
    chosen.subset(loaded)
    subset.save_font(loaded, str(font.with_suffix(".woff")), options)
    for path in (font, font.with_suffix(".woff2")):
        path.unlink()


def thin_pictures(html: Path) -> None:
    """Write pictures as WebP: those in files of their own, and those that stand in drawings.

    Parameters
    ----------
    html : the rendered site; a page that names a PNG of ``_images`` has to name the WebP instead.
    """
    for path in (html / "_images").glob("*.png"):
        path.with_suffix(".webp").write_bytes(as_webp(path.read_bytes()))
        path.unlink()
    for path in (html / "_images").glob("*.svg"):
        path.write_text(EMBEDDED.sub(_embedded, path.read_text(encoding="utf-8")), encoding="utf-8")


def _embedded(match: re.Match[str]) -> str:
    return f"data:image/webp;base64,{base64.b64encode(as_webp(base64.b64decode(match[1]))).decode()}"


def as_webp(picture: bytes) -> bytes:
    """Return a picture as WebP: without loss where that costs little, as it does for flat colours.

    Parameters
    ----------
    picture : a file's content.
    """
    from PIL import Image

    with Image.open(io.BytesIO(picture)) as image:
        exact, lossy = io.BytesIO(), io.BytesIO()
        image.save(exact, "WEBP", lossless=True, method=4)
        image.save(lossy, "WEBP", quality=QUALITY, method=4)
    return min(exact, lossy, key=lambda file: len(file.getvalue()) / (2 if file is exact else 1)).getvalue()


def lighten_picture(picture: Tag, page: Path, html: Path) -> None:
    """Let a picture be a file of a known size that is loaded when it comes near.

    Parameters
    ----------
    picture : an image of a page.
    page, html : that page's file, and the site.

    Raises
    ------
    BookError
        When the picture has no alternative text, or a path in its place.
    """
    alt = str(picture.get("alt", "")).strip()
    if not alt or re.fullmatch(r"\S*[/.]\S*", alt):
        raise BookError(
            f"a picture has {alt!r} as its alternative text",
            where=page.relative_to(html),
            remedy="Say in a sentence what it shows.",
        )
    file = _file_of(str(picture["src"]), page, html)
    if file is None:
        return
    picture["src"] = seen_from(page.parent, file)
    picture["width"], picture["height"] = map(str, _size_of(file))
    picture["decoding"], picture["loading"] = "async", "lazy"


def _file_of(source: str, page: Path, html: Path) -> Path | None:
    """Return the file that a picture shows, written if it stood in the page; None where it is elsewhere."""
    if match := re.match(r"data:image/(png|webp);base64,(.+)", source, re.DOTALL):
        content = base64.b64decode(match[2])
        content = as_webp(content) if match[1] == "png" else content
        file = html / "_images" / f"{sha256(content).hexdigest()[:32]}.webp"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
        return file
    if re.match(r"[a-z]+:", source):
        return None
    file = Path(os.path.normpath(page.parent / unquote(source)))
    return file if file.exists() else file.with_suffix(".webp")


def _size_of(file: Path) -> tuple[int, int]:
    """Return width and height in CSS pixels."""
    if file.suffix == ".svg":
        head = file.read_text(encoding="utf-8")[:2000]
        points = [float(re.findall(rf'\b{side}="([0-9.]+)pt"', head)[0]) for side in ("width", "height")]
        return round(points[0] * 96 / 72), round(points[1] * 96 / 72)
    from PIL import Image

    with Image.open(file) as image:
        return image.size
