"""Retrieval: score, rank, and count how often a right image is near the top (notebook 01).

Positions are places in the gallery, from 0. Equal scores are ranked by position, so every ranking is the one
that a full stable sort gives. In the types, ``" _queries"`` is a length that the function checks itself, by
an error that says what to do; the tests check the others.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dwclib.errors import DatasetError, FeatureError


def scores(
    queries: Float[Tensor, "queries dim"], gallery: Float[Tensor, "gallery _dim"]
) -> Float[Tensor, "queries gallery"]:
    """Score every gallery image for every query, ``q_i . y_j``: the cosine, where rows have length one.

    Parameters
    ----------
    queries : (queries, dim).
    gallery : (gallery, dim), on the same device.

    Raises
    ------
    FeatureError
        When the widths differ, or a feature is NaN or infinite.
    """
    _check_features(queries, gallery)
    return queries @ gallery.T  # (Q, D), (G, D) -> (Q, G)


def rank(
    queries: Float[Tensor, "queries dim"],
    gallery: Float[Tensor, "gallery _dim"],
    *,
    k: int,
    exclude: Int[Tensor, " _queries"] | None = None,
    block: int = 1024,
) -> Int[Tensor, "queries {k}"]:
    """Return the positions of each query's `k` best gallery images, best first.

    Parameters
    ----------
    queries : (queries, dim).
    gallery : (gallery, dim), on the same device.
    k : how many to return.
    exclude : (queries,), a position that is never returned, the reference image's; -1 for none.
    block : queries scored at a time; memory grows with block x gallery, not with queries x gallery.

    Raises
    ------
    FeatureError
        When widths or counts differ, a feature is NaN or infinite, or fewer than `k` images can be returned.
    DatasetError
        When an excluded position is outside the gallery.
    """
    exclude = _check_exclude(exclude, queries, gallery)
    _check_features(queries, gallery)
    _check_k(k, len(gallery) - int((exclude >= 0).any()))
    return torch.cat([_top_k(s, k) for s in _score_blocks(queries, gallery, exclude, block)])


def exact_search(
    queries: Float[Tensor, "queries dim"],
    gallery: Float[np.ndarray, "gallery _dim"],
    *,
    k: int,
    block: int = 16_384,
) -> tuple[Int[Tensor, "queries {k}"], Float[Tensor, "queries {k}"]]:
    """Return positions and scores of each query's `k` best images, of a gallery that may exceed memory.

    Parameters
    ----------
    queries : (queries, dim), float32, on the CPU.
    gallery : (gallery, dim), float16 or float32; may be mapped from disk (``np.load(path, mmap_mode="r")``).
    k : how many to return, best first.
    block : gallery images scored at a time. Memory beside the gallery itself: 4 x block x (dim + 2 x queries)
        bytes, and 12 x queries x k for each of two answers; no more, however large the gallery.

    Raises
    ------
    FeatureError
        When the widths differ, a feature is NaN or infinite, or the gallery has fewer than `k` images.
    """
    _check_features(queries, queries.new_zeros(1, gallery.shape[1]))
    _check_k(k, len(gallery))
    best, places = queries.new_empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
    buffer = torch.empty(min(block, len(gallery)), gallery.shape[1])  # one for all: fresh memory is slow
    for first in range(0, len(gallery), block):
        rows = _filled(buffer, gallery[first : first + block])
        found = queries.detach() @ rows.T  # (Q, D), (b, D) -> (Q, b)
        if not found.sum().isfinite() and (row := _first(~found.isfinite().all(dim=0))) is not None:
            remedy = "Look for a corrupt image or a diverged training run, and make the features again."
            where = f"gallery, row {first + row}"
            raise FeatureError("a feature is NaN or infinite", where=where, remedy=remedy)
        own = _top_k(found, min(k, len(rows)))
        best = torch.cat([best, found.gather(1, own)], dim=1)  # earlier positions first: ties stay in order
        places = torch.cat([places, own + first], dim=1)
        kept = _top_k(best, min(k, best.shape[1]))
        best, places = best.gather(1, kept), places.gather(1, kept)
    return places, best


def target_ranks(
    queries: Float[Tensor, "queries dim"],
    gallery: Float[Tensor, "gallery _dim"],
    targets: Int[Tensor, " _queries"],
    *,
    exclude: Int[Tensor, " _queries"] | None = None,
    block: int = 1024,
) -> Int[Tensor, " queries"]:
    """Return the rank of each query's target in the whole gallery, 1 for the best.

    Parameters
    ----------
    queries : (queries, dim).
    gallery : (gallery, dim), on the same device.
    targets : (queries,), the target's position.
    exclude : (queries,), a position that is not ranked, the reference image's; -1 for none.
    block : queries scored at a time.

    Raises
    ------
    FeatureError
        When the widths or counts differ, or a feature is NaN or infinite.
    DatasetError
        When a target or an excluded position is outside the gallery, or a target is itself excluded.
    """
    exclude = _check_exclude(exclude, queries, gallery)
    targets = _check_targets(targets, exclude, queries, gallery)
    _check_features(queries, gallery)
    blocks = zip(_score_blocks(queries, gallery, exclude, block), targets.split(block), strict=True)
    return torch.cat([_ranks_of(s, t) for s, t in blocks])


def first_hit_ranks(
    queries: Float[Tensor, "queries dim"],
    gallery: Float[Tensor, "gallery _dim"],
    labels: Int[Tensor, " _queries"],
    gallery_labels: Int[Tensor, " _gallery"],
    *,
    exclude: Int[Tensor, " _queries"] | None = None,
    block: int = 1024,
) -> Int[Tensor, " queries"]:
    """Return the rank of each query's first right image, where every image with its label is right.

    Parameters
    ----------
    queries, gallery, exclude, block : as `target_ranks` takes them.
    labels, gallery_labels : one per query and per gallery image: a caption's number, a composition's number.

    Raises
    ------
    FeatureError
        When the widths or counts differ, or a feature is NaN or infinite.
    DatasetError
        When no image that can be ranked has a query's label.
    """
    exclude = _check_exclude(exclude, queries, gallery)
    _check_count("labels", labels, queries)
    _check_features(queries, gallery)
    gallery_labels = gallery_labels.to(gallery.device)
    found, first = [], 0
    for block_scores in _score_blocks(queries, gallery, exclude, block):
        rows = slice(first, first := first + len(block_scores))
        right = (labels[rows, None].to(gallery.device) == gallery_labels) & (block_scores > -torch.inf)
        if (row := _first(~right.any(dim=1))) is not None:
            problem = "no image that can be ranked has the label of the target"
            remedy = "Add one to the gallery, or drop the query."
            raise DatasetError(problem, where=f"query {rows.start + row}", remedy=remedy)
        best = block_scores.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)  # (b, G) -> (b, 1)
        position = ((block_scores == best) & right).to(torch.uint8).argmax(dim=1)  # the first of equals
        found.append(_ranks_of(block_scores, position))
    return torch.cat(found)


def subset_ranks(
    queries: Float[Tensor, "queries dim"],
    gallery: Float[Tensor, "gallery _dim"],
    targets: Int[Tensor, " _queries"],
    members: Int[Tensor, "_queries members"],
) -> Int[Tensor, " queries"]:
    """Return each target's rank among a few images of its own, 1 for the best (CIRR's Recall_subset).

    Parameters
    ----------
    queries, gallery, targets : as `target_ranks` takes them.
    members : (queries, members) positions in the gallery, the target's among them; -1 fills a short row.

    Raises
    ------
    FeatureError
        When the widths or counts differ, or a feature is NaN or infinite.
    DatasetError
        When a target is not among the members.
    """
    _check_count("subsets", members, queries)
    targets = _check_targets(targets, torch.full_like(targets, -1), queries, gallery)
    _check_features(queries, gallery)
    members = members.to(gallery.device)
    if (row := _first(~(members == targets[:, None]).any(dim=1))) is not None:
        remedy = "Look at the query's subset in the annotations."
        raise DatasetError("the target is not in its subset", where=f"query {row}", remedy=remedy)
    found = torch.einsum("qd,qmd->qm", queries, gallery[members.clamp(min=0)])  # (Q, D), (Q, M, D) -> (Q, M)
    found = found.masked_fill(members < 0, -torch.inf)
    own = found.masked_fill(members != targets[:, None], -torch.inf).amax(dim=1, keepdim=True)
    earlier = (found == own) & (members < targets[:, None])
    return 1 + ((found > own) | earlier).sum(dim=1)


def hits(
    ranking: Int[Tensor, "queries k"], relevant: Int[Tensor, " _queries"] | Bool[Tensor, "_queries gallery"]
) -> Bool[Tensor, "queries k"]:
    """Mark the right answers in a ranking.

    Parameters
    ----------
    ranking : (queries, k), from `rank`; or the identities at those positions, ``gallery_labels[ranking]``.
    relevant : (queries,), the one right position (or identity) of each query; or a mask (queries, gallery)
        of all that are right.

    Raises
    ------
    FeatureError
        When the counts of queries differ.
    DatasetError
        When a right position is negative: that target is not in the gallery.
    """
    _check_count("right answers", relevant, ranking)
    relevant = relevant.to(ranking.device)
    if relevant.dtype == torch.bool:
        return relevant.gather(1, ranking)  # (Q, G) -> (Q, k)
    if (row := _first(relevant < 0)) is not None:
        raise _outside("target", row, relevant)
    return ranking == relevant[:, None]  # (Q, k), (Q, 1) -> (Q, k)


def recall_at_k(
    ranking: Int[Tensor, "queries k"],
    relevant: Int[Tensor, " _queries"] | Bool[Tensor, "_queries gallery"],
    *,
    ks: Sequence[int] = (1, 5, 10, 50),
) -> dict[int, float]:
    """Return Recall@K for each K in `ks`: per cent of queries with a right answer among their first K.

    Parameters
    ----------
    ranking, relevant : as `hits` takes them.
    ks : the K to report, none longer than the ranking.

    Raises
    ------
    FeatureError
        When a K is below one or longer than the ranking, or the counts of queries differ.
    DatasetError
        When there is no query, or a target is not in the gallery.
    """
    _check_some(ranking)
    for k in ks:
        _check_k(k, ranking.shape[1])
    found = hits(ranking, relevant)
    return {k: 100 * int(found[:, :k].any(dim=1).sum()) / len(found) for k in ks}


def share_within(ranks: Int[Tensor, " queries"], k: int) -> float:
    """Return which per cent of the queries have a rank of at most `k`: Recall@K, once ranks are known.

    Raises
    ------
    DatasetError
        When there is no query.
    """
    _check_some(ranks)
    return 100 * int((ranks <= k).sum()) / len(ranks)


def average_precision_at_k(
    ranking: Int[Tensor, "queries _k"], relevant: Bool[Tensor, "_queries gallery"], *, k: int = 10
) -> Float[Tensor, " queries"]:
    """Return each query's AP@K, in per cent: how many of all right images come early; their mean is mAP@K.

    ``AP@K = 1 / min(K, R) sum_{i <= K} P@i rel(i)``: R images are right, ``rel(i)`` is 1 if the i-th answer
    is one of them, else 0, and ``P@i`` is the share of right ones among the first i.

    Parameters
    ----------
    ranking : (queries, K or more), from `rank`.
    relevant : (queries, gallery), all that are right. An image that is never returned, such as the reference,
        must not be among them: it would be missed in vain.
    k : K.

    Raises
    ------
    FeatureError
        When K is below one or longer than the ranking, or the counts of queries differ.
    DatasetError
        When no image is right for a query.

    Source: the measure of CIRCO (Baldrati et al., ICCV 2023).
    """
    _check_k(k, ranking.shape[1])
    found = hits(ranking[:, :k], relevant).double()  # (Q, K)
    if (row := _first(~relevant.any(dim=1))) is not None:
        remedy = "Mark one, or drop the query."
        raise DatasetError("no image is right", where=f"query {row}", remedy=remedy)
    precision = found.cumsum(dim=1) / torch.arange(1, k + 1, device=found.device)  # P@i, (Q, K)
    most = relevant.sum(dim=1).clamp(max=k).to(found.device)  # min(K, R), (Q,)
    return 100 * (precision * found).sum(dim=1) / most


def share_in_top_k(
    ranking: Int[Tensor, "queries _k"], marked: Bool[Tensor, "_queries gallery"], *, k: int = 10
) -> Float[Tensor, " queries"]:
    """Return which per cent of each query's first K answers are marked: of all that the text excludes, say.

    Parameters
    ----------
    ranking : (queries, K or more), from `rank`.
    marked : (queries, gallery).
    k : K.

    Raises
    ------
    FeatureError
        When K is below one or longer than the ranking, or the counts of queries differ.
    """
    _check_k(k, ranking.shape[1])
    return 100 * hits(ranking[:, :k], marked).double().mean(dim=1)


class Spread(NamedTuple):
    """How much the answers to a query depend on its wording.

    Fields
    ------
    recall : Recall@K, the mean over the wordings, in per cent.
    deviation : standard deviation of Recall@K over the wordings, in points. Small, where queries win and lose
        in equal numbers: the recall of a benchmark may be steady though its users' luck is not.
    undecided : per cent of the queries that are hits at K in some wordings and misses in others.
    """

    recall: float
    deviation: float
    undecided: float


def spread(ranks: Int[Tensor, "wordings queries"], *, k: int = 10) -> Spread:
    """Compare the hits at K of the same queries in several wordings that mean the same.

    Parameters
    ----------
    ranks : (wordings, queries), 1 for the best: of each wording, from `target_ranks`.
    k : K.

    Raises
    ------
    DatasetError
        When there are fewer than two wordings, or no query.
    """
    if len(ranks) < 2:
        problem, remedy = "one wording has no spread", "Give the ranks of two wordings, or more."
        raise DatasetError(problem, where="ranks", remedy=remedy)
    recalls = torch.tensor([share_within(own, k) for own in ranks], dtype=torch.float64)  # (W, Q) -> (W,)
    undecided = share_within(ranks.amin(dim=0), k) - share_within(ranks.amax(dim=0), k)
    return Spread(float(recalls.mean()), float(recalls.std()), undecided)


class CompositionGain(NamedTuple):
    """What mixing image and text finds beyond the better of the two.

    Fields
    ------
    weight : the fixed modality weight that finds most; the smallest of equals.
    mixed : its Recall@K, in per cent.
    single : Recall@K of the better modality alone, image or text.
    """

    weight: float
    mixed: float
    single: float

    @property
    def gain(self) -> float:
        """``max_lam R@K(lam) - max(R@K(0), R@K(1))``, in points, never negative: 0 and 1 are weights too."""
        return self.mixed - self.single


def composition_gain(ranks: Mapping[float, Int[Tensor, " queries"]], *, k: int = 10) -> CompositionGain:
    """Compare the best weight that is one and the same for all queries with image alone and text alone.

    Parameters
    ----------
    ranks : (queries,) by modality weight lam, from `target_ranks` of ``q = n(lam v' + (1 - lam) t')``; for
        some group of queries. The weight is chosen on these queries themselves, so the gain of a small group
        is flattered.
    k : K.

    Raises
    ------
    DatasetError
        When the weights 0, the text alone, and 1, the image alone, are not both there, or there is no query.
    """
    if not {0.0, 1.0} <= set(ranks):
        remedy = "Give the ranks of 0, the text alone, and of 1, the image alone, too."
        raise DatasetError(f"the weights are {sorted(ranks)}", where="ranks", remedy=remedy)
    recalls = {weight: share_within(ranks[weight], k) for weight in sorted(ranks)}
    best = max(recalls, key=recalls.__getitem__)
    return CompositionGain(best, recalls[best], max(recalls[0.0], recalls[1.0]))


def _filled(buffer: Tensor, rows: Float[np.ndarray, "rows dim"]) -> Float[Tensor, "rows dim"]:
    """Copy rows into the buffer as float32; torch converts float16 on all cores, NumPy on one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # mapped from disk
        return buffer[: len(rows)].copy_(torch.from_numpy(rows))


