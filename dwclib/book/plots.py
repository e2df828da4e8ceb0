"""The figures of the book: one style, and every figure that is drawn more than once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from dwclib.data.triplets import Triplets
from dwclib.experiments.statistics import Comparison, Interval

# Okabe and Ito's colours, told apart by colour-blind readers, so dark that text in them is read on the paper;
# each modality keeps its own through the book.
IMAGE, TEXT, MIX = "#0072B2", "#B85000", "#00795A"
GREY, PAPER, INK = "#6B7079", "#FBFAF7", "#22252A"
Pictures = Sequence[UInt8[np.ndarray, "h w 3"]] | UInt8[np.ndarray, "n h w 3"]
AS_IT_IS: dict[str, Any] = {"parse_math": False}  # for what data or a reader has written: a $ is a dollar
CYCLE = (IMAGE, TEXT, MIX, "#AA4C82", "#946700", "#2478A8", GREY)
CONTRAST = 4.5  # of text on the paper, at least


def use_style() -> None:
    """Set the book's figure style: light paper that also reads on a dark page, few lines, SVG output."""
    from cycler import cycler
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    set_matplotlib_formats("svg")
    plt.rcParams.update(
        {
            "figure.figsize": (6.4, 3.2), "figure.dpi": 110, "figure.constrained_layout.use": True,
            "figure.facecolor": PAPER, "axes.facecolor": PAPER, "savefig.facecolor": PAPER,
            "axes.prop_cycle": cycler(color=CYCLE), "axes.spines.top": False, "axes.spines.right": False,
            "axes.edgecolor": GREY, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
            "text.color": INK, "axes.titlelocation": "left", "axes.titlesize": 11, "axes.labelsize": 10,
            "xtick.labelsize": 9, "ytick.labelsize": 9, "font.size": 10, "legend.frameon": False,
            "svg.hashsalt": "dwc", "svg.fonttype": "path", "image.interpolation": "nearest",
        }
    )  # fmt: skip


def picture_row(
    pictures: Pictures,
    titles: Sequence[str] | None = None,
    *,
    columns: int = 6,
    frames: Sequence[str | None] | None = None,
    size: float = 1.15,
) -> Figure:
    """Draw pictures side by side, in as many rows as they need.

    Parameters
    ----------
    pictures : square uint8 pictures.
    titles : one short text each.
    columns : pictures per row.
    frames : the colour of each picture's frame, None for none.
    size : width of a picture in inches.
    """
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    room = 0.28 * max((title.count("\n") + 1 for title in titles), default=0) if titles else 0.05
    figure, axes = plt.subplots(rows, columns, figsize=(size * columns, (size + room) * rows), squeeze=False)
    for place, axis in enumerate(axes.flat):
        axis.set_axis_off()
        if place < len(pictures):
            show_picture(
                axis, pictures[place], titles[place] if titles else "", frames[place] if frames else None
            )
    return figure


def show_picture(
    axis: Axes, picture: UInt8[np.ndarray, "h w 3"], title: str = "", frame: str | None = None
) -> None:
    """Draw one picture into an axis, with a title above and a coloured frame around it."""
    axis.imshow(picture, interpolation="antialiased")
    axis.set_title(title, fontsize=8, loc="center", pad=3, **AS_IT_IS)
    axis.set_axis_on()
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set(visible=frame is not None, color=frame, linewidth=2.5)


def show_queries(
    dataset: Triplets, pictures: UInt8[np.ndarray, "images h w 3"], queries: Sequence[int]
) -> Figure:
    """Draw queries one below the other: reference, modification text, target."""
    figure, axes = plt.subplots(
        len(queries), 3, figsize=(6.4, 1.35 * len(queries)), width_ratios=(1, 2.4, 1), squeeze=False
    )
    for row, query in zip(axes, queries, strict=True):
        first = query == queries[0]
        show_picture(row[0], pictures[dataset.references[query]], "reference" if first else "")
        show_picture(row[2], pictures[dataset.targets[query]], "target" if first else "")
        row[1].set_axis_off()
        said = "\n".join(f"“{fill(caption, 46)}”" for caption in dataset.captions[query])
        row[1].text(0.5, 0.5, said, ha="center", va="center", color=TEXT, fontsize=9, **AS_IT_IS)
    return figure


