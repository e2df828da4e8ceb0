"""Notebooks as files: reading, writing, their one form, and what their cells say."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dwclib.errors import ConfigError
from dwclib.files import atomic

CHECKED, SOLUTION, PARAMETERS = "nbval-check-output", "solution", "parameters"
Notebook = dict[str, Any]
Cell = dict[str, Any]


def read_notebook(path: Path) -> Notebook:
    """Read a notebook.

    Raises
    ------
    ConfigError
        When the file is not a notebook.
    """
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        notebook["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"this is no notebook ({error})", where=path, remedy="Restore it from git."
        ) from error
    return notebook


def write_notebook(path: Path, notebook: Notebook) -> None:
    """Write a notebook in one form: the same content gives the same bytes."""
    with atomic(path) as target:
        target.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def declared_parameters(path: Path) -> dict[str, Any]:
    """Return the names and defaults that the notebook's ``parameters`` cell assigns.

    Raises
    ------
    ConfigError
        When there is not exactly one such cell, or it does more than assign plain values.
    """
    cells = [cell for cell in read_notebook(path)["cells"] if PARAMETERS in tags_of(cell)]
    if len(cells) != 1:
        raise ConfigError(
            f"{len(cells)} cells have the tag 'parameters'", where=path, remedy="Tag exactly one."
        )
    try:
        statements = ast.parse(source_of(cells[0])).body
        return {one.targets[0].id: ast.literal_eval(one.value) for one in statements}  # type: ignore[attr-defined]
    except (SyntaxError, ValueError, AttributeError) as error:
        raise ConfigError(
            "the parameters cell does more than assign plain values",
            where=path,
            remedy="Write one 'name = value' a line.",
        ) from error


def normalised(notebook: Notebook) -> Notebook:
    """Return a notebook with the metadata that the book keeps and none that an editor adds."""
    for cell in notebook["cells"]:
        cell["metadata"] = {
            key: cell["metadata"][key] for key in ("mystnb", "tags") if key in cell["metadata"]
        }
    notebook["metadata"] = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    notebook["nbformat"], notebook["nbformat_minor"] = 4, 5
    return notebook


def stamp_of(path: Path) -> dict[str, Any]:
    """Return when, where and from what an executed notebook was made."""
    return read_notebook(path)["metadata"].get("dwc_book", {})


def source_of(cell: Cell) -> str:
    """Return what stands in a cell."""
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def tags_of(cell: Cell) -> list[str]:
    """Return a cell's tags."""
    return cell["metadata"].get("tags", [])


def text_of(cell: Cell) -> str:
    """Return what a code cell printed."""
    return "".join("".join(output.get("text", "")) for output in cell["outputs"])


def sentences_of(cell: Cell) -> Iterator[str]:
    """Yield the Markdown that a code cell displayed."""
    for output in cell.get("outputs", []):
        if said := output.get("data", {}).get("text/markdown"):
            yield "".join(said)
