"""The doctor, by its command, in a clone that is whole and in broken ones; and how the cache is emptied."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dwclib.book import doctor

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clone(tmp_path):
    """Return a copy of what a clone holds of the library and its networks and runs."""
    for name in ("dwclib", "data/clip", "data/cnn", "data/runs"):
        shutil.copytree(ROOT / name, tmp_path / "clone" / name)
    for name in ("pyproject.toml", "data/SHA256SUMS"):
        shutil.copy(ROOT / name, tmp_path / "clone" / name)
    return tmp_path / "clone"


def run(folder, *command, **variables):
    environment = {key: value for key, value in os.environ.items() if key != "DWC_CACHE"} | variables
    return subprocess.run(
        [sys.executable, "-m", "dwclib", *command],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_clone_that_is_whole_is_told_part_by_part(clone):
    found = run(clone, "doctor", "--json", DWC_CACHE=str(clone / "kept"))
    assert found.returncode == 0, found.stdout + found.stderr
    parts = {part.pop("part"): part for part in json.loads(found.stdout)}
    expected = ["Python", "dwclib", "packages", "[book]", "[photos]", "[scale]", "[test]", "cores", "memory"]
    assert list(parts) == [*expected, "GPU", "cache", "disk", "data/clip", "data/cnn", "data/runs"]
    assert {part["state"] for part in parts.values()} <= {"fine", "missing"}
    assert parts["Python"]["values"]["version"] == sys.version.split()[0]
    assert parts["dwclib"]["values"]["folder"] == str(clone)
    assert parts["packages"]["values"].keys() >= {"torch", "timm", "open_clip_torch"}
    assert parts["memory"]["values"]["total"] > 2**30
    assert parts["cache"]["values"]["folder"] == str(clone / "kept")


def test_all_that_is_broken_is_told_at_once_with_its_remedy(clone):
    project = clone / "pyproject.toml"
    text = (
        project.read_text()
        .replace('"torch>=', '"torch>=99.', 1)
        .replace("scale = [", 'scale = ["nowhere>=2",')
    )
    project.write_text(text.replace('"einops>=0.8"', '"no-such-package>=1"'))
    weights = clone / "data" / "clip" / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    (clone / "data" / "cnn" / "config.json").unlink()
    manifest, *_ = sorted((clone / "data" / "runs").glob("*/*/manifest.json"))
    manifest.write_text("{")
    (clone / "torchvision").mkdir()
    (clone / "torchvision" / "__init__.py").write_text("raise RuntimeError('operator nms does not exist')")
    (clone / "file").touch()
    found = run(clone, "doctor", DWC_CACHE=str(clone / "file"))
    assert found.returncode == 1, found.stderr
    assert found.stderr == ""
    for line in (
        r"broken  packages .*no-such-package is not there, torch is \S+\. python",
        r'broken  packages .* -m pip install "no-such-package>=1" "torch>=99.*"',
        r'missing \[scale\] .*nowhere is not there\. python -m pip install "nowhere>=2"',
        r"broken  machine .*RuntimeError: operator nms does not exist\. Install",
        r"broken  cache .*/file: it cannot be written to .*DWC_CACHE",
        r"broken  data/clip .*: clip/open_clip_model.safetensors\. git checkout -- data/clip",
        r"broken  data/cnn .*: cnn/config.json\. git checkout -- data/cnn",
        r"broken  data/runs .*: runs/.*/manifest.json\. git checkout -- data/runs",
        r"fine    memory ",
    ):
        assert re.search(f"^{line}", found.stdout, re.MULTILINE), line + found.stdout
    assert len(found.stdout.splitlines()) < 24  # one screen


def test_without_the_books_data_and_the_library_that_reads_yaml_there_is_still_a_report(clone):
    shutil.rmtree(clone / "data")
    (clone / "open_clip.py").write_text("raise ImportError('not today')")
    (clone / "yaml.py").write_text("raise ImportError('yaml is damaged')")
    found = run(clone, "doctor")
    assert found.returncode == 1
    assert found.stderr == ""
    assert "ImportError: yaml is damaged. Install dwclib and its packages again" in found.stdout
    (clone / "yaml.py").unlink()
    assert "install dwclib from its wheel" in run(clone, "doctor").stdout


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_cache_that_cannot_be_read_is_told(clone):
    (clone / "open_clip.py").write_text("raise ImportError('not today')")
    (clone / "kept" / "features").mkdir(parents=True, mode=0)
    found = run(clone, "doctor", DWC_CACHE=str(clone / "kept"))
    assert re.search(r"^broken  cache .*kept/features.*DWC_CACHE", found.stdout, re.MULTILINE), found.stdout


def filled(folder):
    for name in ("features/a.safetensors", "runs/1/step/b", "synthfashion/c.npz"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("12345")
    return folder


def test_the_cache_is_emptied(tmp_path):
    found = run(ROOT, "empty-cache", DWC_CACHE=str(filled(tmp_path / "cache")))
    assert "0.0 MB in 3 files removed" in found.stdout, found.stderr
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_folder_with_anything_else_in_it_is_left_alone(tmp_path):
    (filled(tmp_path / "mine") / "thesis").mkdir()
    found = run(ROOT, "empty-cache", DWC_CACHE=str(tmp_path / "mine"))
    assert found.returncode == 2
    assert "did not put there, such as thesis" in found.stderr
    assert len([path for path in (tmp_path / "mine").rglob("*") if path.is_file()]) == 3


def test_a_folder_that_only_has_names_of_the_caches_is_left_alone(tmp_path):
    shutil.rmtree(filled(tmp_path / "mine") / "synthfashion")
    found = run(ROOT, "empty-cache", DWC_CACHE=str(tmp_path / "mine"))
    assert found.returncode == 2
    assert "nothing shows that this is the book's cache" in found.stderr
    assert (tmp_path / "mine" / "runs" / "1" / "step" / "b").exists()


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_a_link_that_stays_in_the_cache_is_told(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (filled(tmp_path / "cache") / "photos").symlink_to(tmp_path / "elsewhere")
    found = run(ROOT, "empty-cache", DWC_CACHE=str(tmp_path / "cache"))
    assert found.returncode == 2
    assert "photos could not be removed" in found.stderr
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["photos"]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no clone")
def test_a_clone_has_the_summed_files_with_the_same_bytes_on_every_system():
    files = [f"data/{line.split()[1]}" for line in (ROOT / "data/SHA256SUMS").read_text().splitlines()]
    command = ["git", "-C", ROOT, "check-attr", "eol", "--", *files]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told.splitlines() == [f"{file}: eol: lf" for file in files]


def test_every_folder_of_the_cache_is_one_that_is_emptied():
    sources = [*(ROOT / "dwclib").rglob("*.py"), *(ROOT / "notebooks").glob("*.ipynb")]
    used = {
        name
        for path in sources
        for name in re.findall(r'cache_folder\(\\?"(\w+)', path.read_text(encoding="utf-8"))
    }
    assert used | {"lock"} == set(doctor.CACHES)  # `make lock` works there


def test_the_form_for_problems_asks_for_the_report():
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "problem.yml").read_text())
    asked = {part["id"]: part for part in form["body"]}
    assert "python -m dwclib doctor" in asked["doctor"]["attributes"]["description"]
    assert all(part["validations"]["required"] for part in asked.values())
