import dataclasses
from itertools import combinations

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from dwclib.book import plots
from dwclib.data.synthfashion import synthfashion
from dwclib.experiments import Comparison, Interval


@pytest.fixture(autouse=True)
def style():
    with mpl.rc_context():
        plots.use_style()
        yield
    plt.close("all")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DWC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield synthfashion("val", images=40, queries=20, workers=1)


def drawn(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())


def texts(figure):
    return " ".join(text.get_text() for text in figure.findobj(mpl.text.Text))


def luminance(colour):
    return (np.array(mpl.colors.to_rgb(colour)) ** 2.2) @ [0.2126, 0.7152, 0.0722]


def test_the_paper_is_painted_so_that_figures_survive_a_dark_page():
    figure, _ = plt.subplots()
    corner = drawn(figure)[2, 2]
    assert corner.tolist() == [*(round(255 * c) for c in mpl.colors.to_rgb(plots.PAPER)), 255]


@pytest.mark.parametrize("colour", [plots.IMAGE, plots.TEXT, plots.MIX, plots.INK])
def test_colours_stand_out_from_the_paper(colour):
    contrast = (luminance(plots.PAPER) + 0.05) / (luminance(colour) + 0.05)
    assert contrast > 3  # WCAG's minimum for graphics


def test_a_row_of_pictures_shows_each_with_its_title(world):
    figure = plots.picture_row(world.pictures[:7], [f"no. {i}" for i in range(7)], columns=4)
    shown = [axis for axis in figure.axes if axis.images]
    assert len(shown) == 7
    assert (shown[3].images[0].get_array() == world.pictures[3]).all()
    assert "no. 6" in texts(figure)


def test_queries_show_reference_text_and_target(world):
    figure = plots.show_queries(world, world.pictures, [2, 5])
    pictures = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    assert (pictures[0] == world.pictures[world.references[2]]).all()
    assert (pictures[3] == world.pictures[world.targets[5]]).all()
    assert world.captions[5][1].split()[-1] in texts(figure)


def test_results_frame_the_target_and_what_is_relevant(world):
    target = world.gallery_position(world.targets)[0]
    others = np.delete(np.arange(40), target)[:3]
    relevant = np.zeros(40, bool)
    relevant[[target, others[1]]] = True
    figure = plots.show_results(
        world, world.pictures, 0, np.array([*others, target]), relevant=relevant, title="found"
    )
    frames = [
        axis.spines["left"].get_edgecolor() for axis in figure.axes if axis.spines["left"].get_visible()
    ]
    assert frames == [mpl.colors.to_rgba(c) for c in (plots.IMAGE, "#E69F00", plots.MIX)]


def test_a_leaderboard_draws_means_and_intervals():
    rows = {"sum": Interval(10.0, 9.0, 11.0), "DWC": Interval(20.0, 18.5, 21.5)}
    figure = plots.leaderboard(rows, title="DWC leads", best="DWC")
    lines = [line.get_xdata() for line in figure.axes[0].lines]
    assert [18.5, 21.5] in [list(x) for x in lines]
    assert "20.0" in texts(figure)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["sum", "DWC"]


def test_heat_maps_share_their_colour_scale():
    maps = {"hard": np.eye(3), "soft": np.full((3, 3), 0.3)}
    figure = plots.heat_maps(maps, title="labels")
    limits = [axis.images[0].get_clim() for axis in figure.axes if axis.images]
    assert limits == [(0, 1), (0, 1)]


def test_a_curve_shows_means_intervals_and_its_name():
    figure, axis = plt.subplots()
    plots.curve(axis, [0, 1], [Interval(1.0, 0.5, 1.5), Interval(2.0, 1.0, 3.0)], label="beside it")
    assert axis.lines[0].get_ydata().tolist() == [1.0, 2.0]
    band = axis.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (0.5, 3.0)
    assert "beside it" in texts(figure)


def test_labels_of_curves_that_end_together_are_parted():
    figure, axis = plt.subplots()
    for name, end in (("one", 0.5), ("two", 0.51), ("three", 0.505), ("four", 0.9)):
        plots.curve(axis, [0, 1], [Interval(end, end, end)] * 2, label=name)
    before = axis.texts[3].get_position()
    plots.part_labels(axis)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axis.texts]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    assert boxes[1].y0 > boxes[2].y0 > boxes[0].y0  # in the curves' order
    assert axis.texts[3].get_position() == before
    plt.close(figure)


def test_a_forest_has_a_row_and_a_colour_for_every_verdict():
    kinds = ("supported", "opposite", "cannot tell", "no effect of a point or more")
    said = dict(zip("abcd", kinds, strict=True))
    rows = {name: Comparison(Interval(1.0, -1.0, 3.0), 0.5, verdict) for name, verdict in said.items()}
    axis = plots.forest(rows, title="no effect", xlabel="points")
    colours = [line.get_color() for line in axis.lines if line.get_marker() == "o"]
    assert colours == [plots.MIX, plots.TEXT, plots.GREY, plots.INK]
    assert [label.get_text() for label in axis.get_yticklabels()] == list(said)
    assert "no effect" in texts(axis.figure)


DOLLARS = r"$\frac{$ or 5"


def _said(world):
    return dataclasses.replace(world, captions=((DOLLARS, DOLLARS),) * len(world))


def _queries(world, pictures):
    return plots.show_queries(_said(world), pictures, [0])


def _results(world, pictures):
    return plots.show_results(_said(world), pictures, 0, [1, 2])


def _curve(world, pictures):
    figure, axis = plt.subplots()
    plots.curve(axis, [0, 1], [Interval(1.0, 0.5, 1.5)] * 2, label=DOLLARS)
    return figure


COMPARED = Comparison(Interval(1.0, -1.0, 3.0), 0.5, "cannot tell")


@pytest.mark.parametrize(
    "draw",
    [_queries, _results, _curve,
     lambda world, pictures: plots.picture_row(pictures[:2], [DOLLARS] * 2),
     lambda world, pictures: plots.leaderboard({DOLLARS: Interval(1.0, 0.5, 1.5)}, title="one"),
     lambda world, pictures: plots.forest({DOLLARS: COMPARED}, title="one", xlabel="points").figure,
     lambda world, pictures: plots.heat_maps({DOLLARS: np.eye(2)}, title="one")],
)  # fmt: skip
def test_a_dollar_in_a_text_is_a_dollar(world, draw):
    figure = draw(world, world.pictures)
    assert DOLLARS[:5] in texts(figure)
    drawn(figure)  # mathtext would raise here
