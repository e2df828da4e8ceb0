"""Modality feature editors: each modality keeps of itself what the pair of them calls for (notebook 04)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn


def pair_mlp(dim: int, output_dim: int, *, dropout: float) -> nn.Sequential:
    """Build the perceptron that reads a pair: ``Linear(D, out)(Dropout(ReLU(Linear(2D, D)([v; t]))))``.

    Parameters
    ----------
    dim : D, the width of each half of the input [v; t], and of the hidden layer.
    output_dim : width of the output.
    dropout : probability with which a hidden unit is dropped in training.

    Source: released code, CLIP stream, where gates and combiner share this form.
    """
    return nn.Sequential(
        nn.Linear(2 * dim, dim),  # (B, 2D) -> (B, D)
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(dim, output_dim),  # (B, D) -> (B, out)
    )


class FeatureGate(nn.Module):
    """A value between 0 and 1 for each feature: ``gate([v; t]) = s(Linear(Dropout(ReLU(Linear([v; t])))))``.

    Parameters
    ----------
    dim : D, the embedding width.
    dropout : dropout probability of the hidden layer.

    Source: released code, CLIP stream.
    """

    def __init__(self, dim: int, *, dropout: float = 0.5) -> None:
        super().__init__()
        self.mlp = pair_mlp(dim, dim, dropout=dropout)

    def forward(
        self, image: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch dim"]:
        """Return ``gate([v; t])``, (batch, dim), from v = `image` and t = `text`, (batch, dim) each."""
        pair = torch.cat([image, text], dim=1)  # (B, D), (B, D) -> (B, 2D)
        return torch.sigmoid(self.mlp(pair))  # (B, 2D) -> (B, D)


class EditedPair(NamedTuple):
    """Both edited modalities and the gates that edited them; all are (batch, dim), the gates in (0, 1)."""

    image: Float[Tensor, "batch dim"]
    text: Float[Tensor, "batch dim"]
    image_gate: Float[Tensor, "batch dim"]
    text_gate: Float[Tensor, "batch dim"]


class ModalityEditors(nn.Module):
    """The two modality feature editors: ``v' = gate_I([v; t]) * v`` and ``t' = gate_T([v; t]) * t``.

    Parameters
    ----------
    dim : D, the embedding width.
    dropout : dropout probability inside the gates.

    Source: released code, CLIP stream.
    """

    def __init__(self, dim: int, *, dropout: float = 0.5) -> None:
        super().__init__()
        self.image = FeatureGate(dim, dropout=dropout)
        self.text = FeatureGate(dim, dropout=dropout)

    def forward(self, image: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"]) -> EditedPair:
        """Edit v = `image` and t = `text`, (batch, dim) each, by the gates that both of them decide."""
        image_gate = self.image(image, text)
        text_gate = self.text(image, text)
        return EditedPair(image_gate * image, text_gate * text, image_gate, text_gate)
