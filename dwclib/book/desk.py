"""A search desk in JupyterLab: choose a garment, say what should change, drag the weight, see what is found.

It is the page "Try it" in Python: the same parts, the same sentences, and dwclib's own ranking. Where no
kernel runs, it shows the answers that it began with.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from html import escape
from typing import Any, NamedTuple

import ipywidgets as widgets
import torch
from jaxtyping import Float
from torch import Tensor

from dwclib.book import cards
from dwclib.book.live import FIRST, checked_dataset, gate_strip, offered, queries_of, shown, verdict
from dwclib.combiner import combine
from dwclib.data import language
from dwclib.editors import EditedPair
from dwclib.encoders import Clip
from dwclib.retrieval import rank
from dwclib.training.embedding import embed_gallery
from dwclib.training.runs import Run

SIGNS = re.compile(r"[.!?;:'\"()“”‘’…-]")  # stand in no text of the book, and are passed over
WORD = re.compile(r",|[^\s,]+")
EMPTY = "Say what should change, or take a suggestion: without a text, there are only look-alikes to find."
SILENT = "No annotator spoke of this garment: say yourself what should change."
STATIC = "Run this cell in JupyterLab to choose, to type and to drag."
WIDE, SMALL = {"width": "auto"}, {"flex": "0 0 56px", "height": "56px"}
NATURAL = {"width": "auto", "max_width": "100%", "align_self": "flex-start"}
FREELY = {"description_width": "initial"}
FREE = "Nothing is marked: the judge knows the right answers to suggestions, not to a text of your own."


class Asked(NamedTuple):
    """A question that waits for its weight.

    Fields
    ------
    reference : the garment.
    edited : its features and the text's, each of one row, and the gates.
    learned : the weight that the stream gives the image.
    """

    reference: int
    edited: EditedPair
    learned: float


class Searcher:
    """What answers: a stream, the text encoder, and an embedded gallery, on the CPU.

    Parameters
    ----------
    run : of DWC's CLIP stream, alone or beside others, on SynthFashion and the book's CLIP.

    Raises
    ------
    ConfigError
        When it is another run.
    """

    def __init__(self, run: Run) -> None:
        self.dataset = checked_dataset(run)
        self.stream: Any = copy.deepcopy(run.model["clip"]).cpu().eval()  # the run's own stays where it is
        self.clip = Clip()
        features = run.evaluation.inputs["clip"]
        self.images = features.images
        self.gallery = embed_gallery(self.stream, features, self.dataset)
        self.words = {word.lower() for word in language.vocabulary()} | {","}

    def problem_with(self, text: str) -> str:
        """Say in a sentence why a text cannot be read and what to do; "" where it can."""
        found = _words_of(text)
        pieces = sum(len(self.clip.tokenizer.encode(word)) for word in found)
        most = self.clip.tokenizer.context_length - 2  # the marks of start and end
        unknown = list(dict.fromkeys(word for word in found if word not in self.words))
        signs = [word for word in unknown if not any(letter.isalnum() for letter in word)]
        if not {*found} - {","}:
            return EMPTY
        if pieces > most:
            return f"Shorten the text: this small CLIP reads {most} pieces of words, and these are {pieces}."
        if signs:
            return f"This small CLIP reads words only: leave out {_quoted(signs)}, and say it in words."
        if unknown:
            these = "these words" if len(unknown) > 1 else "that word"
            return f"This small CLIP never read {these}: {_quoted(unknown)}. Use others."
        return ""

    @torch.no_grad()
    def ask(self, reference: int, text: str) -> Asked:
        """Compose a query up to its weight.

        Parameters
        ----------
        reference : of the dataset's images.
        text : one that can be read.
        """
        v = self.stream.embed_target(self.images[[reference]])  # the target takes the image's head
        t = self.stream.embed_text(self.clip.encode_texts([" ".join(_words_of(text))]))
        edited = self.stream.editors(v, t)
        return Asked(reference, edited, float(self.stream.combiner(edited.image, edited.text)[1]))

    def answers(self, asked: Asked, weight: float) -> list[int]:
        """Return the first pictures for a weight of the image, best first, without the reference."""
        query: Float[Tensor, "1 dim"] = combine(
            asked.edited.image, asked.edited.text, torch.tensor([[weight]])
        )
        return rank(query, self.gallery, k=FIRST, exclude=torch.tensor([asked.reference]))[0].tolist()


class SearchDesk:
    """A widget that asks a `Searcher`; it is shown as the last value of a cell.

    Parameters
    ----------
    run : as `Searcher` takes it.

    Attributes
    ----------
    starts : by picture, the button that chooses it.
    text, weight : what is asked: setting their ``value`` is what a reader does.
    suggestions : a button for each text that annotators wrote about the chosen garment.
    learned : the button that leads back to the learned weight.
    chosen, say, lam, tick, said, mix, ends, gates : what is answered, as HTML.
    """

    def __init__(self, run: Run) -> None:
        self.searcher = Searcher(run)
        self.dataset = self.searcher.dataset
        self.queries = queries_of(self.dataset)
        self.starts = {picture: self._start(picture) for picture in offered(self.dataset)}
        self.text = widgets.Text(
            description="The one I want", continuous_update=False, layout=WIDE, style=FREELY
        )
        self.weight = widgets.FloatSlider(min=0, max=1, step=0.01, readout=False, layout=WIDE)
        self.suggestions = widgets.HBox(layout={"flex_flow": "row wrap"})
        self.learned = widgets.Button(description="Back to the learned weight", layout=NATURAL)
        self.chosen, self.say, self.lam, self.tick = (widgets.HTML() for _ in range(4))
        self.said, self.mix, self.ends, self.gates = (widgets.HTML() for _ in range(4))
        self.text.observe(lambda _: self._ask(), "value")
        self.weight.observe(lambda _: self._weigh(), "value")
        self.learned.on_click(lambda _: self._weigh_as_learned())
        pairs = zip(self.queries, map(any, self.dataset.said), strict=True)
        first = next(query for query, said in pairs if said and query.reference in self.starts)
        self.choose(first.reference, first.text)

    def choose(self, reference: int, text: str = "") -> None:
        """Begin with a garment.

        Parameters
        ----------
        reference : one of the dataset's images.
        text : what to ask; the first that an annotator wrote about it, by default; without one, what could be
            read last.
        """
        self.reference = reference
        for picture, button in self.starts.items():
            (button.add_class if picture == reference else button.remove_class)("dwc-chosen")
        self.chosen.value = cards.card(self.dataset, reference)
        own = [query.text for query in self.queries if query.reference == reference]
        for button in self.suggestions.children:
            button.close()
        self.suggestions.children = [self._suggestion(one) for one in own]
        _set(self.text, text or (own[0] if own else self.read), self._ask)
        if not (own or self.say.value):
            self.say.value = SILENT

    def as_html(self) -> str:
        """Return what is shown where no kernel runs: the question and its answers, as they are."""
        text = f"<p>The one I want ... “{escape(self.text.value)}”</p>"
        asked = f'<div class="dwc-ask">{self.chosen.value}{text}</div>'
        parts = (self.lam, self.said, self.mix, self.ends, self.gates)
        shown = "".join(f"<div>{part.value}</div>" for part in parts)
        return f'{cards.STYLE}<div class="dwc">{asked}{shown}<p>{STATIC}</p></div>'

    def _repr_mimebundle_(self, **kinds: Any) -> dict[str, Any]:
        view: dict[str, Any] = self._box()._repr_mimebundle_(**kinds)
        return view | {"text/plain": "a desk to search at", "text/html": self.as_html()}

    def _box(self) -> Any:
        pictures = ((picture, cards.address(self.dataset.pictures[picture])) for picture in self.starts)
        rules = (_START.format(picture=picture, address=address) for picture, address in pictures)
        style = widgets.HTML(f"{cards.STYLE}<style>{_BUTTONS}{''.join(rules)}</style>")
        starts = widgets.HBox(
            list(self.starts.values()), layout={"overflow": "auto hidden", "padding": "4px"}
        )
        asked = widgets.VBox(
            [self.text, self.say, self.suggestions], layout={"flex": "1 1 0", "min_width": "0"}
        )
        self.chosen.layout = {"flex": "0 0 96px", "margin": "0 12px 0 0"}
        answers = (self.said, self.mix, self.ends, self.gates)
        rest = [widgets.HBox([self.chosen, asked]), self.lam, self.weight, self.tick, self.learned, *answers]
        box = widgets.VBox(
            [style, widgets.Label("Choose a garment"), starts, *rest], layout={"max_width": "44rem"}
        )
        return box.add_class("dwc")

    def _start(self, picture: int) -> Any:
        button = widgets.Button(tooltip=shown(self.dataset.garment(picture)), layout=SMALL)
        button.on_click(lambda _: self.choose(picture))
        return button.add_class(f"dwc-start-{picture}")

    def _suggestion(self, text: str) -> Any:
        button = widgets.Button(description=text, tooltip=text, layout=NATURAL)
        button.on_click(lambda _: _set(self.text, text, self._ask))
        return button

    def _ask(self) -> None:
        self.say.value = escape(self.searcher.problem_with(self.text.value))
        if self.say.value:
            return
        reference, text = self.reference, self.text.value.strip()
        self.read = text
        self.asked = self.searcher.ask(reference, text)
        known = (query.right for query in self.queries if query[:2] == (reference, text))
        self.right = next(known, None)
        ends = {"Image alone, λ = 1": 1.0, "Text alone, λ = 0": 0.0}
        self.ends.value = "".join(self._answers(name, weight)[0] for name, weight in ends.items())
        gates = (("image", self.asked.edited.image_gate), ("text", self.asked.edited.text_gate))
        strips = "".join(gate_strip(modality, gate[0]) for modality, gate in gates)
        self.gates.value = f'<div class="dwc-gates">{strips}</div>'
        self._weigh_as_learned()

    def _weigh_as_learned(self) -> None:
        _set(self.weight, round(self.asked.learned, 2), self._weigh)

    def _weigh(self) -> None:
        """Rank by the weight under the reader's hand; the learned one counts with all its digits."""
        learned, now = self.asked.learned, self.weight.value
        exact = learned if f"{learned:.2f}" == f"{now:.2f}" else now
        self.mix.value, found = self._answers("DWC, with this weight", exact)
        self.said.value = FREE if self.right is None else verdict(found, self.right)
        self.lam.value = f"<p>Weight of the image, from the text alone to the image alone: λ = {now:.2f}</p>"
        self.tick.value = cards.tick(learned)

    def _answers(self, name: str, weight: float) -> tuple[str, list[int]]:
        found = self.searcher.answers(self.asked, weight)
        marks = ["right" if one in (self.right or ()) else "" for one in found]
        answers = (
            cards.card(self.dataset, one, kind=mark, says=mark)
            for one, mark in zip(found, marks, strict=True)
        )
        return f"<p>{name}</p>{cards.row(answers, across=FIRST)}", found


def _set(widget: Any, value: Any, then: Callable[[], None]) -> None:
    """Give a widget a value; what follows from it is done even if it has that value already."""
    if widget.value == value:
        then()
    else:
        widget.value = value


def _words_of(text: str) -> list[str]:
    return WORD.findall(SIGNS.sub(" ", text.lower()))


def _quoted(words: list[str]) -> str:
    return ", ".join(f"“{word}”" for word in words[:3]) + (" ..." if len(words) > 3 else "")


_START = ".dwc-start-{picture}.jupyter-button {{ background: url({address}) center / cover; }}"
_BUTTONS = """
.dwc .jupyter-button { white-space: normal; height: auto; min-height: 28px; text-align: left; }
.dwc-chosen.jupyter-button { outline: 3px solid #0072B2; outline-offset: 1px; }
"""
