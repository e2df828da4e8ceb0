"""The book as a program: execute its notebooks, stamp them, check them, and build the site.

Executed notebooks live in ``_build/executed/<profile>/``, the staged sources of the site in
``_build/stage/``, the site in ``_build/html/``. A notebook is executed again only when something that it
depends on has changed.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dwclib.errors import ConfigError, DwcError
from dwclib.experiments.machine import stamp as machine_stamp
from dwclib.files import ROOT, atomic, fingerprint

CHECKED, SOLUTION, PARAMETERS = "nbval-check-output", "solution", "parameters"
# Modules whose change leaves every output as it is.
NO_INFLUENCE = ("book.py", "__main__.py", "pretrain.py", "bench.py", "machine.py", "claims.py", "reported.py")
MEASURE = "import json; from dwclib.experiments.machine import peak_memory; print(json.dumps(peak_memory()))"
Notebook = dict[str, Any]
Cell = dict[str, Any]


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
        cells = [(c["cell_type"], _source(c), _tags(c)) for c in read_notebook(notebook)["cells"]]
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


def read_notebook(path: Path) -> Notebook:
    """Read a notebook.

    Raises
    ------
    ConfigError
        When the file is not a notebook.
    """
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        notebook["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"this is no notebook ({error})", where=path, remedy="Restore it from git."
        ) from error
    return notebook


def write_notebook(path: Path, notebook: Notebook) -> None:
    """Write a notebook in one form: the same content gives the same bytes."""
    with atomic(path) as target:
        target.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def declared_parameters(path: Path) -> dict[str, Any]:
    """Return the names and defaults that the notebook's ``parameters`` cell assigns.

    Raises
    ------
    ConfigError
        When there is not exactly one such cell, or it does more than assign plain values.
    """
    cells = [cell for cell in read_notebook(path)["cells"] if PARAMETERS in _tags(cell)]
    if len(cells) != 1:
        raise ConfigError(
            f"{len(cells)} cells have the tag 'parameters'", where=path, remedy="Tag exactly one."
        )
    try:
        statements = ast.parse(_source(cells[0])).body
        return {one.targets[0].id: ast.literal_eval(one.value) for one in statements}  # type: ignore[attr-defined]
    except (SyntaxError, ValueError, AttributeError) as error:
        raise ConfigError(
            "the parameters cell does more than assign plain values",
            where=path,
            remedy="Write one 'name = value' a line.",
        ) from error


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
        place = next(i for i, cell in enumerate(notebook["cells"]) if PARAMETERS in _tags(cell))
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
                kept = outputs.get(cell["id"], {}) if CHECKED in _tags(cell) else {}
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
            said = [text for cell in read_notebook(done)["cells"] for text in _sentences(cell)]
            found[notebook.stem] = {**stamp_of(done), "said": said}
    with atomic(path) as target:
        target.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def normalised(notebook: Notebook) -> Notebook:
    """Return a notebook with the metadata that the book keeps and none that an editor adds."""
    for cell in notebook["cells"]:
        cell["metadata"] = {
            key: cell["metadata"][key] for key in ("mystnb", "tags") if key in cell["metadata"]
        }
    notebook["metadata"] = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    notebook["nbformat"], notebook["nbformat_minor"] = 4, 5
    return notebook


def problems(book: Book) -> list[str]:
    """Return what is wrong with the form of the source notebooks, one sentence each; nothing is run."""
    return [f"{path.name}: {problem}" for path in book.notebooks for problem in _problems(path)]


def build(book: Book, *, cell_timeout: int = 900) -> Path:
    """Execute what is not fresh, stage the sources, and let Jupyter Book make the site.

    Parameters
    ----------
    book : which notebooks, with which profile.
    cell_timeout : seconds that one cell may take.

    Returns
    -------
    The site's first page.

    Raises
    ------
    BookError
        When a notebook fails, or Jupyter Book warns of anything.
    """
    executed = execute(book, cell_timeout=cell_timeout)
    stage = _stage(book, executed)
    files = [path for path in sorted(stage.rglob("*")) if path.is_file()]
    key = fingerprint([str(path.relative_to(stage)) for path in files], *files)
    mark, page = book.build / "site.fingerprint", book.build / "html" / "index.html"
    if not (page.exists() and mark.exists() and mark.read_text() == key):
        if not mark.exists():  # the last build failed: Sphinx would not warn again of pages it has read
            shutil.rmtree(book.build / ".doctrees", ignore_errors=True)
        mark.unlink(missing_ok=True)
        _render(book, stage)
        mark.write_text(key)
    print(f"The book: {page}", flush=True)
    return page


def stamp_of(path: Path) -> dict[str, Any]:
    """Return when, where and from what an executed notebook was made."""
    return read_notebook(path)["metadata"].get("dwc_book", {})


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
            memory = json.loads(_text(notebook["cells"].pop()))
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
    place = next((i for i, cell in enumerate(cells) if PARAMETERS in _tags(cell)), len(cells))
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


def _stage(book: Book, executed: list[Path]) -> Path:
    """Lay out what Jupyter Book reads: configuration, pages, and the stamped notebooks."""
    with atomic(book.build / "stage") as stage:
        shutil.copytree(book.root / "book", stage / "book")
        shutil.copytree(book.root / "data", stage / "data", ignore=shutil.ignore_patterns("*.safetensors"))
        for name in ("_config.yml", "_toc.yml"):
            shutil.copy(book.root / name, stage / name)
        for path in executed:
            write_notebook(stage / "notebooks" / path.name, _staged(read_notebook(path)))
        pages = {"execution": _execution_page(executed)}
        if (book.root / "data" / "claims.yml").exists():
            from dwclib.experiments.claims import claims_page
            from dwclib.experiments.reported import draw_reported, reported_page
            from dwclib.experiments.reproductions import reproductions_page

            draw_reported(stage / "book" / "reported.svg")
            pages |= {"claims": claims_page(), "reported": reported_page("reported.svg")}
            pages["reproductions"] = reproductions_page()
        for name, text in pages.items():
            (stage / "book" / f"{name}.md").write_text(text, encoding="utf-8")
    return book.build / "stage"


def _staged(notebook: Notebook) -> Notebook:
    """Write the stamp under the title and hide the cell that papermill injected."""
    stamp = notebook["metadata"]["dwc_book"]
    versions = stamp["versions"]
    line = (
        f'<p class="stamp">Executed {stamp["date"]} on {stamp["device"]}, in {stamp["seconds"]:.0f} s. '
        f"Profile {stamp['profile']}, Python {versions['python']}, torch {versions['torch']}.</p>"
    )
    first = notebook["cells"][0]
    title, _, rest = _source(first).partition("\n")
    first["source"] = f"{title}\n\n{line}\n{rest}"
    for cell in notebook["cells"]:
        if "injected-parameters" in _tags(cell):
            cell["metadata"]["tags"].append("remove-cell")
    return notebook


def _execution_page(executed: list[Path]) -> str:
    rows, total = [], 0.0
    for path in executed:
        stamp, title = stamp_of(path), _source(read_notebook(path)["cells"][0]).split("\n")[0].lstrip("# ")
        total += stamp["seconds"]
        memory = max(stamp["peak_memory_gb"].values())
        rows.append(
            f"| [{title}](../notebooks/{path.name}) | {stamp['profile']} | {stamp['date']} "
            f"| {stamp['device']} | {stamp['seconds']:.0f} | {memory:.1f} |"
        )
    table = "\n".join(rows)
    return f"""# When and where each page was executed

