"""The adaptive weighted combiner against its equation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dwclib.combiner import AdaptiveWeightedCombiner, build_combiner, combine, normalise


def _pair(batch: int, dim: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, dim, generator=generator), torch.randn(batch, dim, generator=generator)


def test_normalise_gives_length_one_in_any_batch_shape_and_leaves_zero_alone() -> None:
    x = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    expected = x.numpy() / np.sqrt((x.numpy() ** 2).sum(-1, keepdims=True))
    np.testing.assert_allclose(normalise(x), expected, atol=1e-6)
    assert torch.equal(normalise(torch.zeros(1, 4)), torch.zeros(1, 4))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), lam=st.floats(0, 1, width=32))
def test_combine_is_the_convex_mix_normalised(seed: int, lam: float) -> None:
    image, text = _pair(4, 7, seed)
    query = combine(image, text, torch.full((4, 1), lam))
    for q, v, t in zip(query.numpy(), image.numpy(), text.numpy(), strict=True):
        mix = lam * v + (1 - lam) * t
        np.testing.assert_allclose(q, mix / np.sqrt((mix**2).sum()), atol=1e-5)
    torch.testing.assert_close(query.norm(dim=1), torch.ones(4))


def test_weight_one_is_the_image_and_weight_zero_the_text() -> None:
    image, text = _pair(4, 7)
    torch.testing.assert_close(combine(image, text, torch.ones(4, 1)), normalise(image))
    torch.testing.assert_close(combine(image, text, torch.zeros(4, 1)), normalise(text))


def test_each_query_has_its_own_weight() -> None:
    image, text = _pair(2, 5)
    query = combine(image, text, torch.tensor([[1.0], [0.0]]))
    torch.testing.assert_close(query, normalise(torch.stack([image[0], text[1]])))


def test_forcing_the_bias_forces_the_weight() -> None:
    combiner = AdaptiveWeightedCombiner(6).eval()
    image, text = _pair(3, 6)
    for bias, expected in ((1e3, image), (-1e3, text)):
        with torch.no_grad():
            combiner.mlp[-1].bias.fill_(bias)
        torch.testing.assert_close(combiner(image, text)[0], normalise(expected))


def test_gradients_reach_every_parameter_and_both_inputs() -> None:
    combiner = AdaptiveWeightedCombiner(16, dropout=0.0)
    image, text = (x.requires_grad_() for x in _pair(8, 16))
    query, _ = combiner(image, text)
    query[:, 0].sum().backward()
    tensors = [image, text, *combiner.parameters()]
    assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in tensors)


def test_dropout_acts_in_training_only() -> None:
    combiner = AdaptiveWeightedCombiner(16)
    pair = _pair(8, 16)
    assert not torch.equal(combiner(*pair)[1], combiner(*pair)[1])
    combiner.eval()
    assert torch.equal(combiner(*pair)[1], combiner(*pair)[1])


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_a_fixed_weight_is_the_same_for_every_query(weight: float) -> None:
    image, text = _pair(4, 6)
    combiner = build_combiner(6, weight)
    query, lam = combiner(image, text)
    assert not list(combiner.parameters())
    torch.testing.assert_close(lam, torch.full((4, 1), weight))
    torch.testing.assert_close(query, normalise(weight * image + (1 - weight) * text))


def test_a_vector_weighs_each_feature_by_itself() -> None:
    image, text = _pair(4, 6)
    combiner = build_combiner(6, "vector").eval()
    query, lam = combiner(image, text)
    assert lam.shape == (4, 6)
    torch.testing.assert_close(query, normalise(lam * image + (1 - lam) * text))
    with torch.no_grad():
        combiner.mlp[-1].bias[2] = 1e3  # this feature comes from the image alone
    mixed = combiner(image, text)[1]
    torch.testing.assert_close(mixed[:, 2], torch.ones(4))
    assert bool((mixed[:, :2] < 1).all())


def test_the_scalar_combiner_is_the_default_one() -> None:
    assert isinstance(build_combiner(6, "scalar"), AdaptiveWeightedCombiner)
    image, text = _pair(4, 6)
    assert build_combiner(6, "scalar")(image, text)[1].shape == (4, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_zero_vector_stays_zero_in_every_precision(dtype: torch.dtype) -> None:
    found = normalise(torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=dtype))
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.0], [0.6, 0.8]], dtype=dtype))
