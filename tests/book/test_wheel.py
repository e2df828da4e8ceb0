"""dwclib as an installed package: a notebook alone in an empty folder, and commands without the book."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

from dwclib.book.execute import Book

ROOT = Path(__file__).resolve().parents[2]
BOOK = Book("smoke")
CHOSEN = [
    pytest.param(path, marks=() if path.name.startswith("02") else pytest.mark.slow, id=path.stem)
    for path in BOOK.notebooks
]


def run(*command, **options):
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **options
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Build the wheel, and install it beside the packages of this environment, of which dwclib is none."""
    home = tmp_path_factory.mktemp("installed")
    built = run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index",
                "-w", home, ROOT)  # fmt: skip
    assert built.returncode == 0, built.stderr
    run(sys.executable, "-m", "venv", "--without-pip", home / "env")
    python = home / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))
    (wheel,) = home.glob("*.whl")
    done = run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    assert done.returncode == 0, done.stderr
    assert 10e6 < wheel.stat().st_size < 24e6
    return python, site / "dwclib"


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """Return an empty folder, with a user's own folder of caches beside it."""
    for name in ("DWC_CACHE", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home" / "cache"))
    for name in ("home", "empty"):
        (tmp_path / name).mkdir()
    return tmp_path / "empty"


def contents(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if "__pycache__" not in path.parts}


@pytest.mark.parametrize("path", CHOSEN)
def test_a_notebook_runs_alone_from_the_installed_wheel(installed, alone, path):
    python, package = installed
    before = contents(package)
    (alone / path.name).write_bytes(path.read_bytes())
    (alone.parent / "smoke.yml").write_text(yaml.safe_dump(BOOK.parameters()[path.stem]))
    found = run(python, "-m", "papermill", path.name, "done.ipynb", "-k", "python3", "-f",
                alone.parent / "smoke.yml", cwd=alone)  # fmt: skip
    assert found.returncode == 0, found.stderr[-3000:]
    assert contents(package) == before
    assert {entry.name for entry in alone.iterdir()} == {path.name, "done.ipynb"}


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["book"], "the book's notebooks are not here"),
        (["lab"], "the book's notebooks are not here"),
        (["experiment", "nothing"], "there is no grid 'nothing'"),
        (["pretrain", "cnn"], "an installed package is not changed"),
        (["results"], "the book's notebooks are not here"),
    ],
)
def test_a_command_that_needs_the_book_says_so(installed, alone, command, told):
    python, package = installed
    before = contents(package)
    found = run(python, "-m", "dwclib", *command, cwd=alone)
    assert found.returncode == 2, found.stdout + found.stderr
    assert told in found.stderr
    assert "Traceback" not in found.stderr
    assert contents(package) == before


WAYS_TO_DATA = """
from dwclib.encoders import Clip, ResNet
from dwclib.experiments import grid_names, load, read_grid
from dwclib.experiments.claims import CLAIMS
from dwclib.experiments.reported import reported
from dwclib.files import read_yaml
from dwclib.training import read_recipe

rows, recipe = lambda: load(read_grid("power", "laptop")), lambda: read_recipe("shoes")
for way in (Clip, ResNet, grid_names, rows, recipe, lambda: read_yaml(CLAIMS), lambda: reported("shoes")):
    try:
        way()
        print("there")
    except ValueError as error:
        print(error)
"""


def test_the_wheel_brings_the_networks_the_recipes_and_the_rows(installed, alone):
    found = run(installed[0], "-c", WAYS_TO_DATA, cwd=alone)
    assert found.stdout.split() == ["there"] * 7, found.stderr


def test_the_doctor_finds_the_installed_package_whole(installed, alone):
    found = run(installed[0], "-m", "dwclib", "doctor", cwd=alone)
    assert found.returncode == 0, found.stdout + found.stderr
    assert f"an installed package, in {installed[1]}" in found.stdout
    assert re.search(r"^fine    packages .*torch \d", found.stdout, re.MULTILINE)
    assert re.search(r"^fine    \[scale\] .*pymilvus \d", found.stdout, re.MULTILINE)
    assert re.findall(r"^fine    (data/\w+) .*verified", found.stdout, re.MULTILINE) == [
        "data/clip",
        "data/cnn",
        "data/runs",
    ]


def test_without_the_books_data_each_way_to_it_says_how_to_get_it(alone):
    for path in (ROOT / "dwclib").rglob("*.py"):
        copy = alone / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    found = run(sys.executable, "-c", WAYS_TO_DATA, cwd=alone)
    told = found.stdout.splitlines()
    command = run(sys.executable, "-m", "dwclib", "experiment", cwd=alone)
    assert (len(told), command.returncode) == (7, 2), found.stderr
    for line in [*told, command.stderr]:
        assert "The book's data is missing: install dwclib from its wheel" in line


def test_the_cache_of_an_installed_package_is_the_users(installed, alone):
    python, _ = installed
    code = "from dwclib.files import cache_folder; print(cache_folder('x'))"
    assert run(python, "-c", code, cwd=alone).stdout.strip() == str(alone.parent / "home/cache/dwclib/x")
    chosen = os.environ | {"DWC_CACHE": "~/mine"}
    assert run(python, "-c", code, cwd=alone, env=chosen).stdout.strip() == str(alone.parent / "home/mine/x")
