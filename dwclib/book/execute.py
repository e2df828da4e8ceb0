"""The book as a program: execute its notebooks, and stamp them.

Executed notebooks live in ``_build/executed/<profile>/``. A notebook is executed again only when something
that it depends on has changed.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dwclib.book.address import SETUP, address_of, stamped
from dwclib.book.notebooks import (
    PARAMETERS,
    TIME,
    declared_parameters,
    in_form,
    laptop_stamps,
    normalised,
    read_notebook,
    sentences_of,
    source_of,
    stamp_of,
    tags_of,
    text_of,
    write_notebook,
)
from dwclib.code import code_of, imports_of, meaning_of
from dwclib.errors import NO_BOOK, ConfigError, DwcError, brief, check_choice
from dwclib.experiments.machine import stamp as machine_stamp
from dwclib.files import ROOT, atomic, fingerprint, read_json, read_yaml, writable, write_json

QUIET = "--IPKernelApp.log_level=50"  # what goes wrong in a kernel is told by its client
PYTHON = {"kernel_name": "python3", "language": "python"}
MEASURE = "import json; from dwclib.experiments.machine import peak_memory; print(json.dumps(peak_memory()))"


class BookError(DwcError):
    """A notebook that failed, or a site that could not be built."""


@dataclass(frozen=True)
class Book:
    """A book and one of its profiles.

    Parameters
    ----------
    profile : name of a file in ``book/profiles/``, without its ending.
    root : the folder with ``notebooks/``, ``book/``, ``dwclib/`` and ``data/``.

    Raises
    ------
    ConfigError
        When there is no such profile.
    """

    profile: str = "laptop"
    root: Path = ROOT

    def __post_init__(self) -> None:
        if not (folder := self.root / "book" / "profiles").is_dir():
            raise ConfigError("the book's notebooks are not here", where=self.root, remedy=NO_BOOK)
        check_choice("profile", self.profile, sorted(path.stem for path in folder.glob("*.yml")), folder)

    @property
    def notebooks(self) -> list[Path]:
        """The source notebooks, in reading order; a ConfigError where there is none."""
        if found := sorted((self.root / "notebooks").glob("[0-9][0-9]_*.ipynb")):
            return found
        raise ConfigError("there is no notebook", where=self.root / "notebooks", remedy=NO_BOOK)

    @property
    def build(self) -> Path:
        """The folder for everything that is made."""
        return self.root / "_build"

    def executed(self, notebook: Path) -> Path:
        """Return where the executed copy of a notebook is kept."""
        return self.build / "executed" / self.profile / notebook.name

    def parameters(self) -> dict[str, dict[str, Any]]:
        """Return what the profile sets in each notebook: stem -> parameter -> value.

        Raises
        ------
        ConfigError
            When it names a notebook or a parameter that is not there, or a value of another type than the
            notebook's default.
        """
        path = self.root / "book" / "profiles" / f"{self.profile}.yml"
        chosen = read_yaml(path) or {}
        if not isinstance(chosen, dict) or not all(isinstance(v, dict | None) for v in chosen.values()):
            raise ConfigError(
                "it is no table of notebooks with their parameters", where=path, remedy="Restore it from git."
            )
        stems = {notebook.stem: notebook for notebook in self.notebooks}
        for stem, values in chosen.items():
            check_choice("notebook", stem, stems, path)
            _check_values(values or {}, declared_parameters(stems[stem]), f"{path}, {stem}")
        return {stem: {**(chosen.get(stem) or {})} for stem in stems}

    def fingerprint_of(self, notebook: Path, parameters: dict[str, Any]) -> str:
        """Return a fingerprint of all that a notebook's outputs depend on.

        Of the library, what the code imports counts, without its comments; of grids, results, claims,
        reported numbers and loaders of real datasets, what it names. Neither the cell that installs counts,
        nor the line that says how long it takes.
        """
        read = [cell for cell in read_notebook(notebook)["cells"] if SETUP not in tags_of(cell)]
        cells = [(cell["cell_type"], TIME.sub("", source_of(cell)), tags_of(cell)) for cell in read]
        sources = [source for kind, source, _ in cells if kind == "code"]
        loaders = [path.stem for path in (self.root / "dwclib" / "data").glob("*.py")]
        named = [f"dwclib.data.{name}" for name in loaders if _names("\n".join(sources), name)]
        library = code_of(*named, *(name for source in sources for name in _imports(source)))
        lock = self.root / "requirements.lock"
        return fingerprint(
            cells, parameters, lock, *map(meaning_of, library), *self._data_of("\n".join(sources))
        )

    def _data_of(self, code: str) -> list[Path]:
        folder = self.root / "data"
        if re.search(r"\b(number|claimed)\(", code):  # from any grid, as these files say
            grids = [path.stem for path in folder.glob("experiments/*.yml")]
            code += "".join(f" '{name}'" for name in ("quantities", "claims", *grids))
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        names = {path: _looked_up_as(path.relative_to(folder)) for path in files}
        return [path for path in files if names[path] is None or _names(code, str(names[path]))]

    def is_fresh(self, notebook: Path, parameters: dict[str, Any]) -> bool:
        """Tell whether the executed copy was made from what is there now."""
        try:
            found = stamp_of(self.executed(notebook)).get("fingerprint")
        except ConfigError:  # missing or damaged
            return False
        return found == self.fingerprint_of(notebook, parameters)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let one program at a time write what is made.

        Raises
        ------
        BookError
            When another one does.
        """
        from filelock import FileLock, Timeout

        with writable(self.build):
            try:
                held = FileLock(self.build / ".lock", is_singleton=True).acquire(timeout=0)
            except Timeout as error:
                raise BookError(
                    "another program builds the book", where=self.build, remedy="Wait until it has ended."
                ) from error
        with held:
            yield


