"""Pre-training of the two networks that come with the book, on a world of SynthFashion of its own.

``python -m dwclib pretrain clip`` writes ``data/clip/``, from images and full captions, as CLIP is trained;
``python -m dwclib pretrain cnn`` writes ``data/cnn/``, from images and their attributes, as an ImageNet
network is trained from images and their classes. Both write weights and metrics, and fill in the model card.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from tqdm import tqdm

from dwclib.data.garments import ATTRIBUTES
from dwclib.data.language import PREDICATES, full_caption
from dwclib.data.synthfashion import SynthFashion, synthfashion
from dwclib.encoders import BOOK_CLIP, BOOK_CNN, Clip, ResNet
from dwclib.files import atomic, check_changeable, write_json
from dwclib.retrieval import rank, recall_at_k

WEIGHTS = "open_clip_model.safetensors"
CNN_WEIGHTS = "model.safetensors"
CARD = "README.md"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of a training by AdamW, whose learning rate warms up over 5 % of the steps and falls along a cosine.

    Parameters
    ----------
    images : how many pictures to draw; each epoch describes them in new words.
    epochs, batch, learning_rate, weight_decay : of the optimizer.
    seed : of weights, order, and captions.
    """

    images: int = 24_000
    epochs: int
    batch: int = 64
    learning_rate: float
    weight_decay: float
    seed: int = 0


CLIP_SETTINGS = Settings(epochs=20, learning_rate=1e-3, weight_decay=0.1)
CNN_SETTINGS = Settings(epochs=12, learning_rate=2e-3, weight_decay=0.05)


def pretrain_clip(folder: Path = BOOK_CLIP, settings: Settings = CLIP_SETTINGS) -> dict[str, float]:
    """Train the model that ``open_clip_config.json`` in `folder` describes; write weights, metrics and card.

    Parameters
    ----------
    folder : where the configuration is and the results go.
    settings : of the training.

    Returns
    -------
    The zero-shot figures on the evaluation split, as in ``metrics.json``.
    """
    import open_clip

    check_changeable(folder / WEIGHTS)
    start = time.time()
    torch.manual_seed(settings.seed)
    model: Any = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    dataset = synthfashion("pretrain", images=settings.images)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0}
    rng, contrast = np.random.default_rng(settings.seed), open_clip.ClipLoss()

    def loss_of(rows: Int[np.ndarray, " b"]) -> Tensor:
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        return contrast(*model(*_batch(model, tokenizer, dataset, rows, rng)))

    groups = [{"params": matrices}, others]
    _fit(groups, settings, rng.permutation, loss_of, betas=(0.9, 0.98), clipped=model.parameters())
    _save_weights(model, folder / WEIGHTS)
    return _told(folder, BOOK_CLIP, settings, zero_shot(Clip(folder)), start)


def pretrain_cnn(folder: Path = BOOK_CNN, settings: Settings = CNN_SETTINGS) -> dict[str, float]:
    """Train the ResNet that ``config.json`` in `folder` describes to tell every attribute of a garment.

    Parameters
    ----------
    folder : where the configuration is and the results go.
    settings : of the training.

    Returns
    -------
    For each attribute the share (per cent) of validation images told right, as in ``metrics.json``.
    """
    check_changeable(folder / CNN_WEIGHTS)
    start = time.time()
    torch.manual_seed(settings.seed)
    net = ResNet(folder, random=True)
    net.to(memory_format=torch.channels_last)
    heads = nn.ModuleList([nn.Linear(net.channels, len(values)) for values in ATTRIBUTES.values()])
    dataset = synthfashion("pretrain", images=settings.images)
    pictures, codes = torch.from_numpy(np.array(dataset.pictures)), torch.from_numpy(dataset.codes)

    def loss_of(rows: Int[Tensor, " b"]) -> Tensor:
        pooled = net(pictures[rows]).mean(dim=(2, 3))  # (B, C, h, w) -> (B, C)
        told = zip(heads, codes[rows].T, strict=True)
        return torch.stack([nn.functional.cross_entropy(head(pooled), code) for head, code in told]).sum()

    _fit([*net.parameters(), *heads.parameters()], settings, torch.randperm, loss_of)
    _save_weights(net.body, folder / CNN_WEIGHTS)
    return _told(folder, BOOK_CNN, settings, _attributes_told(net.eval(), heads), start)