def _score_blocks(queries: Tensor, gallery: Tensor, exclude: Tensor, block: int) -> Iterator[Tensor]:
    """Yield the scores of `block` queries at a time, (block, gallery), with -inf at the excluded position."""
    for rows, excluded in zip(queries.detach().split(block), exclude.split(block), strict=True):
        block_scores = rows @ gallery.detach().T  # (b, D), (G, D) -> (b, G)
        some = torch.nonzero(excluded >= 0).squeeze(1)
        block_scores[some, excluded[some]] = -torch.inf
        yield block_scores


def _top_k(block_scores: Tensor, k: int) -> Tensor:
    """Return the first k of a stable descending sort, (b, gallery) -> (b, k); rows without ties are cheap."""
    best = block_scores.topk(k)  # (b, G) -> (b, k)
    positions = best.indices.sort(dim=1).values
    tied = (block_scores >= best.values[:, -1:]).sum(dim=1) > k  # topk had to choose among equals
    positions[tied] = block_scores[tied].sort(dim=1, descending=True, stable=True).indices[:, :k]
    order = block_scores.gather(1, positions).sort(dim=1, descending=True, stable=True).indices
    return positions.gather(1, order)


def _ranks_of(block_scores: Tensor, targets: Tensor) -> Tensor:
    """Return 1 + how many images come before the target: (b, gallery), (b,) -> (b,)."""
    target_scores = block_scores.gather(1, targets[:, None])  # (b, G) -> (b, 1)
    earlier = torch.arange(block_scores.shape[1], device=targets.device) < targets[:, None]  # (b, G)
    before = (block_scores > target_scores) | ((block_scores == target_scores) & earlier)
    return 1 + before.sum(dim=1)  # (b, G) -> (b,)


