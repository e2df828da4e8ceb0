"""Training of a single stream, or a baseline, on frozen features (notebooks 03 to 06).

CLIP is never run here, only the layers on top of it: an epoch is cheap. Both streams, validation and
checkpoints are the business of a `Run`, which is what ``python -m dwclib train`` trains.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from dwclib.data.triplets import Triplets
from dwclib.encoders import Features, check_device
from dwclib.errors import ConfigError, check_least, checked_seed
from dwclib.losses import contrastive_loss
from dwclib.soft_labels import soft_labels
from dwclib.streams import Composer
from dwclib.training.embedding import check_match

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
    check_least(0.0, learning_rate=learning_rate, weight_decay=weight_decay)
    check_least(0.0, most=1.0, alpha=alpha)
    check_least(1e-6, temperature=temperature)
    check_match(features, dataset)
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


def _rows(dataset: Triplets, device: str) -> Int[Tensor, "queries 3"]:
    identities = dataset.identities[dataset.targets]
    rows = np.stack([dataset.references, dataset.targets, identities], axis=1)
    return torch.from_numpy(rows).to(device)
