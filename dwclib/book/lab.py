"""JupyterLab's way to the book's files: a notebook opens unmodified and is saved as git keeps it."""

from __future__ import annotations

import platform
from pathlib import PurePosixPath
from typing import Any

from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager

from dwclib.book.notebooks import normalised


class BookFiles(AsyncLargeFileManager):
    """Files on disk; the metadata of the book's own notebooks are the book's.

    JupyterLab writes the version of Python into each notebook that it opens. Here it finds the version there
    already, and it is not kept.
    """

    async def get(self, path: str, *options: Any, **named: Any) -> dict[str, Any]:
        """Return a file or a folder, as JupyterLab asks for it."""
        model: dict[str, Any] = await super().get(path, *options, **named)
        if _is_ours(path) and model["content"] and model["type"] == "notebook":
            model["content"]["metadata"]["language_info"]["version"] = platform.python_version()
        return model

    async def save(self, model: dict[str, Any], path: str = "") -> dict[str, Any]:
        """Write a file, as JupyterLab hands it over."""
        if _is_ours(path) and model.get("content") and model["type"] == "notebook":
            normalised(model["content"])
        saved: dict[str, Any] = await super().save(model, path)
        return saved


def _is_ours(path: str) -> bool:
    return PurePosixPath(path).match("[0-9][0-9]_*.ipynb")
