"""Encoders of images and texts.

The CLIP stream's CLIP is frozen: its features are computed once (notebook 02). The CNN stream's two learn: a
ResNet for images, an LSTM over words (notebook 07).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor, nn

from dwclib.data.triplets import check_captions
from dwclib.errors import FeatureError, WeightsError
from dwclib.files import ROOT, atomic, cache_folder, fingerprint

if TYPE_CHECKING:
    from dwclib.data.triplets import Triplets

BOOK_CLIP = ROOT / "data" / "clip"  # a folder in open_clip's own layout
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the pictures that CLIP was trained on
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
BOOK_CNN = ROOT / "data" / "cnn"  # a folder in timm's own layout


class Features(NamedTuple):
    """What a stream reads of a dataset, one row per image and one per query.

    For the CLIP stream, what the frozen CLIP makes of it: (images, clip_dim) and (queries, clip_dim), not
    normalised. For the CNN stream, the pictures and words: (images, h, w, 3) uint8 and (queries, words).
    `mirrored` are CLIP's features of the mirror images, where training is to use them.
    """

    images: Shaped[Tensor, "images ..."]
    texts: Shaped[Tensor, "queries ..."]
    mirrored: Shaped[Tensor, "images ..."] | None = None


class Clip(nn.Module):
    """A frozen CLIP in eval mode.

    Parameters
    ----------
    name : an open_clip model ("RN50", "ViT-B-32", ...) or the path of a folder in open_clip's layout
        (``open_clip_config.json`` beside the weights). By default the small CLIP that comes with this book.
    weights : a tag that open_clip knows for the model ("openai"), or the path of a weights file. Must be None
        for a folder, which brings its own.
    device : where to run.

    Raises
    ------
    WeightsError
        When model or weights are unknown, missing, damaged or cannot be fetched.
    """

    model: Any  # open_clip's models share names, not a class
    tokenizer: Any
    mean: Tensor
    std: Tensor

    def __init__(
        self, name: str | Path = BOOK_CLIP, weights: str | Path | None = None, *, device: str = "cpu"
    ) -> None:
        super().__init__()
        self.name, self.weights = str(name), str(weights or "")
        self.model, self.tokenizer = _load(name, weights)
        self.to(device).eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(self.model.visual.image_mean), persistent=False)
        self.register_buffer("std", torch.tensor(self.model.visual.image_std), persistent=False)
        self.to(device)

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.model.logit_scale.device

    @property
    def image_size(self) -> int:
        """Width and height that the image encoder expects, in pixels."""
        size = self.model.visual.image_size
        return size[0] if isinstance(size, tuple) else size

    def preprocess(self, pictures: UInt8[np.ndarray, "batch h w 3"]) -> Float[Tensor, "batch 3 size size"]:
        """Bring square uint8 pictures to the size, range and statistics that CLIP was trained with."""
        images = torch.from_numpy(np.array(pictures)).to(self.device)
        images = images.permute(0, 3, 1, 2).float() / 255  # (batch, h, w, 3) -> (batch, 3, h, w)
        if images.shape[-1] != self.image_size:
            images = nn.functional.interpolate(images, self.image_size, mode="bicubic", antialias=True)
        return (images - self.mean[:, None, None]) / self.std[:, None, None]

    @torch.no_grad()
    def encode_images(
        self, pictures: UInt8[np.ndarray, "images h w 3"], *, batch: int = 250
    ) -> Float[Tensor, "images clip_dim"]:
        """Encode pictures, `batch` at a time; the features come back on the CPU."""
        parts = [self.model.encode_image(self.preprocess(part)).cpu() for part in _batches(pictures, batch)]
        return torch.cat(parts)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str], *, batch: int = 250) -> Float[Tensor, "texts clip_dim"]:
        """Encode texts, `batch` at a time; the features come back on the CPU.

        Raises
        ------
        DatasetError
            For an empty text, or one that is no string.
        """
        for position, text in enumerate(texts):
            check_captions([text], f"text {position}")
        tokens = self.tokenizer(list(texts))  # (texts, context)
        parts = [self.model.encode_text(part.to(self.device)).cpu() for part in tokens.split(batch)]
        return torch.cat(parts)

    def identity(self) -> str:
        """Return a fingerprint of the model's weights."""
        state = self.model.state_dict()
        return fingerprint(self.name, *(state[key].cpu().numpy().tobytes() for key in sorted(state)))