def _imports(source: str) -> tuple[str, ...]:
    """Return what of dwclib a cell imports; none where it is no Python, as it will say when it runs."""
    try:
        return imports_of(re.sub(r"^(\s*)[%!].*", r"\1pass", source, flags=re.MULTILINE))
    except SyntaxError:
        return ()


def _names(code: str, name: str) -> bool:
    """Tell whether code has this name in quotation marks, or as a part of a path in them."""
    return re.search(rf"[\"'/]{re.escape(name)}[\"'/]", code) is not None


def _looked_up_as(path: Path) -> str | None:
    """Return the name by which a notebook reads a file of ``data/``; None for what all may depend on."""
    folder = path.parts[0]
    if folder == "results":
        return path.parent.name
    return path.stem if folder in ("experiments", "reported", "claims.yml", "quantities.yml") else None


def execute(book: Book, *, only: str | None = None, cell_timeout: int = 900) -> list[Path]:
    """Execute, in order, the notebooks whose executed copy is missing or stale.

    Parameters
    ----------
    book : which notebooks, with which profile.
    only : the number or the beginning of the name of the notebooks to execute; all by default.
    cell_timeout : seconds that one cell may take.

    Returns
    -------
    The executed copies of all notebooks that were asked for.

    Raises
    ------
    BookError
        When a cell fails or takes too long; what had succeeded before is kept.
    """
    parameters = book.parameters()
    chosen = [path for path in book.notebooks if path.name.startswith(only or "")]
    if not chosen:
        raise ConfigError(
            f"no notebook begins with {only!r}", where=book.root / "notebooks", remedy="Use 01 ..."
        )
    with book.alone():
        for number, path in enumerate(chosen, start=1):
            values = parameters[path.stem]
            state = "fresh" if book.is_fresh(path, values) else "running"
            print(f"[{number}/{len(chosen)}] {path.stem}: {state}", file=sys.stderr, flush=True)
            if state == "running":
                seconds = _execute_one(book, path, values, cell_timeout)
                print(f"[{number}/{len(chosen)}] {path.stem}: {seconds:.0f} s", file=sys.stderr, flush=True)
    return [book.executed(path) for path in chosen]


def prepare(book: Book, out: Path) -> list[Path]:
    """Write a copy of each notebook with the profile's parameters in it and its stored outputs kept.

    nbval runs these: it would run the sources with the laptop's sizes.
    """
    import papermill

    out.mkdir(parents=True, exist_ok=True)
    written = []
    for stem, values in book.parameters().items():
        path = out / f"{stem}.ipynb"
        source = book.root / "notebooks" / path.name
        papermill.execute_notebook(source, path, values, prepare_only=True, **PYTHON)
        write_notebook(path, stamped(read_notebook(path), address_of(book.root)))
        written.append(path)
    return written


def store_outputs(book: Book, *, only: str | None = None, cell_timeout: int = 900) -> None:
    """Execute, then keep in the source notebooks the outputs of the checked cells and no others.

    The first cell of each gets the address of the repository, where that is known.
    """
    address, stamps = address_of(book.root), laptop_stamps(book.root)
    for executed in execute(book, only=only, cell_timeout=cell_timeout):
        path = book.root / "notebooks" / executed.name
        source, done = read_notebook(path), read_notebook(executed)
        outputs = {cell["id"]: cell for cell in done["cells"]}
        for cell in source["cells"]:
            if cell["cell_type"] == "code":
                cell["outputs"] = outputs.get(cell["id"], {}).get("outputs", [])
        write_notebook(path, in_form(stamped(source, address), stamps.get(path.stem, {})))


