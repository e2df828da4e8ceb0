"""Probes of a trained run: modality weights when less is seen or read, and modality gaps (notebook 12)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from dwclib.combiner import normalise
from dwclib.data.synthfashion import SynthFashion, degraded
from dwclib.retrieval import composition_gain, share_within, spread, target_ranks
from dwclib.training.embedding import Embedded, compose_queries, embed_gallery
from dwclib.training.evaluation import ranks_by_weight, ranks_of
from dwclib.training.runs import Run

HIDDEN = (0.0, 0.2, 0.4, 0.6)  # share of the garment that something covers
BLURRED = (0.0, 0.01, 0.02, 0.04)  # radius, in widths of the picture
KEPT = (1.0, 0.75, 0.5, 0.25)  # share of the text's words


def probe_weights(run: Run, *, queries: int = 400) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Ask the same queries with the reference more and more hidden or blurred, and the text cut short.

    Parameters
    ----------
    run : trained, on SynthFashion.
    queries : how many of the evaluation split, the first ones.

    Returns
    -------
    By stream and kind of damage ("hidden", "blurred", "cut") one entry per level: the level, the mean
    modality weight, and R@10 in per cent. The first level of each is no damage.
    """
    dataset: SynthFashion = run.evaluation.dataset  # type: ignore[assignment]
    rows = np.arange(min(queries, len(dataset)))
    texts = [dataset.texts(style=run.config.data.captions)[row] for row in rows]
    images = dataset.references[rows]

    def drawn(occlusion: float = 0.0, blur: float = 0.0) -> UInt8[np.ndarray, "n h w 3"]:
        return degraded(dataset, images, occlusion=occlusion, blur=blur)

    asked = {
        "hidden": [(level, drawn(occlusion=level), texts) for level in HIDDEN],
        "blurred": [(level, drawn(blur=level), texts) for level in BLURRED],
        "cut": [(share, drawn(), [cut(text, share) for text in texts]) for share in KEPT],
    }
    galleries = run.embedded()
    found: dict[str, dict[str, list[dict[str, Any]]]] = {name: {} for name in run.model.streams}
    for kind, levels in asked.items():
        for level, pictures, written in levels:
            for name, values in _ask(run, rows, pictures, written, galleries).items():
                found[name].setdefault(kind, []).append({"level": level, **values})
    return found


@torch.no_grad()
def modality_gaps(run: Run, *, batch: int = 250) -> dict[str, dict[str, float]]:
    """Return how far apart each stream keeps what it should bring together, over the evaluation queries.

    Parameters
    ----------
    run : trained.
    batch : queries at a time.

    Returns
    -------
    By stream the distance of two clouds' centres on the unit sphere: "image and text" of v' and t', and
    "query and target" of q and y.
    """
    split, device, found = run.evaluation, run.accelerator.device, {}
    for name, inputs in split.inputs.items():
        stream, sums = run.model[name].eval(), torch.zeros(())
        for part in torch.arange(len(split.dataset)).split(batch):
            reference, target = (
                stream.encode(inputs.images[torch.from_numpy(images)[part]].to(device))
                for images in (split.dataset.references, split.dataset.targets)
            )
            composed = stream.compose(reference, inputs.texts[part].to(device))
            vectors = composed.edited_image, composed.edited_text, composed.query, stream.embed_target(target)
            sums = sums + torch.stack([normalise(v).sum(dim=0).cpu() for v in vectors if v is not None])
        image, text, query, answer = sums / len(split.dataset)
        found[name] = {
            "image and text": round(float((image - text).norm()), 5),
            "query and target": round(float((query - answer).norm()), 5),
        }
    return found


def wording_spread(run: Run, *, wordings: int = 6) -> dict[str, dict[str, float]]:
    """Return how much each stream's R@10 depends on the words for one and the same meaning.

    Parameters
    ----------
    run : trained, on SynthFashion.
    wordings : of each evaluation query.

    Returns
    -------
    By stream what `retrieval.spread` says.
    """
    dataset: SynthFashion = run.evaluation.dataset  # type: ignore[assignment]
    ranks: dict[str, list[Int[Tensor, " queries"]]] = {}
    for wording in dataset.paraphrases(wordings):
        for name, found in ranks_of(run.embedded(run.split_of(wording)), wording).items():
            ranks.setdefault(name, []).append(found)
    return {
        name: {key: round(value, 3) for key, value in spread(torch.stack(found))._asdict().items()}
        for name, found in ranks.items()
    }


def composition_gains(run: Run, groups: Mapping[str, Int[np.ndarray, " members"]]) -> dict[str, Any]:
    """Return for each group of queries what `retrieval.composition_gain` says of the CLIP stream.

    Parameters
    ----------
    run : trained, of DWC's CLIP stream; there is nothing to return of a run without one.
    groups : by name, positions of evaluation queries.
    """
    if "clip" not in run.model.streams:
        return {}
    stream, split = run.model["clip"], run.evaluation
    parts = compose_queries(stream, split.inputs["clip"], split.dataset)
    gallery = embed_gallery(stream, split.inputs["clip"], split.dataset)
    ranks = ranks_by_weight(parts, gallery, split.dataset)
    return {
        name: composition_gain({weight: found[members] for weight, found in ranks.items()})._asdict()
        for name, members in groups.items()
    }


def cut(text: str, share: float) -> str:
    """Return the first `share` of a text's words, one at least."""
    words = text.split()
    return " ".join(words[: max(1, round(share * len(words)))])


@torch.no_grad()
def _ask(
    run: Run,
    rows: Int[np.ndarray, " n"],
    pictures: UInt8[np.ndarray, "n h w 3"],
    texts: Sequence[str],
    galleries: dict[str, Embedded],
) -> dict[str, dict[str, float]]:
    dataset, device = run.evaluation.dataset, run.accelerator.device
    targets, references = (
        torch.from_numpy(dataset.gallery_position(images[rows]))
        for images in (dataset.targets, dataset.references)
    )
    found = {}
    for name, inputs in run.read(pictures, texts).items():
        stream = run.model[name].eval()
        composed = stream.compose(stream.encode(inputs.images.to(device)), inputs.texts.to(device))
        ranks = target_ranks(composed.query.cpu(), galleries[name].gallery, targets, exclude=references)
        found[name] = {"R@10": round(share_within(ranks, 10), 3)}
        if composed.modality_weight is not None:
            found[name]["weight"] = round(float(composed.modality_weight.mean()), 5)
    return found