class ResNet(nn.Module):
    """A convolutional network that keeps its map of features: (batch, 3, h, w) to (batch, channels, h', w').

    Parameters
    ----------
    name : a timm model ("resnet50", ...) or the path of a folder in timm's layout (``config.json`` beside
        ``model.safetensors``). By default the small ResNet that comes with this book.
    weights : "imagenet" for timm's pre-trained weights, or the path of a weights file; None starts a timm
        model at random, and is the only choice for a folder, which brings its own.
    random : leave a folder's weights aside and start at random.

    Raises
    ------
    WeightsError
        When model or weights are unknown, missing, damaged or cannot be fetched.

    Source: released code, CNN stream (ResNet-50 up to its last convolutional stage).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, name: str | Path = BOOK_CNN, weights: str | Path | None = None, *, random: bool = False
    ) -> None:
        super().__init__()
        self.body = _load_cnn(name, weights, random)
        self.channels: int = self.body.num_features
        for statistic, values in (("mean", CLIP_MEAN), ("std", CLIP_STD)):
            self.register_buffer(statistic, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, pictures: UInt8[Tensor, "batch h w 3"]) -> Float[Tensor, "batch channels rows columns"]:
        """Return the last stage's feature maps X of uint8 pictures."""
        images = pictures.permute(0, 3, 1, 2).float() / 255  # a view: channels last in memory
        return self.body.forward_features((images - self.mean) / self.std)  # (B, 3, h, w) -> (B, C, h', w')


class GeM(nn.Module):
    """Generalised-mean pooling, ``(mean_p max(z_p, eps)^p)^(1/p)``: p = 1 is the mean, large p the maximum.

    Parameters
    ----------
    p : the exponent's first value; it is learned.
    eps : what values are raised to at least.

    Source: released code, CNN stream.
    """

    def __init__(self, *, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(p))
        self.eps = eps

    def forward(
        self, features: Float[Tensor, "batch dim places"], mask: Bool[Tensor, "batch places"] | None = None
    ) -> Float[Tensor, "batch dim"]:
        """Pool over the places (positions of a map, words of a text) where `mask` is true, or over all."""
        powers = features.float().clamp(min=self.eps).pow(self.p)  # float32: 1e-18 is zero in float16
        if mask is None:
            return powers.mean(dim=2).pow(1 / self.p)  # (B, D, P) -> (B, D)
        counted = mask[:, None, :].float()  # (B, L) -> (B, 1, L)
        return ((powers * counted).sum(dim=2) / counted.sum(dim=2)).pow(1 / self.p)