def show_results(
    dataset: Triplets,
    pictures: UInt8[np.ndarray, "images h w 3"],
    query: int,
    ranking: Sequence[int] | Int[np.ndarray, " k"],
    *,
    relevant: Bool[np.ndarray, " gallery"] | None = None,
    title: str = "",
) -> Figure:
    """Draw what a search found: the reference, then the first answers; the target and relevant ones framed.

    Parameters
    ----------
    dataset, pictures, query : which query.
    ranking : gallery positions, best first.
    relevant : which gallery images are right; those that are not the target get a thinner kind of praise.
    title : the takeaway; the modification text stands below it.
    """
    images = dataset.gallery[np.asarray(ranking)]
    target = dataset.targets[query]
    frames = [
        MIX if image == target else "#E69F00" if relevant is not None and relevant[place] else None
        for image, place in zip(images, ranking, strict=True)
    ]
    shown = [pictures[dataset.references[query]], *pictures[images]]
    titles = ["reference", *(f"{rank}" for rank in range(1, len(images) + 1))]
    figure = picture_row(shown, titles, columns=len(shown), frames=[IMAGE, *frames], size=6.4 / len(shown))
    text = fill(dataset.texts()[query], 90)
    head = f"{title}\n“{text}”" if title else f"“{text}”"
    figure.suptitle(head, x=0.01, ha="left", fontsize=10, **AS_IT_IS)
    figure.set_figheight(figure.get_figheight() + 0.35 + 0.18 * text.count("\n"))
    return figure


def leaderboard(
    results: Mapping[str, Interval], *, title: str, xlabel: str = "Recall@10 (%)", best: str | None = None
) -> Figure:
    """Draw one method a row: its mean as a dot, its 95 % interval as a line, its numbers beside it."""
    figure, axis = plt.subplots(figsize=(6.4, 0.42 * len(results) + 1.0))
    rows = {name: (found, MIX if name == best else INK) for name, found in results.items()}
    _draw_intervals(axis, rows, title=title, xlabel=xlabel)
    for row, (found, colour) in enumerate(rows.values()):
        axis.annotate(
            f"{found.mean:.1f}", (found.high, row), xytext=(7, 0), textcoords="offset points", va="center",
            fontsize=9, color=colour,
        )  # fmt: skip
    axis.margins(x=0.12)
    return figure


VERDICTS = {"supported": MIX, "opposite": TEXT, "cannot tell": GREY}  # INK: no effect worth the name


def forest(
    rows: Mapping[str, Comparison], *, title: str, xlabel: str, axis: Axes | None = None, names: bool = True
) -> Axes:
    """Draw differences one a row around a line at zero, coloured by verdict.

    Parameters
    ----------
    rows : by name.
    title, xlabel : the takeaway, and what a difference means.
    axis : where to draw; a figure of its own by default.
    names : write the names at the left.
    """
    axis = axis or plt.subplots(figsize=(6.4, 0.3 * len(rows) + 1.0))[1]
    told = {name: (row.interval, VERDICTS.get(row.verdict, INK)) for name, row in rows.items()}
    _draw_intervals(axis, told, title=title, xlabel=xlabel)
    axis.axvline(0, color=INK, linewidth=0.8)
    if not names:
        axis.set_yticklabels([])
    return axis


def _draw_intervals(axis: Axes, rows: Mapping[str, tuple[Interval, str]], *, title: str, xlabel: str) -> None:
    """Draw one interval a row in its colour, with a dot at its mean and its name at the left."""
    for place, (found, colour) in enumerate(rows.values()):
        axis.plot([found.low, found.high], [place, place], color=colour, linewidth=2, solid_capstyle="round")
        axis.plot(found.mean, place, "o", color=colour, markersize=5)
    axis.set_yticks(range(len(rows)), list(rows), **AS_IT_IS)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.grid(axis="x", alpha=0.25)
    axis.set(title=title, xlabel=xlabel)


