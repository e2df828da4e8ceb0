"""Evaluation of one or two streams: ranks, recalls, and what chooses a checkpoint (notebooks 08 and 10)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dwclib.combiner import combine
from dwclib.data.synthfashion import SynthFashion
from dwclib.data.triplets import Triplets, subset
from dwclib.errors import DatasetError, FeatureError
from dwclib.retrieval import (
    average_precision_at_k,
    first_hit_ranks,
    rank,
    share_in_top_k,
    share_within,
    subset_ranks,
    target_ranks,
)
from dwclib.streams import DWC, Composition
from dwclib.training.embedding import Embedded

SUBSET_KS = (1, 2, 3)  # CIRR's
WEIGHTS = tuple(tenth / 10 for tenth in range(11))


def ranks_of(
    embedded: Mapping[str, Embedded], dataset: Triplets, *, exclude_reference: bool | None = None
) -> dict[str, Int[Tensor, " queries"]]:
    """Return the rank of each query's first hit, 1 for the best, for each stream, and for "both" of two.

    Parameters
    ----------
    embedded : by stream, as `Run.embedded` gives it.
    dataset : whose queries and gallery these are; it says what a hit is.
    exclude_reference : keep the reference image out of the ranking; as the dataset says, by default.
    """
    excluded = dataset.exclude_reference if exclude_reference is None else exclude_reference
    references = torch.from_numpy(dataset.gallery_position(dataset.references))
    exclude = references if excluded else None
    if dataset.hit == "identity":
        of_query, of_gallery = (
            torch.from_numpy(dataset.identities[images]) for images in (dataset.targets, dataset.gallery)
        )
        return {
            name: first_hit_ranks(q, g, of_query, of_gallery, exclude=exclude)
            for name, (q, g) in _together(embedded).items()
        }
    targets = torch.from_numpy(dataset.gallery_position(dataset.targets))
    return {
        name: target_ranks(q, g, targets, exclude=exclude) for name, (q, g) in _together(embedded).items()
    }


def ranks_within(
    embedded: Mapping[str, Embedded], dataset: Triplets, groups: Int[np.ndarray, " images"]
) -> dict[str, Int[Tensor, " queries"]]:
    """Return the ranks where each query searches only the gallery images of its target's group.

    Parameters
    ----------
    embedded, dataset : as `ranks_of` takes them.
    groups : (images,), such as each image's category: with one gallery a category, as FashionIQ has, no
        image of another is ever an answer. In the merged gallery, that of `ranks_of`, it may be.
    """
    found: dict[str, Tensor] = {}
    for group in np.unique(groups[dataset.targets]):
        rows = np.flatnonzero(groups[dataset.targets] == group)
        shown = np.flatnonzero(groups[dataset.gallery] == group)
        part = replace(subset(dataset, rows), gallery=dataset.gallery[shown])
        inside = {
            name: Embedded(whole.queries[rows], whole.gallery[shown], None)
            for name, whole in embedded.items()
        }
        for name, ranks in ranks_of(inside, part).items():
            found.setdefault(name, torch.empty(len(dataset), dtype=torch.int64))[rows] = ranks
    return found


def recalls_of(
    embedded: Mapping[str, Embedded],
    dataset: Triplets,
    *,
    ks: tuple[int, ...] | None = None,
    exclude_reference: bool | None = None,
) -> dict[str, dict[int, float]]:
    """Return Recall@K, in per cent, of each stream's embeddings, and of "both" where there are two.

    Parameters
    ----------
    embedded, dataset, exclude_reference : as `ranks_of` takes them.
    ks : which K; those usual for the dataset by default. A K that is no less than the gallery is left out.

    Raises
    ------
    DatasetError
        When the gallery is too small for all of them.

    A dataset with `members` has a second recall, of "clip, subset" and so on, placed before the others.
    """
    found, usable = {}, usable_ks(dataset, ks)
    if dataset.members is not None:
        targets, members = map(dataset.gallery_position, (dataset.targets, dataset.members))
        members = np.where(dataset.members < 0, -1, members)
        for name, (queries, gallery) in _together(embedded).items():
            ranks = subset_ranks(queries, gallery, torch.from_numpy(targets), torch.from_numpy(members))
            found[f"{name}, subset"] = {k: share_within(ranks, k) for k in SUBSET_KS}
    for name, ranks in ranks_of(embedded, dataset, exclude_reference=exclude_reference).items():
        found[name] = {k: share_within(ranks, k) for k in usable}
    return found


def judged(
    embedded: Mapping[str, Embedded], dataset: SynthFashion, *, k: int = 10
) -> dict[str, dict[str, Float[Tensor, " queries"]]]:
    """Return what the truth says of the first K answers, for each stream, and for "both" of two.

    Parameters
    ----------
    embedded : by stream, as `Run.embedded` gives it.
    dataset : whose queries and gallery these are. The reference is not ranked, so it is not asked for.
    k : K.

    Returns
    -------
    By stream, for each query and in per cent, "mAP@10", for K = 10: AP@K over all relevant images; and
    "wrong@10": the share of the first K that the text excludes.
    """
    references = torch.from_numpy(dataset.gallery_position(dataset.references))
    relevant, excluded = torch.from_numpy(dataset.relevant()).clone(), torch.from_numpy(dataset.excluded())
    inside = references >= 0
    relevant[inside, references[inside]] = False
    found = {}
    for name, (queries, gallery) in _together(embedded).items():
        ranking = rank(queries, gallery, k=k, exclude=references)
        precision = average_precision_at_k(ranking, relevant, k=k)
        found[name] = {f"mAP@{k}": precision, f"wrong@{k}": share_in_top_k(ranking, excluded, k=k)}
    return found


@torch.no_grad()
def ranks_by_weight(
    composition: Composition,
    gallery: Float[Tensor, "gallery dim"],
    dataset: Triplets,
    *,
    weights: tuple[float, ...] = WEIGHTS,
) -> dict[float, Int[Tensor, " queries"]]:
    """Return the ranks of ``q = n(lam v' + (1 - lam) t')``, one lam for all queries, by lam.

    Parameters
    ----------
    composition : of all queries of the dataset, from `compose_queries`.
    gallery : (gallery, dim), from `embed_gallery`.
    dataset : whose queries and gallery these are.
    weights : each lam, 1 for the image alone.

    Raises
    ------
    FeatureError
        When the composer mixes no edited image with an edited text.
    """
    image, text = composition.edited_image, composition.edited_text
    if image is None or text is None:
        remedy = "Use a stream, the sum, or CLIP4Cir's combiner."
        raise FeatureError("there are no two parts to weigh", where="composition", remedy=remedy)
    found = {}
    for weight in weights:
        queries = combine(image, text, torch.full_like(image[:, :1], weight))
        found[weight] = ranks_of({"": Embedded(queries, gallery, None)}, dataset)[""]
    return found


def usable_ks(dataset: Triplets, ks: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """Return which K are less than a dataset's gallery; of those usual for it, by default.

    Raises
    ------
    DatasetError
        When none is.
    """
    wanted = ks or dataset.ks
    usable = tuple(k for k in wanted if k < len(dataset.gallery))
    if not usable:
        raise DatasetError(
            f"a gallery of {len(dataset.gallery)} images is too small for Recall@{min(wanted)}",
            where=dataset.name,
            remedy="Use more images; a larger training.validation_share, if it is the gallery of validation.",
        )
    return usable


def criterion(embedded: Mapping[str, Embedded], dataset: Triplets) -> tuple[float, float]:
    """Return by what a checkpoint is chosen: the higher, the better; the second number breaks a tie.

    Returns
    -------
    The mean Recall@K of the last stream (of both together, where there are two) over all K but 1, and its
    mean reciprocal rank, which tells apart what the recalls of a few hundred queries do not.
    """
    ranks = list(ranks_of(embedded, dataset).values())[-1]
    usable = usable_ks(dataset)
    recalls = [share_within(ranks, k) for k in usable if k > 1] or [share_within(ranks, k) for k in usable]
    return float(np.mean(recalls)), float((1 / ranks.double()).mean())


def _together(embedded: Mapping[str, Embedded]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return queries and gallery by stream; of two streams also "both", whose scores are the sums."""
    found = {name: (part.queries, part.gallery) for name, part in embedded.items()}
    if len(found) > 1:
        queries = DWC.joined({name: part.queries for name, part in embedded.items()})
        found["both"] = (queries, DWC.joined({name: part.gallery for name, part in embedded.items()}))
    return found
