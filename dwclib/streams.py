"""Streams: the parts put together, behind the one interface that every composer of queries has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor, nn

from dwclib.combiner import ModalityWeight, build_combiner, normalise
from dwclib.editors import AttentionEditors, Edited, EditedMaps, ModalityEditors
from dwclib.encoders import GeM, ResNet, WordLstm
from dwclib.errors import ConfigError, check_least

STREAMS = ("clip", "cnn")
Inputs = Shaped[Tensor, "batch ..."]  # images or texts, as a stream reads them
Maps = Float[Tensor, "batch channels rows columns"]  # X, a ResNet's feature maps
Words = Int[Tensor, "batch words"]  # the numbers of a text's words, 0 after its end


class Composition(NamedTuple):
    """A composed query, and what it was mixed from where the composer has such parts.

    Fields
    ------
    query : q, (batch, dim), rows of length one.
    modality_weight : lam, (batch, 1), the weight of the image in the mix; None where there is no such scalar.
    edited_image, edited_text : (batch, dim), the features that entered the mix; None where there is none.
    """

    query: Float[Tensor, "batch dim"]
    modality_weight: Float[Tensor, "batch 1"] | None = None
    edited_image: Float[Tensor, "batch dim"] | None = None
    edited_text: Float[Tensor, "batch dim"] | None = None


class Placed(NamedTuple):
    """A batch of triplets as a stream places it, and the features that it was made of.

    Fields
    ------
    composition : of the queries.
    targets : y, (batch, dim), rows of length one.
    reference_features, target_features : what `encode` made of the images, (batch, ...).
    """

    composition: Composition
    targets: Float[Tensor, "batch dim"]
    reference_features: Float[Tensor, "batch ..."]
    target_features: Float[Tensor, "batch ..."]


class Composer(nn.Module, ABC):
    """What streams, baselines and ablations share: they compose queries and embed targets, in one space."""

    def encode(self, images: Inputs) -> Float[Tensor, "batch ..."]:
        """Turn images, as a dataset's inputs hold them, into the features that the other methods take.

        Composers on frozen features are given the features themselves, and pass them on.
        """
        return images

    @abstractmethod
    def compose(
        self, image_features: Float[Tensor, "batch ..."], text_features: Shaped[Tensor, "batch ..."]
    ) -> Composition:
        """Compose the query from the encoders' features of reference image and modification text."""

    @abstractmethod
    def embed_target(self, image_features: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch dim"]:
        """Embed the encoder's features of target or gallery images: y, (batch, dim), rows of length one."""

    def forward(self, references: Inputs, targets: Inputs, texts: Inputs) -> Placed:
        """Place a batch of triplets: queries and targets in one pass, the one that training learns from."""
        reference, target = self.encode(references), self.encode(targets)
        return Placed(self.compose(reference, texts), self.embed_target(target), reference, target)


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
        check_least(1, feature_dim=feature_dim, dim=dim)
        check_least(0.0, most=1.0, dropout=dropout)
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
    editors : which modalities are edited, as `ModalityEditors` takes it.
    modality_weight : how the query is weighed, as `build_combiner` takes it.

    Source: released code, CLIP stream.
    """

    def __init__(
        self,
        feature_dim: int,
        *,
        dim: int = 1024,
        dropout: float = 0.5,
        editors: Edited = "both",
        modality_weight: ModalityWeight = "scalar",
    ) -> None:
        super().__init__(feature_dim, dim=dim, dropout=dropout)
        self.editors = ModalityEditors(dim, dropout=dropout, edited=editors)
        self.combiner = build_combiner(dim, modality_weight, dropout=dropout)

    def mix(self, image: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"]) -> Composition:
        """Edit v = `image` and t = `text`, (batch, dim) each, then weigh them."""
        edited = self.editors(image, text)
        query, modality_weight = self.combiner(edited.image, edited.text)
        return Composition(query, _if_scalar(modality_weight), edited.image, edited.text)


class CnnStream(Composer):
    """DWC's CNN stream: ResNet and LSTM, attention editors, pooling, adaptive weighted combiner.

    ``X', T' = editors(X, T)``; ``f_I = fc_img(GeM(X'))``, ``f_T = fc_txt(GeM(T'))``;
    ``q = n(lam f_I + (1 - lam) f_T)`` with ``lam = combiner(f_I, f_T)``; ``y = n(fc_img(GeM(X_y)))``.
    Its inputs are pictures, (batch, h, w, 3) uint8, and word numbers, (batch, length), 0 after the end.

    Parameters
    ----------
    cnn : the image encoder, fine-tuned with the rest.
    words : size of the vocabulary.
    dim : D, the embedding width.
    word_dim : width of a word's embedding.
    dropout : dropout probability of the combiner.
    word_temperature, position_temperature : of the attention.
    mask_padding : keep padded words out of attention, means, statistics and pooling, so that a text means the
        same beside a longer one. The released code does not, and learns an embedding of the padding.
    editors : which modalities are edited, as `AttentionEditors` takes it.
    modality_weight : how the query is weighed, as `build_combiner` takes it.

    Source: released code, CNN stream.
    """

    def __init__(
        self,
        cnn: ResNet,
        words: int,
        *,
        dim: int = 1024,
        word_dim: int = 512,
        dropout: float = 0.5,
        word_temperature: float = 7.0,
        position_temperature: float = 4.0,
        mask_padding: bool = True,
        editors: Edited = "both",
        modality_weight: ModalityWeight = "scalar",
    ) -> None:
        super().__init__()
        check_least(1, words=words, dim=dim, word_dim=word_dim)
        check_least(0.0, most=1.0, dropout=dropout)
        self.cnn, self.mask_padding = cnn, mask_padding
        self.lstm = WordLstm(words, dim, word_dim=word_dim, learn_padding=not mask_padding)
        self.editors = AttentionEditors(
            cnn.channels,
            dim,
            word_temperature=word_temperature,
            position_temperature=position_temperature,
            edited=editors,
        )
        self.image_pool, self.text_pool, self.target_pool = GeM(), GeM(), GeM()
        self.image_projection = nn.Linear(cnn.channels, dim)  # fc_img
        self.text_projection = nn.Linear(dim, dim)  # fc_txt
        self.combiner = build_combiner(dim, modality_weight, dropout=dropout)

    def encode(self, images: UInt8[Tensor, "batch h w 3"]) -> Maps:
        """Return the feature maps X of pictures."""
        return self.cnn(images)

    def edit(self, image_features: Maps, text_features: Words) -> EditedMaps:
        """Edit feature maps X by the words and the words by the maps; gates and attention come along."""
        states = self.lstm(text_features)  # (B, L) -> (B, L, D)
        return self.editors(image_features, states, self._mask(text_features))

    def compose(self, image_features: Maps, text_features: Words) -> Composition:
        """Compose the query from the reference's feature maps X and the modification text's word numbers."""
        edited = self.edit(image_features, text_features)
        f_image = self.image_projection(self.image_pool(edited.image.flatten(2)))  # (B, C, P) -> (B, D)
        f_text = self.text_projection(self.text_pool(edited.text, self._mask(text_features)))
        return self.mix(f_image, f_text)

    def mix(self, image: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"]) -> Composition:
        """Weigh f_I = `image` and f_T = `text`, (batch, dim) each."""
        query, modality_weight = self.combiner(image, text)
        return Composition(query, _if_scalar(modality_weight), image, text)

    def embed_target(self, image_features: Maps) -> Float[Tensor, "batch dim"]:
        """Embed targets: ``y = n(fc_img(GeM(X_y)))``, (batch, dim), rows of length one."""
        return normalise(self.image_projection(self.target_pool(image_features.flatten(2))))

    def _mask(self, tokens: Words) -> Bool[Tensor, "batch words"] | None:
        return tokens > 0 if self.mask_padding else None


def _if_scalar(modality_weight: Float[Tensor, "batch weights"]) -> Float[Tensor, "batch 1"] | None:
    return modality_weight if modality_weight.shape[1] == 1 else None


class DWC(nn.Module):
    """Both streams. Their scores add up, ``q_clip . y_clip + q_cnn . y_cnn``; either can be used alone.

    Adding scores is the same as searching with both embeddings side by side: `joined`.

    Parameters
    ----------
    streams : "clip" and "cnn", or one of them.

    Source: released code.
    """

    def __init__(self, streams: Mapping[str, Composer]) -> None:
        super().__init__()
        if not streams or set(streams) - set(STREAMS):
            raise ConfigError(
                f"{sorted(streams)} are no streams",
                where="DWC",
                remedy=f"Use {' and '.join(STREAMS)}, or one.",
            )
        self.streams = nn.ModuleDict({name: streams[name] for name in STREAMS if name in streams})

    def __getitem__(self, name: str) -> Composer:
        """Return a stream by its name."""
        return cast(Composer, self.streams[name])

    @staticmethod
    def joined(parts: Mapping[str, Float[Tensor, "n _dim"]]) -> Float[Tensor, "n sum"]:
        """Put the streams' embeddings side by side: their dot products are the sums of the scores."""
        return torch.cat(list(parts.values()), dim=1)
