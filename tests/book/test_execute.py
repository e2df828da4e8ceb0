import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from dwclib import code
from dwclib.__main__ import main
from dwclib.book import execute as book
from dwclib.book import site
from dwclib.book.address import address_of, setup_source, stamped
from dwclib.book.check import problems
from dwclib.book.execute import Book, BookError
from dwclib.book.notebooks import declared_parameters, stamp_of
from dwclib.errors import ConfigError


def cell(source, *tags, kind="code", outputs=(), count=None):
    made = {"cell_type": kind, "id": f"c{abs(hash(source)) % 10**8}", "metadata": {"tags": list(tags)},
            "source": source}  # fmt: skip
    return made | ({"outputs": list(outputs), "execution_count": count} if kind == "code" else {})


def text_output(text):
    return {"output_type": "stream", "name": "stdout", "text": text}


def notebook(*extra, **replaced):
    cells = {
        "title": cell("# A question?\n\nWhy.", kind="markdown"),
        "parameters": cell("seed = 0\nepochs = 3\nrate = 0.1\nname = 'x'\nlevels = [0.5]", "parameters"),
        "work": cell("assert epochs < 100\nprint('epochs > 0:', epochs > 0)", "nbval-check-output",
                     outputs=[text_output("epochs > 0: True\n")], count=2),
        "exercises": cell("## Exercises\n\nAdd.", kind="markdown"),
        "one": cell("def check_one(x):\n    assert x == 1\n\ncheck_one(1)", "solution", "hide-cell"),
        "two": cell("def check_two(x):\n    assert x == 2\n\ncheck_two(2)", "solution", "hide-cell"),
        "summary": cell("## Summary\n\nDone.", kind="markdown"),
    } | replaced  # fmt: skip
    return {"cells": [c for c in cells.values() if c] + list(extra), "metadata": {}, "nbformat": 4,
            "nbformat_minor": 5}  # fmt: skip


@pytest.fixture
def root(tmp_path, monkeypatch):
    for folder in ("notebooks", "book/profiles", "dwclib", "data"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "requirements.lock").write_text("torch==2\n")
    for name in ("losses", "retrieval"):
        (tmp_path / "dwclib" / f"{name}.py").write_text("x = 1\n")
    monkeypatch.setattr(code, "ROOT", tmp_path)
    (tmp_path / "data" / "card.md").write_text("")
    (tmp_path / "book/profiles/smoke.yml").write_text("01_first: {epochs: 1}\n")
    (tmp_path / "book/profiles/laptop.yml").write_text("# defaults\n")
    put(tmp_path, "01_first", notebook())
    put(tmp_path, "02_second", notebook())
    return tmp_path


def put(root, stem, content):
    (root / "notebooks" / f"{stem}.ipynb").write_text(json.dumps(content))


def get(path):
    return json.loads(Path(path).read_text())


def streams(executed):
    return "".join("".join(o.get("text", "")) for c in get(executed)["cells"] for o in c.get("outputs", []))


def test_notebooks_are_executed_in_order_with_their_parameters(root):
    first, second = book.execute(Book("smoke", root))
    assert (first.name, second.name) == ("01_first.ipynb", "02_second.ipynb")
    assert "epochs > 0: True" in streams(first)
    assert "epochs = 1" in str([c["source"] for c in get(first)["cells"]])
    stamp = stamp_of(first)
    assert stamp["profile"] == "smoke"
    assert stamp["parameters"] == {"epochs": 1}
    assert stamp["seconds"] > 0
    assert stamp["device"]
    assert stamp["date"].endswith("UTC")
    assert stamp["peak_memory_gb"]["cpu"] > 0


def test_a_fresh_notebook_is_not_executed_again_and_a_stale_one_is(root):
    smoke = Book("smoke", root)
    first, second = book.execute(smoke)
    when = first.stat().st_mtime_ns, second.stat().st_mtime_ns
    book.execute(smoke)
    assert (first.stat().st_mtime_ns, second.stat().st_mtime_ns) == when
    put(root, "02_second", notebook(cell("print('new')")))
    book.execute(smoke)
    assert first.stat().st_mtime_ns == when[0]
    assert "new" in streams(second)


