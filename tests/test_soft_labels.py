"""Hard and soft labels against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dwclib.combiner import normalise
from dwclib.soft_labels import hard_labels, soft_labels

batches = st.lists(st.integers(0, 4), min_size=1, max_size=8).map(torch.tensor)


def _targets(batch: int, dim: int = 6) -> torch.Tensor:
    return normalise(torch.randn(batch, dim, generator=torch.Generator().manual_seed(batch)))


def test_hard_labels_of_a_batch_with_a_duplicate() -> None:
    expected = torch.tensor([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0], [0.5, 0.0, 0.5]])
    assert torch.equal(hard_labels(torch.tensor([7, 2, 7])), expected)


@settings(max_examples=30, deadline=None)
@given(identities=batches)
def test_hard_labels_equal_a_loop(identities: torch.Tensor) -> None:
    c = identities.tolist()
    expected = [[(a == b) / c.count(a) for b in c] for a in c]
    np.testing.assert_allclose(hard_labels(identities), expected, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(identities=batches, alpha=st.floats(0, 1), temperature=st.floats(0.02, 2))
def test_soft_labels_equal_a_loop_and_sum_to_one(
    identities: torch.Tensor, alpha: float, temperature: float
) -> None:
    targets = _targets(len(identities))
    labels = soft_labels(targets, identities, alpha=alpha, temperature=temperature)
    y, c = targets.double().numpy(), identities.tolist()
    for i in range(len(c)):
        likeness = [math.exp(float(y[i] @ y[j]) / temperature) for j in range(len(c))]
        for j in range(len(c)):
            hard = (c[i] == c[j]) / c.count(c[i])
            expected = alpha * likeness[j] / sum(likeness) + (1 - alpha) * hard
            assert float(labels[i, j]) == pytest.approx(expected, abs=1e-4)
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(len(c)))
    assert (labels >= 0).all()


def test_alpha_zero_is_the_hard_labels_and_alpha_one_the_softmax() -> None:
    targets, identities = _targets(5), torch.tensor([0, 1, 1, 2, 0])
    assert torch.equal(soft_labels(targets, identities, alpha=0.0), hard_labels(identities))
    softmax = torch.softmax(targets @ targets.T / 0.07, dim=1)
    torch.testing.assert_close(soft_labels(targets, identities, alpha=1.0), softmax)


def test_the_defaults_are_the_published_ones() -> None:
    targets, identities = _targets(5), torch.arange(5)
    expected = soft_labels(targets, identities, alpha=0.2, temperature=0.07, detach=True)
    assert torch.equal(soft_labels(targets, identities), expected)


def test_a_permuted_batch_has_permuted_labels() -> None:
    targets, identities, order = _targets(5), torch.tensor([0, 1, 1, 2, 0]), torch.tensor([3, 0, 4, 2, 1])
    permuted = soft_labels(targets[order], identities[order])
    torch.testing.assert_close(permuted, soft_labels(targets, identities)[order][:, order])


def test_labels_are_detached_unless_asked_otherwise() -> None:
    targets, identities = _targets(5).requires_grad_(), torch.arange(5)
    assert not soft_labels(targets, identities).requires_grad
    soft_labels(targets, identities, detach=False)[0, 1].backward()
    assert targets.grad is not None
    assert targets.grad.abs().sum() > 0
