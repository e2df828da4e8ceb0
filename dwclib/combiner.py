"""Adaptive weighted combiner: how much the image counts, and how much the text (notebook 05)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dwclib.editors import pair_mlp


def normalise(x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
    """Return ``n(x) = x / |x|``, length one along the last dimension; a zero vector stays zero."""
    return functional.normalize(x, dim=-1)


def combine(
    image: Float[Tensor, "batch dim"],
    text: Float[Tensor, "batch dim"],
    modality_weight: Float[Tensor, "batch 1"],
) -> Float[Tensor, "batch dim"]:
    """Mix the edited modalities into a query: ``q = n(lam v' + (1 - lam) t')``.

    Parameters
    ----------
    image : v', (batch, dim).
    text : t', (batch, dim).
    modality_weight : lam, (batch, 1), in [0, 1]: 1 is the image alone, 0 the text alone.

    Source: released code, CLIP stream.
    """
    lam = modality_weight
    return normalise(lam * image + (1 - lam) * text)


class AdaptiveWeightedCombiner(nn.Module):
    """Weigh the two edited modalities by one learned scalar per query, the modality weight lam.

    ``lam = s(Linear(D, 1)(Dropout(ReLU(Linear(2D, D)([v'; t'])))))``, then ``q = n(lam v' + (1 - lam) t')``.

    Parameters
    ----------
    dim : D, the embedding width.
    dropout : dropout probability of the hidden layer.

    Source: released code, CLIP stream.
    """

    def __init__(self, dim: int, *, dropout: float = 0.5) -> None:
        super().__init__()
        self.mlp = pair_mlp(dim, 1, dropout=dropout)

    def modality_weight(
        self, image: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch 1"]:
        """Return lam, (batch, 1) in (0, 1), the image's share, from v' = `image` and t' = `text`."""
        pair = torch.cat([image, text], dim=1)  # (B, D), (B, D) -> (B, 2D)
        return torch.sigmoid(self.mlp(pair))  # (B, 2D) -> (B, 1)

    def forward(
        self, image: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"]
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch 1"]]:
        """Return the query q, (batch, dim), and lam, (batch, 1), from v' and t', (batch, dim) each."""
        lam = self.modality_weight(image, text)
        return combine(image, text, lam), lam
