"""The whole book as one PDF: its pages in one, and printed by a real browser."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from bs4 import BeautifulSoup

from dwclib.book import pdf
from dwclib.book.execute import BookError

ROOT = Path(__file__).resolve().parents[2]
PAGE = """<!DOCTYPE html><html><head><title>A page</title>
<link rel="stylesheet" href="../_static/book.css?v=1">
<script>window.MathJax = {{"startup": {{"promise": Promise.resolve()}}}}</script>
<script src="../_static/live.js"></script>
</head><body><nav class="bd-links"><p class="caption">Part 1</p><ul>
<li><a href="{home}">Home</a></li><li><a href="{second}">Second</a></li></ul></nav>
<article class="bd-article">{article}</article></body></html>"""
HOME = """<h1 id="home">Home<a class="headerlink" href="#home">#</a></h1>
<p>See <a href="../notebooks/02_second.html#part">a part</a>, <a href="../notebooks/02_second.html">all</a>,
<a href="https://example.org/x">a host</a>, <a href="#home">here</a>.</p>"""
SECOND = """<section id="part"><h1>Second</h1><img loading="lazy" src="../_images/a%20b.svg" alt="a figure">
<div class="cell tag_hide-input">
<details class="hide above-input"><summary>Code</summary><pre>plot()</pre></details></div>
<div class="cell tag_solution">
<details class="hide above-input"><summary>Solution</summary><pre>solve()</pre></details></div>
<details><summary>A. Yes</summary><p>No, because.</p></details>
<p id="home">Back <a href="../book/index.html">home</a>.</p><script>live()</script></section>"""


@pytest.fixture
def site(tmp_path):
    """Write two small pages as a site has them."""
    folder = tmp_path / "html"
    pages = {
        "book/index": PAGE.format(home="#", second="../notebooks/02_second.html", article=HOME),
        "notebooks/02_second": PAGE.format(home="../book/index.html", second="#", article=SECOND),
    }
    for name, text in pages.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.html").write_text(text)
    for name in ("_static", "_images"):
        (folder / name).mkdir()
    shutil.copy(ROOT / "book" / "_static" / "book.css", folder / "_static")
    (folder / "_images" / "a b.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="90" height="9"/>'
    )
    return folder


def test_all_pages_are_one_in_their_order_and_every_link_within_arrives(site):
    whole = BeautifulSoup(pdf.one_page(site), "html.parser")
    assert [part.get("id") for part in whole.select("section.whole")] == ["index", "02_second"]
    ids = [tag["id"] for tag in whole.select("[id]")]
    assert len(ids) == len(set(ids))
    links = [link["href"] for link in whole.select("section a")]
    assert links == ["#02_second--part", "#02_second", "https://example.org/x", "#index--home", "#index"]
    assert {link["href"][1:] for link in whole.select("nav a")} == {"index", "02_second"} < {*ids}
    for tag in whole.select("img, link"):
        assert (site / tag.get("src", tag.get("href"))).exists()


def test_folded_code_is_left_out_and_solutions_and_reasons_are_open(site):
    whole = BeautifulSoup(pdf.one_page(site), "html.parser")
    assert "plot()" not in whole.get_text()
    assert [fold.summary.get_text() for fold in whole.select("details[open]")] == ["Solution", "A. Yes"]
    assert whole.select("details:not([open]), .headerlink, section script, [loading]") == []
    assert ["MathJax" in script.get_text() for script in whole.select("script")] == [True]


def test_the_site_leads_to_its_pdf_once_it_is_printed(site):
    if not any(map(shutil.which, pdf.BROWSERS)):
        pytest.skip("no Chromium on this machine")
    for _ in range(2):
        printed = pdf.print_book(site)
    content = printed.read_bytes()
    assert content.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", content)) == 3  # the first page, the contents, the second page
    assert re.findall(rb"/Title \((Home|Contents|Second)\)", content) == [b"Home", b"Contents", b"Second"]
    home = BeautifulSoup((site / "book" / "index.html").read_text(), "html.parser")
    (link,) = home.select("h1 + .whole-book a")
    assert (site / "book" / link["href"]).resolve() == printed
    assert not (site / "print.html").exists()


def test_without_a_site_one_sentence_says_what_to_do(tmp_path):
    with pytest.raises(BookError, match=r"no site to print\. Call make book first"):
        pdf.print_book(tmp_path)


@pytest.mark.skipif(bool(shutil.which("google-chrome")), reason="Chrome is found without the PATH, too")
def test_without_a_browser_one_sentence_says_what_to_do(site, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        BookError, match=r"no Chromium and no Chrome to print with\. Install Chromium or Chrome"
    ):
        pdf.print_book(site)
    assert not (site / "print.html").exists()


@pytest.mark.skipif(os.name == "nt", reason="a script is no program there")
def test_a_browser_that_does_not_start_is_named(site, tmp_path, monkeypatch):
    broken = tmp_path / "bin" / "chromium"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(broken.parent), prepend=os.pathsep)
    with pytest.raises(BookError, match=r"bin/chromium: it does not start \(.+\)\. Install Chromium"):
        pdf.print_book(site)
    assert not (site / "print.html").exists()


def test_a_page_that_is_no_page_is_named(site):
    (site / "notebooks" / "02_second.html").write_text("<p>half a")
    with pytest.raises(BookError, match=r"02_second\.html: a page has no article"):
        pdf.one_page(site)


def test_the_command_the_target_and_the_published_site_print_it():
    told = subprocess.run(
        [sys.executable, "-m", "dwclib", "pdf", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "print the built site as one PDF" in told.stdout
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text())
    steps = [step.get("run", "") for step in workflow["jobs"]["publish"]["steps"]]
    assert steps.index("make pdf") > next(k for k, step in enumerate(steps) if step.startswith("make book"))
