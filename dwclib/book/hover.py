"""Part of the site's Sphinx: a link to a term of the glossary shows its definition under the mouse."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx

GLOSSARY = "book/glossary"


def setup(app: Sphinx) -> dict[str, bool]:
    """Take part in a build, as Sphinx asks of an extension."""
    app.connect("doctree-resolved", _define)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


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
