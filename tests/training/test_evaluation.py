"""What a recall stands on, and what chooses between two checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dwclib.data.triplets import Triplets
from dwclib.errors import DatasetError
from dwclib.training.embedding import Embedded
from dwclib.training.evaluation import criterion, ranks_of, recalls_of, usable_ks


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
