"""Streams: the parts put together, behind the one interface that every composer of queries has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from dwclib.combiner import AdaptiveWeightedCombiner, normalise
from dwclib.editors import ModalityEditors


class Composition(NamedTuple):
    """A composed query, and what it was mixed from where the composer has such parts.

    Fields
    ------
    query : q, (batch, dim), rows of length one.
    modality_weight : lam, (batch, 1), the image's share of the mix; None where no such scalar is learned.
    edited_image, edited_text : (batch, dim), the features that entered the mix; None where there is none.
    """

    query: Float[Tensor, "batch dim"]
    modality_weight: Float[Tensor, "batch 1"] | None = None
    edited_image: Float[Tensor, "batch dim"] | None = None
    edited_text: Float[Tensor, "batch dim"] | None = None


class Composer(nn.Module, ABC):
    """What streams, baselines and ablations share: they compose queries and embed targets, in one space."""

    @abstractmethod
    def compose(
        self, image_features: Float[Tensor, "batch ..."], text_features: Float[Tensor, "batch ..."]
    ) -> Composition:
        """Compose the query from the encoders' features of reference image and modification text."""

    @abstractmethod
    def embed_target(self, image_features: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch dim"]:
        """Embed the encoder's features of target or gallery images: y, (batch, dim), rows of length one."""


class ProjectionHead(nn.Sequential):
    """Project an encoder's features into the embedding space: ``head(u) = Dropout(ReLU(Linear(u)))``.

    Parameters
    ----------
    input_dim : width of the encoder's features.
    dim : D, the embedding width.
    dropout : dropout probability of the output.

    Source: released code, CLIP stream.
    """

    def __init__(self, input_dim: int, dim: int, *, dropout: float = 0.5) -> None:
        super().__init__(
            nn.Linear(input_dim, dim),  # (B, input_dim) -> (B, D)
            nn.ReLU(),
            nn.Dropout(dropout),
        )


class TwoHeadComposer(Composer):
    """A composer on frozen CLIP features: a head for each modality, then a `mix` that the subclass defines.

    ``v = n(head_I(x))``, ``t = n(head_T(w))``; the target takes the image's head, ``y = n(head_I(y_img))``.
    The heads are built first, so that with the same seed all composers start from the same heads.

    Parameters
    ----------
    feature_dim : width of the CLIP features of image and text.
    dim : D, the embedding width.
    dropout : dropout probability of the heads and of what the subclass adds.

    Source: released code, CLIP stream.
    """

    def __init__(self, feature_dim: int, *, dim: int = 1024, dropout: float = 0.5) -> None:
        super().__init__()
        self.image_head = ProjectionHead(feature_dim, dim, dropout=dropout)
        self.text_head = ProjectionHead(feature_dim, dim, dropout=dropout)

    @abstractmethod
    def mix(self, image: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"]) -> Composition:
        """Compose the query from v = `image` and t = `text`, (batch, dim) each, rows of length one."""

    def compose(
        self,
        image_features: Float[Tensor, "batch feature_dim"],
        text_features: Float[Tensor, "batch feature_dim"],
    ) -> Composition:
        """Compose the query from CLIP's features x and w of reference image and modification text."""
        v = self.embed_target(image_features)  # (B, feature_dim) -> (B, D)
        t = self.embed_text(text_features)  # (B, feature_dim) -> (B, D)
        return self.mix(v, t)

    def embed_target(self, image_features: Float[Tensor, "batch feature_dim"]) -> Float[Tensor, "batch dim"]:
        """Embed images, reference and target alike: ``n(head_I(.))``, (batch, dim), rows of length one."""
        return normalise(self.image_head(image_features))  # (B, feature_dim) -> (B, D)

    def embed_text(self, text_features: Float[Tensor, "batch feature_dim"]) -> Float[Tensor, "batch dim"]:
        """Embed modification texts: ``t = n(head_T(w))``, (batch, dim), rows of length one."""
        return normalise(self.text_head(text_features))  # (B, feature_dim) -> (B, D)


class ClipStream(TwoHeadComposer):
    """DWC's CLIP stream: heads, modality feature editors, adaptive weighted combiner.

    ``v', t' = editors(v, t)``, then ``q = n(lam v' + (1 - lam) t')`` with ``lam = combiner(v', t')``.

    Parameters
    ----------
    feature_dim : width of the CLIP features of image and text.
    dim : D, the embedding width.
    dropout : dropout probability throughout.

    Source: released code, CLIP stream.
    """

    def __init__(self, feature_dim: int, *, dim: int = 1024, dropout: float = 0.5) -> None:
        super().__init__(feature_dim, dim=dim, dropout=dropout)
        self.editors = ModalityEditors(dim, dropout=dropout)
        self.combiner = AdaptiveWeightedCombiner(dim, dropout=dropout)

    def mix(self, image: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"]) -> Composition:
        """Edit v = `image` and t = `text`, (batch, dim) each, then weigh them."""
        edited = self.editors(image, text)
        query, modality_weight = self.combiner(edited.image, edited.text)
        return Composition(query, modality_weight, edited.image, edited.text)
