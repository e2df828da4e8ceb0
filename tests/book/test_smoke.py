"""The smoke book: executed once, its outputs compared, and its site opened page by page in a real browser.

All that looks at it stands in this file: `make test` lets two processes share the tests file by file.
"""

import functools
import gzip
import http.server
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup
from test_numbers import contradictions, shown_on

from dwclib.book import plots
from dwclib.book.address import address_of
from dwclib.book.execute import Book, execute, prepare
from dwclib.book.notebooks import CHECKED, SOLUTION, read_notebook, stamp_of
from dwclib.experiments import ROWS

ROOT = Path(__file__).resolve().parents[2]
BOOK = Book("smoke")
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
PAGES = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]
NOTEBOOKS = [page for page in PAGES if page.startswith("notebooks/")]
NBVAL_CONFTEST = """
def pytest_collectstart(collector):
    if collector.fspath and str(collector.fspath).endswith(".ipynb"):
        collector.skip_compare += ("stderr", "image/svg+xml", "image/png", "text/html", "application/pdf")
"""
RECORDED = (Path(__file__).parent / "recorded.py").read_text()
SANITIZE = "[addresses]\nregex: 0x[0-9a-f]+\nreplace: ADDRESS\n"
MEASURE = """() => ({
  broken: [...document.images].filter(i => !(i.complete && i.naturalWidth > 0)).map(i => i.src),
  silent: [...document.images].filter(i => !(i.alt || '').trim()).map(i => i.src),
  width: document.documentElement.scrollWidth,
  equations: document.querySelectorAll('mjx-container').length,
  text: document.querySelector('article').innerText,
  paper: getComputedStyle(document.body).backgroundColor,
})"""
# Pairs of texts of which a tenth or more of the smaller lies in the other's box.
OVERLAPS = """() => {
  const texts = [...document.querySelectorAll('g[id^=text_]')];
  const boxes = texts.map(text => [text.id, text.getBoundingClientRect()]);
  const shared = (a, b, from, to) => Math.max(0, Math.min(a[to], b[to]) - Math.max(a[from], b[from]));
  const found = [];
  boxes.forEach(([one, a], number) => boxes.slice(number + 1).forEach(([other, b]) => {
    const area = shared(a, b, 'left', 'right') * shared(a, b, 'top', 'bottom');
    if (area > 0.1 * Math.min(a.width * a.height, b.width * b.height)) found.push([one, other]);
  }));
  return found;
}"""
SERIOUS = ("serious", "critical")
LIGHT = 600 * 1024  # bytes, compressed, before the reader scrolls
SIDEWAYS = """() => {
  const wide = box => box.offsetParent && box.scrollWidth > box.clientWidth + 1;
  const name = box => `${box.tagName} ${box.className}: ${box.innerText.slice(0, 60)}`;
  const boxes = [...document.querySelectorAll("article :is(pre, .table-box, mjx-container[display=true])")];
  return {cut: boxes.filter(box => wide(box) && getComputedStyle(box).overflowX != "auto").map(name),
          unreached: boxes.filter(box => wide(box) && box.tabIndex < 0).map(name),
          equations: boxes.filter(box => wide(box) && box.matches("mjx-container")).map(name),
          code: boxes.filter(box => wide(box) && box.matches(".cell_input pre")).map(name)};
}"""


