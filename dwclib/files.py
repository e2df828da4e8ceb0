"""Files that are never half-written, read with care, and names that change when their content would."""

from __future__ import annotations

import ast
import atexit
import codecs
import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
import tokenize
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
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
        folder.mkdir(parents=True, exist_ok=True)
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
        When it cannot be read, or is no JSON.
    """
    return _parsed(Path(path), json.loads, "Write it again, or restore it.")


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
        path.parent.mkdir(parents=True, exist_ok=True)
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
    with writable(folder, "Name a folder that you may write to."):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def check_changeable(path: Path) -> None:
    """Raise a ConfigError for a path in the installed package's own folder, where nothing is written.

    What computes long before it writes calls this first.
    """
    if not IS_CHECKOUT and PACKAGE in path.absolute().parents:
        raise ConfigError("an installed package is not changed", where=path, remedy=CLONE)


@contextlib.contextmanager
def writable(folder: Path, remedy: str = "Name a folder that you may write to.") -> Iterator[None]:
    """Tell in one sentence when what the block creates in a folder cannot be created."""
    try:
        yield
    except OSError as error:
        problem = f"it cannot be written to ({error.strerror})"
        raise ConfigError(problem, where=folder, remedy=remedy) from error


def code_of(*names: str) -> list[Path]:
    """Return the files of dwclib that these names come from and of all that those import, in order.

    Parameters
    ----------
    *names : such as ``"dwclib.losses"`` or ``"dwclib.experiments.load"``.

    What depends on a computation's code can be named by these files: editing another changes nothing.
    """
    found: dict[str, Path] = {}
    waiting, seen = list(names), set[str]()
    while waiting:
        if (name := waiting.pop()) in seen:
            continue
        seen.add(name)
        if path := _file_of(name):
            found[name] = path
            waiting += imports_of(path.read_text(encoding="utf-8"))
        else:
            waiting += _home_of(name)
    return [found[name] for name in sorted(found)]


def meaning_of(path: Path) -> str:
    """Return what of a Python file can change a result: no comments, no docstrings, no empty lines."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            first, last = node.body[0].lineno, node.body[0].end_lineno or 0
            lines[first - 1 : last] = [""] * (last - first + 1)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and lines[token.start[0] - 1]:
            lines[token.start[0] - 1] = lines[token.start[0] - 1][: token.start[1]]
    return "\n".join(line.rstrip() for line in lines if line.strip())


@lru_cache(maxsize=1_000)
def imports_of(text: str) -> tuple[str, ...]:
    """Return the names below dwclib that Python code imports, and with ``a`` each ``a.b`` that it uses."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []  # runs never
    nodes = list(ast.walk(tree))
    known: dict[str, str] = {}  # name in the code -> what it stands for
    modules = []
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dwclib":
            modules.append(str(node.module))
            known |= {name.asname or name.name: f"{node.module}.{name.name}" for name in node.names}
    taken = {
        f"{known[node.value.id]}.{node.attr}"
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in known
    }
    return (*modules, *known.values(), *taken)


def _file_of(name: str) -> Path | None:
    path = ROOT.joinpath(*name.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return path if path.exists() else None


def _home_of(name: str) -> Iterator[str]:
    """Yield the module from which a package takes a name that it gives lazily."""
    package, _, wanted = name.rpartition(".")
    path = _file_of(package) if package else None
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8") if path else "")):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "lazy":
            homes = {one.arg: str(ast.literal_eval(one.value)).split() for one in node.keywords}
            yield from (f"{package}.{module}" for module, given in homes.items() if wanted in given)


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
