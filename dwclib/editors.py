"""Modality feature editors: each modality keeps of itself what the pair of them calls for.

The CLIP stream edits one vector a modality (notebook 04); the CNN stream edits a map of image positions and a
sequence of words, which first attend to each other (notebook 07).
"""

from __future__ import annotations

from functools import partial
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


class InceptionLayer(nn.Module):
    """A convolution without bias, then batch norm; between them, where asked for, the mean of three places.

    Only real places count: zeros beyond a border are no part of a mean, and masked places no part of a mean
    or of batch norm's statistics.

    Parameters
    ----------
    dimensions : 1 for sequences, 2 for maps.
    before, after : channels of input and output.
    kernel : how many places the convolution sees.
    average : take the mean. A mean of places and a convolution that sees one place may change their order.
    """

    def __init__(
        self, dimensions: int, before: int, after: int, kernel: int, *, average: bool = False
    ) -> None:
        super().__init__()
        convolution, norm, pool = _LAYERS[dimensions]
        self.convolution = convolution(before, after, kernel, padding=kernel // 2, bias=False)
        self.average = pool(3, stride=1, padding=1, count_include_pad=False) if average else None
        self.norm = norm(after)

    def forward(
        self, x: Float[Tensor, "batch before *places"], mask: Bool[Tensor, batch * places] | None = None
    ) -> Float[Tensor, "batch after *places"]:
        """Return the normed channels; zero at masked places."""
        if mask is None:
            out = self.convolution(x)
            return self.norm(out if self.average is None else self.average(out))
        counted = mask[:, None].to(x.dtype)  # (B, L) -> (B, 1, L)
        out = self.convolution(x * counted)
        if self.average is not None:
            out = self.average(out * counted) / self.average(counted).clamp(min=1e-6)
        rows, real = (
            out.transpose(1, 2).flatten(0, 1),
            mask.flatten().nonzero().squeeze(1),
        )  # (B, C, L) -> (B L, C)
        normed = torch.zeros_like(rows).index_copy(0, real, self.norm(rows[real]))
        return normed.unflatten(0, mask.shape).transpose(1, 2)  # (B L, C) -> (B, C, L)


class Inception(nn.Module):
    """Four convolutional branches side by side, which see one, three and five places at a time.

    Of the output's channels 3/8 come from a 1 convolution; 1/4 from 1 then 3; 1/4 from 1, 3 and 3; 1/8 from
    a 1 convolution and the mean over 3. Each is an `InceptionLayer`; ReLU stands between those of one branch
    but not after the last.

    Parameters
    ----------
    dimensions : 1 for sequences, 2 for maps.
    input_dim : channels of the input.
    dim : channels of the output, a multiple of 8.

    Source: released code, CNN stream. There the mean comes before its convolution; here it comes after, on
    fewer channels. The released code's means and statistics count masked words.
    """

    def __init__(self, dimensions: int, input_dim: int, dim: int) -> None:
        super().__init__()
        eighth, layer = dim // 8, partial(InceptionLayer, dimensions)
        self.branches = nn.ModuleList(
            nn.ModuleList(layers)
            for layers in (
                [layer(input_dim, 3 * eighth, 1)],
                [layer(input_dim, 4 * eighth, 1), layer(4 * eighth, 2 * eighth, 3)],
                [layer(input_dim, 2 * eighth, 1), layer(2 * eighth, eighth, 3), layer(eighth, 2 * eighth, 3)],
                [layer(input_dim, eighth, 1, average=True)],
            )
        )

    def forward(
        self, x: Float[Tensor, "batch input_dim *places"], mask: Bool[Tensor, batch * places] | None = None
    ) -> Float[Tensor, "batch dim *places"]:
        """Return the branches' channels, concatenated; `mask` is true where there is a word."""
        outputs = []
        for layers in self.branches:
            first, *others = cast(nn.ModuleList, layers)
            out = first(x, mask)
            for layer in others:
                out = layer(out.relu(), mask)
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