@pytest.fixture(scope="module")
def smoke_site():
    """Execute the whole book with the smoke profile and build its site, as a reader would."""
    command = [sys.executable, "-m", "dwclib", "book", "--profile", "smoke"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    return ROOT / "_build" / "html"


def test_the_whole_book_runs_with_the_smoke_profile(smoke_site):
    for path in BOOK.notebooks:
        done = BOOK.executed(path)
        assert stamp_of(done)["profile"] == "smoke"
        solved = [c for c in read_notebook(done)["cells"] if SOLUTION in c["metadata"].get("tags", [])]
        assert len(solved) >= 2
        assert all(cell["execution_count"] for cell in solved)


def test_every_page_has_the_books_icon(smoke_site):
    for path in smoke_site.rglob("*.html"):
        icon = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser").select_one("link[rel~=icon]")
        assert icon, path
        assert (path.parent / icon["href"]).is_file(), path


@pytest.mark.parametrize("path", BOOK.notebooks, ids=lambda path: path.stem)
def test_no_output_warns_or_names_a_path_of_this_machine(path, smoke_site):
    outputs = [o for c in read_notebook(BOOK.executed(path))["cells"] for o in c.get("outputs", [])]
    texts = ["".join(o.get("text", "")) for o in outputs]
    texts += [
        "".join(o.get("data", {}).get(kind, "")) for o in outputs for kind in ("text/plain", "text/html")
    ]
    for text in texts:
        assert "Warning" not in text
        assert not any(f"{folder}/" in text for folder in (ROOT, Path.home(), tempfile.gettempdir()))


def test_a_second_build_executes_nothing(smoke_site):
    before = [BOOK.executed(path).stat().st_mtime_ns for path in BOOK.notebooks]
    execute(BOOK)
    assert [BOOK.executed(path).stat().st_mtime_ns for path in BOOK.notebooks] == before


def nbval(folder, conftest, *chosen):
    """Run nbval in a folder, over all its notebooks or some; return what it did."""
    (folder / "conftest.py").write_text(conftest)
    (folder / "sanitize.cfg").write_text(SANITIZE)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", folder,
         "--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=600", "--nbval-sanitize-with",
         folder / "sanitize.cfg", *chosen],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


def all_passed(found, paths):
    """Tell whether nbval had nothing against any code cell of these notebooks."""
    cells = [cell for path in paths for cell in read_notebook(path)["cells"] if cell["cell_type"] == "code"]
    passed = re.search(r"^(\d+) passed", found.stdout, re.MULTILINE)
    return found.returncode == 0 and int(passed[1]) == len(cells)


def test_the_stored_outputs_are_those_of_a_new_run(tmp_path, smoke_site):
    """Let nbval compare every notebook with the smoke book: it was just executed, and is not once more."""
    paths = [Path(shutil.copy(path, tmp_path)) for path in BOOK.notebooks]
    found = nbval(tmp_path, NBVAL_CONFTEST + RECORDED)
    assert all_passed(found, paths), found.stdout[-5000:]


def test_nbval_executes_what_is_prepared_for_it(tmp_path):
    """Let nbval execute one notebook, a quick one, with its own kernel, as a reader may do with all."""
    chosen = prepare(BOOK, tmp_path)[3]
    found = nbval(tmp_path, NBVAL_CONFTEST, chosen)
    assert all_passed(found, [chosen]), found.stdout[-5000:]


@pytest.mark.parametrize("conftest", [NBVAL_CONFTEST, NBVAL_CONFTEST + RECORDED], ids=["new", "recorded"])
def test_nbval_fails_on_a_wrong_output(tmp_path, smoke_site, conftest):
    path = BOOK.notebooks[0]
    content = read_notebook(path)
    first = next(i for i, cell in enumerate(content["cells"]) if CHECKED in cell["metadata"].get("tags", []))
    content["cells"] = content["cells"][: first + 1]
    for output in content["cells"][first]["outputs"]:
        output["text"] = "wrong"
    (tmp_path / path.name).write_text(json.dumps(content))
    found = nbval(tmp_path, conftest)
    assert found.returncode == 1
    assert "1 failed" in found.stdout


