"""The last hand on the site's pages, on some that are written here; test_smoke.py looks at the whole site."""

import base64
import io
import re
import shutil
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from PIL import Image

from dwclib.book import plots
from dwclib.book.address import pages_of
from dwclib.book.execute import BookError
from dwclib.book.finish import finish
from dwclib.book.folds import name_of
from dwclib.book.tables import tidy_table, united
from dwclib.book.weight import as_webp

STATIC = Path(__file__).resolve().parents[2] / "book" / "_static"
BASE = "https://me.github.io/book/"
STYLE = """.fa-sun:before{content:"\\f185"}.fa-moon:before{content:"\\f186"}.x:after{content:"\\f107"}
@font-face{src:url(../vendor/fontawesome/webfonts/fa-solid-900.woff2) format("woff2")}"""
SCRIPTS = ("_static/scripts/fontawesome.js", "_static/documentation_options.js", "searchindex.js")
HEAD = "<head><title>A page</title>" + "".join(f"<script src='../{s}'></script>" for s in SCRIPTS) + "</head>"


def png(colour="red", size=(40, 30)):
    """Return a picture with some noise in it, as a photo has."""
    file = io.BytesIO()
    noise = Image.effect_noise(size, 60).convert("RGB")
    Image.blend(noise, Image.new("RGB", size, colour), 0.5).save(file, "PNG")
    return file.getvalue()


def html(body):
    return f"<html>{HEAD}<body><i class='fa-solid fa-sun'></i><article>{body}</article></body></html>"


@pytest.fixture
def rendered(tmp_path):
    """Return a folder as Jupyter Book leaves it: a theme with a font and a script, and pages."""
    folder = tmp_path / "rendered"
    fonts = folder / "_static/vendor/fontawesome/webfonts"
    for made in (fonts, folder / "_static/styles", folder / "_static/scripts", folder / "_images"):
        made.mkdir(parents=True)
    (folder / "_static/styles/pydata-sphinx-theme.css").write_text(STYLE)
    (folder / "_static/scripts/fontawesome.js").write_text("every icon")
    (folder / "_static/documentation_options.js").write_text("const DOCUMENTATION_OPTIONS = {};")
    shutil.copy(STATIC / "readme.png", folder / "_static")
    write_font(fonts / "fa-solid-900.ttf", [0xF185, 0xF186, 0xF107])
    (fonts / "fa-solid-900.woff2").write_bytes(b"the same, packed")
    (folder / "_images" / "photo.png").write_bytes(png())
    for name in ("notebooks/01_one", "notebooks/02_two", "book/index", "404", "search"):
        put(
            folder,
            name,
            f"<p>{name} is a page that says one thing, and says it in a sentence of some length.</p>",
        )
    (folder / "index.html").write_text("elsewhere")
    return folder


