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
from typing import Any

from dwclib.book.notebooks import (
    CHECKED,
    PARAMETERS,
    Cell,
    declared_parameters,
    normalised,
    read_notebook,
    sentences_of,
    source_of,
    stamp_of,
    tags_of,
    text_of,
    write_notebook,
)
from dwclib.errors import ConfigError, DwcError
from dwclib.experiments.machine import stamp as machine_stamp
from dwclib.files import ROOT, atomic, fingerprint

# Modules whose change leaves every output as it is.
NO_INFLUENCE = ("book.py", "__main__.py", "pretrain.py", "bench.py", "machine.py", "claims.py", "reported.py")
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
        known = sorted(path.stem for path in (self.root / "book" / "profiles").glob("*.yml"))
        if self.profile not in known:
            raise ConfigError(
                f"there is no profile {self.profile!r}",
                where=self.root / "book" / "profiles",
                remedy=f"Use one of {', '.join(known)}.",
            )

    @property
    def notebooks(self) -> list[Path]:
        """The source notebooks, in reading order."""
        return sorted((self.root / "notebooks").glob("[0-9][0-9]_*.ipynb"))

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
        import yaml

        path = self.root / "book" / "profiles" / f"{self.profile}.yml"
        chosen = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        stems = {notebook.stem: notebook for notebook in self.notebooks}
        for stem, values in chosen.items():
            if stem not in stems:
                raise ConfigError(
                    f"there is no notebook {stem!r}", where=path, remedy=f"Use one of {', '.join(stems)}."
                )
            _check_values(values or {}, declared_parameters(stems[stem]), f"{path}, {stem}")
        return {stem: {**(chosen.get(stem) or {})} for stem in stems}

    def print_of(self, notebook: Path, parameters: dict[str, Any]) -> str:
        """Return a fingerprint of all that a notebook's outputs depend on.

        Of grids, results, claims and reported numbers only those count that the notebook's code names.
        """
        cells = [(c["cell_type"], source_of(c), tags_of(c)) for c in read_notebook(notebook)["cells"]]
        code = "\n".join(source for kind, source, _ in cells if kind == "code")
        library = [p for p in sorted((self.root / "dwclib").rglob("*.py")) if p.name not in NO_INFLUENCE]
        data = [path for path in sorted((self.root / "data").rglob("*")) if path.is_file()]
        names = {path: _looked_up_as(path.relative_to(self.root / "data")) for path in data}
        read = [path for path in data if names[path] is None or _names(code, str(names[path]))]
        return fingerprint(cells, parameters, self.root / "requirements.lock", *library, *read)

    def is_fresh(self, notebook: Path, parameters: dict[str, Any]) -> bool:
        """Tell whether the executed copy was made from what is there now."""
        path = self.executed(notebook)
        if not path.exists():
            return False
        return stamp_of(path).get("fingerprint") == self.print_of(notebook, parameters)


def _names(code: str, name: str) -> bool:
    """Tell whether code has this name in quotation marks, or as a part of a path in them."""
    return re.search(rf"[\"'/]{re.escape(name)}[\"'/]", code) is not None


def _looked_up_as(path: Path) -> str | None:
    """Return the name by which a notebook reads a file of ``data/``; None for what all may depend on."""
    folder = path.parts[0]
    if folder == "results":
        return path.parent.name
    return path.stem if folder in ("experiments", "reported", "claims.yml") else None