def _check_features(queries: Tensor, gallery: Tensor) -> None:
    """Raise FeatureError unless both have one width and only finite numbers."""
    if queries.shape[1] != gallery.shape[1]:
        widths = f"queries have {queries.shape[1]} features and gallery images {gallery.shape[1]}"
        raise FeatureError(widths, where="queries and gallery", remedy="Embed both with the same model.")
    for name, features in (("queries", queries), ("gallery", gallery)):
        if (row := _first(~features.isfinite().all(dim=1))) is not None:
            remedy = "Look for a corrupt image or a diverged training run, and make the features again."
            raise FeatureError("a feature is NaN or infinite", where=f"{name}, row {row}", remedy=remedy)


def _check_k(k: int, available: int) -> None:
    """Raise FeatureError unless 1 <= k <= available."""
    if not 1 <= k <= available:
        problem = f"{k} images are asked for and {available} can be ranked"
        raise FeatureError(problem, where="ranking", remedy=f"Choose K from 1 to {available}.")


def _check_some(queries: Tensor) -> None:
    """Raise DatasetError unless there is a query."""
    if len(queries) == 0:
        raise DatasetError("there is no query", where="ranking", remedy="Give at least one triplet.")


def _check_count(name: str, rows: Tensor, queries: Tensor) -> None:
    """Raise FeatureError unless there is one row for each query."""
    if len(rows) != len(queries):
        problem = f"there are {len(rows)} {name} for {len(queries)} queries"
        raise FeatureError(problem, where=name, remedy="Give one for each query, in the same order.")


