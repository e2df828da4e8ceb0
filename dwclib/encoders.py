"""The frozen CLIP: two encoders into one space, loaded by open_clip, whose features are computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dwclib.data.triplets import check_captions
from dwclib.errors import FeatureError, WeightsError
from dwclib.files import ROOT, atomic, cache_folder, fingerprint

if TYPE_CHECKING:
    from dwclib.data.triplets import Triplets

BOOK_CLIP = ROOT / "data" / "clip"  # a folder in open_clip's own layout


class Features(NamedTuple):
    """What the frozen CLIP makes of a dataset: (images, clip_dim) and (queries, clip_dim), not normalised."""

    images: Float[Tensor, "images clip_dim"]
    texts: Float[Tensor, "queries clip_dim"]


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


def features_of(clip: Clip, dataset: Triplets, pictures: UInt8[np.ndarray, "images h w 3"]) -> Features:
    """Encode the images and texts of a dataset, or read what an earlier call computed from the same input.

    Parameters
    ----------
    clip : the frozen encoder.
    dataset : gives the texts.
    pictures : its images, in the order of `dataset.image_ids`.

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
    texts = dataset.texts()
    return Features(
        images=_cached(
            fingerprint(model, np.ascontiguousarray(pictures).tobytes()), lambda: clip.encode_images(pictures)
        ),
        texts=_cached(fingerprint(model, texts), lambda: clip.encode_texts(texts)),
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
