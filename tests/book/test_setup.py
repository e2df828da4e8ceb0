import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"].values()
BOUNDS = [Requirement(line) for line in [*PROJECT["dependencies"], *(x for extra in EXTRAS for x in extra)]]


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins():
    found = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            found.setdefault(normal(pin.name), []).append(next(iter(pin.specifier)))
    return found


@pytest.mark.parametrize("bound", BOUNDS, ids=str)
def test_the_lock_pins_every_dependency_within_its_bounds(bound):
    assert bound.specifier, "give a lower bound"
    for pin in pins()[normal(bound.name)]:
        assert pin.operator == "=="
        assert bound.specifier.contains(pin.version)


def test_every_line_of_the_lock_is_an_exact_pin_and_names_no_host():
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    assert all(pin.operator == "==" for versions in pins().values() for pin in versions)


def test_conda_installs_the_same_versions():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(d for d in environment["dependencies"] if str(d).startswith("python"))
    assert python == f"python{PROJECT['requires-python']}"
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert pip == ["-r requirements.lock", "-e ."]


def test_torch_and_torchvision_are_matching_builds():
    import torch
    import torchvision

    boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1]])
    kept = torchvision.ops.nms(boxes, torch.tensor([0.5, 0.9]), 0.5)  # fails where the builds do not match
    assert kept.tolist() == [1]


def test_jupyter_book_is_the_one_that_reads_our_configuration():
    assert all(pin.version.startswith("1.") for pin in pins()["jupyter-book"])


@pytest.mark.parametrize(
    "module",
    ["dwclib", "dwclib.book.execute", "dwclib.book.check", "dwclib.data.triplets", "dwclib.__main__"],
)
def test_importing_is_light(module):
    code = (
        f"import sys, {module}; print([m for m in ('torch', 'matplotlib', 'open_clip') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"


def test_make_help_lists_every_target_that_is_meant_for_people():
    text = (ROOT / "Makefile").read_text()
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in re.search(r"\.PHONY: (.*)", text).group(1).split():
        if target != "check-profile":
            assert re.search(rf"^{target}\s", listed, re.MULTILINE), target


def test_make_refuses_an_unknown_profile():
    found = subprocess.run(
        ["make", "check-profile", "PROFILE=huge"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode != 0
    assert "There is no profile 'huge'" in found.stdout


def test_make_hands_the_cells_limit_on():
    shown = subprocess.run(
        ["make", "-n", "-o", ".venv/.ready", "book", "CELL_TIMEOUT=77"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "dwclib book --profile laptop --cell-timeout 77" in shown


def test_set_up_shows_progress():
    text = (ROOT / "Makefile").read_text()
    assert "pip install -r requirements.lock" in text


def test_readme_makefile_and_package_name_the_same_pythons():
    assert PROJECT["requires-python"] == ">=3.11,<3.15"
    assert "(3, 11) <= sys.version_info < (3, 15)" in (ROOT / "Makefile").read_text()
    assert "Python 3.11 to 3.14" in (ROOT / "README.md").read_text()
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text())["jobs"]
    assert jobs["platforms"]["strategy"]["matrix"]["python"] == ["3.11", "3.14"]


def test_what_is_made_is_ignored_by_git_cleaned_and_named_in_the_readme():
    rule = re.search(r"^clean:.*\n((?:\t.*\n?)+)", (ROOT / "Makefile").read_text(), re.MULTILINE).group(1)
    readme = (ROOT / "README.md").read_text()
    made = "_build .cache build dist .benchmarks .hypothesis __pycache__ .ipynb_checkpoints"
    for name in made.split():
        asked = subprocess.run(["git", "check-ignore", "-q", f"{name}/"], cwd=ROOT, check=False)
        assert asked.returncode == 0, name
        assert name in rule
        assert f"`{name}/`" in readme
    assert "DWC_CACHE" in readme


def test_make_clean_leaves_what_git_tracks_and_the_environment(tmp_path):
    for name in (
        "_build/x",
        ".cache/x",
        "build/x",
        "dist/x",
        "dwclib/__pycache__/x",
        ".venv/__pycache__/x",
        "book/x",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    shutil.copy(ROOT / "Makefile", tmp_path)
    subprocess.run(["make", "clean"], cwd=tmp_path, capture_output=True, check=True)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"Makefile", "book/x", ".venv/__pycache__/x"}


def test_the_workflows_run_the_targets_of_the_makefile():
    workflow = (ROOT / ".github" / "workflows" / "book.yml").read_text()
    for command in ("bash .ci/run", "make book", "make setup", "pytest -m slow", "bash .ci/colab"):
        assert command in workflow
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("make test")
    assert yaml.safe_load(workflow)["jobs"].keys() == {"test", "alone", "colab", "platforms", "publish"}
    for path in (ROOT / ".ci").iterdir():
        subprocess.run(["bash", "-n", path], check=True)


def test_the_readmes_ten_lines_run(tmp_path):
    text = (ROOT / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    small = (
        code.replace('synthfashion("train")', 'synthfashion("train", images=160, queries=128)')
        .replace('synthfashion("val")', 'synthfashion("val", images=80, queries=40)')
        .replace("epochs=10", "epochs=1")
    )
    script = f"if __name__ == '__main__':\n{''.join('    ' + line + chr(10) for line in small.splitlines())}"
    script += "    print(tuple(ranking.shape))\n"
    (tmp_path / "ten.py").write_text(script)
    found = subprocess.run([sys.executable, tmp_path / "ten.py"], capture_output=True, text=True, check=False)
    assert found.stdout.strip() == "(40, 50)", found.stderr


def test_no_page_of_the_repository_has_an_open_end():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in tracked.split():
        path = ROOT / name
        if path.suffix in (".md", ".py", ".yml", ".ipynb") and path.name != Path(__file__).name:
            assert not re.search(r"TODO|FIXME", path.read_text(encoding="utf-8")), name
