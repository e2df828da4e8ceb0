"""What a recall stands on, and what chooses between two checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dwclib.baselines import Concatenation, Sum
from dwclib.combiner import combine, normalise
from dwclib.data.synthfashion import synthfashion
from dwclib.data.triplets import Triplets
from dwclib.errors import DatasetError, FeatureError
from dwclib.retrieval import composition_gain
from dwclib.streams import ClipStream, Composition
from dwclib.training.embedding import Embedded
from dwclib.training.evaluation import (
    WEIGHTS,
    criterion,
    judged,
    ranks_by_weight,
    ranks_of,
    ranks_within,
    recalls_of,
    usable_ks,
)


def _toy(images: int = 30, ks: tuple[int, ...] = (10,)) -> Triplets:
    return Triplets(
        name="toy",
        image_ids=tuple(f"i{i}" for i in range(images)),
        identities=np.arange(images),
        references=np.array([0, 1]),
        targets=np.array([2, 3]),
        captions=(("is red",),) * 2,
        gallery=np.arange(images),
        ks=ks,
    )


def _with_ranks(*ranks: int) -> dict[str, Embedded]:
    """Embed so that the targets of `_toy` are found at these ranks: scores fall with an image's place."""
    scores = torch.zeros(2, 30)
    for row, rank in enumerate(ranks):
        others = [image for image in range(30) if image not in (row, row + 2)]
        order = [*others[: rank - 1], row + 2, *others[rank - 1 :]]
        scores[row, order] = torch.linspace(1, 0.1, 29)
    return {"clip": Embedded(scores / 10, 10 * torch.eye(30), None)}


def test_a_tie_of_recalls_is_broken_by_the_mean_reciprocal_rank():
    toy = _toy()
    near, far, worse = (criterion(_with_ranks(*ranks), toy) for ranks in ((2, 4), (3, 9), (1, 20)))
    assert ranks_of(_with_ranks(3, 9), toy)["clip"].tolist() == [3, 9]
    assert near == (100.0, pytest.approx((1 / 2 + 1 / 4) / 2))
    assert near > far > worse
    assert worse[0] == 50.0


def test_a_recall_above_one_counts_where_there_is_one():
    assert criterion(_with_ranks(2, 4), _toy(ks=(1, 3)))[0] == 50.0
    assert criterion(_with_ranks(2, 4), _toy(ks=(1, 50)))[0] == 0.0


def test_a_gallery_that_is_too_small_is_told():
    small = _toy(images=8, ks=(10, 50))
    embedded = {"clip": Embedded(torch.eye(2, 8), torch.eye(8), None)}
    for ask in (lambda: usable_ks(small), lambda: recalls_of(embedded, small)):
        with pytest.raises(DatasetError, match=r"a gallery of 8 images is too small for Recall@10"):
            ask()
    assert recalls_of(embedded, small, ks=(5, 10)).keys() == {"clip"}
    assert usable_ks(_toy(ks=(10, 50))) == (10,)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DWC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield synthfashion("val", images=64, queries=50, size=8, workers=1)


def _embedded(queries: torch.Tensor) -> dict[str, Embedded]:
    """Embed so that the scores are the queries' own numbers, one per gallery image."""
    return {"clip": Embedded(queries, torch.eye(queries.shape[1]), None)}


def test_who_answers_by_the_truth_is_judged_right(world):
    relevant = torch.from_numpy(world.relevant()).float()
    right = judged(_embedded(relevant), world)["clip"]
    assert (right["mAP@10"] == 100).all()  # the reference is accepted by vague texts, and never asked for
    excluded = torch.from_numpy(world.excluded()).clone()
    excluded[torch.arange(50), torch.from_numpy(world.references)] = False
    wrong, some = judged(_embedded(excluded.float()), world, k=1)["clip"], excluded.any(dim=1)
    assert wrong["wrong@1"].tolist() == (100.0 * some).tolist()
    assert not wrong["mAP@1"][some].any()


