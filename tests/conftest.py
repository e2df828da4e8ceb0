"""Shapes are checked in every test: jaxtyping's annotations become assertions, before dwclib is imported."""

import os
import shutil
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook("dwclib", "typechecker.check")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # tests start programs: threads that wait let those work

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--disable-component-update"]  # fmt: skip


def pytest_collection_modifyitems(items):
    """Begin with the smoke book, the file that takes longest: the other process does the rest meanwhile."""
    items.sort(key=lambda item: item.path.stem != "test_smoke")


@pytest.fixture(scope="module")
def browser():
    """Start this machine's Chromium for one module: while it runs, so does a loop of events."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for found in map(shutil.which, names) if found), None)
    if path is None:
        assert not os.environ.get("CI"), "CI needs a Chromium: see .ci/run"
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=CHROMIUM)
        yield started
        started.close()


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """Keep what a module's tests decode and draw out of the book's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DWC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def written(request, tmp_path_factory, own_cache):
    """SynthFashion in the layout of a real dataset: the module's LAYOUT, in the sizes of its SMALL."""
    from dwclib.data import census

    root = tmp_path_factory.mktemp("written") / "out"
    census.write(request.module.LAYOUT, root, **request.module.SMALL)
    return root


@pytest.fixture
def root(written, tmp_path):
    """Return a copy that a test may damage."""
    return shutil.copytree(written, tmp_path / "copy")
