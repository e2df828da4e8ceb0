"""The CNN stream: its encoders, its editors and the whole, against loops that say the same slowly."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from dwclib.editors import Inception, cross_attend
from dwclib.encoders import BOOK_CNN, GeM, ResNet, WordLstm
from dwclib.errors import ConfigError, WeightsError
from dwclib.streams import DWC, ClipStream, CnnStream

DIM, CHANNELS, WORDS = 16, 128, 12


@pytest.fixture
def stream() -> CnnStream:
    torch.manual_seed(0)
    return CnnStream(ResNet(), WORDS, dim=DIM, word_dim=8).eval()


def _pictures(count: int = 3) -> Tensor:
    return torch.randint(0, 256, (count, 64, 64, 3), generator=torch.Generator().manual_seed(1)).byte()


TOKENS = torch.tensor([[2, 3, 4, 0], [5, 6, 0, 0], [7, 8, 9, 10]])


def test_gem_is_the_mean_for_p_1_and_near_the_maximum_for_large_p() -> None:
    z = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(GeM(p=1.0)(z), z.mean(2))
    torch.testing.assert_close(GeM(p=200.0)(z), z.amax(2), rtol=0.02, atol=0)
    torch.testing.assert_close(GeM()(z), (z**3).mean(2) ** (1 / 3))


def test_gem_counts_only_what_the_mask_keeps() -> None:
    z = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(7)[None] < torch.tensor([[3], [7]])
    expected = torch.stack([GeM()(z[:1, :, :3])[0], GeM()(z[1:])[0]])
    torch.testing.assert_close(GeM()(z, mask), expected)


def test_gem_in_half_precision_does_not_vanish() -> None:
    z = torch.full((1, 1, 4), 1e-6, dtype=torch.float16)
    assert float(GeM()(z).detach()) > 0


def test_masked_words_get_no_attention() -> None:
    V, T = torch.randn(1, DIM, 6), torch.randn(1, 4, DIM)
    mask = torch.tensor([[True, True, False, False]])
    found = cross_attend(V, T, mask)
    assert (found.over_words[:, 2:] == 0).all()
    torch.testing.assert_close(found.text_context, cross_attend(V, T[:, :2]).text_context)


@pytest.mark.parametrize("dimensions", [1, 2])
def test_inception_has_the_published_branches(dimensions: int) -> None:
    block = Inception(dimensions, 24, 16)
    kind = {1: nn.Conv1d, 2: nn.Conv2d}[dimensions]
    convolutions = [
        [layer for layer in branch.modules() if isinstance(layer, kind)] for branch in block.branches
    ]
    found = [[(c.in_channels, c.out_channels, c.kernel_size[0], c.bias) for c in cs] for cs in convolutions]
    assert found == [
        [(24, 6, 1, None)],
        [(24, 8, 1, None), (8, 4, 3, None)],
        [(24, 4, 1, None), (4, 2, 3, None), (2, 4, 3, None)],
        [(24, 2, 1, None)],
    ]
    assert block(torch.randn(2, 24, *[5] * dimensions)).shape == (2, 16, *[5] * dimensions)


@pytest.mark.parametrize("dimensions", [1, 2])
def test_the_average_is_over_real_places_and_may_come_after_its_convolution(dimensions: int) -> None:
    torch.manual_seed(0)
    layer = Inception(dimensions, 24, 16).eval().branches[3][0]
    x = torch.randn(2, 24, *[5] * dimensions)
    before = layer.norm(layer.convolution(layer.average(x)))
    torch.testing.assert_close(layer(x), before)
    constant = layer(torch.ones_like(x)).flatten(2)
    torch.testing.assert_close(constant, constant[..., :1].expand_as(constant))  # at the border too


def test_masked_words_are_no_part_of_means_and_statistics() -> None:
    """In training, texts with padding are normed as the same texts one by one, put together."""
    torch.manual_seed(0)
    block, lengths = Inception(1, 8, 16).double(), (2, 5, 3)
    x = torch.randn(3, 8, 9, dtype=torch.float64)
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]
    narrow, wide = block(x[..., :5], mask[:, :5]), block(x, mask)
    torch.testing.assert_close(narrow, wide[..., :5])
    layer = block.branches[3][0]
    rows = [layer.convolution(x[i : i + 1, :, :n]) for i, n in enumerate(lengths)]
    averaged = torch.cat([layer.average(row)[0] for row in rows], dim=1)  # (C, 2 + 5 + 3)
    normed = (averaged - averaged.mean(1, keepdim=True)) / (
        averaged.var(1, False, keepdim=True) + 1e-5
    ).sqrt()
    found = torch.cat([wide[i, -2:, :n] for i, n in enumerate(lengths)], dim=1)
    torch.testing.assert_close(found, normed)
    assert not wide.transpose(1, 2)[~mask].any()


@pytest.mark.parametrize("p", [3.0, 7.5, 8.0, 50.0])
def test_the_exponent_of_gem_learns_where_a_channel_is_clamped_everywhere(p: float) -> None:
    gem, z = GeM(p=p), torch.rand(2, 3, 5)
    z[:, 0] = -1.0
    gem(z).sum().backward()
    assert gem.p.grad.isfinite()
    exact = GeM(p=p).double()
    torch.testing.assert_close(gem(z).double(), (z.double().clamp(min=1e-6) ** p).mean(2) ** (1 / p))
    assert torch.autograd.gradcheck(lambda x: exact(x), z[:1, 1:].double().requires_grad_())


def test_inception_keeps_its_sign_and_sees_two_places_to_each_side() -> None:
    torch.manual_seed(0)
    block = Inception(1, 8, 16).eval()
    x = torch.randn(1, 8, 11, requires_grad=True)
    out = block(x)
    assert (out < 0).any()  # no ReLU at a branch's end
    out[0, :, 5].sum().backward()
    seen = x.grad[0].abs().sum(0) > 0
    assert seen.tolist() == [3 <= place <= 7 for place in range(11)]


def test_a_text_means_the_same_beside_a_longer_one(stream: CnnStream) -> None:
    maps = stream.encode(_pictures(1))
    short = torch.tensor([[2, 3, 4]])
    long = torch.tensor([[2, 3, 4, 0, 0, 0, 0]])
    torch.testing.assert_close(stream.compose(maps, short).query, stream.compose(maps, long).query)
    stream.mask_padding = False  # the released code's choice
    difference = stream.compose(maps, short).query - stream.compose(maps, long).query
    assert difference.abs().max() > 1e-4


def test_shapes_unit_norms_and_weights_between_0_and_1(stream: CnnStream) -> None:
    maps = stream.encode(_pictures())
    assert maps.shape == (3, CHANNELS, 8, 8)
    composition = stream.compose(maps, TOKENS)
    assert composition.query.shape == (3, DIM)
    torch.testing.assert_close(composition.query.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(stream.embed_target(maps).norm(dim=1), torch.ones(3))
    assert ((composition.modality_weight > 0) & (composition.modality_weight < 1)).all()


def test_the_query_mixes_features_that_are_not_normalised(stream: CnnStream) -> None:
    composition = stream.compose(stream.encode(_pictures()), TOKENS)
    lam, f_I, f_T = composition.modality_weight, composition.edited_image, composition.edited_text
    assert (f_I.norm(dim=1) - 1).abs().min() > 1e-3
    mix = lam * f_I + (1 - lam) * f_T
    torch.testing.assert_close(composition.query, mix / mix.norm(dim=1, keepdim=True))


def test_reference_and_target_share_the_projection_but_not_the_pooling(stream: CnnStream) -> None:
    maps = stream.encode(_pictures())
    before = stream.compose(maps, TOKENS).query, stream.embed_target(maps)
    with torch.no_grad():
        stream.target_pool.p.fill_(1.0)
    after = stream.compose(maps, TOKENS).query, stream.embed_target(maps)
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


def test_every_parameter_learns(stream: CnnStream) -> None:
    stream.train()
    query = stream.compose(stream.encode(_pictures()), TOKENS).query
    target = stream.embed_target(stream.encode(_pictures().flip(1)))
    (query * target).sum().backward()
    without = [name for name, p in stream.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_the_lstm_gives_one_state_a_word() -> None:
    lstm = WordLstm(WORDS, DIM, word_dim=8)
    states = lstm(TOKENS)
    assert states.shape == (3, 4, DIM)
    torch.testing.assert_close(states[:, :2], lstm(TOKENS[:, :2]))


def test_the_books_resnet_sees_and_takes_uint8() -> None:
    described = json.loads((BOOK_CNN / "config.json").read_text())
    assert described["architecture"] == "resnet18"
    net = ResNet().eval()
    black, white = torch.zeros(1, 64, 64, 3).byte(), torch.full((1, 64, 64, 3), 255).byte()
    assert not torch.allclose(net(black), net(white))


def test_a_local_weights_file_needs_no_network(tmp_path) -> None:
    torch.manual_seed(0)
    import timm
    from safetensors.torch import save_file

    whole = timm.create_model("resnet10t", num_classes=7)
    save_file(whole.state_dict(), tmp_path / "resnet10t.safetensors")
    torch.save(whole.state_dict(), tmp_path / "resnet10t.pth")
    for name in ("resnet10t.safetensors", "resnet10t.pth"):
        net = ResNet("resnet10t", tmp_path / name).eval()
        pictures = torch.randint(0, 256, (1, 64, 64, 3)).byte()
        images = (pictures.permute(0, 3, 1, 2) / 255 - net.mean) / net.std
        torch.testing.assert_close(net(pictures), whole.eval().forward_features(images))


@pytest.mark.parametrize(("name", "weights"), [("resnet-no-such", None), ("resnet10t", "nowhere.pth")])
def test_unknown_models_and_missing_weights_are_told(name: str, weights: str | None) -> None:
    with pytest.raises(WeightsError, match=name):
        ResNet(name, weights)


def test_a_damaged_folder_is_told(tmp_path) -> None:
    (tmp_path / "config.json").write_text((BOOK_CNN / "config.json").read_text())
    weights = (BOOK_CNN / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(WeightsError, match="cannot be loaded"):
        ResNet(tmp_path)


def test_adding_scores_is_joining_embeddings(stream: CnnStream) -> None:
    clip = ClipStream(10, dim=DIM).eval()
    dwc = DWC({"cnn": stream, "clip": clip})
    assert list(dwc.streams) == ["clip", "cnn"]
    x, w = torch.randn(3, 10), torch.randn(3, 10)
    maps = stream.encode(_pictures())
    queries = {"clip": dwc["clip"].compose(x, w).query, "cnn": dwc["cnn"].compose(maps, TOKENS).query}
    targets = {"clip": dwc["clip"].embed_target(x), "cnn": dwc["cnn"].embed_target(maps)}
    added = sum(queries[name] @ targets[name].T for name in queries)
    torch.testing.assert_close(dwc.joined(queries) @ dwc.joined(targets).T, added)


def test_a_dwc_needs_a_stream_it_knows() -> None:
    for streams in ({}, {"gru": ClipStream(4, dim=8)}):
        with pytest.raises(ConfigError, match="clip and cnn"):
            DWC(streams)


@pytest.mark.parametrize("edited", ["both", "image", "text", "none"])
def test_maps_and_words_without_an_editor_are_left_as_they_are(edited: str) -> None:
    stream = CnnStream(ResNet(), WORDS, dim=DIM, word_dim=8, editors=edited).eval()
    maps = stream.encode(_pictures())
    found = stream.edit(maps, TOKENS)
    states = stream.lstm(TOKENS).transpose(1, 2)
    assert torch.equal(found.image, maps) == (edited in ("text", "none"))
    assert torch.equal(found.text, states) == (edited in ("image", "none"))


def test_the_combiner_can_be_fixed_or_weigh_each_feature() -> None:
    fixed = CnnStream(ResNet(), WORDS, dim=DIM, word_dim=8, modality_weight=0.25).eval()
    maps = fixed.encode(_pictures())
    found = fixed.compose(maps, TOKENS)
    torch.testing.assert_close(found.modality_weight, torch.full((len(TOKENS), 1), 0.25))
    vector = CnnStream(ResNet(), WORDS, dim=DIM, word_dim=8, modality_weight="vector").eval()
    assert vector.compose(maps, TOKENS).modality_weight is None  # there is no one number
    torch.testing.assert_close(vector.compose(maps, TOKENS).query.norm(dim=1), torch.ones(len(TOKENS)))