def test_a_quantity_is_the_same_on_every_page_of_the_site(smoke_site):
    pages = {str(p.relative_to(smoke_site)): p.read_text() for p in smoke_site.rglob("*.html")}
    assert contradictions(pages) == {}
    assert len(shown_on(pages)["CLIP stream, R@10"]) >= 2
    home = shown_on({"home": pages["book/index.html"]})
    assert {f"{name}, R@10" for name in ROWS} <= set(home)


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
        page.evaluate("() => [...document.images].forEach(image => { image.loading = 'eager'; })")
        page.wait_for_function("() => [...document.images].every(image => image.complete)")
        page.wait_for_function("() => !document.getAnimations().some(one => one instanceof CSSTransition)")
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
    written = (ROOT / f"{name}.ipynb").read_text() if name in NOTEBOOKS else ""
    has_some = "$" in written or name == "book/notation"
    if has_some:
        page.wait_for_selector("mjx-container", state="attached")
    found = page.evaluate(MEASURE)
    assert not re.search(r"\$\$|\\\(|\\\[|\\frac|\\mathrm", found["text"])
    assert page.locator("mjx-merror").count() == 0
    assert found["equations"] > 0 or not has_some


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_tables_that_cells_display_are_tables_and_no_bar_or_warning_is_shown(visit, name):
    page, _, _ = visit(name)
    assert page.locator(".cell_output .stderr").count() == 0
    assert "|---|" not in page.evaluate(MEASURE)["text"].replace("—", "---")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_a_phone(visit, name):
    page, _, _ = visit(name, width=390)
    assert page.evaluate(MEASURE)["width"] <= 390


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_light_until_the_reader_scrolls(browser, address, smoke_site, name):
    page, asked = browser.new_page(viewport={"width": 1280, "height": 900}), set()
    page.on("request", lambda request: asked.add(request.url.partition("?")[0]))
    page.goto(f"{address}/{name}.html", wait_until="networkidle")
    page.close()
    files = [smoke_site / url.removeprefix(f"{address}/") for url in asked if url.startswith(address)]
    weights = {path.name: len(gzip.compress(path.read_bytes())) for path in files}
    assert sum(weights.values()) <= LIGHT, sorted(weights.items(), key=lambda one: -one[1])[:5]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_accessible_in_both_modes(visit, name):
    for scheme in ("light", "dark"):
        page, _, _ = visit(name, scheme=scheme)
        found = Axe().run(page).response["violations"]
        assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in SERIOUS] == []


@pytest.mark.parametrize("name", PAGES)
def test_what_is_wider_than_the_page_is_reached_by_keyboard_and_on_a_desktop_fits(visit, name):
    desk, phone = (visit(name, width=width)[0] for width in (1280, 390))
    for page in (desk, phone):
        page.wait_for_selector("html.fitted", state="attached")
        found = page.evaluate(SIDEWAYS)
        assert found["cut"] == found["unreached"] == []
    assert desk.evaluate(SIDEWAYS)["equations"] == desk.evaluate(SIDEWAYS)["code"] == []


def test_every_page_has_a_description_of_its_own(smoke_site):
    pages = {name: BeautifulSoup((smoke_site / f"{name}.html").read_text(), "html.parser") for name in PAGES}
    told = {name: page.select_one("meta[name=description]")["content"] for name, page in pages.items()}
    assert all(30 <= len(text) <= 160 for text in told.values()), told
    assert len(set(told.values())) == len(told)
    assert "This page is not here" in (smoke_site / "404.html").read_text()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_folds_say_what_is_in_them_and_a_notebook_that_is_named_is_linked(smoke_site, name):
    page = BeautifulSoup((smoke_site / f"{name}.html").read_text(), "html.parser")
    folds = [fold.select_one("p").get_text() for fold in page.select("details.hide > summary")]
    assert folds
    assert not [fold for fold in folds if "code cell" in fold]
    assert not page.select("details > summary[aria-label]")
    own = Path(name).name[:2]
    named = [text for text in page.select_one("article").find_all(string=re.compile(r"\b[Nn]otebook \d\d\b"))
             if not {"a", "pre", "code"} & {parent.name for parent in text.parents}]  # fmt: skip
    assert {number for text in named for number in re.findall(r"otebook (\d\d)", text)} <= {own}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_of_the_words_that_stand_open_at_most_a_third_are_code(smoke_site, name):
    page = BeautifulSoup((smoke_site / f"{name}.html").read_text(), "html.parser").select_one("article")
    for folded in page.select("script, style, svg, details > :not(summary)"):
        folded.decompose()
    code = sum(len(cell.get_text().split()) for cell in page.select(".cell_input pre"))
    assert 0 < 3 * code < len(page.get_text().split())


