"""The front door: the names that the package offers, and what has moved."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

import dwclib


@pytest.mark.parametrize("package", ["dwclib", "dwclib.training", "dwclib.experiments", "dwclib.book"])
def test_every_offered_name_is_there_and_is_listed(package):
    module = import_module(package)
    offered = [name for name in dir(module) if not name.startswith("_")]
    assert len(offered) > 3
    assert all(hasattr(module, name) for name in offered)


@pytest.mark.parametrize(("old", "new"), dwclib.MOVED.items())
def test_an_old_path_names_the_new_one(old, new):
    import_module(f"dwclib.{new}")
    with pytest.raises(ModuleNotFoundError, match=rf"dwclib\.{old} is now dwclib\.{new}"):
        import_module(f"dwclib.{old}")


def test_an_old_name_of_the_front_says_so_too():
    with pytest.raises(ModuleNotFoundError, match=r"dwclib\.plots is now dwclib\.book\.plots"):
        from dwclib import plots  # noqa: F401


def test_the_front_is_light():
    heavy = "[name for name in ('torch', 'numpy', 'matplotlib') if name in sys.modules]"
    code = f"import sys, dwclib; print({heavy})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
