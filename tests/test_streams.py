"""The CLIP stream against its equations, and the interface that every composer has."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from dwclib.combiner import normalise
from dwclib.encoders import ResNet
from dwclib.streams import ClipStream, CnnStream, Composer, Composition, ProjectionHead, TwoHeadComposer

FEATURES, DIM, BATCH = 10, 32, 6


def _features(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(BATCH, FEATURES, generator=generator)
    return image, torch.randn(BATCH, FEATURES, generator=generator)


def _stream() -> ClipStream:
    torch.manual_seed(0)
    return ClipStream(FEATURES, dim=DIM).eval()


def test_shapes_and_unit_norm() -> None:
    stream = _stream()
    image, text = _features()
    composition = stream.compose(image, text)
    assert isinstance(composition, Composition)
    assert composition.query.shape == composition.edited_image.shape == (BATCH, DIM)
    assert composition.edited_text.shape == (BATCH, DIM)
    assert composition.modality_weight.shape == (BATCH, 1)
    assert ((composition.modality_weight > 0) & (composition.modality_weight < 1)).all()
    torch.testing.assert_close(composition.query.norm(dim=1), torch.ones(BATCH))
    torch.testing.assert_close(stream.embed_target(image).norm(dim=1), torch.ones(BATCH))


def test_a_forward_pass_is_the_queries_and_the_targets_of_a_batch() -> None:
    stream = _stream()
    (references, texts), (targets, _) = _features(), _features(1)
    placed = stream(references, targets, texts)
    assert torch.equal(placed.composition.query, stream.compose(references, texts).query)
    assert torch.equal(placed.targets, stream.embed_target(targets))
    assert placed.reference_features is references
    assert placed.target_features is targets


def test_a_forward_pass_of_the_cnn_stream_encodes_references_then_targets_then_edits() -> None:
    """Batch norm keeps the statistics of its last pass best: their order is a part of the method."""
    torch.manual_seed(0)
    stream, seen = CnnStream(ResNet(), 12, dim=DIM, word_dim=8).eval(), []
    pictures = torch.randint(0, 256, (2, 3, 64, 64, 3), generator=torch.Generator().manual_seed(0)).byte()
    words = torch.randint(1, 12, (3, 5), generator=torch.Generator().manual_seed(1))
    for part in (stream.cnn, stream.editors, stream.combiner):
        part.register_forward_hook(lambda part, given, made: seen.append((part, given[0])))
    placed = stream(*pictures, words)
    assert [part for part, _ in seen] == [stream.cnn, stream.cnn, stream.editors, stream.combiner]
    assert all(torch.equal(given, images) for (_, given), images in zip(seen, pictures, strict=False))
    maps = stream.encode(pictures[0])
    torch.testing.assert_close(placed.reference_features, maps)
    torch.testing.assert_close(placed.composition.query, stream.compose(maps, words).query)
    torch.testing.assert_close(placed.targets, stream.embed_target(stream.encode(pictures[1])))


def test_forcing_the_weight_leaves_one_modality() -> None:
    stream = _stream()
    for bias, part in ((1e3, "edited_image"), (-1e3, "edited_text")):
        with torch.no_grad():
            stream.combiner.mlp[-1].bias.fill_(bias)
        composition = stream.compose(*_features())
        torch.testing.assert_close(composition.query, normalise(getattr(composition, part)))


def test_gradients_reach_every_parameter() -> None:
    stream = ClipStream(FEATURES, dim=DIM, dropout=0.0)
    image, text = _features()
    (stream.compose(image, text).query * stream.embed_target(text)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in stream.parameters())


def test_queries_do_not_depend_on_the_rest_of_the_batch() -> None:
    stream = _stream()
    image, text = _features()
    whole, one = stream.compose(image, text), stream.compose(image[2:3], text[2:3])
    torch.testing.assert_close(whole.query[2:3], one.query)


def test_width_and_dropout_default_to_the_published_ones() -> None:
    stream = ClipStream(4)
    assert stream.embed_target(torch.ones(2, 4)).shape == (2, 1024)
    assert {m.p for m in stream.modules() if isinstance(m, torch.nn.Dropout)} == {0.5}
    quiet = ClipStream(4, dim=8, dropout=0.1)
    assert [m.p for m in quiet.modules() if isinstance(m, torch.nn.Dropout)] == [0.1] * 5


def test_the_head_is_linear_then_relu_then_dropout() -> None:
    head = ProjectionHead(3, 5)
    assert [type(layer).__name__ for layer in head] == ["Linear", "ReLU", "Dropout"]
    u = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(head.eval()(u), (u @ head[0].weight.T + head[0].bias).clamp(min=0))


def test_the_interface_cannot_be_left_unfinished() -> None:
    for unfinished in (Composer, TwoHeadComposer):
        with pytest.raises(TypeError, match="abstract"):
            unfinished(4)


def test_features_of_the_wrong_width_are_refused() -> None:
    with pytest.raises((RuntimeError, TypeError)):
        _stream().compose(torch.ones(2, FEATURES), torch.ones(2, FEATURES + 1))


REFUSED = """
from dwclib.errors import ConfigError
from dwclib.streams import ClipStream
WRONG = {"editors": "x"}, {"modality_weight": 3}, {"modality_weight": "x"}, {"dropout": 2.0}, {"dim": 0}
for wrong in WRONG:
    try:
        print(ClipStream(16, **{"dim": 8} | wrong))
    except ConfigError as error:
        print("refused")
"""


def test_a_switch_that_cannot_be_is_refused() -> None:
    found = subprocess.run([sys.executable, "-c", REFUSED], capture_output=True, text=True, check=True)
    assert found.stdout.split() == 5 * ["refused"]  # in a process without the tests' checks of types
