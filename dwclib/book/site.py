"""The site: the executed notebooks and the pages laid out, and rendered by Jupyter Book."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import yaml

from dwclib.book.address import address_of, is_stamped, pages_of
from dwclib.book.execute import Book, BookError, execute
from dwclib.book.finish import finish
from dwclib.book.folds import name_of
from dwclib.book.live import canonical_run, write_live
from dwclib.book.notebooks import Notebook, read_notebook, source_of, tags_of, write_notebook
from dwclib.book.pages import write_pages
from dwclib.files import atomic, fingerprint, read_yaml

PROMPTS = ("code_prompt_show", "code_prompt_hide")  # what a fold is called, closed and open


def build(book: Book, *, cell_timeout: int = 900) -> Path:
    """Execute what is not fresh, stage the sources, and let Jupyter Book make the site.

    Parameters
    ----------
    book : which notebooks, with which profile.
    cell_timeout : seconds that one cell may take.

    Returns
    -------
    The site's first page.

    Raises
    ------
    BookError
        When a notebook fails, or Jupyter Book warns of anything.
    """
    with book.alone():
        page = _build(book, execute(book, cell_timeout=cell_timeout))
    print(f"The book: {page}", flush=True)
    return page


def _build(book: Book, executed: list[Path]) -> Path:
    stage = _stage(book, executed)
    files = [path for path in sorted(stage.rglob("*")) if path.is_file()]
    makers = sorted(Path(__file__).parent.glob("*.py"))
    key = fingerprint([str(path.relative_to(stage)) for path in files], *files, *makers)
    mark, page = book.build / "site.fingerprint", book.build / "html" / "index.html"
    if not (page.exists() and mark.exists() and mark.read_bytes() == key.encode()):
        if not mark.exists():  # the last build failed: Sphinx would not warn again of pages it has read
            shutil.rmtree(book.build / "rendered", ignore_errors=True)
        mark.unlink(missing_ok=True)
        _render(book, stage)
        mark.write_text(key)
    return page


def _stage(book: Book, executed: list[Path]) -> Path:
    """Lay out what Jupyter Book reads: configuration, pages, and the stamped notebooks."""
    with atomic(book.build / "stage") as stage:
        shutil.copytree(book.root / "book", stage / "book")
        shutil.copytree(book.root / "data", stage / "data", ignore=shutil.ignore_patterns("*.safetensors"))
        shutil.copy(book.root / "_toc.yml", stage)
        config = yaml.safe_dump(_config(book), sort_keys=False, allow_unicode=True)
        (stage / "_config.yml").write_text(config, encoding="utf-8")
        for path in executed:
            source = read_notebook(book.root / "notebooks" / path.name)
            write_notebook(stage / "notebooks" / path.name, _staged(read_notebook(path), source))
        listed = (stage / "_toc.yml").read_text(encoding="utf-8")
        write_pages(stage / "book", executed, listed=listed)
        if "book/try" in listed:
            write_live(stage / "book", canonical_run())
    return book.build / "stage"


def _config(book: Book) -> dict[str, Any]:
    """Return the site's configuration, with buttons only where they lead to something."""
    config, address = read_yaml(book.root / "_config.yml") or {}, address_of(book.root)
    if not address:
        return config
    buttons, html = {"notebook_interface": "jupyterlab"}, {}
    if address.startswith("https://github.com/"):
        buttons["binderhub_url"] = "https://mybinder.org"
        html = {"baseurl": pages_of(address)}
        if all(is_stamped(read_notebook(path), address) for path in book.notebooks):
            buttons["colab_url"] = "https://colab.research.google.com"
        else:
            print(
                f"No button for Colab: run 'make outputs' to name {address} in the notebooks", file=sys.stderr
            )
    return config | {
        "repository": {"url": address, "branch": "main"},
        "launch_buttons": buttons,
        "html": html | config.get("html", {}) | {"use_repository_button": True, "use_issues_button": True},
    }


def _staged(notebook: Notebook, source: Notebook) -> Notebook:
    """Stamp an executed notebook, name its folds, and leave out injected cells and progress bars.

    Captions are the source's: a better one needs no other run.
    """
    captions = {cell.get("id"): cell["metadata"].get("mystnb", {}) for cell in source["cells"]}
    stamp = notebook["metadata"]["dwc_book"]
    versions = stamp["versions"]
    line = (
        f'<p class="stamp">Executed {stamp["date"]} on {stamp["device"]}, in {stamp["seconds"]:.0f} s. '
        f"Profile {stamp['profile']}, Python {versions['python']}, torch {versions['torch']}.</p>"
    )
    first = notebook["cells"][0]
    title, _, rest = source_of(first).partition("\n")
    first["source"] = f"{title}\n\n{line}\n{rest}"
    for cell in notebook["cells"]:
        if "injected-parameters" in tags_of(cell):
            cell["metadata"]["tags"].append("remove-cell")
        if cell["cell_type"] == "code":
            cell["metadata"]["mystnb"] = captions.get(cell.get("id"), {})
            cell["metadata"]["mystnb"] |= dict.fromkeys(PROMPTS, name_of(cell))
            cell["outputs"] = [output for output in cell["outputs"] if not _is_progress(output)]
    return notebook


def _is_progress(output: dict[str, Any]) -> bool:
    """Tell whether an output is a bar or a log, which no reader needs: on stderr, and no warning."""
    return output.get("name") == "stderr" and "Warning: " not in "".join(output["text"])


def _render(book: Book, stage: Path) -> None:
    program = shutil.which("jupyter-book", path=sysconfig.get_path("scripts")) or "jupyter-book"
    command = [program, "build", str(stage)]
    options = ["-n", "-W", "--keep-going", "--path-output", str(book.build / "rendered")]
    found = subprocess.run(command + options, capture_output=True, text=True, check=False)
    rendered = book.build / "rendered" / "_build" / "html"
    if found.returncode or not (rendered / "index.html").exists():
        print(found.stdout[-4000:], found.stderr[-4000:], file=sys.stderr)
        raise BookError(
            "Jupyter Book reported the warnings above", where=stage, remedy="Mend the pages that they name."
        )
    base = (read_yaml(stage / "_config.yml") or {}).get("html", {}).get("baseurl", "")
    finish(rendered, book.build / "html", base=base)
