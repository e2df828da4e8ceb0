"""The code that a result depends on: found by its imports, and read without what cannot change a result."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from dwclib.files import ROOT


def code_of(*names: str) -> list[Path]:
    """Return the files of dwclib that these names come from and of all that those import, in order.

    Parameters
    ----------
    *names : such as ``"dwclib.losses"`` or ``"dwclib.experiments.load"``.

    What depends on a computation's code can be named by these files: editing another changes nothing.
    """
    found: dict[str, Path] = {}
    waiting, seen = list(names), set[str]()
    while waiting:
        if (name := waiting.pop()) in seen:
            continue
        seen.add(name)
        if path := _file_of(name):
            found[name] = path
            waiting += imports_of(path.read_text(encoding="utf-8"))
        else:
            waiting += _home_of(name)
    return [found[name] for name in sorted(found)]


def meaning_of(path: Path) -> str:
    """Return what of a Python file can change a result: no comments, no docstrings, no empty lines."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            first, last = node.body[0].lineno, node.body[0].end_lineno or 0
            lines[first - 1 : last] = [""] * (last - first + 1)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and lines[token.start[0] - 1]:
            lines[token.start[0] - 1] = lines[token.start[0] - 1][: token.start[1]]
    return "\n".join(line.rstrip() for line in lines if line.strip())


@lru_cache(maxsize=1_000)
def imports_of(text: str) -> tuple[str, ...]:
    """Return the names below dwclib that Python code imports, and with ``a`` each ``a.b`` that it uses."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []  # runs never
    nodes = list(ast.walk(tree))
    known: dict[str, str] = {}  # name in the code -> what it stands for
    modules = []
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dwclib":
            modules.append(str(node.module))
            known |= {name.asname or name.name: f"{node.module}.{name.name}" for name in node.names}
    taken = {
        f"{known[node.value.id]}.{node.attr}"
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in known
    }
    return (*modules, *known.values(), *taken)


def _file_of(name: str) -> Path | None:
    path = ROOT.joinpath(*name.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return path if path.exists() else None


def _home_of(name: str) -> Iterator[str]:
    """Yield the module from which a package takes a name that it gives lazily."""
    package, _, wanted = name.rpartition(".")
    path = _file_of(package) if package else None
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8") if path else "")):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "lazy":
            homes = {one.arg: str(ast.literal_eval(one.value)).split() for one in node.keywords}
            yield from (f"{package}.{module}" for module, given in homes.items() if wanted in given)
