"""The dials of the pages in a real browser: turned by keyboard, they show what dwclib computes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from markdown_it import MarkdownIt

from dwclib.book import dial_data, in_one_row, in_words
from dwclib.book.execute import Book
from dwclib.book.notebooks import read_notebook, source_of
from dwclib.combiner import combine
from dwclib.encoders import GeM
from dwclib.experiments import mean_interval
from dwclib.losses import mutual_enhancement_loss
from dwclib.soft_labels import hard_labels, soft_labels

ROOT = Path(__file__).resolve().parents[2]
STATIC = ROOT / "book" / "_static"
PLACE = re.compile(r'<div class="dial" data-dial="(\w+)"></div>')
HEAD = """<!doctype html><html lang=en data-theme=light><meta charset=utf-8>
<meta name=viewport content="width=device-width"><link rel=stylesheet href=book.css>
<script defer src=dials.js></script><style>
body { margin: 8px; --pst-color-border: #888; --pst-color-text-muted: #555 }</style>"""
STATE = """box => ({
  facts: Object.fromEntries([...box.querySelectorAll('data')].map(d => [d.dataset.fact, Number(d.value)])),
  drawn: box.querySelector('svg').innerHTML,
  at: Object.fromEntries([...box.querySelectorAll('input[type=range]')].map(
    input => [input.labels[0].textContent, parseFloat(input.ariaValueText.replace('−', '-'))])),
  nameless: [...box.querySelectorAll('input')].filter(i => !i.labels[0]?.textContent).length,
})"""

rng = np.random.default_rng(0)
Y = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(9, 6))), dim=1)
IDENTITIES = torch.tensor([0, 0, 1, 2, 3, 3, 3, 4, 5])
RELEVANT = (rng.uniform(size=(9, 9)) < 0.3) | np.eye(9, dtype=bool)
CURVES = {name: rng.normal(mean, 1, size=(5, 8)) for name, mean in (("up", 2), ("down", -2), ("level", 0))}
GAINS = {name: [mean_interval(list(column)) for column in curve.T] for name, curve in CURVES.items()}
RECALLS = {
    rules: {name: {k: rng.uniform(0, 90) for k in (1, 10, 50)} for name in ("CLIP stream", "both")}
    for rules in ("", "reference in", "own category", "reference in, own category")
}  # fmt: skip
WEIGHTS = rng.dirichlet(np.ones(16), size=3)
REGIONS = {"sleeve": rng.uniform(size=16), "belt": rng.uniform(size=16)}
TEXTS = ["is <b>nicer</b>", "is red", "is red and long"]
PHOTO = np.zeros((8, 8, 3), dtype=np.uint8)
DATA = {
    "labels": {"cosines": Y @ Y.T, "identities": IDENTITIES, "truth": 1 * RELEVANT},
    "concluded": {"gains": GAINS},
    "protocol": {"rules": ["reference in", "own category"], "recalls": RECALLS},
    "words": {"picture": in_one_row(PHOTO), "columns": 4, "words": ["is", "red", "is"], "weights": WEIGHTS,
              "regions": REGIONS},
    "world": {"photos": in_one_row(*[PHOTO] * 4), "target": in_one_row(PHOTO), "occlusion": (0.0, 0.5),
              "blur": (0.0, 0.1), "details": (0.0, 0.5, 1.0), "captions": TEXTS},
}  # fmt: skip


def places():
    """Return the notebooks' cells that have a dial: (name, source)."""
    cells = [c for path in Book("smoke").notebooks for c in read_notebook(path)["cells"]]
    prose = [source_of(cell) for cell in cells if cell["cell_type"] == "markdown"]
    return [(found[1], text) for text in prose if (found := PLACE.search(text))]


def page_of(cells):
    """Return a page with these cells, and with the data that notebooks would leave beside them."""
    kept = [dial_data(name, **data).data for name, data in DATA.items()]
    prose = [MarkdownIt().render(text) for _, text in cells]
    return "\n".join([HEAD, *prose, *kept])


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    """Open the page as a double click does; at the end nothing may have gone wrong on it."""
    folder = tmp_path_factory.mktemp("site")
    for name in ("book.css", "dials.js"):
        (folder / name).write_bytes((STATIC / name).read_bytes())
    (folder / "page.html").write_text(page_of(places()), encoding="utf-8")
    context, wrong = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True), []
    page = context.new_page()
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("request", lambda one: None if one.url.startswith(("file:", "data:")) else wrong.append(one.url))
    page.goto((folder / "page.html").as_uri())
    yield page
    context.close()
    assert wrong == []


