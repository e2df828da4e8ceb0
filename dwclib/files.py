"""Files that are never half-written, and names that change when their content would."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def cache_folder(*parts: str) -> Path:
    """Folder for files that code can make again: ``$DWC_CACHE``, or ``.cache/`` beside the notebooks.

    Parameters
    ----------
    *parts : names of folders below it; they are created.
    """
    folder = Path(os.environ.get("DWC_CACHE") or ROOT / ".cache").joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place only when the block ends without an error.

    Works for a file and for a folder: whatever the block creates under the temporary name is moved in one
    rename, so that a reader sees all of it or nothing. What an interrupted block left behind is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    workspace = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield workspace / path.name
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(workspace / path.name, path)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def code_of(*modules: str) -> list[Path]:
    """Return the files of these modules of dwclib and of all that they import from it, in order.

    Parameters
    ----------
    *modules : such as ``"dwclib.losses"``.

    What depends on a computation's code can be named by these files: editing another changes nothing.
    """
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        path = ROOT.joinpath(*(module := waiting.pop()).split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if module not in found and path.exists():
            found[module] = path
            waiting += _imports_of(path)
    return [found[module] for module in sorted(found)]


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


def _imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dwclib"):
            yield str(node.module)
            yield from (f"{node.module}.{name.name}" for name in node.names)  # may be a module itself


def fingerprint(*parts: Any) -> str:
    """Return 16 hexadecimal digits that change whenever one of the parts does.

    Parameters
    ----------
    *parts : bytes or a view of them, paths (their content counts) or anything that JSON can write.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            part = part.read_bytes()
        if not isinstance(part, bytes | memoryview):
            part = json.dumps(part, sort_keys=True).encode()
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()[:16]
