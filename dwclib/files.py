"""Files that are never half-written, read with care, and names that change when their content would."""

from __future__ import annotations

import atexit
import codecs
import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import platformdirs
import yaml

from dwclib.errors import BOOK_DATA, CLONE, ConfigError

PACKAGE = BOOK_DATA.parent
ROOT = PACKAGE.parent
# Else an installed package, whose folder is never written to.
IS_CHECKOUT = (ROOT / "pyproject.toml").is_file()
DATA = ROOT / "data" if IS_CHECKOUT else BOOK_DATA  # networks, recipes, grids, rows, reported results


def cache_folder(*parts: str) -> Path:
    """Folder for files that code can make again.

    It is ``$DWC_CACHE``; without that ``.cache/`` of the checkout, or the user's folder for such files where
    dwclib is an installed package.

    Parameters
    ----------
    *parts : names of folders below it; they are created.

    Raises
    ------
    ConfigError
        When it cannot be created.
    """
    home = ROOT / ".cache" if IS_CHECKOUT else platformdirs.user_cache_path("dwclib")
    folder = Path(os.environ.get("DWC_CACHE") or home).expanduser().joinpath(*parts)
    with writable(folder, "Name another folder in the environment variable DWC_CACHE."):
        return folder


def scratch() -> Path:
    """Return a fresh folder that is removed when the program, or the notebook's kernel, ends by itself."""
    folder = Path(tempfile.mkdtemp(prefix="dwclib-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def bytes_of(path: Path, *, most: int) -> bytes:
    """Read a file that may have so many bytes.

    Raises
    ------
    OSError
        When it is not there, or may not be read.
    ValueError
        When it is no regular file, or larger.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")
    if (size := path.stat().st_size) > most:
        raise ValueError(f"it has {size:,} bytes")
    return path.read_bytes()


def text_of(path: Path, *, most: int = 16 * 2**20) -> str:
    """Read a text file as the editors of all systems write it: UTF-8, or UTF-16 with its mark.

    Parameters
    ----------
    most : bytes that such a file may have.

    Raises
    ------
    OSError
        When it is not there, or may not be read.
    ValueError
        When it is no regular file, larger, or in another encoding.
    """
    content = bytes_of(path, most=most)
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not {error.encoding.upper()}") from error


def read_yaml(path: Path | str) -> Any:
    """Read a YAML file of keys and plain values: numbers, true and false, texts, lists. An empty one is None.

    Numbers are those of YAML 1.2 (``1e-3`` is one, ``1:30`` is a text); nothing else is guessed.

    Raises
    ------
    ConfigError
        When it cannot be read, is no YAML, has a key twice, or uses tags, aliases or merges.
    """
    return _parsed(Path(path), lambda text: yaml.load(text, _Yaml), "Name a YAML file of keys and values.")


def read_json(path: Path | str) -> Any:
    """Read a JSON file of settings.

    Raises
    ------
    ConfigError
        When it cannot be read, is no JSON, or has a key twice.
    """
    return _parsed(Path(path), json_of, "Write it again, or restore it.")


def json_of(text: str) -> Any:
    """Parse JSON; a ValueError says which key an object has twice: JSON would silently keep the last."""
    return json.loads(text, object_pairs_hook=_without_doubles)


def write_json(path: Path, content: Any, *, sort_keys: bool = False) -> None:
    """Write a JSON file, whole or not at all: an item a line, so that a difference can be read."""
    with atomic(path) as target:
        text = json.dumps(content, indent=1, ensure_ascii=False, sort_keys=sort_keys)
        target.write_text(text + "\n", encoding="utf-8")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        doubled = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{doubled!r} occurs twice")
    return found


def _parsed(path: Path, parse: Callable[[str], Any], remedy: str) -> Any:
    try:
        return parse(text_of(path))
    except (OSError, yaml.YAMLError, ValueError, LookupError, RecursionError) as error:
        problem = str(error)
        if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
            problem = f"{error.problem}, line {error.problem_mark.line + 1}"
        raise ConfigError(f"it cannot be read ({problem})", where=path, remedy=remedy) from error


class _Yaml(yaml.SafeLoader):
    """YAML without what surprises: no key twice, no aliases, no dates, no octal numbers, no yes for true."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012  a subclass of its own, filled below
    yaml_constructors = {  # noqa: RUF012
        tag: build
        for tag, build in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in ("null", "bool", "int", "float", "str", "seq", "map")
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, "aliases are not used here", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        found = super().construct_mapping(node, deep)
        names = Counter(str(key.value) for key, _ in node.value)
        for key, _ in node.value:
            if names[str(key.value)] > 1:
                problem = f"the key {key.value!r} is there twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        return found


for _tag, _pattern in {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(0|[1-9][0-9]*)",
    "float": r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?",
}.items():
    _Yaml.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), None)


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place only when the block ends without an error.

    Works for a file and for a folder: whatever the block creates under the temporary name is moved in one
    rename, so that a reader sees all of it or nothing. What an interrupted block left behind is removed.

    Raises
    ------
    ConfigError
        When the folder cannot be written to, or is the installed package's own.
    """
    check_changeable(path)
    with writable(path.parent):
        workspace = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield workspace / path.name
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(workspace / path.name, path)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def check_writable(folder: Path) -> None:
    """Make a folder, if it is not there, and raise ConfigError when it cannot be written to."""
    with writable(folder):
        tempfile.TemporaryFile(dir=folder).close()


def check_changeable(path: Path) -> None:
    """Raise a ConfigError for a path in the installed package's own folder, where nothing is written.

    What computes long before it writes calls this first.
    """
    if not IS_CHECKOUT and PACKAGE in path.absolute().parents:
        raise ConfigError("an installed package is not changed", where=path, remedy=CLONE)


@contextlib.contextmanager
def writable(folder: Path, remedy: str = "Name a folder that you may write to.") -> Iterator[None]:
    """Make a folder; tell in one sentence when it, or what the block creates in it, cannot be created."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        problem = f"it cannot be written to ({error.strerror})"
        raise ConfigError(problem, where=folder, remedy=remedy) from error


def fingerprint(*parts: Any) -> str:
    """Return 16 hexadecimal digits that change whenever one of the parts does.

    Parameters
    ----------
    *parts : bytes or a view of them, paths (their content counts) or anything that JSON can write.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            part = part.read_bytes()
        if not isinstance(part, bytes | memoryview):
            part = json.dumps(part, sort_keys=True).encode()
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()[:16]
