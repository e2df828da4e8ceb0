"""One voice for findings: numbers and verdicts become sentences, and sentences are shown."""

from __future__ import annotations

from collections.abc import Mapping

from IPython.display import HTML, Markdown, display

from dwclib.experiments.claims import verdict_of
from dwclib.experiments.leaderboard import Standing
from dwclib.experiments.quantities import quantity
from dwclib.experiments.statistics import Comparison, Gain, Interval, in_words


def finding(
    what: str,
    found: Interval | Gain | Comparison,
    unit: str = "points",
    *,
    digits: str = ".1f",
    more: str = "better",
    less: str = "worse",
    same: str = "no detectable difference",
) -> str:
    """Return a difference as a sentence, "Soft labels change R@10 by 1.2 [0.4, 2.0] points: **better**.".

    Parameters
    ----------
    what : the sentence up to the number.
    found : the difference.
    unit : what follows the number; may be empty.
    digits : how the numbers are written, such as "+.2f".
    more, less, same : the words, as `in_words` takes them.
    """
    interval = found if isinstance(found, Interval) else found.interval
    number = f"{interval:{digits}} {unit}".strip()
    return f"{what} {number}: **{in_words(found, more=more, less=less, same=same)}**."


def say(*sentences: str) -> None:
    """Show sentences below a cell: one as a paragraph, several as a list."""
    text = sentences[0] if len(sentences) == 1 else "\n".join(f"- {sentence}" for sentence in sentences)
    display(Markdown(text))


def number(name: str, measure: str, *, profile: str = "laptop") -> str:
    """Return a headline quantity, "48.8 [48.1, 49.5]", marked so that a test finds it on every page.

    Parameters
    ----------
    name, measure, profile : as `dwclib.experiments.quantity` takes them.
    """
    return _marked(name, measure, quantity(name, measure, profile=profile))


def leaderboard(board: Mapping[str, Standing], *, over: str = "sum") -> HTML:
    """Return the table of `dwclib.experiments.standings`, its numbers marked as `number` marks them.

    Parameters
    ----------
    board, over : what it returned, and the rival that it was given.
    """
    import pandas as pd

    table = pd.DataFrame(
        {
            name: {
                "runs": row.seeds,
                **{measure: _marked(name, measure, found) for measure, found in row.measures.items()},
                f"R@10, ahead of {over} by": f"{row.ahead.interval:+.1f}" if row.ahead else "",
                "verdict": _so_it_is(row.ahead) if row.ahead else "",
            }
            for name, row in board.items()
        }
    ).T
    return HTML(table.to_html(escape=False))


def claimed(part: str, *, profile: str = "laptop") -> str:
    """Return the verdict on a part of a claim as the claims page has it, with a link to that page.

    Parameters
    ----------
    part, profile : as `dwclib.experiments.verdict_of` takes them.
    """
    found = verdict_of(part, profile=profile)
    page = "on the [claims page](../book/claims.md)"
    if found.found is None:
        return f"verdict: **{found.verdict}**, {page} with the reason"
    return f"verdict: **{found.verdict}**, {found.effect}, of the {found.tests} tests {page}"


def _marked(name: str, measure: str, found: Interval) -> str:
    return f'<span data-quantity="{name}, {measure}">{found}</span>'


def _so_it_is(found: Comparison) -> str:
    p = f"p = {found.p:.3f}" if found.p >= 0.001 else "p < 0.001"
    return f"{in_words(found, more='ahead', less='behind')}, {p}".replace("<", "&lt;")