# What a caption may call a colour. A sentence of what may be found names colours that need not be drawn; the
# two ends of a colour map are pixels.
NAMED = {"green": {plots.MIX}, "blue": {plots.IMAGE}, "orange": {plots.TEXT, "#E69F00"}, "amber": {"#E69F00"},
         "grey": {plots.GREY}, "pink": {"#AA4C82"}, "black": {plots.INK}}  # fmt: skip
CONDITIONAL = re.compile(r"if found|supported|detectably|red:")


def captioned(path):
    """Return the caption and the drawing of each figure that has both."""
    for cell in read_notebook(BOOK.executed(path))["cells"]:
        drawn = "".join("".join(o.get("data", {}).get("image/svg+xml", "")) for o in cell.get("outputs", []))
        caption = cell["metadata"].get("mystnb", {}).get("figure", {}).get("caption", "")
        if caption and drawn:
            yield caption, drawn


def figures(path):
    outputs = [o for c in read_notebook(BOOK.executed(path))["cells"] for o in c.get("outputs", [])]
    return ["".join(output.get("data", {}).get("image/svg+xml", "")) for output in outputs]


@pytest.mark.parametrize("path", BOOK.notebooks, ids=lambda path: path.stem)
def test_no_text_in_a_figure_lies_on_another(browser, smoke_site, path):
    page = browser.new_page()
    for drawn in filter(None, figures(path)):
        page.set_content(drawn)
        assert page.evaluate(OVERLAPS) == []
    page.close()


@pytest.mark.parametrize("path", BOOK.notebooks, ids=lambda path: path.stem)
def test_a_colour_that_a_caption_names_is_drawn(smoke_site, path):
    for caption, drawn in captioned(path):
        told = " ".join(s for s in re.split(r"(?<=\.) ", caption) if not CONDITIONAL.search(s)).lower()
        named = {name: hues for name, hues in NAMED.items() if re.search(rf"\b{name}\b", told)}
        absent = [name for name, hues in named.items() if not any(h.lower() in drawn.lower() for h in hues)]
        assert absent == [], caption


@pytest.mark.parametrize("path", BOOK.notebooks, ids=lambda path: path.stem)
def test_text_in_figures_is_read_on_the_paper(smoke_site, path):
    colours = {
        c
        for one in figures(path)
        for c in re.findall(r'<g id="text_\d+">.{0,200}?fill: (#\w{6})', one, re.DOTALL)
    }
    assert {
        c for c in colours - {"#ffffff"} if plots.contrast(c) < 4.5
    } == set()  # white stands on dark cells


# The backgrounds of outputs that are seen, as the browser paints them.
OUTPUTS = """() => [...document.querySelectorAll('article .output')].filter(output => output.clientHeight)
  .map(output => getComputedStyle(output).backgroundColor).filter(colour => !colour.endsWith(', 0)'))"""


@pytest.mark.parametrize("name", PAGES)
def test_dark_mode_is_dark(visit, name):
    light, _, _ = visit(name)
    dark, _, _ = visit(name, scheme="dark")
    dark.evaluate("() => { document.documentElement.dataset.mode = 'dark'; "
                  "document.documentElement.dataset.theme = 'dark'; }")  # fmt: skip

    def brightness(colour):
        return sum(int(part) for part in re.findall(r"\d+", colour)[:3])

    assert brightness(light.evaluate(MEASURE)["paper"]) > 600
    assert brightness(dark.evaluate(MEASURE)["paper"]) < 200
    assert [colour for colour in dark.evaluate(OUTPUTS) if brightness(colour) > 300] == []


def test_before_any_script_is_read_one_logo_is_shown(browser, address):
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f"{address}/book/index.html")
        assert page.locator("img.logo__image:visible").count() == 1


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


def test_search_works_from_a_folder_too(browser, smoke_site):
    page, errors = browser.new_page(), []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{(smoke_site / 'search.html').as_uri()}?q=combiner", wait_until="load")
    page.wait_for_selector("#search-results li a")
    page.wait_for_function("() => document.querySelector('.search-summary').innerText.includes('found')")
    page.close()
    assert errors == []