def _check_exclude(exclude: Tensor | None, queries: Tensor, gallery: Tensor) -> Tensor:
    """Return the excluded positions, -1 for none, on the gallery's device; raise where one is outside it."""
    if exclude is None:
        return torch.full((len(queries),), -1, device=gallery.device)
    _check_count("excluded positions", exclude, queries)
    if (row := _first((exclude < -1) | (exclude >= len(gallery)))) is not None:
        raise _outside("excluded reference image", row, exclude)
    return exclude.to(gallery.device, torch.int64)


def _check_targets(targets: Tensor, exclude: Tensor, queries: Tensor, gallery: Tensor) -> Tensor:
    """Return the target positions on the gallery's device; raise where one is outside it, or excluded."""
    _check_count("targets", targets, queries)
    targets = targets.to(gallery.device, torch.int64)
    if (row := _first((targets < 0) | (targets >= len(gallery)))) is not None:
        raise _outside("target", row, targets)
    if (row := _first(targets == exclude)) is not None:
        remedy = "Drop the triplet: it asks for the image it starts from."
        raise DatasetError("the target is the excluded reference", where=f"query {row}", remedy=remedy)
    return targets


def _outside(name: str, row: int, positions: Tensor) -> DatasetError:
    """Build the error for a position that is not a place in the gallery."""
    problem = f"the {name}'s position {int(positions[row])} is outside the gallery"
    return DatasetError(
        problem, where=f"query {row}", remedy="Add the image to the gallery, or drop the query."
    )


def _first(wrong: Tensor) -> int | None:
    """Return the index of the first true element of a vector, or None."""
    return int(wrong.nonzero()[0]) if bool(wrong.any()) else None
