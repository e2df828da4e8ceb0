"""Embedding of a dataset's queries and gallery by one composer, and a search with them (notebook 03 on)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dwclib.data.triplets import Triplets
from dwclib.data.vocabulary import without_padding
from dwclib.encoders import Features
from dwclib.errors import FeatureError
from dwclib.retrieval import rank
from dwclib.streams import Composer, Composition


@torch.no_grad()
def compose_queries(
    composer: Composer, features: Features, dataset: Triplets, *, images: Tensor | None = None
) -> Composition:
    """Compose every query of a dataset, in eval mode, on the composer's device.

    Parameters
    ----------
    composer, features, dataset : as `train` takes them.
    images : (queries, clip_dim) features of other reference images, in place of the dataset's own.
    """
    composer.eval()
    device = next(composer.parameters()).device
    references = features.images[torch.from_numpy(dataset.references)] if images is None else images
    return composer.compose(references.to(device), features.texts.to(device))


@torch.no_grad()
def embed_gallery(composer: Composer, features: Features, dataset: Triplets) -> Float[Tensor, "gallery dim"]:
    """Embed every gallery image of a dataset, in eval mode, on the composer's device."""
    composer.eval()
    device = next(composer.parameters()).device
    return composer.embed_target(features.images[torch.from_numpy(dataset.gallery)].to(device))


class Embedded(NamedTuple):
    """All queries and gallery images of a dataset, embedded by one composer, on the CPU.

    Fields
    ------
    queries : (queries, dim).
    gallery : (gallery, dim).
    modality_weight : (queries,), the weight of the image in the mix; None where the composer has none.
    """

    queries: Float[Tensor, "queries dim"]
    gallery: Float[Tensor, "gallery dim"]
    modality_weight: Float[Tensor, " queries"] | None


@torch.no_grad()
def embed(composer: Composer, features: Features, dataset: Triplets, *, batch: int = 250) -> Embedded:
    """Embed a dataset in eval mode, on the composer's device. Each image is encoded once.

    Parameters
    ----------
    composer, features, dataset : as `train` takes them; of any stream.
    batch : images at a time. The queries that start from them are composed along with them.
    """
    check_match(features, dataset)
    composer.eval()
    device = next(composer.parameters()).device
    needed = torch.from_numpy(np.union1d(dataset.references, dataset.gallery))
    references = torch.searchsorted(needed, torch.from_numpy(dataset.references).contiguous())
    members = torch.searchsorted(needed, torch.from_numpy(dataset.gallery).contiguous())
    queries, weights, gallery = _Rows(len(dataset)), _Rows(len(dataset)), _Rows(len(members))
    for first in range(0, len(needed), batch):
        encoded = composer.encode(features.images[needed[first : first + batch]].to(device))
        shown = torch.nonzero((members >= first) & (members < first + batch)).squeeze(1)
        if len(shown):
            gallery.put(shown, composer.embed_target(encoded[(members[shown] - first).to(device)]))
        asked = torch.nonzero((references >= first) & (references < first + batch)).squeeze(1)
        for some in asked.split(batch):
            own = encoded[(references[some] - first).to(device)]
            texts = without_padding(features.texts[some]).to(device)
            composition = composer.compose(own, texts)
            queries.put(some, composition.query)
            if composition.modality_weight is not None:
                weights.put(some, composition.modality_weight)
    lam = weights.rows
    return Embedded(queries.all(), gallery.all(), None if lam is None else lam.squeeze(1))


class _Rows:
    """A table on the CPU that is filled a few rows at a time."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.rows: Tensor | None = None

    def put(self, places: Int[Tensor, " n"], values: Float[Tensor, "n dim"]) -> None:
        if self.rows is None:
            self.rows = torch.empty(self.count, values.shape[1])
        self.rows[places] = values.float().cpu()

    def all(self) -> Float[Tensor, "count dim"]:
        assert self.rows is not None
        return self.rows


def search(
    composer: Composer, features: Features, dataset: Triplets, *, k: int = 50, exclude_reference: bool = True
) -> Int[Tensor, "queries {k}"]:
    """Return the `k` best gallery positions for every query of a dataset, best first, on the CPU.

    Parameters
    ----------
    composer, features, dataset : as `train` takes them.
    k : how many.
    exclude_reference : keep the reference image out of the ranking.
    """
    found = embed(composer, features, dataset)
    references = torch.from_numpy(dataset.gallery_position(dataset.references))
    return rank(found.queries, found.gallery, k=k, exclude=references if exclude_reference else None)


def check_match(features: Features, dataset: Triplets) -> None:
    """Raise FeatureError unless features are of this dataset, and finite."""
    expected = len(dataset.image_ids), len(dataset)
    found = len(features.images), len(features.texts)
    if found != expected:
        raise FeatureError(
            f"features of {found[0]} images, {found[1]} texts for {expected[0]} images, {expected[1]} texts",
            where=dataset.name,
            remedy="Compute them from this dataset, with features_of.",
        )
    for kind, values in features._asdict().items():
        if values is not None and values.is_floating_point() and not bool(values.isfinite().all()):
            row = int((~values.isfinite().all(-1)).nonzero()[0])
            raise FeatureError(
                "a feature is NaN or infinite",
                where=f"{dataset.name}, {kind} row {row}",
                remedy="Look for a corrupt image, and compute the features again.",
            )
