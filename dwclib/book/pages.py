"""What is computed when the site is built: run times, claims, results of others and ours, a leaderboard."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from math import isnan
from pathlib import Path

import pandas as pd

from dwclib.book.notebooks import read_notebook, source_of, stamp_of
from dwclib.book.paper import paper_page
from dwclib.book.voice import number
from dwclib.experiments.claims import CLAIMS, Part, judge, read_claims
from dwclib.experiments.leaderboard import ROWS
from dwclib.experiments.reported import SHOWN, SOURCES, TITLES, reported
from dwclib.experiments.reproductions import reproductions
from dwclib.experiments.store import FOLDER

ADDRESS = re.compile(r"github\.com/[\w/-]+")
SHOWN_FIRST = (
    "weight follows text, clip",
    "editors, both",
    "soft labels, mismatched target",
)  # of the claims


def write_pages(folder: Path, executed: Sequence[Path], *, listed: str) -> None:
    """Write those that the book has, in Markdown, and the figure of reported results.

    Parameters
    ----------
    folder : with the other pages.
    executed : the executed notebooks.
    listed : the table of contents.
    """
    pages: dict[str, Callable[[], str]] = {
        "execution": lambda: execution_page(executed),
        "claims": claims_page,
        "paper": paper_page,
        "reported": lambda: reported_page(draw_reported(folder / "reported.svg").name),
        "reproductions": reproductions_page,
    }
    for name, page in pages.items():
        if f"book/{name}" in listed:
            (folder / f"{name}.md").write_text(page(), encoding="utf-8")
    first = folder / "index.md"
    for name, part in {"leaderboard.txt": leaderboard_table, "findings.txt": findings}.items():
        if first.exists() and name in first.read_text(encoding="utf-8"):
            (folder / name).write_text(part(), encoding="utf-8")


def findings(*, profile: str = "laptop") -> str:
    """Return what came of three parts of the claims, for the first page.

    Parameters
    ----------
    profile : of the results.
    """
    parts = {part.id: part for part in judge(profile=profile)}
    chosen = [parts[name] for name in SHOWN_FIRST]
    return "\n".join(f"- {_verdict(part.verdict)} {part.says} {part.effect}." for part in chosen)


def leaderboard_table(*, profile: str = "laptop") -> str:
    """Return the leaderboard's column of R@10, for the first page.

    Parameters
    ----------
    profile : of the results.
    """
    return _table(("", "R@10, %"), [(name, number(name, "R@10", profile=profile)) for name in ROWS])


def execution_page(executed: Sequence[Path]) -> str:
    """Return the table of run times, by the stamps of executed notebooks."""
    stamps = [(path, stamp_of(path)) for path in executed]
    rows = [
        (f"[{_title(path)}](../notebooks/{path.name})", stamp["profile"], stamp["date"], stamp["device"],
         f"{stamp['seconds']:.0f}", f"{max(stamp['peak_memory_gb'].values()):.1f}")
        for path, stamp in stamps
    ]  # fmt: skip
    total = sum(stamp["seconds"] for _, stamp in stamps)
    head = ("page", "profile", "executed", "device", "seconds", "peak memory, GB")
    return _EXECUTION.format(table=_table(head, [*rows, ("all pages", "", "", "", f"{total:.0f}", "")]))


def claims_page(path: Path = CLAIMS, *, profile: str = "laptop", folder: Path = FOLDER) -> str:
    """Return the page of claims: each part with its test, its interval and its verdict.

    Parameters
    ----------
    path : of the claims.
    profile, folder : of the results that decide.
    """
    parts = judge(path, profile=profile, folder=folder)
    head = ("verdict", "part", "effect with its 95 % interval", "tested by")
    sections = [
        f"## {content.name}\n\n*{content.says}*\n\n"
        + _table(head, [_row(part) for part in parts if part.claim == claim])
        for claim, content in read_claims(path).items()
    ]
    counts = Counter(part.verdict for part in parts).most_common()
    shown = {
        "counts": " ".join(f"<span>{n} {_verdict(verdict)}</span>" for verdict, n in counts),
        "sections": "\n\n".join(sections),
    }
    return _CLAIMS.format(**shown, profile=profile, tests=parts[0].tests)


def draw_reported(path: Path) -> Path:
    """Draw R@10 of every method on every dataset, DWC's in colour, as SVG."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    from dwclib.book import plots

    with mpl.rc_context():
        plots.use_style()
        figure, axes = plt.subplots(1, len(TITLES), figsize=(9.0, 3.0))
        for axis, (name, title) in zip(axes, TITLES.items(), strict=True):
            values = reported(name)[SHOWN[name]].dropna().sort_values()
            colours = [plots.MIX if method == "DWC" else plots.INK for method in values.index]
            axis.hlines(range(len(values)), 0, values, color=plots.GREY, linewidth=0.8)
            axis.scatter(values, range(len(values)), color=colours, zorder=3)
            axis.set_yticks(range(len(values)), list(values.index))
            axis.set(title=title, xlabel=f"reported {SHOWN[name]} (%)", xlim=(0, None))
        figure.savefig(path, format="svg", metadata={"Date": None})
        plt.close(figure)
    return path