def press(page, name, keys):
    """Press keys on controls, each found by its label; return what the dial shows then."""
    box = page.locator(f".dial[data-dial={name}]")
    for label, key in keys:
        control = (
            box.get_by_role("button", name=label) if key == "Enter" else box.get_by_label(label, exact=True)
        )
        control.press(key)
    return box.evaluate(STATE)


def pooled(at):
    z = torch.tensor([[[0.1, 0.2, 0.1, at["the fourth place"]]]])
    found = {
        "gem": float(GeM(p=float(at["exponent γ"]))(z).detach()),
        "mean": float(z.mean()),
        "maximum": float(z.max()),
    }
    return found | {"way": (found["gem"] - found["mean"]) / (found["maximum"] - found["mean"])}


def mixed(at):
    turn = np.deg2rad(at["angle between them"])
    image = at["length of v'"] * torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    text = at["length of t'"] * torch.tensor([[np.cos(turn), np.sin(turn)]])
    q = combine(image, text, torch.tensor([[at["weight λ"]]], dtype=torch.float64))
    angle = float(np.rad2deg(np.arctan2(q[0, 1], q[0, 0])))
    away = at["angle between them"] - angle
    odds = np.sin(np.deg2rad(away)) / np.sin(np.deg2rad(angle))  # the law of sines
    return {"lambda": at["weight λ"], "share": odds / (1 + odds), "to-image": angle, "to-text": away}


def softened(at):
    Z, P = (
        soft_labels(Y, IDENTITIES, alpha=at["α"], temperature=at["τ"]).numpy(),
        hard_labels(IDENTITIES).numpy(),
    )
    given = Z[P == 0].sum()
    recovered = (Z * RELEVANT)[P == 0].sum() / given
    return {"given": given / len(Z), "recovered": recovered, "blind": RELEVANT[P == 0].mean()}


def after(at):
    now = {name: points[int(at["epochs"]) - 1] for name, points in GAINS.items()}
    same = sum(in_words(now[name]) == in_words(points[-1]) for name, points in GAINS.items())
    return {"same": same} | {f"gain {name}": interval.mean for name, interval in now.items()}


def learned(at):
    """Return the losses after two steps of gradient descent, by torch."""
    teacher = torch.tensor([[at[f"teacher's cosine to {name}"] for name in "ABC"]])
    student, targets = torch.tensor([[0.1, -0.1, 0.15]], requires_grad=True), torch.eye(3)
    teacher = teacher.expand(3, 3)  # three equal queries: a batch has as many as targets
    for _ in range(2):
        mutual_enhancement_loss(student.expand(3, 3), targets, teacher, targets).backward()
        student.data -= 0.01 * student.grad
        student.grad = None
    pair = student.detach().expand(3, 3), targets, teacher, targets
    losses = mutual_enhancement_loss(*pair), mutual_enhancement_loss(*pair[2:], *pair[:2])
    return dict(zip(("loss", "reverse"), map(float, losses), strict=True))


def by_rules(_):
    return {f"recall {name}": k[50] for name, k in RECALLS["reference in, own category"].items()}


def looked(_):
    inside, even = WEIGHTS[1] @ REGIONS["belt"], REGIONS["belt"].mean()
    return {
        "inside": inside,
        "even": even,
        "lift": inside / even,
        "most": WEIGHTS[1].max(),
        "least": WEIGHTS[1].min(),
    }


STEP = "The student takes a step"
TURNED = {
    "gem": ([("exponent γ", "ArrowRight"), ("the fourth place", "ArrowLeft")], pooled),
    "mix": ([("weight λ", "ArrowRight"), ("length of t'", "PageUp"), ("angle between them", "Home")], mixed),
    "labels": ([("α", "PageUp"), ("τ", "ArrowRight")], softened),
    "concluded": ([("epochs", "ArrowRight"), ("epochs", "ArrowRight")], after),
    "lesson": ([("teacher's cosine to B", "PageUp"), (STEP, "Enter"), (STEP, "Enter")], learned),
    "protocol": ([("reference in", "Space"), ("own category", "Space"), ("10", "ArrowRight")], by_rules),
    "words": ([("1. is", "ArrowRight"), ("sleeve", "ArrowRight")], looked),
    "world": ([("occlusion", "End"), ("blur", "End"), ("text detail", "Home")], lambda _: {}),
}  # fmt: skip


