"""Modality feature editors: each modality keeps of itself what the pair of them calls for.

The CLIP stream edits one vector a modality (notebook 04); the CNN stream edits a map of image positions and a
sequence of words, which first attend to each other (notebook 07).
"""

from __future__ import annotations

from typing import Literal, NamedTuple, cast, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dwclib.errors import check_choice

Edited = Literal["both", "image", "text", "none"]


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


class OpenGate(nn.Module):
    """A gate that lets every feature pass, in place of a `FeatureGate`: no editor."""

    def forward(
        self, image: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch dim"]:
        """Return ones, (batch, dim)."""
        return torch.ones_like(image)


class EditedPair(NamedTuple):
    """Both edited modalities and the gates that edited them; all are (batch, dim), the gates in [0, 1]."""

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
    edited : which modalities have an editor: "both", "image", "text" or "none"; an ablation's switch.

    Source: released code, CLIP stream.
    """

    def __init__(self, dim: int, *, dropout: float = 0.5, edited: Edited = "both") -> None:
        super().__init__()
        check_choice("choice of editors", edited, get_args(Edited), "editors")
        self.image = FeatureGate(dim, dropout=dropout) if edited in ("both", "image") else OpenGate()
        self.text = FeatureGate(dim, dropout=dropout) if edited in ("both", "text") else OpenGate()

    def forward(self, image: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"]) -> EditedPair:
        """Edit v = `image` and t = `text`, (batch, dim) each, by the gates that both of them decide."""
        image_gate = self.image(image, text)
        text_gate = self.text(image, text)
        return EditedPair(image_gate * image, text_gate * text, image_gate, text_gate)


class Attention(NamedTuple):
    """What the words and the positions of an image tell each other.

    Fields
    ------
    text_context : C, (batch, dim, positions), for each position the words that concern it.
    image_context : E, (batch, dim, words), for each word the positions that concern it.
    over_words, over_positions : (batch, words, positions), the weights of both sums; they sum to one over
        words and over positions.
    """

    text_context: Float[Tensor, "batch dim positions"]
    image_context: Float[Tensor, "batch dim words"]
    over_words: Float[Tensor, "batch words positions"]
    over_positions: Float[Tensor, "batch words positions"]


def cross_attend(
    image: Float[Tensor, "batch dim positions"],
    text: Float[Tensor, "batch words dim"],
    mask: Bool[Tensor, "batch words"] | None = None,
    *,
    word_temperature: float = 7.0,
    position_temperature: float = 4.0,
) -> Attention:
    """Let positions attend to words and words to positions, by the affinity ``S = T V``.

    ``C_p = sum_l softmax_l(S / 7)_lp T_l`` and ``E_l = sum_p softmax_p(S / 4)_lp V_p``.

    Parameters
    ----------
    image : V, (batch, dim, positions).
    text : T, (batch, words, dim).
    mask : (batch, words), true where there is a word; all by default. Other words get no weight.
    word_temperature, position_temperature : what S is divided by for each softmax.

    Source: released code, CNN stream, which attends to the padding too.
    """
    affinity = text @ image  # (B, L, D), (B, D, P) -> (B, L, P)
    word_scores = affinity / word_temperature
    if mask is not None:
        word_scores = word_scores.masked_fill(~mask[:, :, None], -torch.inf)
    over_words = word_scores.softmax(dim=1)
    over_positions = (affinity / position_temperature).softmax(dim=2)
    text_context = text.transpose(1, 2) @ over_words  # (B, D, L), (B, L, P) -> (B, D, P)
    image_context = image @ over_positions.transpose(1, 2)  # (B, D, P), (B, P, L) -> (B, D, L)
    return Attention(text_context, image_context, over_words, over_positions)


class Inception(nn.Module):
    """Four convolutional branches side by side, which see one, three and five places at a time.

    Of the output's channels 3/8 come from a 1 convolution; 1/4 from 1 then 3; 1/4 from 1, 3 and 3; 1/8 from
    an average over 3, then 1. No convolution has a bias, each is followed by batch norm, and ReLU stands
    between those of one branch but not after the last.

    Parameters
    ----------
    dimensions : 1 for sequences, 2 for maps.
    input_dim : channels of the input.
    dim : channels of the output, a multiple of 8.

    Source: released code, CNN stream. There the average comes before its 1 convolution; here it comes after,
    on fewer channels, which is the same sum in another order.
    """

    def __init__(self, dimensions: int, input_dim: int, dim: int) -> None:
        super().__init__()
        convolution, norm, average = _LAYERS[dimensions]

        def layer(before: int, after: int, kernel: int, *between: nn.Module) -> nn.Sequential:
            convolve = convolution(before, after, kernel, padding=kernel // 2, bias=False)
            return nn.Sequential(convolve, *between, norm(after))

        eighth = dim // 8
        self.branches = nn.ModuleList(
            nn.ModuleList(layers)
            for layers in (
                [layer(input_dim, 3 * eighth, 1)],
                [layer(input_dim, 4 * eighth, 1), layer(4 * eighth, 2 * eighth, 3)],
                [layer(input_dim, 2 * eighth, 1), layer(2 * eighth, eighth, 3), layer(eighth, 2 * eighth, 3)],
                [layer(input_dim, eighth, 1, average(3, stride=1, padding=1))],
            )
        )

    def forward(
        self, x: Float[Tensor, "batch input_dim *places"], mask: Bool[Tensor, batch * places] | None = None
    ) -> Float[Tensor, "batch dim *places"]:
        """Return the branches' channels, concatenated; masked places are zero wherever a neighbour looks."""
        outputs = []
        for layers in self.branches:
            out = x
            for depth, layer in enumerate(cast(nn.ModuleList, layers)):
                out = out.relu() if depth else out
                out = layer(out if mask is None else out * mask[:, None])
            outputs.append(out)
        return torch.cat(outputs, dim=1)


_LAYERS: dict[int, tuple[type[nn.Module], type[nn.Module], type[nn.Module]]] = {
    1: (nn.Conv1d, nn.BatchNorm1d, nn.AvgPool1d),
    2: (nn.Conv2d, nn.BatchNorm2d, nn.AvgPool2d),
}


class EditedMaps(NamedTuple):
    """Edited feature maps (batch, channels, rows, columns) and word states (batch, dim, words).

    The gates, in [0, 1], have the same shapes; `attention` is what both were edited by.
    """

    image: Float[Tensor, "batch channels rows columns"]
    text: Float[Tensor, "batch dim words"]
    image_gate: Float[Tensor, "batch channels rows columns"]
    text_gate: Float[Tensor, "batch dim words"]
    attention: Attention


class AttentionEditors(nn.Module):
    """The CNN stream's modality feature editors: gate what is there, and add what the other one asks for.

    ``V = ReLU(Inc(X))``; C and E by `cross_attend`; then

    ``X' = s(Inc([V; C])) * X + ReLU(Inc(C))`` and ``T' = s(Inc([T; E])) * T + ReLU(Inc(E))``.

    Parameters
    ----------
    channels : of the feature maps X.
    dim : D, width of the word states T.
    word_temperature, position_temperature : of `cross_attend`.
    edited : which modalities are edited: "both", "image", "text" or "none"; an ablation's switch.

    Source: released code, CNN stream.
    """

    def __init__(
        self,
        channels: int,
        dim: int,
        *,
        word_temperature: float = 7.0,
        position_temperature: float = 4.0,
        edited: Edited = "both",
    ) -> None:
        super().__init__()
        check_choice("choice of editors", edited, get_args(Edited), "editors")
        self.edited = edited
        self.temperatures = {
            "word_temperature": word_temperature,
            "position_temperature": position_temperature,
        }
        self.project = Inception(2, channels, dim)
        self.image_gate = Inception(2, 2 * dim, channels)
        self.image_addition = Inception(2, dim, channels)
        self.text_gate = Inception(1, 2 * dim, dim)
        self.text_addition = Inception(1, dim, dim)

    def forward(
        self,
        maps: Float[Tensor, "batch channels rows columns"],
        states: Float[Tensor, "batch words dim"],
        mask: Bool[Tensor, "batch words"] | None = None,
    ) -> EditedMaps:
        """Edit the maps X and the word states T; `mask` is true where there is a word."""
        V = self.project(maps).relu()  # (B, C, h, w) -> (B, D, h, w)
        attention = cross_attend(V.flatten(2), states, mask, **self.temperatures)
        image, image_gate = maps, torch.ones_like(maps)
        if self.edited in ("both", "image"):
            context = attention.text_context.unflatten(2, V.shape[2:])  # (B, D, P) -> (B, D, h, w)
            image_gate = torch.sigmoid(self.image_gate(torch.cat([V, context], dim=1)))
            image = image_gate * maps + self.image_addition(context).relu()
        T = states.transpose(1, 2)  # (B, L, D) -> (B, D, L)
        text, text_gate = T, torch.ones_like(T)
        if self.edited in ("both", "text"):
            pair = torch.cat([T, attention.image_context], dim=1)  # (B, 2D, L)
            text_gate = torch.sigmoid(self.text_gate(pair, mask))
            text = text_gate * T + self.text_addition(attention.image_context, mask).relu()
        return EditedMaps(image, text, image_gate, text_gate, attention)