@pytest.mark.parametrize(
    ("path", "stale"),
    [("dwclib/losses.py", True), ("data/card.md", True), ("requirements.lock", True),
     ("book/profiles/smoke.yml", True), ("dwclib/retrieval.py", False)],
)  # fmt: skip
def test_what_a_notebook_depends_on_makes_it_stale(root, path, stale):
    put(root, "01_first", notebook(cell("from dwclib.losses import contrastive_loss")))
    smoke, source = Book("smoke", root), root / "notebooks" / "01_first.ipynb"
    before = smoke.fingerprint_of(source, smoke.parameters()["01_first"])
    (root / path).write_text("y = 1\n" if path.endswith(".py") else "01_first: {epochs: 2}\n")
    assert (smoke.fingerprint_of(source, smoke.parameters()["01_first"]) != before) == stale


def test_only_the_grids_and_claims_that_a_notebook_names_make_it_stale(root):
    put(root, "01_first", notebook(cell('read_grid("noise", "laptop")')))
    smoke, source = Book("smoke", root), root / "notebooks" / "01_first.ipynb"
    prints = [smoke.fingerprint_of(source, {})]
    for name in ("claims.yml", "experiments/other.yml", "reported/shoes.csv", "experiments/noise.yml"):
        (root / "data" / name).parent.mkdir(exist_ok=True)
        (root / "data" / name).write_text("new")
        prints.append(smoke.fingerprint_of(source, {}))
    assert prints[0] == prints[1] == prints[2] == prints[3] != prints[4]


@pytest.mark.parametrize("call", ["number('sum', 'R@10')", "claimed('gap')"])
def test_a_named_number_and_a_verdict_depend_on_all_that_they_may_be_read_from(root, call):
    put(root, "01_first", notebook(cell(f"say({call})")))
    smoke, source = Book("smoke", root), root / "notebooks" / "01_first.ipynb"
    prints = [smoke.fingerprint_of(source, {})]
    names = ("claims.yml", "quantities.yml", "experiments/noise.yml", "results/noise/laptop.json")
    for name in (*names, "results/notebooks/laptop.json"):
        (root / "data" / name).parent.mkdir(exist_ok=True, parents=True)
        (root / "data" / name).write_text("new")
        prints.append(smoke.fingerprint_of(source, {}))
    assert len(set(prints)) == len(prints) - 1
    assert prints[-1] == prints[-2], "other results do not count"


def test_only_the_results_that_a_notebook_names_make_it_stale(root):
    put(root, "01_first", notebook(cell("folder = '../data/results/speed'")))
    smoke, source = Book("smoke", root), root / "notebooks" / "01_first.ipynb"
    before = smoke.fingerprint_of(source, {})
    for name in ("other", "speed"):
        (root / "data/results" / name).mkdir(parents=True)
    (root / "data/results/other/cpu.json").write_text("1")
    assert smoke.fingerprint_of(source, {}) == before
    (root / "data/results/speed/cpu.json").write_text("1")
    assert smoke.fingerprint_of(source, {}) != before


def test_outputs_and_ids_do_not_make_a_notebook_stale(root):
    smoke, source = Book("smoke", root), root / "notebooks" / "01_first.ipynb"
    before = smoke.fingerprint_of(source, {})
    changed = get(source)
    for one in changed["cells"]:
        one["id"] = "other" + one["id"]
        one |= {"outputs": []} if "outputs" in one else {}
    put(root, "01_first", changed)
    assert smoke.fingerprint_of(source, {}) == before