Every number and figure in this book comes from a run of the notebook that shows it, by papermill, from its
first cell to its last. A page whose notebook, library, data or parameters have changed is executed again.

| page | profile | executed | device | seconds | peak memory, GB |
|---|---|---|---|---|---|
{table}
| all pages | | | | {total:.0f} | |
"""


def _render(book: Book, stage: Path) -> None:
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(stage)]
    options = ["-n", "-W", "--keep-going", "--path-output", str(book.root)]
    found = subprocess.run(command + options, capture_output=True, text=True, check=False)
    if found.returncode or not (book.build / "html" / "index.html").exists():
        print(found.stdout[-4000:], found.stderr[-4000:], file=sys.stderr)
        raise BookError(
            "Jupyter Book reported the warnings above", where=stage, remedy="Mend the pages that they name."
        )


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


def _problems(path: Path) -> Iterator[str]:
    cells = read_notebook(path)["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    text = "\n".join(_source(cell) for cell in cells if cell["cell_type"] == "markdown")
    try:
        declared_parameters(path)
    except ConfigError as error:
        yield error.problem
    if not _source(cells[0]).startswith("# "):
        yield "the first cell is no title"
    for heading in ("## Exercises", "## Summary"):
        if not re.search(rf"^{heading}", text, re.MULTILINE):
            yield f"there is no heading {heading!r}"
    if len([cell for cell in code if SOLUTION in _tags(cell)]) < 2:
        yield "there are fewer than two solved exercises"
    if not any(CHECKED in _tags(cell) for cell in code):
        yield "no cell's output is checked"
    for number, cell in enumerate(cells, start=1):
        yield from (f"cell {number}: {problem}" for problem in _cell_problems(cell))


def _cell_problems(cell: Cell) -> Iterator[str]:
    source, tags = _source(cell), _tags(cell)
    if not cell.get("id"):
        yield "it has no id"
    if cell["cell_type"] != "code":
        return
    if len(source.splitlines()) > 25 and "long" not in tags:
        yield f"it has {len(source.splitlines())} lines; split it, or tag it 'long'"
    if SOLUTION in tags and not re.search(r"^check_\w+\(", source, re.MULTILINE):
        yield "the solution is not checked"
    if SOLUTION in tags and "hide-cell" not in tags:
        yield "the solution is not folded"
    if CHECKED in tags and not (cell["outputs"] and cell["execution_count"]):
        yield "its output should be checked, but none is stored; run 'make outputs'"
    if CHECKED not in tags and cell["outputs"]:
        yield "it has an output in git; run 'make outputs'"
    if re.search(r"[\"'](/(home|root|tmp|Users|work)/|[A-Z]:\\)", source):
        yield "it names a path of one machine"


def _source(cell: Cell) -> str:
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def _text(cell: Cell) -> str:
    """Return what a code cell printed."""
    return "".join("".join(output.get("text", "")) for output in cell["outputs"])


def _sentences(cell: Cell) -> Iterator[str]:
    """Yield the Markdown that a code cell displayed."""
    for output in cell.get("outputs", []):
        if said := output.get("data", {}).get("text/markdown"):
            yield "".join(said)


def _tags(cell: Cell) -> list[str]:
    return cell["metadata"].get("tags", [])
