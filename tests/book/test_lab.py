"""The book in JupyterLab: its notebooks opened, read and saved in a real browser."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dwclib.book.execute import Book
from dwclib.book.lab import BookFiles
from dwclib.book.notebooks import read_notebook

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = Book("smoke").notebooks
SEEN = """() => ({
  dirty: document.querySelectorAll('.lm-TabBar-tab.jp-mod-dirty').length,
  red: document.querySelectorAll('mjx-merror, merror').length,
  title: document.querySelector('.jp-MarkdownOutput blockquote strong')?.innerText,
})"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Copy the notebooks: what is saved here changes nothing in git."""
    return shutil.copytree(ROOT / "notebooks", tmp_path_factory.mktemp("lab") / "notebooks")


@pytest.fixture(scope="module")
def lab(folder):
    """Start JupyterLab as a reader does, over the copies; return its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = (
        f"--no-browser --allow-root --port={port} --ServerApp.port_retries=0 --IdentityProvider.token= "
        f"--ServerApp.root_dir={folder}"
    )
    with subprocess.Popen(
        ["make", "-o", ".venv/.ready", "lab", f"LAB_OPTIONS={options}"], cwd=ROOT, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    ) as server:  # fmt: skip
        yield f"http://127.0.0.1:{port}"
        os.killpg(server.pid, signal.SIGTERM)


def ask(url, seconds=60):
    for _ in range(seconds):
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return json.load(answer)
        except OSError:
            time.sleep(1)
    raise AssertionError(f"{url} does not answer")


def test_make_lab_shows_every_notebook(lab):
    names = {entry["name"] for entry in ask(f"{lab}/api/contents")["content"]}
    assert {path.name for path in NOTEBOOKS} <= names


@pytest.fixture(scope="module")
def page(lab, browser):
    ask(f"{lab}/api/status")
    opened = browser.new_page(viewport={"width": 1200, "height": 900})
    opened.set_default_timeout(120_000)
    return opened


def folded(path):
    cells = read_notebook(path)["cells"]
    return sum(cell["metadata"].get("jupyter", {}).get("source_hidden", False) for cell in cells)


@pytest.mark.parametrize("path", [NOTEBOOKS[4], NOTEBOOKS[14]], ids=lambda path: path.stem)
def test_a_notebook_opens_unmodified_reads_well_and_saves_without_a_difference(page, lab, folder, path):
    copy = folder / path.name
    before, written = copy.read_bytes(), copy.stat().st_mtime_ns
    page.goto(f"{lab}/lab/tree/{path.name}?reset", wait_until="load")
    page.wait_for_selector(".jp-NotebookPanel .jp-MarkdownOutput")
    page.wait_for_selector("text=/Python 3 .*Idle/")
    page.wait_for_function(
        f"() => document.querySelectorAll('.jp-InputPlaceholder').length == {folded(path)}"
    )
    seen = page.evaluate(SEEN)
    assert seen["title"] == "In this notebook"
    assert (seen["dirty"], seen["red"]) == (0, 0)
    page.click(".jp-NotebookPanel .jp-MarkdownOutput")
    page.keyboard.press("Control+s")
    for _ in range(100):
        if copy.stat().st_mtime_ns > written and copy.read_bytes() == before:  # not while it is written
            break
        time.sleep(0.2)
    assert copy.stat().st_mtime_ns > written, "it was not saved"
    assert copy.read_bytes() == before


DESK = """from pathlib import Path
from dwclib.book.desk import SearchDesk
from dwclib.training.config import read_recipe
from dwclib.training.runs import Run
config = read_recipe("synthfashion-smoke").but(model={"streams": ["clip"]})
SearchDesk(Run(config, Path("run-of-the-desk"), device="cpu"))"""


def test_the_search_desk_answers_a_text_and_a_dragged_weight(page, lab, folder):
    cell = {"cell_type": "code", "execution_count": None, "id": "desk", "metadata": {}, "outputs": [],
            "source": DESK}  # fmt: skip
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {"cells": [cell], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    (folder / "desk.ipynb").write_text(json.dumps(notebook))
    page.goto(f"{lab}/lab/tree/desk.ipynb?reset", wait_until="load")
    page.wait_for_selector("text=/Python 3 .*Idle/")
    page.click(".jp-CodeCell .cm-content")
    page.keyboard.press("Shift+Enter")
    mix = ".dwc >> div:has(> p:text('DWC, with this weight'))"
    page.wait_for_selector(f"{mix} >> img")
    before, weight = page.locator(mix).last.inner_html(), page.inner_text("text=/λ = 0/")
    page.fill(".dwc input[type=text]", "is red")
    page.press(".dwc input[type=text]", "Enter")
    page.wait_for_selector("text=Nothing is marked")
    assert page.locator(mix).last.inner_html() != before
    page.press(".dwc .noUi-handle", "Home")
    page.wait_for_selector("text=/λ = 0.00/")
    assert weight != "λ = 0.00"
    page.fill(".dwc input[type=text]", "is red 👗")
    page.press(".dwc input[type=text]", "Enter")
    page.wait_for_selector("text=/leave out “👗”/")


DRAWN = {
    "output_type": "display_data",
    "data": {"image/svg+xml": "<svg>\n</svg>", "text/plain": "<Figure>"},
    "metadata": {},
}


@pytest.mark.parametrize("own", [True, False])
def test_figures_of_the_reader_and_no_others_are_shown_when_a_notebook_is_opened_again(
    tmp_path, monkeypatch, own
):
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "signatures"))
    name, files = NOTEBOOKS[2].name, BookFiles(root_dir=str(tmp_path))
    shutil.copy(NOTEBOOKS[2], tmp_path)

    async def save_and_open():
        content = (await files.get(name))["content"]
        code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
        code[1]["outputs"] = [DRAWN]
        for cell in code:
            cell["metadata"]["trusted"] = own
        await files.save({"type": "notebook", "format": "json", "content": content}, name)
        return (await files.get(name))["content"]["cells"]

    with ThreadPoolExecutor(1) as aside:  # in this thread the browser's loop may run
        cells = aside.submit(asyncio.run, save_and_open()).result()
    trusted = {cell["metadata"]["trusted"] for cell in cells if cell["cell_type"] == "code"}
    assert (True in trusted) == own
    assert "trusted" not in (tmp_path / name).read_text()