def reported_page(figure: str) -> str:
    """Return the page of reported results.

    Parameters
    ----------
    figure : the path of what `draw_reported` drew, seen from the page.
    """
    tables = []
    for name, title in TITLES.items():
        shown = reported(name)
        recalls = shown.drop(columns=["protocol", "source"])
        text = shown[["protocol", "source"]].join(_best_bold(recalls))
        tables.append(f"## {title}\n\n{_table(('method', *text.columns), text.itertuples())}")
    linked = {key: ADDRESS.sub(r"[\g<0>](https://\g<0>)", text) for key, text in SOURCES.items()}
    sources = "\n".join(f"- **{key}**: {text}." for key, text in linked.items())
    return _REPORTED.format(figure=figure, tables="\n\n".join(tables), sources=sources)


def reproductions_page() -> str:
    """Return the page of reproductions: what each recipe should reach, and what was measured."""
    table = reproductions()
    done = table[table["measured here"] != ""].reset_index()
    text = _table(done.columns, done.itertuples(index=False)) if len(done) else ""
    names = ", ".join(f"`{name}`" for name in table.index if not name.endswith("-fast"))
    return _REPRODUCTIONS.format(table=text, done=len(done), recipes=len(table), names=names)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table in Markdown."""
    titles = list(head)
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _title(path: Path) -> str:
    return source_of(read_notebook(path)["cells"][0]).split("\n")[0].lstrip("# ")


def _row(part: Part) -> tuple[str, ...]:
    shown = f"[notebook {part.notebook[:2]}](../notebooks/{part.notebook}.ipynb)"
    words = part.tested_by.replace("*full*", "the full model")
    return _verdict(part.verdict), part.says, part.effect, f"{words}; {shown}" if part.found else shown


def _verdict(verdict: str) -> str:
    """Return a verdict in its colour; the words say the same."""
    name = verdict.partition(" of a ")[0].replace(" ", "-")  # points and hundredths look alike
    return f'<span class="verdict {name}">{verdict}</span>'


def _best_bold(recalls: pd.DataFrame) -> pd.DataFrame:
    """Return numbers with two decimals, nothing for what no source gives, and the best of a column bold."""
    text = recalls.map(lambda value: "" if isnan(value) else f"{value:.2f}")
    return text.mask(recalls == recalls.max(), "**" + text + "**")


_EXECUTION = """# When and where each page was executed

Every number and figure in this book comes from a run of the notebook that shows it, by papermill, from its
first cell to its last, or from rows in `data/results/` that it reads and names: trainings and benchmarks that
were made before. A page whose notebook, library, data or parameters have changed is executed again.

{table}
"""

_CLAIMS = """# The paper's claims, and what they come to here

<p class="verdicts">{counts}</p>

What the paper says, part by part, and what the experiments of part 3 found: on SynthFashion, with the book's
small pre-trained networks (profile *{profile}*). A verdict here is a verdict about this setting. The parts
and their tests were written down in `data/claims.yml` before any result was looked at; this page is computed
from the stored rows each time the book is built. Other pages quote a verdict from here.

**The rule.** Each part is put so that it says "this difference is positive". The verdict is

- **supported** if the interval lies above zero, and the p-value, corrected by Holm for all {tests} tests of
  this page, is below 0.05;
- **opposite** if the interval lies below zero, likewise;
- **no effect of a point or more** if neither holds and the whole interval lies between -1 and 1: there may be
  an effect, but it is too small to be worth the name. What is measured in hundredths (of a weight, a distance
  or a correlation) has the same rule, and the words *of a hundredth or more*;
- **cannot tell** for everything else: these runs leave it open;
- **not testable here** if nothing in this world could tell, or it was not run: the row says which.

The interval is the wider one of two: Student's t over seeds, and a bootstrap over seeds and queries (notebook
11 derives both).

{sections}
"""

_REPORTED = """# Reported results

What others have reported on real datasets, in per cent. These are the only numbers of the literature that the
book quotes; none of them was measured here. Compare only within a column, and only where the protocol is the
same: notebook 10 shows what a protocol alone is worth. Bold is the best of a column.

```{{figure}} {figure}
:alt: Dot plots of reported Recall@10 on FashionIQ, Shoes and Fashion200K, one method a row, DWC in green.
:name: fig-reported

Reported Recall@10. Green: DWC. Methods above it on FashionIQ and Shoes use larger or later networks.
```

{tables}

Whether the row of Combiner is truly of the VAL protocol is disputed: its evaluator keeps the original
gallery. On Fashion200K the text that goes in differs between methods; DWC's released code appends the
target's own caption, which notebook 16 examines. [GloVe](glossary.md#glove) and BiGRU name how a method reads
words.

## Sources

{sources}
"""

_REPRODUCTIONS = """# Reproducing the reported results

The recipes are {names}, with the published hyper-parameters, and beside each a faster one, whose name ends in
`-fast`. Each is one command (notebook 14 says what the folder must hold):

```
python -m dwclib train data/recipes/fashioniq-dress.yml --data PATH \\
  --out runs/dress
python -m dwclib evaluate runs/dress --publish fashioniq-dress
```

The second command puts a row on this page.

## What has been measured

{done} of {recipes} recipes have been run so far.

{table}

What is reported comes from the page of [reported results](reported.md); the `-fast` recipes are held against
the same numbers. No source that this book quotes reports DWC on CSS3D or CIRR. Each recall says on how many
of the annotated queries it stands: copies of FashionIQ lack images that the shop has taken down, and
`missing: drop` in the recipe's `data` section leaves out the queries that need them.

## Without a network

The weights are files: `--encoder-weights FILE` for CLIP, `--cnn-weights FILE` for ResNet-50, and
`--encoder NAME` takes any other model of open_clip.
"""
