"""The page of notation against the formulas of the notebooks: a letter is one thing, wherever it stands."""

import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from dwclib.book.execute import Book
from dwclib.book.notebooks import read_notebook, source_of

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "book" / "notation.md").read_text(encoding="utf-8")
NOTEBOOKS = Book("smoke").notebooks
NAMES = {
    "α": "alpha",
    "γ": "gamma",
    "η": "eta",
    "κ": "kappa",
    "λ": "lambda",
    "ρ": "rho",
    "σ": "sigma",
    "τ": "tau",
}
GREEK = {*NAMES.values(), "beta", "delta", "ell", "mu", "omega", "theta", "varepsilon"}
CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$", re.DOTALL)
WORD = re.compile(r"\\(?:text|mathrm|operatorname|mathbb)\{[^{}]*\}|_\{?[IT]\b\}?")  # also: of Image, of Text
LETTER = re.compile(r"L_[cm]|R_w|\\[A-Za-z]+|[A-Za-z]'?")


def letters_of(text):
    """Return the letters that the formulas of a text use, Greek ones by name; words in them are none."""
    formulas = " ".join("".join(found) for found in FORMULA.findall(CODE.sub("", text)))
    found = {letter.lstrip("\\") for letter in LETTER.findall(WORD.sub(" ", formulas))}
    return {letter for letter in found if letter in GREEK or len(letter.strip("'")) == 1 or "_" in letter}


def letters_in(path):
    """Return the letters of a notebook: of its formulas, and the Greek ones of its code."""
    cells = read_notebook(path)["cells"]
    prose = "\n\n".join(source_of(cell) for cell in cells if cell["cell_type"] == "markdown")
    return letters_of(prose) | {NAMES[one] for cell in cells for one in source_of(cell) if one in NAMES}


def rows():
    """Return, for each row of the page's table, its letters and the notebooks that it names."""
    table = PAGE.split("## Symbols")[1].split("\n## ")[0]
    cells = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| $")]
    return [(letters_of(row[0]), set(row[-1].split())) for row in cells]


USED = defaultdict(set)
for one in NOTEBOOKS:
    for letter in letters_in(one):
        USED[letter].add(one.name[:2])


def test_a_letter_has_one_row():
    counted = Counter(letter for letters, _ in rows() for letter in letters)
    assert len(counted) > 30
    assert [letter for letter, times in counted.items() if times > 1] == []


@pytest.mark.parametrize(
    ("letters", "named"), [row for row in rows() if row[0]], ids=lambda part: " ".join(sorted(part))
)
def test_a_row_names_the_notebooks_that_use_its_letters(letters, named):
    """Who uses a letter anew finds its meaning here, or another letter."""
    assert set().union(*(USED[letter] for letter in letters)) == named


def test_a_letter_of_two_notebooks_is_on_the_page():
    known = set().union(*(letters for letters, _ in rows()))
    assert {
        letter: sorted(where) for letter, where in USED.items() if len(where) > 1 and letter not in known
    } == {}


def test_the_page_uses_no_letter_that_it_does_not_explain():
    known = set().union(*(letters for letters, _ in rows()))
    assert letters_of(PAGE) - known == set()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"$\lambda v' + (1 - \lambda) t'$ and `S`", {"lambda", "v'", "t'"}),
        (r"$$\mathrm{head}_I(x) = \text{a word}$$", {"x"}),
        (r"$L_c + L_{ij}$", {"L_c", "L", "i", "j"}),
    ],
)
def test_letters_are_read_from_formulas(text, found):
    assert letters_of(text) == found