def test_a_failure_names_notebook_cell_and_error_and_keeps_what_had_succeeded(root):
    put(root, "02_second", notebook(work=cell("x = 1\nraise KeyError('missing colour')")))
    with pytest.raises(BookError) as caught:
        book.execute(Book("smoke", root))
    assert "02_second.ipynb" in str(caught.value)
    assert "cell 3 failed with KeyError: 'missing colour'" in str(caught.value)
    assert book.Book("smoke", root).is_fresh(root / "notebooks/01_first.ipynb", {"epochs": 1})
    assert [path.name for path in (root / "_build/executed/smoke").iterdir()] == ["01_first.ipynb"]


def test_a_failing_cell_has_its_number_in_the_source(root):
    for stem, profile in (("01_first", "smoke"), ("01_first", "laptop")):  # with and without given parameters
        put(root, stem, notebook(cell("1 / 0")))
        with pytest.raises(BookError, match="cell 8 failed with ZeroDivisionError"):
            book.execute(Book(profile, root), only="01")
    put(root, "01_first", notebook(title=cell("1 / 0")))
    with pytest.raises(BookError, match="cell 1 failed with ZeroDivisionError"):
        book.execute(Book("smoke", root), only="01")


def test_figures_are_drawn_whatever_backend_the_caller_has_and_threads_wait_asleep(root, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    code = "import os, torch\nprint(os.environ['OMP_WAIT_POLICY'], torch.get_num_threads(), 'threads')"
    put(root, "01_first", notebook(cell(code), cell("import matplotlib.pyplot as plt\nplt.plot([1, 2]);")))
    before = dict(os.environ)
    (first,) = book.execute(Book("smoke", root), only="01")
    assert "PASSIVE 2 threads" in streams(first)
    assert dict(os.environ) == before
    outputs = get(first)["cells"][-1]["outputs"]
    assert any("image/png" in output.get("data", {}) for output in outputs)


def test_what_changes_while_a_notebook_runs_makes_it_stale(root):
    edit = "from pathlib import Path\nPath('../data/card.md').write_text('edited meanwhile')"
    put(root, "01_first", notebook(cell(edit)))
    smoke = Book("smoke", root)
    book.execute(smoke, only="01")
    source, values = root / "notebooks" / "01_first.ipynb", smoke.parameters()["01_first"]
    assert not smoke.is_fresh(source, values)
    book.execute(smoke, only="01")
    assert smoke.is_fresh(source, values)


def test_a_cell_that_takes_too_long_is_stopped(root, capfd):
    put(root, "02_second", notebook(work=cell("import time\ntime.sleep(60)")))
    with pytest.raises(BookError, match=r"longer than 5 s: .*sleep.* make book CELL_TIMEOUT=10"):
        book.execute(Book("laptop", root), only="02", cell_timeout=5)
    told = capfd.readouterr().err
    assert "Traceback" not in told
    assert "TCP" not in told


def test_a_kernel_that_dies_is_told_in_one_sentence_and_leaves_nothing(root, capfd):
    code = "import os, pathlib\nfrom dwclib.files import scratch\n"
    code += "pathlib.Path('../place').write_text(str(scratch()))\nos._exit(1)"
    put(root, "02_second", notebook(work=cell(code)))
    with pytest.raises(BookError, match="its kernel died"):
        book.execute(Book("laptop", root), only="02")
    assert "Traceback" not in capfd.readouterr().err
    place = Path((root / "place").read_text())
    assert place.name.startswith("dwclib-")
    assert not place.exists()


def test_one_program_at_a_time_builds_the_book(root):
    smoke = Book("smoke", root)
    with smoke.alone(), smoke.alone():  # the same one may go in again
        lock = FileLock(root / "_build" / ".lock")
        with pytest.raises(Timeout):
            lock.acquire(timeout=0)
    with lock, pytest.raises(BookError, match="another program builds the book"):
        book.execute(smoke)


def test_a_folder_that_cannot_be_written_to_is_told(root):
    (root / "_build").write_text("a file")
    with pytest.raises(ConfigError, match="_build: it cannot be written to"):
        book.execute(Book("smoke", root))


DAMAGE = (None, 1, "x", [], {}, [1], {"a": 1})


def damaged(content):
    """Yield copies of a notebook with one part taken out or replaced by something of another kind."""
    for key in range(len(content)) if isinstance(content, list) else content:
        rest = [part for k, part in enumerate(content) if k != key] if isinstance(content, list) else {
            k: part for k, part in content.items() if k != key}  # fmt: skip
        yield rest
        for value in (*DAMAGE, *(damaged(content[key]) if isinstance(content[key], list | dict) else ())):
            copy = list(content) if isinstance(content, list) else dict(content)
            copy[key] = value
            yield copy


def test_a_damaged_notebook_is_used_as_it_is_or_told(root):
    smoke, path = Book("smoke", root), root / "notebooks" / "01_first.ipynb"
    small = notebook(one=None, two=None, exercises=None)
    told = 0
    for content in [*DAMAGE, *damaged(small)]:
        put(root, "01_first", content)
        try:
            declared_parameters(path)
            smoke.fingerprint_of(path, {})
            problems(smoke)
        except ConfigError:
            told += 1
    assert told > 100


@pytest.mark.parametrize("content", ["", "{", "[]", json.dumps(notebook() | {"metadata": {"dwc_book": 1}})])
def test_a_damaged_executed_copy_is_not_fresh(root, content):
    smoke, path = Book("smoke", root), root / "notebooks" / "01_first.ipynb"
    smoke.executed(path).parent.mkdir(parents=True)
    smoke.executed(path).write_text(content)
    assert not smoke.is_fresh(path, {})


def test_only_the_named_notebook_is_executed(root):
    book.execute(Book("laptop", root), only="02")
    assert not (root / "_build/executed/laptop/01_first.ipynb").exists()
    with pytest.raises(ConfigError, match="begins with '99'"):
        book.execute(Book("laptop", root), only="99")


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ("01_first: {epoch: 1}", "no parameter 'epoch'"),
        ("01_first: {levels: [1, a]}", "levels = .* is list, not like the default"),
        ("01_first: {1: 1}", "no parameter 1"),
        ("01_first: [epochs]", "no table"),
        ("[01_first]", "no table"),
        ("01_first", "no table"),
        ("{", "it cannot be read"),
        ("01_first: {epochs: 1}\n01_first: {epochs: 2}", "'01_first' is there twice"),
        ("01_frist: {epochs: 1}", "no notebook '01_frist'"),
        ("01_first: {seed: 1.5}", "seed = 1.5 is float"),
        ("01_first: {seed: '0'}", "seed = '0' is str"),
        ("01_first: {epochs: true}", "epochs = True is bool"),
    ],
)
def test_a_wrong_profile_is_refused_before_anything_runs(root, profile, message):
    (root / "book/profiles/smoke.yml").write_text(profile)
    with pytest.raises(ConfigError, match=message):
        book.execute(Book("smoke", root))
    assert not (root / "_build").exists()