def keep_results(book: Book) -> Path:
    """Write what the executed notebooks measured and concluded to ``data/results/notebooks/<profile>.json``.

    One entry a notebook: its stamp, with device, versions, seconds and peak memory, and the sentences that
    its code wrote. A notebook that was not executed keeps the entry it has.
    """
    path = book.root / "data" / "results" / "notebooks" / f"{book.profile}.json"
    executed = [done for notebook in book.notebooks if (done := book.executed(notebook)).exists()]
    if not executed:
        raise BookError(
            "no notebook has been executed",
            where=book.build,
            remedy=f"Call make book PROFILE={book.profile}, then this again.",
        )
    found = read_json(path) if path.exists() else {}
    for done in executed:
        said = [text for cell in read_notebook(done)["cells"] for text in sentences_of(cell)]
        found[done.stem] = {**stamp_of(done), "said": said}
    write_json(path, found)
    return path


def _execute_one(book: Book, path: Path, values: dict[str, Any], cell_timeout: int) -> float:
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    made_from = book.fingerprint_of(path, values)  # taken first: an edit meanwhile makes it stale
    start = time.time()
    try:
        with atomic(book.executed(path)) as target, kernel_environment():
            papermill.execute_notebook(
                _with_measure(path, target.with_suffix(".measured.ipynb")),
                target,
                values,
                **PYTHON,
                cwd=path.parent,
                execution_timeout=cell_timeout,
                start_timeout=120,
                extra_arguments=[QUIET],
                progress_bar=sys.stderr.isatty(),
            )
            seconds = time.time() - start
            notebook = normalised(read_notebook(target))
            memory = json.loads(text_of(notebook["cells"].pop()))
            notebook["metadata"]["dwc_book"] = _stamp(book, made_from, values, seconds, memory)
            write_notebook(target, notebook)
    except papermill.PapermillExecutionError as error:
        number = _source_number(path, values, error.cell_index)
        raise BookError(
            f"cell {number} failed with {error.ename}: {error.evalue.rstrip('.')}",
            where=path,
            remedy="Open the notebook in JupyterLab and run it up to that cell.",
        ) from error
    except CellTimeoutError as error:
        cell = str(error).partition("-\n")[2].partition("\n-")[0]
        longer = 2 * cell_timeout
        raise BookError(
            f"a cell took longer than {cell_timeout} s: {brief(cell)}",
            where=path,
            remedy=f"Give it more: make book CELL_TIMEOUT={longer}, or python -m dwclib book --cell-timeout "
            f"{longer}. What was done is kept.",
        ) from error
    except DeadKernelError as error:
        raise BookError(
            "its kernel died, for want of memory perhaps", where=path, remedy="Use a smaller profile."
        ) from error
    return seconds


def _source_number(path: Path, values: dict[str, Any], index: int) -> int:
    """Return the number, from 1, that a cell of the executed notebook has in its source."""
    cells = read_notebook(path)["cells"]
    place = next((i for i, cell in enumerate(cells) if PARAMETERS in tags_of(cell)), len(cells))
    return index + (0 if values and index > place else 1)  # papermill puts its own cell behind the parameters


@contextmanager
def kernel_environment() -> Iterator[None]:
    """Keep a caller's MPLBACKEND from the kernels, where it would hide every figure, and let threads sleep.

    OpenMP's threads wait for each other by spinning; on a busy machine they take away the time that they
    wait for. How many they are, and so every number, stays as it is. What kernels leave in the folder for
    temporary files, as they do when they are killed, is removed in the end.
    """
    before = dict(os.environ)
    with TemporaryDirectory(prefix="dwclib-", ignore_cleanup_errors=True) as folder:
        os.environ.pop("MPLBACKEND", None)
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        os.environ.update(dict.fromkeys(("TMPDIR", "TEMP", "TMP"), folder))
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def _with_measure(path: Path, copy: Path) -> Path:
    """Copy a notebook with one more cell at its end, which prints the memory that its kernel has used."""
    from nbformat.v4 import new_code_cell

    notebook = read_notebook(path)
    notebook["cells"].append(new_code_cell(MEASURE, id="measure"))
    write_notebook(copy, notebook)
    return copy


def _stamp(
    book: Book, made_from: str, values: dict[str, Any], seconds: float, memory: dict[str, float]
) -> dict[str, Any]:
    return {
        "fingerprint": made_from,
        "profile": book.profile,
        "parameters": values,
        "seconds": round(seconds, 1),
        "peak_memory_gb": memory,
        **machine_stamp(),
    }


def _check_values(values: dict[Any, Any], declared: dict[str, Any], where: str) -> None:
    for name, value in values.items():
        check_choice("parameter", name, declared, where)
        if not _fits(value, declared[name]):
            raise ConfigError(
                f"{name} = {brief(value)} is {type(value).__name__}, not like the default",
                where=where,
                remedy=f"Give a value like {declared[name]!r}.",
            )


def _fits(value: object, default: object) -> bool:
    """Tell whether a value is of its default's type, and its items of that of the default's first item."""
    if isinstance(value, list) and isinstance(default, list) and default:
        return all(_fits(item, default[0]) for item in value)
    return type(value) is type(default) or (type(value) is int and type(default) is float)
