"""The slider of notebook 12, and the desk of notebook 10 without a kernel, on a built page in a browser."""

import functools
import http.server
import re
import shutil
import subprocess
import sysconfig
import threading
from pathlib import Path

import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from dwclib.book.desk import SearchDesk
from dwclib.book.finish import finish
from dwclib.book.notebooks import normalised, write_notebook
from dwclib.book.weighing import FIRST, orders, step_of, weighing
from dwclib.errors import ConfigError, FeatureError
from dwclib.streams import Composition
from dwclib.training import compose_queries
from dwclib.training.config import read_recipe
from dwclib.training.embedding import embed_gallery
from dwclib.training.evaluation import WEIGHTS, ranks_by_weight
from dwclib.training.runs import Run

ROOT = Path(__file__).resolve().parents[2]
SMOKE = read_recipe("synthfashion-smoke").but(model={"streams": ["clip"]})
QUERIES = {f"query <{number}>": 7 * number for number in range(5)}
SHOWN = """() => [...document.querySelectorAll('.dwc-query:not([hidden]) .dwc-card:not([hidden]) img')]
  .sort((a, b) => a.parentNode.style.order - b.parentNode.style.order).map(img => img.src.split('/').pop())"""
SLIDER = ".dwc-query:not([hidden]) input[type=range]"


@pytest.fixture(scope="module")
def weighed(tmp_path_factory):
    """Return a run, and what `weighing` takes of it; of any weights."""
    run = Run(SMOKE, tmp_path_factory.mktemp("run"), device="cpu")
    stream, dataset = run.model["clip"], run.evaluation.dataset
    features = run.evaluation.inputs["clip"]
    with torch.no_grad():
        composed, gallery = (
            compose_queries(stream, features, dataset),
            embed_gallery(stream, features, dataset),
        )
    return run, (composed, gallery, dataset)


@pytest.mark.parametrize("query", QUERIES.values())
def test_at_each_step_the_target_has_the_rank_that_dwclib_finds(weighed, query):
    _, (composed, gallery, dataset) = weighed
    found = orders(composed, gallery, dataset, query)
    ranks = ranks_by_weight(composed, gallery, dataset)
    learned = step_of(float(composed.modality_weight[query]))
    for weight in WEIGHTS:
        step = step_of(weight)
        if step != learned:
            assert found[step].tolist().index(dataset.targets[query]) + 1 == ranks[weight][query]
    assert dataset.references[query] not in found


def test_what_cannot_be_weighed_is_told(weighed):
    _, (composed, gallery, dataset) = weighed
    with pytest.raises(ConfigError, match=r"query = 200 is no whole number of 0 to 199"):
        weighing(composed, gallery, dataset, {"none": len(dataset)})
    with pytest.raises(FeatureError, match="no weight to drag"):
        weighing(Composition(composed.query), gallery, dataset, {"one": 0})


@pytest.fixture(scope="module")
def site(weighed, tmp_path_factory):
    """Build a page with what both cells display, in the book's theme; return the finished site."""
    run, parts = weighed
    root = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "book" / "_static", root / "book" / "_static")
    (root / "book" / "index.md").write_text("# Home\n\nRead [the page](../notebooks/12_page.ipynb).\n")
    shown = [{"text/html": weighing(*parts, QUERIES).data, "text/plain": "HTML"}]
    shown += [SearchDesk(run)._repr_mimebundle_()]
    cells = [new_code_cell("show()", outputs=[new_output("display_data", data=data)]) for data in shown]
    notebook = new_notebook(cells=[new_markdown_cell("# A page\n\nTwo cells."), *cells])
    write_notebook(root / "notebooks" / "12_page.ipynb", normalised(notebook))
    for path in ("_config.yml", "book/references.bib"):
        shutil.copy(ROOT / path, root / path)
    (root / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nchapters:\n- file: notebooks/12_page\n"
    )
    program = Path(sysconfig.get_path("scripts")) / "jupyter-book"
    subprocess.run(
        [program, "build", "-n", "-W", root, "--path-output", root], capture_output=True, check=True
    )
    finish(root / "_build" / "html", root / "html")
    return root / "html"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address(site):
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=site)
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def visit(browser, address):
    """Open the page; return it with what it asked for, and its errors."""
    contexts = []

    def open_page(*, width=1280, scheme="light", **options):
        shown = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
        context = browser.new_context(**shown, **options)
        contexts.append(context)
        page, asked = context.new_page(), []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda m: asked.append(f"error: {m.text}") if m.type == "error" else None)
        page.on("pageerror", lambda error: asked.append(f"error: {error}"))
        page.goto(f"{address}/notebooks/12_page.html", wait_until="load")
        return page, asked

    yield open_page
    for context in contexts:
        context.close()


