"""Baselines on a stream's interface: the same heads, another combiner, nothing else (notebook 03).

Every class takes ``(feature_dim, *, dim=1024, dropout=0.5)`` as `dwclib.streams.TwoHeadComposer` does, and
mixes v, the image, and t, the text, (batch, dim) each with rows of length one, into the query q.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dwclib.combiner import normalise
from dwclib.editors import FeatureGate, pair_mlp
from dwclib.streams import Composition, ProjectionHead, TwoHeadComposer


class ImageOnly(TwoHeadComposer):
    """The reference image is the query, ``q = v``; the text head is there but unused."""

    def mix(self, image: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"]) -> Composition:
        """Return v = `image`, (batch, dim)."""
        return Composition(image, edited_image=image)


class TextOnly(TwoHeadComposer):
    """The modification text is the query, ``q = t``; the image head serves the targets."""

    def mix(self, image: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"]) -> Composition:
        """Return t = `text`, (batch, dim)."""
        return Composition(text, edited_text=text)


class Sum(TwoHeadComposer):
    """Both modalities count the same, ``q = n(v + t)``."""

    def mix(self, image: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"]) -> Composition:
        """Return ``n(v + t)``, (batch, dim)."""
        return Composition(normalise(image + text), edited_image=image, edited_text=text)


class Concatenation(TwoHeadComposer):
    """A perceptron makes the query of both, ``q = n(MLP([v; t]))``."""

    def __init__(self, feature_dim: int, *, dim: int = 1024, dropout: float = 0.5) -> None:
        super().__init__(feature_dim, dim=dim, dropout=dropout)
        self.mlp = pair_mlp(dim, dim, dropout=dropout)

    def mix(self, image: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"]) -> Composition:
        """Return ``n(MLP([v; t]))``, (batch, dim)."""
        pair = torch.cat([image, text], dim=1)  # (B, D), (B, D) -> (B, 2D)
        return Composition(normalise(self.mlp(pair)))  # (B, 2D) -> (B, D)


class TIRG(TwoHeadComposer):
    """Gated residual: keep part of the image, add what the text changes.

    ``q = n(w_g s(f_gate([v; t])) * v + w_r f_res([v; t]))`` with learned scalars w_g and w_r, both from 1.
    Simplified: f_gate and f_res are DWC's perceptrons, with dropout and hidden width D, where TIRG uses batch
    norm; the features are CLIP's, and the loss is whatever the other composers are trained with.

    Source: Vo et al. 2019.
    """

    def __init__(self, feature_dim: int, *, dim: int = 1024, dropout: float = 0.5) -> None:
        super().__init__(feature_dim, dim=dim, dropout=dropout)
        self.gate = FeatureGate(dim, dropout=dropout)
        self.residual = pair_mlp(dim, dim, dropout=dropout)
        self.gate_weight = nn.Parameter(torch.ones(()))
        self.residual_weight = nn.Parameter(torch.ones(()))

    def mix(self, image: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"]) -> Composition:
        """Return q, (batch, dim), and the gated image as `edited_image`; the residual belongs to both."""
        gated = self.gate_weight * self.gate(image, text) * image
        pair = torch.cat([image, text], dim=1)  # (B, D), (B, D) -> (B, 2D)
        residual = self.residual_weight * self.residual(pair)  # (B, 2D) -> (B, D)
        return Composition(normalise(gated + residual), edited_image=gated)


class Clip4CirCombiner(TwoHeadComposer):
    """CLIP4Cir's Combiner: a perceptron on both projections, plus a convex mix of the features themselves.

    ``q = n(MLP([p_v; p_t]) + lam v + (1 - lam) t)`` with ``lam = s(MLP'([p_v; p_t]))`` and projections
    ``p_v = Dropout(ReLU(Linear(v)))``, ``p_t`` likewise. lam weighs the image, as everywhere in the book.
    Simplified: it mixes the heads' v and t instead of CLIP's own features, and all its layers have width D.

    Source: Baldrati et al. 2022.
    """

    def __init__(self, feature_dim: int, *, dim: int = 1024, dropout: float = 0.5) -> None:
        super().__init__(feature_dim, dim=dim, dropout=dropout)
        self.image_projection = ProjectionHead(dim, dim, dropout=dropout)
        self.text_projection = ProjectionHead(dim, dim, dropout=dropout)
        self.mlp = pair_mlp(dim, dim, dropout=dropout)
        self.weight_mlp = pair_mlp(dim, 1, dropout=dropout)

    def mix(self, image: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"]) -> Composition:
        """Return q, (batch, dim), and lam, (batch, 1), of the convex mix of v = `image` and t = `text`."""
        projections = self.image_projection(image), self.text_projection(text)
        pair = torch.cat(projections, dim=1)  # (B, D), (B, D) -> (B, 2D)
        lam = torch.sigmoid(self.weight_mlp(pair))  # (B, 2D) -> (B, 1)
        query = normalise(self.mlp(pair) + lam * image + (1 - lam) * text)  # (B, 2D) -> (B, D)
        return Composition(query, lam, image, text)


BASELINES: dict[str, type[TwoHeadComposer]] = {
    "image only": ImageOnly,
    "text only": TextOnly,
    "sum": Sum,
    "concatenation": Concatenation,
    "TIRG": TIRG,
    "CLIP4Cir combiner": Clip4CirCombiner,
}