class WordLstm(nn.Module):
    """Word embeddings and a one-layer LSTM over them, trained from scratch.

    Parameters
    ----------
    words : size of the vocabulary; word 0 is the padding.
    dim : D, width of the hidden state.
    word_dim : width of a word's embedding.

    Source: released code, CNN stream.
    """

    def __init__(self, words: int, dim: int, *, word_dim: int = 512) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, word_dim, padding_idx=0)
        self.lstm = nn.LSTM(word_dim, dim, batch_first=True)

    def forward(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length dim"]:
        """Return the LSTM's state T after each word."""
        return self.lstm(self.embedding(tokens))[0]  # (B, L) -> (B, L, word_dim) -> (B, L, D)


def features_of(
    clip: Clip,
    dataset: Triplets,
    pictures: UInt8[np.ndarray, "images h w 3"],
    *,
    texts: Sequence[str] | None = None,
    mirrored: bool = False,
) -> Features:
    """Encode the images and texts of a dataset, or read what an earlier call computed from the same input.

    Parameters
    ----------
    clip : the frozen encoder.
    dataset : gives the texts.
    pictures : its images, in the order of `dataset.image_ids`.
    texts : one per query; the annotators' captions joined by default.
    mirrored : encode the mirror images too.

    Raises
    ------
    FeatureError
        When there is not one picture per image id.
    """
    if len(pictures) != len(dataset.image_ids):
        raise FeatureError(
            f"{len(pictures)} pictures for {len(dataset.image_ids)} image ids",
            where=dataset.name,
            remedy="Pass the pictures of this dataset.",
        )
    model = clip.identity()
    texts = dataset.texts() if texts is None else list(texts)
    key = fingerprint(model, np.ascontiguousarray(pictures).data.cast("B"))  # read, not copied
    return Features(
        images=_cached(key, lambda: clip.encode_images(pictures)),
        texts=_cached(fingerprint(model, texts), lambda: clip.encode_texts(texts)),
        mirrored=_cached(f"{key}-mirrored", lambda: clip.encode_images(pictures[:, :, ::-1]))
        if mirrored
        else None,
    )


def _load(name: str | Path, weights: str | Path | None) -> tuple[Any, Any]:
    import open_clip

    folder = Path(name)
    is_folder = folder.is_dir()
    where = folder if is_folder else f"CLIP {name!r} with weights {str(weights)!r}"
    model_name = f"local-dir:{folder}" if is_folder else str(name)
    if not is_folder and str(name) not in open_clip.list_models():
        raise WeightsError(
            "there is no such folder, and open_clip has no such model",
            where=where,
            remedy="Name a folder with open_clip_config.json, or one of open_clip.list_models().",
        )
    if not is_folder and weights is None:
        raise WeightsError(
            "no weights are named", where=where, remedy="Add weights='openai', or the path of a weights file."
        )
    try:
        model = open_clip.create_model(
            model_name,
            pretrained=None if is_folder else str(weights),
            force_quick_gelu=str(weights) == "openai",  # OpenAI trained with QuickGELU
            require_pretrained=True,
        )
    except Exception as error:  # open_clip, the hub and safetensors each have their own
        raise WeightsError(
            f"the weights cannot be loaded ({_first_line(error)})",
            where=where,
            remedy="Check the file, or download the weights on a machine with a network and name the file; "
            "without any, leave both arguments out to use the CLIP that comes with the book.",
        ) from error
    return model, open_clip.get_tokenizer(model_name)


def _load_cnn(name: str | Path, weights: str | Path | None, random: bool) -> Any:
    import timm
    from safetensors import SafetensorError

    folder = Path(name)
    config = folder / "config.json"
    try:
        if config.is_file():
            described = json.loads(config.read_text(encoding="utf-8"))
            body = timm.create_model(
                described["architecture"], num_classes=0, global_pool="", **described["model_args"]
            )
            if not random:
                body.load_state_dict(_read_weights(folder / "model.safetensors"))
            return body
        path = None if weights in (None, "imagenet") else weights
        body = timm.create_model(str(name), pretrained=weights == "imagenet", num_classes=0, global_pool="")
        if path is not None:
            body.load_state_dict(_without_classifier(_read_weights(Path(path))))
        return body
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise WeightsError(
            f"the CNN cannot be loaded ({_first_line(error)})",
            where=folder if config.is_file() else f"CNN {str(name)!r} with weights {str(weights)!r}",
            remedy="Name a folder with config.json and model.safetensors, or one of timm.list_models() and "
            "the path of its weights; without any, leave both arguments out to use the book's own.",
        ) from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        return {key: value.float() for key, value in load_file(path).items()}
    return torch.load(path, map_location="cpu", weights_only=True)


def _without_classifier(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.startswith(("fc.", "head."))}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _batches(
    pictures: UInt8[np.ndarray, "images h w 3"], batch: int
) -> Iterator[UInt8[np.ndarray, "b h w 3"]]:
    for start in range(0, len(pictures), batch):
        yield pictures[start : start + batch]


def _cached(key: str, compute: Callable[[], Float[Tensor, "n clip_dim"]]) -> Float[Tensor, "n clip_dim"]:
    from safetensors.torch import load_file, save_file

    path = cache_folder("features") / f"{key}.safetensors"
    if not path.exists():
        with atomic(path) as target:
            save_file({"features": compute().clone()}, target)
    return load_file(path)["features"]
