"""The house: the paper in front, wings behind, and no import that runs upward."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parents[1] / "dwclib"
SHARED = ("errors", "files", "code", "")  # "" is dwclib itself
PAPER = tuple(path.stem for path in HOUSE.glob("*.py") if not path.stem.startswith("__"))
BELOW = {  # wing -> the wings that it may import from, beside its own, the paper and what all share
    "data": (),
    "training": ("data",),
    "experiments": ("training", "data"),
    "search": ("training", "data"),
    "book": ("experiments", "training", "data", "search"),
}
FORM = "data.triplets"  # the one form of a dataset: all that the paper needs of a wing


def imports(path: Path) -> list[tuple[int, str]]:
    """Return line and name below dwclib of what a file imports, inside functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dwclib":
            module = (node.module or "").removeprefix("dwclib").removeprefix(".")
            for name in node.names:
                inner = f"{module}.{name.name}".removeprefix(".")
                is_module = (HOUSE / inner.replace(".", "/")).with_suffix(".py").exists()
                is_module |= (HOUSE / inner.replace(".", "/")).is_dir()
                found.append((node.lineno, inner if is_module else module))
    return found


def is_allowed(importing: str, imported: str) -> bool:
    """Tell whether a module (its name below dwclib) may import another."""
    wing, target = importing.split(".")[0], imported.split(".")[0]
    if target in SHARED or importing == "__main__":
        return True
    if wing in BELOW:
        return target == wing or target in BELOW[wing] or target in PAPER
    return importing not in SHARED and (target in PAPER or imported == FORM)


def test_the_library_imports_itself_in_one_form():
    """No other form is seen below, nor by `code.imports_of`, on which fingerprints rest."""
    for path in HOUSE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            plain = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            where = f"{path.name}, line {getattr(node, 'lineno', 0)}"
            assert not any(name.split(".")[0] == "dwclib" for name in plain), where
            assert not getattr(node, "level", 0), where


@pytest.mark.parametrize("path", sorted(HOUSE.rglob("*.py")), ids=lambda path: str(path.relative_to(HOUSE)))
def test_no_import_runs_upward(path):
    importing = ".".join(path.relative_to(HOUSE).with_suffix("").parts).removesuffix("__init__").rstrip(".")
    wrong = [
        f"{path.name}, line {line}: dwclib.{imported}"
        for line, imported in imports(path)
        if not is_allowed(importing, imported)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("importing", "imported", "allowed"),
    [
        ("streams", "editors", True),
        ("encoders", "data.triplets", True),
        ("streams", "data.synthfashion", False),
        ("streams", "training.config", False),
        ("data.own", "training.runs", False),
        ("training.runs", "data.own", True),
        ("training.runs", "experiments.store", False),
        ("search.gallery", "experiments.store", False),
        ("errors", "streams", False),
    ],
)
def test_the_rule_knows_up_from_down(importing, imported, allowed):
    assert is_allowed(importing, imported) == allowed
