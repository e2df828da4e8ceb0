"""The modality feature editors against their equation."""

from __future__ import annotations

import pytest
import torch

from dwclib.editors import FeatureGate, ModalityEditors, pair_mlp


def _pair(batch: int, dim: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, dim, generator=generator), torch.randn(batch, dim, generator=generator)


def test_gates_lie_between_zero_and_one_and_both_modalities_decide_them() -> None:
    gate = FeatureGate(8).eval()
    image, text = _pair(4, 8)
    values = gate(image, text)
    assert ((values > 0) & (values < 1)).all()
    assert not torch.allclose(values, gate(image, text.flip(0)))
    assert not torch.allclose(values, gate(image.flip(0), text))


def test_an_open_gate_changes_nothing_and_a_shut_one_removes_everything() -> None:
    editors = ModalityEditors(6).eval()
    image, text = _pair(3, 6)
    with torch.no_grad():
        editors.image.mlp[-1].bias.fill_(1e3)
        editors.text.mlp[-1].bias.fill_(-1e3)
    edited = editors(image, text)
    torch.testing.assert_close(edited.image, image)
    torch.testing.assert_close(edited.text, torch.zeros_like(text))


def test_gradients_reach_every_parameter() -> None:
    editors = ModalityEditors(16, dropout=0.0)
    edited = editors(*_pair(8, 16))
    (edited.image.sum() + edited.text.sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in editors.parameters())


def test_dropout_acts_in_training_only() -> None:
    editors = ModalityEditors(16, dropout=0.5)
    pair = _pair(8, 16)
    assert not torch.equal(editors(*pair).image, editors(*pair).image)
    editors.eval()
    assert torch.equal(editors(*pair).image, editors(*pair).image)


def test_the_pair_perceptron_has_the_published_shape_and_dropout() -> None:
    mlp = pair_mlp(5, 2, dropout=0.25)
    assert [tuple(p.shape) for p in mlp.parameters()] == [(5, 10), (5,), (2, 5), (2,)]
    assert [m.p for m in mlp if isinstance(m, torch.nn.Dropout)] == [0.25]
    assert FeatureGate(3).mlp[2].p == 0.5


def test_modalities_of_different_width_are_refused() -> None:
    image, _ = _pair(3, 6)
    _, text = _pair(3, 5)
    with pytest.raises((RuntimeError, TypeError)):
        ModalityEditors(6)(image, text)


@pytest.mark.parametrize("edited", ["both", "image", "text", "none"])
def test_a_modality_without_an_editor_is_left_as_it_is(edited: str) -> None:
    torch.manual_seed(0)
    editors = ModalityEditors(6, edited=edited).eval()
    image, text = torch.rand(3, 6), torch.rand(3, 6)
    found = editors(image, text)
    for name, before, after, gate in (
        ("image", image, found.image, found.image_gate),
        ("text", text, found.text, found.text_gate),
    ):
        is_edited = edited in ("both", name)
        assert torch.equal(after, before) == (not is_edited)
        assert bool((gate == 1).all()) == (not is_edited)
    gates = {name.split(".")[0] for name, _ in editors.named_parameters()}
    assert gates == {"both": {"image", "text"}, "none": set()}.get(edited, {edited})
