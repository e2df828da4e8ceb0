import json
import os
import shutil
import warnings

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from dwclib import encoders
from dwclib.data.synthfashion import synthfashion
from dwclib.encoders import BOOK_CLIP, Clip, features_of
from dwclib.errors import DatasetError, FeatureError, WeightsError
from dwclib.training.pretrain import zero_shot

GOLDEN_IMAGE = [3.983, -8.567, 3.202, -0.033]
GOLDEN_TEXT = [-0.191, -0.166, 0.56, 0.634]


@pytest.fixture(scope="module")
def clip():
    return Clip()


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setenv("DWC_CACHE", str(tmp_path))
    return synthfashion("val", images=40, queries=20, workers=1)


def test_it_is_frozen_and_in_eval_mode(clip):
    assert not clip.model.training
    assert not any(p.requires_grad for p in clip.parameters())
    before = clip.encode_texts(["is longer"])
    assert torch.equal(before, clip.encode_texts(["is longer"]))


def test_the_features_are_those_of_open_clips_own_pipeline(clip, world):
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{BOOK_CLIP}")
    model.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{BOOK_CLIP}")
    pictures = torch.stack([preprocess(Image.fromarray(picture)) for picture in world.pictures[:5]])
    with torch.no_grad():
        torch.testing.assert_close(clip.encode_images(world.pictures[:5]), model.encode_image(pictures))
        texts = world.texts()[:5]
        torch.testing.assert_close(clip.encode_texts(texts), model.encode_text(tokenizer(texts)))


def test_golden_features(clip):
    image = clip.encode_images(np.full((1, 64, 64, 3), 128, np.uint8))[0, :4]
    text = clip.encode_texts(["a red dress"])[0, :4]
    torch.testing.assert_close(image, torch.tensor(GOLDEN_IMAGE), atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(text, torch.tensor(GOLDEN_TEXT), atol=2e-3, rtol=1e-3)


def test_batches_do_not_change_the_features(clip, world):
    texts = world.texts()
    torch.testing.assert_close(clip.encode_texts(texts, batch=3), clip.encode_texts(texts))
    torch.testing.assert_close(
        clip.encode_images(world.pictures, batch=7), clip.encode_images(world.pictures)
    )


def test_larger_pictures_are_brought_to_size(clip, world):
    large = np.repeat(np.repeat(world.pictures[:4], 2, axis=1), 2, axis=2)
    a, b = clip.encode_images(large), clip.encode_images(world.pictures[:4])
    assert torch.cosine_similarity(a, b).min() > 0.98


def test_the_card_and_the_weights_agree(clip):
    stored = json.loads((BOOK_CLIP / "metrics.json").read_text())
    found = zero_shot(clip)
    assert {name: stored[name] for name in found} == pytest.approx(found, abs=0.3)
    card = (BOOK_CLIP / "README.md").read_text()
    assert all(f"| {name} | {value} |" in card for name, value in stored.items())


def test_the_weights_are_small_enough_for_git():
    assert (BOOK_CLIP / "open_clip_model.safetensors").stat().st_size <= 12e6


def test_features_are_computed_once(clip, world, monkeypatch):
    first = features_of(clip, world, world.pictures)
    assert first.images.shape == (40, 128)
    assert first.texts.shape == (20, 128)
    monkeypatch.setattr(encoders.Clip, "encode_images", None)
    monkeypatch.setattr(encoders.Clip, "encode_texts", None)
    again = features_of(clip, world, world.pictures)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.texts, again.texts)