def execute(
    book: Book, *, only: str | None = None, force: bool = False, cell_timeout: int = 900
) -> list[Path]:
    """Execute, in order, the notebooks whose executed copy is missing or stale.

    Parameters
    ----------
    book : which notebooks, with which profile.
    only : the number or the beginning of the name of the notebooks to execute; all by default.
    force : execute fresh ones too.
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
    for number, path in enumerate(chosen, start=1):
        values = parameters[path.stem]
        state = "fresh" if book.is_fresh(path, values) and not force else "running"
        print(f"[{number}/{len(chosen)}] {path.stem}: {state}", file=sys.stderr, flush=True)
        if state == "running":
            seconds = _execute_one(book, path, values, cell_timeout)
            print(f"[{number}/{len(chosen)}] {path.stem}: {seconds:.0f} s", file=sys.stderr, flush=True)
    return [book.executed(path) for path in chosen]


def prepare(book: Book, out: Path) -> list[Path]:
    """Write a copy of each notebook with the profile's parameters in it and its stored outputs kept.

    nbval runs these: it would run the sources with the laptop's sizes.
    """
    written = []
    for path in book.notebooks:
        values = book.parameters()[path.stem]
        notebook = read_notebook(path)
        place = next(i for i, cell in enumerate(notebook["cells"]) if PARAMETERS in tags_of(cell))
        lines = "\n".join(f"{name} = {value!r}" for name, value in values.items())
        injected: Cell = {
            "cell_type": "code",
            "id": "injected",
            "metadata": {"tags": ["injected-parameters"]},
            "execution_count": None,
            "outputs": [],
            "source": lines,
        }
        notebook["cells"].insert(place + 1, injected)
        write_notebook(out / path.name, notebook)
        written.append(out / path.name)
    return written


def store_outputs(book: Book, *, only: str | None = None) -> None:
    """Execute, then keep in the source notebooks the outputs of the checked cells and no others."""
    for executed in execute(book, only=only):
        path = book.root / "notebooks" / executed.name
        source, done = read_notebook(path), read_notebook(executed)
        outputs = {cell["id"]: cell for cell in done["cells"]}
        for cell in source["cells"]:
            if cell["cell_type"] == "code":
                kept = outputs.get(cell["id"], {}) if CHECKED in tags_of(cell) else {}
                cell["outputs"] = [o for o in kept.get("outputs", []) if o.get("name") != "stderr"]
                cell["execution_count"] = kept.get("execution_count")
        write_notebook(path, normalised(source))


def keep_results(book: Book) -> Path:
    """Write what the executed notebooks measured and concluded to ``data/results/notebooks/<profile>.json``.

    One entry a notebook: its stamp, with device, versions, seconds and peak memory, and the sentences that
    its code wrote. A notebook that was not executed keeps the entry it has.
    """
    path = book.root / "data" / "results" / "notebooks" / f"{book.profile}.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for notebook in book.notebooks:
        if (done := book.executed(notebook)).exists():
            said = [text for cell in read_notebook(done)["cells"] for text in sentences_of(cell)]
            found[notebook.stem] = {**stamp_of(done), "said": said}
    with atomic(path) as target:
        target.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _execute_one(book: Book, path: Path, values: dict[str, Any], cell_timeout: int) -> float:
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    made_from = book.print_of(path, values)  # taken first: an edit meanwhile makes it stale
    start = time.time()
    try:
        with atomic(book.executed(path)) as target, _inline_figures():
            papermill.execute_notebook(
                _with_measure(path, target.with_suffix(".measured.ipynb")),
                target,
                values,
                kernel_name="python3",
                language="python",
                cwd=path.parent,
                execution_timeout=cell_timeout,
                start_timeout=120,
                progress_bar=sys.stderr.isatty(),
            )
            seconds = time.time() - start
            notebook = normalised(read_notebook(target))
            memory = json.loads(text_of(notebook["cells"].pop()))
            notebook["metadata"]["dwc_book"] = _stamp(book, made_from, values, seconds, memory)
            target.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except papermill.PapermillExecutionError as error:
        number = _source_number(path, values, error.cell_index)
        raise BookError(
            f"cell {number} failed with {error.ename}: {error.evalue}",
            where=path,
            remedy="Open the notebook in JupyterLab and run it up to that cell.",
        ) from error
    except (CellTimeoutError, DeadKernelError) as error:
        raise BookError(
            str(error).splitlines()[0],
            where=path,
            remedy="Use smaller parameters, or a longer --cell-timeout.",
        ) from error
    return seconds


def _source_number(path: Path, values: dict[str, Any], index: int) -> int:
    """Return the number, from 1, that a cell of the executed notebook has in its source."""
    cells = read_notebook(path)["cells"]
    place = next((i for i, cell in enumerate(cells) if PARAMETERS in tags_of(cell)), len(cells))
    return index + (0 if values and index > place else 1)  # papermill puts its own cell behind the parameters


@contextmanager
def _inline_figures() -> Iterator[None]:
    """Keep a caller's MPLBACKEND from the kernels: with another backend than Jupyter's no figure is shown."""
    chosen = os.environ.pop("MPLBACKEND", None)
    try:
        yield
    finally:
        if chosen is not None:
            os.environ["MPLBACKEND"] = chosen


def _with_measure(path: Path, copy: Path) -> Path:
    """Copy a notebook with one more cell at its end, which prints the memory that its kernel has used."""
    notebook = read_notebook(path)
    notebook["cells"].append(
        {
            "cell_type": "code",
            "id": "measure",
            "metadata": {},
            "execution_count": None,
            "outputs": [],
            "source": MEASURE,
        }
    )
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


def _check_values(values: dict[str, Any], declared: dict[str, Any], where: str) -> None:
    for name, value in values.items():
        if name not in declared:
            raise ConfigError(
                f"the notebook has no parameter {name!r}",
                where=where,
                remedy=f"It has {', '.join(declared)}.",
            )
        expected = type(declared[name])
        if type(value) is not expected and not (expected is float and type(value) is int):
            raise ConfigError(
                f"{name} = {value!r} is {type(value).__name__}, not {expected.__name__}",
                where=where,
                remedy=f"Give a value like the default, {declared[name]!r}.",
            )