def test_pictures_stand_outside_the_page_and_no_other_host_is_asked(visit, site, address):
    page, asked = visit()
    path = site / "notebooks" / "12_page.html"
    assert path.stat().st_size < 300_000
    assert "data:image" not in path.read_text()
    assert "widget-view" not in path.read_text()
    pictures = page.eval_on_selector_all(".dwc img", "all => all.map(img => img.src)")
    assert len({*pictures}) > 5 * FIRST
    assert all((site / "_images" / url.rpartition("/")[2]).exists() for url in pictures)
    assert all(url.startswith((address, "data:")) for url in asked), asked


@pytest.mark.parametrize("width", [1280, 390])
def test_the_slider_is_as_wide_as_its_pictures_and_marks_the_learned_weight(visit, weighed, width):
    page, _ = visit(width=width)
    row, slider = (page.locator(part).first.bounding_box() for part in (".dwc-row", SLIDER))
    assert slider["width"] == pytest.approx(row["width"], abs=1)
    assert slider["height"] >= 24
    learned = float(weighed[1][0].modality_weight[0])
    assert page.input_value(SLIDER) == str(step_of(learned))
    tick = page.locator(".dwc-tick span").first
    assert tick.inner_text() == f"learned {learned:.2f}"
    box = tick.bounding_box()
    middle = slider["x"] + 8 + (slider["width"] - 16) * learned
    assert box["x"] + box["width"] / 2 == pytest.approx(middle, abs=1)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_keys_move_the_weight_and_a_screen_reader_hears_weight_and_rank(visit, weighed):
    page, _ = visit()
    composed, gallery, dataset = weighed[1]
    query = list(QUERIES.values())[1]
    page.select_option(".dwc select", label="query <1>")
    assert page.inner_text(".dwc-query:not([hidden]) p") == f"“{dataset.texts()[query]}”"
    found = orders(composed, gallery, dataset, query)
    files = {}
    for key, step in (("Home", 0), ("End", 100), ("ArrowLeft", 99), ("ArrowLeft", 98)):
        page.press(SLIDER, key)
        rank = 1 + found[step].tolist().index(dataset.targets[query])
        heard = page.get_attribute(SLIDER, "aria-valuetext")
        assert heard == f"λ = {step / 100:.2f}: the target is at rank {rank}"
        assert page.inner_text(".dwc-query:not([hidden]) output") == heard
        shown = page.evaluate(SHOWN)
        alike = [dataset.references[query], *dataset.gallery[found[step][:FIRST]]]
        assert len(shown) == 1 + FIRST
        for image, file in zip(map(int, alike), shown, strict=True):
            assert files.setdefault(image, file) == file
    assert len({*files.values()}) == len(files)


def test_five_queries_can_be_chosen_and_one_is_shown(visit):
    page, _ = visit()
    assert page.eval_on_selector_all("option", "all => all.map(o => o.textContent)") == list(QUERIES)
    assert page.locator(".dwc-query:visible").count() == 1


def test_without_javascript_it_says_that_nothing_moves(visit):
    page, _ = visit(java_script_enabled=False)
    assert "the slider moves nothing" in page.inner_text(".dwc-query:visible noscript")
    assert page.locator(".dwc-query:visible [data-places]:visible").count() == 6


def test_the_desk_shows_how_it_begins(visit):
    page, _ = visit()
    static = page.locator(".dwc:has(.dwc-gates)")
    assert static.locator("img").count() == 31
    assert "Run this cell in JupyterLab" in static.inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_neither_is_an_obstacle_to_anybody(visit, scheme):
    page, _ = visit(scheme=scheme)
    found = Axe().run(page, context=".dwc").response["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []


def test_on_a_dark_page_pictures_fill_their_cards_and_words_are_light(visit):
    page, _ = visit(scheme="dark")
    style = "e => getComputedStyle(e)"
    assert page.eval_on_selector(".dwc-card img", f"e => ({style})(e).padding") == "0px"
    ink = page.eval_on_selector(".dwc output", f"e => ({style})(e).color")
    paper = page.eval_on_selector(".text_html:has(.dwc)", f"e => ({style})(e).backgroundColor")
    assert min(map(int, re.findall(r"\d+", ink)[:3])) > 150
    assert paper == "rgba(0, 0, 0, 0)"


def test_on_paper_there_is_no_navigation_and_nothing_to_choose(visit):
    page, _ = visit()
    page.emulate_media(media="print")
    for part in (".bd-sidebar-primary", ".bd-header-article", ".prev-next-footer", ".dwc label"):
        assert not page.locator(part).first.is_visible(), part
    assert page.locator(".dwc-row img").first.is_visible()
