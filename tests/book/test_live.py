"""The page "Try it" in a real browser, opened from a folder: its rankings are PyTorch's."""

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from unreadable import unreadable

from dwclib.book.live import queries_of, write_live
from dwclib.errors import ConfigError
from dwclib.retrieval import rank
from dwclib.training.config import read_recipe
from dwclib.training.runs import Run

ROOT = Path(__file__).resolve().parents[2]
GALLERY = {"val_images": 2_000, "val_queries": 2_000}  # as many as the site's
SMOKE = read_recipe("synthfashion-smoke").but(
    model={"streams": ["clip"], "dim": 128}, data=GALLERY, training={"watched": []}
)
ANSWERS = """queries => dwcLive.load().then(() => queries.map(({reference, text}) => {
  const query = dwcLive.compose(reference, dwcLive.piecesOf(text).pieces);
  const scores = dwcLive.scoresOf(dwcLive.mix(query, query.lambda));
  return {lambda: query.lambda, scores: [...scores], first: dwcLive.rank(scores, reference)};
}))"""
SHOWN = """ranking => [...document.querySelectorAll(`[data-ranking=${ranking}] button`)].map(
  card => Number(card.dataset.picture))"""
RIGHT = "() => [...document.querySelectorAll('[data-ranking=mix] .right')].map(b => +b.dataset.picture)"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Train a stream of the canonical width for a moment: the page takes any."""
    return Run(SMOKE, tmp_path_factory.mktemp("run"), device="cpu").train(progress=False)


@pytest.fixture(scope="module")
def queries(run):
    return queries_of(run.evaluation.dataset)


@pytest.fixture(scope="module")
def expected(run):
    """Return scores, weights and first ten answers of all queries, by PyTorch."""
    found = run.embedded()["clip"]
    references = torch.from_numpy(run.evaluation.dataset.references)
    first = rank(found.queries, found.gallery, k=10, exclude=references)
    return found.queries @ found.gallery.T, found.modality_weight, first


@pytest.fixture(scope="module")
def site(run, tmp_path_factory):
    """Build the two pages that hold the live example, in the book's theme; return their folder."""
    root = tmp_path_factory.mktemp("site")
    (root / "book").mkdir()
    shutil.copytree(ROOT / "book" / "_static", root / "book" / "_static")
    shutil.copy(ROOT / "book" / "try.md", root / "book")
    home = re.search(
        r"^````\{container\} live-home.+?^````$", (ROOT / "book/index.md").read_text(), re.M | re.S
    )
    (root / "book" / "index.md").write_text(f"# Home\n\n{home[0]}\n")
    for path in ("_config.yml", "book/references.bib"):
        shutil.copy(ROOT / path, root / path)
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/index\nchapters:\n- file: book/try\n")
    write_live(root / "book", run)
    program = Path(sysconfig.get_path("scripts")) / "jupyter-book"
    subprocess.run([program, "build", root, "--path-output", root], capture_output=True, check=True)
    return root / "_build" / "html" / "book"


@pytest.fixture
def visit(browser, site):
    """Open a page as a double click does; return it with what it asked for."""
    contexts = []

    def open_page(name="try", *, width=1280, scheme="light", **kinds):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True, **kinds
        )
        contexts.append(context)
        context.add_init_script("delete globalThis.WebAssembly")  # there are browsers without
        page, asked = context.new_page(), []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: asked.append(f"error: {error}"))
        page.goto((site / f"{name}.html").as_uri(), wait_until="load")
        return page, asked

    yield open_page
    for context in contexts:
        context.close()


def load(page):
    """Touch the page, and wait until it is alive."""
    page.click("#live-text")
    page.wait_for_selector("form.loaded")


def ask(page, text):
    """Type a text, and ask by the keyboard; return what the page says to it."""
    page.fill("#live-text", text)
    page.press("#live-text", "Enter")
    return page.inner_text(".live-say")


