"""The search desk, driven as a reader drives it: what it shows is dwclib's own ranking."""

import re
from pathlib import Path

import pytest
import torch
from unreadable import unreadable

from dwclib.book import cards
from dwclib.book.desk import EMPTY, FREE, SILENT, SearchDesk
from dwclib.combiner import combine
from dwclib.errors import ConfigError
from dwclib.retrieval import rank
from dwclib.training import compose_queries
from dwclib.training.config import read_recipe
from dwclib.training.runs import Run

SMOKE = read_recipe("synthfashion-smoke").but(model={"streams": ["clip"]})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a run that has not begun: the desk takes any weights."""
    return Run(SMOKE, tmp_path_factory.mktemp("run"), device="cpu")


@pytest.fixture(scope="module")
def dataset(run):
    return run.evaluation.dataset


@pytest.fixture(scope="module")
def composed(run, dataset):
    with torch.no_grad():
        return compose_queries(run.model["clip"], run.evaluation.inputs["clip"], dataset)


@pytest.fixture(scope="module")
def desk(run):
    return SearchDesk(run)


def asked(desk, dataset, row):
    """Ask one of the dataset's queries."""
    desk.choose(int(dataset.references[row]), dataset.texts()[row])
    return desk


def drawn(part):
    return re.findall(r'src="([^"]+)"', part.value)


def addresses(dataset, pictures):
    return [cards.address(dataset.pictures[picture]) for picture in pictures]


@pytest.mark.parametrize("row", [0, 1, 17, 60])
def test_the_first_answers_and_the_weight_are_those_of_the_stream(run, dataset, composed, desk, row):
    asked(desk, dataset, row)
    gallery = run.embedded()["clip"].gallery
    reference = torch.from_numpy(dataset.references[[row]])
    first = rank(composed.query[[row]], gallery, k=10, exclude=reference)[0].tolist()
    assert drawn(desk.mix) == addresses(dataset, first)
    assert desk.weight.value == round(float(composed.modality_weight[row]), 2)
    assert f"learned {float(composed.modality_weight[row]):.2f}" in desk.tick.value
    right = dataset.relevant()[row]
    right[dataset.references[row]] = False
    assert desk.mix.value.count("dwc-card right") == right[first].sum()
    assert f"{right[first].sum()} of {right.sum()}" in desk.said.value
    assert [address in drawn(desk.chosen) for address in addresses(dataset, reference.tolist())] == [True]


def test_every_text_of_the_world_can_be_read(desk, dataset):
    assert {desk.searcher.problem_with(text) for text in dataset.texts()} == {""}


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_a_dragged_weight_ranks_anew_and_a_button_leads_back(run, dataset, composed, desk, weight):
    asked(desk, dataset, 1)
    learned, before = desk.weight.value, desk.mix.value
    desk.weight.value = weight
    query = combine(composed.edited_image[[1]], composed.edited_text[[1]], torch.tensor([[weight]]))
    reference = torch.from_numpy(dataset.references[[1]])
    first = rank(query, run.embedded()["clip"].gallery, k=10, exclude=reference)[0].tolist()
    assert drawn(desk.mix) == addresses(dataset, first)
    assert f"λ = {weight:.2f}" in desk.lam.value
    if weight in (0.0, 1.0):
        image, text = drawn(desk.ends)[:10], drawn(desk.ends)[10:]
        assert drawn(desk.mix) == (image if weight else text)
    desk.learned.click()
    assert (desk.weight.value, desk.mix.value) == (learned, before)


def test_a_garment_brings_its_own_texts_and_each_can_be_asked(desk, dataset):
    picture = list(desk.starts)[1]
    desk.starts[picture].click()
    texts = [text for text, own in zip(dataset.texts(), dataset.references == picture, strict=True) if own]
    assert [button.description for button in desk.suggestions.children] == texts
    assert desk.text.value == texts[0]
    desk.suggestions.children[-1].click()
    assert desk.text.value == texts[-1]
    assert "right answers" in desk.said.value.lower()


def test_both_gates_are_drawn_feature_by_feature(desk, dataset):
    gates = asked(desk, dataset, 0).gates.value
    assert [gates.count(f'data-gate="{modality}"') for modality in ("image", "text")] == [1, 1]
    assert gates.count("h.8V1z") == 2 * SMOKE.model.dim


def test_a_text_of_the_readers_own_is_answered_and_not_judged(desk, dataset):
    asked(desk, dataset, 1)
    before = desk.mix.value
    desk.text.value = "is red"
    assert desk.mix.value != before
    assert desk.said.value == FREE
    assert "dwc-card right" not in desk.mix.value + desk.ends.value


@unreadable
def test_what_cannot_be_read_is_told_in_a_sentence_and_the_answers_stay(desk, dataset, text, says):
    asked(desk, dataset, 1)
    before = desk.mix.value
    desk.text.value = text if text != desk.text.value else f"{text} "
    assert says in desk.say.value
    assert "<b>" not in desk.say.value
    assert desk.mix.value == before
    desk.text.value = "Is red."
    assert desk.say.value == ""


def test_a_garment_without_texts_is_asked_what_could_be_read_last(desk, dataset):
    asked(desk, dataset, 1)
    readable = desk.text.value
    silent = next(one for one in range(len(dataset.scenes)) if one not in set(dataset.references))
    desk.text.value = "is sparkly"
    desk.choose(silent)
    assert (desk.text.value, desk.asked.reference) == (readable, silent)


def test_where_no_kernel_runs_the_same_first_answers_are_shown_each_time(run):
    first, second = SearchDesk(run), SearchDesk(run)
    shown = first._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in shown
    assert shown["text/html"] == second._repr_mimebundle_()["text/html"]
    assert shown["text/html"].count("<img") == 31
    assert "Run this cell in JupyterLab" in shown["text/html"]


def test_a_run_without_these_parts_is_refused(tmp_path):
    config = SMOKE.but(model={"editors": "image"})
    with pytest.raises(ConfigError, match="editors"):
        SearchDesk(Run(config, tmp_path / "run", device="cpu"))


def test_the_desk_says_what_the_page_says():
    script = (Path(__file__).resolve().parents[2] / "book" / "_static" / "live.js").read_text(
        encoding="utf-8"
    )
    assert [said for said in (EMPTY, SILENT, FREE) if f'"{said}"' not in script] == []
