"""The page that says which lines are the paper names sections, code and tests that are there."""

from __future__ import annotations

import re

import pytest

from dwclib.book.notebooks import read_notebook
from dwclib.book.paper import Line, paper_lines, paper_page
from dwclib.files import ROOT

LINES = {line.idea: line for line in paper_lines()}
lines = pytest.mark.parametrize("line", LINES.values(), ids=LINES)


def section_of(line: Line) -> str:
    """Return the code under a section's heading."""
    code, here = [], False
    for cell in read_notebook(ROOT / "notebooks" / f"{line.notebook}.ipynb")["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            for heading in re.findall(r"^##+ (.*)$", source, re.MULTILINE):
                here = heading == line.section
        elif here:
            code.append(source)
    return "\n".join(code)


@lines
def test_the_section_derives_it_and_asserts_that_it_is_equal(line):
    assert re.search(r"assert_(close|allclose)\(", section_of(line)), line.section


@lines
def test_the_code_is_there(line):
    file, first, last = line.place
    head = (ROOT / file).read_text(encoding="utf-8").splitlines()[first - 1]
    assert re.match(rf"(def|class) {line.code.rpartition('.')[2]}\b", head)
    assert last > first


@lines
def test_the_test_is_there(line):
    file, _, name = line.test.partition("::")
    assert re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)


def test_the_page_has_a_part_for_each_idea():
    assert paper_page().count("\n## ") == len(LINES)
