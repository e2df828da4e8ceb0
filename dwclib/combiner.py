"""Adaptive weighted combiner: how much the image counts, and how much the text (notebook 05)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dwclib.editors import pair_mlp
from dwclib.errors import check_choice, check_least

ModalityWeight = Literal["scalar", "vector"] | float


def normalise(x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
    """Return ``n(x) = x / |x|``, length one along the last dimension; a zero vector stays zero."""
    return functional.normalize(x, dim=-1, eps=max(1e-12, torch.finfo(x.dtype).tiny))


def combine(
    image: Float[Tensor, "batch dim"],
    text: Float[Tensor, "batch dim"],
    modality_weight: Float[Tensor, "batch _weights"],
) -> Float[Tensor, "batch dim"]:
    """Mix the edited modalities into a query: ``q = n(lam v' + (1 - lam) t')``.

    Parameters
    ----------
    image : v', (batch, dim).
    text : t', (batch, dim).
    modality_weight : lam, (batch, 1), in [0, 1]: 1 is the image alone, 0 the text alone; (batch, dim)
        weighs every feature by itself.

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
    weights : how many weights a query has: 1, or D for one per feature (an ablation's switch).

    Source: released code, CLIP stream.
    """

    def __init__(self, dim: int, *, dropout: float = 0.5, weights: int = 1) -> None:
        super().__init__()
        self.mlp = pair_mlp(dim, weights, dropout=dropout)

    def modality_weight(
        self, image: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch weights"]:
        """Return lam, (batch, weights) in (0, 1), the image's weight, from v' = `image` and t' = `text`."""
        pair = torch.cat([image, text], dim=1)  # (B, D), (B, D) -> (B, 2D)
        return torch.sigmoid(self.mlp(pair))  # (B, 2D) -> (B, weights)

    def forward(
        self, image: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"]
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch weights"]]:
        """Return the query q, (batch, dim), and lam, (batch, weights), from v' and t', (batch, dim) each."""
        lam = self.modality_weight(image, text)
        return combine(image, text, lam), lam


class FixedWeightCombiner(nn.Module):
    """Weigh the two edited modalities alike for every query: the rival of the adaptive one.

    Parameters
    ----------
    weight : lam, the weight of the image, in [0, 1].
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        check_least(0.0, most=1.0, modality_weight=weight)
        self.weight = weight

    def forward(
        self, image: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"]
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch 1"]]:
        """Return the query q, (batch, dim), and lam, (batch, 1), from v' and t', (batch, dim) each."""
        lam = torch.full_like(image[:, :1], self.weight)
        return combine(image, text, lam), lam


def build_combiner(dim: int, modality_weight: ModalityWeight, *, dropout: float = 0.5) -> nn.Module:
    """Build the combiner that a switch names.

    Parameters
    ----------
    dim : D, the embedding width.
    modality_weight : "scalar", one learned weight a query; "vector", one a feature; or a number for all.
    dropout : dropout probability of the hidden layer.
    """
    if isinstance(modality_weight, float | int):
        return FixedWeightCombiner(modality_weight)
    weights = {"scalar": 1, "vector": dim}
    check_choice("modality weight", modality_weight, weights, "combiner")
    return AdaptiveWeightedCombiner(dim, dropout=dropout, weights=weights[modality_weight])
