"""Ranking and Recall@K against a full stable sort and plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dwclib.combiner import normalise
from dwclib.errors import DatasetError, FeatureError
from dwclib.retrieval import (
    average_precision_at_k,
    composition_gain,
    exact_search,
    first_hit_ranks,
    hits,
    rank,
    recall_at_k,
    scores,
    share_in_top_k,
    spread,
    target_ranks,
)

seeds = st.integers(0, 9999)


def _integers(seed: int, rows: int, dim: int = 3) -> Tensor:
    """Small whole numbers: scores are exact, and many are equal."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-2, 3, (rows, dim), generator=generator).float()


def _exclude(seed: int, queries: int, gallery: int) -> Tensor:
    return torch.randint(-1, gallery, (queries,), generator=torch.Generator().manual_seed(seed))


def _sorted_by_hand(queries: Tensor, gallery: Tensor, exclude: Tensor) -> list[list[int]]:
    """Rank the whole gallery with Python's own stable sort."""
    table = queries.double().numpy() @ gallery.double().numpy().T
    orders = [sorted(range(len(gallery)), key=lambda j, row=row: -row[j]) for row in table]
    return [[j for j in order if j != e] for order, e in zip(orders, exclude.tolist(), strict=True)]


def test_scores_are_dot_products() -> None:
    queries, gallery = _integers(0, 4), _integers(1, 5)
    expected = [[sum(a * b for a, b in zip(q, y, strict=True)) for y in gallery] for q in queries]
    assert torch.equal(scores(queries, gallery), torch.tensor(expected))


@settings(max_examples=60, deadline=None)
@given(seed=seeds, queries=st.integers(1, 9), gallery=st.integers(2, 40), k=st.integers(1, 40))
def test_rank_equals_a_full_stable_sort_with_ties_and_exclusion(
    seed: int, queries: int, gallery: int, k: int
) -> None:
    k = min(k, gallery - 1)
    q, g, exclude = _integers(seed, queries), _integers(seed + 1, gallery), _exclude(seed, queries, gallery)
    ranking = rank(q, g, k=k, exclude=exclude)
    assert ranking.tolist() == [order[:k] for order in _sorted_by_hand(q, g, exclude)]
    assert not (ranking == exclude[:, None]).any()


@settings(max_examples=20, deadline=None)
@given(seed=seeds, block=st.integers(1, 12))
def test_the_block_size_changes_nothing(seed: int, block: int) -> None:
    q, g, exclude = _integers(seed, 10), _integers(seed + 1, 15), _exclude(seed, 10, 15)
    targets = (exclude + 1) % 15
    assert torch.equal(rank(q, g, k=7, exclude=exclude, block=block), rank(q, g, k=7, exclude=exclude))
    ranks = target_ranks(q, g, targets, exclude=exclude, block=block)
    assert torch.equal(ranks, target_ranks(q, g, targets, exclude=exclude))