def test_two_hundred_queries_have_the_answers_and_scores_of_pytorch(visit, queries, expected):
    page, _ = visit()
    scores, weights, first = expected
    rows = list(range(0, len(queries), len(queries) // 200))
    asked = [{"reference": queries[row].reference, "text": queries[row].text} for row in rows]
    found = page.evaluate(ANSWERS, asked)
    assert len(found) == 200
    for row, answer in zip(rows, found, strict=True):
        assert np.abs(np.array(answer["scores"]) - scores[row].numpy()).max() < 1e-4
        assert answer["lambda"] == pytest.approx(float(weights[row]), abs=1e-5)
        pairs = zip(answer["first"], first[row].tolist(), strict=True)
        assert all(a == b or abs(scores[row, a] - scores[row, b]) < 1e-6 for a, b in pairs)


@pytest.mark.parametrize("name", ["try", "index"])
def test_the_first_answer_is_there_before_a_weight_is_loaded_and_stays_when_they_are(
    visit, queries, expected, name
):
    page, asked = visit(name)
    reference = int(page.get_attribute(".live-chosen button", "data-picture"))
    text, before = page.input_value("#live-text"), page.evaluate(SHOWN, "mix")
    row = next(i for i, query in enumerate(queries) if query[:2] == (reference, text))
    said = page.inner_text(".live-said")
    page.focus("#live-text")
    page.keyboard.press("Tab")  # who only passes by loads nothing
    page.wait_for_timeout(100)
    assert not any("/live/" in url for url in asked)
    assert before == expected[2][row].tolist()
    assert page.inner_text("output") == f"{float(expected[1][row]):.2f}"
    load(page)
    assert page.evaluate(SHOWN, "mix") == before
    assert page.inner_text(".live-said") == said
    assert {url.split("/live/")[1] for url in asked if "/live/" in url} >= {"model.js", "gallery.js"}


def test_nothing_is_asked_of_another_host_and_all_that_is_loaded_is_below_5_mb(visit, site):
    page, asked = visit()
    load(page)
    ask(page, "is red")
    page.wait_for_load_state("networkidle")
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert 1e6 < sum(path.stat().st_size for path in (site.parent / "_static" / "live").iterdir()) < 5e6


def test_the_judges_marks_are_those_of_the_world_and_a_text_of_ones_own_has_none(visit, run, queries):
    page, _ = visit()
    load(page)
    texts = page.locator(".live-suggestions button").all_inner_texts()
    reference = int(page.get_attribute(".live-chosen button", "data-picture"))
    for place, text in enumerate(texts):
        page.click(f".live-suggestions li:nth-child({place + 1}) button")
        row = next(i for i, query in enumerate(queries) if query[:2] == (reference, text))
        accepted = run.evaluation.dataset.relevant()[row].nonzero()[0].tolist()
        assert page.evaluate(RIGHT) == [one for one in page.evaluate(SHOWN, "mix") if one in accepted]
    assert ask(page, "is red") == ""
    assert page.evaluate(RIGHT) == []
    assert "not to a text of your own" in page.inner_text(".live-said")


def test_the_ends_of_the_slider_are_the_rankings_of_one_part_and_the_learned_weight_comes_back(visit):
    page, _ = visit()
    load(page)
    learned = page.evaluate(SHOWN, "mix")
    for value, alone in (("1", "image"), ("0", "text")):
        page.fill("#live-weight", value)
        assert page.evaluate(SHOWN, "mix") == page.evaluate(SHOWN, alone) != learned
    page.click(".live-learned")
    assert page.evaluate(SHOWN, "mix") == learned
    assert page.inner_text("output") == page.inner_text(".live-tick span")


def test_all_can_be_done_by_keyboard(visit):
    page, _ = visit()
    page.focus(".live-starts button")
    page.keyboard.press("Enter")
    page.wait_for_selector("form.loaded")
    chosen = page.get_attribute(".live-starts button", "data-picture")
    assert page.get_attribute(".live-chosen button", "data-picture") == chosen
    assert page.get_attribute(".live-starts button", "aria-pressed") == "true"
    page.focus("#live-text")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    before, text = page.evaluate(SHOWN, "mix"), page.evaluate("() => document.activeElement.textContent")
    page.keyboard.press("Enter")
    assert page.input_value("#live-text") == text
    page.focus("#live-weight")
    page.keyboard.press("End")
    assert page.inner_text("output") == "1.00"
    assert page.get_attribute("#live-weight", "aria-valuetext").startswith("1.00, learned 0.")
    assert page.evaluate(SHOWN, "mix") != before


def test_an_answer_can_be_the_next_garment_by_touch(visit):
    page, _ = visit(width=390, has_touch=True, is_mobile=True)
    picture = page.evaluate(SHOWN, "mix")[1]
    gate = page.get_attribute("[data-gate=image] path", "d")
    page.tap("[data-ranking=mix] li:nth-child(2) button")
    page.wait_for_selector("form.loaded")
    assert page.get_attribute(".live-chosen button", "data-picture") == str(picture)
    assert picture not in page.evaluate(SHOWN, "mix")
    assert page.get_attribute("[data-gate=image] path", "d") != gate


@pytest.mark.parametrize("name", ["try", "index"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_in_both_modes(visit, name, scheme):
    page, _ = visit(name, width=390, scheme=scheme)
    load(page)
    ask(page, "is sparkly " * 40)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    colours = "e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]"
    for part in ("#live-text", ".live-suggestions button"):
        ink, paper = (sum(map(int, re.findall(r"\d+", c)[:3])) for c in page.eval_on_selector(part, colours))
        assert (ink - paper > 300) if scheme == "dark" else (paper - ink > 300)


@unreadable
def test_what_cannot_be_read_is_told_with_what_to_do_and_the_answers_stay(visit, text, says):
    page, asked = visit()
    load(page)
    before = page.evaluate(SHOWN, "mix")
    assert says in ask(page, text)
    assert page.evaluate(SHOWN, "mix") == before
    assert ask(page, "Is red.") == ""
    assert not any(url.startswith("error") for url in asked)


def test_without_javascript_the_example_stays_and_says_why(visit):
    page, asked = visit(java_script_enabled=False)
    assert "JavaScript is off" in page.inner_text("article noscript")
    assert page.locator("[data-ranking=mix] button").count() == 10
    assert page.is_disabled("#live-text")
    assert not any("/live/" in url for url in asked)


@pytest.mark.parametrize("name", ["model.js", "pictures.webp"])
def test_what_does_not_arrive_is_told_and_may_come_later(visit, site, name):
    page, _ = visit()
    before, part = page.evaluate(SHOWN, "mix"), site.parent / "_static" / "live" / name
    away = part.rename(part.with_suffix(".away"))
    page.click("#live-text")
    page.wait_for_function("() => document.querySelector('.live-say').innerText.includes('did not arrive')")
    away.rename(part)
    assert page.evaluate(SHOWN, "mix") == before
    assert page.locator("form.loaded").count() == 0  # no blank cards
    load(page)


def test_a_garment_without_a_suggestion_is_asked_with_the_last_text_that_could_be_read(visit, queries):
    page, _ = visit()
    load(page)
    text = page.input_value("#live-text")
    silent = next(j for j in range(len(queries)) if all(query.reference != j for query in queries))
    before = page.evaluate(SHOWN, "mix")
    ask(page, "is sparkly")
    page.eval_on_selector(
        ".live-starts button", "(card, j) => { card.dataset.picture = j; card.click(); }", silent
    )
    assert "No annotator spoke" in page.inner_text(".live-say")
    assert page.input_value("#live-text") == text
    assert silent not in page.evaluate(SHOWN, "mix") != before


def test_what_fits_is_measured_anew_for_another_width_and_not_while_a_phones_bar_goes(visit):
    page, _ = visit(width=390)
    assert "native code" in page.evaluate("() => String(window.open)")
    again = "() => document.documentElement.classList.contains('fitted')"
    page.wait_for_function(again)
    page.evaluate("() => document.documentElement.classList.remove('fitted')")
    for width, fitted in ((390, False), (400, True)):
        page.set_viewport_size({"width": width, "height": 800})
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")
        assert page.evaluate(again) == fitted


def test_a_run_that_the_script_cannot_compute_is_refused(tmp_path):
    config = read_recipe("synthfashion-smoke").but(model={"streams": ["clip"], "editors": "image"})
    with pytest.raises(ConfigError, match="editors"):
        write_live(tmp_path, Run(config, tmp_path / "run", device="cpu"))
