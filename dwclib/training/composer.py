"""Training of one composer on cached features, and its evaluation (notebook 03 on).

Frozen features make an epoch cheap: CLIP is never run here, only the layers on top of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from dwclib.data.triplets import Triplets
from dwclib.encoders import Features
from dwclib.errors import ConfigError, FeatureError, check_least, checked_seed
from dwclib.losses import contrastive_loss
from dwclib.retrieval import rank
from dwclib.soft_labels import soft_labels
from dwclib.streams import Composer, Composition

Labels = Callable[
    [Float[Tensor, "batch dim"], Int[Tensor, " batch"]], Float[Tensor, "batch batch"]
]  # Y and the numbers of the queries -> Z


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's random numbers.

    Raises
    ------
    ConfigError
        When the seed is no natural number.
    """
    random.seed(checked_seed(seed))
    np.random.seed(seed)  # noqa: NPY002  libraries draw from the global generator
    torch.manual_seed(seed)


def check_device(device: str | None) -> None:
    """Raise ConfigError unless torch can use a device here; None leaves the choice open."""
    try:
        usable = torch.device(device or "cpu").type != "cuda" or torch.cuda.is_available()
        problem = "torch finds no GPU here"
    except RuntimeError:
        usable, problem = False, f"there is no device {device!r}"
    if not usable:
        raise ConfigError(problem, where="device", remedy="Use cpu, or leave it out.")


def train(
    composer: Composer,
    features: Features,
    dataset: Triplets,
    *,
    epochs: int = 200,
    batch: int = 32,
    learning_rate: float = 1e-4,
    weight_decay: float = 1e-6,
    alpha: float = 0.2,
    temperature: float = 0.07,
    detach: bool = True,
    labels: Labels | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = False,
) -> list[float]:
    """Minimise the mixed-modality contrastive loss with soft-similarity labels, by Adam.

    Parameters
    ----------
    composer : a stream or a baseline; trained in place, left in eval mode. Seed before you build it.
    features : of this dataset, from the frozen CLIP.
    dataset : its triplets.
    epochs, batch, learning_rate, weight_decay : of the optimiser; an incomplete last batch is left out.
    alpha, temperature, detach : of the labels and the loss.
    labels : other labels than those: from Y, (batch, dim), and the batch's queries, (batch,), to Z.
    seed : of the order of the triplets and the dropout.
    device : where to train.
    progress : show a bar.

    Returns
    -------
    The mean loss of each epoch, in nats.

    Raises
    ------
    FeatureError
        When features and dataset do not belong together, or a feature is not finite.
    ConfigError
        When a batch would not be filled once, a setting is out of its range, or there is no such device.
    """
    check_device(device)
    check_least(1, epochs=epochs)
    check_least(0.0, learning_rate=learning_rate, weight_decay=weight_decay, alpha=alpha)
    check_least(1e-6, temperature=temperature)
    _check_match(features, dataset)
    if not (isinstance(batch, int) and 2 <= batch <= len(dataset)):
        raise ConfigError(
            f"a batch of {batch!r} triplets cannot be drawn from {len(dataset)}",
            where=dataset.name,
            remedy=f"Use 2 to {len(dataset)}.",
        )
    seed_everything(seed)
    composer.to(device).train()
    images, texts = features.images.to(device), features.texts.to(device)
    rows = _rows(dataset, device)
    optimizer = torch.optim.Adam(
        composer.parameters(), lr=learning_rate, weight_decay=weight_decay, eps=1e-8, fused=True
    )
    history = []
    for _ in tqdm(range(epochs), disable=not progress, desc=type(composer).__name__):
        total = torch.zeros((), device=device)
        order = torch.randperm(len(dataset))[: len(dataset) // batch * batch]
        for picked in order.to(device).split(batch):
            reference, target, identity = rows[picked].unbind(dim=1)
            query = composer.compose(images[reference], texts[picked]).query
            y = composer.embed_target(images[target])
            if labels is None:
                Z = soft_labels(y, identity, alpha=alpha, temperature=temperature, detach=detach)
            else:
                Z = labels(y, picked)
            loss = contrastive_loss(query, y, Z, temperature=temperature)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        history.append(float(total) / (len(order) // batch))
    composer.eval()
    return history


@torch.no_grad()
def compose_queries(
    composer: Composer, features: Features, dataset: Triplets, *, images: Tensor | None = None
) -> Composition:
    """Compose every query of a dataset, in eval mode, on the composer's device.

    Parameters
    ----------
    composer, features, dataset : as in `train`.
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
    modality_weight : (queries,), the image's share; None where the composer has none.
    """

    queries: Float[Tensor, "queries dim"]
    gallery: Float[Tensor, "gallery dim"]
    modality_weight: Float[Tensor, " queries"] | None


@torch.no_grad()
def embed(composer: Composer, features: Features, dataset: Triplets, *, batch: int = 250) -> Embedded:
    """Embed a dataset in eval mode, on the composer's device. Each image is encoded once.

    Parameters
    ----------
    composer, features, dataset : as in `train`; of any stream.
    batch : images at a time. The queries that start from them are composed along with them.
    """
    _check_match(features, dataset)
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
            composition = composer.compose(own, features.texts[some].to(device))
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
    composer, features, dataset : as in `train`.
    k : how many.
    exclude_reference : keep the reference image out of the ranking.
    """
    found = embed(composer, features, dataset)
    references = torch.from_numpy(dataset.gallery_position(dataset.references))
    return rank(found.queries, found.gallery, k=k, exclude=references if exclude_reference else None)


def _rows(dataset: Triplets, device: str) -> Int[Tensor, "queries 3"]:
    identities = dataset.identities[dataset.targets]
    rows = np.stack([dataset.references, dataset.targets, identities], axis=1)
    return torch.from_numpy(rows).to(device)


def _check_match(features: Features, dataset: Triplets) -> None:
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