def test_a_whole_number_will_do_for_a_rate(root):
    (root / "book/profiles/smoke.yml").write_text("01_first: {rate: 1}")
    assert Book("smoke", root).parameters()["01_first"] == {"rate": 1}


def test_nothing_done_is_no_success(root):
    with pytest.raises(BookError, match=r"no notebook has been executed.* make book PROFILE=smoke"):
        book.keep_results(Book("smoke", root))
    shutil.rmtree(root / "notebooks")
    for command in (book.execute, book.keep_results, book.store_outputs, problems):
        with pytest.raises(ConfigError, match="there is no notebook"):
            command(Book("laptop", root))


def test_an_unknown_profile_is_refused(root):
    with pytest.raises(ConfigError, match=r"no profile 'huge'.*laptop, smoke"):
        Book("huge", root)


@pytest.mark.parametrize("source", ["import os", "x = 1 + y", "x, y = 1, 2", "x = (", "print(3)"])
def test_parameters_are_plain_values(root, source):
    put(root, "01_first", notebook(parameters=cell(source, "parameters")))
    with pytest.raises(ConfigError, match="plain values"):
        declared_parameters(root / "notebooks/01_first.ipynb")


def test_a_file_that_is_no_notebook_is_named(root):
    (root / "notebooks/01_first.ipynb").write_text("{")
    with pytest.raises(ConfigError, match=r"01_first\.ipynb: it cannot be read"):
        Book("smoke", root).parameters()