def test_the_judge_looks_at_the_answers_one_by_one(world):
    scores = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    found = judged(_embedded(scores), world, k=5)["clip"]
    for query, row in enumerate(scores):
        order = [i for i in row.argsort(descending=True).tolist() if i != world.references[query]]
        wrong = sum(bool(world.excluded()[query, image]) for image in order[:5])
        right = [bool(world.relevant()[query, image]) for image in order]
        gained = sum(sum(right[: i + 1]) / (i + 1) for i in range(5) if right[i])
        assert found["wrong@5"][query] == pytest.approx(100 * wrong / 5)
        assert found["mAP@5"][query] == pytest.approx(100 * gained / min(5, sum(right)))


def test_judging_leaves_the_truth_alone(world):
    before = world.relevant().copy()
    two = judged(
        {**_embedded(torch.rand(50, 64)), "cnn": Embedded(torch.rand(50, 8), torch.rand(64, 8), None)}, world
    )
    assert (world.relevant() == before).all()
    assert two.keys() == {"clip", "cnn", "both"}


def test_ranks_by_weight_go_from_the_text_alone_to_the_image_alone(world):
    generator = torch.Generator().manual_seed(0)
    image, text, gallery = (torch.randn(n, 16, generator=generator) for n in (50, 50, 64))
    found = ranks_by_weight(Composition(image, None, 3 * image, text), normalise(gallery), world)
    assert tuple(found) == WEIGHTS == tuple(np.linspace(0, 1, 11).round(1))
    for weight, queries in (
        (0.0, text),
        (1.0, image),
        (0.3, combine(3 * image, text, torch.full((50, 1), 0.3))),
    ):
        expected = ranks_of({"clip": Embedded(normalise(queries), normalise(gallery), None)}, world)["clip"]
        assert torch.equal(found[weight], expected)
    assert composition_gain(found).gain >= 0


def test_a_query_of_two_halves_is_found_by_the_mix_only(world):
    """Each modality alone prefers all others to the target; both together find it first."""
    targets = torch.from_numpy(world.targets)
    half = torch.nn.functional.one_hot(targets, 64).float()
    noise = torch.randn(50, 64, generator=torch.Generator().manual_seed(0)).sign() * (1 - half)
    composed = Composition(half, None, 0.1 * half + noise, 0.1 * half - noise)
    found = composition_gain(ranks_by_weight(composed, torch.eye(64), world), k=1)
    assert (found.weight, found.mixed, found.single) == (0.5, 100.0, 0.0)


def test_what_has_no_two_parts_cannot_be_weighed(world):
    for composer, works in (
        (Concatenation(8, dim=6), False),
        (Sum(8, dim=6), True),
        (ClipStream(8, dim=6), True),
    ):
        composed = composer.eval().compose(torch.rand(50, 8), torch.rand(50, 8))
        if works:
            assert len(ranks_by_weight(composed, torch.rand(64, 6), world, weights=(0.0, 1.0))) == 2
        else:
            with pytest.raises(FeatureError, match="there are no two parts to weigh"):
                ranks_by_weight(composed, torch.rand(64, 6), world)


def test_in_a_gallery_of_its_own_category_a_target_is_passed_by_no_other_category(world):
    scores = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    embedded = {**_embedded(scores), "cnn": Embedded(torch.rand(50, 8), torch.rand(64, 8), None)}
    category = world.codes[:, 0]
    assert len(set(category)) == 3
    merged, own = ranks_of(embedded, world), ranks_within(embedded, world, category)
    assert own.keys() == merged.keys() == {"clip", "cnn", "both"}
    assert all((own[name] <= merged[name]).all() for name in own)
    for query, (reference, target) in enumerate(zip(world.references, world.targets, strict=True)):
        rivals = [i for i in range(64) if category[i] == category[target] and i != reference]
        ahead = sum(bool(scores[query, i] > scores[query, target]) for i in rivals)
        assert own["clip"][query] == 1 + ahead
    whole = ranks_within(embedded, world, np.zeros(64, dtype=int))
    assert all(torch.equal(whole[name], merged[name]) for name in merged)
