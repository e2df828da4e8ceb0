"""What is wrong with the form of a notebook, told without running it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from dwclib.book.execute import Book
from dwclib.book.notebooks import (
    CHECKED,
    SOLUTION,
    Cell,
    declared_parameters,
    read_notebook,
    source_of,
    tags_of,
)
from dwclib.errors import ConfigError


def problems(book: Book) -> list[str]:
    """Return what is wrong with the form of the source notebooks, one sentence each; nothing is run."""
    return [f"{path.name}: {problem}" for path in book.notebooks for problem in _problems(path)]


def _problems(path: Path) -> Iterator[str]:
    cells = read_notebook(path)["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    text = "\n".join(source_of(cell) for cell in cells if cell["cell_type"] == "markdown")
    try:
        declared_parameters(path)
    except ConfigError as error:
        yield error.problem
    if not source_of(cells[0]).startswith("# "):
        yield "the first cell is no title"
    for heading in ("## Exercises", "## Summary"):
        if not re.search(rf"^{heading}", text, re.MULTILINE):
            yield f"there is no heading {heading!r}"
    if len([cell for cell in code if SOLUTION in tags_of(cell)]) < 2:
        yield "there are fewer than two solved exercises"
    if not any(CHECKED in tags_of(cell) for cell in code):
        yield "no cell's output is checked"
    for number, cell in enumerate(cells, start=1):
        yield from (f"cell {number}: {problem}" for problem in _cell_problems(cell))


def _cell_problems(cell: Cell) -> Iterator[str]:
    source, tags = source_of(cell), tags_of(cell)
    if not cell.get("id"):
        yield "it has no id"
    if cell["cell_type"] != "code":
        return
    if len(source.splitlines()) > 25 and "long" not in tags:
        yield f"it has {len(source.splitlines())} lines; split it, or tag it 'long'"
    if SOLUTION in tags and not re.search(r"^check_\w+\(", source, re.MULTILINE):
        yield "the solution is not checked"
    if SOLUTION in tags and "hide-cell" not in tags:
        yield "the solution is not folded"
    if CHECKED in tags and not (cell["outputs"] and cell["execution_count"]):
        yield "its output should be checked, but none is stored; run 'make outputs'"
    if CHECKED not in tags and cell["outputs"]:
        yield "it has an output in git; run 'make outputs'"
    if re.search(r"[\"'](/(home|root|tmp|Users|work)/|[A-Z]:\\)", source):
        yield "it names a path of one machine"