def test_prepared_copies_have_the_parameters_and_the_stored_outputs(root, tmp_path):
    first, second = book.prepare(Book("smoke", root), tmp_path / "out")
    sources = [c["source"] for c in get(first)["cells"]]
    assert "".join(sources[2]) == "# Parameters\nepochs = 1\n"
    (kept,) = get(first)["cells"][3]["outputs"]
    assert "".join(kept["text"]) == "epochs > 0: True\n"
    assert second.exists()


def test_only_checked_outputs_are_stored_and_storing_twice_changes_nothing(root):
    loud = notebook(cell("print('loud')"))
    loud["cells"][2]["outputs"], loud["cells"][2]["execution_count"] = [], None
    loud["metadata"]["widgets"] = {"big": 1}
    put(root, "01_first", loud)
    book.store_outputs(Book("smoke", root), only="01")
    path = root / "notebooks/01_first.ipynb"
    once = path.read_text()
    checked, other = get(path)["cells"][2], get(path)["cells"][-1]
    assert "".join(checked["outputs"][0]["text"]) == "epochs > 0: True\n"
    assert checked["execution_count"]
    assert (other["outputs"], other["execution_count"]) == ([], None)
    assert get(path)["metadata"].keys() == {"kernelspec", "language_info"}
    book.store_outputs(Book("smoke", root), only="01")
    assert path.read_text() == once


def test_the_site_has_stamps_and_is_built_once(root, monkeypatch):
    (root / "_config.yml").touch()
    (root / "_toc.yml").write_text("root: book/execution\n")
    rendered = []

    def render(chosen, stage):
        rendered.append(sorted(str(p.relative_to(stage)) for p in stage.rglob("*") if p.is_file()))
        (chosen.build / "html").mkdir(exist_ok=True)
        (chosen.build / "html" / "index.html").touch()

    monkeypatch.setattr(site, "_render", render)
    for _ in range(2):
        site.build(Book("smoke", root))
    assert len(rendered) == 1
    assert {"notebooks/01_first.ipynb", "book/execution.md", "data/card.md", "_toc.yml"} <= set(rendered[0])
    staged = get(root / "_build/stage/notebooks/01_first.ipynb")["cells"]
    assert staged[0]["source"].startswith('# A question?\n\n<p class="stamp">Executed 20')
    assert "remove-cell" in staged[2]["metadata"]["tags"]
    assert (
        "[A question?](../notebooks/01_first.ipynb)" in (root / "_build/stage/book/execution.md").read_text()
    )


SETUP_CELL = cell(setup_source(), "setup", "remove-cell")
REMOTES = {
    "git@github.com:me/my.book.git": "https://github.com/me/my.book",
    "https://token@github.com/me/book": "https://github.com/me/book",
    "ssh://git@git.example.org:2222/me/book.git": "https://git.example.org/me/book",
    "/srv/git/book.git": "",
    "file:///srv/git/book": "",
}


@pytest.mark.parametrize("remote", REMOTES)
def test_the_address_is_the_git_remotes(root, remote, monkeypatch):
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    assert address_of(root) == ""
    for command in (["init", "-q"], ["remote", "add", "origin", remote]):
        subprocess.run(["git", "-C", root, *command], check=True)
    assert address_of(root) == REMOTES[remote]


