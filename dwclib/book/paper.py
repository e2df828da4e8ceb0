"""Which lines are the paper: a generated page from ``data/paper.yml``, equation by equation."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

from dwclib.files import DATA, ROOT, read_yaml

PAPER = DATA / "paper.yml"


class Line(NamedTuple):
    """An idea of the paper.

    Fields
    ------
    idea, equation : what it is, in words and in TeX.
    notebook, section : where it is derived, and asserted to return the numbers of
    code : the object of the library, by its full name.
    test : one of the library's tests of it.
    """

    idea: str
    equation: str
    notebook: str
    section: str
    code: str
    test: str

    @property
    def place(self) -> tuple[str, int, int]:
        """The file of `code`, and its first and last line."""
        module, _, name = self.code.rpartition(".")
        path = module.replace(".", "/") + ".py"
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        found = next(node for node in tree.body if getattr(node, "name", None) == name)
        return path, found.lineno, found.end_lineno or found.lineno


def paper_lines(path: Path = PAPER) -> list[Line]:
    """Return the ideas in the order of the method."""
    return [Line(**entry) for entry in read_yaml(path)]


def paper_page() -> str:
    """Return the page, in Markdown."""
    return _HEAD + "\n".join(map(_part, paper_lines()))


def _part(line: Line) -> str:
    file, first, last = line.place
    anchor = re.sub(r"[^a-z0-9]+", "-", line.section.lower()).strip("-")
    link = f"../notebooks/{line.notebook}.html#{anchor}"
    test, _, name = line.test.partition("::")
    return f"""## {line.idea}

$$
{line.equation}
$$

- Derived in notebook {line.notebook[:2]}, <a href="{link}">{line.section}</a>
- `{file}`, lines {first} to {last}
- Tested by `{name}` in `{test}`
"""


_HEAD = """# Which lines are the paper

The method is a few files in front of `dwclib`; everything else serves data, training, measuring and this
book. For each idea you find here its equation, the section that derives it in plain PyTorch and asserts that
the library returns the same numbers, the lines of the library, and one of its tests.

"""
