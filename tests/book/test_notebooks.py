"""The real notebooks as git keeps them: their form, and what in them is checked."""

import ast
import re
from pathlib import Path

import pytest

from dwclib.book.address import SETUP
from dwclib.book.check import problems
from dwclib.book.execute import Book
from dwclib.book.notebooks import CHECKED, declared_parameters, read_notebook, source_of, tags_of
from dwclib.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
BOOK = Book("smoke")


def checked_cells(path):
    return [cell for cell in read_notebook(path)["cells"] if CHECKED in cell["metadata"].get("tags", [])]


def test_the_notebooks_are_in_form():
    assert len(BOOK.notebooks) >= 6
    assert problems(BOOK) == []


def code_of(path):
    """Return the trees of a notebook's code cells, without the one that installs."""
    cells = [c for c in read_notebook(path)["cells"] if c["cell_type"] == "code" and SETUP not in tags_of(c)]
    return [(tags_of(cell), ast.parse(source_of(cell))) for cell in cells]


@pytest.mark.parametrize("path", BOOK.notebooks, ids=lambda path: path.stem)
def test_an_assertion_says_what_it_means(path):
    nodes = [node for _, tree in code_of(path) for node in ast.walk(tree)]
    silent = [ast.unparse(node) for node in nodes if isinstance(node, ast.Assert) and node.msg is None]
    assert silent == []


@pytest.mark.parametrize("path", BOOK.notebooks, ids=lambda path: path.stem)
def test_a_check_tells_an_answer_that_is_not_right_in_a_sentence(path):
    defined = [node for _, tree in code_of(path) for node in tree.body if isinstance(node, ast.FunctionDef)]
    checks = [node for node in defined if node.name.startswith("check_")]
    assert len(checks) >= 2
    assert all(ast.unparse(node.decorator_list[0]) == "exercise" for node in checks)


@pytest.mark.parametrize("path", BOOK.notebooks, ids=lambda path: path.stem)
def test_a_parameter_that_cannot_be_used_is_told_before_any_work(path):
    (limits,) = [tree for _, tree in code_of(path) if "check_least(" in ast.unparse(tree)]
    usable, limits = declared_parameters(path), compile(limits, path.name, "exec")
    exec(limits, dict(usable))
    for name in (name for name, value in usable.items() if not isinstance(value, str)):
        for silly in (-1, "a", float("nan")):
            with pytest.raises(ConfigError, match=rf"{name} = "):
                exec(limits, usable | {name: silly})


@pytest.mark.parametrize("path", BOOK.notebooks, ids=lambda path: path.stem)
def test_what_a_notebook_throws_away_is_removed(path):
    assert not any("tempfile" in ast.unparse(tree) for _, tree in code_of(path))


CITED = re.compile(r"\[(\w+) et al\., (\d{4})\]\(([^)]+)\)")
ENTRIES = (ROOT / "book" / "references.bib").read_text().split("\n@")


def test_a_citation_is_a_name_and_a_link_and_stands_in_the_bibliography():
    known = {
        (re.search(r"author\s*= {(\w+),", entry)[1], re.search(r"year\s*= {(\d+)}", entry)[1],
         re.search(r"url\s*= {(.+)}", entry)[1])
        for entry in ENTRIES
    }  # fmt: skip
    prose = [source_of(c) for path in BOOK.notebooks for c in read_notebook(path)["cells"]]
    cited = {match for text in prose for match in CITED.findall(text)}
    assert cited == known


def test_they_are_numbered_and_all_in_the_table_of_contents():
    numbers = [int(path.name[:2]) for path in BOOK.notebooks]
    assert numbers == sorted(set(numbers))
    listed = re.findall(r"file: notebooks/(\w+)", (ROOT / "_toc.yml").read_text())
    assert listed == [path.stem for path in BOOK.notebooks]


@pytest.mark.parametrize("profile", ["smoke", "laptop", "gpu"])
def test_every_profile_fits_the_notebooks(profile):
    assert set(Book(profile).parameters()) == {path.stem for path in BOOK.notebooks}


def test_nothing_is_defined_in_two_notebooks():
    seen = {}
    for path in BOOK.notebooks:
        for cell in read_notebook(path)["cells"]:
            source = "".join(cell["source"]) if cell["cell_type"] == "code" else ""
            for kind, name in re.findall(r"^(def|class) (\w+)", source, re.MULTILINE):
                assert seen.setdefault(name, path.name) == path.name, f"{kind} {name}"


TYPED_BY_HAND = re.compile(
    r"\d+([.,]\d+)? ?(%|per cent|points?\b)"
    r"|(recall|R@\d+|Recall@\d+) (is|of|was|reaches|rises to) \d",
    re.IGNORECASE,
)


def results_typed_in(text):
    """Return what looks like a result in prose; 95 % intervals and a figure's width are none."""
    plain = text.replace("95 %", "").replace("width: 100%", "")
    return [found.group() for found in TYPED_BY_HAND.finditer(plain)]


@pytest.mark.parametrize("path", BOOK.notebooks, ids=lambda path: path.stem)
def test_the_prose_has_no_number_that_code_should_give(path):
    for cell in read_notebook(path)["cells"]:
        if cell["cell_type"] == "markdown":
            assert results_typed_in("".join(cell["source"])) == []


@pytest.mark.parametrize("path", sorted((ROOT / "book").glob("*.md")), ids=lambda path: path.stem)
def test_a_page_has_no_result_that_code_should_give(path):
    assert results_typed_in(path.read_text()) == []


@pytest.mark.parametrize(
    "text", ["It finds 41.7 % of them.", "It gains 2 points.", "a Recall@10 of 43.1", "12 per cent"]
)
def test_a_result_typed_by_hand_is_noticed(text):
    assert results_typed_in(text)


@pytest.mark.parametrize("path", BOOK.notebooks, ids=lambda path: path.stem)
def test_a_wrong_stored_output_would_be_noticed(path):
    """Guard against vacuous checks: each notebook has checked text that nbval compares."""
    compared = [
        output
        for cell in checked_cells(path)
        for output in cell["outputs"]
        if output.get("name") == "stdout" or "text/plain" in output.get("data", {})
    ]
    assert len(compared) >= 3