@torch.no_grad()
def _attributes_told(net: ResNet, heads: nn.ModuleList) -> dict[str, float]:
    dataset = synthfashion("val")
    pooled = torch.cat(
        [net(part).mean(dim=(2, 3)) for part in torch.from_numpy(np.array(dataset.pictures)).split(250)]
    )
    return {
        attribute: round(100 * float((heads[i](pooled).argmax(1).numpy() == dataset.codes[:, i]).mean()), 1)
        for i, attribute in enumerate(ATTRIBUTES)
    }


def zero_shot(clip: Clip, *, seed: int = 0) -> dict[str, float]:
    """Measure what a CLIP knows about SynthFashion's evaluation split without any training on it.

    Returns
    -------
    Recall@1, 10 and 50 in per cent of finding an image by a caption that names every attribute, over as many
    images as the split has; and for each attribute the share (per cent) of images whose value is told right.
    """
    dataset = synthfashion("val")
    rng = np.random.default_rng(seed)
    captions = [full_caption(dataset.garment(i), rng, keep=1.0) for i in range(len(dataset.pictures))]
    images = nn.functional.normalize(clip.encode_images(dataset.pictures), dim=-1)
    texts = nn.functional.normalize(clip.encode_texts(captions), dim=-1)
    recall = recall_at_k(rank(texts, images, k=50), torch.arange(len(images)), ks=(1, 10, 50))
    metrics = {f"R@{k}": round(value, 2) for k, value in recall.items()}
    for column, (attribute, values) in enumerate(ATTRIBUTES.items()):
        if attribute in PREDICATES:
            prompts = [f"a garment, {PREDICATES[attribute][value][0]}" for value in values]
            scores = images @ nn.functional.normalize(clip.encode_texts(prompts), dim=-1).T
            right = scores.argmax(-1).numpy() == dataset.codes[:, column]
            metrics[attribute] = round(100 * float(right.mean()), 1)
    return metrics


def _fit(
    weights: list[Any],
    settings: Settings,
    order: Callable[[int], Any],
    loss_of: Callable[[Any], Tensor],
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    clipped: Iterable[Tensor] = (),
) -> None:
    """Train weights by AdamW, a step on each batch.

    Parameters
    ----------
    weights, betas : as AdamW takes them.
    settings : of the training.
    order : gives the images of an epoch, shuffled.
    loss_of : gives the loss of some of these.
    clipped : the weights whose gradients are held to a norm of one.
    """
    images, size = settings.images, settings.batch
    steps = settings.epochs * (images // size)
    optimizer = torch.optim.AdamW(
        weights, lr=settings.learning_rate, betas=betas, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_cosine(step / steps))
    epochs = (order(images)[: images // size * size].reshape(-1, size) for _ in range(settings.epochs))
    bar, clipped = tqdm(chain.from_iterable(epochs), total=steps, desc="pretrain"), list(clipped)
    for rows in bar:
        loss = loss_of(rows)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(clipped, 1.0)
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}")


def _batch(
    model: Any, tokenizer: Any, dataset: SynthFashion, rows: Int[np.ndarray, " b"], rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    captions = [full_caption(dataset.garment(row), rng) for row in rows]
    pictures = torch.from_numpy(dataset.pictures[np.sort(rows)][np.argsort(np.argsort(rows))])
    mean, std = (torch.tensor(v)[:, None, None] for v in (model.visual.image_mean, model.visual.image_std))
    return (pictures.permute(0, 3, 1, 2).float() / 255 - mean) / std, tokenizer(captions)


def _warm_cosine(progress: float) -> float:
    return min(progress / 0.05, 0.5 * (1 + math.cos(math.pi * progress)))


def _save_weights(model: Any, path: Path) -> None:
    from safetensors.torch import save_file

    with atomic(path) as target:
        save_file({name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}, target)


def _told(
    folder: Path, book: Path, settings: Settings, metrics: dict[str, float], start: float
) -> dict[str, float]:
    """Write the metrics, and a card: the book's own, whose settings and table are those of this training."""
    metrics = {**metrics, "minutes": round((time.time() - start) / 60, 1)}
    used = ", ".join(f"{name} {value}" for name, value in asdict(settings).items())
    found = "".join(f"| {name} | {value} |\n" for name, value in metrics.items())
    text = re.sub(r"Settings: .*?\. W", f"Settings: {used}. W", (book / CARD).read_text(encoding="utf-8"))
    text = re.sub(r"(?<=\|---\|---\|\n).*", found, text, flags=re.DOTALL)
    write_json(folder / "metrics.json", metrics)
    (folder / CARD).write_text(text, encoding="utf-8")
    return metrics
