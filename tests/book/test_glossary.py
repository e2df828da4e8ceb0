"""The glossary: each term's first use in a notebook leads to it."""

import io
import re
from pathlib import Path

import pytest
from sphinx.application import Sphinx

from dwclib.book.execute import Book
from dwclib.book.notebooks import read_notebook, source_of

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8")
LINK = re.compile(r"\[([^\]]+)\]\(([^)#]*glossary\.md)#([\w-]+)\)")
PASSED_OVER = re.compile(r"```.*?```|`[^`]*`|\$\$.+?\$\$|\$[^$\n]+\$|^#[^\n]*", re.DOTALL | re.MULTILINE)
TERMS = {
    "auc": r"\bAUC\b",
    "bartletts-test": r"\bBartlett's test\b",
    "bf16": r"\bbf16\b",
    "bootstrap": r"\b[Bb]ootstrap\b",
    "channels-last": r"\bchannels last\b",
    "dropout": r"\b[Dd]ropout\b",
    "head": r"\bheads?\b",
    "hnsw": r"\bHNSW\b",
    "holms-method": r"\bHolm\b",
    "identity": r"\bidentity\b(?! matrix)",
    "ivf": r"\bIVF\b",
    "kullback-leibler-divergence": r"\bKullback-Leibler\b",
    "lstm": r"\bLSTM\b",
    "nat": r"\bnats?\b",
    "noncentral-t": r"\bnoncentral\b",
    "p-value": r"\bp-values?\b",
    "released-code": r"\b[Rr]eleased code\b",
    "spearmans-rank-correlation": r"\bSpearman\b",
    "students-t": r"\bStudent's t\b",
    "train-mode-and-eval-mode": r"\b(train|eval) mode\b",
}
NOTEBOOKS = Book("smoke").notebooks


def prose_of(path):
    """Return the Markdown of a notebook without code, formulas and headings."""
    cells = [cell for cell in read_notebook(path)["cells"] if cell["cell_type"] == "markdown"]
    return PASSED_OVER.sub("", "\n\n".join(source_of(cell) for cell in cells))


def entries():
    """Return the glossary's definitions by their address."""
    parts = re.split(r"^### (.+)\n", PAGE, flags=re.MULTILINE)[1:]
    titles, texts = parts[::2], parts[1::2]
    slugs = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
    return dict(zip(slugs, texts, strict=True))


def test_each_entry_is_short_and_defined_once():
    assert len(entries()) == PAGE.count("\n### ") > 25
    assert all(20 < len(text) < 500 for text in entries().values())
    assert set(TERMS) <= set(entries())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_first_use_of_a_term_leads_to_the_glossary(path):
    text = prose_of(path)
    linked = {(found.start(1), found.end(1)): found[3] for found in LINK.finditer(text)}
    for slug, term in TERMS.items():
        if first := re.search(term, text):
            inside = [leads for (start, end), leads in linked.items() if start <= first.start() < end]
            assert inside == [slug], text[first.start() - 60 : first.end() + 20]


@pytest.mark.parametrize("path", [*NOTEBOOKS, *(ROOT / "book").glob("*.md")], ids=lambda path: path.stem)
def test_a_link_to_the_glossary_leads_to_an_entry(path):
    text = path.read_text(encoding="utf-8")
    for _, page, slug in LINK.findall(text):
        assert slug in entries()
        assert (path.parent / page).resolve() == ROOT / "book" / "glossary.md"


def test_a_link_shows_the_definition_under_the_mouse(tmp_path):
    """Pages are built as the site is, with a warning for what leads nowhere."""
    pages = {
        "book/glossary.md": "# Glossary\n\n## Statistics\n\n### Holm's method\n\n"
        "A correction\nof p-values.\n",
        "index.md": "# Page\n\n[Holm](book/glossary.md#holms-method), [all](book/glossary.md)\n\n"
        "```{toctree}\nbook/glossary\n```\n",
    }
    (tmp_path / "book").mkdir()
    for name, text in pages.items():
        (tmp_path / name).write_text(text)
    settings = {"extensions": ["myst_parser", "dwclib.book.hover"], "myst_heading_anchors": 3}
    warnings, out = io.StringIO(), tmp_path / "html"
    Sphinx(tmp_path, None, out, tmp_path / "trees", "html", settings, status=None, warning=warnings).build()
    page = (out / "index.html").read_text()
    (anchor,) = re.findall(r'glossary.html#([\w-]+)" title="A correction of p-values."', page)
    assert f'id="{anchor}"' in (out / "book" / "glossary.html").read_text()
    assert page.count('title="A correction') == 1
    assert warnings.getvalue() == ""