@settings(max_examples=30, deadline=None)
@given(seed=seeds)
def test_a_permuted_gallery_has_a_permuted_ranking(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, g = torch.randn(6, 8, generator=generator), torch.randn(20, 8, generator=generator)
    order = torch.randperm(20, generator=generator)
    place = torch.argsort(order)
    exclude = _exclude(seed, 6, 20)
    moved = torch.where(exclude >= 0, place[exclude], -1)
    ranking = rank(q, g[order], k=9, exclude=moved)
    assert torch.equal(order[ranking], rank(q, g, k=9, exclude=exclude))


def test_all_equal_scores_are_ranked_by_position() -> None:
    ranking = rank(torch.ones(2, 3), torch.ones(6, 3), k=4, exclude=torch.tensor([1, -1]))
    assert ranking.tolist() == [[0, 2, 3, 4], [0, 1, 2, 3]]


def test_rank_works_on_features_that_are_still_being_trained() -> None:
    q, g = _integers(0, 3).requires_grad_(), _integers(1, 8).requires_grad_()
    exclude = torch.tensor([0, 1, -1])
    assert torch.equal(rank(q, g, k=3, exclude=exclude), rank(q.detach(), g.detach(), k=3, exclude=exclude))


def test_rank_leaves_its_inputs_alone() -> None:
    q, g, exclude = _integers(0, 3), _integers(1, 8), torch.tensor([0, 1, -1])
    copies = q.clone(), g.clone(), exclude.clone()
    rank(q, g, k=3, exclude=exclude)
    assert all(torch.equal(a, b) for a, b in zip((q, g, exclude), copies, strict=True))


def test_half_precision_and_double_rank_alike() -> None:
    q, g = _integers(0, 5), _integers(1, 12)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert torch.equal(rank(q.to(dtype), g.to(dtype), k=6), rank(q, g, k=6))


def test_no_query_has_an_empty_ranking() -> None:
    assert rank(torch.ones(0, 3), torch.ones(5, 3), k=2).shape == (0, 2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_ranks_alike() -> None:
    q, g, exclude = _integers(0, 30), _integers(1, 50), _exclude(2, 30, 50)
    ranking = rank(q.cuda(), g.cuda(), k=20, exclude=exclude)
    assert ranking.is_cuda
    assert torch.equal(ranking.cpu(), rank(q, g, k=20, exclude=exclude))
    targets = (exclude + 1) % 50
    ranks = target_ranks(q.cuda(), g.cuda(), targets, exclude=exclude)
    assert torch.equal(ranks.cpu(), target_ranks(q, g, targets, exclude=exclude))
    assert recall_at_k(ranking, targets, ks=(1, 5)) == recall_at_k(ranking.cpu(), targets, ks=(1, 5))


@settings(max_examples=30, deadline=None)
@given(seed=seeds)
def test_target_ranks_are_places_in_the_full_ranking(seed: int) -> None:
    q, g, exclude = _integers(seed, 7), _integers(seed + 1, 15), _exclude(seed, 7, 15)
    targets = (exclude + 1 + seed % 14) % 15
    targets = torch.where(targets == exclude, (targets + 1) % 15, targets)
    orders = _sorted_by_hand(q, g, exclude)
    expected = [order.index(t) + 1 for order, t in zip(orders, targets.tolist(), strict=True)]
    assert target_ranks(q, g, targets, exclude=exclude).tolist() == expected


@settings(max_examples=30, deadline=None)
@given(seed=seeds)
def test_recall_equals_a_loop_and_the_target_ranks(seed: int) -> None:
    q, g = _integers(seed, 9), _integers(seed + 1, 15)
    targets = torch.randint(0, 15, (9,), generator=torch.Generator().manual_seed(seed))
    recall = recall_at_k(rank(q, g, k=10), targets, ks=(1, 5, 10))
    orders = _sorted_by_hand(q, g, torch.full((9,), -1))
    ranks = target_ranks(q, g, targets)
    for k in (1, 5, 10):
        found = sum(t in order[:k] for order, t in zip(orders, targets.tolist(), strict=True))
        assert recall[k] == pytest.approx(100 * found / 9)
        assert recall[k] == pytest.approx(100 * (ranks <= k).double().mean().item())


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_recall_grows_with_k_up_to_a_hundred(seed: int) -> None:
    q, g = _integers(seed, 9), _integers(seed + 1, 15)
    targets = torch.randint(0, 15, (9,), generator=torch.Generator().manual_seed(seed))
    recall = list(recall_at_k(rank(q, g, k=15), targets, ks=range(1, 16)).values())
    assert recall == sorted(recall)
    assert recall[-1] == 100


def test_a_perfect_query_gets_a_hundred_and_a_reversed_one_nothing() -> None:
    gallery = normalise(torch.randn(60, 16, generator=torch.Generator().manual_seed(0)))
    targets = torch.arange(60).flip(0)
    perfect = recall_at_k(rank(gallery[targets], gallery, k=50), targets)
    assert perfect == {1: 100.0, 5: 100.0, 10: 100.0, 50: 100.0}
    assert recall_at_k(rank(-gallery[targets], gallery, k=50), targets)[50] == 0


def test_hits_by_position_mask_and_identity_agree() -> None:
    ranking = torch.tensor([[2, 0, 1], [1, 3, 2]])
    labels = torch.tensor([5, 5, 8, 9])
    assert hits(ranking, torch.tensor([0, 0])).tolist() == [[False, True, False], [False, False, False]]
    by_identity = hits(labels[ranking], torch.tensor([5, 9]))
    assert by_identity.tolist() == [[False, True, True], [False, True, False]]
    mask = labels[None, :] == torch.tensor([5, 9])[:, None]
    assert torch.equal(hits(ranking, mask), by_identity)


def test_several_right_answers_count_once() -> None:
    ranking = torch.tensor([[2, 0, 1], [1, 3, 2], [3, 2, 1]])
    mask = torch.tensor(
        [[True, True, False, False], [False, False, False, True], [True, False, False, False]]
    )
    recall = recall_at_k(ranking, mask, ks=(1, 2, 3))
    assert recall == {1: 0.0, 2: pytest.approx(200 / 3), 3: pytest.approx(200 / 3)}


def test_one_relevant_position_equals_a_mask_with_one_true() -> None:
    q, g, targets = _integers(0, 5), _integers(1, 12), torch.tensor([0, 3, 11, 7, 7])
    mask = torch.nn.functional.one_hot(targets, 12).bool()
    ranking = rank(q, g, k=6)
    assert torch.equal(hits(ranking, mask), hits(ranking, targets))
    np.testing.assert_array_equal(hits(ranking, targets).sum(dim=1) <= 1, True)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["queries", "gallery"])
def test_a_feature_that_is_no_number_names_its_first_row(bad: float, where: str) -> None:
    features = {"queries": torch.ones(4, 3), "gallery": torch.ones(6, 3)}
    features[where][2, 1] = features[where][3, 0] = bad
    targets = torch.zeros(4, dtype=torch.int64)
    for call in (
        lambda: scores(**features),
        lambda: rank(**features, k=2),
        lambda: target_ranks(**features, targets=targets),
    ):
        with pytest.raises(FeatureError, match=f"{where}, row 2: a feature is NaN or infinite"):
            call()


def test_features_of_different_width_are_refused() -> None:
    queries, gallery, targets = torch.ones(4, 3), torch.ones(6, 5), torch.zeros(4, dtype=torch.int64)
    for call in (
        lambda: scores(queries, gallery),
        lambda: rank(queries, gallery, k=2),
        lambda: target_ranks(queries, gallery, targets),
    ):
        with pytest.raises(FeatureError, match="queries have 3 features and gallery images 5"):
            call()


@pytest.mark.parametrize(("k", "exclude", "available"), [(7, -1, 6), (6, 0, 5), (0, -1, 6), (-1, -1, 6)])
def test_k_must_fit_the_gallery(k: int, exclude: int, available: int) -> None:
    q, g = torch.ones(2, 3), torch.ones(6, 3)
    with pytest.raises(FeatureError, match=f"{k} images are asked for and {available} can be ranked"):
        rank(q, g, k=k, exclude=torch.tensor([-1, exclude]))


def test_k_may_be_the_whole_gallery() -> None:
    assert rank(torch.ones(1, 3), torch.ones(6, 3), k=6).tolist() == [[0, 1, 2, 3, 4, 5]]
    assert rank(torch.ones(1, 3), torch.ones(6, 3), k=5, exclude=torch.tensor([5])).tolist() == [
        [0, 1, 2, 3, 4]
    ]


@pytest.mark.parametrize("k", [0, 4])
def test_recall_beyond_the_ranking_is_refused(k: int) -> None:
    with pytest.raises(FeatureError, match="3 can be ranked"):
        recall_at_k(torch.tensor([[0, 1, 2]]), torch.tensor([1]), ks=(1, k))


@pytest.mark.parametrize("position", [-1, 6])
def test_a_target_outside_the_gallery_is_refused(position: int) -> None:
    with pytest.raises(DatasetError, match=f"query 1: the target's position {position} is outside"):
        target_ranks(torch.ones(2, 3), torch.ones(6, 3), torch.tensor([0, position]))


def test_hits_refuse_the_position_of_a_missing_target() -> None:
    with pytest.raises(DatasetError, match="query 1: the target's position -1 is outside the gallery"):
        recall_at_k(torch.tensor([[0], [1]]), torch.tensor([0, -1]), ks=(1,))


@pytest.mark.parametrize("position", [-2, 6])
def test_an_excluded_position_outside_the_gallery_is_refused(position: int) -> None:
    with pytest.raises(DatasetError, match="query 1: the excluded reference image's position"):
        rank(torch.ones(2, 3), torch.ones(6, 3), k=1, exclude=torch.tensor([0, position]))


def test_a_target_that_is_excluded_is_refused() -> None:
    with pytest.raises(DatasetError, match="query 1: the target is the excluded reference"):
        target_ranks(torch.ones(2, 3), torch.ones(6, 3), torch.tensor([0, 3]), exclude=torch.tensor([-1, 3]))


def test_counts_that_differ_are_refused() -> None:
    q, g, one = torch.ones(2, 3), torch.ones(6, 3), torch.tensor([0])
    ranking = torch.tensor([[0], [1]])
    for call in (
        lambda: rank(q, g, k=1, exclude=one),
        lambda: target_ranks(q, g, one),
        lambda: hits(ranking, one),
        lambda: hits(ranking, torch.ones(1, 6, dtype=torch.bool)),
    ):
        with pytest.raises(FeatureError, match="for 2 queries"):
            call()


def test_recall_over_no_query_is_refused() -> None:
    with pytest.raises(DatasetError, match="there is no query"):
        recall_at_k(torch.ones(0, 3, dtype=torch.int64), torch.ones(0, dtype=torch.int64), ks=(1,))


def test_all_equal_scores_leave_the_order_of_the_gallery_everywhere() -> None:
    queries, gallery, places = torch.ones(6, 3), torch.ones(6, 3), torch.arange(6)
    assert target_ranks(queries, gallery, places).tolist() == [1, 2, 3, 4, 5, 6]
    assert first_hit_ranks(queries, gallery, places, places).tolist() == [1, 2, 3, 4, 5, 6]
    found, best = exact_search(queries, gallery.numpy(), k=6, block=2)
    assert torch.equal(found, rank(queries, gallery, k=6))
    assert found[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert (best == 3).all()


def _relevant(seed: int, queries: int, gallery: int) -> Tensor:
    """Mark some images, one at least for each query."""
    mask = torch.rand(queries, gallery, generator=torch.Generator().manual_seed(seed)) < 0.3
    mask[torch.arange(queries), torch.arange(queries) % gallery] = True
    return mask


@settings(max_examples=40, deadline=None)
@given(seed=seeds, k=st.integers(1, 12))
def test_average_precision_equals_its_sum_written_out(seed: int, k: int) -> None:
    ranking, relevant = rank(_integers(seed, 5), _integers(seed + 1, 12), k=12), _relevant(seed, 5, 12)
    found = average_precision_at_k(ranking, relevant, k=k)
    for query, answers in enumerate(ranking.tolist()):
        right = set(relevant[query].nonzero().squeeze(1).tolist())
        total = 0.0
        for place in range(1, k + 1):
            if answers[place - 1] in right:
                total += len(right & set(answers[:place])) / place
        assert found[query] == pytest.approx(100 * total / min(k, len(right)))


@pytest.mark.parametrize(
    ("marks", "k", "expected"),
    [("1100", 4, 100), ("0011", 4, 100 * (1 / 3 + 2 / 4) / 2), ("1010", 4, 100 * (1 + 2 / 3) / 2),
     ("1111", 2, 100), ("0111", 1, 0), ("0001", 4, 25)],
)  # fmt: skip
def test_average_precision_of_rankings_that_are_counted_by_hand(marks: str, k: int, expected: float) -> None:
    relevant = torch.tensor([[mark == "1" for mark in marks]])
    assert average_precision_at_k(torch.arange(4)[None], relevant, k=k).tolist() == pytest.approx([expected])


def test_average_precision_of_one_right_answer_is_the_reciprocal_of_its_rank() -> None:
    q, g, targets = _integers(0, 5), _integers(1, 12), torch.tensor([0, 3, 11, 7, 7])
    mask = torch.nn.functional.one_hot(targets, 12).bool()
    expected = 100 / target_ranks(q, g, targets)
    torch.testing.assert_close(
        average_precision_at_k(rank(q, g, k=12), mask, k=12), expected, check_dtype=False
    )


def test_average_precision_needs_something_that_is_right() -> None:
    ranking, relevant = torch.tensor([[0, 1], [1, 0]]), torch.tensor([[True, False], [False, False]])
    with pytest.raises(DatasetError, match="query 1: no image is right"):
        average_precision_at_k(ranking, relevant, k=2)


def test_the_share_of_the_first_answers_that_is_marked() -> None:
    ranking = torch.tensor([[2, 0, 1, 3], [1, 3, 2, 0]])
    marked = torch.tensor([[True, False, True, False], [False, False, False, True]])
    assert share_in_top_k(ranking, marked, k=2).tolist() == [100, 50]
    assert share_in_top_k(ranking, marked, k=4).tolist() == [50, 25]
    assert share_in_top_k(ranking, torch.zeros_like(marked), k=3).tolist() == [0, 0]


@pytest.mark.parametrize("measure", [average_precision_at_k, share_in_top_k])
def test_measures_of_a_mask_refuse_a_short_ranking_and_other_queries(measure: Any) -> None:
    ranking, mask = torch.tensor([[0, 1]]), torch.ones(1, 3, dtype=torch.bool)
    for k in (0, 3):
        with pytest.raises(FeatureError, match=f"{k} images are asked for and 2 can be ranked"):
            measure(ranking, mask, k=k)
    with pytest.raises(FeatureError, match="2 right answers for 1 queries"):
        measure(ranking, mask.expand(2, 3), k=1)


def test_the_spread_tells_a_steady_recall_from_steady_answers() -> None:
    same = spread(torch.tensor([[1, 5, 30, 40]] * 3))
    assert same == (50.0, 0.0, 0.0)
    traded = spread(torch.tensor([[1, 5, 30, 40], [30, 40, 1, 5]]))
    assert traded == (50.0, 0.0, 100.0)  # each wording finds two of four, never the same two
    ranks = torch.tensor([[1, 11, 11, 11], [1, 10, 11, 11], [1, 10, 10, 11]])
    assert spread(ranks) == (50.0, 25.0, 50.0)
    assert spread(ranks, k=11) == (100.0, 0.0, 0.0)


def test_one_wording_and_no_query_have_no_spread() -> None:
    with pytest.raises(DatasetError, match="one wording has no spread"):
        spread(torch.ones(1, 4, dtype=torch.int64))
    with pytest.raises(DatasetError, match="there is no query"):
        spread(torch.ones(2, 0, dtype=torch.int64))


def test_composition_gains_what_one_weight_finds_beyond_the_better_modality() -> None:
    text, image = torch.tensor([1, 50, 50, 50]), torch.tensor([50, 1, 2, 50])
    mixed = torch.tensor([1, 1, 2, 50])
    found = composition_gain({0.0: text, 0.25: image, 0.5: mixed, 0.75: mixed, 1.0: image})
    assert found == (0.5, 75.0, 50.0)
    assert found.gain == 25.0
    alone = composition_gain({0: text, 0.5: text, 1: image})
    assert (alone.weight, alone.gain) == (1, 0.0)


@pytest.mark.parametrize("weights", [(0.5, 1.0), (0.0, 0.5), ()])
def test_composition_gain_needs_both_modalities_alone(weights: tuple[float, ...]) -> None:
    with pytest.raises(DatasetError, match="Give the ranks of 0, the text alone, and of 1"):
        composition_gain(dict.fromkeys(weights, torch.tensor([1])))


def test_no_query_has_no_composition_gain() -> None:
    with pytest.raises(DatasetError, match="there is no query"):
        composition_gain(dict.fromkeys((0.0, 1.0), torch.ones(0, dtype=torch.int64)))
