"""Part of the site's Sphinx: a term's definition under the mouse, and a page for wrong addresses."""

from __future__ import annotations

from collections.abc import Iterator

from docutils import nodes
from sphinx.application import Sphinx

GLOSSARY = "book/glossary"
LOST = """<section><h1>This page is not here</h1>
<p>It may have moved, or its address has a slip. <a href="book/index.html">The first page</a> shows the way,
and the search beside the contents finds any word.</p></section>"""


def setup(app: Sphinx) -> dict[str, bool]:
    """Take part in a build, as Sphinx asks of an extension."""
    app.connect("doctree-resolved", _define)
    app.connect("html-collect-pages", _lost)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _lost(_: Sphinx) -> Iterator[tuple[str, dict[str, str], str]]:
    yield "404", {"title": "This page is not here", "body": LOST}, "page.html"


def _define(app: Sphinx, page: nodes.document, _: str) -> None:
    """Give each reference to the glossary the definition that it leads to as its title."""
    if GLOSSARY not in app.env.all_docs:
        return
    for link in page.findall(nodes.reference):
        address, _, term = link.get("refuri", "").partition("#")
        if address.endswith(f"{GLOSSARY.rpartition('/')[2]}.html") and term:
            found = app.env.get_doctree(GLOSSARY).ids.get(term)
            if found and (text := found.next_node(nodes.paragraph)):
                link["reftitle"] = text.astext().replace("\n", " ")