@pytest.mark.parametrize("name", TURNED)
def test_a_dial_turned_by_keyboard_shows_what_dwclib_computes(page, name):
    keys, truth = TURNED[name]
    before = press(page, name, [])
    found = press(page, name, keys)
    assert found["drawn"] != before["drawn"]
    assert found["facts"] == pytest.approx(truth(found["at"]), rel=2e-3, abs=2e-5)
    assert found["nameless"] == 0


def test_the_world_has_the_photo_and_the_text_of_its_dials(page):
    press(page, "world", [("occlusion", "End"), ("blur", "Home"), ("text detail", "Home")])
    box = page.locator(".dial[data-dial=world]")
    assert box.locator("[data-photo]").get_attribute("data-photo") == "2"
    assert box.locator("[data-fact=text]").inner_text() == TEXTS[0]


def test_small_shares_are_written_with_a_digit_more_and_a_step_is_counted(page):
    press(page, "words", [("1. is", "ArrowRight")])
    told = page.locator(".dial[data-dial=words] [data-fact=inside]").inner_text()
    assert re.fullmatch(r"\d+\.\d\s%", told)
    press(page, "lesson", [("From the start", "Enter"), (STEP, "Enter")])
    assert page.locator(".dial[data-dial=lesson] .dial-said").inner_text().endswith("Steps taken: 1.")


def by_mouse(page, x, y):
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(1, 6):
        page.mouse.move(x - 8 * step, y - 4 * step)
    page.mouse.up()


def by_touch(page, x, y):
    session = page.context.new_cdp_session(page)
    points = [[{"x": x - 8 * step, "y": y - 4 * step}] for step in range(6)] + [[]]
    kinds = ["touchStart", *["touchMove"] * 5, "touchEnd"]
    for kind, point in zip(kinds, points, strict=True):
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": point})


@pytest.mark.parametrize("pull", [by_mouse, by_touch])
def test_vectors_are_pulled_and_the_page_stays(page, pull):
    before = press(page, "mix", [("weight λ", "Home"), ("angle between them", "Home")])
    page.evaluate("document.querySelector('.dial[data-dial=mix] svg').scrollIntoView({block: 'center'})")
    at, grip = page.evaluate("scrollY"), page.locator(".dial[data-dial=mix] circle.text").bounding_box()
    pull(page, grip["x"] + grip["width"] / 2, grip["y"] + grip["height"] / 2)
    after = press(page, "mix", [])
    assert after["at"]["angle between them"] > before["at"]["angle between them"] + 20
    assert after["facts"] == pytest.approx(mixed(after["at"]), rel=1e-3, abs=1e-3)
    assert page.evaluate("scrollY") == at


def test_a_phone_is_wide_enough_for_every_dial(page):
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    sizes = page.locator(".dial svg text").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().height)"
    )
    assert min(sizes) >= 9


def test_every_dial_of_a_notebook_is_in_the_script_and_the_other_way_round():
    script = (STATIC / "dials.js").read_text(encoding="utf-8")
    (table,) = re.findall(r"const DIALS = \{\n(.+?)\n  \};", script, re.DOTALL)
    built = re.findall(r'^    (\w+): \["', table, re.MULTILINE)
    assert sorted(built) == sorted(name for name, _ in places()) == sorted(TURNED)


@pytest.mark.parametrize(("name", "text"), places())
def test_a_dial_says_what_to_try_and_what_to_notice(name, text):
    said = PLACE.sub("", text)
    assert said.startswith("**On the published page**")
    assert re.search(r"\b(notice|find)\b", said, re.IGNORECASE), name


def test_a_dial_that_needs_numbers_has_them_from_its_own_notebook():
    for path in Book("smoke").notebooks:
        cells = [(cell["cell_type"], source_of(cell)) for cell in read_notebook(path)["cells"]]
        shown = {name for kind, text in cells if kind == "markdown" for name in PLACE.findall(text)}
        given = {
            name
            for kind, text in cells
            if kind == "code"
            for name in re.findall(r'dial_data\(\s*"(\w+)"', text)
        }
        assert given == shown & set(DATA), path.name


def test_every_page_loads_the_script():
    config = yaml.safe_load((ROOT / "_config.yml").read_text())["sphinx"]["config"]
    assert ["dials.js", {"defer": "defer"}] in config["html_js_files"]


def test_numbers_keep_five_digits_and_no_text_ends_the_script():
    html = dial_data("gem", some=torch.tensor([1 / 3]), text="</script><b>").data
    assert html.count("<") == 2
    assert json.loads(re.search(r">(.*)<", html)[1]) == {"some": [0.33333], "text": "</script><b>"}
