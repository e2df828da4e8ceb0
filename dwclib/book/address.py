"""Where the repository lies: known from one place, told to the site and to each notebook's first cell."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from dwclib.book.notebooks import Notebook, source_of, tags_of

SETUP = "setup"
_HEAD = """# Makes sure that dwclib is there; on Colab it is not at first.
from importlib.util import find_spec

if not find_spec("dwclib"):
"""
_ABSENT = '    raise ModuleNotFoundError("dwclib is missing; the README says how to install it")'
_INSTALL = '    %pip install --quiet "dwclib[scale] @ git+{}"'


def address_of(root: Path) -> str:
    """Return the https address of the repository, by CI's variables or git's remote; "" where none is known.

    Parameters
    ----------
    root : a checkout. Of its remotes ``upstream`` counts before ``origin``: a fork teaches the same book.
    """
    if name := os.environ.get("GITHUB_REPOSITORY"):
        return f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{name}"
    for remote in ("upstream", "origin"):
        command = ["git", "-C", str(root), "remote", "get-url", remote]
        try:
            found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        except OSError:  # no git here
            return ""
        if match := re.fullmatch(
            r"(?:https?://|ssh://)?(?:[^/@]+@)?([^/:@]+\.\w+)(?::\d+(?=/))?[/:](.+?)(?:\.git)?/?", found
        ):
            return f"https://{match[1]}/{match[2]}"
    return ""


def pages_of(address: str) -> str:
    """Return where GitHub serves a repository's site.

    Parameters
    ----------
    address : of the repository, on GitHub.
    """
    owner, _, name = address.removeprefix("https://github.com/").partition("/")
    host = f"{owner.lower()}.github.io"
    return f"https://{host}/" if name.lower() == host else f"https://{host}/{name}/"


def setup_source(address: str = "") -> str:
    """Return the first cell of every notebook: it installs dwclib where it is absent, and else does nothing.

    Parameters
    ----------
    address : of the repository; without one the cell says where to read how.
    """
    return _HEAD + (_INSTALL.format(address) if address else _ABSENT)


def stamped(notebook: Notebook, address: str) -> Notebook:
    """Write an address into a notebook's first cell; without one, what stands there is kept."""
    for cell in notebook["cells"]:
        if SETUP in tags_of(cell) and address:
            cell["source"] = setup_source(address)
    return notebook


def is_stamped(notebook: Notebook, address: str) -> bool:
    """Tell whether the notebook installs dwclib from this address."""
    return any(
        source_of(cell) == setup_source(address) for cell in notebook["cells"] if SETUP in tags_of(cell)
    )
