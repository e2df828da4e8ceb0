"""The page "Try it": a CLIP stream, and all that it searches, written for a script in the reader's browser.

``book/_static/live.js`` is the script: it reads texts, composes queries and ranks, from the weights that this
module writes. Until the reader touches the page, it shows one query that this module has answered.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Sequence
from html import escape
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from dwclib.combiner import combine
from dwclib.data import language
from dwclib.data.garments import Garment
from dwclib.data.synthfashion import SynthFashion
from dwclib.encoders import Clip
from dwclib.errors import ConfigError, brief
from dwclib.retrieval import rank
from dwclib.streams import ClipStream
from dwclib.training.config import read_recipe
from dwclib.training.embedding import embed_gallery
from dwclib.training.runs import Run, shared_run

OFFERED = 24  # garments to start from, beside every image that has been found
FIRST = 10  # answers of each ranking
ACROSS = 50  # pictures in a row of a sheet
RECIPE = "synthfashion-laptop"
NEEDED: dict[str, Any] = {"composer": "DWC", "clip": "book", "editors": "both", "modality_weight": "scalar"}


def canonical_run() -> Run:
    """Return the book's canonical run of the CLIP stream alone."""
    return shared_run(read_recipe(RECIPE).but(model={"streams": ["clip"]}), device="cpu", progress=False)


def write_live(folder: Path, run: Run) -> None:
    """Write weights, gallery and pictures below ``_static/live`` of a folder of pages, and ``live.html``.

    Parameters
    ----------
    folder : of the pages; ``live.html`` is the first answer, which they include.
    run : of a CLIP stream on SynthFashion, on the CPU, whose evaluation split is searched.

    Raises
    ------
    ConfigError
        When the run has no CLIP stream of DWC's own parts, on the book's CLIP, or is of another dataset.
    """
    dataset, static = checked_dataset(run), folder / "_static" / "live"
    static.mkdir(parents=True, exist_ok=True)
    model = model_of(Clip(), _stream(run))
    _write(static / "model.js", "DWC_MODEL", model)
    _write(static / "gallery.js", "DWC_GALLERY", gallery_of(run, dataset))
    (static / "pictures.webp").write_bytes(as_webp(dataset.pictures))
    size = sum(path.stat().st_size for path in static.iterdir())
    (folder / "live.html").write_text(first_answer(run, dataset, model["words"], size), encoding="utf-8")


def model_of(clip: Clip, stream: ClipStream) -> dict[str, Any]:
    """Return the text encoder and the stream: the words that they read, and their weights.

    Of CLIP's table of word pieces, only the rows that the book's texts can use are kept.
    """
    pieces = {word.lower(): clip.tokenizer.encode(word) for word in (*language.vocabulary(), ",")}
    marks = [clip.tokenizer.sot_token_id, clip.tokenizer.eot_token_id]
    rows = sorted({*marks, *chain(*pieces.values())})
    state = clip.model.state_dict()
    tensors = {_renamed(name): state[name] for name in state if not name.startswith(("visual", "logit"))}
    tensors["token_embedding.weight"] = tensors["token_embedding.weight"][rows]
    tensors["text_projection.weight"] = tensors["text_projection.weight"].T  # as a Linear holds it
    return {
        "words": {word: [rows.index(piece) for piece in pieces[word]] for word in sorted(pieces)},
        "marks": [rows.index(mark) for mark in marks],
        "heads": clip.model.transformer.resblocks[0].attn.num_heads,
        "tensors": {name: packed(tensor) for name, tensor in (tensors | stream.state_dict()).items()},
    }


def gallery_of(run: Run, dataset: SynthFashion) -> dict[str, Any]:
    """Return the embedded gallery, what its pictures show, and every query with the judge's right answers."""
    vectors = embed_gallery(_stream(run), run.evaluation.inputs["clip"], dataset)
    return {
        "vectors": packed(vectors),
        "shows": [shown(dataset.garment(image)) for image in dataset.gallery],
        "queries": [query._asdict() for query in queries_of(dataset)],
        "across": ACROSS,
    }


class Query(NamedTuple):
    """A suggestion: its reference, its text, and the pictures that the judge accepts."""

    reference: int
    text: str
    right: list[int]


def queries_of(dataset: SynthFashion) -> list[Query]:
    """Return all queries, in their order; a reference, which is never an answer, is no right one either."""
    right = dataset.relevant().copy()
    right[np.arange(len(right)), dataset.references] = False
    rows = zip(dataset.references.tolist(), dataset.texts(), right, strict=True)
    return [Query(reference, text, np.flatnonzero(row).tolist()) for reference, text, row in rows]


def shown(garment: Garment) -> str:
    """Say in a few words what a picture shows, for readers who do not see it."""
    named = f"{garment.colour} {garment.category}, {garment.pattern}, {garment.length}"
    return (
        f"{named}, {'no' if garment.sleeve == 'sleeveless' else garment.sleeve} sleeves, {garment.neckline}"
    )


def is_clear(dataset: SynthFashion) -> Bool[np.ndarray, " images"]:
    """Return of each photo whether it is sharp and nothing hides a part of it."""
    return np.array([scene.occlusion == scene.blur == 0 for scene in dataset.scenes])


