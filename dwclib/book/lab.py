"""JupyterLab's way to the book's files: a notebook opens unmodified and is saved as git keeps it."""

from __future__ import annotations

import platform
from pathlib import Path, PurePosixPath
from typing import Any

from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager

from dwclib.book.execute import kernel_environment
from dwclib.book.notebooks import Notebook, normalised, source_of


class BookFiles(AsyncLargeFileManager):
    """Files on disk; the metadata of the book's own notebooks are the book's.

    JupyterLab writes the version of Python into each notebook that it opens. Here it finds the version there
    already, and it is not kept.
    """

    async def get(self, path: str, *options: Any, **named: Any) -> dict[str, Any]:
        """Return a file or a folder, as JupyterLab asks for it."""
        model: dict[str, Any] = await super().get(path, *options, **named)
        if _is_ours(path) and model["content"] and model["type"] == "notebook":
            language = model["content"]["metadata"].setdefault("language_info", {})
            language["version"] = platform.python_version()
        return model

    async def save(self, model: dict[str, Any], path: str = "") -> dict[str, Any]:
        """Write a file, as JupyterLab hands it over."""
        if _is_ours(path) and model.get("content") and model["type"] == "notebook":
            _normalise(model["content"])
        saved: dict[str, Any] = await super().save(model, path)
        return saved


def open_lab(root: Path, *options: str) -> None:
    """Open JupyterLab at the notebooks of a checkout, with recipes and library in reach, until it is stopped.

    Parameters
    ----------
    root : the checkout.
    *options : JupyterLab's own; they win.
    """
    from jupyterlab.labapp import LabApp

    given = {option.partition("=")[0] for option in options}
    ours = {
        "--ServerApp.root_dir": root,
        "--LabApp.default_url": "/lab/tree/notebooks",
        "--ServerApp.contents_manager_class": f"{BookFiles.__module__}.{BookFiles.__name__}",
        "--KernelManager.transport_encryption": "auto",  # or each kernel warns of it
    }
    with kernel_environment():
        LabApp.launch_instance([*(f"{k}={v}" for k, v in ours.items() if k not in given), *options])


def _normalise(notebook: Notebook) -> None:
    """Bring a notebook into its one form; what a reader trusts stays so, or figures are gone."""
    trusted = [cell["cell_type"] == "code" and cell["metadata"].get("trusted") for cell in notebook["cells"]]
    for cell, mark in zip(normalised(notebook)["cells"], trusted, strict=True):
        cell["source"] = source_of(cell)  # in one piece, as a notebook is signed
        cell["metadata"] |= {"trusted": True} if mark else {}


def _is_ours(path: str) -> bool:
    return PurePosixPath(path).match("[0-9][0-9]_*.ipynb")
