"""The exercises and quizzes of the real notebooks: what a reader may answer, and what is said to it.

A check runs with the statements it depends on and no others, and may depend on no parameter: what it says
holds for every profile. Wrong answers stand in ``wrong_answers/NN.yml``: for each check, code for the answer
and words of the hint that it must get.
"""

import ast
import builtins
import dis
import gc
import re
from functools import cache
from pathlib import Path
from types import CodeType
from typing import NamedTuple

import pytest
import yaml

from dwclib.book.execute import Book
from dwclib.book.exercises import NotYet
from dwclib.book.notebooks import PARAMETERS, SOLUTION, read_notebook, source_of, tags_of

BOOK = Book("smoke")
WRONG = Path(__file__).parent / "wrong_answers"
HEAD = re.compile(
    r"^\*\*(\d)\. [^*]+[.?!]\*\* \*\((\d+) minutes, (easy|medium|hard)(, predict|, break)?\)\* \S", re.M
)
QUIZ = "## Check yourself"
QUESTION = re.compile(r"^\*\*(\d)\.\*\* ", re.M)
OPTION = re.compile(
    r"<details><summary>([A-D])\. ([^<>$`*]+)</summary>\n\n(Yes|No)\. (\S[^<>]+)\n\n</details>"
)  # plain words in the summary: Markdown is not read there


class Exercise(NamedTuple):
    """What a reader gets: the task, the check, the stub without its comment signs, a solution."""

    name: str
    check: str
    stub: str
    solution: str


def cells_of(path):
    return read_notebook(path)["cells"]


def quiz_of(path):
    return next(source_of(c) for c in cells_of(path) if source_of(c).startswith(QUIZ))


@cache
def exercises_of(path):
    """Return the exercises of a notebook, in order."""
    codes = [(source_of(c), tags_of(c)) for c in cells_of(path) if c["cell_type"] == "code"]
    checks = [i for i, (source, _) in enumerate(codes) if "\n@exercise\n" in source]
    return [_exercise(*codes[i : i + 3]) for i in checks]


def _exercise(check, stub, solution):
    name = re.search(r"^def check_(\w+)\(answer\):$", check[0], re.M)[1]
    first, *lines = stub[0].splitlines()
    assert first == "# Your turn:"
    assert all(re.fullmatch("#( .+)?", line) for line in lines), f"the stub of {name} is a comment"
    assert SOLUTION in solution[1]
    return Exercise(name, check[0], "\n".join(line[2:] for line in lines), solution[0])


EXERCISES = {
    f"{path.stem[:2]}-{one.name}": (path, one) for path in BOOK.notebooks for one in exercises_of(path)
}
each_exercise = pytest.mark.parametrize(("path", "one"), EXERCISES.values(), ids=EXERCISES)
each_page = pytest.mark.parametrize("path", BOOK.notebooks, ids=lambda path: path.stem)


@cache
def wrong_answers(number):
    path = WRONG / f"{number}.yml"
    return yaml.safe_load(path.read_text()) if path.exists() else {}


def names_in(code: CodeType) -> tuple[set[str], set[str]]:
    """Return which names a piece of code needs from outside, and which it binds."""
    needs, binds, inside = set(), set(), set()
    for step in dis.get_instructions(code):
        if step.opname in ("STORE_NAME", "STORE_GLOBAL"):
            binds.add(step.argval)
        elif step.opname in ("LOAD_NAME", "LOAD_GLOBAL") and step.argval not in binds:
            needs.add(step.argval)
        if isinstance(step.argval, CodeType):
            inside |= names_in(step.argval)[0]
    return needs | (inside - binds), binds


def statements_of(source):
    """Return the code of each statement of a cell."""
    return [compile(ast.Module([one], []), "a cell", "exec") for one in ast.parse(source).body]


def needed(statements, wanted):
    """Return those statements, in order, that bind what is wanted, and what they themselves need."""
    chosen = []
    for code in reversed(statements):
        needs, binds = names_in(code)
        if binds & wanted:
            chosen.insert(0, code)
            wanted = (wanted - binds) | needs
    assert wanted <= set(dir(builtins)) | {"__name__"}, f"{wanted} is nowhere made"
    return chosen


def before_exercises(path):
    """Return the code cells above the exercises, but for the parameters: no check may depend on a profile."""
    cells = cells_of(path)
    end = next(i for i, cell in enumerate(cells) if re.search("^## Exercises", source_of(cell), re.M))
    code = [cell for cell in cells[:end] if cell["cell_type"] == "code" and PARAMETERS not in tags_of(cell)]
    return [source_of(cell) for cell in code]


