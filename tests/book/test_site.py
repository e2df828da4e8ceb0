"""The built site, opened page by page in a real browser."""

import functools
import http.server
import re
import subprocess
import threading
from pathlib import Path

import pytest
import yaml

from dwclib.book.address import address_of

ROOT = Path(__file__).resolve().parents[2]
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
PAGES = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]
NOTEBOOKS = [page for page in PAGES if page.startswith("notebooks/")]
MEASURE = """() => ({
  broken: [...document.images].filter(i => !(i.complete && i.naturalWidth > 0)).map(i => i.src),
  silent: [...document.images].filter(i => !(i.alt || '').trim()).map(i => i.src),
  width: document.documentElement.scrollWidth,
  equations: document.querySelectorAll('mjx-container').length,
  text: document.querySelector('article').innerText,
  paper: getComputedStyle(document.body).backgroundColor,
})"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address(smoke_site):
    handler = functools.partial(Quiet, directory=smoke_site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def visit(browser, address):
    """Open a page with no network but the site itself; return it with its errors."""
    contexts = []

    def open_page(page_name, *, width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page, errors = context.new_page(), []
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("response", lambda r: errors.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        outside = []

        def refuse(route):
            outside.append(route.request.url)
            route.abort()

        page.route(lambda url: not url.startswith((address, "data:")), refuse)
        page.goto(f"{address}/{page_name}.html", wait_until="load")
        page.wait_for_function("() => !window.MathJax || !MathJax.startup || MathJax.startup.promise")
        page.evaluate("() => window.MathJax?.startup?.promise")
        page.evaluate("() => window.scrollTo(0, document.body.scrollHeight)")
        page.wait_for_function("() => [...document.images].every(image => image.complete)")
        return page, [e for e in errors if not any(url in e for url in outside)], outside

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_without_an_error_and_without_the_internet(visit, name):
    page, errors, outside = visit(name)
    found = page.evaluate(MEASURE)
    assert [error for error in errors if "ERR_FAILED" not in error] == []
    assert outside == []
    assert found["broken"] == []
    assert found["silent"] == [], "every image needs an alternative text"


@pytest.mark.parametrize("name", PAGES)
def test_equations_are_rendered(visit, name):
    page, _, _ = visit(name)
    found = page.evaluate(MEASURE)
    assert not re.search(r"\$\$|\\\(|\\\[|\\frac|\\mathrm", found["text"])
    assert page.locator("mjx-merror").count() == 0
    if name in NOTEBOOKS or name == "book/notation":
        assert found["equations"] > 0


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_tables_that_cells_display_are_tables_and_no_bar_or_warning_is_shown(visit, name):
    page, _, _ = visit(name)
    assert page.locator(".cell_output .stderr").count() == 0
    assert "|---|" not in page.evaluate(MEASURE)["text"].replace("—", "---")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_a_phone(visit, name):
    page, _, _ = visit(name, width=390)
    assert page.evaluate(MEASURE)["width"] <= 390


@pytest.mark.parametrize("name", ["book/index", *NOTEBOOKS[:1]])
def test_dark_mode_is_dark(visit, name):
    light, _, _ = visit(name)
    dark, _, _ = visit(name, scheme="dark")
    dark.evaluate("() => { document.documentElement.dataset.mode = 'dark'; "
                  "document.documentElement.dataset.theme = 'dark'; }")  # fmt: skip

    def brightness(page):
        return sum(int(part) for part in re.findall(r"\d+", page.evaluate(MEASURE)["paper"])[:3])

    assert brightness(light) > 600
    assert brightness(dark) < 200


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_each_notebooks_page_says_when_and_on_what_it_was_executed(visit, name):
    page, _, _ = visit(name)
    stamp = page.locator("p.stamp").inner_text()
    assert re.match(
        r"Executed \d{4}-\d\d-\d\d \d\d:\d\d UTC on .+, in \d+ s\. Profile smoke, Python 3\.", stamp
    )
    assert page.locator("text=Injected-Parameters").count() == 0


def test_the_table_of_run_times_names_every_notebook(visit):
    page, _, _ = visit("book/execution")
    assert page.locator("table tbody tr").count() == len(NOTEBOOKS) + 1


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_solutions_are_folded_until_they_are_asked_for(visit, name):
    page, _, _ = visit(name)
    folds = page.locator(".cell.tag_solution details, details:has(.tag_solution)")
    assert folds.count() >= 2
    assert not folds.first.evaluate("fold => fold.open")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_launch_and_source_buttons_lead_to_tracked_files(visit, name):
    page, _, _ = visit(name)
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    links = page.eval_on_selector_all("a[href]", "links => links.map(link => link.href)")
    targets = [
        m.group(1) for link in links if (m := re.search(r"main(?:/|\?urlpath=lab/tree/)(\S+\.ipynb)", link))
    ]
    assert bool(targets) == bool(address_of(ROOT)), "buttons are there where they lead to something"
    assert set(targets) <= set(tracked.stdout.split())


def test_search_finds_the_method(visit):
    page, _, _ = visit("search")
    page.goto(page.url + "?q=combiner", wait_until="load")
    page.wait_for_selector("#search-results li a")
    assert page.locator("#search-results li").count() >= 1