def test_no_button_leads_into_the_void(root, monkeypatch, capsys):
    for number in ("01_first", "02_second"):
        put(root, number, notebook(setup=SETUP_CELL))
    (root / "_config.yml").write_text("title: A book\nhtml: {favicon: x.svg}\n")
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    assert site._config(Book("smoke", root)) == {"title": "A book", "html": {"favicon": "x.svg"}}
    monkeypatch.setenv("GITHUB_REPOSITORY", "me/book")
    config = site._config(Book("smoke", root))
    assert config["repository"]["url"] == "https://github.com/me/book"
    buttons = {"use_repository_button": True, "use_issues_button": True}
    assert config["html"] == {"favicon": "x.svg", "baseurl": "https://me.github.io/book/", **buttons}
    assert "binderhub_url" in config["launch_buttons"]
    assert "colab_url" not in config["launch_buttons"]
    assert "make outputs" in capsys.readouterr().err
    for path in Book("smoke", root).notebooks:
        path.write_text(json.dumps(stamped(get(path), "https://github.com/me/book")))
    assert "colab_url" in site._config(Book("smoke", root))["launch_buttons"]
    monkeypatch.setenv("GITHUB_REPOSITORY", "you/fork")
    assert "colab_url" not in site._config(Book("smoke", root))["launch_buttons"]


def test_the_time_that_a_notebook_says_it_takes_leaves_it_fresh(root):
    smoke, path = Book("smoke", root), root / "notebooks" / "01_first.ipynb"
    prints = []
    for time, why in (("5 minutes", "Why"), ("9 minutes", "Why"), ("9 minutes", "How")):
        put(root, "01_first", notebook(title=cell(f"# A?\n\n**Time**: {time}. {why}.", kind="markdown")))
        prints.append(smoke.fingerprint_of(path, {}))
    assert prints[0] == prints[1] != prints[2]


def test_an_address_leaves_a_notebook_fresh_and_stays_where_none_is_known(root):
    smoke, path = Book("smoke", root), root / "notebooks" / "01_first.ipynb"
    put(root, "01_first", notebook(setup=SETUP_CELL))
    before = smoke.fingerprint_of(path, {})
    path.write_text(json.dumps(stamped(get(path), "https://github.com/me/book")))
    assert "git+https://github.com/me/book" in path.read_text()
    assert smoke.fingerprint_of(path, {}) == before
    assert stamped(get(path), "") == get(path)


def test_the_first_cell_does_nothing_where_dwclib_is_and_says_what_to_do_where_it_is_not():
    exec(setup_source(), {})
    with pytest.raises(ModuleNotFoundError, match="README"):
        exec(setup_source().replace('"dwclib")', '"no_such_package")'), {})


def test_a_warning_of_jupyter_book_stops_the_build(root, capsys, monkeypatch):
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    shutil.copy(Path(book.ROOT) / "_config.yml", root)
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/index\n")
    (root / "book/index.md").write_text("# Hello\n\n[nowhere](nowhere.md)\n")
    (root / "book/_static").mkdir()
    for name in ("logo.svg", "book.css", "book.js", "readme.png"):
        shutil.copy(Path(book.ROOT) / "book/_static" / name, root / "book/_static")
    (root / "book/references.bib").touch()
    for _ in range(2):  # the second build has read the page before
        with pytest.raises(BookError, match="warnings above"):
            site.build(Book("smoke", root))
        assert "nowhere" in capsys.readouterr().err
    assert not (root / "_build/html").exists()
    (root / "book/index.md").write_text("# Hello\n")
    monkeypatch.setenv("GITHUB_REPOSITORY", "me/book")
    assert site.build(Book("smoke", root)).exists()
    assert 'href="https://github.com/me/book"' in (root / "_build/html/book/index.html").read_text()


def test_the_command_line_tells_bad_input_in_one_line(capsys):
    assert main(["book", "--profile", "huge"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    with pytest.raises(SystemExit):
        main(["fly"])


def test_the_command_line_writes_synthfashion(tmp_path, monkeypatch):
    monkeypatch.setenv("DWC_CACHE", str(tmp_path / "cache"))
    assert main(["synthfashion", "--out", str(tmp_path / "out"), "--train", "32", "--val", "32"]) == 0
    assert len(list((tmp_path / "out/images").iterdir())) == 64
    assert main(["synthfashion", "--out", str(tmp_path / "out")]) == 2
