"""A slider for the modality weight of single queries: it works on a page without a kernel, too.

Each picture that some weight brings among the first answers is on the page once, with its place at every
weight, so that no weight needs a drawing of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import numpy as np
import torch
from IPython.display import HTML
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dwclib.book import cards
from dwclib.combiner import combine
from dwclib.data.synthfashion import SynthFashion
from dwclib.errors import FeatureError, check_least
from dwclib.retrieval import rank
from dwclib.streams import Composition

STEPS = 100  # of the slider, from the text alone to the image alone
FIRST = 6  # answers beside the reference


def weighing(
    composed: Composition,
    gallery: Float[Tensor, "gallery dim"],
    dataset: SynthFashion,
    queries: Mapping[str, int],
) -> HTML:
    """Show the first answers of single queries for the weight that a slider sets, from the learned one on.

    Parameters
    ----------
    composed : all queries of the dataset, of a composer that weighs, from `compose_queries`.
    gallery : (gallery, dim), from `embed_gallery`.
    dataset : whose queries and gallery these are.
    queries : why it is shown -> which query.

    Raises
    ------
    ConfigError
        When there is no such query.
    FeatureError
        When the composer has no weight.
    """
    for query in queries.values():
        check_least(0, most=len(dataset) - 1, query=query)
    if composed.modality_weight is None:
        raise FeatureError("there is no weight to drag", where="composition", remedy="Use a stream of DWC.")
    shown = [_one(composed, gallery, dataset, query, place) for place, query in enumerate(queries.values())]
    options = "".join(f'<option value="{place}">{escape(why)}</option>' for place, why in enumerate(queries))
    choice = f'<label>Query: <select autocomplete="off" onchange="{_CHOOSE}">{options}</select></label>'
    return HTML(f'{cards.STYLE}<div class="dwc">{choice}{"".join(shown)}</div>')


@torch.no_grad()
def orders(
    composed: Composition, gallery: Float[Tensor, "gallery dim"], dataset: SynthFashion, query: int
) -> Int[np.ndarray, "steps ranked"]:
    """Return the gallery without the reference, best first, for each step of the slider.

    Parameters
    ----------
    composed, gallery, dataset : as `weighing` takes them.
    query : which one. At the step that is next to its learned weight, that one counts with all its digits.
    """
    image, text, learned = (
        part[query : query + 1].cpu()
        for part in (composed.edited_image, composed.edited_text, composed.modality_weight)
        if part is not None
    )
    weights = torch.linspace(0, 1, STEPS + 1)[:, None]
    weights[step_of(float(learned))] = learned
    mixed = combine(image.expand(STEPS + 1, -1), text.expand(STEPS + 1, -1), weights)
    reference = dataset.gallery_position(dataset.references[[query]])
    exclude = torch.from_numpy(reference).expand(STEPS + 1)
    return rank(mixed, gallery.cpu(), k=len(gallery) - 1, exclude=exclude).numpy()


def step_of(weight: float) -> int:
    """Return the slider's step for a weight."""
    return round(STEPS * weight)


def _one(
    composed: Composition,
    gallery: Float[Tensor, "gallery dim"],
    dataset: SynthFashion,
    query: int,
    place: int,
) -> str:
    """Return one query with its pictures and its slider, which starts at the learned weight."""
    learned = float(composed.modality_weight[query])  # type: ignore[index]
    found, start = orders(composed, gallery, dataset, query), step_of(learned)
    target = int(dataset.gallery_position(dataset.targets[[query]])[0])
    ranks = 1 + (found == target).argmax(axis=1)
    reference = cards.card(dataset, int(dataset.references[query]), says="the reference", kind="reference")
    answers = [
        _answer(dataset, int(position), found[:, :FIRST] == position, start, target)
        for position in np.unique(found[:, :FIRST])
    ]
    return _ONE.format(
        place=place,
        hidden=" hidden" * (place > 0),
        text=escape(dataset.texts()[query]),
        ranks=" ".join(map(str, ranks)),
        learned=start,
        pictures=cards.row([reference, *answers], across=1 + FIRST),
        steps=STEPS,
        said=f"λ = {start / STEPS:.2f}, as learned: the target is at rank {ranks[start]}",
        drag=_DRAG,
        tick=cards.tick(learned),
    )


def _answer(
    dataset: SynthFashion, position: int, at: Bool[np.ndarray, "steps first"], start: int, target: int
) -> str:
    """Return a picture with its place at every step, 0 where it is not among the first."""
    places = np.where(at.any(axis=1), 1 + at.argmax(axis=1), 0)
    more = f' data-places="{"".join(map(str, places))}" style="order: {places[start]}"'
    more += " hidden" * (not places[start])
    kind, says = ("right", "the target") if position == target else ("", "")
    return cards.card(dataset, int(dataset.gallery[position]), kind=kind, says=says, more=more)


_CHOOSE = (
    "for (const one of this.closest('.dwc').querySelectorAll('.dwc-query')) "
    "one.hidden = one.dataset.place != this.value"
)
_DRAG = (
    "const one = this.closest('.dwc-query'), at = this.value, ranks = one.dataset.ranks.split(' '); "
    "for (const card of one.querySelectorAll('[data-places]')) { "
    "const place = Number(card.dataset.places[at]); card.hidden = !place; card.style.order = place; "
    "card.firstChild.loading = 'eager'; } "
    "const learned = at == one.dataset.learned ? ', as learned' : ''; "
    "const said = `λ = ${(at / this.max).toFixed(2)}${learned}: the target is at rank ${ranks[at]}`; "
    "one.querySelector('output').textContent = said; this.setAttribute('aria-valuetext', said)"
)
_ONE = """<div class="dwc-query" data-place="{place}" data-ranks="{ranks}" data-learned="{learned}"{hidden}>
<p>“{text}”</p>
{pictures}
<input type="range" min="0" max="{steps}" value="{learned}" autocomplete="off" oninput="{drag}"
aria-label="Weight of the image" aria-valuetext="{said}">
{tick}
<div class="dwc-ends"><span>text alone</span><output>{said}</output><span>image alone</span></div>
<noscript><p>JavaScript is off: the answers are those of the learned weight,
and the slider moves nothing.</p></noscript>
</div>
"""
