"""What is wrong with the form of a notebook, told without running it, and mended where a machine can."""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dwclib.book.address import SETUP
from dwclib.book.execute import Book
from dwclib.book.notebooks import (
    CHECKED,
    SOLUTION,
    Cell,
    declared_parameters,
    in_form,
    laptop_stamps,
    read_notebook,
    source_of,
    tags_of,
    write_notebook,
)
from dwclib.errors import ConfigError

MYST = re.compile(r"^(?:`{3,}|:{3,})\{|\{[a-z:]+\}`", re.MULTILINE)


def problems(book: Book) -> list[str]:
    """Return what is wrong with the form of the source notebooks, one sentence each; nothing is run."""
    stamps = laptop_stamps(book.root)
    return [
        f"{path.name}: {problem}"
        for path in book.notebooks
        for problem in _problems(path, stamps.get(path.stem, {}))
    ]


def mend(book: Book) -> None:
    """Bring the source notebooks into the form that git keeps: after Run All, say, in an editor."""
    stamps = laptop_stamps(book.root)
    for path in book.notebooks:
        write_notebook(path, in_form(read_notebook(path), stamps.get(path.stem, {})))


def _problems(path: Path, stamp: Mapping[str, Any]) -> Iterator[str]:
    notebook = read_notebook(path)
    if in_form(copy.deepcopy(notebook), stamp) != notebook:
        yield "its outputs, hidden cells or times are not as git keeps them; run 'make format'"
    cells = notebook["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    text = "\n".join(source_of(cell) for cell in cells if cell["cell_type"] == "markdown")
    try:
        declared_parameters(path)
    except ConfigError as error:
        yield error.problem
    if not source_of(cells[0]).startswith("# "):
        yield "the first cell is no title"
    if "**Time**: " not in source_of(cells[0]):
        yield "the first cell has no line '**Time**: ...'"
    if not any(SETUP in tags_of(cell) for cell in cells[1:2]):
        yield "the second cell does not install dwclib"
    for heading in ("## Exercises", "## Summary"):
        if not re.search(rf"^{heading}", text, re.MULTILINE):
            yield f"there is no heading {heading!r}"
    if len([cell for cell in code if SOLUTION in tags_of(cell)]) < 2:
        yield "there are fewer than two solved exercises"
    if not any(CHECKED in tags_of(cell) for cell in code):
        yield "no cell's output is checked"
    found = defaultdict(list)
    for number, cell in enumerate(cells, start=1):
        for problem in _cell_problems(cell):
            found[problem].append(str(number))
    yield from (f"cell {', '.join(numbers)}: {problem}" for problem, numbers in found.items())


def _cell_problems(cell: Cell) -> Iterator[str]:
    source, tags = source_of(cell), tags_of(cell)
    if not cell.get("id"):
        yield "it has no id"
    if cell["cell_type"] != "code":
        if found := MYST.search(source):
            yield f"only the site understands {found.group()!r}; write plain Markdown"
        return
    if len(source.splitlines()) > 25 and "long" not in tags:
        yield f"it has {len(source.splitlines())} lines; split it, or tag it 'long'"
    if SOLUTION in tags and not re.search(r"^check_\w+\(", source, re.MULTILINE):
        yield "the solution is not checked"
    if SOLUTION in tags and "hide-cell" not in tags:
        yield "the solution is not folded"
    if CHECKED in tags and not cell["outputs"]:
        yield "its output should be checked, but none is stored; run 'make outputs'"
    if re.search(r"[\"'](/(home|root|tmp|Users|work)/|[A-Z]:\\)", source):
        yield "it names a path of one machine"
