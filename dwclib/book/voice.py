"""One voice for findings: an interval becomes a sentence, and a sentence is shown."""

from __future__ import annotations

from IPython.display import Markdown, display

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