def write_font(path, codes):
    """Write a font whose characters are all the same square."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((0, 500), (500, 500), (500, 0)):
        pen.lineTo(point)
    pen.closePath()
    names = [".notdef", *(f"u{code:04X}" for code in codes)]
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(names)
    font.setupCharacterMap(dict(zip(codes, names[1:], strict=True)))
    font.setupGlyf(dict.fromkeys(names, pen.glyph()))
    font.setupHorizontalMetrics(dict.fromkeys(names, (600, 0)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Icons", "styleName": "Solid"})
    font.setupOS2()
    font.setupPost()
    font.save(path)


def put(folder, name, body):
    (folder / name).with_suffix(".html").parent.mkdir(exist_ok=True)
    (folder / name).with_suffix(".html").write_text(html(body))


def finished(rendered, name, *, base=BASE):
    site = rendered.with_name("html")
    finish(rendered, site, base=base)
    return BeautifulSoup((site / f"{name}.html").read_text(), "html.parser"), site


def test_of_the_icons_the_font_keeps_those_that_are_shown_and_no_script_draws_them(rendered):
    from fontTools.ttLib import TTFont

    page, site = finished(rendered, "notebooks/01_one")
    style = (site / "_static/styles/pydata-sphinx-theme.css").read_text()
    assert "fa-sun" in style
    assert "fa-moon" not in style
    assert "fa-solid-900.woff)" in style
    (font,) = (site / "_static/vendor/fontawesome/webfonts").iterdir()
    assert set(TTFont(font).getBestCmap()) == {0xF185, 0xF107}
    assert not (site / "_static/scripts/fontawesome.js").exists()
    assert not page.select("script[src*=fontawesome]")
    assert page.select_one(".fa-sun")["aria-hidden"] == "true"


def test_a_page_waits_for_no_script_but_the_options_that_it_reads_itself(rendered):
    page, _ = finished(rendered, "notebooks/01_one")
    assert {script["src"]: script.has_attr("defer") for script in page.select("head script[src]")} == {
        "../_static/documentation_options.js": False,
        "../searchindex.js": True,
    }


def test_pictures_are_small_files_of_a_known_size_that_are_loaded_when_they_come_near(rendered):
    inside = base64.b64encode(png("blue")).decode()
    drawing = (
        f'<svg width="72pt" height="36pt" xmlns="x"><image href="data:image/png;base64,{inside}"/></svg>'
    )
    (rendered / "_images/drawing.svg").write_text(drawing)
    pictures = ("../_images/photo.png", "../_images/drawing.svg", f"data:image/png;base64,{inside}")
    put(rendered, "notebooks/01_one", "".join(f'<img src="{one}" alt="A red square.">' for one in pictures))
    page, site = finished(rendered, "notebooks/01_one")
    for shown, size in zip(page.select("img"), ((40, 30), (96, 48), (40, 30)), strict=True):
        assert (int(shown["width"]), int(shown["height"])) == size
        assert shown["loading"] == "lazy"
        assert (site / "notebooks" / shown["src"]).resolve().exists()
        assert shown["src"].endswith((".webp", ".svg"))
    assert "data:image/webp" in (site / "_images/drawing.svg").read_text()
    assert not list((site / "_images").glob("*.png"))


def test_a_figure_leads_to_itself_alone_where_it_can_be_enlarged(rendered):
    picture = '<img src="../_images/photo.png" alt="A red square.">'
    put(rendered, "notebooks/01_one", f"<figure>{picture}</figure><p>{picture}</p>")
    page, _ = finished(rendered, "notebooks/01_one")
    (link,) = page.select("article a")
    assert link["href"] == link.img["src"] == "../_images/photo.webp"


def test_a_picture_of_flat_colours_loses_nothing():
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(file, "PNG")
    assert set(Image.open(io.BytesIO(as_webp(file.getvalue()))).convert("RGB").getdata()) == {(1, 2, 3)}
    assert len(as_webp(png(size=(200, 200)))) < len(png(size=(200, 200))) / 2


@pytest.mark.parametrize("alt", ["", "../_images/x.svg", "figure.png"])
def test_a_picture_whose_text_is_a_path_or_nothing_stops_the_build(rendered, alt):
    put(rendered, "book/index", f'<img src="../_images/photo.png" alt="{alt}">')
    with pytest.raises(BookError, match=r"book/index.html: a picture has .* alternative text"):
        finished(rendered, "book/index")
    assert not rendered.with_name("html").exists()


def test_a_page_says_what_it_is_about_and_where_it_is(rendered):
    page, site = finished(rendered, "notebooks/02_two")
    told = {tag.get("name") or tag.get("property"): tag["content"] for tag in page.select("meta")}
    assert told["description"].startswith("notebooks/02_two is a page")
    assert told["og:url"] == f"{BASE}notebooks/02_two.html"
    assert told["og:image"] == f"{BASE}_static/card.png"
    assert Image.open(site / "_static/card.png").size == (1200, 630)
    listed = re.findall("<loc>(.*?)</loc>", (site / "sitemap.xml").read_text())
    pages = ("book/index", "notebooks/01_one", "notebooks/02_two")
    assert listed == [f"{BASE}{name}.html" for name in pages]
    assert f"{BASE}sitemap.xml" in (site / "robots.txt").read_text()
    assert 'url=book/index.html"' in (site / "index.html").read_text()


def test_a_site_without_an_address_has_no_map_and_pages_that_are_no_content_stay_out_of_searches(rendered):
    page, site = finished(rendered, "404", base="")
    assert page.select_one("meta[name=robots]")["content"] == "noindex"
    assert not page.select("base")
    assert not (site / "sitemap.xml").exists()
    page, _ = finished(rendered, "404")
    assert page.select_one("base")["href"] == BASE


def test_a_long_beginning_is_cut_between_words(rendered):
    put(rendered, "book/index", f"<p class='stamp'>Executed.</p><p>{'many words, ' * 40}</p>")
    page, _ = finished(rendered, "book/index")
    text = page.select_one("meta[name=description]")["content"]
    assert text.startswith("many words, many")
    assert 120 < len(text) <= 158
    assert re.search(r"(many|words,) \.\.\.$", text)


def test_a_symbol_that_only_mathjax_reads_is_no_part_of_a_description(rendered):
    put(rendered, "book/index", r"<p>A weight <span class='math'>\(\lambda\)</span>, one a query.</p>")
    page, _ = finished(rendered, "book/index")
    assert page.select_one("meta[name=description]")["content"] == "A weight, one a query."


def test_prose_that_names_a_notebook_leads_there(rendered):
    body = "<p>See notebooks 01, 02 and 09, and Notebook\n02.</p><pre>notebook 02</pre><h2>notebook 02</h2>"
    put(rendered, "notebooks/01_one", body)
    page, _ = finished(rendered, "notebooks/01_one")
    links = [(link.get_text(), link["href"]) for link in page.select("article a")]
    assert links == [("02", "02_two.html"), ("Notebook\n02", "02_two.html")]
    assert page.select_one("p").get_text() == "See notebooks 01, 02 and 09, and Notebook\n02."


PANDAS = """<div><style scoped>.dataframe {}</style><table border="1" class="dataframe"><thead>
<tr style="text-align: right;"><th></th><th>R@10</th><th>verdict</th></tr>
<tr><th>variant</th><th></th><th></th></tr></thead>
<tbody><tr><th>a</th><td>1.5 [1.0, 2.0]</td><td>ahead</td></tr>
<tr><th>b</th><td>-2</td><td>1 run</td></tr></tbody></table></div>"""


def test_a_table_of_pandas_has_one_row_of_titles_and_its_numbers_to_the_right():
    page = BeautifulSoup(PANDAS, "html.parser")
    tidy_table(page, page.select_one("table"))
    (titles,) = page.select("thead tr")
    assert [title.get_text() for title in titles.select("th")] == ["variant", "R@10", "verdict"]
    assert all(title["scope"] == "col" for title in titles.select("th"))
    assert [cell.get_text() for cell in page.select("tbody .number")] == ["1.5 [1.0, 2.0]", "-2"]
    assert [title.get_text() for title in page.select("thead .number")] == ["R@10"]
    assert not page.select("style, [style], [border]")
    assert page.select_one(".table-box > table")


def test_titles_in_several_rows_become_one():
    rows = [["", "", "recall", "recall"], ["", "vectors", "near", "far"], ["index", "effort", "", ""]]
    assert united(rows, index=2) == ["index", "effort", "recall, near", "recall, far"]
    assert united([["", "a"]], index=1) == ["", "a"]


def folded(source, *tags, alt=""):
    image = {"mystnb": {"image": {"alt": alt}}} if alt else {}
    return {"cell_type": "code", "source": source, "metadata": {"tags": ["hide-input", *tags], **image}}


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        (folded("# A solution\nx = 1", "solution"), "A solution"),
        (folded("# Run this cell first: it defines check_x.\n"), "The check of this exercise, check_x"),
        (folded("# Counts the hits. And more.\nx = 1"), "Code: Counts the hits"),
        (folded("plt.plot()", alt="Two curves. They rise."), "Code of the figure: Two curves"),
        (folded('def f():\n    """Return the mean."""'), "Code: Return the mean"),
        (folded("%matplotlib inline\nsay('x')"), "Code of the findings below"),
        (folded("figure, axis = plt.subplots()"), "Code of the figure"),
        (
            folded("import torch\nfrom dwclib.book import (\n    say,\n)\n\nplots.use_style()"),
            "What this page imports",
        ),
    ],
)
def test_a_fold_is_called_after_what_is_in_it(cell, name):
    assert name_of(cell) == name


def test_a_repositorys_site_has_the_address_that_github_gives_it():
    assert pages_of("https://github.com/Me/Book") == "https://me.github.io/Book/"
    assert pages_of("https://github.com/me/me.github.io") == "https://me.github.io/"


@pytest.mark.parametrize("colour", [*plots.CYCLE, plots.INK])
def test_text_in_a_colour_of_the_book_is_read_on_its_paper(colour):
    assert plots.contrast(colour) >= 4.5
    assert plots.readable(colour) == colour.lower()


def test_text_in_any_other_colour_is_darkened_until_it_is_read():
    assert plots.contrast("white") < 1.1
    assert plots.contrast(plots.readable("#E69F00")) >= 4.5
    assert plots.contrast(plots.readable((0.7, 0.7, 0.2, 1.0))) >= 4.5