@cache
def state_of(path):
    """Run what the notebook's checks, stubs and solutions need, and define its checks."""
    exercises = exercises_of(path)
    parts = [part for one in exercises for part in (one.check, one.stub, until_checked(one))]
    wanted = set().union(*(names_in(compile(part, path.stem, "exec"))[0] for part in parts))
    above = [code for source in before_exercises(path) for code in statements_of(source)]
    state = {"__name__": "a_notebook"}
    for code in needed(above, wanted - {f"check_{one.name}" for one in exercises}):
        exec(code, state)
    for one in exercises:
        exec(compile(one.check, path.stem, "exec"), state)
    gc.freeze()  # statsmodels collects garbage at every correction: it need not look through what is loaded
    return state


@pytest.fixture(scope="module", autouse=True)
def thawed():
    """Leave the garbage collector as it was."""
    yield
    gc.unfreeze()


def until_checked(one):
    """Return a solution up to its check: what follows shows what it says about the notebook's data."""
    lines = one.solution.splitlines()
    ends = [s.end_lineno for s in ast.parse(one.solution).body if checks(s, one.name)]
    return "\n".join(lines[: ends[0]])


def checks(statement, name):
    """Tell whether a statement is the call of a check."""
    return ast.unparse(statement).startswith(f"check_{name}(")


def run(path, source):
    exec(compile(source, path.stem, "exec"), dict(state_of(path)))


def asked_for(statement):
    """Return what stub and solution must share of a statement: all but the body or the value."""
    if isinstance(statement, ast.FunctionDef):
        return statement.name, ast.unparse(statement.args)
    if isinstance(statement, ast.Assign):
        return [ast.unparse(target) for target in statement.targets]
    return ast.unparse(statement)


@each_exercise
def test_a_solution_passes_and_differs_from_its_stub_only_where_it_may(path, one):
    stub, solution = ([asked_for(s) for s in ast.parse(part).body] for part in (one.stub, one.solution))
    assert solution[: len(stub)] == stub
    assert checks(ast.parse(one.stub).body[-1], one.name)
    run(path, until_checked(one))


@each_exercise
def test_a_stub_fails_its_check_as_it_is_with_a_sentence(path, one):
    with pytest.raises(NotYet, match=r"still has dots|returns nothing yet"):
        run(path, one.stub)


@each_exercise
def test_usual_mistakes_get_a_hint_that_names_them(path, one):
    wrong = wrong_answers(path.stem[:2])[f"check_{one.name}"]
    assert len(wrong) >= 2
    for case in wrong:
        with pytest.raises(NotYet) as told:
            run(path, f"check_{one.name}({case['answer']})")
        assert case["says"] in str(told.value), case
        assert "cannot be used" not in str(told.value), case


@each_page
def test_a_page_has_exercises_for_all_and_one_to_think_about_before_running(path):
    text = "\n".join(source_of(c) for c in cells_of(path) if c["cell_type"] == "markdown")
    heads = HEAD.findall(text.partition("\n## Exercises")[2] or text.partition("## Exercises")[2])
    assert [int(number) for number, *_ in heads] == list(range(1, len(exercises_of(path)) + 1))
    assert 4 <= len(heads) <= 6
    assert any(kind for *_, kind in heads)
    assert set(wrong_answers(path.stem[:2])) == {f"check_{one.name}" for one in exercises_of(path)}


@each_page
def test_a_quiz_gives_a_reason_for_every_option(path):
    cells = [source_of(cell) for cell in cells_of(path)]
    places = [
        next(i for i, s in enumerate(cells) if re.search(rf"^{head}", s, re.M))
        for head in ("## Exercises", QUIZ, "## Summary")
    ]
    assert places == sorted(set(places))
    _, *parts = QUESTION.split(quiz_of(path))
    assert parts[::2] == ["1", "2", "3"]
    right = [_right_option(part) for part in parts[1::2]]
    assert len(set(right)) > 1, "the right answer is not always the same letter"


def _right_option(part):
    question, options = part.partition("<details>")[0], OPTION.findall(part)
    assert question.strip().endswith("?")
    assert part.replace(question, "").count("<details") == len(options)
    assert not OPTION.sub("", part).replace(question, "").strip(), "nothing stands outside the options"
    assert [letter for letter, *_ in options] == list("ABCD")[: len(options)]
    assert 3 <= len(options) <= 4
    assert all(len(reason.split()) >= 5 for *_, reason in options)
    (right,) = [letter for letter, _, verdict, _ in options if verdict == "Yes"]
    return right