def test_other_pictures_or_other_weights_are_other_features(clip, world, tmp_path):
    first = features_of(clip, world, world.pictures)
    darker = features_of(clip, world, world.pictures // 2)
    assert not torch.equal(first.images, darker.images)
    other = Clip()
    with torch.no_grad():
        for parameter in other.model.visual.attnpool.c_proj.parameters():
            parameter.mul_(2)
    doubled = features_of(other, world, world.pictures)
    torch.testing.assert_close(doubled.images, 2 * first.images)


def damaged(content: bytes) -> dict[str, bytes]:
    """Return a features file, damaged in many ways."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    rng = np.random.default_rng(0)
    found = {f"first {n} bytes": content[:n] for n in (0, 7, 8, 60, len(content) // 2, len(content) - 4)}
    for place in map(int, rng.integers(0, len(content), 25)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        found[f"a bit of byte {place}"] = bytes(flipped)

    def described(**changes):
        text = json.dumps({"__metadata__": header["__metadata__"], "features": header["features"] | changes})
        return len(text).to_bytes(8, "little") + text.encode() + content[8 + size :]

    n, dim = header["features"]["shape"]
    found |= {
        "fewer rows of more columns": described(shape=[n // 2, dim * 2]),
        "flat": described(shape=[n * dim]),
        "whole numbers": described(dtype="I32"),
        "halves": described(dtype="BF16", shape=[n, dim * 2]),
        "nothing": (2).to_bytes(8, "little") + b"{}",
        "deep": (10**5).to_bytes(8, "little") + b"[" * 10**5,
        "text": b"no features" * 100,
    }
    return found


def test_damaged_features_are_computed_anew(clip, world, tmp_path):
    first = features_of(clip, world, world.pictures)
    paths = list((tmp_path / "features").iterdir())
    whole = [path.read_bytes() for path in paths]
    assert len(damaged(whole[0])) > 30
    for how, content in damaged(whole[0]).items():
        paths[0].write_bytes(content)
        with pytest.warns(UserWarning, match="damaged; they are computed anew") as told:
            again = features_of(clip, world, world.pictures)
        assert len(told) == 1, how
        assert torch.equal(first.images, again.images), how
        assert torch.equal(first.texts, again.texts), how
        assert paths[0].read_bytes() == whole[0], how


def test_features_of_another_input_are_not_taken(clip, world, tmp_path):
    first = features_of(clip, world, world.pictures)
    one, other = (tmp_path / "features").iterdir()
    other.write_bytes(one.read_bytes())
    with pytest.warns(UserWarning, match="damaged"):
        again = features_of(clip, world, world.pictures)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.texts, again.texts)


@pytest.mark.parametrize("kind", ["folder", "pipe", "broken link"])
def test_what_is_no_file_gives_way_to_the_features(clip, world, tmp_path, kind):
    first = features_of(clip, world, world.pictures)
    for path in (tmp_path / "features").iterdir():
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to(tmp_path / "nowhere")
    again = features_of(clip, world, world.pictures)
    assert torch.equal(first.images, again.images)
    assert all(path.is_file() for path in (tmp_path / "features").iterdir())


def test_features_that_are_not_finite_are_not_kept(world, tmp_path):
    broken = Clip()
    broken.model.ln_final.bias.data[0] = torch.nan
    with pytest.raises(FeatureError, match="not finite"):
        features_of(broken, world, world.pictures)
    with pytest.raises(FeatureError, match="not finite"):
        features_of(broken, world, world.pictures)


def test_the_activation_belongs_to_the_features(clip):
    other = Clip()
    for block in other.model.transformer.resblocks:
        block.mlp.gelu = open_clip.transformer.QuickGELU()
    assert other.identity() != clip.identity() == Clip().identity()
    assert not torch.equal(other.encode_texts(["is red"]), clip.encode_texts(["is red"]))


def test_a_folder_that_moved_holds_the_same_clip(clip, tmp_path):
    shutil.copytree(BOOK_CLIP, tmp_path / "elsewhere")
    assert Clip(tmp_path / "elsewhere").identity() == clip.identity()


def test_texts_that_clip_cannot_read_to_the_end_are_counted(clip):
    fits, long = " ".join(["red"] * 62), " ".join(["red"] * 63)
    with warnings.catch_warnings(action="error"):
        clip.encode_texts([fits, "is red"])
    with pytest.warns(UserWarning, match="2 of 4 texts are longer than CLIP reads"):
        clip.encode_texts([fits, long, "is red", long + " and longer"])


def test_only_a_long_encoding_shows_a_bar(clip, world, capsys, monkeypatch):
    monkeypatch.setattr(encoders, "PATIENCE", 600.0)
    clip.encode_images(world.pictures)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(encoders, "PATIENCE", 0.0)
    clip.encode_images(world.pictures)
    out, error = capsys.readouterr()
    assert out == ""
    assert "encode images" in error


def test_an_interrupted_computation_leaves_nothing_behind(clip, world, monkeypatch, tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("safetensors.torch.save_file", stop)
        features_of(clip, world, world.pictures)
    assert list((tmp_path / "features").iterdir()) == []


def test_pictures_of_another_dataset_are_refused(clip, world):
    with pytest.raises(FeatureError, match="39 pictures for 40 image ids"):
        features_of(clip, world, world.pictures[:-1])


@pytest.mark.parametrize("text", ["", "   "])
def test_an_empty_text_is_refused(clip, text):
    with pytest.raises(DatasetError, match="text 1"):
        clip.encode_texts(["is red", text])


def test_an_rn50_takes_a_local_weights_file(tmp_path, world):
    torch.manual_seed(0)
    model = open_clip.create_model("RN50", force_quick_gelu=True).eval()
    path = tmp_path / "rn50.pt"
    torch.save({"state_dict": model.state_dict()}, path)
    loaded = Clip("RN50", path)
    assert loaded.encode_images(world.pictures[:1]).shape == (1, 1024)
    with torch.no_grad():
        expected = model.encode_text(open_clip.tokenize(["is red"]))
    torch.testing.assert_close(loaded.encode_texts(["is red"]), expected)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("RN5000", "openai", "no such model"),
        ("RN50", None, "no weights are named"),
        ("RN50", "no/such/file.pt", "no such file"),
    ],
)
def test_unknown_models_and_missing_weights_are_named(name, weights, message):
    with pytest.raises(WeightsError, match=message):
        Clip(name, weights)


@pytest.mark.parametrize("damage", ["missing", "truncated", "config"])
def test_a_damaged_folder_is_named(tmp_path, damage):
    folder = tmp_path / "clip"
    shutil.copytree(BOOK_CLIP, folder)
    weights = folder / "open_clip_model.safetensors"
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:100_000])
    else:
        (folder / "open_clip_config.json").write_text("{")
    with pytest.raises(WeightsError, match="cannot be loaded"):
        Clip(folder)
