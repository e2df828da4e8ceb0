"""Notebooks as files: reading, writing, their one form, and what their cells say."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from dwclib.errors import ConfigError
from dwclib.experiments.schema import checked
from dwclib.files import read_json, write_json

CHECKED, SOLUTION, PARAMETERS = "nbval-check-output", "solution", "parameters"
SOURCE, OUTPUTS = {"source_hidden": True}, {"outputs_hidden": True}
HIDDEN = {"setup": SOURCE, "hide-input": SOURCE, "hide-output": OUTPUTS, "hide-cell": SOURCE | OUTPUTS}
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE = {
    "codemirror_mode": {"name": "ipython", "version": 3},
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
}  # as JupyterLab writes it, less the version of whoever opened the notebook last
WORDS_A_MINUTE = 120  # of prose and of code
TIME = re.compile(r"(?<=\*\*Time\*\*: )[^.]+(?=\.)")  # in the first cell
Notebook = dict[str, Any]
Cell = dict[str, Any]
Text = str | list[str]


class _Metadata(BaseModel):
    tags: list[str] = []


class _Output(BaseModel):
    text: Text = ""
    data: dict[str, Any] = {}


class _Cell(BaseModel):
    source: Text
    metadata: _Metadata


class _Prose(_Cell):
    cell_type: Literal["markdown", "raw"]


class _Code(_Cell):
    cell_type: Literal["code"]
    outputs: list[_Output]


class _File(BaseModel):
    """What the book reads of a notebook."""

    cells: list[Annotated[_Prose | _Code, Field(discriminator="cell_type")]] = Field(min_length=1)
    metadata: dict[str, Any]


def read_notebook(path: Path) -> Notebook:
    """Read a notebook.

    Raises
    ------
    ConfigError
        When the file is not a notebook.
    """
    notebook = read_json(path)
    checked(_File, notebook, path, remedy="Restore it from git.")
    return notebook


def write_notebook(path: Path, notebook: Notebook) -> None:
    """Write a notebook in one form: the same content gives the same bytes."""
    write_json(path, notebook, sort_keys=True)


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
    except (SyntaxError, ValueError, AttributeError, RecursionError, MemoryError) as error:
        raise ConfigError(
            "the parameters cell does more than assign plain values",
            where=path,
            remedy="Write one 'name = value' a line.",
        ) from error


def normalised(notebook: Notebook) -> Notebook:
    """Return a notebook with the metadata that the book keeps and none that an editor adds.

    What the site folds, JupyterLab hides: its own metadata follow from the tags.
    """
    for cell in notebook["cells"]:
        kept = {key: cell["metadata"][key] for key in ("mystnb", "tags") if cell["metadata"].get(key)}
        hidden: dict[str, bool] = {}
        for tag in tags_of(cell):
            hidden |= HIDDEN.get(tag, {})
        cell["metadata"] = kept | ({"jupyter": hidden} if hidden else {})
        cell["source"] = source_of(cell).splitlines(keepends=True)
    notebook["metadata"] = {"kernelspec": KERNEL, "language_info": LANGUAGE}
    notebook["nbformat"], notebook["nbformat_minor"] = 4, 5
    return notebook


def in_form(notebook: Notebook, stamp: Mapping[str, Any]) -> Notebook:
    """Return a notebook as git keeps it: with the outputs of checked cells only, and the time that it takes.

    Parameters
    ----------
    notebook : changed in place.
    stamp : of a run of it, with its seconds and its device; empty while there is none.
    """
    notebook = normalised(notebook)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(code, start=1):
        kept = _in_one_piece(cell["outputs"]) if CHECKED in tags_of(cell) else []
        cell["outputs"], cell["execution_count"] = kept, number if kept else None
        for output in kept:
            output |= {"execution_count": number} if "execution_count" in output else {}
    title = notebook["cells"][0]
    said = TIME.sub(_time_of(notebook, stamp), source_of(title))
    title["source"] = said.splitlines(keepends=True)
    return notebook


def _in_one_piece(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join what was printed, which comes in as many pieces as chance will have, and leave out stderr."""
    joined: list[dict[str, Any]] = []
    for output in outputs:
        if output.get("name") == "stdout" and joined and joined[-1].get("name") == "stdout":
            text = "".join(joined[-1]["text"]) + "".join(output["text"])
            joined[-1] = {**output, "text": text.splitlines(keepends=True)}
        elif output.get("name") != "stderr":
            joined.append(output)
    return joined


def _time_of(notebook: Notebook, stamp: Mapping[str, Any]) -> str:
    words = sum(len(source_of(cell).split()) for cell in notebook["cells"])
    reading = f"{5 * max(1, round(words / WORDS_A_MINUTE / 5))} minutes to read"
    return f"{reading}, {math.ceil(stamp['seconds'] / 60)} to run ({stamp['device']})" if stamp else reading


def stamp_of(path: Path) -> dict[str, Any]:
    """Return when, where and from what an executed notebook was made."""
    stamp = read_notebook(path)["metadata"].get("dwc_book")
    return stamp if isinstance(stamp, dict) else {}


def laptop_stamps(root: Path) -> Mapping[str, Mapping[str, Any]]:
    """Return the stamps of the laptop profile's runs that git keeps, by notebook.

    Parameters
    ----------
    root : of the book.
    """
    path = root / "data" / "results" / "notebooks" / "laptop.json"
    return read_json(path) if path.exists() else {}


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