def offered(dataset: SynthFashion) -> list[int]:
    """Return the clear photos about which most has been said: where a reader may start."""
    clear, says = is_clear(dataset), np.array([any(claims) for claims in dataset.said])
    counts = np.bincount(dataset.references[says], minlength=len(clear)) * clear
    return np.argsort(-counts, kind="stable")[:OFFERED].tolist()


def as_webp(pictures: UInt8[np.ndarray, "n h w 3"]) -> bytes:
    """Return pictures as one, `ACROSS` in a row."""
    _, high, wide, _ = pictures.shape
    rows = -(-len(pictures) // ACROSS)
    tiles = np.full((rows * ACROSS, high, wide, 3), 255, dtype=np.uint8)
    tiles[: len(pictures)] = pictures
    laid = tiles.reshape(rows, ACROSS, high, wide, 3).swapaxes(1, 2)  # (rows, h, across, w, 3)
    file = io.BytesIO()
    Image.fromarray(laid.reshape(rows * high, ACROSS * wide, 3)).save(file, "webp", quality=70, method=4)
    return file.getvalue()


def packed(tensor: Tensor) -> dict[str, str]:
    """Return a tensor as text: in 16 bits where they hold it exactly, as they do the book's CLIP."""
    values = tensor.detach().cpu().float()
    half = values.half()
    kind, exact = ("f16", half) if half.float().equal(values) else ("f32", values)
    return {kind: _text_of(exact.contiguous().numpy().tobytes())}


class Answer(NamedTuple):
    """A query, answered: the learned weight, the gates, and the first pictures of three rankings."""

    query: Query
    modality_weight: float
    image_gate: Float[Tensor, " dim"]
    text_gate: Float[Tensor, " dim"]
    mix: list[int]
    image: list[int]
    text: list[int]

    @property
    def said(self) -> str:
        """Where the right answers stand, as the script says it."""
        return verdict(self.mix, self.query.right)


def verdict(found: Sequence[int], right: Sequence[int]) -> str:
    """Say how many right pictures have been found, and where the first of them stands."""
    ranks = [place for place, picture in enumerate(found, start=1) if picture in right]
    first = f", the first at rank {ranks[0]}" if ranks else ""
    return f"Right answers among these: {len(ranks)} of {len(right)}{first}."


@torch.no_grad()
def example(run: Run, dataset: SynthFashion, starts: Sequence[int]) -> Answer:
    """Answer the query about these references that shows most, the shortest of its kind.

    Both annotators say something in it, and it finds a right answer, in a clear photo, where neither part
    alone does; where there is none such, the nearest to it.
    """
    stream, features = _stream(run), run.evaluation.inputs["clip"]
    references = torch.from_numpy(dataset.references)
    edited = stream.editors(
        stream.embed_target(features.images[references]), stream.embed_text(features.texts)
    )
    _, lam = stream.combiner(edited.image, edited.text)
    gallery = embed_gallery(stream, features, dataset)
    mix, image, text = (
        rank(combine(edited.image, edited.text, weight), gallery, k=FIRST, exclude=references).tolist()
        for weight in (lam, torch.ones_like(lam), torch.zeros_like(lam))
    )
    queries, clear = queries_of(dataset), {*is_clear(dataset).nonzero()[0].tolist()}

    def order(row: int) -> tuple[bool, int, bool, int]:
        right = clear.intersection(queries[row].right)
        finds, *alone = (not right.isdisjoint(found[row]) for found in (mix, image, text))
        return not finds, sum(alone), not all(dataset.said[row]), len(queries[row].text)

    row = min((row for row, query in enumerate(queries) if query.reference in starts), key=order)
    gates = edited.image_gate[row], edited.text_gate[row]
    return Answer(queries[row], float(lam[row]), *gates, mix[row], image[row], text[row])


def first_answer(run: Run, dataset: SynthFashion, words: Iterable[str], size: int) -> str:
    """Return in HTML what stands on the page before a weight is loaded: one query with its answers.

    Parameters
    ----------
    run, dataset : as `write_live` has them.
    words : that the text encoder reads.
    size : bytes that a first touch loads.
    """
    starts = offered(dataset)
    answer = example(run, dataset, starts)
    reference, text, right = answer.query
    starts.sort(key=lambda picture: picture != reference)
    drawn = list(dict.fromkeys([reference, *starts, *answer.mix, *answer.image, *answer.text]))

    def card(picture: int, *, right: bool = False, more: str = "") -> str:
        says = shown(dataset.garment(picture)) + (", right" if right else "")
        place = _place(drawn.index(picture), len(drawn))
        return _CARD.format(picture=picture, says=says, place=place, more=more, right=" right" * right)

    def answers(pictures: Iterable[int]) -> str:
        return "".join(f"<li>{card(picture, right=picture in right)}</li>" for picture in pictures)

    own = [query.text for query in queries_of(dataset) if query.reference == reference]
    return _PAGE.format(
        sheet=_text_of(as_webp(dataset.pictures[drawn])),
        across=ACROSS,
        down=-(-len(drawn) // ACROSS),
        starts="".join(card(one, more=f' aria-pressed="{one == reference}"'.lower()) for one in starts),
        chosen=card(reference),
        asked=escape(text),
        suggestions="".join(f'<li><button type="button">{escape(one)}</button></li>' for one in own),
        megabytes=size / 1e6,
        lam=answer.modality_weight,
        said=answer.said,
        mix=answers(answer.mix),
        image=answers(answer.image),
        text=answers(answer.text),
        image_gate=gate_strip("image", answer.image_gate),
        text_gate=gate_strip("text", answer.text_gate),
        words=" ".join(sorted(words)),
    )


def checked_dataset(run: Run) -> SynthFashion:
    """Return what a run searches, or raise ConfigError where the page cannot compute its queries."""
    dataset, model = run.evaluation.dataset, run.config.model
    differs = [
        f"{name} {found!r}" for name, value in NEEDED.items() if (found := getattr(model, name)) != value
    ]
    if "clip" not in model.streams or differs or not isinstance(dataset, SynthFashion):
        what = ", ".join(differs) or dataset.name
        raise ConfigError(
            f"a run of {what}, streams {brief(model.streams)}, cannot be computed",
            where=run.folder,
            remedy="Give a run of DWC's CLIP stream on SynthFashion with all its parts.",
        )
    return dataset


def _stream(run: Run) -> ClipStream:
    return cast(ClipStream, run.model["clip"])


def _renamed(name: str) -> str:
    """Return a tensor's name as a layer's ``.weight`` or ``.bias``."""
    name = name.replace("in_proj_", "in_proj.")
    return "text_projection.weight" if name == "text_projection" else name


def _write(path: Path, name: str, content: dict[str, Any]) -> None:
    """Write a script that sets one global: a page opened from a folder may run it, and may fetch nothing."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    path.write_text(f"window.{name} = {text};\n", encoding="utf-8")


def _text_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _place(position: int, count: int) -> str:
    """Return where in a sheet of so many pictures one stands, as CSS has it."""
    across, down = ACROSS - 1, max(1, -(-count // ACROSS) - 1)
    return f"{position % ACROSS / across:.4%} {position // ACROSS / down:.4%}"


def gate_strip(modality: str, values: Float[Tensor, " dim"]) -> str:
    """Return a gate's values as bars on a field of dim x 1."""
    bars = "".join(f"M{place} 1V{1 - value:.3f}h.8V1z" for place, value in enumerate(values.tolist()))
    return _GATE.format(modality=modality, dim=len(values), bars=bars)


_CARD = (
    '<button type="button" class="live-card{right}" data-picture="{picture}" title="{says}" '
    'aria-label="{says}" style="background-position: {place}"{more}></button>'
)

_PAGE = """<form class="live"
style="--sheet: url(data:image/webp;base64,{sheet}); --across: {across}; --down: {down}">
<fieldset disabled>
<legend>Choose a garment</legend>
<div class="live-starts">{starts}</div>
<div class="live-ask">
<div class="live-chosen">{chosen}</div>
<div>
<label for="live-text">The one I want ...</label>
<div class="live-line">
<textarea id="live-text" rows="2" autocomplete="off" spellcheck="false">{asked}</textarea>
<button type="submit">Search</button>
</div>
<p class="live-say" role="status">Your first touch loads {megabytes:.1f} MB; after that, all is computed
here.</p>
<ul class="live-suggestions" aria-label="What annotators said of this garment">{suggestions}</ul>
</div>
</div>
<div class="live-weigh">
<label for="live-weight">Weight of the image, λ = <output>{lam:.2f}</output></label>
<div class="live-slider"><span>text alone</span>
<div><input id="live-weight" type="range" min="0" max="1" step="0.01" value="{lam:.2f}" autocomplete="off">
<span class="live-tick" style="--at: {lam:.4f}">learned <span>{lam:.2f}</span></span></div>
<span>image alone</span></div>
<button type="button" class="live-learned">Back to the learned weight</button>
</div>
<p class="live-said" role="status">{said}</p>
<div class="live-rankings">
<div><p id="live-mix">DWC, with the weight above</p>
<ol data-ranking="mix" aria-labelledby="live-mix">{mix}</ol></div>
<div><p id="live-image">Image alone, λ = 1</p>
<ol data-ranking="image" aria-labelledby="live-image">{image}</ol></div>
<div><p id="live-alone">Text alone, λ = 0</p>
<ol data-ranking="text" aria-labelledby="live-alone">{text}</ol></div>
</div>
<div class="live-gates">{image_gate}{text_gate}</div>
<details class="live-words"><summary>The words that this small CLIP reads</summary><p>{words}</p></details>
</fieldset>
</form>
<noscript><p>JavaScript is off in this browser: the example stays as it is. Switch it on to ask yourself.</p>
</noscript>
<script defer src="../_static/live.js"></script>
"""

_GATE = """<div><p>Gate of the {modality}</p>
<svg data-gate="{modality}" viewBox="0 0 {dim} 1" preserveAspectRatio="none" role="img"
aria-label="One bar for each feature of the {modality}: how far its gate is open">
<path d="{bars}"/></svg></div>"""
