"""Reported results: the numbers of the literature that this book quotes, with their source and protocol."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from dwclib.files import ROOT

REPORTED = ROOT / "data" / "reported"
SOURCES = {
    "S1": "README of github.com/fuxianghuang1/Multimodal-Composite-Editing-and-Retrieval (2024-10-27), kept "
    "by DWC's first author",
    "S2": 'Table 1 of "Heterogeneous Uncertainty-Guided Composed Image Retrieval" (AAAI 2026), which repeats '
    "the FashionIQ row",
}
TITLES = {"fashioniq": "FashionIQ", "shoes": "Shoes", "fashion200k": "Fashion200K"}
SHOWN = {"fashioniq": "average R@10", "shoes": "R@10", "fashion200k": "R@10"}


def reported(dataset: str) -> pd.DataFrame:
    """Return a dataset's reported results, one method a row; what no source gives is missing.

    Parameters
    ----------
    dataset : "fashioniq", "shoes" or "fashion200k".
    """
    return pd.read_csv(REPORTED / f"{dataset}.csv", index_col="method")


def draw_reported(path: Path) -> None:
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


def reported_page(figure: str) -> str:
    """Return the page of reported results, in Markdown.

    Parameters
    ----------
    figure : the path of what `draw_reported` drew, seen from the page.
    """
    tables = [f"## {title}\n\n{_markdown(reported(name))}" for name, title in TITLES.items()]
    sources = "\n".join(f"- **{key}**: {text}." for key, text in SOURCES.items())
    return _PAGE.format(figure=figure, tables="\n\n".join(tables), sources=sources)


def _markdown(table: pd.DataFrame) -> str:
    shown = table.reset_index()
    lines = ["| " + " | ".join(shown.columns) + " |", "|" + "---|" * len(shown.columns)]
    for row in shown.itertuples(index=False):
        cells = [f"{v:.2f}" if isinstance(v, float) else str(v) for v in row]
        cells = ["" if cell == "nan" else cell for cell in cells]
        bold = cells[0] == "DWC"
        lines.append("| " + " | ".join(f"**{cell}**" if bold and cell else cell for cell in cells) + " |")
    return "\n".join(lines)


_PAGE = """# Reported results

What others have reported on real datasets, in per cent. These are the only numbers of the literature that the
book quotes; none of them was measured here. Compare only within a column, and only where the protocol is the
same: notebook 10 shows what a protocol alone is worth.

```{{figure}} {figure}
:alt: Dot plots of reported Recall@10 on FashionIQ, Shoes and Fashion200K, one method a row, DWC in green.
:name: fig-reported

Reported Recall@10. Green: DWC. Methods above it on FashionIQ and Shoes use larger or later networks.
```

{tables}

Whether the row of Combiner is truly of the VAL protocol is disputed: its evaluator keeps the original
gallery. On Fashion200K the text that goes in differs between methods; DWC's released code appends the
target's own caption, which notebook 16 examines.

## Sources

{sources}
"""
