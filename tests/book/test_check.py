"""The form of a notebook: what is wrong is told in a sentence, and mended where a machine can."""

import json

import pytest

from dwclib.book.address import SETUP, setup_source
from dwclib.book.check import mend, problems
from dwclib.book.execute import Book
from dwclib.book.notebooks import in_form

STAMP = {"seconds": 61.0, "device": "CPU, 2 cores"}


def cell(source, *tags, kind="code", outputs=()):
    made = {"cell_type": kind, "id": f"c{abs(hash(source)) % 10**8}", "metadata": {"tags": list(tags)},
            "source": source}  # fmt: skip
    return made | ({"outputs": list(outputs), "execution_count": 7} if kind == "code" else {})


def stream(text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": [text]}


def notebook(**replaced):
    cells = {
        "title": cell("# A question?\n\n> - **Time**: ?.", kind="markdown"),
        "setup": cell(setup_source(), SETUP, "remove-cell"),
        "parameters": cell("seed = 0", "parameters"),
        "work": cell("print(1)", "nbval-check-output", outputs=[stream("1\n")]),
        "exercises": cell("## Exercises\n\nAdd.", kind="markdown"),
        "one": cell("check_one(1)", "solution", "hide-cell"),
        "two": cell("check_two(2)", "solution", "hide-cell"),
        "summary": cell("## Summary\n\nDone.", kind="markdown"),
    } | replaced  # fmt: skip
    return {"cells": [c for c in cells.values() if c], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


@pytest.fixture
def book(tmp_path):
    for folder in ("notebooks", "book/profiles", "data/results/notebooks"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "book/profiles/smoke.yml").write_text("")
    (tmp_path / "data/results/notebooks/laptop.json").write_text(json.dumps({"01_first": STAMP}))
    return Book("smoke", tmp_path)


def put(book, content):
    path = book.root / "notebooks" / "01_first.ipynb"
    path.write_text(json.dumps(content))
    return path


def test_a_notebook_in_form_has_no_problems(book):
    put(book, in_form(notebook(), STAMP))
    assert problems(book) == []


def test_the_form_is_reached_in_one_step(book):
    path = put(book, notebook())
    mend(book)
    once = path.read_bytes()
    assert problems(book) == []
    mend(book)
    assert path.read_bytes() == once


BAD = {
    "0 cells have the tag 'parameters'": {"parameters": cell("seed = 0")},
    "the first cell is no title": {"title": cell("Hello", kind="markdown")},
    "no line '**Time**: ...'": {"title": cell("# Hello", kind="markdown")},
    "the second cell does not install dwclib": {"setup": None},
    "no heading '## Exercises'": {"exercises": None},
    "no heading '## Summary'": {"summary": None},
    "fewer than two solved exercises": {"two": None},
    "no cell's output is checked": {"work": cell("1")},
    "it has 26 lines": {"extra": cell("\n".join(["x = 1"] * 26))},
    "the solution is not checked": {"two": cell("x = 2", "solution", "hide-cell")},
    "the solution is not folded": {"two": cell("check_two(2)", "solution")},
    "but none is stored": {"work": cell("print(1)", "nbval-check-output")},
    "it names a path of one machine": {"extra": cell("open('/home/me/x')")},
    "it has no id": {"extra": cell("1") | {"id": ""}},
    "only the site understands '```{'": {"extra": cell("```{note}\nHm.\n```", kind="markdown")},
    "only the site understands '{cite}`'": {"extra": cell("as in {cite}`x`", kind="markdown")},
}


@pytest.mark.parametrize("message", BAD)
def test_what_no_machine_can_mend_is_told(book, message):
    put(book, in_form(notebook(**BAD[message]), STAMP))
    (found,) = [problem for problem in problems(book) if message in problem]
    assert found.startswith("01_first.ipynb: ")


def test_a_notebook_of_one_cell_is_told_too(book):
    put(book, in_form({**notebook(), "cells": [cell("# Hello", kind="markdown")]}, STAMP))
    assert any("the second cell does not install" in problem for problem in problems(book))


def edited(change):
    done = in_form(notebook(), STAMP)
    change(done["cells"])
    return done


EDITS = {
    "run all": lambda cells: [c.update(outputs=[stream("2\n")]) for c in cells if "outputs" in c],
    "solution opened": lambda cells: cells[5]["metadata"].pop("jupyter"),
    "written by an editor": lambda cells: cells[2]["metadata"].update(scrolled=True),
    "another time": lambda cells: cells[0].update(source=["# A question?\n", "> - **Time**: 3 days."]),
}


@pytest.mark.parametrize("edit", EDITS)
def test_what_an_editor_leaves_is_one_problem_that_says_what_to_do(book, edit):
    put(book, edited(EDITS[edit]))
    (problem,) = problems(book)
    assert problem.endswith("run 'make format'")
    mend(book)
    assert problems(book) == []


def test_many_cells_with_one_problem_are_one_sentence(book):
    more = {f"extra {n}": cell(f"open('/home/me/{n}')") for n in range(24)}
    put(book, in_form(notebook(**more), STAMP))
    (problem,) = problems(book)
    assert problem.startswith("01_first.ipynb: cell 9, 10, 11")


def test_what_the_site_folds_jupyterlab_hides():
    done = in_form(notebook(seen=cell("1", "hide-input"), both=cell("1", "hide-output")), STAMP)["cells"]
    hidden = [c["metadata"].get("jupyter", {}) for c in done]
    assert hidden[1] == {"source_hidden": True}
    assert hidden[5] == hidden[6] == {"source_hidden": True, "outputs_hidden": True}
    assert hidden[-2:] == [{"source_hidden": True}, {"outputs_hidden": True}]
    assert [name for name, kept in enumerate(hidden) if not kept] == [0, 2, 3, 4, 7]


@pytest.mark.parametrize(
    ("stamp", "said"), [({}, "5 minutes to read."), (STAMP, "5 minutes to read, 2 to run (CPU, 2 cores).")]
)
def test_the_time_is_counted(stamp, said):
    done = in_form(notebook(), stamp)["cells"][0]
    assert "".join(done["source"]).endswith(f"**Time**: {said}")


def test_only_outputs_of_checked_cells_are_kept_in_one_piece_and_no_progress_bar():
    loud = [stream("1"), stream("50%|", "stderr"), stream("\n")]
    content = notebook(
        work=cell("print(1)", "nbval-check-output", outputs=loud), other=cell("2", outputs=loud)
    )
    cells = in_form(content, STAMP)["cells"]
    assert (cells[3]["outputs"], cells[3]["execution_count"]) == ([stream("1\n")], 3)
    assert (cells[-1]["outputs"], cells[-1]["execution_count"]) == ([], None)
