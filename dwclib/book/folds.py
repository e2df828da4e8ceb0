"""What stands in a fold, said on its handle."""

from __future__ import annotations

import ast
import re

from dwclib.book.head import shortened
from dwclib.book.notebooks import SOLUTION, Cell, source_of, tags_of

CHECK = re.compile(r"defines (check_\w+)")
DRAWS = re.compile(r"\bplt\.|\bplots\.(?!use_style)|\.plot\(|\bfigure\b")


def name_of(cell: Cell) -> str:
    """Return the name of a code cell, for the handle of the fold that it stands in.

    Parameters
    ----------
    cell : a solution, a check, the code of a figure or of sentences, or functions and what they are for.
    """
    source, image = source_of(cell), cell["metadata"].get("mystnb", {}).get("image", {})
    comment = source.partition("\n")[0].removeprefix("# ") if source.startswith("# ") else ""
    if SOLUTION in tags_of(cell):
        return "A solution"
    if found := CHECK.search(comment):
        return f"The check of this exercise, {found[1]}"
    if comment:
        return f"Code: {_short(comment)}"
    if source.startswith(("import ", "from ")):
        return "What this page imports"
    if image:
        return f"Code of the figure: {_short(image['alt'])}"
    if purpose := _purpose(source):
        return f"Code: {_short(purpose)}"
    return "Code of the figure" if DRAWS.search(source) else "Code of the findings below"


def _purpose(source: str) -> str:
    """Return what the first function of a cell does, by its docstring."""
    try:
        functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    except SyntaxError:  # IPython's % and !
        return ""
    return next((text for one in functions if (text := ast.get_docstring(one))), "")


def _short(text: str, longest: int = 100) -> str:
    """Return the first sentence, or as much of it as fits on one line."""
    return shortened(re.split(r"[.;]\s", text.replace("\n", " "), maxsplit=1)[0].rstrip("."), longest)
