import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dwclib import files
from dwclib.errors import ConfigError, DwcError, checked_seed
from dwclib.files import atomic, cache_folder, fingerprint, read_json, read_yaml


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with pytest.raises(RuntimeError), atomic(path) as target:
        target.write_text("half")
        raise RuntimeError
    assert list(path.parent.iterdir()) == []
    with atomic(path) as target:
        target.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_rewrite_leaves_the_old_content(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic(path) as target:
        target.write_text("new")
        raise RuntimeError
    assert path.read_text() == "old"


def test_a_folder_is_replaced_in_one_step(tmp_path):
    path = tmp_path / "folder"
    for content in ("one", "two"):
        with atomic(path) as target:
            target.mkdir()
            (target / content).touch()
    assert [child.name for child in path.iterdir()] == ["two"]


def test_a_fingerprint_depends_on_every_part_and_on_where_it_ends(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    prints = [
        fingerprint(b"ab", b"c"), fingerprint(b"a", b"bc"), fingerprint(b"ab"), fingerprint({"a": 1}),
        fingerprint({"a": 2}), fingerprint(tmp_path / "a"), fingerprint(str(tmp_path / "a")),
    ]  # fmt: skip
    assert len(set(prints)) == len(prints)
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


def test_the_cache_can_be_moved(tmp_path, monkeypatch):
    monkeypatch.setenv("DWC_CACHE", str(tmp_path))
    assert cache_folder("x", "y") == tmp_path / "x" / "y"
    assert (tmp_path / "x" / "y").is_dir()


def test_a_cache_that_cannot_be_made_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DWC_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"cannot be written to .* DWC_CACHE"):
        cache_folder("x")


def test_a_place_that_cannot_be_written_to_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file: it cannot be written to"), atomic(tmp_path / "file" / "new"):
        pass


def test_an_installed_package_is_not_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "IS_CHECKOUT", False)
    with pytest.raises(ConfigError, match="an installed package is not changed"), atomic(files.PACKAGE / "x"):
        pass
    with atomic(tmp_path / "x") as target:
        target.touch()


def test_what_is_thrown_away_is_gone_when_the_program_ends():
    code = "from dwclib.files import scratch; a = scratch(); (a / 'x').mkdir(); print(a, scratch()); 1 / 0"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    first, second = found.stdout.split()
    assert first != second
    assert not Path(first).exists()
    assert "ZeroDivisionError" in found.stderr


def test_an_error_says_what_where_and_what_to_do():
    error = DwcError("it is empty", where="a.json, record 3", remedy="Fill it.")
    assert str(error) == "a.json, record 3: it is empty. Fill it."


def test_an_error_is_one_line_and_shows_little_of_a_file():
    error = DwcError("x" * 10_000 + "\n\ny", where="a.json", remedy="Fill it.")
    assert len(str(error)) < 500
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"", None),
        (b"rate: 1e-3", {"rate": 1e-3}),
        (b"rate: -2.5E+3", {"rate": -2500.0}),
        (b"a: [1, 0x10, 010, 1:30, yes, .inf, ~, true]",
         {"a": [1, "0x10", "010", "1:30", "yes", ".inf", None, True]}),
        (b"day: 2001-01-01", {"day": "2001-01-01"}),
        (b"\xef\xbb\xbfname: Fr\xc3\xa4nzi", {"name": "Fr\u00e4nzi"}),
        ("name: Fr\u00e4nzi\r\n".encode("utf-16"), {"name": "Fr\u00e4nzi"}),
    ],
)  # fmt: skip
def test_yaml_is_read_as_it_is_meant(tmp_path, content, value):
    (tmp_path / "a.yml").write_bytes(content)
    assert read_yaml(tmp_path / "a.yml") == value


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("name: Fr\u00e4nzi".encode("latin-1"), "byte 8 is not UTF-8"),
        (b"a: 1\nb: 2\na: 3", "the key 'a' is there twice, line 1"),
        (b"b: {c: 1, c: 1}", "the key 'c' is there twice"),
        (b"a: &x [1]\nb: [*x, *x]", "aliases are not used"),
        (b"a: [", "line 1"),
        pytest.param(b"[" * 100_000, "recursion", id="deep"),
        pytest.param(b"a: " + b"9" * 5_000, "digits", id="long number"),
        (b"!!bool maybe", "maybe"),
        (b"!!python/object/apply:os.getcwd []", "tag"),
        (b"? [1]\n: 2", "unhashable"),
        (b"\0", "characters"),
        (None, "No such file"),
    ],
)
def test_other_yaml_is_refused_in_one_line(tmp_path, content, problem):
    if content is not None:
        (tmp_path / "a.yml").write_bytes(content)
    with pytest.raises(ConfigError, match=problem) as error:
        read_yaml(tmp_path / "a.yml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("read", [read_yaml, read_json])
def test_what_is_no_file_is_refused(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero"), tmp_path / "link", "a\0b"):
        with pytest.raises(ConfigError, match="cannot be read"):
            read(path)


def test_a_file_too_large_for_settings_is_not_read(tmp_path):
    with open(tmp_path / "a.yml", "wb") as file:
        file.truncate(17_000_000)
    with pytest.raises(ConfigError, match="17,000,000 bytes"):
        read_yaml(tmp_path / "a.yml")


@pytest.mark.parametrize(
    "content", ["", "{", '{"a": {"b": 1, "b": 2}}', pytest.param("[" * 100_000, id="deep")]
)
def test_damaged_json_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ConfigError, match=r"a\.json: it cannot be read"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("seed", [0.5, "1", None, True, -1, 2**32])
def test_a_seed_is_a_natural_number(seed):
    with pytest.raises(ConfigError, match="natural number"):
        checked_seed(seed)


def test_numpys_integers_will_do():
    assert checked_seed(np.int64(3)) == 3


def test_an_error_survives_the_way_from_a_worker():
    error = ConfigError("it is empty", where="a.json", remedy="Fill it.")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (ConfigError, str(error))
    assert (again.problem, again.where, again.remedy) == ("it is empty", "a.json", "Fill it.")
