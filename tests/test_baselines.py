"""Every baseline against its equation, on the interface they share with the stream."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dwclib.baselines import BASELINES, TIRG, Clip4CirCombiner, Concatenation, ImageOnly, Sum, TextOnly
from dwclib.combiner import normalise
from dwclib.streams import ClipStream, Composer, TwoHeadComposer

FEATURES, DIM, BATCH = 10, 32, 6
every_baseline = pytest.mark.parametrize("name", list(BASELINES))


def _features(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(BATCH, FEATURES, generator=generator)
    return image, torch.randn(BATCH, FEATURES, generator=generator)


def _make(name: str, *, dropout: float = 0.5) -> TwoHeadComposer:
    torch.manual_seed(0)
    return BASELINES[name](FEATURES, dim=DIM, dropout=dropout)


def _embedded(composer: TwoHeadComposer) -> tuple[Tensor, Tensor]:
    image, text = _features()
    v = (image @ composer.image_head[0].weight.T + composer.image_head[0].bias).clamp(min=0)
    t = (text @ composer.text_head[0].weight.T + composer.text_head[0].bias).clamp(min=0)
    return v / v.norm(dim=1, keepdim=True), t / t.norm(dim=1, keepdim=True)


def _mlp(layers: torch.nn.Sequential, *halves: Tensor) -> Tensor:
    hidden = (torch.hstack(halves) @ layers[0].weight.T + layers[0].bias).clamp(min=0)
    return hidden @ layers[-1].weight.T + layers[-1].bias


def _fill(module: torch.nn.Module) -> None:
    """Give every parameter values that no random generator decides."""
    with torch.no_grad():
        for place, (_, p) in enumerate(sorted(module.named_parameters())):
            p.copy_(0.5 * torch.sin(torch.arange(p.numel()) * 1.7 + place).reshape(p.shape))


def test_the_leaderboard_order() -> None:
    assert list(BASELINES.items()) == [
        ("image only", ImageOnly),
        ("text only", TextOnly),
        ("sum", Sum),
        ("concatenation", Concatenation),
        ("TIRG", TIRG),
        ("CLIP4Cir combiner", Clip4CirCombiner),
    ]


@every_baseline
def test_shapes_unit_norm_and_interface(name: str) -> None:
    composer = _make(name).eval()
    image, text = _features()
    composition = composer.compose(image, text)
    assert isinstance(composer, Composer)
    assert composition.query.shape == composer.embed_target(image).shape == (BATCH, DIM)
    torch.testing.assert_close(composition.query.norm(dim=1), torch.ones(BATCH))
    torch.testing.assert_close(composer.embed_target(image).norm(dim=1), torch.ones(BATCH))
    weight = composition.modality_weight
    assert (weight is not None) == (name == "CLIP4Cir combiner")


@every_baseline
def test_with_one_seed_the_heads_are_the_streams_heads(name: str) -> None:
    torch.manual_seed(0)
    stream = ClipStream(FEATURES, dim=DIM).eval()
    image, _ = _features()
    assert torch.equal(_make(name).eval().embed_target(image), stream.embed_target(image))
    assert torch.equal(_make(name).text_head[0].weight, stream.text_head[0].weight)


@every_baseline
def test_gradients_reach_every_parameter_that_the_query_or_target_needs(name: str) -> None:
    composer = _make(name, dropout=0.0)
    image, text = _features()
    (composer.compose(image, text).query * composer.embed_target(text)).sum().backward()
    untouched = {n for n, p in composer.named_parameters() if p.grad is None or p.grad.abs().sum() == 0}
    unused = {"text_head.0.weight", "text_head.0.bias"} if name == "image only" else set()
    assert untouched == unused


@every_baseline
def test_the_query_depends_on_the_modalities_it_should(name: str) -> None:
    composer = _make(name).eval()
    image, text = _features()
    query = composer.compose(image, text).query
    other_image = composer.compose(image.flip(0), text).query
    other_text = composer.compose(image, text.flip(0)).query
    assert torch.equal(query, other_image) == (name == "text only")
    assert torch.equal(query, other_text) == (name == "image only")


@every_baseline
def test_dropout_reaches_every_layer_that_drops(name: str) -> None:
    rates = {m.p for m in _make(name, dropout=0.3).modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {0.3}


def test_image_only_and_text_only() -> None:
    image_only, text_only = _make("image only").eval(), _make("text only").eval()
    by_image, by_text = image_only.compose(*_features()), text_only.compose(*_features())
    torch.testing.assert_close(by_image.query, _embedded(image_only)[0])
    torch.testing.assert_close(by_text.query, _embedded(text_only)[1])
    assert by_image.edited_image is by_image.query
    assert by_text.edited_text is by_text.query
    assert by_image.edited_text is None
    assert by_text.edited_image is None


def test_sum() -> None:
    composer = _make("sum").eval()
    v, t = _embedded(composer)
    composition = composer.compose(*_features())
    torch.testing.assert_close(composition.query, (v + t) / (v + t).norm(dim=1, keepdim=True))
    torch.testing.assert_close(composition.edited_image, v)
    torch.testing.assert_close(composition.edited_text, t)


def test_concatenation() -> None:
    composer = _make("concatenation").eval()
    composition = composer.compose(*_features())
    torch.testing.assert_close(composition.query, normalise(_mlp(composer.mlp, *_embedded(composer))))
    assert composition.edited_image is None
    assert composition.edited_text is None


def test_tirg() -> None:
    composer = _make("TIRG").eval()
    with torch.no_grad():
        composer.gate_weight.fill_(0.7)
        composer.residual_weight.fill_(-1.3)
    v, t = _embedded(composer)
    gated = 0.7 * v / (1 + torch.exp(-_mlp(composer.gate.mlp, v, t)))
    composition = composer.compose(*_features())
    torch.testing.assert_close(composition.query, normalise(gated - 1.3 * _mlp(composer.residual, v, t)))
    torch.testing.assert_close(composition.edited_image, gated)
    assert composition.edited_text is None


def test_tirg_without_residual_and_with_an_open_gate_is_the_image() -> None:
    composer = _make("TIRG").eval()
    with torch.no_grad():
        composer.gate.mlp[-1].bias.fill_(1e3)
        composer.residual_weight.zero_()
    torch.testing.assert_close(composer.compose(*_features()).query, _embedded(composer)[0])


def test_clip4cir_combiner() -> None:
    composer = _make("CLIP4Cir combiner").eval()
    v, t = _embedded(composer)
    p_v = (v @ composer.image_projection[0].weight.T + composer.image_projection[0].bias).clamp(min=0)
    p_t = (t @ composer.text_projection[0].weight.T + composer.text_projection[0].bias).clamp(min=0)
    lam = 1 / (1 + torch.exp(-_mlp(composer.weight_mlp, p_v, p_t)))
    composition = composer.compose(*_features())
    expected = normalise(_mlp(composer.mlp, p_v, p_t) + lam * v + (1 - lam) * t)
    torch.testing.assert_close(composition.query, expected)
    torch.testing.assert_close(composition.modality_weight, lam)
    torch.testing.assert_close(composition.edited_image, v)
    torch.testing.assert_close(composition.edited_text, t)


GOLDEN_QUERIES = {
    "image only": [[0.0, 1.0, 0.0, 0.0], [0.709569, 0.704636, 0.0, 0.0]],
    "text only": [[0.996982, 0.016601, 0.0, 0.075845], [0.284536, 0.0, 0.0, 0.958665]],
    "sum": [[0.699193, 0.712952, 0.0, 0.05319], [0.641185, 0.454481, 0.0, 0.618327]],
    "concatenation": [
        [-0.580309, -0.705558, -0.17315, -0.368032],
        [-0.680763, -0.707722, 0.032563, -0.186095],
    ],
    "TIRG": [[-0.689118, 0.563032, -0.119623, -0.44023], [-0.365273, 0.684811, 0.183543, -0.603259]],
    "CLIP4Cir combiner": [
        [0.100759, 0.904772, -0.031107, -0.412636],
        [0.080452, 0.958876, -0.227321, -0.149696],
    ],
}


@every_baseline
def test_golden_values(name: str) -> None:
    composer = BASELINES[name](3, dim=4).eval()
    _fill(composer)
    x = torch.tensor([[0.2, -0.4, 0.6], [1.0, 0.5, -0.3]])
    query = composer.compose(x, x.flip(1)).query
    torch.testing.assert_close(query, torch.tensor(GOLDEN_QUERIES[name]), atol=1e-5, rtol=0)
