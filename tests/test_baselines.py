"""Every baseline against its equation, on the interface they share with the stream."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dwclib.baselines import BASELINES, TIRG, Clip4CirCombiner, Concatenation, ImageOnly, Sum, TextOnly
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


def test_tirg_without_residual_and_with_an_open_gate_is_the_image() -> None:
    composer = _make("TIRG").eval()
    with torch.no_grad():
        composer.gate.mlp[-1].bias.fill_(1e3)
        composer.residual_weight.zero_()
    torch.testing.assert_close(composer.compose(*_features()).query, _embedded(composer)[0])
