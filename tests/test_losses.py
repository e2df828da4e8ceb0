"""The mixed-modality contrastive loss against its equation and its bounds."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from dwclib.combiner import normalise
from dwclib.losses import contrastive_loss, similarity_logits
from dwclib.soft_labels import hard_labels, soft_labels


def _features(batch: int, seed: int = 0, dim: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(batch, dim, generator=generator)
    return normalise(queries), normalise(torch.randn(batch, dim, generator=generator))


def test_logits_are_cosines_over_the_temperature() -> None:
    queries, targets = _features(3)
    logits = similarity_logits(queries, targets[:2], temperature=0.5)
    assert logits.shape == (3, 2)
    for i in range(3):
        for j in range(2):
            cosine = sum(a * b for a, b in zip(queries[i].tolist(), targets[j].tolist(), strict=True))
            assert float(logits[i, j]) == pytest.approx(cosine / 0.5, abs=1e-5)
    torch.testing.assert_close(similarity_logits(queries, targets), queries @ targets.T / 0.07)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), batch=st.integers(1, 7), temperature=st.floats(0.05, 2))
def test_loss_equals_a_loop(seed: int, batch: int, temperature: float) -> None:
    queries, targets = _features(batch, seed)
    labels = soft_labels(targets, torch.arange(batch) // 2)
    total = 0.0
    for i in range(batch):
        logits = [float(queries[i].double() @ targets[j].double()) / temperature for j in range(batch)]
        log_sum = math.log(sum(math.exp(x) for x in logits))
        total -= sum(float(labels[i, j]) * (logits[j] - log_sum) for j in range(batch))
    loss = contrastive_loss(queries, targets, labels, temperature=temperature)
    assert loss.shape == ()
    assert float(loss) == pytest.approx(total / batch, rel=1e-4, abs=1e-4)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), batch=st.integers(1, 9))
def test_with_distinct_identities_it_is_cross_entropy(seed: int, batch: int) -> None:
    queries, targets = _features(batch, seed)
    identities = torch.randperm(batch, generator=torch.Generator().manual_seed(seed))
    expected = functional.cross_entropy(queries @ targets.T / 0.07, torch.arange(batch))
    torch.testing.assert_close(contrastive_loss(queries, targets, hard_labels(identities)), expected)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), alpha=st.floats(0, 1))
def test_the_label_entropy_is_a_lower_bound(seed: int, alpha: float) -> None:
    queries, targets = _features(6, seed)
    labels = soft_labels(targets, torch.tensor([0, 0, 1, 2, 3, 3]), alpha=alpha)
    entropy = float(-torch.xlogy(labels, labels).sum(dim=1).mean())
    assert float(contrastive_loss(queries, targets, labels)) >= entropy - 1e-5


def test_the_bound_is_met_when_the_queries_say_what_the_labels_say() -> None:
    _, targets = _features(6)
    labels = soft_labels(targets, torch.arange(6), alpha=1.0)
    entropy = -torch.xlogy(labels, labels).sum(dim=1).mean()
    torch.testing.assert_close(contrastive_loss(targets, targets, labels), entropy)


def test_gradients_reach_queries_and_targets_but_not_labels() -> None:
    queries, targets = (x.requires_grad_() for x in _features(5))
    labels = soft_labels(targets, torch.arange(5))
    (through_logits,) = torch.autograd.grad(contrastive_loss(queries, targets, labels), targets)
    constant = labels.clone()
    (expected,) = torch.autograd.grad(contrastive_loss(queries, targets, constant), targets)
    torch.testing.assert_close(through_logits, expected)
    leaky = soft_labels(targets, torch.arange(5), detach=False)
    (through_labels,) = torch.autograd.grad(contrastive_loss(queries, targets, leaky), targets)
    assert not torch.allclose(through_labels, expected)
    contrastive_loss(queries, targets, labels).backward()
    assert queries.grad is not None
    assert queries.grad.abs().sum() > 0


def test_descending_the_gradient_finds_the_targets() -> None:
    queries, targets = _features(6)
    queries = queries.clone().requires_grad_()
    labels = hard_labels(torch.arange(6))
    for _ in range(60):
        (gradient,) = torch.autograd.grad(contrastive_loss(normalise(queries), targets, labels), queries)
        queries = (queries - 0.1 * gradient).detach().requires_grad_()
    assert (queries @ targets.T).argmax(dim=1).tolist() == list(range(6))


def test_small_loss_selection_leaves_the_greatest_losses_out() -> None:
    torch.manual_seed(0)
    Q, Y, Z = normalise(torch.randn(10, 4)), normalise(torch.randn(10, 4)), torch.eye(10)
    each = (-similarity_logits(Q, Y).log_softmax(dim=1).diagonal()).sort(descending=True).values
    torch.testing.assert_close(contrastive_loss(Q, Y, Z, kept=0.7), each[3:].mean())
    torch.testing.assert_close(contrastive_loss(Q, Y, Z), each.mean())