def heat_maps(
    matrices: Mapping[str, Float[np.ndarray, "rows columns"]], *, title: str, label: str = "", **kwargs: Any
) -> Figure:
    """Draw matrices of the same meaning side by side on one colour scale.

    Parameters
    ----------
    matrices : title -> matrix.
    title : the takeaway.
    label : what the colour means.
    **kwargs : for `matplotlib.axes.Axes.imshow`.
    """
    width = 6.4 / len(matrices)
    figure, axes = plt.subplots(1, len(matrices), figsize=(6.4, width + 0.75), squeeze=False)
    top = max(float(matrix.max()) for matrix in matrices.values())
    for axis, (name, matrix) in zip(axes[0], matrices.items(), strict=True):
        drawn = axis.imshow(matrix, **{"cmap": "cividis", "vmin": 0, "vmax": top, **kwargs})
        axis.set(xticks=[], yticks=[])
        axis.set_title(name, fontsize=9, **AS_IT_IS)
    figure.colorbar(drawn, ax=axes[0], shrink=0.75, label=label, pad=0.02)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def curve(
    axis: Axes,
    x: Sequence[float] | Sequence[int] | Float[np.ndarray, " points"],
    points: Sequence[Interval],
    *,
    color: str | Sequence[float] = INK,
    label: str = "",
    linestyle: str = "-",
) -> None:
    """Draw means as a line and their 95 % intervals as a band; a label stands at the line's last point.

    Parameters
    ----------
    axis : where to draw.
    x : one position per point.
    points : one interval per position.
    color, linestyle : of the line.
    label : what the line is, written beside it.
    """
    mean, low, high = np.array(points).T  # (points, 3) -> three times (points,)
    axis.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
    axis.plot(x, mean, color=color, linewidth=1.8, linestyle=linestyle)
    axis.annotate(
        label, (x[-1], mean[-1]), xytext=(5, 0), textcoords="offset points", color=readable(color),
        va="center", **AS_IT_IS,
    )  # fmt: skip


def part_labels(axis: Axes, *, gap: float = 11.0) -> None:
    """Move the labels of `curve` up and down until none lies on another; call it last.

    Parameters
    ----------
    axis : where they are.
    gap : between their middles, in points.
    """
    figure = axis.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # so that the axis has its place
    labels = [text for text in axis.texts if isinstance(text, Annotation) and text.get_text()]
    middles = [axis.transData.transform(label.xy)[1] * 72 / figure.dpi for label in labels]
    order, places = np.argsort(middles, kind="stable"), np.array(middles)
    for _ in range(100):
        for low, high in pairwise(order):
            short = max(0.0, gap - (places[high] - places[low]))
            places[[low, high]] += (-short / 2, short / 2)
    for label, middle, place in zip(labels, middles, places, strict=True):
        label.set_position((5, place - middle))


def readable(color: str | Sequence[float]) -> str:
    """Return a colour, darkened as far as text in it has to be on the paper.

    Parameters
    ----------
    color : of a line, say, that the text names.
    """
    shade: Float[np.ndarray, " 3"] = np.asarray(to_rgba(color)[:3], float)  # type: ignore[arg-type]
    while contrast(to_hex(shade)) < CONTRAST:  # type: ignore[arg-type]
        shade = 0.95 * shade
    return to_hex(shade)  # type: ignore[arg-type]


def contrast(color: str) -> float:
    """Return how much a colour stands out on the paper, from 1 to 21, as WCAG 2 counts."""
    bright, dark = sorted(map(_luminance, (color, PAPER)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _luminance(color: str) -> float:
    shares: Float[np.ndarray, " 3"] = np.asarray(to_rgb(color), float)
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))
